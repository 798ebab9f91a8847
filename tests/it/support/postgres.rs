//! A real PostgreSQL server: the one named in the environment, else a container, else a local process.

use std::borrow::Cow;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use testcontainers::core::{ContainerPort, Mount};
use testcontainers::{GenericImage, ImageExt};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use super::chosen;
use super::container::Container;
use super::database::Database;
use super::guard::Scratch;
use super::host::{Host, cached, docker};
use super::room::Room;
use super::{PATIENCE, free_port, local_postgres, unique};

const NAMED: &str = "WALPOST_TEST_DATABASE_URL";

/// What a server of our own is made from.
enum Source<'a> {
    /// A tag of the official image.
    Image(Cow<'a, str>),
    /// A folder with `initdb` and `postgres`.
    Binaries(PathBuf),
}

impl Source<'static> {
    /// Where the version does not matter.
    fn any() -> Result<Source<'static>, String> {
        if !docker() {
            return local_postgres::binaries().map(Source::Binaries);
        }
        Ok(Source::Image(chosen::postgres().map_or("18".into(), Cow::from)))
    }
}

pub(crate) struct PostgresServer {
    /// Before `folder`, so that the server is gone when its files go.
    host: Host,
    /// A superuser's URL of the database `postgres`.
    url: String,
    /// Socket and port; none where the server is not ours.
    socket: Option<(PathBuf, u16)>,
    room: Option<Arc<Room>>,
    _folder: Option<Scratch>,
}

impl PostgresServer {
    /// The one server that most tests share; started by whoever comes first.
    pub(crate) async fn shared() -> &'static PostgresServer {
        static SHARED: OnceCell<Result<PostgresServer, String>> = OnceCell::const_new();
        let start = async || {
            let server = match env::var(NAMED) {
                Ok(url) => {
                    let host = Host::Named(NAMED);
                    let server = PostgresServer { host, url, socket: None, room: None, _folder: None };
                    server.ready().await.map(|()| server)
                }
                Err(_) => Self::launch(Source::any()?, &[]).await,
            }?;
            chosen::tell(&format!("the tests' server is PostgreSQL {}", server.version().await));
            Ok(server)
        };
        match SHARED.get_or_init(start).await {
            Ok(server) => server,
            Err(error) => panic!("PostgreSQL: {error}"),
        }
    }

    /// A server of the test's own, which it may stop, kill and start again. `options` are settings of `postgresql.conf`.
    pub(crate) async fn start(options: &[(&str, &str)]) -> PostgresServer {
        let source = Source::any().unwrap_or_else(|error| panic!("{error}"));
        Self::launch(source, options).await.unwrap_or_else(|error| panic!("PostgreSQL: {error}"))
    }

    /// The same of a certain major version, for instance "14".
    pub(crate) async fn start_version(version: &str, options: &[(&str, &str)]) -> PostgresServer {
        if docker() {
            let started = Self::launch(Source::Image(version.into()), options).await;
            return started.unwrap_or_else(|error| panic!("PostgreSQL {version}: {error}"));
        }
        Self::start_with_bin(&cached(&format!("postgres-{version}")), options).await
    }

    /// The same from binaries in a folder.
    pub(crate) async fn start_with_bin(bin: &Path, options: &[(&str, &str)]) -> PostgresServer {
        assert!(
            bin.join("initdb").exists(),
            "no PostgreSQL in {}: `scripts/install postgres-versions` fetches it",
            bin.display()
        );
        let started = Self::launch(Source::Binaries(bin.to_owned()), options).await;
        started.unwrap_or_else(|error| panic!("{}: {error}", bin.display()))
    }

    /// A server of this machine whose settings are in its files, so that ALTER SYSTEM and a restart change them.
    pub(crate) async fn start_with_file(settings: &str) -> PostgresServer {
        let bin = local_postgres::binaries().unwrap_or_else(|error| panic!("{error}"));
        let (folder, port) = (Scratch::new("postgres"), free_port());
        let local =
            local_postgres::prepare(&bin, &folder, port, &[]).unwrap_or_else(|error| panic!("{error}"));
        let file = folder.path().join("data/postgresql.conf");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}\nfsync = off\n{settings}\n")).unwrap();
        let host = Host::Local(local);
        host.launch();
        let url = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        let socket = Some((folder.path().to_owned(), port));
        let server = PostgresServer { host, url, socket, room: None, _folder: Some(folder) };
        server.ready().await.unwrap_or_else(|error| panic!("PostgreSQL: {error}"));
        server
    }

    /// A server of this machine whose files lie on a disk of so many megabytes.
    pub(crate) async fn start_on_disk(megabytes: u32) -> PostgresServer {
        let bin = local_postgres::binaries().unwrap_or_else(|error| panic!("{error}"));
        let (folder, port) = (Scratch::new("postgres"), free_port());
        let made = local_postgres::prepare_on_disk(&bin, &folder, port, &settings(&[]), megabytes).await;
        let (local, room) = made.unwrap_or_else(|error| panic!("PostgreSQL: {error}"));
        let host = Host::Local(local);
        host.launch();
        let url = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        let socket = Some((folder.path().to_owned(), port));
        let server = PostgresServer { host, url, socket, room: Some(room), _folder: Some(folder) };
        server.ready().await.unwrap_or_else(|error| panic!("PostgreSQL: {error}"));
        server
    }

    /// A file beside the server's own, as seen from here; of a server from [`start_on_disk`](Self::start_on_disk).
    pub(crate) fn beside_its_files(&self, name: &str) -> PathBuf {
        let (room, (folder, _)) = (self.room.as_ref().unwrap(), self.socket.as_ref().unwrap());
        room.path(&folder.join("data").join(name))
    }

    /// A physical standby that streams from this server, as `pg_basebackup` would make it; for servers from
    /// [`start_with_bin`](Self::start_with_bin).
    pub(crate) async fn standby(&self, bin: &Path, options: &[(&str, &str)]) -> PostgresServer {
        let client = self.client("postgres").await;
        let primary = self._folder.as_ref().expect("a server of our own");
        let (folder, port) = (Scratch::new("standby"), free_port());
        let [start, stop] = if major(&client).await < 15 {
            [
                "SELECT pg_start_backup('standby', true, false)",
                "SELECT labelfile FROM pg_stop_backup(false, false)",
            ]
        } else {
            ["SELECT pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)"]
        };
        client.batch_execute(start).await.unwrap();
        local_postgres::copy(primary.path(), &folder).unwrap();
        let label: String = client.query_one(stop, &[]).await.unwrap().get(0);
        local_postgres::label(&folder, &label).unwrap();
        let local = local_postgres::standby(bin, &folder, port, &settings(options)).unwrap();
        let host = Host::Local(local);
        host.launch();
        let url = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        let socket = Some((folder.path().to_owned(), port));
        let server = PostgresServer { host, url, socket, room: None, _folder: Some(folder) };
        server.ready().await.unwrap_or_else(|error| panic!("standby: {error}"));
        server
    }

    async fn launch(source: Source<'_>, options: &[(&str, &str)]) -> Result<PostgresServer, String> {
        let (folder, port) = (Scratch::new("postgres"), free_port());
        let settings = settings(options);
        let host = match source {
            Source::Image(tag) => Host::Container(container(&tag, folder.path(), port, &settings).await?),
            Source::Binaries(bin) => {
                let host = Host::Local(local_postgres::prepare(&bin, &folder, port, &settings)?);
                host.launch();
                host
            }
        };
        let url = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        let socket = Some((folder.path().to_owned(), port));
        let server = PostgresServer { host, url, socket, room: None, _folder: Some(folder) };
        server.ready().await.map(|()| server)
    }

    /// As the server itself tells it, for instance "16.14".
    pub(crate) async fn version(&self) -> String {
        let row = self.client("postgres").await.query_one("SHOW server_version", &[]).await.unwrap();
        row.get(0)
    }

    /// A URL over TCP, as the superuser.
    pub(crate) fn url(&self, database: &str) -> String {
        with_database(&self.url, database)
    }

    /// Host and port, for a proxy in front of it.
    pub(crate) fn address(&self) -> String {
        authority(&self.url).to_owned()
    }

    /// A URL that goes another way, for instance through a proxy.
    pub(crate) fn url_at(&self, address: impl std::fmt::Display, database: &str) -> String {
        self.url(database).replacen(authority(&self.url), &address.to_string(), 1)
    }

    /// A URL over the Unix socket. A server that the environment names has none that we know.
    pub(crate) fn socket_url(&self, database: &str) -> String {
        let (folder, port) = self.socket.as_ref().expect("take a server of your own: PostgresServer::start");
        let folder = folder.display().to_string().replace('/', "%2F");
        // In a container the server listens on its usual port inside, and the socket bears that number.
        let port = if matches!(self.host, Host::Container(_)) { 5432 } else { *port };
        format!("postgresql://postgres@{folder}:{port}/{database}")
    }

    pub(crate) async fn client(&self, database: &str) -> Client {
        connect(&self.url(database)).await.unwrap_or_else(|error| panic!("{database}: {error}"))
    }

    /// An empty database that no other test has.
    pub(crate) async fn create_database(&self, prefix: &str) -> Database {
        self.create_database_in(prefix, "UTF8").await
    }

    /// The same in an encoding of the server.
    pub(crate) async fn create_database_in(&self, prefix: &str, encoding: &str) -> Database {
        let name = unique(prefix);
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        self.client("postgres").await.batch_execute(&sql).await.unwrap();
        Database::new(name.clone(), self.url(&name), self.url("postgres"))
    }

    /// Fast shutdown, as `pg_ctl stop` does: sessions are ended, walsenders get to send what is left.
    pub(crate) async fn stop_fast(&self) {
        self.host.stop("INT", PATIENCE).await;
    }

    /// Immediate shutdown: as after a crash, recovery follows.
    pub(crate) async fn stop_immediate(&self) {
        self.host.stop("QUIT", PATIENCE).await;
    }

    /// `kill -9` of the postmaster.
    pub(crate) async fn kill(&self) {
        self.host.stop("KILL", PATIENCE).await;
    }

    /// `kill -9` of all its processes at once, as when the machine's power fails.
    pub(crate) async fn kill_all(&self) {
        self.host.kill_family(PATIENCE).await;
    }

    /// Where it runs, for its log.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Sends a signal to the postmaster and does not wait, for instance INT while walsenders hold it up.
    pub(crate) fn signal(&self, name: &str) {
        self.host.signal(name);
    }

    pub(crate) fn running(&self) -> bool {
        self.host.running()
    }

    /// Back on the same port with the same data.
    pub(crate) async fn start_again(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.host.launch();
            match self.ready().await {
                Ok(()) => return,
                // After `kill -9` the orphaned backends hold the shared memory until they notice.
                Err(error) => assert!(Instant::now() < deadline, "PostgreSQL: {error}"),
            }
        }
    }

    async fn ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match connect(&self.url("postgres")).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if !self.host.running() || Instant::now() > deadline {
                return Err(format!("{} does not answer: {error}\n{}", self.url, self.host.log()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends by itself with the client or the server, and tells the client why.
    tokio::spawn(connection);
    Ok(client)
}

/// The major version of the server behind a session.
pub(crate) async fn major(client: &Client) -> i32 {
    let sql = "SELECT current_setting('server_version_num')::int / 10000";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn settings(options: &[(&str, &str)]) -> Vec<String> {
    let defaults = [
        ("wal_level", "logical"),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "40"),
        ("max_connections", "200"),
        // These clusters are thrown away; a killed process loses nothing that the kernel already has.
        ("fsync", "off"),
    ];
    // The server takes the last value given.
    defaults.iter().chain(options).map(|(name, value)| format!("{name}={value}")).collect()
}

async fn container(tag: &str, sockets: &Path, port: u16, settings: &[String]) -> Result<Container, String> {
    use std::os::unix::fs::PermissionsExt;
    // The server's user inside is unknown outside.
    std::fs::set_permissions(sockets, std::fs::Permissions::from_mode(0o777)).map_err(|e| e.to_string())?;
    let mut arguments = vec!["postgres".to_owned()];
    for setting in
        settings.iter().map(String::as_str).chain(["unix_socket_directories=/var/run/postgresql,/sockets"])
    {
        arguments.extend(["-c".to_owned(), setting.to_owned()]);
    }
    let request = GenericImage::new("postgres", tag)
        .with_cmd(arguments)
        .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
        .with_mapped_port(port, ContainerPort::Tcp(5432))
        .with_mount(Mount::bind_mount(sockets.display().to_string(), "/sockets"));
    Container::start(request).await
}

/// The same URL for another database.
fn with_database(url: &str, database: &str) -> String {
    let (base, parameters) = url.find('?').map_or((url, ""), |at| url.split_at(at));
    let start = base.find("://").map_or(0, |at| at + 3);
    let end = base[start..].find('/').map_or(base.len(), |at| start + at);
    format!("{}/{database}{parameters}", &base[..end])
}

/// Host and port of a URL.
fn authority(url: &str) -> &str {
    let after = url.split_once("://").map_or(url, |(_, rest)| rest);
    let whole = after.split(['/', '?']).next().unwrap_or(after);
    whole.rsplit_once('@').map_or(whole, |(_, address)| address)
}

#[test]
fn a_url_is_taken_apart_and_put_together() {
    for (url, address, elsewhere) in [
        ("postgresql://u:p@h:1/postgres", "h:1", "postgresql://u:p@h:1/x"),
        ("postgresql://u@h", "h", "postgresql://u@h/x"),
        ("postgres://h/a?sslmode=disable", "h", "postgres://h/x?sslmode=disable"),
    ] {
        assert_eq!(authority(url), address);
        assert_eq!(with_database(url, "x"), elsewhere);
    }
}
