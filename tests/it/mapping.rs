//! Tables that others have made: which column is which part of a record is said by a preset and by settings.

mod presets;
mod values;

use std::time::Duration;

use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, consume};
use crate::world::{World, stop};

/// A world whose database has this schema and whose topic has so many partitions.
async fn world(schema: &str, partitions: i32) -> World {
    let world =
        World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "map", partitions).await;
    world.database.client().await.batch_execute(schema).await.unwrap();
    world
}

/// Sets up and relays with these arguments, inserts, and reads so many records.
async fn relayed<const N: usize>(
    world: &World,
    args: [&str; N],
    inserts: &str,
    count: usize,
) -> Vec<Consumed> {
    relayed_to(world, args, inserts, &world.topic, count).await
}

async fn relayed_to<const N: usize>(
    world: &World,
    args: [&str; N],
    inserts: &str,
    topic: &str,
    count: usize,
) -> Vec<Consumed> {
    let with = |command| world.command([command]).args(args);
    let setup = with("setup").output().await;
    assert!(setup.status.success(), "{setup:?}");
    let relay = with("run").spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    world.database.client().await.batch_execute(inserts).await.unwrap();
    let records = consume(&world.brokers, topic, count, PATIENCE).await;
    // Whatever should not have come would have come before this.
    world.caught_up().await;
    let all = consume(&world.brokers, topic, count, Duration::from_secs(5)).await;
    assert_eq!(all.len(), count);
    stop(relay).await;
    records
}

fn told(output: &std::process::Output) -> String {
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // In the log of a relay it stands in a string of JSON.
    told.replace("\\\"", "\"")
}

fn header(name: &str, value: Option<&str>) -> (String, Option<Vec<u8>>) {
    (name.to_owned(), value.map(|value| value.as_bytes().to_vec()))
}

fn text(bytes: Option<&Vec<u8>>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap())
}

/// All that a template can be made of, in a table that the server sends as text.
#[tokio::test]
async fn columns_of_every_type_become_any_part_of_a_record() {
    let world = world(
        "CREATE EXTENSION IF NOT EXISTS citext; CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN code AS varchar(9); \
         CREATE TABLE events (number bigserial PRIMARY KEY, \"Kind\" citext, feeling mood, shop code, yes bool, n int, \
         price numeric(12,2), doc jsonb, raw json, blob bytea, names text[], texts text[], at timestamp, lane int)",
        4,
    )
    .await;
    let topic = world.topic.clone();
    let args = [
        "--table",
        "events",
        "--map-id",
        "{number}",
        "--map-topic",
        &topic,
        "--map-key",
        "{doc.customer.id|doc.items.1|shop}",
        "--map-partition",
        "{lane}",
        "--map-value",
        "object(kind={Kind}, feeling={feeling}, yes={yes}, n={n}, price={price}, doc={doc}, raw={raw}, none={at})",
        "--map-timestamp",
        "{at}",
        "--map-event-type",
        "none",
        "--map-correlation-id",
        "none",
        "--map-headers",
        "kind={Kind}.{feeling}, yes={yes}, deep={doc.customer}, gone?={doc.nothing}, null={doc.nothing}, {raw}, {names}={texts}",
        "--map-own-headers",
        "no",
    ];
    let inserts = r#"INSERT INTO events ("Kind", feeling, shop, yes, n, price, doc, raw, blob, names, texts, at, lane) VALUES
        ('Paid', 'glad', 's1', true, 7, 1.50, '{"customer": {"id": 42}}', '{ "t":"ü" , "n":1.10}', '\x00', '{a,"b,c"}', '{1,NULL}',
         '2026-01-02 03:04:05.678', 2),
        ('Lost', 'sad', 's2', false, -1, 'NaN', '{"items": ["x", "y"]}', NULL, NULL, '{}', '{}', NULL, 0),
        ('Free', NULL, 's3', NULL, NULL, NULL, 'null', '{}', NULL, NULL, NULL, NULL, 3)"#;
    let mut records = relayed(&world, args, inserts, 3).await;
    records.sort_by_key(|record| record.partition);
    let partitions: Vec<_> = records.iter().map(|record| record.partition).collect();
    assert_eq!(partitions, [0, 2, 3], "as the column says");
    let [lost, paid, free] = records.as_slice() else { panic!("three") };

    assert_eq!(text(paid.key.as_ref()), Some("42"));
    let value = r#"{"kind":"Paid","feeling":"glad","yes":true,"n":7,"price":1.50,"doc":{"customer": {"id": 42}},"raw":{ "t":"ü" , "n":1.10},"none":"2026-01-02 03:04:05.678"}"#;
    assert_eq!(text(paid.payload.as_ref()), Some(value));
    assert_eq!(paid.timestamp, Some(1_767_323_045_678));
    let headers = [
        header("kind", Some("Paid.glad")),
        header("yes", Some("true")),
        header("deep", Some("{\"id\": 42}")),
        header("null", None),
        header("t", Some("ü")),
        header("n", Some("1.10")),
        header("a", Some("1")),
        header("b,c", None),
    ];
    assert_eq!(paid.headers, headers);

    assert_eq!(text(lost.key.as_ref()), Some("y"));
    let value = r#"{"kind":"Lost","feeling":"sad","yes":false,"n":-1,"price":"NaN","doc":{"items": ["x", "y"]},"raw":null,"none":null}"#;
    assert_eq!(text(lost.payload.as_ref()), Some(value));
    let names: Vec<_> = lost.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["kind", "yes", "deep", "null"]);

    assert_eq!(text(free.key.as_ref()), Some("s3"));
    assert_eq!(free.headers[0], header("kind", None), "a template is null when one of its columns is");
}

/// Without a column that has no binary form the server sends all in binary form, and nothing else changes.
#[tokio::test]
async fn what_comes_in_binary_form_is_the_same() {
    let world = world(
        "CREATE TABLE events (id uuid PRIMARY KEY, yes bool, small int2, n int, big bigint, doc jsonb, blob bytea, lane int)",
        2,
    )
    .await;
    let topic = world.topic.clone();
    let args = [
        "--table",
        "events",
        "--map-topic",
        &topic,
        "--map-key",
        "{small}/{n}/{yes}",
        "--map-partition",
        "{lane}",
        "--map-value",
        "{blob}",
        "--map-timestamp",
        "{big} us",
        "--map-headers",
        "of={doc.of|id}",
    ];
    let inserts = r#"INSERT INTO events VALUES ('11111111-2222-3333-4444-555555555555', true, -3, 9, 1767323045678901, '{"of": null}', '\x00ff', 1)"#;
    let records = relayed(&world, args, inserts, 1).await;
    let record = &records[0];
    assert_eq!(text(record.key.as_ref()), Some("-3/9/true"));
    assert_eq!(record.payload.as_deref(), Some(&b"\x00\xff"[..]));
    assert_eq!((record.timestamp, record.partition), (Some(1_767_323_045_678), 1));
    let id = Some("11111111-2222-3333-4444-555555555555");
    assert_eq!(record.headers[..2], [header("id", id), header("of", id)]);
    let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["id", "of", "walpost.lsn", "walpost.index"], "our own around the row's");
}

#[tokio::test]
async fn only_rows_that_meet_the_conditions_are_sent() {
    let world = world(
        "CREATE TABLE events (id uuid DEFAULT gen_random_uuid(), status text, sent_at timestamptz, n int)",
        1,
    )
    .await;
    let topic = world.topic.clone();
    let args = [
        "--table",
        "events",
        "--map-topic",
        &topic,
        "--map-key",
        "none",
        "--map-value",
        "{n}",
        "--map-timestamp",
        "commit",
        "--map-headers",
        "none",
        "--map-only",
        "status=PENDING|FAILED|, sent_at=",
    ];
    let inserts = "INSERT INTO events (status, sent_at, n) VALUES ('PENDING', NULL, 1), ('DELIVERED', NULL, 2), ('FAILED', now(), 3), \
                   ('FAILED', NULL, 4), (NULL, NULL, 5), ('pending', NULL, 6)";
    let before = std::time::SystemTime::now();
    let records = relayed(&world, args, inserts, 3).await;
    let values: Vec<_> = records.iter().map(|record| text(record.payload.as_ref()).unwrap()).collect();
    assert_eq!(values, ["1", "4", "5"]);
    let since = before.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(records.iter().all(|record| record.timestamp.unwrap() as u128 + 1 >= since), "the commit's time");
    let indexes: Vec<_> = records.iter().map(|record| record.header("walpost.index").unwrap()).collect();
    assert_eq!(indexes, ["0", "3", "4"], "a row's index is its place in the transaction");
}

#[tokio::test]
async fn a_mapping_that_the_table_does_not_bear_is_refused_with_the_column() {
    let world =
        world("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE events (id uuid, topic text, payload json, flag bool, at timestamptz, \
               feeling mood, price numeric(6,2), made text GENERATED ALWAYS AS (topic || 'x') STORED)", 1).await;
    for (setting, value, expected) in [
        ("--map-key", "{customer}", "has no column customer (--map-key)"),
        ("--map-key", "x{customer?}{Odd}", "has no column \"Odd\""),
        ("--map-timestamp", "{flag}", "has a column flag of a type that can't be used for --map-timestamp"),
        ("--map-timestamp", "{flag}", "flag is of type boolean; name another column with --map-timestamp"),
        (
            "--map-key",
            "{customer}",
            "it has id uuid, topic text, payload json, flag boolean, at timestamp with time zone, feeling public.mood, price numeric(6,2); say",
        ),
        ("--map-timestamp", "{at}{id}", "--map-timestamp must be one column"),
        ("--map-partition", "{id}", "has a column id of a type"),
        ("--map-headers", "{flag}, a=1", "headers are made of JSON"),
        ("--map-key", "{flag.a}", "only JSON has members"),
        ("--map-only", "state=new", "has no column state"),
        // What no row can be.
        (
            "--map-only",
            "feeling=glad|sat",
            "column feeling of table public.events is never \"sat\": it is of type public.mood",
        ),
        ("--map-only", "feeling=glad|sat", "its values are \"sad\", \"glad\""),
        ("--map-only", "flag=maybe", "column flag of table public.events is never \"maybe\""),
        ("--map-only", "price=1.005", "never \"1.005\": it is of type numeric(6,2)"),
        ("--map-key", "{made}", "has a generated column made, which the server does not send"),
        ("--map-headers", "{topic}={payload}", "names and values of headers are arrays of text"),
        ("--map-headers", "{feeling}={topic}", "names and values of headers are arrays of text"),
        ("--map-value", "compact({id})", "compact() takes JSON"),
        ("--map-id", "{topic}-{flag}", "--map-id: {topic}-{flag} is no UUID"),
        ("--map-topic", "{at}.x", "has a column at of a type that can't be used for --map-topic"),
        ("--map-topic", "x.{payload}", "has a column payload of a type that can't be used for --map-topic"),
    ] {
        for command in ["setup", "run", "check"] {
            let output = world.command([command, "--table", "events", setting, value]).output().await;
            let told = told(&output);
            assert_eq!(output.status.code(), Some(1), "{command} {setting} {value}: {told}");
            assert!(told.contains(expected), "{command} {setting} {value}: {told}");
        }
    }
}

/// Somebody else's schema gets a publication, a slot and a place for dead letters, and nothing else.
#[tokio::test]
async fn setting_up_a_table_of_others_leaves_it_as_it_is() {
    let world =
        world("CREATE TABLE outboxevent (id uuid, aggregatetype text, aggregateid text, payload jsonb)", 1)
            .await;
    let client = world.database.client().await;
    let described = "SELECT string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum) FROM pg_attribute \
                     WHERE attrelid = 'outboxevent'::regclass AND attnum > 0";
    let before: String = client.query_one(described, &[]).await.unwrap().get(0);
    for _ in 0..2 {
        let output = world.command(["setup", "--preset", "debezium"]).output().await;
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(client.query_one(described, &[]).await.unwrap().get::<_, String>(0), before);
    let made = "SELECT (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE nspname = 'public'), \
                (SELECT count(*) FROM pg_namespace WHERE nspname = 'outbox'), \
                (SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace \
                   AND relkind = 'r')";
    let row = client.query_one(made, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (0_i64, 0_i64));
    assert_eq!(row.get::<_, String>(2), "dead_letters, outboxevent, walpost_seal");

    let output = world.command(["teardown", "--preset", "debezium", "--drop-table"]).output().await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = world.command(["teardown", "--preset", "debezium"]).output().await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(client.query_one(described, &[]).await.unwrap().get::<_, String>(0), before);
    let missing = world.command(["setup", "--preset", "goharvest"]).output().await;
    let told = told(&missing);
    assert!(told.contains("table public.outbox does not exist") && told.contains("--table"), "{told}");
}
