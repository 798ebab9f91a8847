//! The replication connection: socket, start-up, authentication, and the CopyBoth transport.
//!
//! tokio-postgres can't start replication, so this is our own, on the message helpers of
//! postgres-protocol.
//!
//! ```text
//!   start ──► authenticated ──copy_both──► copying ──finish──► gone
//!                                           │  ▲
//!                    next_event, fill ◄─────┘  └── send, flush
//! ```
//!
//! Sources: PostgreSQL documentation, "Message Flow" and "Message Formats" of the frontend/backend
//! protocol.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{self, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::auth::{self, Binding};
use crate::error::OutboxError;

/// What a connection runs over: TCP, a Unix socket, or TLS over TCP.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Wire for T {}

/// What one read asks for at least.
pub(super) const READ_SIZE: usize = 256 * 1024;
/// After a frame beyond this the input starts in a buffer of its own.
const LARGE_FRAME: usize = 4 * 1024 * 1024;
/// No word of the server besides the data is longer than this: errors, notices, parameters.
const MAX_WORD: usize = 1024 * 1024;
/// So much of an error's or notice's text is passed on, in bytes: it ends in a line of the log.
const MAX_TEXT: usize = 4 * 1024;
/// All that a server says before CopyBoth is far below this; one that says more would never come to the point.
const MAX_SETUP: usize = 2 * MAX_WORD;
/// The server can't build a larger message (PostgreSQL source, `MaxAllocSize`).
const MAX_COPY_MESSAGE: usize = 0x4000_0000;
/// Not in postgres-protocol, which knows no replication.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// Who we are and what the session shall be like.
#[derive(Clone)]
pub(crate) struct Startup {
    pub(crate) user: String,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) database: String,
    pub(crate) application_name: String,
    pub(crate) options: Option<String>,
}

/// What arrives while copying.
#[derive(Debug)]
pub(crate) enum CopyEvent {
    /// The body of a CopyData message.
    Data(Bytes),
    /// A warning or notice of the server.
    Notice { sqlstate: String, message: String },
    /// The server has ended the copy.
    Done,
}

/// A connection to a walsender.
pub(crate) struct Connection<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
    /// Bytes that the server may still say before CopyBoth.
    setup_left: usize,
}

impl<S: Wire> Connection<S> {
    /// A connection on which nothing has been said.
    pub(super) fn over(stream: S) -> Self {
        Connection { stream, input: BytesMut::new(), output: BytesMut::new(), setup_left: MAX_SETUP }
    }

    /// Starts a session with `replication=database`, and authenticates.
    pub(crate) async fn start(stream: S, startup: &Startup, binding: &Binding) -> Result<Self, OutboxError> {
        let mut connection = Connection::over(stream);
        let mut parameters = vec![
            ("user", startup.user.as_str()),
            ("database", &startup.database),
            ("replication", "database"),
            ("application_name", &startup.application_name),
            // Text values come in forms that don't depend on the server's settings.
            ("client_encoding", "UTF8"),
            ("datestyle", "ISO"),
            ("timezone", "UTC"),
            ("bytea_output", "hex"),
            // A skipped publication is told in a warning, which a role's settings must not hold back.
            ("client_min_messages", "notice"),
            // A dead relay frees its slot after this long where no other relay may end it, and a busy server speaks up
            // after half of it. Not shorter: a server that decodes a large transaction of other tables may read no
            // status meanwhile, and would end the stream at the same place again and again.
            ("wal_sender_timeout", "30s"),
        ];
        let options = startup.options.as_deref().unwrap_or_default();
        if !options.is_empty() {
            parameters.push(("options", options));
        }
        frontend::startup_message(parameters, &mut connection.output).map_err(cannot_encode)?;
        connection.flush().await?;
        auth::authenticate(&mut connection, startup, binding).await?;
        if connection
            .until_ready("starting the session")
            .await?
            .is_some_and(|encoding| encoding == "SQL_ASCII")
        {
            // Such a database converts nothing, and would refuse to send what is not UTF-8: bytes go as they are.
            frontend::query("SET client_encoding = 'SQL_ASCII'", &mut connection.output)
                .map_err(cannot_encode)?;
            connection.flush().await?;
            connection.until_ready("setting the encoding").await?;
        }
        Ok(connection)
    }

    /// Sends a command that answers with rows, and returns the first one's columns; empty when there is none.
    pub(crate) async fn first_row(
        &mut self,
        during: &str,
        command: &str,
    ) -> Result<Vec<Option<Bytes>>, OutboxError> {
        frontend::query(command, &mut self.output).map_err(cannot_encode)?;
        self.flush().await?;
        let mut answer = Ok(Vec::new());
        loop {
            match self.message().await? {
                Message::DataRow(body) if matches!(&answer, Ok(row) if row.is_empty()) => {
                    let column = |range: Option<Range<usize>>| {
                        Ok(range.and_then(|range| body.buffer().get(range)).map(Bytes::copy_from_slice))
                    };
                    let row = body.ranges().map(column).collect();
                    answer = row.map_err(|error| OutboxError::protocol("a row can't be read", error));
                }
                Message::ErrorResponse(body) => answer = Err(fields_error(during, body.fields())),
                Message::ReadyForQuery(_) => return answer,
                _ => {}
            }
        }
    }

    /// Sends a replication command that begins CopyBoth, and waits for it to begin.
    pub(crate) async fn copy_both(&mut self, command: &str) -> Result<(), OutboxError> {
        frontend::query(command, &mut self.output).map_err(cannot_encode)?;
        self.flush().await?;
        loop {
            while let Some((tag, body)) = self.cut_setup_frame()? {
                match tag {
                    COPY_BOTH_RESPONSE_TAG => return Ok(()),
                    backend::ERROR_RESPONSE_TAG => return Err(server_error("starting replication", body)),
                    backend::NOTICE_RESPONSE_TAG | backend::PARAMETER_STATUS_TAG => {}
                    other => return Err(unexpected(other, "CopyBothResponse")),
                }
            }
            self.fill().await?;
        }
    }

    /// The next event that is already here; `None` when more must be read first.
    ///
    /// # Errors
    /// The server reports an error, or its bytes are no message of this phase.
    pub(crate) fn next_event(&mut self) -> Result<Option<CopyEvent>, OutboxError> {
        while let Some((tag, mut frame)) = self.cut_frame(self.most_while_copying())? {
            match tag {
                backend::COPY_DATA_TAG => {
                    frame.advance(5);
                    return Ok(Some(CopyEvent::Data(frame)));
                }
                backend::NOTICE_RESPONSE_TAG => {
                    let (sqlstate, message) = error_fields(frame)?;
                    return Ok(Some(CopyEvent::Notice { sqlstate, message }));
                }
                backend::ERROR_RESPONSE_TAG => return Err(server_error("streaming", frame)),
                backend::COPY_DONE_TAG => return Ok(Some(CopyEvent::Done)),
                backend::PARAMETER_STATUS_TAG => {}
                other => return Err(unexpected(other, "CopyData")),
            }
        }
        Ok(None)
    }

    /// Reads what has come, at least one byte, and tells how much.
    ///
    /// Cancel-safe: bytes are either in the buffer or still in the socket.
    pub(crate) async fn fill(&mut self) -> Result<usize, OutboxError> {
        self.make_room();
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(OutboxError::transient("the server closed the connection")),
            Ok(read) => Ok(read),
            Err(error) => Err(OutboxError::connection("reading from the server", error)),
        }
    }

    /// Makes room for one read. The buffer grows with what has really arrived, by doubling, not with what a header
    /// announces; when an eighth of a large frame is here, for all of it, so that little is copied again.
    fn make_room(&mut self) {
        let (have, spare) = (self.input.len(), self.input.capacity() - self.input.len());
        let length = self.check_length(MAX_COPY_MESSAGE).ok().flatten().map_or(0, |(_, length)| length);
        let lacking = length.saturating_sub(have);
        if lacking == 0 || have < READ_SIZE {
            self.input.reserve(READ_SIZE);
        } else if spare == 0 {
            self.input.reserve(if length / 8 <= have { lacking } else { have });
        }
    }

    /// Whether what is here is the beginning of one large message.
    pub(crate) fn is_in_large_frame(&self) -> bool {
        self.input.len() >= READ_SIZE
    }

    /// Where frames to be sent are appended; they go out with the next [`flush`](Self::flush).
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Writes all that is waiting.
    ///
    /// Cancel-safe: what was written has left the buffer, the rest goes with the next call.
    pub(crate) async fn flush(&mut self) -> Result<(), OutboxError> {
        let sending = |error| OutboxError::connection("writing to the server", error);
        while !self.output.is_empty() {
            let written = self.stream.write_buf(&mut self.output).await.map_err(sending)?;
            if written == 0 {
                return Err(OutboxError::transient("the server takes no more bytes"));
            }
        }
        self.stream.flush().await.map_err(sending)
    }

    /// Ends the copy and waits until the server has done so too; everything sent before has then been
    /// taken in. What it still sends in between is dropped: it comes again.
    pub(crate) async fn finish(mut self) -> Result<(), OutboxError> {
        frontend::copy_done(&mut self.output);
        self.flush().await?;
        loop {
            while let Some((tag, frame)) = self.cut_frame(self.most_while_copying())? {
                match tag {
                    backend::READY_FOR_QUERY_TAG => {
                        frontend::terminate(&mut self.output);
                        return self.flush().await;
                    }
                    backend::ERROR_RESPONSE_TAG => return Err(server_error("ending the stream", frame)),
                    _ => {}
                }
            }
            self.fill().await?;
        }
    }

    /// The next message before CopyBoth.
    pub(super) async fn message(&mut self) -> Result<Message, OutboxError> {
        loop {
            let Some((_, frame)) = self.cut_setup_frame()? else {
                self.fill().await?;
                continue;
            };
            let message = Message::parse(&mut BytesMut::from(frame))
                .map_err(|error| OutboxError::protocol("not a message of the Postgres protocol", error))?;
            if let Some(message) = message {
                return Ok(message);
            }
        }
    }

    /// Waits until the server is ready; gives the database's encoding if it was told meanwhile.
    async fn until_ready(&mut self, during: &str) -> Result<Option<String>, OutboxError> {
        let mut encoding = None;
        loop {
            match self.message().await? {
                Message::ReadyForQuery(_) => return Ok(encoding),
                Message::ParameterStatus(body) if body.name().ok() == Some("server_encoding") => {
                    encoding = body.value().ok().map(str::to_owned);
                }
                Message::ErrorResponse(body) => return Err(fields_error(during, body.fields())),
                _ => {}
            }
        }
    }

    /// The same before CopyBoth, where all frames together are bounded.
    fn cut_setup_frame(&mut self) -> Result<Option<(u8, Bytes)>, OutboxError> {
        let Some((tag, frame)) = self.cut_frame(MAX_WORD)? else { return Ok(None) };
        let Some(left) = self.setup_left.checked_sub(frame.len()) else {
            return Err(OutboxError::protocol(
                "the server broke the protocol",
                "it does not come to the data",
            ));
        };
        self.setup_left = left;
        Ok(Some((tag, frame)))
    }

    /// How long the next frame may be while copying.
    fn most_while_copying(&self) -> usize {
        if self.input.first() == Some(&backend::COPY_DATA_TAG) { MAX_COPY_MESSAGE } else { MAX_WORD }
    }

    /// Cuts the next frame, header included, out of what has been read.
    fn cut_frame(&mut self, max: usize) -> Result<Option<(u8, Bytes)>, OutboxError> {
        match self.check_length(max)? {
            Some((tag, length)) if self.input.len() >= length => {
                let frame = self.input.split_to(length).freeze();
                if length > LARGE_FRAME {
                    // Or the buffer that grew for it would be kept for ever: what follows shares it.
                    self.input = BytesMut::from(&self.input[..]);
                }
                Ok(Some((tag, frame)))
            }
            _ => Ok(None),
        }
    }

    /// Tag and length, with the header, of the next frame.
    fn check_length(&self, max: usize) -> Result<Option<(u8, usize)>, OutboxError> {
        let header = Header::parse(&self.input)
            .map_err(|error| OutboxError::protocol("not a message of the Postgres protocol", error))?;
        let Some(header) = header else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > max {
            let tag = char::from(header.tag());
            let why = format!("a message of type {tag:?} claims {length} bytes, where {max} are the most");
            return Err(OutboxError::protocol("not a message of the Postgres protocol", why));
        }
        Ok(Some((header.tag(), length + 1)))
    }
}

pub(super) fn cannot_encode(error: std::io::Error) -> OutboxError {
    OutboxError::usage(
        format!("a connection setting can't be sent: {error}"),
        "user, database, application_name and options must not contain a zero byte",
    )
}

fn unexpected(tag: u8, expected: &str) -> OutboxError {
    let why = format!("expected {expected}, got a message of type {:?}", char::from(tag));
    OutboxError::protocol("the server broke the protocol", why)
}

fn server_error(during: &str, frame: Bytes) -> OutboxError {
    match error_fields(frame) {
        Ok((sqlstate, message)) => OutboxError::server(during, &sqlstate, &message),
        Err(error) => error,
    }
}

/// SQLSTATE and message of an ErrorResponse or NoticeResponse. The detail is left out: it may quote rows.
fn error_fields(frame: Bytes) -> Result<(String, String), OutboxError> {
    let malformed = |error| OutboxError::protocol("an error report of the server can't be read", error);
    let fields = |fields| read_fields(fields).map_err(malformed);
    match Message::parse(&mut BytesMut::from(frame)).map_err(malformed)? {
        Some(Message::ErrorResponse(body)) => fields(body.fields()),
        Some(Message::NoticeResponse(body)) => fields(body.fields()),
        _ => Ok((String::new(), String::new())),
    }
}

pub(super) fn fields_error(during: &str, fields: backend::ErrorFields<'_>) -> OutboxError {
    match read_fields(fields) {
        Ok((sqlstate, message)) => OutboxError::server(during, &sqlstate, &message),
        Err(error) => OutboxError::protocol("an error report of the server can't be read", error),
    }
}

fn read_fields(mut fields: backend::ErrorFields<'_>) -> std::io::Result<(String, String)> {
    use fallible_iterator::FallibleIterator;

    let (mut sqlstate, mut message) = (String::new(), String::new());
    while let Some(field) = fields.next()? {
        let value = field.value_bytes();
        let text = || String::from_utf8_lossy(&value[..value.len().min(MAX_TEXT)]).into_owned();
        match field.type_() {
            b'C' => sqlstate = text(),
            b'M' => message = text(),
            _ => {}
        }
    }
    Ok((sqlstate, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("small").to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    /// A connection in CopyBoth, and the server's end of it.
    fn copying() -> (Connection<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(1 << 16);
        (Connection::over(ours), theirs)
    }

    async fn next(connection: &mut Connection<DuplexStream>) -> Result<CopyEvent, OutboxError> {
        loop {
            if let Some(event) = connection.next_event()? {
                return Ok(event);
            }
            connection.fill().await?;
        }
    }

    #[tokio::test]
    async fn what_comes_between_the_data_is_heard_byte_by_byte() {
        let (mut connection, mut server) = copying();
        let bytes = [
            frame(b'd', b"one"),
            frame(b'N', b"SWARNING\0C55000\0Mskipped loading publication\0\0"),
            frame(b'S', b"TimeZone\0UTC\0"),
            frame(b'd', b""),
            frame(b'c', b""),
            frame(b'E', b"SFATAL\0C57P01\0Mterminating\0Dsecret detail\0\0"),
        ]
        .concat();
        let sending = async {
            for byte in bytes {
                server.write_all(&[byte]).await.expect("sent");
            }
        };
        let hearing = async {
            assert!(matches!(next(&mut connection).await, Ok(CopyEvent::Data(data)) if data == "one"));
            let notice = next(&mut connection).await;
            assert!(matches!(notice, Ok(CopyEvent::Notice { sqlstate, .. }) if sqlstate == "55000"));
            assert!(matches!(next(&mut connection).await, Ok(CopyEvent::Data(data)) if data.is_empty()));
            assert!(matches!(next(&mut connection).await, Ok(CopyEvent::Done)));
            let error = next(&mut connection).await.expect_err("an error of the server");
            assert!(error.is_transient() && !error.chain().contains("secret"), "{error:?}");
        };
        tokio::join!(sending, hearing);
    }

    #[tokio::test]
    async fn a_hostile_length_reserves_nothing_and_is_refused() {
        for (header, refused) in [
            ([b'd', 0x7f, 0xff, 0xff, 0xff], true),
            ([b'd', 0xff, 0xff, 0xff, 0xff], true),
            ([b'd', 0, 0, 0, 3], true),
            ([b'?', 0, 0, 0, 4], true),
            ([b'N', 0, 0x20, 0, 0], true),
            ([b'E', 0x3f, 0xff, 0xff, 0xff], true),
            ([b'd', 0x3f, 0xff, 0xff, 0xff], false),
        ] {
            let (mut connection, mut server) = copying();
            server.write_all(&header).await.expect("sent");
            connection.fill().await.expect("read");
            assert_eq!(connection.next_event().is_err(), refused, "{header:?}");
            assert!(connection.input.capacity() <= 2 * READ_SIZE, "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_large_frame_gets_its_room_at_once_when_some_of_it_is_here() {
        let (mut connection, mut server) = copying();
        let large = frame(b'd', &vec![b'x'; 10 * LARGE_FRAME]);
        let sending = async { server.write_all(&large).await.expect("sent") };
        let hearing = async {
            let mut rooms = Vec::new();
            while connection.next_event().expect("no error").is_none() {
                rooms.push(connection.input.capacity());
                connection.fill().await.expect("read");
            }
            rooms.dedup();
            assert!(rooms.iter().rev().skip(1).all(|room| *room <= 3 * LARGE_FRAME), "{rooms:?}");
            assert!(rooms.last().is_some_and(|room| *room <= large.len() + READ_SIZE), "{rooms:?}");
        };
        tokio::join!(sending, hearing);
    }

    #[tokio::test]
    async fn the_room_of_a_large_frame_goes_with_it() {
        let (mut connection, mut server) = copying();
        let (large, small) = (frame(b'd', &vec![b'x'; 3 * LARGE_FRAME]), frame(b'd', b"small"));
        let sending = async { server.write_all(&[large, small].concat()).await.expect("sent") };
        let hearing = async {
            let first = next(&mut connection).await;
            assert!(matches!(first, Ok(CopyEvent::Data(data)) if data.len() == 3 * LARGE_FRAME));
            assert!(matches!(next(&mut connection).await, Ok(CopyEvent::Data(data)) if data == "small"));
        };
        tokio::join!(sending, hearing);
        connection.input.reserve(READ_SIZE);
        assert!(connection.input.capacity() <= 4 * READ_SIZE, "{}", connection.input.capacity());
    }

    #[tokio::test]
    async fn a_closed_connection_is_an_error() {
        let (mut connection, server) = copying();
        drop(server);
        assert!(connection.fill().await.is_err_and(|error| error.is_transient()));
    }
}
