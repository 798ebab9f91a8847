//! What the fuzz targets do with bytes of a server. An assertion that fails is a finding, and so are a panic, a
//! hang and an allocation beyond what the bytes are worth.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::config::ChannelBinding;

use super::auth::{Binding, authenticate};
use super::connection::{Connection, CopyEvent, Startup, Wire};
use super::intake::Intake;
use super::names::{Outbox, Target};
use super::pgoutput::{Relation, Tuple};
use super::preflight::{Preflight, Seal};
use super::relations::Relations;
use super::settings;
use super::table::{ColumnTypes, Layout};
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::message::OutboxMessage;
use crate::progress::Progress;
use crate::router::Router;
use crate::store::{Batch, Change};

const PASSWORD: &str = "open sesame";
/// The length of the nonce that postgres-protocol makes. So many `N` in a script become the nonce once the client
/// has said it: without it a server gets nowhere in SCRAM.
const NONCE: usize = 24;

/// A server that says its piece whatever it hears, in chunks of a given size, and hangs up.
struct Script {
    piece: Vec<u8>,
    said: usize,
    chunk: usize,
    heard: Vec<u8>,
}

impl Script {
    fn new(piece: &[u8], chunk: usize) -> Self {
        Script { piece: piece.to_vec(), said: 0, chunk, heard: Vec::new() }
    }

    fn put_in_the_nonce(&mut self) {
        const BEFORE: &[u8] = b"n,,n=,r=";
        let heard = |at: usize| self.heard.get(at..at + NONCE).map(<[u8]>::to_vec);
        let at = self.heard.windows(BEFORE.len()).position(|window| window == BEFORE);
        let Some(nonce) = at.and_then(|at| heard(at + BEFORE.len())) else { return };
        let rest = &mut self.piece[self.said..];
        while let Some(at) = rest.windows(NONCE).position(|window| window == [b'N'; NONCE]) {
            rest[at..at + NONCE].copy_from_slice(&nonce);
        }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = self.said.saturating_add(self.chunk.min(into.remaining())).min(self.piece.len());
        into.put_slice(&self.piece[self.said..end]);
        self.said = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.heard.extend_from_slice(bytes);
        self.put_in_the_nonce();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs what never has to wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

fn startup(password: bool) -> Startup {
    Startup {
        user: "walpost".to_owned(),
        password: password.then(|| PASSWORD.as_bytes().to_vec()),
        database: "shop".to_owned(),
        application_name: "walpost".to_owned(),
        options: None,
    }
}

fn binding(is_tls: bool) -> Binding {
    Binding { wanted: ChannelBinding::Prefer, is_tls, end_point: is_tls.then(|| vec![7; 32]) }
}

/// What a connection made of a script: kind and size of every event, and how it ended.
type Told = (Vec<(char, usize)>, String);

/// First byte: where the session stands and how the rest, the server's bytes, is cut into reads. How it is cut must
/// not matter.
pub fn frames(data: &[u8]) {
    let [mode, bytes @ ..] = data else { return };
    let listen = |chunk| {
        let mut told = Vec::new();
        let end = at_once(converse(Script::new(bytes, chunk), *mode & 3, &mut told));
        (told, end.map_or_else(|error| error.chain(), |()| "done".to_owned()))
    };
    let whole: Told = listen(usize::MAX);
    let total: usize = whole.0.iter().map(|(_, size)| size).sum();
    // A notice's text may grow threefold, where bytes that are not UTF-8 are replaced.
    assert!(total <= 3 * bytes.len(), "{total} bytes of events in {} bytes", bytes.len());
    assert_eq!(whole, listen(1 + usize::from(*mode >> 2)), "the reads were cut differently");
}

async fn converse<S: Wire>(wire: S, mode: u8, told: &mut Vec<(char, usize)>) -> Result<(), OutboxError> {
    let mut connection = match mode {
        0 => Connection::start(wire, &startup(true), &binding(false)).await?,
        _ => Connection::over(wire),
    };
    if mode <= 1 {
        connection.copy_both("START_REPLICATION").await?;
    }
    if mode == 3 {
        return connection.finish().await;
    }
    loop {
        match connection.next_event()? {
            Some(CopyEvent::Data(data)) => told.push(('d', data.len())),
            Some(CopyEvent::Notice { sqlstate, message }) => told.push(('N', sqlstate.len() + message.len())),
            Some(CopyEvent::Done) => return connection.finish().await,
            None => drop(connection.fill().await?),
        }
    }
}

/// First byte: whether there is a password, and how the rest, the server's bytes, is cut into reads.
pub fn authentication(data: &[u8]) {
    let [mode, bytes @ ..] = data else { return };
    let mut script = Script::new(bytes, 1 + usize::from(*mode >> 1) * 8);
    let (result, asked) = {
        let mut connection = Connection::over(&mut script);
        let result = at_once(authenticate(&mut connection, &startup(mode & 1 == 1), &binding(mode & 2 == 2)));
        (result, bytes.windows(9).any(|window| window == b"R\0\0\0\x08\0\0\0\x03"))
    };
    let said = |words: &[u8]| script.heard.windows(words.len()).any(|window| window == words);
    assert!(asked || !said(PASSWORD.as_bytes()), "the password was given away");
    // Only one who knows the password can end it well.
    assert!(result.is_err() || !said(b"SCRAM-SHA-256"), "an impostor was believed");
}

/// Messages one after the other, each after its length in two bytes: of the output plugin, or, where the length's
/// highest bit is set, the body of any CopyData.
pub fn pgoutput(data: &[u8]) {
    let relations = Relations::new(&Target::default(), &Preflight::default());
    let mut intake = Intake::new(&Target::default(), relations, Seal::default(), Arc::default());
    let (mut batch, mut router, mut line) = (Batch::new(), Router::default(), Line::default());
    let mut rest = data;
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([high & 0x7F, *low])).min(after.len());
        let (body, next) = after.split_at(length);
        let result = intake.take(CopyEvent::Data(copy_data(body, high & 0x80 != 0)), &mut batch);
        for change in batch.drain(..) {
            if line.take(change, &mut router).is_err() {
                return;
            }
        }
        line.check(intake.received());
        if result.is_err() {
            return;
        }
        rest = next;
    }
}

fn copy_data(body: &[u8], whole: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(25 + body.len());
    if !whole {
        frame.put_u8(b'w');
        frame.put_bytes(0, 24);
    }
    frame.put_slice(body);
    frame.freeze()
}

/// What the processor does, with a broker that acknowledges at once.
#[derive(Default)]
struct Line {
    progress: Progress,
    confirmed: Lsn,
}

impl Line {
    fn take(&mut self, change: Change, router: &mut Router) -> Result<(), OutboxError> {
        match change {
            Change::Begin { commit_lsn, committed_at } => self.progress.begin(commit_lsn, committed_at),
            Change::Message { position, message } => {
                let record = router.route(&message, position)?;
                assert!(!record.topic.is_empty() && record.headers.len() >= 3);
                assert!(record.timestamp.is_none_or(|millis| millis > 0));
                let ticket = self.progress.next_ticket();
                self.progress.taken();
                self.progress.acknowledged(ticket);
            }
            Change::Unfit { letter, advice } => return Err(OutboxError::message(letter.error, advice)),
            Change::PassedOver => assert!(self.progress.is_open(), "outside of a transaction"),
            Change::DeadLetters { .. } => assert!(self.progress.is_open(), "outside of a transaction"),
            Change::Commit { end_lsn } => self.progress.commit(end_lsn),
            Change::Keepalive { wal_end, .. } => self.progress.keepalive(wal_end),
        }
        Ok(())
    }

    fn check(&mut self, received: Lsn) {
        let confirmed = self.progress.confirmed();
        assert!(confirmed >= self.confirmed, "what is confirmed went back to {confirmed}");
        assert!(confirmed <= received, "{confirmed} is confirmed, and {received} was received");
        self.confirmed = confirmed;
    }
}

/// A connection string, or, after `mode`, variables of the environment.
pub(crate) fn connection_settings(mode: u8, text: &str) {
    let os = settings::Os { user: Some("relay".to_owned()), socket_dir: "/tmp".to_owned() };
    let variable = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.filter(|_| mode & 1 == 1 && name != "PGPASSFILE" && name != "HOME").map(str::to_owned)
    };
    let first = text.lines().next().unwrap_or_default();
    let text = if mode & 1 == 1 { first } else { text };
    let _ = settings::has_password(text);
    if let Ok(resolved) = settings::Settings::resolve(Some(text), variable, &os) {
        assert!(!resolved.candidates().is_empty());
        let _ = format!("{resolved} {resolved:?}");
    }
}

/// A password file.
pub(crate) fn password_file(text: &str) {
    settings::fuzz_password_file(text);
}

/// Opens a replication connection to a server on this machine and listens to the end, for tests with a hostile one.
///
/// # Errors
/// How it ended.
pub async fn replicate(server: SocketAddr) -> Result<(), OutboxError> {
    let wire =
        TcpStream::connect(server).await.map_err(|error| OutboxError::connection("connecting", error))?;
    converse(wire, 0, &mut Vec::new()).await
}

/// The table of a relation, for the benchmarks.
pub struct Table(Layout);

impl Table {
    /// None if it is no outbox.
    #[must_use]
    pub fn of(relation: &Relation) -> Option<Self> {
        let columns = relation.columns.iter().map(|column| (&*column.name, column.type_oid));
        Layout::new(&Outbox::default(), columns, &ColumnTypes::default()).ok().map(Table)
    }

    /// The message of a row.
    #[must_use]
    pub fn message(&self, row: &Tuple) -> Option<OutboxMessage> {
        self.0.message(row).ok().flatten()
    }
}

/// A connection's stream from its first frame on, for the benchmarks.
pub struct Stream(Intake);

impl Default for Stream {
    fn default() -> Self {
        let relations = Relations::new(&Target::default(), &Preflight::default());
        Stream(Intake::new(&Target::default(), relations, Seal::default(), Arc::default()))
    }
}

impl Stream {
    /// Appends the changes that the body of a CopyData message brings.
    ///
    /// # Errors
    /// It is not what a server sends.
    pub fn take(&mut self, body: Bytes, into: &mut Batch) -> Result<(), OutboxError> {
        self.0.take(CopyEvent::Data(body), into)
    }
}
