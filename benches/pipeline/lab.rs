//! The servers, the relay and the reader beside it, and what must be known of them to read a figure.

use std::ffi::OsStr;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::process::Command;

use rdkafka::util::get_rdkafka_version;

use crate::debezium;
use crate::options::Options;
use crate::proc::Family;
use crate::support::host::{cached, docker};
use crate::support::walpost::Builder;
use crate::support::{KafkaBroker, PostgresServer, Walpost, local_postgres};
use crate::table::number;

/// The log is written to disk as it is in production, but nobody waits for it while a backlog is made, and nothing
/// tidies up while something is measured.
const SETTINGS: [(&str, &str); 6] = [
    ("fsync", "on"),
    ("synchronous_commit", "off"),
    ("shared_buffers", "512MB"),
    ("max_wal_size", "64GB"),
    ("checkpoint_timeout", "1d"),
    ("autovacuum", "off"),
];

pub(crate) struct Lab {
    pub(crate) server: PostgresServer,
    pub(crate) broker: KafkaBroker,
    pub(crate) pg_recvlogical: PathBuf,
    relay: PathBuf,
    pub(crate) family: Family,
}

impl Lab {
    pub(crate) async fn start(options: &Options) -> Lab {
        assert!(!docker(), "processes in containers can't be measured: set WALPOST_TEST_LOCAL=1");
        let bin = local_postgres::binaries().unwrap_or_else(|error| panic!("{error}"));
        let pg_recvlogical = bin.join("pg_recvlogical");
        assert!(
            pg_recvlogical.exists(),
            "{} is not there: `make bench` installs it",
            pg_recvlogical.display()
        );
        let relay = std::path::absolute(&options.relay).unwrap();
        assert!(relay.exists(), "{} is not there: `make bench` builds it", relay.display());
        if options.debezium {
            debezium::assert_installed();
        }
        let server = PostgresServer::start_with_bin(&bin, &SETTINGS).await;
        let broker = KafkaBroker::start_as_shipped().await;
        let pid = |pid: Option<u32>| pid.expect("a process of this machine");
        let family = Family { postgres: pid(server.host().pid()), broker: pid(broker.host().pid()) };
        Lab { server, broker, pg_recvlogical, relay, family }
    }

    /// A command of the relay's binary.
    pub(crate) fn walpost<const N: usize>(&self, database: &str, slot: &str, args: [&str; N]) -> Builder {
        Walpost::of(&self.relay, args)
            .env("WALPOST_DATABASE_URL", database)
            .env("WALPOST_BROKERS", self.broker.brokers())
            .env("WALPOST_SLOT", slot)
            .env("WALPOST_LISTEN", "127.0.0.1:0")
    }

    /// Without them a figure says nothing.
    pub(crate) async fn print_facts(&self, debezium: bool) {
        let client = self.server.client("postgres").await;
        let version: String =
            client.query_one("SELECT current_setting('server_version')", &[]).await.unwrap().get(0);
        let settings = SETTINGS.map(|(name, value)| format!("{name} {value}")).join(", ");
        let size = std::fs::metadata(&self.relay).map_or(0.0, |it| it.len() as f64 / 1e6);
        println!("| fact | |\n| --- | --- |");
        println!("| machine | {} |", machine());
        println!(
            "| relay | {}, {} MB, as it comes: no setting changed |",
            said(&self.relay, ["--version"]),
            number(size, 1)
        );
        println!("| reader | {}, to /dev/null |", said(&self.pg_recvlogical, ["--version"]));
        if debezium {
            println!("| Debezium | {} |", debezium::facts());
        }
        println!("| server | PostgreSQL {version}; {settings} |");
        println!(
            "| broker | Apache Kafka {}, one node, heap 1 GB, {} |",
            kafka_version(),
            java_version(Path::new("java"))
        );
        println!("| librdkafka | {} |", get_rdkafka_version().1);
        println!("\nAll processes are on this machine and reach each other over TCP on 127.0.0.1.");
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let file = |path: &str| read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("?".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let model = value(&file("/proc/cpuinfo"), "model name");
    let memory = value(&file("/proc/meminfo"), "MemTotal");
    let memory = memory.split(' ').next().and_then(|it| it.parse::<f64>().ok()).unwrap_or_default();
    let kernel = file("/proc/sys/kernel/osrelease");
    let memory = number(memory / 1024.0 / 1024.0, 1);
    format!("{cores} cores ({model}), {memory} GB of memory, Linux {}", kernel.trim())
}

/// The first line that a program says, wherever it says it.
fn said<S: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

pub(crate) fn java_version(java: &Path) -> String {
    let line = said(java, ["-version"]);
    format!("Java {}", line.split('"').nth(1).unwrap_or("?"))
}

/// As its jar is named.
fn kafka_version() -> String {
    let jars = std::fs::read_dir(cached("kafka")).into_iter().flatten().flatten();
    let mut names = jars.filter_map(|it| it.file_name().into_string().ok());
    names
        .find_map(|name| Some(name.strip_prefix("kafka-clients-")?.strip_suffix(".jar")?.to_owned()))
        .unwrap_or("?".to_owned())
}
