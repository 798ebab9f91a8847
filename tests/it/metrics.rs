//! `/metrics` of a real relay: what it tells, that everything which dashboard and alerts read is there, and that Prometheus' own
//! tool has no complaint. And spans, as a collector gets them.

#[path = "../dashboards/expressions.rs"]
mod expressions;
mod spans;
mod spans_tls;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::dead_letters::{insert, quick};
use crate::life::get;
use crate::support::host::cached;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Proxy, Walpost, eventually, unique};
use crate::world::{World, stop};

/// An answer, taken apart.
struct Figures {
    text: String,
    types: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
}

impl Figures {
    async fn of(address: SocketAddr) -> Figures {
        let (code, text) = get(address, "/metrics").await;
        assert_eq!(code, 200, "{text}");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let types = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let values = series.filter_map(|line| line.rsplit_once(' '));
        let values = values.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect();
        Figures { text, types, values }
    }

    fn get(&self, series: &str) -> Option<f64> {
        self.values.get(series).copied()
    }

    /// The value of a series that must be there.
    fn at(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("no {series} in:\n{}", self.text))
    }
}

async fn until(address: SocketAddr, what: &str, holds: impl Fn(&Figures) -> bool) -> Figures {
    eventually(what, PATIENCE, async || {
        let figures = Figures::of(address).await;
        holds(&figures).then_some(figures)
    })
    .await
}

/// What Prometheus' own tool says.
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new(cached("promtool"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool: `scripts/install promtool` installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}\n{input}");
}

/// A server with a limit of what it keeps for slots, and a relay there that has lived through something: rows, a refused one,
/// a lost connection, a row for later, rows that are written back.
async fn lived(world: &World) -> (Walpost, SocketAddr, Proxy) {
    let client = world.database.client().await;
    client.batch_execute("ALTER TABLE outbox.messages ADD COLUMN scheduled_at timestamptz").await.unwrap();
    let (wire, url) = world.wire().await;
    let arguments =
        ["run", "--on-refusal", "dead-letter", "--write-back", "mark", "--map-mark", "correlation_id=sent"];
    let relay = quick(world.command(arguments)).env("WALPOST_DATABASE_URL", url).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    let address = relay.listen_address().await;
    world.insert(&client, 5).await;
    insert(&client, &unique("missing"), Some("k"), "1").await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload, scheduled_at) VALUES ($1, 'k', '1', now() + interval '1 hour')";
    client.execute(sql, &[&world.topic]).await.unwrap();
    until(address, "the refused row to be parked", |it| it.at("walpost_dead_letters_parked_total") > 0.0)
        .await;
    // Else the cut would bring some of them again.
    world.caught_up().await;
    let mark = relay.mark();
    wire.reset();
    relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    world.caught_up().await;
    (relay, address, wire)
}

#[tokio::test]
async fn a_relay_tells_all_that_dashboard_and_alerts_read() {
    let server = PostgresServer::start(&[("max_slot_wal_keep_size", "1GB")]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "metrics", 1).await;
    // The wire stays: a session that is opened later goes over it as well.
    let (relay, address, _wire) = lived(&world).await;
    let figures = until(address, "letters and held rows to be counted", |it| {
        it.get("walpost_dead_letters_open") == Some(1.0) && it.get("walpost_held_rows") == Some(1.0)
    })
    .await;

    assert_eq!(figures.at("walpost_state{state=\"streaming\"}"), 1.0);
    assert_eq!(figures.at("walpost_ready"), 1.0);
    assert_eq!(figures.at("walpost_published_records_total"), 5.0, "{}", figures.text);
    assert_eq!(figures.at("walpost_publish_latency_seconds_count"), 5.0);
    assert!(figures.at("walpost_publish_latency_seconds_sum") > 0.0);
    assert_eq!(figures.at("walpost_written_back_rows_total"), 5.0);
    assert_eq!(figures.at("walpost_write_back_pending_rows"), 0.0);
    assert!(figures.at("walpost_streams_started_total") >= 3.0, "once, after the refusal, after the cut");
    assert!(figures.at("walpost_stream_failures_total{kind=\"transient\"}") >= 1.0);
    assert!(figures.at("walpost_refused_records_total") >= 1.0);
    assert_eq!((figures.at("walpost_in_flight_records"), figures.at("walpost_in_flight_bytes")), (0.0, 0.0));
    assert_eq!((figures.at("walpost_slot_active"), figures.at("walpost_broker_reachable")), (1.0, 1.0));
    assert_eq!(figures.at("walpost_slot_wal_status{status=\"reserved\"}"), 1.0);
    assert!(figures.at("walpost_slot_safe_wal_bytes") > 5e8, "of a gigabyte");
    assert!(figures.at("walpost_slot_retained_wal_bytes") < 5e8);
    assert!(figures.at("walpost_server_wal_lsn") >= figures.at("walpost_confirmed_lsn"));
    assert!(figures.at("walpost_next_due_timestamp_seconds") > figures.at("process_start_time_seconds"));
    assert!(figures.at("process_resident_memory_bytes") > 1e6);

    for expression in expressions::expressions() {
        for used in expressions::figures(&expression.text) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| used.name.strip_suffix(end));
            let found = figures.types.get(&used.name).or_else(|| figures.types.get(base?));
            let kind = found.unwrap_or_else(|| panic!("{} reads {}: not told", expression.place, used.name));
            assert_eq!(kind != "gauge", used.is_rated, "{} reads {}, a {kind}", expression.place, used.name);
        }
    }
    let documented = expressions::text_of("docs/metrics.md");
    for (name, kind) in &figures.types {
        let row = [format!("| `{name}` | {kind} |"), format!("| `{name}{{")];
        assert!(row.iter().any(|row| documented.contains(row)), "{name} is not documented");
    }
    let told: BTreeSet<_> = figures.types.keys().collect();
    assert_eq!(told.len(), 37, "each figure is told by this relay: {told:?}");
    promtool(&["check", "metrics"], &figures.text);
    stop(relay).await;
}

#[test]
fn prometheus_takes_the_rules_and_raises_each_alert() {
    promtool(&["check", "rules", "deploy/prometheus/alerts.yaml"], "");
    promtool(&["test", "rules", "deploy/prometheus/alerts_test.yaml"], "");
}

/// Grafana puts its variables in before it asks; the rest has to be PromQL.
#[test]
fn prometheus_takes_each_expression_of_the_dashboard() {
    let plain = |text: &str| text.replace("$__rate_interval", "5m").replace("$job", ".*");
    let rules: Vec<_> = expressions::expressions()
        .iter()
        .enumerate()
        .map(|(number, it)| json!({"record": format!("expression:{number}"), "expr": plain(&it.text)}))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    // What is JSON is YAML, too.
    let text = json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    std::fs::write(&file, text).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}

/// The one that stands by sees the slot as well, and says who moves.
#[tokio::test]
async fn a_relay_that_stands_by_tells_of_the_slot() {
    let world = World::new("metricsby", 1).await;
    let first = world.relay().await;
    let second = world.command(["run"]).spawn();
    let address = second.listen_address().await;
    let figures = until(address, "the second to stand by and see the slot", |it| {
        it.at("walpost_state{state=\"standing_by\"}") == 1.0
            && it.get("walpost_slot_active") == Some(1.0)
            && it.at("walpost_ready") == 1.0
    })
    .await;
    assert_eq!(figures.at("walpost_published_records_total"), 0.0);
    assert_eq!(
        figures.at("walpost_stream_failures_total{kind=\"transient\"}"),
        0.0,
        "standing by is no failure"
    );
    assert_eq!(figures.at("walpost_dead_letters_open"), 0.0);
    // Both say the same of it, if not at the same moment.
    let client = world.database.client().await;
    client
        .batch_execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))")
        .await
        .unwrap();
    let reached: f64 =
        client.query_one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8", &[]).await.unwrap().get(0);
    for address in [address, first.listen_address().await] {
        until(address, "the log to have grown", |it| it.at("walpost_server_wal_lsn") >= reached).await;
    }
    stop(second).await;
    stop(first).await;
}

/// A table of dead letters that is locked costs neither the lease nor the other figures.
#[tokio::test]
async fn a_locked_table_is_not_waited_for() {
    // Of its own, since a transaction that has written keeps others from setting up.
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "metricslock", 1).await;
    let mut locker = world.database.client().await;
    let relay = world.relay().await;
    let address = relay.listen_address().await;
    until(address, "letters to be counted", |it| it.get("walpost_dead_letters_open") == Some(0.0)).await;
    // The relay itself has asked for letters by then.
    world.insert(&locker, 1).await;
    world.caught_up().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE outbox.dead_letters, outbox.scheduled IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let mark = relay.mark();
    let client = world.database.client().await;
    // The next look is ten seconds away at most, and must have met the lock.
    let waits = "SELECT FROM pg_stat_database WHERE datname = current_database() AND xact_rollback > $1";
    let before: i64 = client
        .query_one("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()", &[])
        .await
        .unwrap()
        .get(0);
    eventually("a look that gave up", PATIENCE, async || {
        client.query_opt(waits, &[&before]).await.unwrap().map(drop)
    })
    .await;
    world.insert(&client, 3).await;
    assert_eq!(world.consume(4).await.len(), 4, "it flows");
    world.caught_up().await;
    let figures = Figures::of(address).await;
    assert_eq!((figures.at("walpost_streams_started_total"), figures.at("walpost_ready")), (1.0, 1.0));
    lock.rollback().await.unwrap();
    let log = relay.log();
    assert!(!log.lines().skip(mark).any(|line| line.contains("\"WARN\"")), "{log}");
    stop(relay).await;
}

/// What was so before would say that all is well.
#[tokio::test]
async fn figures_of_the_slot_are_missing_while_the_database_is_away() {
    let world = World::new("metricsaway", 1).await;
    let (wire, relay) = world.wired_relay().await;
    let address = relay.listen_address().await;
    let seen = "walpost_slot_seen_timestamp_seconds";
    let is_told = |it: &Figures| {
        it.get("walpost_slot_active") == Some(1.0) && it.get("walpost_lag_seconds") == Some(0.0)
    };
    until(address, "the slot to be told", is_told).await;
    wire.cut();
    let figures = until(address, "what is old to go", |it| it.get("walpost_slot_active").is_none()).await;
    for old in ["server_wal_lsn", "lag_bytes", "lag_seconds", "slot_retained_wal_bytes", "slot_wal_status"] {
        assert!(!figures.types.contains_key(&format!("walpost_{old}")), "{old}: {}", figures.text);
    }
    assert_eq!(figures.at("walpost_state{state=\"streaming\"}"), 0.0);
    let last = figures.at(seen);
    assert!(last > figures.at("process_start_time_seconds"), "{}", figures.text);
    wire.heal();
    let figures = until(address, "the slot to be told again", is_told).await;
    assert!(figures.at(seen) > last, "{}", figures.text);
    stop(relay).await;
}
