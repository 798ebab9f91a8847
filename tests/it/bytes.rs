//! Bytes that are no UTF-8, and more bytes than most: what they are is nobody's business but the consumer's.

use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::support::kafka::config;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, unique};
use crate::world::{World, stop};

async fn world_in(encoding: &str) -> World {
    let (server, broker) = (PostgresServer::shared().await, KafkaBroker::shared().await);
    let database = server.create_database_in("bytes", encoding).await;
    let world = World::bare_in(database, broker, "bytes", 1).await;
    let output = world.command(["setup"]).output().await;
    assert!(output.status.success(), "{output:?}");
    world
}

#[tokio::test]
async fn a_database_without_an_encoding_sends_its_bytes_untouched() {
    let world = world_in("SQL_ASCII").await;
    let client = world.database.client().await;
    let insert = |kind: &str, payload: &str| {
        format!(
            "ALTER TABLE outbox.messages ALTER COLUMN payload TYPE {kind} USING NULL; \
             INSERT INTO outbox.messages (topic, key, payload) VALUES \
             ('{}', convert_from('\\x6bff80', 'SQL_ASCII'), {payload})",
            world.topic
        )
    };
    let bytes = "convert_from('\\x22e9ff0a22', 'SQL_ASCII')";
    // Read in binary format first, and in text format once there is a column of an unknown type.
    for text_only in [false, true] {
        if text_only {
            let sql = "CREATE DOMAIN outbox.word AS name; CREATE TYPE outbox.kind AS ENUM ('a'); \
                       ALTER TABLE outbox.messages ALTER COLUMN correlation_id TYPE outbox.kind USING NULL";
            client.batch_execute(sql).await.unwrap();
        }
        let relay = world.relay().await;
        let log = relay.wait_for_log("reading the log", PATIENCE).await;
        assert!(log.contains(&format!("\"binary\":{}", !text_only)), "{log}");
        client.batch_execute(&insert("text", bytes)).await.unwrap();
        client.batch_execute(&insert("bytea", "'\\x00ff00e9'")).await.unwrap();
        client.batch_execute(&insert("json", &format!("replace({bytes}, E'\\n', '')::json"))).await.unwrap();
        let records = world.consume(if text_only { 6 } else { 3 }).await;
        let payloads: Vec<_> = records.iter().map(|record| record.payload.as_deref().unwrap()).collect();
        let expected: [&[u8]; 3] = [b"\"\xe9\xff\n\"", b"\0\xff\0\xe9", b"\"\xe9\xff\""];
        assert_eq!(payloads[payloads.len() - 3..], expected);
        assert!(records.iter().all(|record| record.key.as_deref() == Some(&b"k\xff\x80"[..])));
        stop(relay).await;
    }
}

#[tokio::test]
async fn text_that_must_be_utf8_and_is_not_names_the_row() {
    for (column, value, said) in [
        ("topic", "convert_from('\\xff', 'SQL_ASCII')", "column topic holds no UTF-8 text"),
        ("event_type", "convert_from('\\xff', 'SQL_ASCII')", "column event_type holds no UTF-8 text"),
        (
            "headers",
            "convert_from('\\x7b2261223a22ff227d', 'SQL_ASCII')",
            "the headers are not a JSON object",
        ),
    ] {
        let world = world_in("SQL_ASCII").await;
        let client = world.database.client().await;
        // A table of somebody's own, without the checks of ours.
        let as_text = "ALTER TABLE outbox.messages DROP CONSTRAINT messages_topic_is_valid, DROP COLUMN headers; \
                       ALTER TABLE outbox.messages ADD COLUMN headers text NOT NULL DEFAULT '{}'";
        client.batch_execute(as_text).await.unwrap();
        world.insert(&client, 1).await;
        let topic = if column == "topic" { String::new() } else { format!("'{}', ", world.topic) };
        let names = if column == "topic" { "topic".to_owned() } else { format!("topic, {column}") };
        let sql = format!("INSERT INTO outbox.messages ({names}, payload) VALUES ({topic}{value}, '1')");
        client.batch_execute(&sql).await.unwrap();
        let relay = world.relay().await;
        let line = relay.wait_for_log(said, PATIENCE).await;
        let position =
            line.split_once('/').is_some_and(|(before, _)| before.ends_with(|c: char| c.is_ascii_hexdigit()));
        assert!(position, "the row's position is missing: {line}");
        let records = world.consume(1).await;
        assert_eq!(records.len(), 1, "what stands before it is published");
    }
}

#[tokio::test]
async fn other_encodings_arrive_in_utf8_and_their_bytea_untouched() {
    let world = world_in("LATIN1").await;
    let client = world.database.client().await;
    let settings = format!(
        "ALTER DATABASE {} SET client_encoding = 'LATIN1'; ALTER TABLE outbox.messages ADD COLUMN note text; \
         ALTER TABLE outbox.messages ALTER COLUMN payload TYPE bytea USING NULL",
        world.database.name
    );
    client.batch_execute(&settings).await.unwrap();
    let relay = world.relay().await;
    let sql =
        "INSERT INTO outbox.messages (topic, key, payload, event_type) VALUES ($1, 'clé', '\\xe9ff00', 'é')";
    client.execute(sql, &[&world.topic]).await.unwrap();
    let records = world.consume(1).await;
    assert_eq!(records[0].key.as_deref(), Some("clé".as_bytes()));
    assert_eq!(records[0].payload.as_deref(), Some(&b"\xe9\xff\0"[..]));
    assert_eq!(records[0].header("event_type"), Some("é"));
    stop(relay).await;
}

#[tokio::test]
async fn text_that_the_server_cannot_convert_ends_with_advice() {
    let world = world_in("WIN1252").await;
    let client = world.database.client().await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, convert_from('\\x81', 'SQL_ASCII'), '1')";
    client.execute(sql, &[&world.topic]).await.unwrap();
    let output = world.command(["run"]).output().await;
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("22P05") && log.contains("pg_replication_slot_advance"), "{log}");
}

/// The value of a line of `/proc/<pid>/status`, in KiB.
pub(crate) fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    value.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// A payload that tells where each of its bytes belongs, `pieces` thousand bytes long.
async fn insert_large(world: &World, client: &tokio_postgres::Client, pieces: i64) {
    let sql = "INSERT INTO outbox.messages (topic, payload) SELECT $1::text, \
               convert_to(string_agg(lpad(n::text, 1000, 'walpost '), '' ORDER BY n), 'UTF8') \
               FROM generate_series(1, $2::bigint) n";
    client.execute(sql, &[&world.topic, &pieces]).await.unwrap();
}

/// Beyond half a gigabyte the server can't write a bytea as text any more, and in binary format it can. What librdkafka
/// can't send (its batches end at 256 MiB) is refused by name, and not sent again for ever.
#[tokio::test]
async fn a_row_of_260_megabytes_arrives_and_one_of_540_is_read_and_refused() {
    let server = PostgresServer::start(&[]).await;
    let broker = KafkaBroker::start_for_large_records().await;
    let world = World::on(&server, &broker, "large", 1).await;
    world.set_message_size("1000000000").await;
    let client = world.database.client().await;
    let sql = "ALTER TABLE outbox.messages ALTER COLUMN payload TYPE bytea USING NULL; \
               ALTER TABLE outbox.messages ALTER COLUMN payload SET STORAGE EXTERNAL";
    client.batch_execute(sql).await.unwrap();
    insert_large(&world, &client, 260_000).await;

    let begun = Instant::now();
    let relay = world.command(["run", "-X", "message.max.bytes=1000000000"]).spawn();
    let (brokers, topic) = (world.brokers.clone(), world.topic.clone());
    let read = tokio::task::spawn_blocking(move || {
        let consumer = large_consumer(&brokers, &topic);
        while begun.elapsed() < 2 * PATIENCE {
            let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
            let message = message.unwrap();
            let payload = message.payload().unwrap();
            assert!(payload.chunks(1000).zip(1..).all(|(piece, n)| piece == padded(n)), "the bytes differ");
            return payload.len();
        }
        0
    });
    assert_eq!(read.await.unwrap(), 260_000_000, "{}", relay.log());
    world.caught_up().await;
    let (peak, now) = (memory(relay.id(), "VmHWM") >> 10, memory(relay.id(), "VmRSS") >> 10);
    println!("260 MB in {:?}: {peak} MiB resident at most, {now} MiB afterwards", begun.elapsed());
    // What was received, once, and librdkafka's copy of it: 496 MiB.
    assert!(peak < 600, "{peak} MiB");
    assert!(now < 100, "{now} MiB are kept after it is gone");

    insert_large(&world, &client, 540_000).await;
    let line = relay.wait_for_log("more than librdkafka can send", 2 * PATIENCE).await;
    assert!(line.contains("a value of 540000000 bytes") && line.contains(&world.topic), "{line}");
    let peak = memory(relay.id(), "VmHWM") >> 10;
    println!("540 MB: {peak} MiB resident at most");
    assert!(peak < 700, "{peak} MiB");
}

fn padded(n: u64) -> Vec<u8> {
    let number = n.to_string();
    let padding = b"walpost ".iter().copied().cycle().take(1000 - number.len());
    padding.chain(number.bytes()).collect()
}

fn large_consumer(brokers: &str, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = config(brokers)
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "900000000")
        .set("fetch.max.bytes", "900000000")
        .set("receive.message.max.bytes", "1000000000")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(0)).unwrap();
    consumer.assign(&list).unwrap();
    consumer
}
