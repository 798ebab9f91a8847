//! The primary dies and a physical standby is promoted; the relay has both in its URL.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use crate::identity::ends_saying;
use crate::support::host::cached;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Walpost, eventually, local_postgres, major};
use crate::world::{World, stop};

/// A primary with an outbox, its standby, and a relay that knows both.
struct Pair {
    world: World,
    primary: PostgresServer,
    standby: PostgresServer,
    relay: Walpost,
}

async fn pair(bin: &Path, on_primary: &[(&str, &str)], on_standby: &[(&str, &str)]) -> Pair {
    let primary =
        PostgresServer::start_with_bin(bin, &[on_primary, &[("wal_keep_size", "512MB")]].concat()).await;
    let client = primary.client("postgres").await;
    client.batch_execute("SELECT pg_create_physical_replication_slot('standby', true)").await.unwrap();
    let world = World::on(&primary, KafkaBroker::shared().await, "failover", 1).await;
    let port = primary.address().rsplit(':').next().unwrap().to_owned();
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let common = [
        ("primary_conninfo", conninfo.as_str()),
        ("primary_slot_name", "standby"),
        ("hot_standby_feedback", "on"),
    ];
    let standby = primary.standby(bin, &[&common, on_standby].concat()).await;
    let hosts = format!("{},{}", primary.address(), standby.address());
    let name = &world.database.name;
    let url = format!("postgresql://postgres@{hosts}/{name}?target_session_attrs=read-write");
    let relay = world.command(["run"]).env("WALPOST_DATABASE_URL", url).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    Pair { world, primary, standby, relay }
}

/// Rows go in while the primary dies.
async fn lose_the_primary(pair: &mut Pair) {
    let client = pair.world.database.client().await;
    for _ in 0..20 {
        pair.world.insert(&client, 50).await;
    }
    pair.primary.kill().await;
    pair.standby.client("postgres").await.batch_execute("SELECT pg_promote()").await.unwrap();
    pair.world.database.url = pair.standby.url(&pair.world.database.name);
}

#[tokio::test]
async fn a_failover_slot_is_followed_to_the_new_primary_on_18() {
    is_followed(&cached("postgres-18")).await;
}

/// From 17 on; before, there are no such slots, and nothing claims that there were.
#[tokio::test]
async fn a_failover_slot_is_followed_where_there_are_some() {
    let bin = local_postgres::binaries().unwrap();
    let server = PostgresServer::start_with_bin(&bin, &[]).await;
    if major(&server.client("postgres").await).await >= 17 {
        return is_followed(&bin).await;
    }
    let world = World::on(&server, KafkaBroker::shared().await, "nofailover", 1).await;
    let client = world.database.client().await;
    let sql = "SELECT to_jsonb(s) ? 'failover' FROM pg_replication_slots s WHERE slot_name = $1";
    assert!(!client.query_one(sql, &[&world.slot]).await.unwrap().get::<_, bool>(0));
    let sql = "SELECT pg_create_logical_replication_slot('kept', 'pgoutput', false, false, true)";
    let refused = client.batch_execute(sql).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::UNDEFINED_FUNCTION), "{refused}");
}

async fn is_followed(bin: &Path) {
    let standby = [("sync_replication_slots", "on")];
    let mut pair = pair(bin, &[("synchronized_standby_slots", "standby")], &standby).await;
    let client = pair.world.database.client().await;
    let there = pair.standby.client("postgres").await;
    eventually("the slot to be kept by the standby", 2 * PATIENCE, async || {
        pair.world.insert(&client, 5).await;
        client.batch_execute("SELECT pg_log_standby_snapshot()").await.unwrap();
        sleep(Duration::from_millis(500)).await;
        let sql = "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary";
        there.query_opt(sql, &[&pair.world.slot]).await.unwrap().map(drop)
    })
    .await;
    let mark = pair.relay.mark();
    let dead = Instant::now();
    lose_the_primary(&mut pair).await;
    pair.relay.wait_for_log_since(mark, "a server was promoted", PATIENCE).await;
    pair.relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    println!("went on {:.1?} after the last rows were begun", dead.elapsed());
    let client = pair.world.database.client().await;
    for _ in 0..5 {
        pair.world.insert(&client, 50).await;
    }
    pair.world.caught_up().await;
    let rows = client.query("SELECT id::text FROM outbox.messages", &[]).await.unwrap();
    let kept: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let records = pair.world.consume(kept.len()).await;
    let arrived: HashSet<String> =
        records.iter().map(|record| record.header("id").unwrap().to_owned()).collect();
    let lost = kept.difference(&arrived).count();
    let ghosts = arrived.difference(&kept).count();
    println!("{} rows, {} records, {lost} lost, {ghosts} that the database lost", kept.len(), records.len());
    assert_eq!((lost, ghosts), (0, 0));
    stop(pair.relay).await;
}

/// Before 17, and where the standby keeps no slots, the new primary has none, which is told, and never papered over with a
/// new one.
#[tokio::test]
async fn a_slot_that_the_failover_lost_is_named() {
    let bin = local_postgres::binaries().unwrap();
    let mut pair = pair(&bin, &[], &[]).await;
    lose_the_primary(&mut pair).await;
    let gone = format!("slot {} is gone", pair.world.slot);
    ends_saying(&mut pair.relay, PATIENCE, &[&gone, "walpost setup"]).await;
}
