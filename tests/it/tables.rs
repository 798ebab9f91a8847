//! Several outbox tables in one publication: one relay, one slot, one order.

use std::time::Duration;

use crate::identity::ends_saying;
use crate::publication::send_what_is_missing;
use crate::support::walpost::told;
use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, consume};
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
        world.set_up(&config).await;
    }
    let relay = world.command(["run"]).args(config).streaming().await;
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

/// The two foreign tables, each with its preset, all into one topic.
fn two<'a>(world: &'a World, entry: &'a mut String) -> Vec<&'a str> {
    *entry = format!("outboxevent: topic={}", world.topic);
    let preset = ["--map-for", "outboxevent: preset=debezium", "--map-for", entry.as_str()];
    let tables = ["--preset", "k1s0-csharp", "--table", "shop.outbox_messages", "--table", "outboxevent"];
    [tables.as_slice(), preset.as_slice()].concat()
}

fn insert(world: &World, table: &str, value: u32) -> String {
    if table == "outboxevent" {
        format!("INSERT INTO outboxevent (aggregateid, payload) VALUES ('k', '{value}');")
    } else {
        format!("INSERT INTO {table} (topic, payload) VALUES ('{}', '{value}');", world.topic)
    }
}

#[tokio::test]
async fn what_is_wrong_with_one_table_is_named_at_start() {
    let world = world("wrong", TABLES).await;
    let mut entry = String::new();
    let args = two(&world, &mut entry);
    world.set_up(&args).await;
    let client = world.database.client().await;
    let misfit = [args.as_slice(), &["--map-for", "outboxevent: key={customer}"]].concat();
    let missing = [args.as_slice(), &["--table", "shop.nothing"]].concat();
    let cases = [
        (
            "SELECT",
            &misfit,
            vec!["table public.outboxevent has no column customer (--map-key)", "payload jsonb"],
        ),
        ("SELECT", &missing, vec!["table shop.nothing does not exist", "--table"]),
        (
            "ALTER PUBLICATION walpost DROP TABLE outboxevent",
            &args,
            vec!["does not publish public.outboxevent", "ADD TABLE public.outboxevent"],
        ),
    ];
    for (sql, args, words) in cases {
        client.batch_execute(sql).await.unwrap();
        for command in ["check", "run"] {
            let output = world.command([command]).args(args.iter().copied()).output().await;
            let told = told(&output);
            assert_eq!(output.status.code(), Some(1), "{command}: {told}");
            for word in &words {
                assert!(told.contains(word), "{command}: {word}: {told}");
            }
        }
    }
    // Set-up adds what is missing, and the line goes on.
    world.set_up(&args).await;
    let relay = world.command(["run"]).args(args).streaming().await;
    client.batch_execute(&insert(&world, "outboxevent", 7)).await.unwrap();
    assert_eq!(values(&world.consume(1).await), ["7"]);
    stop(relay).await;
}

/// The rows of both tables come first, each in the order of insertion; chosen ones of either come again.
#[tokio::test]
async fn rows_from_before_the_slot_are_those_of_all_tables() {
    let world = world("earlier", TABLES).await;
    let client = world.database.client().await;
    let mut entry = String::new();
    let args = two(&world, &mut entry);
    for value in 0..20 {
        let table = if value % 2 == 0 { "shop.outbox_messages" } else { "outboxevent" };
        client.batch_execute(&insert(&world, table, value)).await.unwrap();
    }
    client
        .batch_execute("UPDATE shop.outbox_messages SET status = 'Published' WHERE payload = '0'")
        .await
        .unwrap();
    let backfill = [args.as_slice(), &["--backfill", "pending"]].concat();
    world.set_up(&backfill).await;
    client.batch_execute(&insert(&world, "outboxevent", 20)).await.unwrap();
    let relay = world.command(["run"]).args(&args).streaming().await;
    let records = all(&world, &world.topic, 20).await;
    let expected: Vec<String> =
        (2..20).step_by(2).chain((1..20).step_by(2)).chain([20]).map(|n| n.to_string()).collect();
    assert_eq!(values(&records), expected);
    for (of, condition, count) in
        [("outboxevent", "payload = '3'", 1), ("shop.outbox_messages", "payload IN ('4', '6')", 2)]
    {
        let command = world.command(["replay", "--where", condition, "--of", of]);
        let output = command.args(args.iter().copied()).output().await;
        assert!(told(&output).contains(&format!("{count} rows of ")), "{}", told(&output));
    }
    let records = all(&world, &world.topic, 23).await;
    assert_eq!(values(&records[20..]), ["3", "4", "6"]);
    let output = world.command(["replay", "--where", "true"]).args(args.iter().copied()).output().await;
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("name one of shop.outbox_messages, public.outboxevent with --of"));
    stop(relay).await;
}

/// One table is renamed, then the other one dropped: the first is followed, and nobody waits for the second.
#[tokio::test]
async fn a_table_that_is_renamed_or_dropped_stops_no_other() {
    let world = world("gone", TABLES).await;
    let client = world.database.client().await;
    let mut entry = String::new();
    let args = two(&world, &mut entry);
    world.set_up(&args).await;
    let relay = world.command(["run"]).args(args).streaming().await;
    for (table, value) in [("shop.outbox_messages", 1), ("outboxevent", 2)] {
        client.batch_execute(&insert(&world, table, value)).await.unwrap();
    }
    client.batch_execute("ALTER TABLE shop.outbox_messages RENAME TO mail").await.unwrap();
    client.batch_execute(&insert(&world, "shop.mail", 3)).await.unwrap();
    client
        .batch_execute(&format!("{}DROP TABLE outboxevent", insert(&world, "outboxevent", 4)))
        .await
        .unwrap();
    relay.wait_for_log("public.outboxevent was dropped", PATIENCE).await;
    client.batch_execute(&insert(&world, "shop.mail", 5)).await.unwrap();
    let records = all(&world, &world.topic, 5).await;
    assert_eq!(values(&records), ["1", "2", "3", "4", "5"], "also what was committed with the drop");
    stop(relay).await;
}

/// The advice is about the table whose rows were skipped, and about no other.
#[tokio::test]
async fn a_publication_that_loses_one_table_is_noticed() {
    let world = world("lost", TABLES).await;
    let client = world.database.client().await;
    let mut entry = String::new();
    let args = two(&world, &mut entry);
    world.set_up(&args).await;
    let mut ending = world.command(["run"]).args(&args).streaming().await;
    client.batch_execute(&insert(&world, "outboxevent", 1)).await.unwrap();
    world.caught_up().await;
    client.batch_execute("ALTER PUBLICATION walpost DROP TABLE outboxevent").await.unwrap();
    client.batch_execute(&insert(&world, "outboxevent", 2)).await.unwrap();
    let words = ["publication walpost no longer publishes public.outboxevent", "may have been skipped"];
    ends_saying(&mut ending, PATIENCE, &words).await;
    let log = ending.log();
    assert!(!log.contains("FROM shop.outbox_messages"), "{log}");
    world.set_up(&args).await;
    let relay = world.command(["run"]).args(&args).streaming().await;
    world.caught_up().await;
    send_what_is_missing(&world, &args).await;
    let records = all(&world, &world.topic, 2).await;
    assert_eq!(values(&records), ["1", "2"], "once each");
    stop(relay).await;
}

/// Three services, each with the same table in a schema of its own.
#[tokio::test]
async fn a_topic_may_be_named_after_the_schema() {
    let schemas = ["task_service", "board_service", "activity_service"];
    let schema: String = schemas
        .iter()
        .map(|schema| {
            format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.outbox_events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), \
                 event_type text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), \
                 published_at timestamptz);"
            )
        })
        .collect();
    let world = world("services", &schema).await;
    let broker = KafkaBroker::shared().await;
    let template = format!("{}.{{$schema}}.events", world.topic);
    let tables = schemas.map(|schema| format!("{schema}.outbox_events")).join(",");
    let args = ["--preset", "k1s0-events", "--table", &tables, "--map-topic", &template];
    for schema in schemas {
        broker.create_topic(&format!("{}.{schema}.events", world.topic), 1).await;
    }
    world.set_up(&args).await;
    let relay = world.command(["run"]).args(args).streaming().await;
    let client = world.database.client().await;
    for number in 0..30 {
        let schema = schemas[number % 3];
        let sql = format!(
            "INSERT INTO {schema}.outbox_events (event_type, payload) VALUES ('moved', '{{\"task_id\": {number}}}')"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    for (index, schema) in schemas.iter().enumerate() {
        let records = all(&world, &format!("{}.{schema}.events", world.topic), 10).await;
        let keys: Vec<_> =
            records.iter().map(|record| text(record.key.as_ref()).parse::<usize>().unwrap()).collect();
        assert_eq!(keys, (index..30).step_by(3).collect::<Vec<_>>(), "{schema}");
    }
    stop(relay).await;
}

/// Tables that set-up makes: each has its functions, and one place for letters and seal serves them all.
#[tokio::test]
async fn set_up_makes_several_tables() {
    let world = world("several", "SELECT").await;
    let args = ["--table", "a.messages, b.messages, b.more"];
    for _ in 0..2 {
        world.set_up(&args).await;
    }
    let printed = world.command(["setup", "--print"]).args(args).output().await;
    assert!(String::from_utf8_lossy(&printed.stdout).contains("(LIKE b.messages INCLUDING ALL)"));
    let relay = world.command(["run"]).args(args).streaming().await;
    let client = world.database.client().await;
    let topic = &world.topic;
    client
        .batch_execute(&format!(
            "BEGIN; SELECT b.emit('{topic}', '1'); SELECT a.publish('{topic}', '2'); SELECT b.publish('{topic}', '3'); \
             INSERT INTO b.more (topic, payload) VALUES ('{topic}', '4'); SELECT a.emit('{topic}', '5'); COMMIT"
        ))
        .await
        .unwrap();
    assert_eq!(values(&all(&world, topic, 5).await), ["1", "2", "3", "4", "5"]);
    stop(relay).await;
    let made = "SELECT string_agg(relnamespace::regnamespace || '.' || relname, ' ' ORDER BY 1) FROM (SELECT * FROM pg_class \
                WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('a', 'b') ORDER BY 1) made";
    let made: String = client.query_one(made, &[]).await.unwrap().get(0);
    let beside = ["dead_letters", "scheduled", "walpost_seal"];
    assert_eq!(made.split(' ').count(), 3 + beside.len(), "{made}");
    assert!(beside.iter().all(|table| made.contains(&format!("a.{table}"))), "{made}");
    let output = world.command(["teardown", "--drop-table"]).args(args).output().await;
    assert!(output.status.success() && told(&output).contains("table b.more is gone"), "{}", told(&output));
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('a', 'b')";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}
