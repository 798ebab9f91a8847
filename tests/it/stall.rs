//! A stage that stands still is noticed within fifteen seconds, by name, and a loop that does holds no slot.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use walpost::{
    Offer, OutboxError, OutboxProcessor, OutboxPublisher, Receipt, Record, Ticket, Vitals, telemetry,
};

use crate::life::get;
use crate::logs::lines;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually};
use crate::world::{World, stop};

const NOTICED_WITHIN: Duration = Duration::from_secs(15);
/// The log tells it a little later than `/readyz`.
const LOGGED_WITHIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(5);

/// Waits until readiness falls; gives the answer, and how long it took.
pub(crate) async fn falls(address: std::net::SocketAddr, what: &str) -> Value {
    let since = Instant::now();
    let answer = eventually(what, NOTICED_WITHIN, async || {
        let (code, body) = get(address, "/readyz").await;
        (code == 503).then(|| serde_json::from_str::<Value>(&body).unwrap())
    })
    .await;
    println!("{what}: noticed after {:.1?}: {answer}", since.elapsed());
    answer
}

async fn rises(address: std::net::SocketAddr) {
    eventually("readiness to come back", PATIENCE, async || {
        (get(address, "/readyz").await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_frozen_broker_and_a_frozen_database_are_named() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(PostgresServer::shared().await, &broker, "stall", 1).await;
    let (wire, relay) = world.wired_relay().await;
    let address = relay.listen_address().await;
    let client = world.database.client().await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    rises(address).await;

    let mark = relay.mark();
    broker.proxy.freeze();
    world.insert(&client, 3).await;
    let answer = falls(address, "the broker is frozen").await;
    assert_eq!((&answer["state"], &answer["stage"]), (&"stalled".into(), &"publishing".into()), "{answer}");
    assert!(answer["reason"].as_str().is_some_and(|why| why.contains("acknowledged nothing")), "{answer}");
    assert_eq!(get(address, "/healthz").await.0, 200, "the loop moves");
    let line = relay.wait_for_log_since(mark, "has acknowledged nothing", LOGGED_WITHIN).await;
    is_a_stall(&serde_json::from_str(&line).unwrap());
    broker.proxy.heal();
    rises(address).await;
    relay.wait_for_log_since(mark, "publishing goes on after", SOON).await;

    wire.freeze();
    let answer = falls(address, "the database is frozen").await;
    assert!(
        answer["reason"].as_str().is_some_and(|why| why.contains("PostgreSQL has not answered")),
        "{answer}"
    );
    assert!(answer["since_seconds"].as_f64().is_some_and(|since| since < 15.0), "{answer}");
    assert_eq!(get(address, "/healthz").await.0, 200, "the loop moves");
    wire.heal();
    rises(address).await;
    let told = lines(&relay.log(), mark);
    assert_eq!(about(&told, "stalled"), 1, "of the database `retrying` tells: {told:#?}");
    assert_eq!(about(&told, " goes on after "), 1, "{told:#?}");
    stop(relay).await;
}

/// A line of the log that says that publishing stands still.
fn is_a_stall(line: &Value) {
    assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"stalled".into()), "{line}");
    assert_eq!(line["stage"], "publishing", "{line}");
    assert!(line["reason"].as_str().is_some_and(|why| why.contains("has acknowledged nothing")), "{line}");
    assert!(line["position"].as_str().is_some_and(|position| position.contains('/')), "{line}");
    assert!(line["advice"].as_str().is_some_and(|advice| advice.contains("--brokers")), "{line}");
    assert!(line["lasted_ms"].as_u64().is_some_and(|lasted| lasted >= 10_000), "{line}");
}

/// How many lines have this in their message.
fn about(lines: &[Value], message: &str) -> usize {
    lines.iter().filter(|line| line["message"].as_str().is_some_and(|it| it.contains(message))).count()
}

/// librdkafka gives up a request after a minute, here after fifteen seconds; by then the log has told it, also that of a
/// relay that answers nobody.
#[tokio::test]
async fn a_broker_that_is_frozen_for_long_is_one_story() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let server = PostgresServer::shared().await;
    let [heard, silent] = [
        World::behind(server, &broker, "frozen", 1).await,
        World::behind(server, &broker, "frozen", 1).await,
    ];
    let command = |world: &World| world.command(["run"]).env("WALPOST_KAFKA_SOCKET_TIMEOUT_MS", "15000");
    let relays =
        [command(&heard).streaming().await, command(&silent).env("WALPOST_LISTEN", "off").streaming().await];
    for world in [&heard, &silent] {
        world.insert(&world.database.client().await, 3).await;
        world.caught_up().await;
    }
    let marks = [relays[0].mark(), relays[1].mark()];
    broker.proxy.freeze();
    for world in [&heard, &silent] {
        world.insert(&world.database.client().await, 3).await;
    }
    for (relay, mark) in relays.iter().zip(marks) {
        let line = relay.wait_for_log_since(mark, "has acknowledged nothing", NOTICED_WITHIN).await;
        is_a_stall(&serde_json::from_str(&line).unwrap());
    }
    let mut lasted = Vec::new();
    for (relay, mark) in relays.iter().zip(marks) {
        let line = relay.wait_for_log_since(mark, "Kafka can't be reached", PATIENCE).await;
        let line: Value = serde_json::from_str(&line).unwrap();
        lasted.push(line["lasted_ms"].as_u64().unwrap_or_else(|| panic!("{line}")));
        assert!(lasted.iter().all(|lasted| *lasted >= 13_000), "from when it stood still: {line}");
    }
    let (_, body) = get(relays[0].listen_address().await, "/readyz").await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.starts_with("the broker has acknowledged nothing for "), "{answer}");
    assert!(reason.contains(" s (Kafka: "), "{answer}");

    broker.proxy.heal();
    for (((relay, mark), before), world) in relays.iter().zip(marks).zip(lasted).zip([&heard, &silent]) {
        let line = relay.wait_for_log_since(mark, "Kafka answers again after", PATIENCE).await;
        let line: Value = serde_json::from_str(&line).unwrap();
        assert!(line["lasted_ms"].as_u64().is_some_and(|lasted| lasted >= before), "{line}");
        world.caught_up().await;
        // More than the time between two looks.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let told = lines(&relay.log(), mark);
        assert_eq!(about(&told, "stalled"), 1, "{told:#?}");
        assert_eq!(about(&told, " again after ") + about(&told, " goes on after "), 1, "{told:#?}");
        assert!(!relay.log().contains("broker version"), "{told:#?}");
    }
    for relay in relays {
        stop(relay).await;
    }
}

/// A publisher that keeps its caller's thread, as a deadlock would, until it is let go.
struct Blocking(Receiver<()>);

impl OutboxPublisher for Blocking {
    fn publish(&mut self, _ticket: Ticket, _record: &Record<'_>) -> Result<Offer, OutboxError> {
        let _ = self.0.recv();
        Err(OutboxError::transient("let go"))
    }

    fn oldest(&self) -> Option<Ticket> {
        None
    }

    async fn receipts(&mut self, _into: &mut Vec<Receipt>) -> Result<(), OutboxError> {
        std::future::pending().await
    }
}

/// The loop itself sends the status. When it stands still nothing does, and the slot goes to whoever waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_loop_that_stands_still_is_named_and_loses_the_slot() {
    let world = World::new("stuck", 1).await;
    let vitals = Arc::new(Vitals::default());
    let health = telemetry::listen("127.0.0.1:0", telemetry::App::new(Arc::clone(&vitals))).await.unwrap();
    let mut source = world.source().with_vitals(Arc::clone(&vitals));
    let store = source.open().await.unwrap();
    let (let_go, blocked) = channel();
    let processor = OutboxProcessor::new(store, Blocking(blocked)).with_vitals(Arc::clone(&vitals));
    // On a thread of its own, as in the binary, so that it blocks nobody else.
    let running = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(processor.run(std::future::pending()))
    });
    let second = world.command(["run"]).spawn();
    second.wait_for_log("standing by", PATIENCE).await;

    world.insert(&world.database.client().await, 3).await;
    let since = Instant::now();
    let answer = falls(health.address(), "the loop stands still").await;
    assert_eq!((&answer["state"], &answer["stage"]), (&"stalled".into(), &"loop".into()), "{answer}");
    assert!(answer["reason"].as_str().is_some_and(|why| why.contains("the loop has not moved")), "{answer}");
    second.wait_for_log("\"streaming\"", PATIENCE).await;
    println!("the slot was taken after {:.1?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    assert_eq!(world.consume(3).await.len(), 3);
    let_go.send(()).unwrap();
    assert!(running.join().unwrap().is_err());
    stop(second).await;
}

/// A pause longer than the lease: what it was doing is given up, and begun anew.
#[tokio::test]
async fn a_stopped_relay_is_not_ready_when_it_wakes() {
    let world = World::new("paused", 1).await;
    let relay = world.relay().await;
    let address = relay.listen_address().await;
    // Past its start: one that has not asked yet who holds the slot asks when it wakes, and may go on.
    let client = world.database.client().await;
    client.batch_execute("SELECT pg_logical_emit_message(true, 'others', 'business')").await.unwrap();
    world.caught_up().await;
    rises(address).await;
    relay.stop();
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mark = relay.mark();
    relay.cont();
    relay.wait_for_log_since(mark, "stopped publishing", PATIENCE).await;
    relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    rises(address).await;
    stop(relay).await;
}
