//! Apache Kafka as a process of this machine, from the jars that `scripts/install kafka` keeps.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use super::chosen;
use super::guard::Scratch;
use super::host::{Local, cached};

/// A second door: where the broker listens, and the address at which clients come to it.
#[derive(Clone, Copy)]
pub(crate) struct Wired {
    pub(crate) port: u16,
    pub(crate) advertised: SocketAddr,
}

/// One node that is broker and controller at once.
pub(crate) fn settings(
    bind: &str,
    port: u16,
    controller: u16,
    wired: Option<Wired>,
) -> Vec<(&'static str, String)> {
    let (listens, advertises) = wired.map_or_else(Default::default, |wired| {
        (format!(",WIRED://{bind}:{}", wired.port), format!(",WIRED://{}", wired.advertised))
    });
    [
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("controller.quorum.voters", &format!("1@127.0.0.1:{controller}")),
        ("listeners", &format!("PLAINTEXT://{bind}:{port},CONTROLLER://127.0.0.1:{controller}{listens}")),
        ("advertised.listeners", &format!("PLAINTEXT://127.0.0.1:{port}{advertises}")),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,WIRED:PLAINTEXT"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("controller.listener.names", "CONTROLLER"),
        // As most clusters have it: a topic that is missing stays missing.
        ("auto.create.topics.enable", "false"),
        ("num.partitions", "1"),
        ("offsets.topic.replication.factor", "1"),
        ("offsets.topic.num.partitions", "1"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("transaction.state.log.num.partitions", "1"),
        ("group.initial.rebalance.delay.ms", "0"),
        // After `kill -9` the node may register again only when its former life has timed out.
        ("broker.session.timeout.ms", "3000"),
        ("broker.heartbeat.interval.ms", "500"),
        // The cleaner's default buffer alone is a quarter of the small heap.
        ("log.cleaner.dedupe.buffer.size", "4194304"),
        ("log.cleaner.threads", "1"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

/// Formats `folder` and returns the process that will serve it.
pub(crate) fn prepare(
    folder: &Scratch,
    settings: &[(&str, String)],
    options: &'static [&'static str],
) -> Result<Local, String> {
    let version = chosen::kafka();
    let jars = cached(&format!("kafka-{version}"));
    if !jars.exists() {
        return Err(format!(
            "no Kafka {version} here: `scripts/install kafka-versions {version}` fetches it, or name a broker in \
             WALPOST_TEST_BROKERS"
        ));
    }
    let (data, properties) = (folder.path().join("data"), folder.path().join("server.properties"));
    let mut text: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    text.push_str(&format!("log.dirs={}\n", data.display()));
    fs::write(&properties, text).map_err(|error| format!("{}: {error}", properties.display()))?;

    let java = move |main: &str| {
        let mut command = Command::new("java");
        command.args(options);
        command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
        command.arg("-Dorg.slf4j.simpleLogger.showDateTime=true");
        command.arg("-cp").arg(jars.join("*")).arg(main);
        command
    };
    let mut format = java("kafka.tools.StorageTool");
    format.args(["format", "-t", "d2FscG9zdC10ZXN0cy0wMA", "-c"]).arg(&properties);
    let output = format.output().map_err(|error| format!("java: {error}"))?;
    if !output.status.success() {
        let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        return Err(format!("formatting Kafka's folder: {out}{err}"));
    }
    Ok(Local::new(folder.path().join("server.log"), "KILL", move || {
        let mut command = java("kafka.Kafka");
        command.arg(&properties);
        command
    }))
}
