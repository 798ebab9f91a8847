//! Rows that are sent later: not before their time, soon after it, in the order of their times.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, check, consume, eventually};
use crate::world::{World, stop};

/// How late a row may be on a busy machine.
const LATE: i64 = 1_000;

pub(crate) const COLUMN: &str = "ALTER TABLE outbox.messages ADD COLUMN scheduled_at timestamptz";

/// A world whose outbox tells when a row is due, and whose topic tells when a record has come.
pub(crate) async fn world_on(server: &PostgresServer, prefix: &str) -> (World, Client) {
    let world = World::on(server, KafkaBroker::shared().await, prefix, 1).await;
    world.set_topic("message.timestamp.type", "LogAppendTime").await;
    let client = world.database.client().await;
    client.batch_execute(COLUMN).await.unwrap();
    (world, client)
}

async fn world(prefix: &str) -> (World, Client) {
    world_on(PostgresServer::shared().await, prefix).await
}

/// Inserts a row for each of the values, due as the SQL expression over `v` says.
pub(crate) async fn insert(world: &World, client: &Client, values: &[i64], due: &str) {
    let sql = format!(
        "INSERT INTO outbox.messages (topic, key, payload, scheduled_at) SELECT $1, 'k', to_json(v), {due} \
         FROM unnest($2::int8[]) WITH ORDINALITY u (v, n) ORDER BY n"
    );
    client.execute(&sql, &[&world.topic, &values]).await.unwrap();
}

pub(crate) fn values(records: &[Consumed]) -> Vec<i64> {
    records
        .iter()
        .map(|record| std::str::from_utf8(record.payload.as_ref().unwrap()).unwrap().parse().unwrap())
        .collect()
}

/// When each message was due, in milliseconds since 1970.
pub(crate) async fn dues(client: &Client) -> HashMap<Uuid, i64> {
    let sql = "SELECT id, floor(extract(epoch FROM scheduled_at) * 1000)::int8 FROM outbox.messages WHERE isfinite(scheduled_at)";
    client.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

pub(crate) fn id(record: &Consumed) -> Uuid {
    record.header("id").unwrap().parse().unwrap()
}

/// No record has come before its time; returns how late the latest was, in milliseconds.
pub(crate) fn none_early(records: &[Consumed], dues: &HashMap<Uuid, i64>) -> i64 {
    let late = records.iter().filter_map(|record| {
        let late = record.timestamp.unwrap() - dues.get(&id(record))?;
        assert!(late >= 0, "{late} ms: {record:?}");
        Some(late)
    });
    late.max().unwrap_or_default()
}

pub(crate) async fn held(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM outbox.scheduled WHERE released_at IS NULL";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until the last row is due.
async fn all_due(client: &Client) {
    let due = "SELECT max(scheduled_at) < now() FROM outbox.messages";
    eventually("all to be due", PATIENCE, async || {
        client.query_one(due, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
}

async fn told(world: &World, command: &str) -> String {
    let output = world.command([command]).output().await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Among other rows, in one transaction and in several: what is due goes in its place, what is not waits, and the slot
/// goes on without it.
#[tokio::test]
async fn a_row_comes_when_it_is_due_and_the_slot_does_not_wait() {
    let (world, client) = world("later").await;
    let relay = world.relay().await;
    client.batch_execute("BEGIN").await.unwrap();
    insert(&world, &client, &[1], "now() + interval '6 s'").await;
    insert(&world, &client, &[2], "NULL").await;
    insert(&world, &client, &[3], "now() - interval '1 s'").await;
    insert(&world, &client, &[4], "now() + interval '5 s'").await;
    insert(&world, &client, &[5], "'infinity'").await;
    insert(&world, &client, &[6], "'-infinity'").await;
    client.batch_execute("COMMIT").await.unwrap();
    insert(&world, &client, &[7], "NULL").await;
    let at_once = world.consume(4).await;
    assert_eq!(values(&at_once), [2, 3, 6, 7]);
    let indexes: Vec<_> = at_once[..3].iter().map(|record| record.header("walpost.index").unwrap()).collect();
    assert_eq!(indexes, ["1", "2", "5"], "as if the others were sent");
    world.caught_up().await;
    assert_eq!(held(&client).await, 3, "confirmed, and not yet sent");
    let status = told(&world, "status").await;
    assert!(status.contains("held        3 rows wait, the next due 20"), "{status}");
    assert!(told(&world, "check").await.contains("outbox.scheduled: 3 rows wait, the next due 20"));

    let records = world.consume(6).await;
    assert_eq!(values(&records), [2, 3, 6, 7, 4, 1]);
    let dues = dues(&client).await;
    none_early(&records, &dues);
    let late = none_early(&records[4..], &dues);
    println!("{late} ms late");
    assert!(late < LATE, "{late}");
    let names =
        |record: &Consumed| -> Vec<String> { record.headers.iter().map(|(name, _)| name.clone()).collect() };
    assert_eq!(names(&records[4]), names(&records[0]));
    assert_eq!(records[4].key, records[0].key);
    world.caught_up().await;
    assert_eq!(held(&client).await, 1);

    // Whoever changes the time changes when it comes.
    let sooner = "UPDATE outbox.scheduled SET due = now() WHERE released_at IS NULL";
    client.batch_execute(sooner).await.unwrap();
    assert_eq!(values(&world.consume(7).await)[6..], [5]);
    stop(relay).await;
}

/// By their times, and not by when they were inserted, read or stored: also when the relay has been away.
#[tokio::test]
async fn the_order_is_that_of_the_times() {
    let (world, client) = world("order").await;
    let seed = fastrand::u64(..1 << 40);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut relay = Some(world.relay().await);
    for away in [false, true] {
        if away {
            stop(relay.take().unwrap()).await;
        }
        let mut numbers: Vec<i64> = (1..=3_000).collect();
        random.shuffle(&mut numbers);
        let due = "date_trunc('second', now()) + interval '3 s' + v / 10 * interval '5 ms'";
        for part in numbers.chunks(100) {
            insert(&world, &client, part, due).await;
        }
        if away {
            all_due(&client).await;
            relay = Some(world.relay().await);
        }
        let total = if away { 6_000 } else { 3_000 };
        let records = world.consume(total).await;
        assert_eq!(records.len(), total);
        let sql = "SELECT payload::text::int8 FROM outbox.messages ORDER BY scheduled_at, created_at, ctid";
        let expected: Vec<i64> = client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(values(&records) == expected, "away: {away}");
        println!("away {away}: {} ms late", none_early(&records, &dues(&client).await));
    }
    world.caught_up().await;
    assert_eq!(consume(&world.brokers, &world.topic, 6_000, Duration::from_secs(3)).await.len(), 6_000);
    stop(relay.unwrap()).await;
}

#[tokio::test]
async fn a_relay_that_was_away_sends_what_was_due_meanwhile() {
    let (world, client) = world("away").await;
    let relay = world.relay().await;
    insert(&world, &client, &[1], "now() + interval '2 s'").await;
    insert(&world, &client, &[2], "now() + interval '1 s'").await;
    insert(&world, &client, &[3], "NULL").await;
    assert_eq!(values(&world.consume(1).await), [3]);
    world.caught_up().await;
    stop(relay).await;
    insert(&world, &client, &[4], "now() + interval '2 s'").await;
    all_due(&client).await;
    let relay = world.relay().await;
    assert_eq!(values(&world.consume(4).await), [3, 2, 1, 4]);
    insert(&world, &client, &[5], "now() + interval '1 hour'").await;
    world.caught_up().await;
    stop(relay).await;
    client
        .batch_execute(
            "ALTER TABLE outbox.messages DROP COLUMN scheduled_at; UPDATE outbox.scheduled SET due = now()",
        )
        .await
        .unwrap();
    let relay = world.relay().await;
    assert_eq!(values(&world.consume(5).await), [3, 2, 1, 4, 5]);
    world.caught_up().await;
    stop(relay).await;
}

/// The column comes while the relay runs; rows from before it are not touched by it. A cancelled row never comes.
#[tokio::test]
async fn a_column_that_is_added_is_honoured_and_a_cancelled_row_never_comes() {
    let world = World::new("added", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let before = world.insert(&client, 2).await;
    client.batch_execute(COLUMN).await.unwrap();
    insert(&world, &client, &[1, 2], "now() + interval '2 s'").await;
    insert(&world, &client, &[3], "NULL").await;
    assert_eq!(world.consume(3).await.len(), 3);
    world.caught_up().await;
    let cancel = "DELETE FROM outbox.scheduled WHERE id = (SELECT id::text FROM outbox.messages WHERE payload::text = '1')";
    assert_eq!(client.execute(cancel, &[]).await.unwrap(), 1);
    let records = world.consume(4).await;
    assert_eq!(values(&records[2..]), [3, 2]);
    check(&before, &records[..2]).assert_exact();
    world.caught_up().await;
    assert_eq!(consume(&world.brokers, &world.topic, 4, Duration::from_secs(3)).await.len(), 4);
    stop(relay).await;
}

/// Two relays of one table, each with its slot: each sends every row once.
#[tokio::test]
async fn each_slot_has_its_own() {
    let (world, client) = world("slots").await;
    let other = crate::support::unique("other");
    let output = world.command(["setup"]).env("WALPOST_SLOT", &other).output().await;
    assert!(output.status.success(), "{output:?}");
    let relay = world.relay().await;
    let second = world.command(["run"]).env("WALPOST_SLOT", &other).streaming().await;
    insert(&world, &client, &[1, 2], "now() + v * interval '1 s'").await;
    let records = world.consume(4).await;
    assert_eq!(values(&records), [1, 1, 2, 2]);
    world.caught_up().await;
    assert_eq!(consume(&world.brokers, &world.topic, 4, Duration::from_secs(3)).await.len(), 4);
    stop(relay).await;
    stop(second).await;
}

/// The tables of other libraries, one in binary form, one as text; and what was there before the slot.
#[tokio::test]
async fn the_tables_of_others_are_honoured() {
    let open_outbox = "CREATE TABLE openoutbox_events (event_id UUID PRIMARY KEY DEFAULT gen_random_uuid(), event_type TEXT NOT NULL, \
         partition_key TEXT, payload BYTEA NOT NULL, headers JSONB NOT NULL DEFAULT '{\"a\": \"ü\"}', status TEXT NOT NULL DEFAULT 'PENDING', \
         available_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), none NUMERIC)";
    let k1s0 = "CREATE SCHEMA outbox; CREATE TABLE outbox.outbox_messages (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), topic TEXT NOT NULL, \
         partition_key TEXT NOT NULL, payload JSONB NOT NULL, status TEXT NOT NULL DEFAULT 'PENDING', \
         created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), process_after TIMESTAMPTZ NOT NULL DEFAULT NOW())";
    let mine = "CREATE TABLE jobs (id bigserial PRIMARY KEY, price numeric DEFAULT 1.50, blob bytea, run_at bigint NOT NULL)";
    let seconds = "extract(epoch FROM now() + $1::interval)::bigint";
    for (args, schema, insert, payload) in [
        (
            vec!["--preset", "open-outbox"],
            open_outbox,
            "INSERT INTO openoutbox_events (event_type, partition_key, payload, available_at) VALUES ('$topic', 'k', '\\x00ff', now() + $1::interval)"
                .to_owned(),
            &b"\x00\xff"[..],
        ),
        (
            vec!["--preset", "k1s0"],
            k1s0,
            "INSERT INTO outbox.outbox_messages (topic, partition_key, payload, process_after) VALUES ('$topic', 'k', '{\"b\": 1}', now() + $1::interval)"
                .to_owned(),
            b"{\"b\":1}",
        ),
        (
            vec!["--table", "jobs", "--map-topic", "$topic", "--map-key", "{id}", "--map-value", "{price}/{blob}", "--map-due", "{run_at} s", "--map-timestamp", "commit", "--map-own-headers", "no"],
            mine,
            format!("INSERT INTO jobs (blob, run_at) VALUES ('\\x61', {seconds})"),
            b"1.50/a",
        ),
    ] {
        let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "others", 1).await;
        let client = world.database.client().await;
        client.batch_execute(schema).await.unwrap();
        let args: Vec<_> = args.iter().map(|arg| arg.replace("$topic", &world.topic)).collect();
        let insert = |span: &str| {
            let sql = insert.replace("$topic", &world.topic).replace("$1", &format!("'{span}'"));
            let client = &client;
            async move { client.batch_execute(&sql).await.unwrap() }
        };
        insert("1 hour").await;
        let setup = world.command(["setup", "--backfill", "pending"]).args(&args).output().await;
        assert!(setup.status.success(), "{setup:?}");
        let relay = world.command(["run"]).args(&args).streaming().await;
        insert("1 hour").await;
        insert("-1 s").await;
        let first = world.consume(1).await;
        world.caught_up().await;
        let table = if schema == k1s0 { "outbox.scheduled" } else { "public.scheduled" };
        let waited = format!("SELECT count(*) FROM {table}");
        assert_eq!(client.query_one(&waited, &[]).await.unwrap().get::<_, i64>(0), 2, "{args:?}");
        client.batch_execute(&format!("UPDATE {table} SET due = now()")).await.unwrap();
        let records = world.consume(3).await;
        assert_eq!(records.len(), 3);
        for record in &records {
            assert_eq!(record.payload.as_deref(), Some(payload), "{args:?}");
            let seen = |record: &Consumed| -> Vec<_> {
                record.headers.iter().filter(|(name, _)| name == "a").cloned().collect()
            };
            assert_eq!(seen(record), seen(&first[0]));
        }
        stop(relay).await;
    }
}

/// A time that can't be read goes the way of every row that is no message, and so does one that Kafka refuses.
#[tokio::test]
async fn what_is_missing_is_named_and_what_is_refused_is_parked() {
    let (world, client) = world("missing").await;
    client.batch_execute("DROP TABLE outbox.scheduled").await.unwrap();
    for command in ["check", "run"] {
        let output = world.command([command]).output().await;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("table outbox.scheduled does not exist") && text.contains("walpost setup"),
            "{text}"
        );
    }
    let output = world.command(["check", "--map-due", "none"]).output().await;
    assert!(output.status.success(), "{output:?}");
    world.set_up(&[]).await;

    let relay = world.command(["run", "--on-refusal", "dead-letter", "--max-retries", "0"]).streaming().await;
    world.set_message_size("1000").await;
    let large = "INSERT INTO outbox.messages (topic, key, payload, scheduled_at) SELECT $1, 'k', to_json(repeat(md5(v::text), 100)), \
               now() + v * interval '1 s' FROM generate_series(0, 1) v ORDER BY v DESC";
    client.execute(large, &[&world.topic]).await.unwrap();
    let parked = "SELECT octet_length(payload), index FROM outbox.dead_letters ORDER BY commit_lsn";
    let parked = eventually("both to be parked", PATIENCE, async || {
        let rows = client.query(parked, &[]).await.unwrap();
        (rows.len() == 2).then_some(rows)
    })
    .await;
    // Each at its place, the one behind the one that waits, the other where it was released.
    let parked: Vec<(i32, i64)> = parked.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(parked, [(3_202, 1), (3_202, 0)]);
    // The log tells of the release before others see it.
    eventually("no row to wait", PATIENCE, async || (held(&client).await == 0).then_some(())).await;
    stop(relay).await;
}

#[tokio::test]
async fn partitions_hold_rows_for_later_too() {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "parts", 1).await;
    let client = world.database.client().await;
    let table = "CREATE SCHEMA outbox; CREATE TABLE outbox.messages (id uuid NOT NULL DEFAULT gen_random_uuid(), topic text NOT NULL, \
         key text, payload json, event_type text, headers jsonb NOT NULL DEFAULT '{}', correlation_id text, \
         created_at timestamptz NOT NULL DEFAULT now(), scheduled_at timestamptz, PRIMARY KEY (id, created_at)) \
         PARTITION BY RANGE (created_at); CREATE TABLE outbox.rest PARTITION OF outbox.messages DEFAULT";
    client.batch_execute(table).await.unwrap();
    world.set_up(&[]).await;
    let relay = world.relay().await;
    insert(&world, &client, &[1, 2], "now() + (3 - v) * interval '500 ms'").await;
    insert(&world, &client, &[3], "NULL").await;
    assert_eq!(values(&world.consume(3).await), [3, 2, 1]);
    stop(relay).await;
}

/// A row that is sent again on purpose waits for its time as well, and bears the mark all the same.
#[tokio::test]
async fn a_replay_waits_too() {
    let (world, client) = world("replay").await;
    let relay = world.relay().await;
    insert(&world, &client, &[1], "now() + interval '1 hour'").await;
    let output = world.command(["replay", "--where", "true"]).output().await;
    assert!(output.status.success(), "{output:?}");
    eventually("both to wait", PATIENCE, async || (held(&client).await == 2).then_some(())).await;
    world.caught_up().await;
    client.batch_execute("UPDATE outbox.scheduled SET due = now()").await.unwrap();
    let records = world.consume(2).await;
    assert_eq!(values(&records), [1, 1]);
    let marks: Vec<_> = records.iter().map(|record| record.header("walpost.replay").is_some()).collect();
    assert_eq!(marks, [false, true]);
    stop(relay).await;
}

/// Of two tables that one slot serves, each row is known by its own mapping when it comes back.
#[tokio::test]
async fn rows_of_several_tables_wait_in_one() {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "two", 1).await;
    let client = world.database.client().await;
    let jobs = "CREATE SCHEMA jobs; CREATE TABLE jobs.queue (id uuid DEFAULT gen_random_uuid(), run_at bigint, note text)";
    client.batch_execute(jobs).await.unwrap();
    let topic = format!("jobs.queue: topic={}", world.topic);
    let mut args = vec!["--table", "outbox.messages", "--table", "jobs.queue", "--map-for", &topic];
    for entry in ["value={note}", "key=none", "timestamp=none", "due={run_at} s"] {
        args.extend(["--map-for", Box::leak(format!("jobs.queue: {entry}").into_boxed_str())]);
    }
    world.set_up(&args).await;
    client.batch_execute(COLUMN).await.unwrap();
    let relay = world.command(["run"]).args(&args).streaming().await;
    insert(&world, &client, &[1, 3], "now() + v * interval '1500 ms'").await;
    let job = "INSERT INTO jobs.queue (run_at, note) VALUES (extract(epoch FROM now() + interval '3 s')::bigint, '2')";
    client.batch_execute(job).await.unwrap();
    assert_eq!(values(&world.consume(3).await), [1, 2, 3]);
    stop(relay).await;
}
