//! The log: each change of state once, with position and advice; no flood while a fault lasts; lines that a machine can
//! parse, and that nobody else's text can forge.

mod hostile;
mod unread;

use std::time::Duration;

use serde_json::Value;

use crate::dead_letters::{insert, quick};
use crate::life::{self, get};
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, SecureKafka, Walpost, eventually, unique};
use crate::world::{World, stop};

/// The lines since a mark, each of which has to be an object with the parts that all have.
pub(crate) fn lines(log: &str, mark: usize) -> Vec<Value> {
    let parsed = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for part in ["timestamp", "level", "target", "message"] {
            assert!(value[part].is_string(), "no {part}: {line}");
        }
        value
    };
    log.lines().skip(mark).map(parsed).collect()
}

fn named<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["message"].as_str().unwrap().contains(message)).collect()
}

/// A state that is told to be wrong comes with where it stands and what to do.
fn is_complete(line: &Value) {
    let position = line["position"].as_str().unwrap_or_else(|| panic!("no position: {line}"));
    assert!(position.contains('/') && position != "0/0", "{line}");
    assert!(line["advice"].as_str().is_some_and(|advice| advice.len() > 10), "{line}");
}

/// The end of a fault comes with where it goes on, and how long it has lasted.
fn ends(line: &Value, at_least: Duration) {
    assert_eq!(line["level"], "INFO", "{line}");
    assert!(line["position"].as_str().is_some_and(|position| position.contains('/')), "{line}");
    let lasted = line["lasted_ms"].as_u64().unwrap_or_else(|| panic!("{line}"));
    assert!(u128::from(lasted) >= at_least.as_millis(), "{line}");
}

async fn until_count(relay: &Walpost, figure: &str, least: f64) {
    let (what, address) = (format!("{figure} to reach {least}"), relay.listen_address().await);
    eventually(&what, PATIENCE, async || (life::figure(address, figure).await >= least).then_some(())).await;
}

const FAILURES: &str = "walpost_stream_failures_total{kind=\"transient\"}";

/// Lines of a relay that is stopped now.
async fn stopped(relay: Walpost, mark: usize) -> Vec<Value> {
    relay.terminate();
    let mut relay = relay;
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(0), "{}", relay.log());
    let lines = lines(&relay.log(), mark);
    let last = lines.last().unwrap();
    assert_eq!((&last["message"], &last["level"]), (&"stopped".into(), &"INFO".into()), "{last}");
    assert!(last["position"].as_str().is_some_and(|position| position.contains('/')), "{last}");
    lines
}

#[tokio::test]
async fn a_database_that_stays_away_is_told_once_and_so_is_its_return() {
    let world = World::new("logdatabase", 1).await;
    let client = world.database.client().await;
    let (proxy, relay) = world.wired_relay().await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    let mark = relay.mark();
    proxy.cut();
    until_count(&relay, FAILURES, 7.0).await;
    let told = lines(&relay.log(), mark);
    // The connection that broke, and the one that can't be made.
    assert!((1..=3).contains(&told.len()), "{told:#?}");
    told.iter().for_each(is_complete);
    assert!(told.iter().all(|line| line["message"] == "retrying" && line["error"].is_string()), "{told:#?}");
    let again = relay.mark();
    proxy.heal();
    relay.wait_for_log_since(again, "\"streaming\"", PATIENCE).await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    let told = stopped(relay, again).await;
    let [back] = named(&told, "streaming")[..] else { panic!("{told:#?}") };
    ends(back, Duration::from_secs(3));
    assert!(back["attempts"].as_u64().is_some_and(|attempts| attempts >= 7), "{back}");
    assert!(told.len() <= 4, "{told:#?}");
}

/// It accepts, lets the stream begin, and hangs up: again and again.
#[tokio::test]
async fn lives_that_end_at_once_are_one_fault() {
    // Of the test's own: what others write would count as progress.
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "logflaps", 1).await;
    let client = world.database.client().await;
    let (proxy, relay) = world.wired_relay().await;
    world.insert(&client, 1).await;
    world.caught_up().await;
    let mark = relay.mark();
    for streams in 2..9 {
        proxy.reset();
        until_count(&relay, "walpost_streams_started_total", f64::from(streams)).await;
    }
    let told = lines(&relay.log(), mark);
    assert!(told.len() <= 12, "{} lines for seven lives: {told:#?}", told.len());
    assert!(!named(&told, "retrying").is_empty(), "{told:#?}");
    // Once one lasts, that is told.
    let again = relay.mark();
    if named(&told, "streaming").len() < named(&told, "retrying").len() {
        relay.wait_for_log_since(again, "\"streaming\"", PATIENCE).await;
    }
    stopped(relay, mark).await;
}

#[tokio::test]
async fn a_broker_that_stays_away_is_told_now_and_then_and_so_is_its_return() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(PostgresServer::shared().await, &broker, "logbroker", 1).await;
    let client = world.database.client().await;
    let relay = world.command(["run"]).env("WALPOST_KAFKA_RECONNECT_BACKOFF_MAX_MS", "200").streaming().await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    let mark = relay.mark();
    broker.proxy.cut();
    world.insert(&client, 3).await;
    let away = "Kafka can't be reached, trying on";
    relay.wait_for_log_since(mark, away, PATIENCE).await;
    let first = relay.mark();
    // Longer than a minute: it is told again, and until then nothing is, however often librdkafka tries.
    relay.wait_for_log_since(first, away, 2 * PATIENCE).await;
    let attempts = broker.proxy.attempts();
    assert!(attempts > 50, "only {attempts}");
    let told = lines(&relay.log(), mark);
    let faults = named(&told, away);
    assert_eq!(faults.len(), 2, "{told:#?}");
    assert!(told.len() <= 4, "{told:#?}");
    faults.iter().for_each(|line| is_complete(line));
    assert!(faults[1]["lasted_ms"].as_u64().is_some_and(|lasted| lasted >= 59_000), "{:?}", faults[1]);

    let again = relay.mark();
    broker.proxy.heal();
    relay.wait_for_log_since(again, "Kafka answers again after", PATIENCE).await;
    world.caught_up().await;
    let told = stopped(relay, again).await;
    ends(named(&told, "Kafka answers again")[0], Duration::from_secs(59));
    assert!(told.len() <= 4, "{told:#?}");
}

#[tokio::test]
async fn a_login_that_kafka_refuses_for_long_is_told_once() {
    let secure = SecureKafka::start("unused").await;
    secure.set_password("relay", "the-right-one").await;
    let mut world = World::on(PostgresServer::shared().await, &secure.kafka, "logrefused", 1).await;
    world.for_relay = Some(secure.secure.clone());
    let root = secure.authority.root().display().to_string();
    let relay = [
        ("SECURITY_PROTOCOL", "sasl_ssl"),
        ("SASL_MECHANISM", "SCRAM-SHA-512"),
        ("SASL_USERNAME", "relay"),
        ("SASL_PASSWORD", "the-wrong-one"),
        ("SSL_CA_LOCATION", &root),
        ("RECONNECT_BACKOFF_MAX_MS", "200"),
    ]
    .into_iter()
    .fold(world.command(["run"]), |command, (name, value)| {
        command.env(&format!("WALPOST_KAFKA_{name}"), value)
    })
    .streaming()
    .await;
    world.insert(&world.database.client().await, 3).await;
    eventually("thirty attempts", PATIENCE, async || (secure.proxy.attempts() >= 30).then_some(())).await;
    let told = relay.wait_for_log("can't be reached", PATIENCE).await;
    assert!(told.contains("uthentication failed") && told.contains("whether they take the login"), "{told}");
    let told = lines(&relay.log(), 0);
    let faults: Vec<_> = told.iter().filter(|line| line["level"] != "INFO").collect();
    assert!((1..=3).contains(&faults.len()), "{told:#?}");
    assert!(faults.iter().all(|line| line["advice"].is_string()), "{told:#?}");
    relay.terminate();
    let mut relay = relay;
    relay.wait(PATIENCE).await;
    assert!(!relay.log().contains("the-wrong-one"));
}

#[tokio::test]
async fn a_message_that_is_refused_again_and_again_is_told_once() {
    let world = World::new("logrefusal", 1).await;
    let client = world.database.client().await;
    let relay = world
        .command(["run", "--max-retries", "1000", "--base-delay", "50ms", "--max-delay", "100ms"])
        .env("WALPOST_KAFKA_TOPIC_METADATA_PROPAGATION_MAX_MS", "500")
        .streaming()
        .await;
    world.insert(&client, 1).await;
    world.caught_up().await;
    let mark = relay.mark();
    let missing = unique("missing");
    insert(&client, &missing, Some("k"), "1").await;
    until_count(&relay, "walpost_refused_records_total", 12.0).await;
    let told = lines(&relay.log(), mark);
    let faults = named(&told, "retrying");
    assert!((1..=2).contains(&faults.len()) && told.len() <= 10, "{told:#?}");
    faults.iter().for_each(|line| is_complete(line));
    assert!(faults[0]["error"].as_str().unwrap().contains(&missing), "{told:#?}");

    let again = relay.mark();
    KafkaBroker::shared().await.create_topic(&missing, 1).await;
    world.caught_up().await;
    let back = relay.wait_for_log_since(again, "\"streaming\"", PATIENCE).await;
    ends(&serde_json::from_str(&back).unwrap(), Duration::from_millis(500));
    stopped(relay, mark).await;
}

#[tokio::test]
async fn a_table_of_letters_that_is_locked_is_told_once_and_so_is_its_answer() {
    let world = World::new("loglocked", 1).await;
    let mut client = world.database.client().await;
    let relay = quick(world.command(["run", "--on-refusal", "dead-letter"])).streaming().await;
    world.insert(&client, 1).await;
    world.caught_up().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE outbox.dead_letters IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let other = world.database.client().await;
    insert(&other, &unique("missing"), Some("k"), "1").await;
    let line = relay.wait_for_log("the table of dead letters has not answered", PATIENCE).await;
    is_complete(&serde_json::from_str(&line).unwrap());
    eventually("the stage to be named", PATIENCE, async || {
        let (code, body) = get(relay.listen_address().await, "/readyz").await;
        (code == 503 && body.contains("dead letters")).then_some(())
    })
    .await;
    let mark = relay.mark();
    lock.commit().await.unwrap();
    relay.wait_for_log_since(mark, "parked as dead letters", PATIENCE).await;
    world.caught_up().await;
    let told = stopped(relay, 0).await;
    assert_eq!(named(&told, "has not answered").len(), 1, "{told:#?}");
    ends(named(&told, "the table of dead letters answers again")[0], Duration::from_secs(5));
    let parked = named(&told, "parked as dead letters");
    is_complete(parked[0]);
}

#[tokio::test]
async fn an_end_that_needs_a_person_is_the_last_line() {
    let world = World::new("logend", 1).await;
    let client = world.database.client().await;
    let (proxy, mut relay) = world.wired_relay().await;
    world.insert(&client, 1).await;
    world.caught_up().await;
    proxy.cut();
    world.slot_is_free().await;
    client.execute("SELECT pg_drop_replication_slot($1::text::name)", &[&world.slot]).await.unwrap();
    proxy.heal();
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(1));
    let told = lines(&relay.log(), 0);
    let last = told.last().unwrap();
    assert_eq!((&last["message"], &last["level"]), (&"stopped".into(), &"ERROR".into()), "{last}");
    is_complete(last);
    assert!(last["error"].as_str().is_some_and(|error| error.contains("is gone")), "{last}");
    assert_eq!(told.iter().filter(|line| line["level"] == "ERROR").count(), 1);

    // For people it is what it was.
    let mut relay = world.command(["run", "--log-format", "text"]).spawn();
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(1));
    let told = relay.log();
    assert!(told.contains("\nerror: ") && told.contains("\n  advice: "), "{told}");
    assert!(!told.contains('\x1b') && !told.contains("ERROR"), "{told}");
}

/// What a terminal gets until the relay streams.
async fn on_a_terminal(world: &World, no_color: Option<&str>) -> String {
    use tokio::io::AsyncReadExt;
    let run = format!("exec {} run", env!("CARGO_BIN_EXE_walpost"));
    let mut script = tokio::process::Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &run, "/dev/null"]).kill_on_drop(true).env_remove("NO_COLOR");
    script.env("WALPOST_DATABASE_URL", &world.database.url).env("WALPOST_BROKERS", &world.brokers);
    script.env("WALPOST_SLOT", &world.slot).env("WALPOST_LISTEN", "off").env("TERM", "xterm");
    if let Some(no_color) = no_color {
        script.env("NO_COLOR", no_color);
    }
    let pipe = std::process::Stdio::piped;
    let mut child = script.stdin(pipe()).stdout(pipe()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut screen = String::new();
    let reading = async {
        let mut bytes = [0; 4096];
        while !screen.contains("streaming ·") {
            let count = output.read(&mut bytes).await.unwrap();
            assert!(count > 0, "it ended: {screen}");
            screen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reading).await.is_ok(), "{screen}");
    use tokio::io::AsyncWriteExt;
    child.stdin.take().unwrap().write_all(b"\x03").await.unwrap();
    tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    screen
}

#[tokio::test]
async fn colours_are_for_a_terminal_whose_owner_wants_them() {
    let world = World::new("logcolours", 1).await;
    let (green, line) = ("\x1b[32m INFO\x1b[0m", " INFO reading the log ");
    let screen = on_a_terminal(&world, None).await;
    assert!(screen.contains(green) && screen.contains("reading the log"), "{screen:?}");
    // Empty is not set: https://no-color.org
    assert!(on_a_terminal(&world, Some("")).await.contains(green));
    let screen = on_a_terminal(&world, Some("1")).await;
    assert!(screen.contains(line) && !screen.contains("\x1b[32m"), "{screen:?}");

    let relay = world.command(["run", "--log-format", "text"]).env("NO_COLOR", "").spawn();
    let told = relay.wait_for_log("streaming", PATIENCE).await;
    assert!(told.ends_with(" INFO streaming"), "{told}");
    assert!(relay.log().contains(line) && !relay.log().contains('\x1b'), "{}", relay.log());
    stop(relay).await;
}
