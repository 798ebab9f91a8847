//! Real Debezium: its server, and Kafka Connect standalone with its connector, from the jars that `scripts/install` keeps.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::guard::Scratch;
use super::host::{Host, Local, cached};
use super::{PATIENCE, eventually, free_port};

const JAVA: [&str; 5] = [
    // Quick to start rather than quick at length, as the broker is.
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    // From Java 24 on, Debezium Server's threads ask for it.
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
];

/// What of Debezium Server's jars a connector for PostgreSQL and the router consist of.
const PLUGIN: [&str; 10] = [
    "debezium-api-",
    "debezium-config-",
    "debezium-connect-plugins-",
    "debezium-connector-common-",
    "debezium-connector-postgres-",
    "debezium-openlineage-api-",
    "debezium-util-",
    "postgresql-",
    "protobuf-java-",
    "sketches-java-",
];

fn jars() -> PathBuf {
    let folder = cached("debezium");
    assert!(folder.exists(), "{} is not there: `make test` fetches it", folder.display());
    folder
}

fn java(command: &Path, folder: &Path, classes: &str) -> Command {
    let mut command = Command::new(command);
    command.current_dir(folder).args(JAVA).args(["-cp", classes]);
    command
}

/// The process of Debezium Server; killed when dropped.
pub(crate) struct Server {
    host: Host,
    folder: Scratch,
}

impl Server {
    /// With this `application.properties`. Where it is, the slot and the topic tell.
    pub(crate) fn start(properties: &str) -> Server {
        let (lib, scratch) = (jars(), Scratch::new("debezium"));
        let mut files = fs::read_dir(&lib).unwrap().map(|it| it.unwrap().path());
        let runner =
            files.find(|path| path.to_string_lossy().ends_with("-runner.jar")).expect("a jar to run");
        fs::create_dir(scratch.path().join("config")).unwrap();
        fs::write(scratch.path().join("config/application.properties"), properties).unwrap();
        let (program, folder) = (cached("java21"), scratch.path().to_owned());
        let classes = format!("{}:{}", runner.display(), lib.join("lib/*").display());
        let host = Host::Local(Local::new(folder.join("server.log"), "KILL", move || {
            let mut command = java(&program, &folder, &classes);
            command.arg("io.debezium.server.Main");
            command
        }));
        host.launch();
        Server { host, folder: scratch }
    }

    /// Its last words, if it has ended: it does so by itself on what it cannot send.
    pub(crate) fn ended(&self) -> Option<String> {
        (!self.host.running()).then(|| self.host.log())
    }

    /// Whether its log holds these words.
    pub(crate) fn has_said(&self, words: &str) -> bool {
        let log = self.folder.path().join("server.log");
        fs::read_to_string(log).unwrap_or_default().contains(words)
    }

    pub(crate) async fn stop(&self) {
        self.host.stop("TERM", PATIENCE).await;
    }
}

/// One worker of Kafka Connect in which any number of connectors run.
pub(crate) struct Connect {
    host: Host,
    port: u16,
    folder: Scratch,
}

impl Connect {
    /// Writes to these brokers, unless a connector says otherwise.
    pub(crate) async fn start(brokers: &str) -> Connect {
        let (scratch, port) = (Scratch::new("connect"), free_port());
        let folder = scratch.path().to_owned();
        plugin(&folder.join("plugins/debezium"));
        let json = "org.apache.kafka.connect.json.JsonConverter";
        let settings = [
            ("bootstrap.servers", brokers),
            ("key.converter", json),
            ("key.converter.schemas.enable", "false"),
            ("value.converter", json),
            ("offset.storage.file.filename", "offsets"),
            ("offset.flush.interval.ms", "1000"),
            ("listeners", &format!("http://127.0.0.1:{port}")),
            ("plugin.path", "plugins"),
            ("plugin.discovery", "service_load"),
        ];
        let text: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(folder.join("worker.properties"), text).unwrap();
        let classes = cached("connect").join("*").display().to_string();
        // Up to version 18 Java writes some numbers with more digits than they need.
        let program = cached("java21");
        let host = Host::Local(Local::new(folder.join("server.log"), "KILL", move || {
            let mut command = java(&program, &folder, &classes);
            command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
            command.args(["org.apache.kafka.connect.cli.ConnectStandalone", "worker.properties"]);
            command
        }));
        host.launch();
        let connect = Connect { host, port, folder: scratch };
        eventually("Kafka Connect to answer", PATIENCE, async || {
            assert!(connect.host.running(), "Kafka Connect has ended:\n{}", connect.host.log());
            connect.ask("GET", "/connectors", "").await.filter(|(code, _)| *code == 200).map(drop)
        })
        .await;
        connect
    }

    /// Starts a connector with the text of its properties file.
    pub(crate) async fn add(&self, properties: &str) {
        let body = posted(properties).to_string();
        let (code, answer) = self.ask("POST", "/connectors", &body).await.expect("an answer");
        assert_eq!(code, 201, "{answer}\n{properties}");
    }

    /// Stops a connector's task, which ends its session; its place is kept.
    pub(crate) async fn stop(&self, name: &str) {
        self.put(&format!("/connectors/{name}/stop")).await;
        eventually("the connector to stop", PATIENCE, async || {
            let status = self.status(name).await;
            (status["connector"]["state"] == "STOPPED" && status["tasks"] == json!([])).then_some(())
        })
        .await;
    }

    pub(crate) async fn resume(&self, name: &str) {
        self.put(&format!("/connectors/{name}/resume")).await;
    }

    /// Takes away the place that it has stored, so that it goes on at the slot's; for a connector that is stopped.
    pub(crate) async fn forget(&self, name: &str) {
        let path = format!("/connectors/{name}/offsets");
        let (code, answer) = self.ask("DELETE", &path, "").await.expect("an answer");
        assert_eq!(code, 200, "{path}: {answer}");
    }

    /// What it has stored of how far it has come.
    pub(crate) async fn place(&self, name: &str) -> String {
        let path = format!("/connectors/{name}/offsets");
        let (code, answer) = self.ask("GET", &path, "").await.expect("an answer");
        assert_eq!(code, 200, "{path}: {answer}");
        answer
    }

    /// Why its task has failed, if it has.
    pub(crate) async fn failure(&self, name: &str) -> Option<String> {
        let status = self.status(name).await;
        let mut parts = vec![&status["connector"]];
        parts.extend(status["tasks"].as_array().into_iter().flatten());
        let failed = parts.into_iter().find(|part| part["state"] == "FAILED")?;
        Some(failed["trace"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn log(&self) -> String {
        self.host.log()
    }

    /// The worker's properties.
    pub(crate) fn worker(&self) -> String {
        fs::read_to_string(self.folder.path().join("worker.properties")).unwrap()
    }

    async fn put(&self, path: &str) {
        let (code, answer) = self.ask("PUT", path, "").await.expect("an answer");
        assert!((200..300).contains(&code), "{path}: {code} {answer}");
    }

    async fn status(&self, name: &str) -> Value {
        let path = format!("/connectors/{name}/status");
        let (_, answer) = self.ask("GET", &path, "").await.expect("an answer");
        serde_json::from_str(&answer).unwrap_or_default()
    }

    /// Code and body; none while nobody listens.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        // Connect itself gives a request 90 seconds.
        tokio::time::timeout(Duration::from_secs(100), read).await.ok()?.ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }
}

/// What starts a connector when it is POSTed, of the text of its properties file.
pub(crate) fn posted(properties: &str) -> Value {
    let config: Map<String, Value> =
        lines(properties).map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    json!({ "name": config["name"], "config": config })
}

/// Fills a folder as the archive of a connector does.
fn plugin(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for entry in fs::read_dir(jars().join("lib")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if PLUGIN.iter().any(|start| name.starts_with(start)) {
            symlink(&path, folder.join(&name)).unwrap();
        }
    }
}

/// Names and values of a properties file without line breaks in values.
fn lines(properties: &str) -> impl Iterator<Item = (&str, String)> {
    let lines = properties.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (name, value) = line.split_once('=').expect("name=value");
        (name, value.replace(r"\\", r"\"))
    })
}
