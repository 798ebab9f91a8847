//! A bound on what a server may say in an SQL session: it is asked for little, and the client holds an answer until it
//! ends, and parameters for as long as the session lasts.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use postgres_protocol::message::backend::PARAMETER_STATUS_TAG;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes until the login is over. Small, since each of its messages is kept in a form many times its size.
const LOGIN: usize = 1024 * 1024;
/// Bytes from one request to the next. Answers from the catalogs are a thousand times smaller, and rows of few bytes take
/// twenty times as much in memory.
const ANSWER: usize = 8 * 1024 * 1024;
/// Bytes of parameters in a session's life.
const PARAMETERS: usize = 1024 * 1024;

/// Bytes of one answer where rows of tables are read, which may be as large as they are: a page of them.
#[cfg(feature = "cli")]
const ROWS: usize = 2 * 1024 * 1024 * 1024;

/// How many bytes an answer may have, shared between a session and its wire.
#[derive(Clone, Debug)]
pub(super) struct Ration(Arc<AtomicUsize>);

impl Default for Ration {
    fn default() -> Self {
        Ration(Arc::new(AtomicUsize::new(ANSWER)))
    }
}

impl Ration {
    /// From now on answers hold rows of tables.
    #[cfg(feature = "cli")]
    pub(super) fn of_rows(&self) {
        self.0.store(ROWS, Ordering::Relaxed);
    }
}

/// A wire that breaks when the other side talks without end.
pub(super) struct Rationed<W> {
    wire: W,
    left: usize,
    parameters_left: usize,
    place: Place,
    ration: Ration,
}

/// Where the stream of messages stands.
#[derive(Default)]
struct Place {
    header: [u8; 5],
    /// Bytes of the header that have come.
    known: usize,
    /// Bytes of the message that are still to come.
    rest: usize,
}

impl Place {
    /// Passes over the bytes, and tells how many of them belong to parameters.
    fn pass(&mut self, mut bytes: &[u8]) -> usize {
        let mut parameters = 0;
        while !bytes.is_empty() {
            if self.rest == 0 {
                let take = bytes.len().min(self.header.len() - self.known);
                self.header[self.known..self.known + take].copy_from_slice(&bytes[..take]);
                self.known += take;
                bytes = &bytes[take..];
                if self.known == self.header.len() {
                    let [tag, length @ ..] = self.header;
                    // A length that counts less than itself is refused by the client's own decoder.
                    self.rest = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                    self.known = 0;
                    parameters += if tag == PARAMETER_STATUS_TAG { self.header.len() } else { 0 };
                }
            } else {
                let take = bytes.len().min(self.rest);
                self.rest -= take;
                bytes = &bytes[take..];
                parameters += if self.header[0] == PARAMETER_STATUS_TAG { take } else { 0 };
            }
        }
        parameters
    }
}

impl<W> Rationed<W> {
    pub(super) fn new(wire: W, ration: Ration) -> Self {
        Rationed { wire, left: LOGIN, parameters_left: PARAMETERS, place: Place::default(), ration }
    }
}

impl<W: AsyncRead + Unpin> AsyncRead for Rationed<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 || self.parameters_left == 0 {
            return Poll::Ready(Err(io::Error::other("the server talks without end")));
        }
        let before = into.filled().len();
        let result = Pin::new(&mut self.wire).poll_read(context, into);
        let read = &into.filled()[before..];
        self.left = self.left.saturating_sub(read.len());
        let parameters = self.place.pass(read);
        self.parameters_left = self.parameters_left.saturating_sub(parameters);
        result
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Rationed<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The start-up message, which has no tag and begins with its length, and passwords are no requests.
        if !matches!(bytes.first(), Some(0 | b'p')) {
            self.left = self.ration.0.load(Ordering::Relaxed);
        }
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_however_the_bytes_are_cut() {
        let stream = b"S\0\0\0\x08a\0b\0N\0\0\0\x06\0\0S\0\0\0\x06\0\0Z\0\0\0\x05I";
        for cut in 1..stream.len() {
            let mut place = Place::default();
            let parameters: usize = stream.chunks(cut).map(|bytes| place.pass(bytes)).sum();
            assert_eq!(parameters, 9 + 7, "{cut}");
        }
    }
}
