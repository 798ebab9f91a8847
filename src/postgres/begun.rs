//! TLS that has begun before tokio-postgres sees the connection: what it needs to know of it is to what a login can be
//! bound.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// Takes a connection as it is.
pub(super) struct Begun {
    /// The hash of the server's certificate (RFC 5929, "tls-server-end-point"), if it has one.
    pub(super) end_point: Option<Vec<u8>>,
}

/// The connection, and its [`Begun`].
pub(super) struct Bound<W> {
    wire: W,
    end_point: Option<Vec<u8>>,
}

impl<W: AsyncRead + AsyncWrite + Unpin> TlsConnect<W> for Begun {
    type Stream = Bound<W>;
    type Error = Infallible;
    type Future = Ready<Result<Bound<W>, Infallible>>;

    fn connect(self, wire: W) -> Self::Future {
        ready(Ok(Bound { wire, end_point: self.end_point }))
    }
}

impl<W: AsyncRead + AsyncWrite + Unpin> TlsStream for Bound<W> {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<W: AsyncRead + Unpin> AsyncRead for Bound<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(context, into)
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Bound<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}
