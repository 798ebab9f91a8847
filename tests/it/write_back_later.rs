//! A row that is held back until later is written back when it is published, and not when it is only held.

use tokio_postgres::Client;

use crate::support::{PATIENCE, eventually};
use crate::world::{World, stop};
use crate::write_back::{count, world};
use crate::write_back_needs::{wait_for_standby, without_its_standby};

pub(crate) const K1S0: &str = "CREATE SCHEMA outbox; CREATE TABLE outbox.outbox_messages (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), \
    topic TEXT NOT NULL, partition_key TEXT NOT NULL, payload JSONB NOT NULL, status TEXT NOT NULL DEFAULT 'PENDING', \
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), process_after TIMESTAMPTZ NOT NULL DEFAULT NOW())";
const OPEN_OUTBOX: &str = "CREATE TABLE openoutbox_events (event_id UUID PRIMARY KEY DEFAULT gen_random_uuid(), event_type TEXT NOT NULL, \
    partition_key TEXT, payload BYTEA NOT NULL, headers JSONB NOT NULL DEFAULT '{}', status TEXT NOT NULL DEFAULT 'PENDING', \
    attempts INT NOT NULL DEFAULT 0, available_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), locked_by TEXT, locked_at TIMESTAMPTZ, \
    delivered_at TIMESTAMPTZ, created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), updated_at TIMESTAMPTZ)";
/// The key holds a time, and the log may have that in binary form.
const PARTITIONED: &str = "CREATE SCHEMA outbox; CREATE TABLE outbox.messages (id uuid NOT NULL DEFAULT gen_random_uuid(), topic text NOT NULL, \
    key text, payload json, headers jsonb NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL DEFAULT now(), sent timestamptz, \
    scheduled_at timestamptz, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at); \
    CREATE TABLE outbox.rest PARTITION OF outbox.messages DEFAULT";

const INSERT_K1S0: &str = "INSERT INTO outbox.outbox_messages (topic, partition_key, payload, process_after) SELECT $1, 'k', '1', now() + v * interval '1 ms' FROM unnest($2::int8[]) v";
const INSERT_OPEN_OUTBOX: &str = "INSERT INTO openoutbox_events (event_type, payload, available_at) SELECT $1, 'x', now() + v * interval '1 ms' FROM unnest($2::int8[]) v";
const INSERT_PARTITIONED: &str = "INSERT INTO outbox.messages (topic, payload, scheduled_at) SELECT $1, '1', now() + v * interval '1 ms' FROM unnest($2::int8[]) v";

/// Never, as far as a test goes.
const HOUR: i64 = 3_600_000;

async fn insert(world: &World, client: &Client, sql: &str, after: &[i64]) {
    client.execute(sql, &[&world.topic, &after]).await.unwrap();
}

#[tokio::test]
async fn a_held_row_is_written_back_once_it_is_published() {
    for (preset, schema, sql, table, written, held, more) in [
        (
            "k1s0",
            K1S0,
            INSERT_K1S0,
            "outbox.outbox_messages",
            Some("status = 'DELIVERED'"),
            "outbox.scheduled",
            [].as_slice(),
        ),
        ("k1s0", K1S0, INSERT_K1S0, "outbox.outbox_messages", None, "outbox.scheduled", &[]),
        (
            "open-outbox",
            OPEN_OUTBOX,
            INSERT_OPEN_OUTBOX,
            "openoutbox_events",
            Some("delivered_at IS NOT NULL"),
            "scheduled",
            &[],
        ),
        ("open-outbox", OPEN_OUTBOX, INSERT_OPEN_OUTBOX, "openoutbox_events", None, "scheduled", &[]),
        (
            "walpost",
            PARTITIONED,
            INSERT_PARTITIONED,
            "outbox.messages",
            Some("sent IS NOT NULL"),
            "outbox.scheduled",
            &["--map-mark", "sent=now"],
        ),
        ("walpost", PARTITIONED, INSERT_PARTITIONED, "outbox.messages", None, "outbox.scheduled", &[]),
    ] {
        let (world, client) = world(schema, 1).await;
        world.set_up(&["--preset", preset]).await;
        let mode = if written.is_some() { "mark" } else { "delete" };
        let relay =
            world.command(["run", "--preset", preset, "--write-back", mode]).args(more).streaming().await;
        // How many of the four rows are as they were.
        let untouched = async || {
            let condition = written.map_or("true".to_owned(), |written| format!("NOT ({written})"));
            count(&client, &format!("{table} WHERE {condition}")).await
        };
        insert(&world, &client, sql, &[-1, HOUR, HOUR, HOUR]).await;
        assert_eq!(world.consume(1).await.len(), 1);
        world.caught_up().await;
        let waiting = format!("{held} WHERE released_at IS NULL");
        assert_eq!((untouched().await, count(&client, &waiting).await), (3, 3), "{preset} {mode}: only held");

        // Cancelled, it is never published, and stays as it is.
        let one = format!("SELECT id FROM {held} WHERE released_at IS NULL ORDER BY index LIMIT 1");
        client.batch_execute(&format!("DELETE FROM {held} WHERE id = ({one})")).await.unwrap();
        client.batch_execute(&format!("UPDATE {held} SET due = now() WHERE id = ({one})")).await.unwrap();
        assert_eq!(world.consume(2).await.len(), 2);
        world.caught_up().await;
        assert_eq!(
            (untouched().await, count(&client, &waiting).await),
            (2, 1),
            "{preset} {mode}: one is released"
        );
        client.batch_execute(&format!("UPDATE {held} SET due = now()")).await.unwrap();
        assert_eq!(world.consume(3).await.len(), 3);
        world.caught_up().await;
        assert_eq!(untouched().await, 1, "{preset} {mode}: the cancelled one");
        stop(relay).await;
    }
}

/// The log tells of a transaction before others see it. When a row of it is due by then, it is not taken for gone.
#[tokio::test]
async fn a_held_row_that_nobody_sees_yet_waits_until_it_can_be_marked() {
    let (_server, world, client) = without_its_standby(K1S0, "k1s0").await;
    let relay = world.command(["run", "--preset", "k1s0", "--write-back", "mark"]).streaming().await;
    let (patient, topic) = (world.database.client().await, world.topic.clone());
    patient.batch_execute("SET synchronous_commit = on").await.unwrap();
    let inserting = tokio::spawn(async move {
        patient.execute(INSERT_K1S0, &[&topic, &[2_000_i64, 2_100, 2_200].as_slice()]).await.unwrap();
    });
    eventually("the rows to be held, and long due", PATIENCE, async || {
        let due = count(&client, "outbox.scheduled WHERE due < now() - interval '1 s'").await;
        (due == 3).then_some(())
    })
    .await;
    assert_eq!(world.consume(0).await.len(), 0, "published, and can't be marked");
    wait_for_standby(&client, "").await;
    inserting.await.unwrap();
    assert_eq!(world.consume(3).await.len(), 3);
    world.caught_up().await;
    assert_eq!(count(&client, "outbox.outbox_messages WHERE status = 'PENDING'").await, 0);
    stop(relay).await;
}
