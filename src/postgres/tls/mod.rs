//! TLS to a server, as libpq does it: what is trusted and shown comes from files, which are read anew for each
//! connection, so that certificates can be replaced while the relay runs.
//!
//! ```text
//!   client ─► handshake ─► Opened
//!     │           └── verifier ── certificate, names
//!     └── files       fault: why not, and the mend
//! ```

mod certificate;
mod client;
mod fault;
mod files;
mod names;
mod verifier;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::settings::{Endpoint, OwnCertificate};
use super::wire::{Opened, Security};
use crate::error::OutboxError;
use client::{Client, PROTOCOL};

pub(super) use fault::explain;

/// What one read of the socket asks for. rustls itself asks for 4 KiB each time.
const READ_SIZE: usize = 64 * 1024;

/// Begins TLS on a connection over which the server expects it.
///
/// # Errors
/// A file is not as it should be, no agreement can be found, or the server is not one that we trust.
pub(super) async fn handshake(stream: TcpStream, endpoint: &Endpoint) -> Result<Opened, OutboxError> {
    let Client { config, name, verified, own } = Client::prepare(endpoint)?;
    let connector = TlsConnector::from(Arc::new(config));
    // Nothing but the single byte of the server's answer was read before, so nothing can have slipped in.
    let stream = BufReader::with_capacity(READ_SIZE, stream);
    let stream = connector.connect(name, stream).await.map_err(|error| fault::of(endpoint, error))?;
    let (_, session) = stream.get_ref();
    if endpoint.tls.is_direct && session.alpn_protocol() != Some(PROTOCOL) {
        return Err(fault::no_protocol(endpoint));
    }
    if endpoint.tls.own_certificate == OwnCertificate::Always && !own.was_shown() {
        return Err(fault::not_asked(endpoint, own.was_asked()));
    }
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let end_point = certificate.and_then(|certificate| certificate::end_point(certificate));
    let security = Security::Tls { version, verified };
    Ok(Opened { wire: Box::new(Encrypted(stream)), security, end_point })
}

/// Fills a buffer as far as it can be filled now, as a socket does: a record of TLS is often one small message, and the
/// reader of the log judges by a read's size how much more there is.
struct Encrypted(TlsStream<BufReader<TcpStream>>);

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        loop {
            let had = into.filled().len();
            let result = Pin::new(&mut self.0).poll_read(context, into);
            let has_some = had > before;
            match result {
                Poll::Ready(Ok(())) if into.filled().len() > had && into.remaining() > 0 => {}
                // What was read comes first; the same error, or the end, comes again.
                Poll::Pending | Poll::Ready(Err(_)) if has_some => return Poll::Ready(Ok(())),
                // A server that is killed says no good-bye, and the protocol inside knows where it was cut off.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(()));
                }
                result => return result,
            }
        }
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
