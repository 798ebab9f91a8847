//! Reaching one server: its socket for replication, and an ordinary SQL session beside it.

use std::error::Error as _;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::row::RowIndex;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Config, Row};

use super::auth::{Binding, no_binding, no_password, too_many_iterations};
use super::begun::Begun;
use super::connection::{Connection, Startup, Wire};
use super::names::TableName;
use super::ration::{Ration, Rationed};
use super::settings::{Endpoint, Settings};
use super::slot;
use super::wire::{self, Opened, Reach, Security, cannot_connect, place};
use crate::error::OutboxError;

/// What to look at when a server can't be reached.
const REACH: &str = "check that the server runs, and the host and port: --database-url, WALPOST_DATABASE_URL or PGHOST \
                     and PGPORT";
/// Whether the session is read only, as `target_session_attrs` means it (PostgreSQL documentation, "Parameter Key
/// Words").
const READ_ONLY: &str = "SELECT current_setting('transaction_read_only')::bool";
/// tokio-postgres' word for "not set", as the kernel has it; no use here.
const SYSTEM_IDLE: Duration = Duration::from_secs(7200);
/// What every session is told first. A name without a schema means the server's own object, whoever may make others in a
/// schema of the role's `search_path` (PostgreSQL documentation, "Schemas", "Usage Patterns"). A session is idle for as long
/// as all is well, and that must not end it. (The setting is new in 14.)
const OURS: &str = "SET search_path = pg_catalog, pg_temp; \
     SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'";
/// What the relay's sessions are told besides, whatever the defaults of the role and the database are: a statement that waits
/// for a lock is waited for, two in one transaction see what was committed before each, and a time reads back as it was
/// written. (`transaction_timeout` is new in 17.)
const STEADY: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'; \
     SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
     SET default_transaction_deferrable = off; SET DateStyle = 'ISO'";
/// How long a connection may be idle before the network is asked whether it is still there.
const IDLE: Duration = Duration::from_secs(10);
/// How long bytes may stay unacknowledged before the network counts as gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// An ordinary SQL session. It also hears first when the server shuts down.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: Driver,
    security: Security,
    reach: Reach,
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the audit reads tables"))]
    ration: Ration,
}

/// The task behind a session; it ends with the session, and the session with it.
#[derive(Debug)]
pub(crate) struct Driver(Option<JoinHandle<Result<(), tokio_postgres::Error>>>);

impl Session {
    /// Connects to a server.
    ///
    /// # Errors
    /// The server can't be reached, or refuses the login.
    pub async fn open(endpoint: &Endpoint) -> Result<Session, OutboxError> {
        let endpoint = &watched(endpoint).with_password().await?;
        let log_in = wire::log_in(endpoint, |opened| Session::log_in(endpoint, opened));
        let session = in_time(&endpoint.config, log_in).await.map_err(|error| endpoint.judge(error));
        let session = session.map_err(|error| match error.advice() {
            Some(_) => error,
            None => error.with_advice(REACH),
        })?;
        session.begin_with(OURS).await?;
        Ok(session)
    }

    /// The same for the relay, whose statements are waited for whatever the role's defaults are.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn open_steady(endpoint: &Endpoint) -> Result<Session, OutboxError> {
        let session = Session::open(endpoint).await?;
        session.begin_with(STEADY).await?;
        Ok(session)
    }

    async fn begin_with(&self, settings: &str) -> Result<(), OutboxError> {
        self.client.batch_execute(settings).await.map_err(|error| sql_error("opening a session", error))
    }

    /// Connects to a server for statements that must not hold up the session beside the stream. What it
    /// commits is durable.
    ///
    /// # Errors
    /// The server can't be reached, or is another one by now.
    pub(crate) async fn open_beside(endpoint: &Endpoint, beside: &Client) -> Result<Session, OutboxError> {
        let session = Session::open_steady(endpoint).await?;
        // An address may lead to another server by now, where what the stream has brought has no place.
        if born(beside).await? != born(&session.client).await? {
            let where_to = place(&endpoint.config);
            return Err(OutboxError::transient(format!("{where_to} is no longer the server of the stream")));
        }
        session.be_durable().await?;
        Ok(session)
    }

    async fn log_in(endpoint: &Endpoint, opened: Opened) -> Result<Session, OutboxError> {
        let config = &endpoint.config;
        let Opened { wire, security, end_point } = opened;
        let mut as_opened = config.clone();
        // What there is of TLS is there already: nothing is to be asked before it "begins".
        as_opened.ssl_mode(if security.is_tls() { SslMode::Require } else { SslMode::Disable });
        as_opened.ssl_negotiation(SslNegotiation::Direct);
        let ration = Ration::default();
        let connect = as_opened.connect_raw(Rationed::new(wire, ration.clone()), Begun { end_point });
        let (client, connection) = connect.await.map_err(|error| cannot_log_in(config, error))?;
        let driver = Driver(Some(tokio::spawn(connection)));
        let session = Session { client, driver, security, reach: Reach::of(endpoint), ration };
        let wanted = config.get_target_session_attrs();
        if wanted != TargetSessionAttrs::Any {
            let row = session.query_one_row("asking for the kind of server", READ_ONLY).await?;
            let read_only: bool = row.map_or(Ok(false), |row| row.cell(0))?;
            let refused = match wanted {
                TargetSessionAttrs::ReadWrite if read_only => "the database does not allow writes",
                TargetSessionAttrs::ReadOnly if !read_only => "the database is not read only",
                _ => return Ok(session),
            };
            return Err(OutboxError::connection(cannot_connect(config), refused).with_advice(REACH));
        }
        Ok(session)
    }

    /// Connects to the first server that answers.
    ///
    /// # Errors
    /// None does; the last one's error.
    pub async fn open_any(settings: &Settings) -> Result<Session, OutboxError> {
        Ok(Session::open_first(settings).await?.0)
    }

    /// The same, and which server it was.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn open_first(settings: &Settings) -> Result<(Session, Endpoint), OutboxError> {
        let mut last = OutboxError::usage("no host to connect to", "set PGHOST or the database URL");
        for endpoint in servers(settings).await {
            match Session::open(&endpoint).await {
                Ok(session) => return Ok((session, endpoint)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Runs a script of statements. Waiting for locks and older transactions ends after half a minute.
    ///
    /// # Errors
    /// A statement failed.
    pub async fn run_script(&self, during: &str, sql: &str) -> Result<(), OutboxError> {
        let script = format!("SET statement_timeout = '30s'; SET client_min_messages = warning;\n{sql}");
        match self.client.batch_execute(&script).await {
            Ok(()) => Ok(()),
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                Err(slot::blocked(self, during).await)
            }
            Err(error) => Err(sql_error(during, error)),
        }
    }

    /// The first row of a query, if it has one.
    ///
    /// # Errors
    /// The query failed.
    pub async fn query_one_row(&self, during: &str, sql: &str) -> Result<Option<Row>, OutboxError> {
        self.client.query_opt(sql, &[]).await.map_err(|error| sql_error(during, error))
    }

    /// What is committed in this session is on disk, whatever the default of the role or the database is.
    pub(crate) async fn be_durable(&self) -> Result<(), OutboxError> {
        let sql = "SELECT set_config(name, 'on', false) FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'";
        self.begin_with(sql).await
    }

    /// From now on rows of tables are asked for, a page of them at a time.
    #[cfg(feature = "cli")]
    pub(crate) fn expect_rows(&self) {
        self.ration.of_rows();
    }

    /// Whether the table holds anything.
    pub(crate) async fn has_rows(&self, table: &TableName) -> Result<bool, OutboxError> {
        let sql = format!("SELECT EXISTS (SELECT FROM {table})");
        let row = self.query_one_row("looking whether the table is empty", &sql).await?;
        row.map_or(Ok(false), |row| row.cell(0))
    }

    /// How it is protected on its way.
    pub(crate) fn security(&self) -> Security {
        self.security
    }

    /// How far away the server is.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// The client for statements.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The client for transactions.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The client, for whoever asks on while somebody else listens for the end.
    pub(crate) fn into_parts(self) -> (Client, Driver) {
        (self.client, self.driver)
    }
}

/// When the server was started, which tells it from others.
async fn born(client: &Client) -> Result<String, OutboxError> {
    let sql = "SELECT extract(epoch FROM pg_postmaster_start_time())::text";
    let row = client.query_one(sql, &[]).await;
    row.map_err(|error| sql_error("asking for the server's start", error))?.cell(0)
}

impl Driver {
    /// Whether the server has ended the session.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the server ends the session, and says why; the reason is told once. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> OutboxError {
        let ended = match &mut self.0 {
            Some(task) => task.await,
            None => Ok(Ok(())),
        };
        self.0 = None;
        match ended {
            Ok(Err(error)) => sql_error("the server ended the session", error),
            _ => OutboxError::transient("the server ended the session"),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The servers to try, in order: every address of every host. Resolved once for both connections, since two
/// look-ups of one name may lead to two servers; and anew at each attempt, since after a failover the name may
/// lead elsewhere. A name that can't be resolved stays, so that connecting to it gives the reason.
pub(crate) async fn servers(settings: &Settings) -> Vec<Endpoint> {
    let mut servers = Vec::new();
    for candidate in settings.candidates() {
        let endpoint = candidate.endpoint();
        let config = &endpoint.config;
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let name = match (config.get_hosts().first(), config.get_hostaddrs().first()) {
            (Some(Host::Tcp(name)), None) => name.clone(),
            _ => {
                servers.push(endpoint);
                continue;
            }
        };
        let addresses = lookup_host((name.as_str(), port)).await.map(Iterator::collect::<Vec<_>>);
        match addresses {
            Ok(addresses) if !addresses.is_empty() => servers.extend(addresses.into_iter().map(|address| {
                let mut endpoint = endpoint.clone();
                endpoint.config.hostaddr(address.ip());
                endpoint
            })),
            _ => servers.push(endpoint),
        }
    }
    servers
}

/// With the network watched: a session that died in silence would hear nothing of the server's leave.
fn watched(endpoint: &Endpoint) -> Endpoint {
    let mut endpoint = endpoint.clone();
    let config = &mut endpoint.config;
    if config.get_keepalives_idle() == SYSTEM_IDLE {
        config.keepalives_idle(IDLE);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(USER_TIMEOUT);
    }
    endpoint
}

/// An error of connecting. That a password is missing, or hashed too often, tokio-postgres says in words only.
fn cannot_log_in(config: &Config, error: tokio_postgres::Error) -> OutboxError {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    if source == "password missing" {
        return no_password(config.get_user().unwrap_or_default());
    }
    if source == "server did not use channel binding" {
        return no_binding();
    }
    if source.contains("iteration count exceeds") {
        return too_many_iterations(config.get_user().unwrap_or_default());
    }
    sql_error(&cannot_connect(config), error)
}

/// The values of a reply. Its shape is the server's word: what does not fit is an error, and never a panic.
pub(crate) trait Cells {
    /// The value of a column, by number or name.
    fn cell<'a, T: FromSql<'a>, I: RowIndex + std::fmt::Display>(
        &'a self,
        column: I,
    ) -> Result<T, OutboxError>;
}

impl Cells for Row {
    fn cell<'a, T: FromSql<'a>, I: RowIndex + std::fmt::Display>(
        &'a self,
        column: I,
    ) -> Result<T, OutboxError> {
        self.try_get(column)
            .map_err(|error| OutboxError::protocol("the server's answer can't be read", error))
    }
}

/// An error of tokio-postgres, with the server's code where it has one.
pub(crate) fn sql_error(during: &str, error: tokio_postgres::Error) -> OutboxError {
    match error.as_db_error() {
        Some(server) => OutboxError::server(during, server.code().code(), server.message()),
        None => OutboxError::connection(during, error),
    }
}

/// Opens a replication connection to a server.
pub(crate) async fn open_replication(endpoint: &Endpoint) -> Result<Connection<Box<dyn Wire>>, OutboxError> {
    let endpoint = &watched(endpoint).with_password().await?;
    let config = &endpoint.config;
    let startup = &startup(config)?;
    let log_in = wire::log_in(endpoint, |opened: Opened| async move {
        let binding = Binding::of(config, &opened);
        Connection::start(opened.wire, startup, &binding).await
    });
    in_time(config, log_in).await.map_err(|error| endpoint.judge(error))
}

/// What is done before the time to connect has run out.
async fn in_time<T>(
    config: &Config,
    connecting: impl Future<Output = Result<T, OutboxError>>,
) -> Result<T, OutboxError> {
    match timeout(connect_timeout(config), connecting).await {
        Ok(result) => result,
        Err(_) => Err(OutboxError::transient(format!("{}: no answer in time", cannot_connect(config)))),
    }
}

/// Who we are, by the settings.
pub(super) fn startup(config: &Config) -> Result<Startup, OutboxError> {
    let user = match config.get_user() {
        Some(user) => user.to_owned(),
        None => whoami::username().map_err(|error| {
            OutboxError::connection("the name of the operating system's user is unknown", error)
        })?,
    };
    Ok(Startup {
        database: config.get_dbname().unwrap_or(&user).to_owned(),
        password: config.get_password().map(<[u8]>::to_vec),
        application_name: config.get_application_name().unwrap_or("walpost").to_owned(),
        options: config.get_options().map(str::to_owned),
        user,
    })
}
fn connect_timeout(config: &Config) -> Duration {
    // As in libpq, none is no limit; the settings have a default of their own.
    config.get_connect_timeout().copied().unwrap_or(Duration::MAX)
}
