//! Debezium Server over a copy of the same slot into the same topic, with its outbox event router.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tokio_postgres::config::Host as Address;

use crate::backlog::Backlog;
use crate::drain::{self, Drained, LONGEST, broker_cpu};
use crate::lab::{Lab, java_version};
use crate::proc::{self, Others};
use crate::support::PATIENCE;
use crate::support::guard::Scratch;
use crate::support::host::{Host, Local, cached};
use crate::table::{Table, median, number};
use crate::topic::written;

/// What the job needs, and nothing for the pace: the outbox's columns, no snapshot, key and payload as they are in the
/// row. All else is Debezium's default, the heap too.
const SETTINGS: [(&str, &str); 26] = [
    ("debezium.sink.type", "kafka"),
    ("debezium.sink.kafka.producer.key.serializer", "org.apache.kafka.common.serialization.StringSerializer"),
    (
        "debezium.sink.kafka.producer.value.serializer",
        "org.apache.kafka.common.serialization.StringSerializer",
    ),
    ("debezium.format.key", "simplestring"),
    ("debezium.format.value", "simplestring"),
    // Or each header would carry the schema of its value.
    ("debezium.format.header", "json"),
    ("debezium.format.schemas.enable", "false"),
    ("debezium.source.connector.class", "io.debezium.connector.postgresql.PostgresConnector"),
    ("debezium.source.offset.storage.file.filename", "offsets.dat"),
    ("debezium.source.topic.prefix", "bench"),
    ("debezium.source.plugin.name", "pgoutput"),
    ("debezium.source.publication.name", "walpost"),
    ("debezium.source.publication.autocreate.mode", "disabled"),
    ("debezium.source.table.include.list", "outbox.messages"),
    ("debezium.source.snapshot.mode", "no_data"),
    ("debezium.transforms", "outbox"),
    ("debezium.transforms.outbox.type", "io.debezium.transforms.outbox.EventRouter"),
    ("debezium.transforms.outbox.table.field.event.id", "id"),
    ("debezium.transforms.outbox.table.field.event.key", "key"),
    ("debezium.transforms.outbox.table.field.event.type", "event_type"),
    ("debezium.transforms.outbox.table.field.event.payload", "payload"),
    ("debezium.transforms.outbox.route.by.field", "topic"),
    // The configuration has variables of the same form; the backslashes keep this one for the router.
    ("debezium.transforms.outbox.route.topic.replacement", r"\\${routedByValue}"),
    ("quarkus.http.host", "127.0.0.1"),
    ("quarkus.http.port", "0"),
    ("quarkus.log.console.json", "false"),
];

pub(crate) fn assert_installed() {
    for what in ["debezium", "java21"] {
        let path = cached(what);
        assert!(path.exists(), "{} is not there: `scripts/install debezium` fetches it", path.display());
    }
}

/// For the table of facts.
pub(crate) fn facts() -> String {
    let name = runner().file_name().map_or_else(Default::default, |it| it.to_string_lossy().into_owned());
    let version = name.trim_start_matches("debezium-server-dist-").trim_end_matches("-runner.jar");
    format!(
        "Debezium Server {version}, defaults and outbox event router, {}",
        java_version(&cached("java21"))
    )
}

fn runner() -> PathBuf {
    let mut files = std::fs::read_dir(cached("debezium")).unwrap().map(|it| it.unwrap().path());
    files.find(|path| path.to_string_lossy().ends_with("-runner.jar")).expect("a jar to run")
}

/// Debezium into the topic, from its start until all is there. What it has published is checked.
pub(crate) async fn drain(lab: &Lab, backlog: &Backlog<'_>, rows: u32) -> Drained {
    let (slot, from) = (backlog.slot().await, backlog.topic.ends());
    let folder = Scratch::new("debezium");
    let server = server(lab, backlog, &slot, folder.path());
    let broker_before = broker_cpu(lab);
    let others = Others::watch(lab.family);
    let start = Instant::now();
    server.launch();
    let check = || {
        assert!(server.running(), "Debezium has ended:\n{}", server.log());
        assert!(start.elapsed() < LONGEST, "Debezium is not done after {LONGEST:?}:\n{}", server.log());
    };
    let mut run = drain::arrival(backlog, &from, rows, start, check).await;
    let process = server.pid().expect("a process of this machine");
    run.others = others.cores(Some(process));
    run.broker_cpu = broker_cpu(lab) - broker_before;
    run.reader_cpu = proc::cpu(process).expect("it runs").own;
    run.peak = proc::peak(process).expect("it runs");
    let walsender = backlog.walsender(&slot).await.expect("it is served");
    run.walsender_cpu = proc::cpu(walsender).expect("it runs").own;
    // It confirms at leisure, up to the last event: that is not waited for.
    server.stop("KILL", PATIENCE).await;
    backlog.drop_slot(&slot).await;
    backlog.topic.check(&from, rows, written).assert_flawless();
    run
}

fn server(lab: &Lab, backlog: &Backlog<'_>, slot: &str, folder: &Path) -> Host {
    let mut text: String = SETTINGS.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    for (name, value) in place(lab, backlog, slot) {
        text.push_str(&format!("debezium.{name}={value}\n"));
    }
    std::fs::create_dir(folder.join("config")).unwrap();
    std::fs::write(folder.join("config/application.properties"), text).unwrap();
    let (java, folder) = (cached("java21"), folder.to_owned());
    // As its own script starts it.
    let classes = format!("{}:{}", runner().display(), cached("debezium").join("lib/*").display());
    Host::Local(Local::new(folder.join("server.log"), "KILL", move || {
        let mut command = Command::new(&java);
        command.current_dir(&folder).args(["-cp", &classes, "io.debezium.server.Main"]);
        command
    }))
}

fn place(lab: &Lab, backlog: &Backlog<'_>, slot: &str) -> [(&'static str, String); 6] {
    let database: tokio_postgres::Config = backlog.database.url.parse().unwrap();
    let Some(Address::Tcp(host)) = database.get_hosts().first() else { panic!("the server is not on TCP") };
    [
        ("sink.kafka.producer.bootstrap.servers", lab.broker.brokers().to_owned()),
        ("source.database.hostname", host.clone()),
        ("source.database.port", database.get_ports()[0].to_string()),
        ("source.database.user", database.get_user().unwrap().to_owned()),
        ("source.database.dbname", backlog.database.name.clone()),
        ("source.slot.name", slot.to_owned()),
    ]
}

/// What is left of a workload at the end.
pub(crate) struct Summary {
    rate: f64,
    ratio: f64,
    peak: f64,
}

/// The columns of [`Summary::cells`].
pub(crate) const HEADS: [&str; 3] =
    ["Debezium into Kafka, rows/s", "Walpost / Debezium, into Kafka", "Debezium, peak MB"];

impl Summary {
    pub(crate) fn cells(&self) -> [String; 3] {
        [number(self.rate, 0), number(self.ratio, 1), number(self.peak, 0)]
    }
}

/// Its rows of a workload's table; none when it was not asked for.
pub(crate) fn report(table: &mut Table, rows: f64, relays: &[Drained], runs: &[Drained]) -> Option<Summary> {
    if runs.is_empty() {
        return None;
    }
    let each = |value: &dyn Fn(&Drained) -> f64| runs.iter().map(value).collect::<Vec<_>>();
    let rates = each(&|run| rows / run.published);
    let ratios: Vec<f64> =
        relays.iter().zip(runs).map(|(relay, run)| run.published / relay.published).collect();
    table.row("**Debezium, rows/s, all in the topic**", rates.clone(), 0);
    table.row("**Walpost / Debezium, all in the topic, of each pair**", ratios.clone(), 1);
    table.row("Debezium, rows/s, from its first record", each(&|run| rows / (run.published - run.first)), 0);
    table.row("Debezium, first record in the topic, s", each(&|run| run.first), 3);
    for (name, value) in [
        ("Debezium", (|run| run.reader_cpu) as fn(&Drained) -> f64),
        ("walsender for Debezium", |run| run.walsender_cpu),
        ("broker for Debezium", |run| run.broker_cpu),
    ] {
        table.row(&format!("CPU s per million rows, {name}"), each(&|run| value(run) * 1e6 / rows), 2);
    }
    table.row("Debezium, peak resident MB", each(&|run| run.peak / 1e6), 1);
    table.others("Debezium's run", each(&|run| run.others));
    Some(Summary { rate: median(&rates), ratio: median(&ratios), peak: median(&each(&|run| run.peak / 1e6)) })
}
