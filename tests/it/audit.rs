//! `walpost audit`: what is lost, changed, out of order or repeated, and what only looks so.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio_postgres::Client;

use crate::later;
use crate::support::kafka::config;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer};
use crate::world::{World, stop};

/// Exit code, the JSON, and what stands on stderr.
pub(crate) async fn audit(world: &World, args: &[&str]) -> (i32, Value, String) {
    let output = world.command(["audit", "--json"]).args(args).output().await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    (output.status.code().unwrap(), told, stderr)
}

/// The same as people read it.
pub(crate) async fn text(world: &World, args: &[&str]) -> String {
    let output = world.command(["audit"]).args(args).output().await;
    String::from_utf8(output.stdout).unwrap()
}

/// The counts that are not zero.
pub(crate) fn counts(told: &Value) -> Vec<(String, u64)> {
    let counts =
        told.as_object().unwrap().iter().filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)));
    counts.filter(|(_, count)| *count > 0).collect()
}

pub(crate) fn expected(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    counts.sort();
    counts
}

/// Loses, on purpose, what the relay has not sent yet.
pub(crate) async fn lose(world: &World, client: &Client) {
    world.slot_is_free().await;
    let sql = "SELECT pg_replication_slot_advance($1::text::name, pg_current_wal_lsn())";
    client.query_one(sql, &[&world.slot]).await.unwrap();
}

/// Sends records as somebody else would: id, value, and the position's last part; the key is always `k`.
pub(crate) async fn send(world: &World, records: &[(String, String, u32)]) {
    let (brokers, topic, records) = (world.brokers.clone(), world.topic.clone(), records.to_owned());
    let write = move || {
        let producer: BaseProducer = config(&brokers).create().unwrap();
        for (id, value, lsn) in &records {
            let lsn = format!("0/{lsn:X}");
            let header = |key, value| Header { key, value: Some(value) };
            let headers = OwnedHeaders::new()
                .insert(header("id", id.as_str()))
                .insert(header("walpost.lsn", lsn.as_str()))
                .insert(header("walpost.index", "0"));
            let record: BaseRecord<'_, str, str> =
                BaseRecord::to(&topic).partition(0).key("k").payload(value.as_str()).headers(headers);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    };
    spawn_blocking(write).await.unwrap();
}

#[tokio::test]
async fn what_is_not_sent_yet_is_no_loss_and_what_was_passed_over_is() {
    let world = World::new("audit", 3).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    world.insert(&client, 100).await;
    world.consume(100).await;
    world.caught_up().await;
    let (code, told, stderr) = audit(&world, &[]).await;
    assert_eq!(
        (code, counts(&told)),
        (0, expected(&[("rows", 100), ("records", 100), ("published", 100)])),
        "{stderr}"
    );
    assert_eq!((&told["ok"], &told["verdict"], &told["no_row"]), (&true.into(), &"ok".into(), &0.into()));
    stop(relay).await;

    let ids = world.insert(&client, 3).await;
    let waiting = [("rows", 103), ("records", 100), ("published", 100), ("not_yet", 3)];
    let (code, told, stderr) = audit(&world, &[]).await;
    assert_eq!((code, counts(&told)), (0, expected(&waiting)), "{stderr}");

    lose(&world, &client).await;
    let (code, told, stderr) = audit(&world, &["--show", "3"]).await;
    let missing = [("rows", 103), ("records", 100), ("published", 100), ("lost", 3)];
    assert_eq!((code, counts(&told)), (1, expected(&missing)), "{stderr}");
    let mut found: Vec<_> =
        told["examples"].as_array().unwrap().iter().map(|lost| lost["id"].as_str().unwrap()).collect();
    let mut wanted: Vec<_> = ids.iter().map(ToString::to_string).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert!(stderr.contains("advice: walpost replay --where \"id IN ('"), "{stderr}");
    let said = text(&world, &["--show", "1"]).await;
    assert!(said.starts_with("LOST: 3 of 103 rows are in no topic\n"), "{said}");
    // The rows of another time are all there.
    let (code, told, stderr) = audit(&world, &["--until", "2020-01-01"]).await;
    assert_eq!((code, counts(&told)), (0, vec![]), "{stderr}");

    // What the advice says mends it.
    let condition = told_condition(&world).await;
    let output = world.command(["replay", "--where", &condition]).output().await;
    assert!(output.status.success(), "{output:?}");
    // They are on their way: whoever believed otherwise would send them twice.
    let (code, told, stderr) = audit(&world, &[]).await;
    assert_eq!((code, counts(&told)), (0, expected(&waiting)), "{stderr}");
    let relay = world.relay().await;
    world.consume(103).await;
    world.caught_up().await;
    let (code, told, stderr) = audit(&world, &[]).await;
    let mended = [("rows", 103), ("records", 103), ("published", 103)];
    assert_eq!((code, counts(&told)), (0, expected(&mended)), "{stderr}");
    stop(relay).await;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walpost_audit_%' \
                 AND database = current_database()";
    assert_eq!(client.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0, "the copies are gone");
}

async fn told_condition(world: &World) -> String {
    let (_, told, _) = audit(world, &[]).await;
    told["replay"][0].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_a_topic_holds_is_held_against_the_rows() {
    let world = World::new("auditeach", 1).await;
    let client = world.database.client().await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload) SELECT $1, 'k', to_json('secret' || v) \
               FROM generate_series(1, 5) v RETURNING id::text, payload::text";
    let rows = client.query(sql, &[&world.topic]).await.unwrap();
    let row = |index: usize, lsn| (rows[index].get::<_, String>(0), rows[index].get::<_, String>(1), lsn);
    lose(&world, &client).await;
    let changed = (row(3, 0).0, "\"other secret\"".to_owned(), 40);
    let stranger = ("00000000-0000-0000-0000-000000000007".to_owned(), "1".to_owned(), 50);
    // The second row stands before the first one, which comes twice; the fifth is missing.
    send(&world, &[row(1, 20), row(0, 10), row(2, 30), row(0, 10), changed, stranger]).await;
    let (code, told, stderr) = audit(&world, &[]).await;
    let wanted = [
        ("rows", 5),
        ("records", 6),
        ("published", 4),
        ("lost", 1),
        ("different", 1),
        ("out_of_order", 1),
        ("repeated", 1),
        ("no_row", 1),
    ];
    assert_eq!((code, counts(&told)), (1, expected(&wanted)), "{stderr}");
    let examples: Vec<_> = told["examples"].as_array().unwrap().iter().collect();
    let example = |kind: &str| examples.iter().find(|example| example["kind"] == kind).copied().unwrap();
    let place = |kind: &str| (example(kind)["id"].clone(), example(kind)["offset"].clone());
    assert_eq!(place("lost"), (row(4, 0).0.into(), Value::Null));
    assert_eq!(place("out_of_order"), (row(0, 0).0.into(), 1.into()));
    assert_eq!(place("repeated"), (row(0, 0).0.into(), 3.into()));
    assert_eq!(place("different"), (row(3, 0).0.into(), 4.into()));
    assert_eq!(example("different")["parts"], serde_json::json!(["value"]));
    assert_eq!(example("out_of_order")["position"], "0/A+0");
    let said = text(&world, &[]).await + &told.to_string() + &stderr;
    assert!(!said.contains("secret"), "{said}");

    // Of a choice of rows the others are no strangers.
    let condition = format!("id = '{}'", row(2, 0).0);
    let (code, told, stderr) = audit(&world, &["--where", &condition]).await;
    assert_eq!((code, told["published"].as_u64(), &told["no_row"]), (0, Some(1), &Value::Null), "{stderr}");
    for wrong in ["true); SELECT (1", "nothing = 1"] {
        let output = world.command(["audit", "--where", wrong]).output().await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    }
}

#[tokio::test]
async fn repeats_alone_are_no_fault() {
    let world = World::new("auditkill", 2).await;
    let client = world.database.client().await;
    world.insert(&client, 5_000).await;
    for _ in 0..2 {
        let mut relay = world.relay().await;
        world.consume(1).await;
        relay.kill().await;
        world.slot_is_free().await;
    }
    let relay = world.relay().await;
    world.consume(5_000).await;
    world.caught_up().await;
    let (code, told, stderr) = audit(&world, &[]).await;
    assert_eq!((code, &told["published"], &told["lost"]), (0, &5_000.into(), &0.into()), "{stderr}");
    assert_eq!(told["records"].as_u64(), told["repeated"].as_u64().map(|repeats| repeats + 5_000));
    stop(relay).await;
}

#[tokio::test]
async fn parked_and_held_rows_are_not_lost() {
    let world = World::on(PostgresServer::shared().await, KafkaBroker::shared().await, "auditheld", 1).await;
    let client = world.database.client().await;
    client.batch_execute(later::COLUMN).await.unwrap();
    let relay = world.command(["run", "--map-due", "{scheduled_at}"]).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    later::insert(&world, &client, &[1, 2, 3], "CASE WHEN v = 2 THEN now() + interval '1 day' END").await;
    world.consume(2).await;
    world.caught_up().await;
    stop(relay).await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, 'p', '4'), ($1, 'p', '5') RETURNING id";
    let ids = client.query(sql, &[&world.topic]).await.unwrap();
    lose(&world, &client).await;
    let letter = "INSERT INTO outbox.dead_letters (slot, commit_lsn, index, id, topic, error, attempts, done_at, outcome) \
                  SELECT $1::text, '0/1', n, id, 't', 'e', 1, CASE n WHEN 2 THEN now() END, CASE n WHEN 2 THEN 'discarded' END \
                  FROM unnest($2::uuid[]) WITH ORDINALITY u (id, n)";
    let ids: Vec<uuid::Uuid> = ids.iter().map(|row| row.get(0)).collect();
    client.execute(letter, &[&world.slot, &ids]).await.unwrap();
    let (code, told, stderr) = audit(&world, &["--map-due", "{scheduled_at}"]).await;
    let wanted =
        [("rows", 5), ("records", 2), ("published", 2), ("held", 1), ("parked", 1), ("discarded", 1)];
    assert_eq!((code, counts(&told)), (0, expected(&wanted)), "{stderr}");
}

/// Tables of others: the same mapping makes the expected records, also of rows that were marked as published since.
#[tokio::test]
async fn tables_of_others_are_audited_by_their_preset() {
    const DEBEZIUM: &str = "CREATE TABLE outboxevent (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), \
         aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255), payload jsonb)";
    const CSHARP: &str = "CREATE TABLE outbox_messages (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text, \
         payload bytea, status text DEFAULT 'Pending', created_at timestamp DEFAULT now(), updated_at timestamptz)";
    for (preset, table, insert) in [
        (
            "debezium",
            DEBEZIUM,
            "INSERT INTO outboxevent (aggregatetype, aggregateid, payload) \
             SELECT 'TOPIC', v % 3, jsonb_build_object('b', v, 'a', 1.50) FROM generate_series(1, 50) v",
        ),
        (
            "k1s0-csharp",
            CSHARP,
            "INSERT INTO outbox_messages (topic, payload) SELECT 'TOPIC', convert_to('é' || v, 'UTF8') \
             FROM generate_series(1, 50) v",
        ),
    ] {
        let mut world =
            World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "auditof", 2).await;
        let name = world.topic.clone();
        if preset == "debezium" {
            world.topic = format!("outbox.event.{name}");
            KafkaBroker::shared().await.create_topic(&world.topic, 2).await;
        }
        let client = world.database.client().await;
        client.batch_execute(table).await.unwrap();
        let output = world.command(["setup", "--preset", preset]).output().await;
        assert!(output.status.success(), "{output:?}");
        let relay = world.command(["run", "--preset", preset]).spawn();
        relay.wait_for_log("streaming", PATIENCE).await;
        let insert = insert.replace("TOPIC", &name);
        client.batch_execute(&insert).await.unwrap();
        world.consume(50).await;
        world.caught_up().await;
        stop(relay).await;
        if preset == "k1s0-csharp" {
            client.batch_execute("UPDATE outbox_messages SET status = 'Published'").await.unwrap();
        }
        let (code, told, stderr) = audit(&world, &["--preset", preset]).await;
        let whole = [("rows", 50), ("records", 50), ("published", 50)];
        assert_eq!((code, counts(&told)), (0, expected(&whole)), "{preset} {stderr}");

        client.batch_execute(&insert).await.unwrap();
        lose(&world, &client).await;
        let (code, told, stderr) = audit(&world, &["--preset", preset]).await;
        // Without an id a record is what it says: of rows that say the same, it counts how many.
        let missing = [("rows", 100), ("records", 50), ("published", 50), ("lost", 50)];
        assert_eq!((code, counts(&told)), (1, expected(&missing)), "{preset} {stderr}");
    }
}

#[tokio::test]
async fn rows_without_a_topic_are_lost_and_the_topic_is_named() {
    let world = World::new("auditnone", 1).await;
    let client = world.database.client().await;
    let sql = "INSERT INTO outbox.messages (topic, payload) VALUES ('no-such-topic', '1')";
    client.batch_execute(sql).await.unwrap();
    lose(&world, &client).await;
    let (code, told, stderr) = audit(&world, &[]).await;
    assert_eq!((code, counts(&told)), (1, expected(&[("rows", 1), ("lost", 1)])), "{stderr}");
    assert_eq!(told["absent_topics"], serde_json::json!(["no-such-topic"]));
    let output = world.command(["audit", "--slot", "nobody"]).output().await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("slot nobody does not exist"), "{said}");
}
