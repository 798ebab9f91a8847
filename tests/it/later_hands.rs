//! Rows that are sent later, and what people do to them and around them meanwhile.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use crate::later::{COLUMN, dues, held, insert, none_early, values, world_on};
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, consume, eventually};
use crate::world::{World, stop};

async fn world(prefix: &str) -> (World, Client) {
    world_on(PostgresServer::shared().await, prefix).await
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Somebody looks at a row in psql and forgets the transaction: the database is not asked without a pause, others are
/// sent at their times, and who it is is told.
#[tokio::test]
async fn a_due_row_that_somebody_has_locked_costs_little_and_is_told() {
    let (world, client) = world("held").await;
    let relay = world.relay().await;
    insert(&world, &client, &[1], "now() + interval '1 s'").await;
    eventually("it to wait", PATIENCE, async || (held(&client).await == 1).then_some(())).await;
    let locker = world.database.client().await;
    locker.batch_execute("BEGIN; DELETE FROM outbox.scheduled").await.unwrap();
    let pid = number(&locker, "SELECT pg_backend_pid()::int8").await;
    insert(&world, &client, &[2, 3], "now() + v * interval '1 s'").await;
    let records = world.consume(2).await;
    assert_eq!(values(&records), [2, 3]);
    let late = none_early(&records, &dues(&client).await);
    assert!(late < 900, "{late} ms late, behind the one that is locked");

    // The server adds a session's transactions up once a second.
    let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    let before = number(&client, commits).await;
    sleep(Duration::from_secs(3)).await;
    let spent = number(&client, commits).await - before;
    println!("{spent} transactions in 3 s");
    assert!(spent < 150, "{spent} transactions in 3 s");
    let told = format!("rows of outbox.scheduled are due and can't be sent: locked by PID {pid} of role");
    relay.wait_for_log(&told, PATIENCE).await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(values(&world.consume(3).await)[2..], [1]);
    stop(relay).await;
}

/// Times without an end are times.
#[tokio::test]
async fn a_row_that_is_due_since_ever_comes_at_once() {
    let (world, client) = world("ever").await;
    let relay = world.relay().await;
    insert(&world, &client, &[1, 2], "now() + interval '1 hour'").await;
    eventually("both to wait", PATIENCE, async || (held(&client).await == 2).then_some(())).await;
    let set = |v: i64, due: &str| {
        format!(
            "UPDATE outbox.scheduled SET due = '{due}' WHERE id = (SELECT id::text FROM outbox.messages WHERE payload::text = '{v}')"
        )
    };
    client.batch_execute(&set(2, "infinity")).await.unwrap();
    client.batch_execute(&set(1, "-infinity")).await.unwrap();
    assert_eq!(values(&world.consume(1).await), [1]);
    client.batch_execute(&set(2, "-infinity")).await.unwrap();
    assert_eq!(values(&world.consume(2).await), [1, 2]);
    assert!(!relay.log().contains("\"retrying\""), "{}", relay.log());
    stop(relay).await;
}

/// As docs/later.md says: also if the log comes again from before the row.
#[tokio::test]
async fn a_row_that_was_cancelled_does_not_come_again_with_the_log() {
    let (world, client) = world("cancel").await;
    insert(&world, &client, &[0], "NULL").await;
    // What is published and can't be written back holds the slot back.
    let locker = world.database.client().await;
    locker.batch_execute("BEGIN; SELECT FROM outbox.messages FOR UPDATE").await.unwrap();
    let run = || world.command(["run", "--write-back", "delete"]).spawn();
    let mut relay = run();
    relay.wait_for_log("streaming", PATIENCE).await;
    insert(&world, &client, &[1, 2], "now() + interval '4 s'").await;
    eventually("both to wait", PATIENCE, async || (held(&client).await == 2).then_some(())).await;
    let cancel = "UPDATE outbox.scheduled SET released_at = now(), content = NULL WHERE id = (SELECT id::text FROM outbox.messages \
         WHERE payload::text = '1') AND released_at IS NULL";
    assert_eq!(client.execute(cancel, &[]).await.unwrap(), 1);
    relay.kill().await;
    world.slot_is_free().await;
    let relay = run();
    relay.wait_for_log("streaming", PATIENCE).await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    eventually("the other one to be sent", PATIENCE, async || (held(&client).await == 0).then_some(())).await;
    world.caught_up().await;
    let records = consume(&world.brokers, &world.topic, 4, Duration::from_secs(3)).await;
    let mut came = values(&records);
    came.dedup();
    assert_eq!(came, [0, 2]);
    stop(relay).await;
}

/// Whatever the role or the database has for a default, a table that is locked is waited for.
#[tokio::test]
async fn defaults_of_the_database_do_not_end_what_waits() {
    let (world, client) = world("defaults").await;
    let name: String = client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    for default in [
        "lock_timeout = '100ms'",
        "statement_timeout = '200ms'",
        "idle_in_transaction_session_timeout = '100ms'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "\"DateStyle\" = 'SQL, DMY'",
        "\"TimeZone\" = 'Asia/Kolkata'",
    ] {
        client.batch_execute(&format!("ALTER DATABASE {name} SET {default}")).await.unwrap();
    }
    let relay = world.command(["run", "--on-refusal", "dead-letter"]).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    client.batch_execute("BEGIN; LOCK TABLE outbox.scheduled IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let writer = world.database.client().await;
    let own = "SET default_transaction_read_only = off; SET statement_timeout = 0";
    writer.batch_execute(own).await.unwrap();
    insert(&world, &writer, &[1], "now() + interval '2 s'").await;
    insert(&world, &writer, &[2], "NULL").await;
    sleep(Duration::from_secs(1)).await;
    assert!(!relay.log().contains("\"retrying\""), "{}", relay.log());
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(values(&world.consume(2).await), [2, 1]);
    assert!(!relay.log().contains("\"retrying\""), "{}", relay.log());
    stop(relay).await;
}

/// A relay that stands by asks who holds the slot, and not for what waits.
#[tokio::test]
async fn a_relay_that_stands_by_reads_no_table() {
    let (world, client) = world("standby").await;
    let first = world.relay().await;
    insert(&world, &client, &[1], "now() + interval '1 hour'").await;
    eventually("it to wait", PATIENCE, async || (held(&client).await == 1).then_some(())).await;
    let second = world.command(["run"]).spawn();
    second.wait_for_log("standing by", PATIENCE).await;
    first.stop();
    sleep(Duration::from_secs(2)).await;
    let scans = "SELECT coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::int8 FROM pg_stat_all_tables WHERE relname IN \
         ('scheduled', 'pg_publication', 'walpost_seal')";
    let before = number(&client, scans).await;
    sleep(Duration::from_secs(4)).await;
    let read = number(&client, scans).await - before;
    first.cont();
    assert!(read <= 2, "{read} scans in 4 s");
    stop(first).await;
    second.wait_for_log("\"streaming\"", PATIENCE).await;
    client.batch_execute("UPDATE outbox.scheduled SET due = now()").await.unwrap();
    assert_eq!(values(&world.consume(1).await), [1]);
    stop(second).await;
}

/// On a quiet server somebody writes and does not commit: the log is written out up to the middle of a record.
#[tokio::test]
async fn a_row_is_in_time_while_somebody_writes_and_does_not_commit() {
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "quiet", 1).await;
    world.set_topic("message.timestamp.type", "LogAppendTime").await;
    let client = world.database.client().await;
    client.batch_execute(COLUMN).await.unwrap();
    client.batch_execute("CREATE TABLE other (text text)").await.unwrap();
    let relay = world.relay().await;
    let writer = world.database.client().await;
    for _ in 0..3 {
        insert(&world, &client, &[1], "now() + interval '1500 ms'").await;
        eventually("it to wait", PATIENCE, async || (held(&client).await == 1).then_some(())).await;
        let much = "BEGIN; INSERT INTO other SELECT repeat(md5(n::text), 30) FROM generate_series(1, 100) n";
        writer.batch_execute(much).await.unwrap();
        let since = Instant::now();
        eventually("it to be sent", PATIENCE, async || (held(&client).await == 0).then_some(())).await;
        println!("sent after {:.1?}", since.elapsed());
        writer.batch_execute("ROLLBACK").await.unwrap();
    }
    let records = world.consume(3).await;
    let late = none_early(&records, &dues(&client).await);
    println!("{late} ms late");
    assert!(late < 1_000, "{late} ms late");
    stop(relay).await;
}
