//! Rows are marked or deleted once Kafka has their messages, before the slot moves, and never earlier.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::life::get;
use crate::support::walpost::Builder;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually};
use crate::world::{World, stop};

pub(crate) const SPAKKY: &str = "CREATE TABLE spakky_event_outbox (id UUID PRIMARY KEY, event_name TEXT NOT NULL, payload BYTEA NOT NULL, \
     headers JSON NOT NULL, created_at TIMESTAMPTZ NOT NULL, published_at TIMESTAMPTZ, retry_count INTEGER NOT NULL, \
     claimed_at TIMESTAMPTZ, partition_key TEXT, abandoned_at TIMESTAMPTZ)";

pub(crate) async fn world(schema: &str, partitions: i32) -> (World, Client) {
    let world =
        World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "back", partitions).await;
    let client = world.database.client().await;
    client.batch_execute(schema).await.unwrap();
    (world, client)
}

/// A relay of spakky's table whose records bear their ids.
pub(crate) fn spakky(world: &World, mode: &str) -> Builder {
    world.command(["run", "--preset", "spakky", "--map-own-headers", "yes", "--write-back", mode])
}

pub(crate) async fn insert_spakky(client: &Client, topic: &str, count: i64) {
    let sql = "INSERT INTO spakky_event_outbox (id, event_name, payload, headers, created_at, retry_count, partition_key) \
               SELECT gen_random_uuid(), $1, convert_to(n::text, 'UTF8'), '{}', now(), 0, (n % 7)::text \
               FROM generate_series(1, $2::bigint) n";
    client.execute(sql, &[&topic, &count]).await.unwrap();
}

pub(crate) async fn ids_where(client: &Client, table: &str, condition: &str) -> HashSet<Uuid> {
    let rows = client.query(&format!("SELECT id FROM {table} WHERE {condition}"), &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

pub(crate) async fn count(client: &Client, of: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {of}"), &[]).await.unwrap().get(0)
}

/// What comes back in the stream is our own, and is no message, even if the publication sends it all.
#[tokio::test]
async fn rows_of_each_library_bear_its_mark() {
    let id = "11111111-2222-3333-4444-555555555555";
    let k1s0 = "CREATE SCHEMA outbox; CREATE TABLE outbox.outbox_messages (id UUID PRIMARY KEY, topic TEXT NOT NULL, partition_key TEXT NOT \
        NULL, payload JSONB NOT NULL, status TEXT NOT NULL DEFAULT 'PENDING', created_at TIMESTAMPTZ NOT NULL DEFAULT NOW())";
    let k1s0_row = |status: &str| {
        format!(
            "INSERT INTO outbox.outbox_messages (id, topic, partition_key, payload, status) VALUES ('{id}', $t$, 'k', '1', '{status}')"
        )
    };
    let cases = [
        (
            "spakky",
            SPAKKY,
            format!("INSERT INTO spakky_event_outbox VALUES ('{id}', $t$, '1', '{{}}', now(), NULL, 0)"),
            "SELECT (published_at > now() - interval '1 minute' AND claimed_at IS NULL)::text FROM spakky_event_outbox",
            "true",
        ),
        ("k1s0", k1s0, k1s0_row("PENDING"), "SELECT status FROM outbox.outbox_messages", "DELIVERED"),
        ("k1s0", k1s0, k1s0_row("pending"), "SELECT status FROM outbox.outbox_messages", "delivered"),
        (
            "k1s0-events",
            "CREATE TABLE outbox_events (id UUID PRIMARY KEY, aggregate_type TEXT, event_type TEXT, payload JSONB, created_at TIMESTAMPTZ \
             NOT NULL DEFAULT now(), published_at TIMESTAMPTZ)",
            format!("INSERT INTO outbox_events VALUES ('{id}', 'a', $t$, '{{}}')"),
            "SELECT (published_at IS NOT NULL)::text FROM outbox_events",
            "true",
        ),
        (
            "k1s0-csharp",
            "CREATE TABLE outbox_messages (id UUID PRIMARY KEY, topic TEXT NOT NULL, payload BYTEA NOT NULL, status TEXT NOT NULL \
             DEFAULT 'Pending', created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP)",
            format!(
                "INSERT INTO outbox_messages VALUES ('{id}', $t$, 'x', 'Pending', now() AT TIME ZONE 'UTC')"
            ),
            "SELECT status || (abs(extract(epoch FROM updated_at - now() AT TIME ZONE 'UTC')) < 60) FROM outbox_messages",
            "Publishedtrue",
        ),
        (
            "open-outbox",
            "CREATE TABLE openoutbox_events (event_id UUID PRIMARY KEY, event_type TEXT NOT NULL, partition_key TEXT, payload BYTEA NOT \
             NULL, headers JSONB NOT NULL DEFAULT '{}', status TEXT NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'DELIVERED')), \
             attempts INT NOT NULL DEFAULT 0, available_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), locked_by TEXT, locked_at TIMESTAMPTZ, \
             delivered_at TIMESTAMPTZ, created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), updated_at TIMESTAMPTZ)",
            format!(
                "INSERT INTO openoutbox_events (event_id, event_type, payload, locked_by) VALUES ('{id}', $t$, 'x', 'me')"
            ),
            "SELECT status || (delivered_at = updated_at AND locked_by IS NULL) FROM openoutbox_events",
            "DELIVEREDtrue",
        ),
    ];
    for (preset, schema, row, seen, expected) in cases {
        let (world, client) = world(schema, 1).await;
        let args = ["--preset", preset, "--table"];
        let table = match preset {
            "k1s0-events" => "outbox_events",
            "spakky" => "spakky_event_outbox",
            "k1s0" => "outbox.outbox_messages",
            "k1s0-csharp" => "outbox_messages",
            _ => "openoutbox_events",
        };
        world.set_up(&[&args[..], &[table]].concat()).await;
        client
            .batch_execute("ALTER PUBLICATION walpost SET (publish = 'insert, update, delete')")
            .await
            .unwrap();
        let relay = world.command(["run", "--write-back", "mark"]).args(args).args([table]).streaming().await;
        client.batch_execute(&row.replace("$t$", &format!("'{}'", world.topic))).await.unwrap();
        world.consume(1).await;
        world.caught_up().await;
        let value: String = client.query_one(seen, &[]).await.unwrap().get(0);
        assert_eq!(value, expected, "{preset}");
        stop(relay).await;
        assert_eq!(world.consume(1).await.len(), 1, "{preset}");
    }
}

#[tokio::test]
async fn published_rows_are_deleted_and_only_those() {
    let (world, client) = world(SPAKKY, 2).await;
    world.set_up(&["--preset", "spakky"]).await;
    // Passed over, and so not published.
    let other = format!(
        "INSERT INTO spakky_event_outbox (id, event_name, payload, headers, created_at, retry_count, published_at) \
         VALUES (gen_random_uuid(), '{}', 'x', '{{}}', now(), 0, '2020-01-01')",
        world.topic
    );
    client.batch_execute(&other).await.unwrap();
    let relay = spakky(&world, "delete").streaming().await;
    client.batch_execute(&other).await.unwrap();
    insert_spakky(&client, &world.topic, 3_000).await;
    assert_eq!(world.consume(3_000).await.len(), 3_000);
    world.caught_up().await;
    assert_eq!(count(&client, "spakky_event_outbox").await, 2);
    stop(relay).await;

    // Our own table; an event beside it has no row.
    let world = World::new("back", 1).await;
    let client = world.database.client().await;
    let relay = world.command(["run", "--write-back", "delete"]).streaming().await;
    let inserted = world.insert(&client, 50).await;
    let emit = format!("SELECT outbox.emit('{}', '1')", world.topic);
    client.batch_execute(&emit).await.unwrap();
    assert_eq!(world.consume(51).await.len(), 51);
    world.caught_up().await;
    assert_eq!((inserted.len(), count(&client, "outbox.messages").await), (50, 0));
    stop(relay).await;
}

/// Rows that were there before the slot, and rows that are sent once more.
#[tokio::test]
async fn rows_that_are_sent_through_the_log_again_are_marked() {
    let (world, client) = world(SPAKKY, 1).await;
    insert_spakky(&client, &world.topic, 20).await;
    world.set_up(&["--preset", "spakky", "--backfill", "pending"]).await;
    let relay = spakky(&world, "mark").streaming().await;
    assert_eq!(world.consume(20).await.len(), 20);
    world.caught_up().await;
    assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 0);
    client.batch_execute("UPDATE spakky_event_outbox SET published_at = '2020-01-01'").await.unwrap();
    let output = world
        .command(["replay", "--preset", "spakky", "--where", "convert_from(payload, 'UTF8')::int <= 5"])
        .output()
        .await;
    assert!(output.status.success(), "{output:?}");
    world.consume(25).await;
    world.caught_up().await;
    assert_eq!(count(&client, "spakky_event_outbox WHERE published_at > '2021-01-01'").await, 5);
    stop(relay).await;
}

/// Each table by its own mapping, key and mark.
#[tokio::test]
async fn rows_of_several_tables_are_marked_each_in_its_own() {
    let schema = format!(
        "{SPAKKY}; CREATE TABLE events (number bigserial PRIMARY KEY, topic text, payload json, state text NOT NULL DEFAULT 'new')"
    );
    let (world, client) = world(&schema, 1).await;
    let args = [
        "--table",
        "spakky_event_outbox, events",
        "--preset",
        "spakky",
        "--map-for",
        "events: preset=walpost",
    ];
    let entries = [
        "--map-for",
        "events: id={number}",
        "--map-for",
        "events: own_headers=no",
        "--map-for",
        "events: mark=state=sent",
    ];
    world.set_up(&[&args[..], &entries].concat()).await;
    let relay = world.command(["run", "--write-back", "mark"]).args(args).args(entries).streaming().await;
    for _ in 0..20 {
        insert_spakky(&client, &world.topic, 7).await;
        let sql = "INSERT INTO events (topic, payload) SELECT $1, '1' FROM generate_series(1, 3)";
        client.execute(sql, &[&world.topic]).await.unwrap();
    }
    assert_eq!(world.consume(200).await.len(), 200);
    world.caught_up().await;
    assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NOT NULL").await, 140);
    assert_eq!(count(&client, "events WHERE state = 'sent'").await, 60);
    stop(relay).await;
}

/// Rows are marked as they are acknowledged, not when their transaction ends: memory does not grow with it.
#[tokio::test]
async fn a_large_transaction_is_marked_while_it_is_published() {
    const ROWS: i64 = 200_000;
    let (world, client) = world(SPAKKY, 3).await;
    world.set_up(&["--preset", "spakky"]).await;
    insert_spakky(&client, &world.topic, ROWS).await;
    let since = std::time::Instant::now();
    let relay = spakky(&world, "mark").streaming().await;
    let status = format!("/proc/{}/status", relay.id());
    let (mut most, mut partly) = (0_u64, false);
    eventually("all to be marked", PATIENCE, async || {
        let text = std::fs::read_to_string(&status).unwrap();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        most = most.max(peak.trim().trim_end_matches(" kB").parse().unwrap());
        let marked = count(&client, "spakky_event_outbox WHERE published_at IS NOT NULL").await;
        partly |= marked > 0 && marked < ROWS;
        (marked == ROWS).then_some(())
    })
    .await;
    println!("{ROWS} rows marked after {:.1?}, at most {} MB", since.elapsed(), most / 1024);
    assert!(partly, "marked as it goes");
    world.caught_up().await;
    stop(relay).await;
}

/// The session of its own is lost, again and again: the stream goes on, and nothing is published twice.
#[tokio::test]
async fn a_lost_session_repeats_nothing() {
    let (world, client) = world(SPAKKY, 1).await;
    world.set_up(&["--preset", "spakky"]).await;
    let relay = spakky(&world, "mark").streaming().await;
    for _ in 0..10 {
        insert_spakky(&client, &world.topic, 400).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                   AND query LIKE 'WITH done AS (UPDATE%'";
        client.batch_execute(end).await.unwrap();
        sleep(Duration::from_millis(fastrand::u64(0..150))).await;
    }
    world.caught_up().await;
    assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 0);
    stop(relay).await;
    assert_eq!(world.consume(4_000).await.len(), 4_000);
}

/// Somebody holds a row: the others flow on, the slot waits, and it is told who it is.
#[tokio::test]
async fn a_locked_row_is_waited_for_and_its_holder_named() {
    let (world, client) = world(SPAKKY, 1).await;
    world.set_up(&["--preset", "spakky"]).await;
    let holder = world.database.client().await;
    let relay = spakky(&world, "mark").streaming().await;
    let address = relay.listen_address().await;
    insert_spakky(&client, &world.topic, 1).await;
    world.caught_up().await;
    holder.batch_execute("BEGIN; SELECT FROM spakky_event_outbox FOR UPDATE").await.unwrap();
    let output = world.command(["replay", "--preset", "spakky", "--where", "true"]).output().await;
    assert!(output.status.success(), "{output:?}");
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let said = relay.wait_for_log("are locked by", PATIENCE).await;
    assert!(said.contains(&format!("locked by PID {pid} of role")), "{said}");
    // Rows that are published meanwhile.
    insert_spakky(&client, &world.topic, 100).await;
    assert_eq!(world.consume(102).await.len(), 102);
    let (_, ready) = get(address, "/readyz").await;
    assert!(ready.contains("\"stage\":\"write-back\"") && ready.contains("are locked by PID"), "{ready}");
    holder.batch_execute("COMMIT").await.unwrap();
    world.caught_up().await;
    assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 0);
    stop(relay).await;
    assert_eq!(world.consume(102).await.len(), 102, "nothing was sent twice");
}

/// A service has a row, and wants the next one, which the relay has: the relay gives way before the server has to choose.
#[tokio::test]
async fn a_service_is_not_the_victim_of_a_deadlock() {
    let world = World::new("deadlock", 1).await;
    let client = world.database.client().await;
    world.insert(&client, 2).await;
    let service = world.database.client().await;
    let second = "BEGIN; SELECT FROM outbox.messages WHERE payload->>'n' = '2' FOR UPDATE";
    service.batch_execute(second).await.unwrap();
    let relay = world.command(["run", "--write-back", "delete"]).streaming().await;
    for _ in 0..3 {
        let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM%'";
        eventually("the relay to wait", PATIENCE, async || {
            client.query_opt(waits, &[]).await.unwrap().map(drop)
        })
        .await;
        // Longer than the server lets somebody wait before it looks for a deadlock.
        sleep(Duration::from_millis(1_200)).await;
        let first =
            "SAVEPOINT s; SELECT FROM outbox.messages WHERE payload->>'n' = '1' FOR UPDATE; ROLLBACK TO s";
        service.batch_execute(first).await.unwrap();
    }
    service.batch_execute("COMMIT").await.unwrap();
    eventually("both to be deleted", PATIENCE, async || {
        (count(&client, "outbox.messages").await == 0).then_some(())
    })
    .await;
    stop(relay).await;
}
