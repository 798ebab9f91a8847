//! Several outbox tables in one publication: one relay, one slot, one order.

use std::time::Duration;

use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, Walpost, consume};
use crate::world::{World, stop};

/// Two tables of other libraries, of different shape, and nothing set up yet.
const TABLES: &str = "CREATE TABLE outboxevent (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text, \
     type text, payload jsonb); \
     CREATE SCHEMA shop; CREATE TABLE shop.outbox_messages (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text, payload bytea, \
     status text DEFAULT 'Pending', created_at timestamp DEFAULT clock_timestamp())";

async fn world(prefix: &str, schema: &str) -> World {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, prefix, 1).await;
    world.database.client().await.batch_execute(schema).await.unwrap();
    world
}

fn told(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn set_up(world: &World, args: &[&str]) {
    let output = world.command(["setup"]).args(args.iter().copied()).output().await;
    assert!(output.status.success(), "{}", told(&output));
}

async fn relay(world: &World, args: &[&str]) -> Walpost {
    let relay = world.command(["run"]).args(args.iter().copied()).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    relay
}

fn text(bytes: Option<&Vec<u8>>) -> &str {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap()).unwrap_or_default()
}

fn values(records: &[Consumed]) -> Vec<&str> {
    records.iter().map(|record| text(record.payload.as_ref())).collect()
}

/// Everything in a topic once the slot has confirmed all that was written.
async fn all(world: &World, topic: &str, least: usize) -> Vec<Consumed> {
    let _ = consume(&world.brokers, topic, least, PATIENCE).await;
    world.caught_up().await;
    consume(&world.brokers, topic, least, Duration::from_secs(10)).await
}

fn position(record: &Consumed) -> (u64, u64) {
    let lsn = record.header("walpost.lsn").unwrap();
    let (high, low) = lsn.split_once('/').unwrap();
    let half = |text: &str| u64::from_str_radix(text, 16).unwrap();
    (half(high) << 32 | half(low), record.header("walpost.index").unwrap().parse().unwrap())
}

/// Three tables of three shapes, written to by concurrent transactions, each of which writes into several of them.
#[tokio::test]
async fn the_order_of_commits_holds_over_all_tables() {
    let world = world("tables", TABLES).await;
    let topic = world.topic.clone();
    let file = format!(
        "table = ['outbox.messages', 'outboxevent', 'shop.outbox_messages']\n\
         [map_for.outboxevent]\npreset = 'debezium'\ntopic = '{topic}'\nheaders = 'of={{$table}}'\nown_headers = 'yes'\n\
         [map_for.'shop.outbox_messages']\npreset = 'k1s0-csharp'\nheaders = 'of={{$schema}}.{{$table}}'\nown_headers = 'yes'\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("walpost.toml");
    std::fs::write(&path, file).unwrap();
    let config = ["--config", path.to_str().unwrap()];
    for _ in 0..2 {
        set_up(&world, &config).await;
    }
    let relay = relay(&world, &config).await;
    let client = world.database.client().await;
    // The order of commits, which no column tells: each transaction takes its number at its end, under a lock.
    client
        .batch_execute(&format!(
            "CREATE TABLE ledger (number bigserial, writer int, round int); \
             CREATE FUNCTION work(w int, r int) RETURNS void LANGUAGE plpgsql AS $$ DECLARE id text := w || '-' || r; BEGIN \
               INSERT INTO outbox.messages (topic, payload) VALUES ('{topic}', to_json(id || ' 0')); \
               INSERT INTO outboxevent (aggregateid, payload) VALUES ('k', to_jsonb(id || ' 1')); \
               INSERT INTO shop.outbox_messages (topic, payload) VALUES ('{topic}', convert_to('\"' || id || ' 2\"', 'UTF8')); \
               PERFORM pg_sleep(random() / 200); \
               INSERT INTO outboxevent (aggregateid, payload) VALUES ('k', to_jsonb(id || ' 3')); \
               INSERT INTO outbox.messages (topic, payload) VALUES ('{topic}', to_json(id || ' 4')); \
               LOCK TABLE ledger; INSERT INTO ledger (writer, round) VALUES (w, r); END $$"
        ))
        .await
        .unwrap();
    let (writers, rounds) = (4_i32, 40_i32);
    let work = async |writer: i32| {
        let client = world.database.client().await;
        for round in 0..rounds {
            client.execute("SELECT work($1, $2)", &[&writer, &round]).await.unwrap();
        }
    };
    tokio::join!(work(0), work(1), work(2), work(3));
    let ledger =
        client.query("SELECT writer || '-' || round FROM ledger ORDER BY number", &[]).await.unwrap();
    let expected: Vec<String> = ledger
        .iter()
        .flat_map(|row| (0..5).map(|number| format!("\"{} {number}\"", row.get::<_, String>(0))))
        .collect();
    let records = all(&world, &topic, expected.len()).await;
    assert_eq!(records.len(), (writers * rounds * 5) as usize);
    assert_eq!(
        values(&records),
        expected,
        "in the order of commits, and in a transaction in that of its inserts"
    );
    assert!(records.is_sorted_by_key(position));
    for (record, value) in records.iter().zip(&expected) {
        let of = match value.as_bytes()[value.len() - 2] {
            b'1' | b'3' => Some("outboxevent"),
            b'2' => Some("shop.outbox_messages"),
            _ => None,
        };
        assert_eq!(record.header("of"), of, "{value}");
        assert!(record.header("walpost.lsn").is_some());
    }
    println!("{} records of 3 tables in the order of {} commits", records.len(), writers * rounds);
    stop(relay).await;
}
