//! Stops, kills and restarts: nothing lost, and after an orderly stop nothing repeated.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;
use walpost::Lsn;

use crate::support::consume::TopicReader;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, check, eventually};
use crate::workload;
use crate::world::{World, stop};

/// Stops in the middle of a large transaction and of many small ones, again and again.
#[tokio::test]
async fn sigterm_and_restart_lose_and_repeat_nothing() {
    let world = World::new("sigterm", 3).await;
    let oracle = world.oracle().await;
    let client = world.database.client().await;
    let stops = async {
        for _ in 0..6 {
            let relay = world.relay().await;
            world.insert(&client, 3000).await;
            stop(relay).await;
        }
    };
    tokio::join!(stops, workload::run(&world, fastrand::u64(..1 << 40), 40));
    let relay = world.relay().await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_exact();
    stop(relay).await;
}

#[tokio::test]
async fn kill_in_mid_stream_loses_nothing() {
    let world = World::new("kill", 3).await;
    let oracle = world.oracle().await;
    let seed = fastrand::u64(..1 << 40);
    let mut random = fastrand::Rng::with_seed(seed);
    let kills = async {
        for _ in 0..10 {
            let mut relay = world.relay().await;
            sleep(Duration::from_millis(random.u64(0..400))).await;
            relay.kill().await;
        }
    };
    tokio::join!(kills, workload::run(&world, seed, 60));
    let relay = world.relay().await;
    world.caught_up().await;
    let committed = oracle.committed_ids().await;
    let tally = check(&committed, &world.consume(committed.len()).await);
    println!("seed {seed}: {tally:?}");
    tally.assert_nothing_lost();
    stop(relay).await;
}

/// Two commits whose records touch, the first confirmed and the second not: confirming one byte too much of
/// the first would lose the second. The second is a row that is refused until the relay is told otherwise.
#[tokio::test]
async fn adjacent_commits_at_a_restart_are_both_sent() {
    // A server of its own, so that nobody else's commits come between.
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "adjacent", 1).await;
    let oracle = world.oracle().await;
    let (one, two) = (world.database.client().await, world.database.client().await);
    let (mut adjacent, mut rounds) = (0, 0);
    // One in four or so comes out adjacent; the others cost a second each.
    while adjacent < 2 && rounds < 60 {
        rounds += 1;
        for (client, payload) in [(&one, "1".to_owned()), (&two, format!("\"{}\"", "x".repeat(5000)))] {
            let sql = format!(
                "BEGIN; INSERT INTO outbox.messages (topic, payload) VALUES ('{}', '{payload}')",
                world.topic
            );
            client.batch_execute(&sql).await.unwrap();
        }
        tokio::join!(async { one.batch_execute("COMMIT").await.unwrap() }, async {
            two.batch_execute("COMMIT").await.unwrap()
        });
        let mut refusing = world.command(["run", "-X", "message.max.bytes=3000"]).spawn();
        refusing.wait_for_log("larger than allowed", PATIENCE).await;
        adjacent += usize::from(confirmed_right_before_a_commit(&world).await);
        refusing.kill().await;
        let relay = world.relay().await;
        world.caught_up().await;
        stop(relay).await;
    }
    println!("{adjacent} of {rounds} restarts between adjacent commits");
    let committed = oracle.committed_ids().await;
    assert_eq!(committed.len(), 2 * rounds);
    check(&committed, &world.consume(committed.len()).await).assert_nothing_lost();
    assert!(adjacent > 0, "the case did not come up");
}

/// Whether a commit record begins at the very byte that the slot has confirmed.
async fn confirmed_right_before_a_commit(world: &World) -> bool {
    let client = world.database.client().await;
    let sql = "SELECT EXISTS (SELECT FROM pg_replication_slots s, \
               pg_logical_slot_peek_binary_changes(s.slot_name, NULL, NULL, 'proto_version', '1', 'publication_names', 'walpost') c \
               WHERE s.slot_name = $1 AND substr(c.data, 1, 1) = 'B' \
               AND encode(substr(c.data, 2, 8), 'hex') = lpad(to_hex((s.confirmed_flush_lsn - '0/0'::pg_lsn)::bigint), 16, '0'))";
    crate::support::eventually("the slot to be free", PATIENCE, async || {
        client.query_one(sql, &[&world.slot]).await.ok().map(|row| row.get(0))
    })
    .await
}

/// Whatever the slot says is confirmed is in the topic, looked at again and again while the way to the
/// broker is frozen and healed.
#[tokio::test]
async fn the_slot_never_passes_what_the_topic_holds() {
    let server = PostgresServer::shared().await;
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(server, &broker, "paired", 3).await;
    let client = world.database.client().await;
    let truth = crate::support::unique("truth");
    let make = "SELECT pg_create_logical_replication_slot($1::text::name, 'test_decoding')";
    client.execute(make, &[&truth]).await.unwrap();
    let relay = world.relay().await;
    let over = Over(Arc::new(AtomicBool::new(false)));
    let samples = tokio::task::spawn_blocking({
        let (over, url, slot) = (over.0.clone(), world.database.url.clone(), world.slot.clone());
        let reader = TopicReader::new(broker.kafka.brokers(), &world.topic);
        move || sample(&over, &url, &slot, reader)
    });
    let freezes = async {
        for _ in 0..5 {
            sleep(Duration::from_millis(700)).await;
            broker.proxy.freeze();
            sleep(Duration::from_millis(700)).await;
            broker.proxy.heal();
        }
    };
    let seed = fastrand::u64(..1 << 40);
    let mut freezes = std::pin::pin!(freezes);
    for round in 0.. {
        // Given up in the middle of a transaction, which is then rolled back.
        tokio::select! {
            () = &mut freezes => break,
            () = workload::run(&world, seed + round * 1000, 10) => {}
        }
    }
    world.caught_up().await;
    drop(over);
    let (samples, arrived) = samples.await.unwrap();
    let moved: HashSet<Lsn> = samples.iter().map(|(confirmed, _)| *confirmed).collect();
    assert!(moved.len() > 5, "the slot must move while it is watched: {}", moved.len());
    let ends = ends_of_rows(&world, &truth).await;
    for (confirmed, count) in &samples {
        let there = |id| arrived.get(id).is_some_and(|at| at < count);
        let missing = ends.iter().find(|(end, id)| end <= confirmed && !there(id));
        assert_eq!(missing, None, "confirmed {confirmed} with {count} records in the topic");
    }
    stop(relay).await;
}

/// Ends the watching when the test ends, however it ends.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Asks for the confirmed position first, then reads what the topic holds. Gives each position with the number
/// of records that were there after it, and each record's number.
fn sample(
    over: &AtomicBool,
    url: &str,
    slot: &str,
    mut reader: TopicReader,
) -> (Vec<(Lsn, usize)>, HashMap<Uuid, usize>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(crate::support::postgres::connect(url)).unwrap();
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let (mut samples, mut arrived, mut count) = (Vec::new(), HashMap::new(), 0);
    while !over.load(Relaxed) {
        let confirmed: String = runtime.block_on(client.query_one(sql, &[&slot])).unwrap().get(0);
        // What comes in after this moment proves nothing about the position, and there is always more.
        let ends = reader.ends();
        loop {
            for record in reader.poll(Duration::from_millis(5)) {
                arrived.entry(record.header("id").unwrap().parse().unwrap()).or_insert(count);
                count += 1;
            }
            if reader.has_reached(&ends) || ends.is_empty() {
                break;
            }
        }
        samples.push((confirmed.parse().unwrap(), count));
    }
    (samples, arrived)
}

/// Every committed row with the end of its transaction's commit record, by `test_decoding`.
async fn ends_of_rows(world: &World, truth: &str) -> Vec<(Lsn, Uuid)> {
    let client = world.database.client().await;
    let sql = "SELECT lsn::text, data FROM pg_logical_slot_get_changes($1::text::name, NULL, NULL)";
    let (mut open, mut ends) = (Vec::new(), Vec::new());
    for row in client.query(sql, &[&truth]).await.unwrap() {
        let (lsn, data): (String, String) = (row.get(0), row.get(1));
        if data.starts_with("table outbox.messages: INSERT: id[uuid]:'") {
            open.push(data[41..77].parse::<Uuid>().unwrap());
        } else if data.starts_with("COMMIT") {
            let end: Lsn = lsn.parse().unwrap();
            ends.extend(open.drain(..).map(|id| (end, id)));
        }
    }
    ends
}

/// A second relay on the same slot waits, says so, is ready, and takes over when the first goes.
#[tokio::test]
async fn a_second_relay_stands_by_and_takes_over() {
    let world = World::new("standby", 1).await;
    let oracle = world.oracle().await;
    let client = world.database.client().await;
    let mut first = world.relay().await;
    let second = world.command(["run"]).spawn();
    second.wait_for_log("standing by", PATIENCE).await;
    let address = second.listen_address().await;
    let (code, body) = crate::life::get(address, "/readyz").await;
    assert_eq!(code, 200, "{body}");
    world.insert(&client, 100).await;
    assert_eq!(world.consume(100).await.len(), 100);
    first.kill().await;
    let gone = Instant::now();
    second.wait_for_log("streaming", PATIENCE).await;
    println!("took over after {:?}", gone.elapsed());
    assert!(gone.elapsed() < Duration::from_secs(10));
    world.insert(&client, 100).await;
    world.caught_up().await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(200).await).assert_nothing_lost();
    stop(second).await;
}

/// The open transaction is finished before the stop, however slowly the broker answers.
#[tokio::test]
async fn a_stop_with_the_broker_away_ends_at_its_deadline() {
    let server = PostgresServer::shared().await;
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(server, &broker, "deadline", 1).await;
    let mut relay = world.command(["run", "--drain-timeout", "3s"]).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    world.insert(&client, 1).await;
    assert_eq!(world.consume(1).await.len(), 1);
    world.caught_up().await;
    broker.proxy.cut();
    world.insert(&client, 1).await;
    let in_flight = async || {
        let (_, body) = crate::life::get(relay.listen_address().await, "/readyz").await;
        body.contains("\"in_flight\":1").then_some(())
    };
    eventually("the row to be in flight", PATIENCE, in_flight).await;
    relay.terminate();
    let asked = Instant::now();
    let status = relay.wait(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0), "{}", relay.log());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    broker.proxy.heal();
    let relay = world.relay().await;
    assert_eq!(world.consume(2).await.len(), 2, "what was not acknowledged comes after the restart");
    stop(relay).await;
}
