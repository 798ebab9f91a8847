//! A marker for each secret and each part of a row, and no place where one of them shows: neither log at any level,
//! librdkafka's own words included, nor output, page, figures, or the list of processes.

use std::fs::{self, Permissions, set_permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::lab::Lab;
use crate::dead_letters::quick;
use crate::support::walpost::{Builder, told};
use crate::support::{PATIENCE, PostgresServer, SecureKafka, Walpost, unique};

const DATABASE: &str = "mark-database-5zqx";
const SASL: &str = "mark-sasl-5zqx";
const KEY_PASSWORD: &str = "mark-keypassword-5zqx";
const TOKEN: &str = "mark-listener-token-5zqx";
const OTLP: &str = "mark-otlp-header-5zqx";
const OAUTH: &str = "mark-oauth-secret-5zqx";
/// Of logins that are refused, and of settings that are.
const WRONG: &str = "mark-wrong-5zqx";
const PAYLOAD: &str = "mark-payload-5zqx";
const KEY: &str = "mark-key-5zqx";
const HEADER: &str = "mark-header-5zqx";
/// What all have in common.
const ANY: &str = "-5zqx";

/// Everything that was said, and where.
#[derive(Default)]
struct Heard(Vec<(String, String)>);

impl Heard {
    fn note(&mut self, place: &str, text: impl Into<String>) {
        self.0.push((place.to_owned(), text.into()));
    }

    /// What a command says to its end.
    async fn run(&mut self, place: &str, command: Builder) -> String {
        let said = told(&command.output().await);
        self.note(place, &*said);
        said
    }

    fn hold_nothing(&self) {
        for (place, text) in &self.0 {
            let at = text.find(ANY);
            let around = at.map(|at| text[at.saturating_sub(200)..].chars().take(300).collect::<String>());
            assert_eq!(around, None, "{place}");
            // Nor as bytes one by one, as a library would dump them.
            let hex: String = ANY.bytes().map(|byte| format!("{byte:02x}")).collect();
            assert!(!text.to_lowercase().contains(&hex), "{place}");
        }
    }
}

async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") || path == "/readyz", "{path}: {answer}");
    answer
}

/// A collector that wants another token.
async fn collector() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let refuse = post(async || (StatusCode::UNAUTHORIZED, "no"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", refuse)).await });
    url
}

struct Place {
    lab: Lab,
    secure: SecureKafka,
    folder: tempfile::TempDir,
}

impl Place {
    async fn new() -> Place {
        let secure = SecureKafka::start("unused").await;
        secure.set_password("relay", SASL).await;
        let lab = Lab::with(PostgresServer::start(&[]).await, &secure.kafka, "secrets").await;
        let place = Place { lab, secure, folder: tempfile::tempdir().unwrap() };
        place.set_password(DATABASE).await;
        place
    }

    async fn set_password(&self, password: &str) {
        let sql =
            format!("SET password_encryption = 'scram-sha-256'; ALTER ROLE by_scram PASSWORD '{password}'");
        self.lab.client.batch_execute(&sql).await.unwrap();
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    fn command(&self, args: &[&str], of_kafka: (&str, &str)) -> Builder {
        let (password, key_password) = of_kafka;
        let path = |path: &std::path::Path| path.display().to_string();
        let secret = format!("pass:{KEY_PASSWORD}");
        let how = ["pkey", "-aes256", "-passout", &secret];
        let key = self.secure.authority.convert(&self.secure.pair.key, "encrypted.key", &how);
        let command = Walpost::with(args)
            .env("WALPOST_DATABASE_URL", self.lab.text("by_scram", ""))
            .env("WALPOST_BROKERS", &self.secure.secure)
            .env("WALPOST_SLOT", &self.lab.world.slot)
            .env("WALPOST_LISTEN", "127.0.0.1:0")
            .env("WALPOST_LOG", "trace");
        [
            ("SECURITY_PROTOCOL", "sasl_ssl"),
            ("SASL_MECHANISM", "SCRAM-SHA-512"),
            ("SASL_USERNAME", "relay"),
            ("SASL_PASSWORD", password),
            ("SSL_CA_LOCATION", &path(&self.secure.authority.root())),
            ("SSL_CERTIFICATE_LOCATION", &path(&self.secure.pair.certificate)),
            ("SSL_KEY_LOCATION", &path(&key)),
            ("SSL_KEY_PASSWORD", key_password),
            ("DEBUG", "all"),
        ]
        .into_iter()
        .fold(command, |command, (name, value)| command.env(&format!("WALPOST_KAFKA_{name}"), value))
    }
}

/// Each way to give the database's password.
fn ways(place: &Place, password: &str) -> [(&'static str, &'static str, String); 5] {
    let secret = place.file("password", password);
    let passfile = place.file("pgpass", &format!("*:*:*:*:{password}\n"));
    [
        ("variable", "PGPASSWORD", password.to_owned()),
        ("URL", "WALPOST_DATABASE_URL", place.lab.text("by_scram", &format!("password={password}"))),
        ("password file of libpq", "PGPASSFILE", passfile),
        ("file", "WALPOST_PASSWORD_FILE", secret),
        ("command", "WALPOST_PASSWORD_COMMAND", format!("echo {password}")),
    ]
}

#[tokio::test]
async fn commands_tell_no_secret_whether_they_succeed_or_fail() {
    let (place, mut heard) = (Place::new().await, Heard::default());
    let good = (SASL, KEY_PASSWORD);
    for (way, name, value) in ways(&place, DATABASE) {
        let said = heard.run(way, place.command(&["check"], good).env(name, value)).await;
        assert!(said.contains("as relay by SCRAM-SHA-512"), "{way}: {said}");
    }
    for (way, name, value) in ways(&place, WRONG) {
        let said = heard.run(way, place.command(&["status"], good).env(name, value)).await;
        assert!(said.contains("password authentication failed"), "{way}: {said}");
    }
    let known =
        |args: &[&str], of_kafka: (&str, &str)| place.command(args, of_kafka).env("PGPASSWORD", DATABASE);
    let said = heard.run("Kafka's password", known(&["check"], (WRONG, KEY_PASSWORD))).await;
    assert!(said.contains("uthentication failed"), "{said}");
    let said = heard.run("the key's password", known(&["check"], (SASL, WRONG))).await;
    assert!(said.contains("FAIL") || said.contains("error:"), "{said}");

    let oauth = known(&["check"], good)
        .env("WALPOST_KAFKA_SASL_MECHANISM", "OAUTHBEARER")
        .env("WALPOST_KAFKA_SASL_OAUTHBEARER_METHOD", "oidc")
        .env("WALPOST_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET", OAUTH);
    let said = heard.run("OAuth", oauth).await;
    assert!(said.contains("identity provider"), "{said}");
    for args in [
        ["check", "-X", &format!("sasl.password={WRONG}")],
        ["check", "-X", &format!("sasl.oauthbearer.client.secret={WRONG}")],
        ["check", "--database-url", &format!("postgresql://u:{WRONG}@localhost/d")],
        ["check", "--database-url", &format!("postgresql://u:{WRONG}@local host:x/d?sslmode={WRONG}")],
        ["run", "--otlp-endpoint", &format!("https://u:{WRONG}@localhost")],
        ["run", "--otlp-endpoint", &format!("{WRONG} ")],
    ] {
        let output = place.command(&args, good).output().await;
        heard.note(&format!("{} {}", args[0], args[1]), told(&output));
        assert_eq!(output.status.code(), Some(2), "{}: {}", args[1], told(&output));
    }
    for broken in [
        "[kafka]\nsasl.password = \"MARK",
        "database_url = [\"MARK\"]",
        "password_file = \"a\" MARK",
        "MARK = 1 MARK",
    ] {
        let command = known(&["check"], good).file("walpost.toml", &broken.replace("MARK", WRONG));
        // A name of a setting is none of its values.
        let said = told(&command.output().await).replace(&format!("`{WRONG}` is no setting"), "");
        heard.note(broken, said);
    }
    let failing = format!("echo {WRONG}; echo no {WRONG} >&2; exit 3");
    heard
        .run("a failing command", place.command(&["status"], good).env("WALPOST_PASSWORD_COMMAND", failing))
        .await;
    for command in
        ["run", "check", "status", "setup", "audit", "verify", "replay", "teardown", "dead-letters", "demo"]
    {
        let said = heard.run(command, known(&[command, "--help"], good)).await;
        assert!(said.contains("Usage"), "{said}");
    }
    heard.hold_nothing();
}

#[tokio::test]
async fn a_relay_tells_no_secret_and_nothing_of_a_row_at_any_level() {
    let (place, mut heard) = (Place::new().await, Heard::default());
    let (lab, topic) = (&place.lab, &place.lab.world.topic);
    let token = place.file("token", TOKEN);
    let command =
        place.command(&["run", "--on-refusal", "dead-letter", "--page-actions"], (SASL, KEY_PASSWORD));
    let mut relay = quick(command)
        .env("PGPASSWORD", DATABASE)
        .env("WALPOST_LISTEN_TOKEN_FILE", token)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector().await)
        .env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization={OTLP}"))
        .streaming()
        .await;
    let address = relay.listen_address().await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload, headers) VALUES ($1, $2, to_json($3::text), \
               json_build_object('h', $4::text, 'traceparent', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'))";
    for topic in [topic, &unique("missing")] {
        lab.client.execute(sql, &[topic, &KEY, &PAYLOAD, &HEADER]).await.unwrap();
    }
    relay.wait_for_log("parked as dead letters", PATIENCE).await;
    lab.world.caught_up().await;
    relay.wait_for_log("the collector does not take spans: it answered 401", PATIENCE).await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/api/state"] {
        heard.note(path, ask(address, path).await);
    }
    // The page shows keys of letters, and nothing else of them.
    heard.note("/api/dead-letters", ask(address, "/api/dead-letters").await.replace(KEY, ""));
    heard.note("arguments", fs::read_to_string(format!("/proc/{}/cmdline", relay.id())).unwrap());

    // Logins that fail: Kafka's, and then the database's, which ends it.
    let mark = relay.mark();
    place.secure.set_password("relay", "another").await;
    place.secure.proxy.reset();
    lab.client.execute(sql, &[topic, &KEY, &PAYLOAD, &HEADER]).await.unwrap();
    relay.wait_for_log_since(mark, "uthentication failed", PATIENCE).await;
    relay.wait_for_log_since(mark, "Kafka can't be reached", PATIENCE).await;
    for path in ["/readyz", "/metrics", "/api/state"] {
        heard.note(path, ask(address, path).await);
    }
    place.set_password("another").await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'by_scram'";
    lab.client.batch_execute(end).await.unwrap();
    let status = relay.wait(PATIENCE).await;
    let log = relay.log();
    let last: Vec<_> = log.lines().rev().take(20).collect();
    assert_eq!(status.code(), Some(1), "{status:?}: {last:#?}");
    for said in ["SASL", "TRACE", "password authentication failed"] {
        assert!(log.contains(said), "{said} is not among what was said");
    }
    heard.note("log", log);
    heard.hold_nothing();
}
