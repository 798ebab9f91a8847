//! The oldest and the newest server that are supported; the others are what is installed.

use crate::later::COLUMN;
use crate::support::{KafkaBroker, PostgresServer, check};
use crate::workload;
use crate::world::{World, stop};

async fn everything_arrives_on(version: &str) {
    let server = PostgresServer::start_version(version, &[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "version", 3).await;
    let oracle = world.oracle().await;
    for round in 0..2 {
        let relay = world.relay().await;
        workload::run(&world, 10_000 * round + fastrand::u64(..1 << 40), 15).await;
        stop(relay).await;
    }
    let relay = world.relay().await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_exact();
    // Everything that is looked up at the start is there in this version's catalog.
    for command in ["check", "status"] {
        let output = world.command([command]).output().await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    stop(relay).await;
    // The slot made anew, so that what is in the table comes first; and an event without a table.
    for args in [&["teardown"][..], &["setup", "--backfill", "all"]] {
        let output = world.command([]).args(args).output().await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let client = world.database.client().await;
    let rows: i64 = client.query_one("SELECT count(*) FROM outbox.messages", &[]).await.unwrap().get(0);
    client.execute("SELECT outbox.emit($1, '\"last\"')", &[&world.topic]).await.unwrap();
    let relay = world.relay().await;
    let count = committed.len() + usize::try_from(rows).unwrap() + 1;
    let records = world.consume(count).await;
    assert_eq!(records.len(), count);
    assert_eq!(records.iter().filter(|record| record.payload.as_deref() == Some(b"\"last\"")).count(), 1);
    client.batch_execute(COLUMN).await.unwrap();
    let sql = "INSERT INTO outbox.messages (topic, payload, scheduled_at) VALUES ($1, '\"later\"', now() + interval '1 s')";
    client.execute(sql, &[&world.topic]).await.unwrap();
    let later = world.consume(count + 1).await;
    assert_eq!(later.iter().filter(|record| record.payload.as_deref() == Some(b"\"later\"")).count(), 1);
    let failover = "SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE slot_name = $1";
    let failover: Option<String> = client.query_one(failover, &[&world.slot]).await.unwrap().get(0);
    assert_eq!(failover.as_deref(), if version >= "17" { Some("true") } else { None });
    stop(relay).await;
}

#[tokio::test]
async fn everything_arrives_on_14() {
    everything_arrives_on("14").await;
}

#[tokio::test]
async fn everything_arrives_on_18() {
    everything_arrives_on("18").await;
}
