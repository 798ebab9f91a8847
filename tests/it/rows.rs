//! Rows that are sent through the log once more: those from before the slot, and those that somebody chooses.

use std::collections::HashSet;
use std::time::Duration;

use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, consume, eventually};
use crate::world::{World, stop};

const OLD_TABLE: &str = "CREATE TABLE outbox_messages (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text, payload bytea, \
     status text DEFAULT 'Pending', n bigserial, \"Odd name\" json DEFAULT '{\"a\" :1}', created_at timestamp DEFAULT now())";

async fn world(prefix: &str) -> World {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, prefix, 1).await;
    world.database.client().await.batch_execute(OLD_TABLE).await.unwrap();
    world
}

/// What a service of the old days does.
fn insert(topic: &str, values: std::ops::RangeInclusive<u32>, status: &str) -> String {
    let (first, last) = (values.start(), values.end());
    format!(
        "INSERT INTO outbox_messages (topic, payload, status) SELECT '{topic}', convert_to(v::text, 'UTF8'), '{status}' \
         FROM generate_series({first}, {last}) v"
    )
}

fn values(records: &[Consumed]) -> Vec<u32> {
    records
        .iter()
        .map(|record| std::str::from_utf8(record.payload.as_ref().unwrap()).unwrap().parse().unwrap())
        .collect()
}

/// Everything in the topic once the slot has confirmed all that was written.
async fn all(world: &World, least: usize) -> Vec<Consumed> {
    let _ = world.consume(least).await;
    world.caught_up().await;
    consume(&world.brokers, &world.topic, least, Duration::from_secs(10)).await
}

#[tokio::test]
async fn rows_from_before_the_slot_come_first_once_and_as_their_table_says() {
    for (backfill, expected) in
        [("pending", vec![1, 2, 3, 7, 8]), ("all", vec![1, 2, 3, 4, 5, 6, 7, 8]), ("none", vec![8])]
    {
        let world = world("before").await;
        let client = world.database.client().await;
        for (rows, status) in [(1..=3, "Pending"), (4..=6, "Published"), (7..=7, "Pending")] {
            client.batch_execute(&insert(&world.topic, rows, status)).await.unwrap();
        }
        let args = [
            "setup",
            "--preset",
            "k1s0-csharp",
            "--backfill",
            backfill,
            "--map-headers",
            "odd={\"Odd name\"}, id={id}",
        ];
        for _ in 0..2 {
            let output = world.command(args).output().await;
            assert!(output.status.success(), "{output:?}");
        }
        client.batch_execute(&insert(&world.topic, 8..=8, "Pending")).await.unwrap();
        let args = ["run", "--preset", "k1s0-csharp", "--map-headers", "odd={\"Odd name\"}, id={id}"];
        let relay = world.command(args).spawn();
        let records = all(&world, expected.len()).await;
        assert_eq!(values(&records), expected, "{backfill}");
        for record in &records {
            let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((names, record.header("odd")), (vec!["odd", "id"], Some("{\"a\" :1}")));
        }
        stop(relay).await;
    }
}

/// Services go on inserting while the slot is made, and set-up dies at any moment: no row is lost, none comes twice, all
/// in the order in which they were inserted.
#[tokio::test]
async fn no_gap_and_no_overlap_while_services_write_and_set_up_dies() {
    let world = world("cut_over").await;
    let client = world.database.client().await;
    client.batch_execute(&insert(&world.topic, 1..=2_000, "Pending")).await.unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let topic = world.topic.clone();
    let writer = tokio::spawn(async move {
        let (mut value, mut ended) = (2_000, ended);
        while ended.try_recv().is_err() {
            value += 1;
            client.batch_execute(&insert(&topic, value..=value, "Pending")).await.unwrap();
        }
        value
    });
    let args = ["setup", "--preset", "k1s0-csharp", "--backfill", "pending"];
    let seed = fastrand::u64(..1 << 40);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        let mut setup = world.command(args).spawn();
        let patience = Duration::from_millis(random.u64(1..150));
        // Dies wherever it is by then, or has ended.
        if tokio::time::timeout(patience, async { setup.wait(PATIENCE).await }).await.is_err() {
            setup.kill().await;
        }
    }
    let output = world.command(args).output().await;
    assert!(output.status.success(), "{output:?}");
    let mut relay = world.command(["run", "--preset", "k1s0-csharp"]).spawn();
    world.consume(500).await;
    end.send(()).unwrap();
    let last = writer.await.unwrap();
    relay.terminate();
    relay.wait(PATIENCE).await;
    let relay = world.command(["run", "--preset", "k1s0-csharp"]).spawn();
    let records = all(&world, last as usize).await;
    assert!(values(&records).into_iter().eq(1..=last), "each once, in the order of insertion");
    let client = world.database.client().await;
    let left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walpost\\_%' AND database = current_database()";
    eventually("no slot of a set-up that died", PATIENCE, async || {
        (client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    stop(relay).await;
}

/// The relay dies in the middle of the rows: they come again from the last confirmation, none is left out.
#[tokio::test]
async fn a_relay_that_dies_amid_old_rows_goes_on() {
    let world = world("resume").await;
    let client = world.database.client().await;
    client.batch_execute(&insert(&world.topic, 1..=20_000, "Pending")).await.unwrap();
    let output = world.command(["setup", "--preset", "k1s0-csharp", "--backfill", "all"]).output().await;
    assert!(output.status.success(), "{output:?}");
    for _ in 0..3 {
        let mut relay = world.command(["run", "--preset", "k1s0-csharp"]).spawn();
        relay.wait_for_log("streaming", PATIENCE).await;
        world.consume(1).await;
        relay.kill().await;
        world.slot_is_free().await;
    }
    let relay = world.command(["run", "--preset", "k1s0-csharp"]).spawn();
    let records = all(&world, 20_000).await;
    let mut seen = HashSet::new();
    let first: Vec<_> = values(&records).into_iter().filter(|value| seen.insert(*value)).collect();
    assert!(first.into_iter().eq(1..=20_000), "first arrivals in order");
    stop(relay).await;
}

#[tokio::test]
async fn chosen_rows_are_sent_again_with_a_mark() {
    let world = World::new("again", 1).await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload, headers, created_at) SELECT $1, 'k' || v % 2, to_json(v), \
               CASE WHEN v = 4 THEN '{}' ELSE '{\"of\": \"row\"}' END::jsonb, '2026-01-01'::timestamptz + v * interval '1 day' \
               FROM generate_series(1, 6) v";
    client.execute(sql, &[&world.topic]).await.unwrap();
    let before = world.consume(6).await;
    assert!(before.iter().all(|record| record.header("walpost.replay").is_none()));
    for (args, count) in
        [(["--where", "key = 'k0'"], 3), (["--since", "2026-01-06 00:00+00"], 2), (["--where", "false"], 0)]
    {
        let output = world.command(["replay"]).args(args).output().await;
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(&format!("{count} rows of outbox.messages")), "{told}");
    }
    let records = all(&world, 11).await;
    let values: Vec<_> = records[6..]
        .iter()
        .map(|record| String::from_utf8(record.payload.clone().unwrap()).unwrap())
        .collect();
    assert_eq!(values, ["2", "4", "6", "5", "6"]);
    for again in &records[6..] {
        let first = before.iter().find(|record| record.payload == again.payload).unwrap();
        assert_eq!(
            (&first.key, first.timestamp, first.header("id")),
            (&again.key, again.timestamp, again.header("id"))
        );
        assert_eq!(first.header("of"), again.header("of"));
        assert!(again.header("walpost.replay").is_some_and(|at| at.starts_with("20")));
        assert_ne!(first.header("walpost.lsn"), again.header("walpost.lsn"));
    }
    let output = world.command(["replay", "--where", "no such thing"]).output().await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = world.command(["replay"]).output().await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    stop(relay).await;
}

/// A value's text in the stream is not what a cast to text makes of it; rows of tables that inherit are not in the stream.
#[tokio::test]
async fn a_row_that_is_sent_again_is_the_same_to_the_byte() {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "same", 3).await;
    let client = world.database.client().await;
    let table = "CREATE TYPE pair AS (a int, b text); CREATE TABLE events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), k char(8), \
        address inet, network cidr, letter \"char\", yes bool, price float8, two pair, names text[], raw bytea, day date, \
        at timestamptz, span interval, cash numeric(9,3)); CREATE TABLE events_of_shop () INHERITS (events)";
    client.batch_execute(table).await.unwrap();
    let value = "object(k={k}, address={address}, network={network}, letter={letter}, yes={yes}, price={price}, two={two}, \
        names={names}, raw={raw}, day={day}, at={at}, span={span}, cash={cash})";
    let args = [
        "--table",
        "events",
        "--map-topic",
        &world.topic,
        "--map-key",
        "{k}",
        "--map-value",
        value,
        "--map-timestamp",
        "none",
        "--map-headers",
        "address={address}, network={network}",
    ];
    let with = |command| world.command([command]).args(args);
    let output = with("setup").output().await;
    assert!(output.status.success(), "{output:?}");
    let relay = with("run").spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let row = "'k', '10.0.0.1', '10.0.0.0/8', 'x', true, 0.1, (NULL, 'b'), '{a,NULL,\"b c\"}', 'raw', '2026-01-02', \
        '2026-01-02 03:04:05.6+01', '1 day 2 hours', 1.5";
    let columns = "k, address, network, letter, yes, price, two, names, raw, day, at, span, cash";
    let insert = format!(
        "INSERT INTO events ({columns}) VALUES ({row}); INSERT INTO events DEFAULT VALUES; \
        INSERT INTO events_of_shop ({columns}) VALUES ({row})"
    );
    client.batch_execute(&insert).await.unwrap();
    let _ = world.consume(2).await;
    let output = with("replay").args(["--where", "true"]).output().await;
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("2 rows"),
        "{output:?}"
    );
    let records = all(&world, 4).await;
    let again: Vec<_> = records.iter().filter(|record| record.header("walpost.replay").is_some()).collect();
    assert_eq!(again.len(), 2);
    for again in again {
        let same = |first: &&Consumed| {
            first.header("id") == again.header("id") && first.header("walpost.replay").is_none()
        };
        let first = records.iter().find(same).unwrap();
        let shown =
            |record: &Consumed| String::from_utf8_lossy(record.payload.as_ref().unwrap()).into_owned();
        assert_eq!(shown(first), shown(again));
        assert_eq!(first.key, again.key);
        // Without a key it goes where its place in the log says, and that is another one.
        assert!(first.key.is_none() || first.partition == again.partition);
        for name in ["address", "network"] {
            assert_eq!(first.header(name), again.header(name), "{name}");
        }
    }
    stop(relay).await;
}
