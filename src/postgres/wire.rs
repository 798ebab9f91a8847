//! The way to one server: its socket, and TLS over it.
//!
//! ```text
//!   disable      plain
//!   allow        plain ──login refused──► TLS
//!   prefer       TLS if offered ──TLS fails, login refused──► plain
//!   require, …   TLS
//! ```
//!
//! Source: PostgreSQL documentation, "SSL Session Encryption" of the frontend/backend protocol; and which way follows
//! which, "SSL Support" of the chapter on libpq.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::connection::Wire;
use super::settings::{Endpoint, Mode};
#[cfg(feature = "tls")]
use super::tls;
use crate::error::OutboxError;

/// The receive buffer of a loopback connection, in bytes; elsewhere the kernel finds the size itself.
///
/// A walsender hands each message to the kernel by itself. Within a machine that takes it through the network's layers
/// up to our socket there and then, which costs more than decoding a row, unless the window is full: then messages
/// gather on the sender's side and travel together. So the window is small enough to be full most of the time while
/// there is a backlog.
const LOCAL_WINDOW: u32 = 128 * 1024;

/// A connection over which nothing of the login has been said.
pub(super) struct Opened {
    pub(super) wire: Box<dyn Wire>,
    pub(super) security: Security,
    /// To what a login over it can be bound (RFC 5929, "tls-server-end-point").
    pub(super) end_point: Option<Vec<u8>>,
}

/// How a connection is protected on its way.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "without it there are only the first two"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// It does not leave the machine.
    UnixSocket,
    Plain,
    Tls {
        version: &'static str,
        verified: Verified,
    },
}

/// What is known of the server at the other end.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "without it nothing is"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verified {
    Nothing,
    /// An authority that we trust has signed its certificate.
    Authority,
    /// The same, and it is in the name that we look for.
    Name,
}

impl Security {
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Security::Tls { .. })
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, verified) = match self {
            Security::UnixSocket => return f.write_str("Unix socket"),
            Security::Plain => return f.write_str("not encrypted"),
            Security::Tls { version, verified } => (version, verified),
        };
        let verified = match verified {
            Verified::Nothing => "the server is not verified",
            Verified::Authority => "certificate verified",
            Verified::Name => "certificate and name verified",
        };
        write!(f, "{version}, {verified}")
    }
}

/// How far away the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// On this machine.
    Local,
    /// Elsewhere, and that nothing be encrypted was asked for in so many words.
    FarByChoice,
    Far,
}

impl Reach {
    pub(super) fn of(endpoint: &Endpoint) -> Reach {
        let address = endpoint.config.get_hostaddrs().first();
        if is_unix(&endpoint.config) || address.is_some_and(std::net::IpAddr::is_loopback) {
            Reach::Local
        } else if endpoint.tls.mode == Mode::Disable {
            Reach::FarByChoice
        } else {
            Reach::Far
        }
    }
}

/// What one attempt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    TlsIfOffered,
    Tls,
}

/// Why an attempt led nowhere.
struct Failure {
    error: OutboxError,
    /// The other way may lead somewhere.
    may_go_on: bool,
}

impl From<OutboxError> for Failure {
    fn from(error: OutboxError) -> Self {
        Failure { error, may_go_on: false }
    }
}

/// Connects and logs in, by each way that the settings allow until one leads to a session.
///
/// # Errors
/// No way does; what is told is what went wrong over TLS, and beside it what went wrong without.
pub(super) async fn log_in<T, F>(endpoint: &Endpoint, within: impl Fn(Opened) -> F) -> Result<T, OutboxError>
where
    F: Future<Output = Result<T, OutboxError>>,
{
    let ways: &[Way] = match endpoint.tls.mode {
        _ if is_unix(&endpoint.config) => &[Way::Plain],
        Mode::Disable => &[Way::Plain],
        Mode::Allow => &[Way::Plain, Way::Tls],
        Mode::Prefer => &[Way::TlsIfOffered, Way::Plain],
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => &[Way::Tls],
    };
    let mut before: Option<OutboxError> = None;
    for (at, &way) in ways.iter().enumerate() {
        let Failure { error, may_go_on } = match attempt(endpoint, way, &within).await {
            Ok(session) => return Ok(session),
            Err(failure) => failure,
        };
        let is_last = !may_go_on || at + 1 == ways.len();
        match before.take() {
            None if is_last => return Err(error),
            None => before = Some(error),
            // What there is without TLS is all that there is.
            Some(plain) if way == Way::Tls && !may_go_on && error.sqlstate().is_none() => {
                return Err(plain.and_also("with TLS", &error));
            }
            Some(plain) if way == Way::Tls => return Err(error.and_also("without TLS", &plain)),
            Some(tls) => return Err(tls.and_also("without TLS", &error)),
        }
    }
    Err(before.unwrap_or_else(|| OutboxError::transient(cannot_connect(&endpoint.config))))
}

async fn attempt<T, F>(endpoint: &Endpoint, way: Way, within: impl Fn(Opened) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, OutboxError>>,
{
    let opened = open(endpoint, way).await?;
    let is_tls = opened.security.is_tls();
    within(opened).await.map_err(|error| {
        // Which line of pg_hba.conf applies, and so the login, may differ by whether there is TLS. Where a server that
        // was asked has none, the other way was just taken.
        let is_refused = error.sqlstate().is_some_and(|code| code.starts_with("28"));
        let may_go_on = is_refused && is_tls == (way != Way::Plain);
        Failure { error: explain(error, is_tls), may_go_on }
    })
}

/// What a refused login has to do with TLS.
fn explain(error: OutboxError, is_tls: bool) -> OutboxError {
    #[cfg(feature = "tls")]
    if is_tls {
        return tls::explain(error);
    }
    if !is_tls && error.sqlstate() == Some("28000") && error.to_string().contains("no encryption") {
        return error.with_advice(
            "no line of the server's pg_hba.conf lets this login in without TLS: set sslmode=verify-full (or require), or \
             give the role a line for the database by its name",
        );
    }
    error
}

async fn open(endpoint: &Endpoint, way: Way) -> Result<Opened, Failure> {
    let config = &endpoint.config;
    let failed = |error| OutboxError::connection(cannot_connect(config), error);
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let mut stream = match (config.get_hostaddrs().first(), config.get_hosts().first()) {
        (Some(address), _) => open_tcp(config, SocketAddr::new(*address, port)).await.map_err(failed)?,
        (None, Some(Host::Unix(directory))) => {
            let wire = Box::new(open_unix(directory, port).await.map_err(failed)?);
            return Ok(Opened { wire, security: Security::UnixSocket, end_point: None });
        }
        (None, Some(Host::Tcp(name))) => {
            let why = format!("{name} has no address");
            return Err(failed(std::io::Error::new(std::io::ErrorKind::NotFound, why)).into());
        }
        (None, None) => {
            return Err(OutboxError::usage("no host to connect to", "set PGHOST or the database URL").into());
        }
    };
    if way == Way::Plain || (!endpoint.tls.is_direct && !is_offered(config, &mut stream, way).await?) {
        return Ok(Opened { wire: Box::new(stream), security: Security::Plain, end_point: None });
    }
    handshake(stream, endpoint).await.map_err(|error| Failure { error, may_go_on: true })
}

#[cfg(feature = "tls")]
async fn handshake(stream: TcpStream, endpoint: &Endpoint) -> Result<Opened, OutboxError> {
    tls::handshake(stream, endpoint).await
}

/// The settings have refused all that leads here.
#[cfg(not(feature = "tls"))]
async fn handshake(_: TcpStream, endpoint: &Endpoint) -> Result<Opened, OutboxError> {
    Err(OutboxError::usage(cannot_connect(&endpoint.config), "build Walpost with its feature `tls`"))
}

/// Asks whether the server has TLS. One byte answers, and no other may come before TLS has begun: it would be somebody's
/// on the way, slipped under the encryption.
async fn is_offered(config: &Config, stream: &mut TcpStream, way: Way) -> Result<bool, OutboxError> {
    let failed = |error| OutboxError::connection(cannot_connect(config), error);
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    match stream.read_u8().await.map_err(failed)? {
        b'S' if stream.try_read(&mut [0]).is_ok_and(|more| more > 0) => Err(OutboxError::protocol(
            cannot_connect(config),
            "unencrypted bytes came after the answer that TLS may begin",
        )
        .with_advice("somebody between here and the server may be meddling: look at the network between them")),
        b'S' => Ok(true),
        b'N' if way == Way::TlsIfOffered => Ok(false),
        b'N' => Err(OutboxError::protocol(cannot_connect(config), "the server does not offer TLS").with_advice(
            "set ssl = on in the server's postgresql.conf, with ssl_cert_file and ssl_key_file; or, over a network that \
             you trust, sslmode=disable",
        )),
        // Its text is not encrypted, and so is anybody's.
        b'E' => Err(failed(std::io::Error::other("the server answers the question for TLS with an error"))),
        _ => Err(OutboxError::protocol(cannot_connect(config), "it does not speak the Postgres protocol")),
    }
}

async fn open_unix(directory: &Path, port: u16) -> std::io::Result<UnixStream> {
    UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await
}

async fn open_tcp(config: &Config, address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.ip().is_loopback() {
        // Before it connects, since some kernels look at it only then. Without it the stream is slower, and no worse.
        let _ = stream.set_recv_buffer_size(LOCAL_WINDOW);
    }
    let stream = stream.connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new()
            .with_time(config.get_keepalives_idle())
            .with_interval(config.get_keepalives_interval().unwrap_or(Duration::from_secs(5)));
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
    Ok(stream)
}

/// Whether that server is reached over a Unix socket.
pub(crate) fn is_unix(config: &Config) -> bool {
    config.get_hostaddrs().is_empty() && matches!(config.get_hosts().first(), Some(Host::Unix(_)))
}

pub(super) fn cannot_connect(config: &Config) -> String {
    format!("cannot connect to PostgreSQL at {}", place(config))
}

/// The server's address as a person would write it.
pub(crate) fn place(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Unix(directory)), _) => format!("{}/.s.PGSQL.{port}", directory.display()),
        (Some(Host::Tcp(name)), _) => format!("{name}:{port}"),
        (None, Some(address)) => format!("{address}:{port}"),
        (None, None) => "no host".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Os, Settings};
    use super::*;

    #[test]
    fn only_another_machine_is_far() {
        let os = Os { user: Some("me".to_owned()), socket_dir: "/run/pg".to_owned() };
        for (text, expected) in [
            ("", Reach::Local),
            ("host=/sock", Reach::Local),
            ("hostaddr=127.0.0.5", Reach::Local),
            ("host=db hostaddr=::1", Reach::Local),
            ("hostaddr=10.0.0.1", Reach::Far),
            ("hostaddr=10.0.0.1 sslmode=disable", Reach::FarByChoice),
        ] {
            let settings = Settings::resolve(Some(text), |_| None, &os).expect(text);
            assert_eq!(Reach::of(&settings.candidates()[0].endpoint()), expected, "{text}");
        }
    }
}
