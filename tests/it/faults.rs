//! Servers and wires that go away and come back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Walpost, check, eventually};
use crate::workload;
use crate::world::{World, stop};

#[tokio::test]
async fn kafka_away_for_twenty_seconds() {
    let broker = KafkaBroker::start().await;
    let world = World::on(PostgresServer::shared().await, &broker, "away", 3).await;
    let oracle = world.oracle().await;
    let relay = world.relay().await;
    let outage = async {
        sleep(Duration::from_secs(1)).await;
        broker.stop().await;
        sleep(Duration::from_secs(20)).await;
        broker.start_again().await;
    };
    tokio::join!(outage, workload::run(&world, fastrand::u64(..1 << 40), 80));
    world.caught_up().await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_nothing_lost();
    let log = relay.log();
    assert!(log.lines().count() < 100, "a long fault makes a short log:\n{log}");
    stop(relay).await;
}

#[tokio::test]
async fn postgres_restarted_under_load() {
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "pgrestart", 3).await;
    let oracle = world.oracle().await;
    let relay = world.relay().await;
    for round in 0..3 {
        workload::run(&world, fastrand::u64(..1 << 40), 15).await;
        // A fast stop waits for the relay unless it hangs up; a crash asks nobody.
        let asked = Instant::now();
        if round == 1 {
            server.kill().await
        } else {
            server.stop_fast().await
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        let mark = relay.mark();
        server.start_again().await;
        relay.wait_for_log_since(mark, "streaming", PATIENCE).await;
    }
    workload::run(&world, fastrand::u64(..1 << 40), 15).await;
    world.caught_up().await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_nothing_lost();
    stop(relay).await;
}

#[tokio::test]
async fn the_wire_to_postgres_is_cut_and_healed() {
    let world = World::new("cut", 1).await;
    let oracle = world.oracle().await;
    let (proxy, url) = world.wire().await;
    let relay = world.command(["run"]).env("WALPOST_DATABASE_URL", url).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let cuts = async {
        for _ in 0..5 {
            sleep(Duration::from_millis(300)).await;
            let mark = relay.mark();
            proxy.cut();
            relay.wait_for_log_since(mark, "\"retrying\"", PATIENCE).await;
            proxy.heal();
            relay.wait_for_log_since(mark, "streaming", PATIENCE).await;
        }
    };
    tokio::join!(cuts, workload::run(&world, fastrand::u64(..1 << 40), 60));
    world.caught_up().await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_nothing_lost();
    stop(relay).await;
}

#[tokio::test]
async fn an_idle_outbox_holds_no_log_of_others() {
    let world = World::new("idle", 1).await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    client.batch_execute("CREATE TABLE foreign_rows (filler text)").await.unwrap();
    for _ in 0..20 {
        let sql = "INSERT INTO foreign_rows SELECT repeat(md5(n::text), 32) FROM generate_series(1, 10000) n";
        client.batch_execute(sql).await.unwrap();
    }
    let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::int8 FROM pg_replication_slots WHERE slot_name = $1";
    eventually("the lag to fall below 32 MB", Duration::from_secs(30), async || {
        let lag: i64 = client.query_one(sql, &[&world.slot]).await.unwrap().get(0);
        (lag < 32 << 20).then_some(())
    })
    .await;
    stop(relay).await;
}

/// While the broker is away the server must not count the relay as dead: no reconnect in a minute and a
/// half of `wal_sender_timeout`.
#[tokio::test]
async fn a_silent_broker_costs_no_reconnect() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(PostgresServer::shared().await, &broker, "silent", 1).await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    world.insert(&client, 10).await;
    world.caught_up().await;
    broker.proxy.freeze();
    // More than the window holds, so that the relay stops reading.
    for _ in 0..10 {
        world.insert(&client, 20_000).await;
    }
    sleep(Duration::from_secs(45)).await;
    broker.proxy.heal();
    world.caught_up().await;
    assert!(!relay.log().contains("\"retrying\""), "{}", relay.log());
    assert_eq!(world.consume(200_010).await.len(), 200_010);
    stop(relay).await;
}

/// A record that Kafka will not take stops the line at that record: what is before it is confirmed, what is
/// behind it is not sent, and it goes on once the cause is mended.
#[tokio::test]
async fn a_record_too_large_stops_the_line_and_is_named() {
    let world = World::new("large", 1).await;
    let client = world.database.client().await;
    let before = world.insert(&client, 3).await;
    let sql = "INSERT INTO outbox.messages (topic, payload) VALUES ($1, to_json(repeat('x', 2000000)))";
    client.execute(sql, &[&world.topic]).await.unwrap();
    world.insert(&client, 3).await;
    let relay = world.command(["run"]).spawn();
    let line = relay.wait_for_log("larger than allowed", PATIENCE).await;
    assert!(line.contains("message at "), "{line}");
    check(&before, &world.consume(3).await).assert_exact();
    drop(relay);
    world.set_message_size("5000000").await;
    let relay: Walpost = world.command(["run", "-X", "message.max.bytes=5000000"]).spawn();
    world.caught_up().await;
    assert_eq!(world.consume(7).await.len(), 7);
    stop(relay).await;
}

/// A fast stop of the server waits for a relay that goes on answering; this one hangs up, although it reads
/// nothing while the broker is away.
#[tokio::test]
async fn a_fast_stop_of_postgres_is_not_held_up_by_a_frozen_broker() {
    let server = PostgresServer::start(&[]).await;
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(&server, &broker, "hangup", 1).await;
    let oracle = world.oracle().await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    world.insert(&client, 10).await;
    world.caught_up().await;
    for rows in [10, 100_000] {
        broker.proxy.freeze();
        // With many rows the window is closed; with few the relay is reading.
        world.insert(&client_of(&world).await, rows).await;
        sleep(Duration::from_secs(2)).await;
        let asked = Instant::now();
        server.stop_fast().await;
        println!("stopped after {:?}", asked.elapsed());
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        let mark = relay.mark();
        server.start_again().await;
        broker.proxy.heal();
        relay.wait_for_log_since(mark, "streaming", PATIENCE).await;
        world.caught_up().await;
    }
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_nothing_lost();
    stop(relay).await;
}

/// A session of its own, since the server may have been restarted.
async fn client_of(world: &World) -> tokio_postgres::Client {
    world.database.client().await
}

/// The same refused by the broker, when many later records are on their way already: none of them may be in
/// the topic before it.
#[tokio::test]
async fn nothing_slips_past_a_record_that_the_broker_refuses() {
    nothing_slips_past("refused", 1, "b").await;
}

/// The broker knows nothing yet of a producer whose first record in a partition it refuses, and would take the
/// next one as the beginning.
#[tokio::test]
async fn nothing_slips_past_the_first_record_of_a_further_partition() {
    nothing_slips_past("further", 12, "b").await;
}

/// Rows of keys a and c first, then a large one and many others of that key.
async fn nothing_slips_past(prefix: &str, partitions: i32, key: &str) {
    let world = World::new(prefix, partitions).await;
    world.set_message_size("200000").await;
    let oracle = world.oracle().await;
    let client = world.database.client().await;
    let small = "INSERT INTO outbox.messages (topic, key, payload) \
                 SELECT $1, (ARRAY['a', 'c'])[1 + n % 2], to_json(n) FROM generate_series(1, 20) n";
    for _ in 0..50 {
        client.execute(small, &[&world.topic]).await.unwrap();
    }
    let large =
        "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, $2, to_json(repeat('x', 500000)))";
    client.execute(large, &[&world.topic, &key]).await.unwrap();
    let behind = "INSERT INTO outbox.messages (topic, key, payload) \
                  SELECT $1, $2, to_json(n) FROM generate_series(1, 100) n";
    for _ in 0..50 {
        client.execute(behind, &[&world.topic, &key]).await.unwrap();
    }
    let committed = oracle.committed_ids().await;
    // Small batches, so that the small records are not refused for the company they keep.
    // Each try is told at this level only.
    let relay = world.command(["run", "-X", "batch.size=100000", "--log-level", "walpost=debug"]).spawn();
    relay.wait_for_log("\"retrying\"", PATIENCE).await;
    let mark = relay.mark();
    relay.wait_for_log_since(mark, "\"retrying\"", PATIENCE).await;
    let arrived = world.consume(0).await;
    check(&committed[..1000], &arrived).assert_not_invented();
    world.set_message_size("5000000").await;
    world.caught_up().await;
    let records = world.consume(committed.len()).await;
    check(&committed, &records).assert_nothing_lost();
    let of = |wanted: &str| records.iter().find(|record| record.key.as_deref() == Some(wanted.as_bytes()));
    if partitions > 1 {
        let partition = |wanted| of(wanted).unwrap().partition;
        assert!(partition(key) != partition("a") && partition(key) != partition("c"), "choose other keys");
    }
    stop(relay).await;
}
