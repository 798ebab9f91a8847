//! A slot or a server that is not the one that was read before.

use std::time::Duration;

use walpost::Lsn;

use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Walpost, check};
use crate::world::{World, stop};

/// The relay ends with code 1, and its log holds all of these.
pub(crate) async fn ends_saying(relay: &mut Walpost, limit: Duration, words: &[&str]) {
    let status = relay.wait(limit).await;
    assert_eq!(status.code(), Some(1), "{}", relay.log());
    for word in words {
        relay.wait_for_log(word, limit).await;
    }
}

/// The first statement in the log that begins and ends like this.
pub(crate) fn statement(log: &str, begin: &str, end: &str) -> String {
    let start = log.find(begin).unwrap_or_else(|| panic!("no {begin:?} in\n{log}"));
    let length = log[start..].find(end).unwrap_or_else(|| panic!("no {end:?} behind {begin:?} in\n{log}"));
    // In the log it stands in a string of JSON.
    log[start..start + length + end.len()].replace("\\\"", "\"")
}

pub(crate) fn finding(log: &str) -> String {
    statement(log, "SELECT * FROM outbox.messages", "::xid)")
}

/// Cut off, then somebody does this to the slot while rows are waiting; the relay must not go on as if nothing
/// had happened, and its advice must find the rows.
async fn a_slot_that_was_moved(prefix: &str, moves: &[&str]) {
    let world = World::new(prefix, 1).await;
    let client = world.database.client().await;
    let (proxy, mut relay) = world.wired_relay().await;
    let sent = world.insert(&client, 3).await;
    world.caught_up().await;
    check(&sent, &world.consume(3).await).assert_exact();
    proxy.cut();
    world.slot_is_free().await;
    let position = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let before: String = client.query_one(position, &[&world.slot]).await.unwrap().get(0);
    let skipped = world.insert(&client, 5).await;
    for sql in moves {
        client.execute(*sql, &[&world.slot]).await.unwrap();
    }
    let after: String = client.query_one(position, &[&world.slot]).await.unwrap().get(0);
    assert!(after.parse::<Lsn>().unwrap() > before.parse::<Lsn>().unwrap());
    proxy.heal();
    let words = [&*format!("stands at {after}, beyond "), "advanced, or dropped and made anew"];
    ends_saying(&mut relay, PATIENCE, &words).await;
    let found = world.found_by(&finding(&relay.log())).await;
    assert!(skipped.iter().all(|id| found.contains(id)), "{found:?} lacks some of {skipped:?}");

    // Told once; whoever starts it again has decided.
    let relay = world.relay().await;
    let next = world.insert(&client, 1).await;
    let all: Vec<_> = sent.into_iter().chain(next).collect();
    check(&all, &world.consume(4).await).assert_exact();
    stop(relay).await;
}

#[tokio::test]
async fn a_slot_that_somebody_advanced_is_named() {
    let advance = "SELECT pg_replication_slot_advance($1::text::name, pg_current_wal_lsn())";
    a_slot_that_was_moved("advanced", &[advance]).await;
}

#[tokio::test]
async fn a_slot_that_was_made_anew_is_named() {
    let drop = "SELECT pg_drop_replication_slot($1::text::name)";
    let make = "SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')";
    a_slot_that_was_moved("madeanew", &[drop, make]).await;
}

#[tokio::test]
async fn a_slot_that_was_dropped_while_away_is_named_with_its_rows() {
    let world = World::new("dropaway", 1).await;
    let client = world.database.client().await;
    let (proxy, mut relay) = world.wired_relay().await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    proxy.cut();
    world.slot_is_free().await;
    let skipped = world.insert(&client, 2).await;
    client.execute("SELECT pg_drop_replication_slot($1::text::name)", &[&world.slot]).await.unwrap();
    proxy.heal();
    ends_saying(&mut relay, PATIENCE, &[&format!("slot {} is gone", world.slot), "walpost setup"]).await;
    let found = world.found_by(&finding(&relay.log())).await;
    assert!(skipped.iter().all(|id| found.contains(id)), "{found:?} lacks some of {skipped:?}");
}

/// Another relay may move the slot, and the first one goes on behind it without a word of loss.
#[tokio::test]
async fn a_slot_that_another_relay_moved_is_taken_back() {
    let world = World::new("takeback", 1).await;
    let oracle = world.oracle().await;
    let client = world.database.client().await;
    let (proxy, first) = world.wired_relay().await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    proxy.cut();
    let second = world.relay().await;
    proxy.heal();
    first.wait_for_log("standing by", PATIENCE).await;
    world.insert(&client, 10).await;
    world.caught_up().await;
    let mark = first.mark();
    stop(second).await;
    first.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    world.insert(&client, 3).await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_exact();
    stop(first).await;
}

/// A server that crashed has forgotten confirmations: that is told once, and only repeats come of it.
#[tokio::test]
async fn a_slot_that_fell_back_with_a_crash_is_told_and_followed() {
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "fellback", 1).await;
    let oracle = world.oracle().await;
    let relay = world.relay().await;
    let told = "the slot stands before what was confirmed";
    // Now and then the server has just saved the slot.
    for _ in 0..10 {
        for _ in 0..5 {
            world.insert(&world.database.client().await, 20).await;
        }
        world.caught_up().await;
        let mark = relay.mark();
        server.kill().await;
        server.start_again().await;
        relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
        if relay.log().contains(told) {
            break;
        }
    }
    assert!(relay.log().contains(told), "{}", relay.log());
    world.insert(&world.database.client().await, 5).await;
    world.caught_up().await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len() + 1).await).assert_nothing_lost();
    stop(relay).await;
}

#[tokio::test]
async fn another_database_system_is_refused() {
    let (one, two) = (PostgresServer::start(&[]).await, PostgresServer::start(&[]).await);
    let mut world = World::bare(&one, KafkaBroker::shared().await, "system", 1).await;
    for server in [&two, &one] {
        world.database.url = server.url("postgres");
        assert!(world.command(["setup"]).output().await.status.success());
    }
    let url = format!("postgresql://postgres@{},{}/postgres", one.address(), two.address());
    let mut relay = world.command(["run"]).env("WALPOST_DATABASE_URL", url).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    one.stop_fast().await;
    ends_saying(&mut relay, PATIENCE, &["is another database system", &two.address(), "start again"]).await;
}

/// While the broker stands still the slot does too, and the server gives it up.
async fn a_slot_that_is_lost_while_streaming(server: &PostgresServer) {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(server, &broker, "lost", 1).await;
    let mut relay = world.relay().await;
    let client = world.database.client().await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    broker.proxy.freeze();
    let skipped = world.insert(&client, 3).await;
    for _ in 0..6 {
        client.batch_execute("CREATE TABLE IF NOT EXISTS filler (a int); INSERT INTO filler VALUES (1); SELECT pg_switch_wal()").await.unwrap();
    }
    client.batch_execute("CHECKPOINT").await.unwrap();
    let words =
        ["has lost log that it needs", "max_slot_wal_keep_size", "walpost setup", "pg_drop_replication_slot"];
    ends_saying(&mut relay, PATIENCE, &words).await;
    let log = relay.log();
    if log.contains("SELECT * FROM outbox.messages") {
        let found = world.found_by(&finding(&log)).await;
        assert!(skipped.iter().all(|id| found.contains(id)), "{found:?} lacks some of {skipped:?}");
    }
    // Permanent: no try helps.
    let again = world.command(["run"]).output().await;
    assert_eq!(again.status.code(), Some(1));
}

#[tokio::test]
async fn a_lost_slot_ends_the_relay() {
    let server = PostgresServer::start(&[("max_slot_wal_keep_size", "1MB")]).await;
    a_slot_that_is_lost_while_streaming(&server).await;
}

#[tokio::test]
async fn a_lost_and_a_timed_out_slot_end_the_relay_on_18() {
    let options = [("max_slot_wal_keep_size", "1MB"), ("idle_replication_slot_timeout", "1s")];
    let server = PostgresServer::start_version("18", &options).await;
    a_slot_that_is_lost_while_streaming(&server).await;
    let world = World::on(&server, KafkaBroker::shared().await, "idle", 1).await;
    let client = world.database.client().await;
    crate::support::eventually("the slot to be given up", PATIENCE, async || {
        client.batch_execute("CHECKPOINT").await.unwrap();
        let sql = "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND wal_status = 'lost'";
        client.query_opt(sql, &[&world.slot]).await.unwrap().map(drop)
    })
    .await;
    let mut relay = world.command(["run"]).spawn();
    ends_saying(&mut relay, PATIENCE, &["has lost log", "idle_replication_slot_timeout"]).await;
}
