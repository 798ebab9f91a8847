//! Who comes in to ask: so many at once, and nobody for long without asking. A listener that is held open by others must not
//! keep the questions of an orchestrator from being answered.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// How many connections there are at once; for one more the oldest has to go.
const MOST: usize = 64;
/// How long a request may take to come, and a connection may be idle; longer than scrapes are apart.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the first request may take to come: whoever has just called has something to ask.
const FIRST: Duration = Duration::from_secs(10);

/// A listener that lets few in.
pub(super) struct Door {
    listener: TcpListener,
    /// Of those inside, in the order of their coming: what to drop to show them out.
    inside: VecDeque<oneshot::Sender<()>>,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        Door { listener, inside: VecDeque::new() }
    }
}

impl Listener for Door {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        // It waits by itself when the system has no more descriptors.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        self.inside.retain(|one| !one.is_closed());
        while self.inside.len() >= MOST {
            self.inside.pop_front();
        }
        let (stay, out) = oneshot::channel();
        self.inside.push_back(stay);
        (Visitor { stream, out, end: Box::pin(tokio::time::sleep_until(Instant::now() + FIRST)) }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it has been silent for too long, or when its place is needed.
pub(super) struct Visitor {
    stream: TcpStream,
    out: oneshot::Receiver<()>,
    /// When the next request must have come; put off by each answer.
    end: Pin<Box<Sleep>>,
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let out = Pin::new(&mut self.out).poll(cx).is_ready();
        if out || self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.end.as_mut().reset(Instant::now() + PATIENCE);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::telemetry::app::App;
    use crate::telemetry::http::listen;

    async fn asked(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn those_who_hold_the_door_open_are_shown_out_for_those_who_ask() {
        let health = listen("127.0.0.1:0", App::new(Arc::default())).await.unwrap();
        let mut idle = Vec::new();
        for _ in 0..3 * MOST {
            let mut stream = TcpStream::connect(health.address()).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: lo").await.unwrap();
            idle.push(stream);
        }
        assert!(asked(health.address()).await.starts_with("HTTP/1.1 200"));
        // Those who came first are gone; that is told by the end of what can be read.
        for stream in &mut idle[..MOST] {
            let left = stream.read(&mut [0; 64]).await;
            assert!(matches!(left, Ok(0) | Err(_)), "{left:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_come_ends_the_connection() {
        let health = listen("127.0.0.1:0", App::new(Arc::default())).await.unwrap();
        let since = Instant::now();
        let mut stream = TcpStream::connect(health.address()).await.unwrap();
        stream.write_all(b"GET /healthz HT").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        assert!(since.elapsed() >= FIRST && since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    }
}
