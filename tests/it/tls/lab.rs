//! A server with TLS, roles that may log in by different ways, and a look at how a connection came about.

use std::fs;
use std::path::Path;

use tokio_postgres::Client;
use walpost::OutboxError;
use walpost::postgres::settings::{Os, Settings};
use walpost::postgres::{ReplicationSource, Session, Target};

use crate::support::certificates::{Authority, Pair, Wish};
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually};
use crate::world::World;

/// Who may log in how: the tests' own role always, the others as they are called.
const HBA: &str = "local all all trust
host all postgres all trust
hostssl all only_tls all trust
hostnossl all only_plain all trust
host all anyhow all trust
hostssl all by_certificate all cert
host all by_scram all scram-sha-256
host all by_md5 all md5
";
pub(super) const PASSWORD: &str = "open sesame";

pub(super) struct Lab {
    pub(super) server: PostgresServer,
    pub(super) world: World,
    pub(super) authority: Authority,
    pub(super) client: Client,
}

/// How a connection is made: of the session and of the one beside it that reads the log.
#[derive(Debug, PartialEq)]
pub(super) enum Made {
    Plain,
    Tls(String),
}

impl Lab {
    /// Without TLS as yet.
    pub(super) async fn new(server: PostgresServer, name: &str) -> Lab {
        Lab::with(server, KafkaBroker::shared().await, name).await
    }

    /// The same with a broker of the test's own.
    pub(super) async fn with(server: PostgresServer, broker: &KafkaBroker, name: &str) -> Lab {
        let world = World::on(&server, broker, name, 1).await;
        let client = server.client(&world.database.name).await;
        let lab = Lab { server, world, authority: Authority::new("The Authority"), client };
        for role in ["only_tls", "only_plain", "anyhow", "by_certificate", "by_scram"] {
            lab.role(role, "scram-sha-256").await;
        }
        lab.role("by_md5", "md5").await;
        lab.put("pg_hba.conf", HBA).await;
        lab.reload().await;
        lab
    }

    /// With TLS, and a certificate for this machine.
    pub(super) async fn encrypted(name: &str) -> Lab {
        let lab = Lab::new(PostgresServer::start(&[]).await, name).await;
        let pair = lab.authority.sign("server", &Wish::default());
        lab.present(&pair).await;
        lab
    }

    async fn role(&self, name: &str, encryption: &str) {
        let sql = format!(
            "SET password_encryption = '{encryption}'; CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{PASSWORD}'"
        );
        self.client.batch_execute(&sql).await.unwrap();
    }

    /// Writes a file into the folder of the server's data, as the server, for it alone.
    async fn put(&self, name: &str, text: &str) {
        let sql = format!(
            "COPY (SELECT unnest(string_to_array($text${text}$text$, E'\\n'))) TO PROGRAM 'umask 077; cat > {name}'"
        );
        self.client.batch_execute(&sql).await.unwrap();
    }

    async fn set(&self, name: &str, value: &str) {
        let sql = format!("ALTER SYSTEM SET {name} = '{value}'");
        self.client.batch_execute(&sql).await.unwrap();
    }

    /// Until new connections find what was written.
    pub(super) async fn reload(&self) {
        let loaded = "SELECT pg_conf_load_time()::text";
        let before: String = self.client.query_one(loaded, &[]).await.unwrap().get(0);
        self.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually("the server to reload", PATIENCE, async || {
            let client = self.server.client("postgres").await;
            let now: String = client.query_one(loaded, &[]).await.unwrap().get(0);
            (now != before).then_some(())
        })
        .await;
    }

    /// The server shows this certificate from now on, and trusts those that the authority has signed.
    pub(super) async fn present(&self, pair: &Pair) {
        for (name, path) in [
            ("server.crt", &pair.certificate),
            ("server.key", &pair.key),
            ("root.crt", &self.authority.root()),
        ] {
            self.put(name, &fs::read_to_string(path).unwrap()).await;
        }
        self.set("ssl_ca_file", "root.crt").await;
        self.set("ssl", "on").await;
        self.reload().await;
    }

    /// Settings for a role, without a home and so without files that are not named.
    pub(super) fn text(&self, role: &str, more: &str) -> String {
        let port = port(&self.server.address());
        let name = &self.world.database.name;
        format!("host=localhost hostaddr=127.0.0.1 port={port} user={role} dbname={name} {more}")
    }

    pub(super) fn verified(&self) -> String {
        format!("sslmode=verify-full sslrootcert={}", self.authority.root().display())
    }

    /// Connects with both kinds of connection.
    pub(super) async fn connect(&self, role: &str, more: &str) -> Result<Made, OutboxError> {
        self.connect_from(&self.text(role, more), None).await
    }

    /// The same from a home with files.
    pub(super) async fn connect_from(&self, text: &str, home: Option<&Path>) -> Result<Made, OutboxError> {
        let variable = |name: &str| match name {
            "HOME" => home.map(|home| home.display().to_string()),
            _ => None,
        };
        let settings = Settings::resolve(Some(text), variable, &Os::detect())?;
        let session = Session::open_any(&settings).await?;
        let sql = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let made = made_of(session.client(), sql).await;
        let target = Target { slot: self.world.slot.clone(), ..Target::default() };
        let store = ReplicationSource::new(settings, target).open().await?;
        let sql = "SELECT ssl, version FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
        let streaming = made_of(&self.client, sql).await;
        drop(store);
        self.world.slot_is_free().await;
        assert_eq!(made, streaming, "both connections are made alike");
        Ok(made)
    }

    /// What is wrong, and the mend.
    pub(super) async fn refuses(&self, role: &str, more: &str, what: &[&str]) {
        let text = self.text(role, more);
        self.refuses_text(&text, what).await;
    }

    pub(super) async fn refuses_text(&self, text: &str, what: &[&str]) {
        let error = match self.connect_from(text, None).await {
            Err(error) => error,
            Ok(made) => panic!("{text}: {made:?}"),
        };
        let said = format!("{} -> {}", error.chain(), error.advice().unwrap_or_default());
        for part in what {
            assert!(said.contains(part), "{text}: {part} is not in: {said}");
        }
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

async fn made_of(client: &Client, sql: &str) -> Made {
    let rows = client.query(sql, &[]).await.unwrap();
    assert_eq!(rows.len(), 1, "{sql}");
    match rows[0].get::<_, Option<String>>(1) {
        Some(version) => Made::Tls(version),
        None => Made::Plain,
    }
}

/// The port of an address, which is one of this machine.
pub(super) fn port(address: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap();
    assert_eq!(host, "127.0.0.1");
    port.to_owned()
}
