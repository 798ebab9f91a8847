//! Tables that others have made: which column is which part of a record is said by a preset and by settings.

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
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
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
        world("CREATE TABLE events (id uuid, topic text, payload json, flag bool, at timestamptz)", 1).await;
    for (setting, value, expected) in [
        ("--map-key", "{customer}", "has no column customer (--map-key)"),
        ("--map-key", "x{customer?}{Odd}", "has no column \"Odd\""),
        ("--map-timestamp", "{flag}", "has a column flag of a type that can't be used for --map-timestamp"),
        ("--map-timestamp", "{flag}", "flag is of type boolean; name another column with --map-timestamp"),
        (
            "--map-key",
            "{customer}",
            "it has id uuid, topic text, payload json, flag boolean, at timestamp with time zone",
        ),
        ("--map-timestamp", "{at}{id}", "--map-timestamp must be one column"),
        ("--map-partition", "{id}", "has a column id of a type"),
        ("--map-headers", "{flag}, a=1", "headers are made of JSON"),
        ("--map-key", "{flag.a}", "only JSON has members"),
        ("--map-only", "state=new", "has no column state"),
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

/// What `walpost check` says of each of those tables: which column became which part, and which are not used.
const FOUND: &str = "\
spakky 6.5: public.spakky_event_outbox by preset spakky
id             {id}  <- id uuid
topic          {event_name}  <- event_name text
key            {partition_key?}  <- no column partition_key
value          {payload}  <- payload bytea
headers        {headers}  <- headers json
only           published_at=, abandoned_at?=  <- published_at timestamp with time zone, no column abandoned_at
order          created_at, id  <- created_at timestamp with time zone, id uuid
mark           published_at=now  <- published_at timestamp with time zone
not used       retry_count integer, claimed_at timestamp with time zone
spakky 8: public.spakky_event_outbox by preset spakky
id             {id}  <- id uuid
topic          {event_name}  <- event_name text
key            {partition_key?}  <- partition_key text
value          {payload}  <- payload bytea
headers        {headers}  <- headers json
only           published_at=, abandoned_at?=  <- published_at timestamp with time zone, abandoned_at timestamp with time zone
order          created_at, id  <- created_at timestamp with time zone, id uuid
mark           published_at=now  <- published_at timestamp with time zone
not used       retry_count integer, claimed_at timestamp with time zone
goharvest: public.outbox by preset goharvest
id             {id}  <- id bigint
topic          {kafka_topic}  <- kafka_topic character varying(249)
key            {kafka_key}  <- kafka_key character varying(100)
value          {kafka_value}  <- kafka_value character varying(10000)
headers        {kafka_header_keys}={kafka_header_values}  <- kafka_header_keys text[], kafka_header_values text[]
order          id  <- id bigint
not used       create_time timestamp with time zone, leader_id uuid
open-outbox: public.openoutbox_events by preset open-outbox
id             {event_id}  <- event_id uuid
topic          {event_type}  <- event_type text
key            {partition_key}  <- partition_key text
value          {payload}  <- payload bytea
headers        {headers}, X-Event-ID={event_id}  <- headers jsonb, event_id uuid
only           status=PENDING|DELIVERING  <- status text
due            {available_at}  <- available_at timestamp with time zone
order          available_at, created_at  <- available_at timestamp with time zone, created_at timestamp with time zone
mark           status=DELIVERED, delivered_at=now, locked_by=, locked_at=, updated_at=now  <- status text, no column delivered_at, no column locked_by, no column locked_at, no column updated_at
not used       attempts integer
k1s0: outbox.outbox_messages by preset k1s0
id             {id}  <- id uuid
topic          {topic}  <- topic text
key            {partition_key}  <- partition_key text
value          compact({payload})  <- payload jsonb
only           status=PENDING|PROCESSING|FAILED|pending|failed  <- status text
due            {process_after?}  <- process_after timestamp with time zone
order          created_at  <- created_at timestamp with time zone
mark           status=DELIVERED|delivered  <- status text
not used       idempotency_key character varying(255)
k1s0's template: outbox.outbox_messages by preset k1s0
id             {id}  <- id uuid
topic          {topic}  <- topic character varying(255)
key            {partition_key}  <- partition_key character varying(255)
value          compact({payload})  <- payload jsonb
only           status=PENDING|PROCESSING|FAILED|pending|failed  <- status character varying(20)
due            {process_after?}  <- process_after timestamp with time zone
order          created_at  <- created_at timestamp with time zone
mark           status=DELIVERED|delivered  <- status character varying(20)
k1s0-csharp: public.outbox_messages by preset k1s0-csharp
id             {id}  <- id uuid
topic          {topic}  <- topic text
value          {payload}  <- payload bytea
only           status=Pending  <- status text
order          created_at  <- created_at timestamp without time zone
mark           status=Published, updated_at=now  <- status text, no column updated_at
walpost: outbox.messages by preset walpost
id             {id}  <- id uuid
topic          {topic}  <- topic text
key            {key?}  <- key text
value          {payload}  <- payload json
timestamp      {created_at?}  <- created_at timestamp with time zone
event_type     {event_type?}  <- event_type text
correlation_id {correlation_id?}  <- correlation_id text
headers        {headers?}  <- headers jsonb
due            {scheduled_at?}  <- no column scheduled_at
debezium: public.outboxevent by preset debezium
id             {id}  <- id uuid
topic          outbox.event.{aggregatetype}  <- aggregatetype character varying(255)
key            {aggregateid}  <- aggregateid character varying(255)
value          {payload}  <- payload jsonb
headers        id={id}  <- id uuid
not used       type character varying(255)
k1s0-events: task_service.outbox_events by preset k1s0-events
id             {id}  <- id uuid
topic          {event_type}  <- event_type character varying(255)
key            {payload.activity_id|payload.task_id|payload.column_id|payload.board_id|id}  <- payload jsonb, id uuid
value          compact({payload})  <- payload jsonb
only           published_at=  <- published_at timestamp with time zone
order          created_at  <- created_at timestamp with time zone
mark           published_at=now  <- published_at timestamp with time zone";

#[tokio::test]
async fn check_tells_which_column_became_which_part() {
    let debezium = "CREATE TABLE outboxevent (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, \
        aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)";
    let events = "CREATE SCHEMA task_service; CREATE TABLE task_service.outbox_events (id uuid PRIMARY KEY, event_type varchar(255) \
        NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz)";
    for (preset, schema) in [("walpost", "SELECT"), ("debezium", debezium), ("k1s0-events", events)] {
        let world = world(schema, 1).await;
        if preset == "walpost" {
            assert!(world.command(["setup"]).output().await.status.success());
        }
        tells_what_it_found(&world, preset, preset).await;
    }
}

async fn tells_what_it_found(world: &World, preset: &str, name: &str) {
    let start = FOUND.find(&format!("{name}: ")).unwrap();
    let block = FOUND[start..].split_once(": ").unwrap().1;
    let mut lines = block.lines();
    let head = lines.next().unwrap();
    let rest = lines.take_while(|line| !line.contains(" by preset "));
    let expected = rest.fold(format!("ok    mapping      {head}\n"), |all, line| {
        format!("{all}                   {line}\n")
    });
    let table = head.split(' ').next().unwrap();
    let output = world.command(["check", "--preset", preset, "--table", table]).output().await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains(&expected), "{told}\nshould contain\n{expected}");
    // What the table is, if somebody takes it for another one.
    let wrong = if preset == "debezium" { "goharvest" } else { "debezium" };
    let output = world.command(["check", "--preset", wrong, "--table", table]).output().await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let advice = format!("its columns are those of preset {preset}: --preset {preset}");
    assert!(told.contains("FAIL  mapping") && told.contains(&advice), "{told}");
}

/// The tables as their makers make them, a row as their libraries write it, and the record as their relays send it.
#[tokio::test]
async fn presets_read_the_tables_of_their_libraries() {
    let id = "11111111-2222-3333-4444-555555555555";
    let spakky = "id UUID NOT NULL PRIMARY KEY, event_name TEXT NOT NULL, payload BYTEA NOT NULL, headers JSON NOT NULL, \
        created_at TIMESTAMPTZ NOT NULL, published_at TIMESTAMPTZ, retry_count INTEGER NOT NULL, claimed_at TIMESTAMPTZ";
    let spakky_row = |more: &str, values: &str| {
        format!(
            "INSERT INTO spakky_event_outbox (id, event_name, payload, headers, created_at, retry_count{more}) VALUES \
             ('{id}', $topic$, '\\x7b7d', '{{\"traceparent\": \"00-\\u00fc\", \"empty\": \"\"}}', now(), 0{values})"
        )
    };
    let headers = vec![header("traceparent", Some("00-\u{fc}")), header("empty", Some(""))];
    let cases = [
        ("spakky", format!("CREATE TABLE spakky_event_outbox ({spakky})"), spakky_row("", ""), None, "{}", headers.clone()),
        (
            "spakky",
            format!("CREATE TABLE spakky_event_outbox ({spakky}, partition_key TEXT, abandoned_at TIMESTAMPTZ)"),
            spakky_row(", partition_key", ", 'k'"),
            Some("k"),
            "{}",
            headers,
        ),
        (
            "goharvest",
            "CREATE TABLE outbox (id BIGSERIAL PRIMARY KEY, create_time TIMESTAMP WITH TIME ZONE NOT NULL, kafka_topic VARCHAR(249) \
             NOT NULL, kafka_key VARCHAR(100) NOT NULL, kafka_value VARCHAR(10000), kafka_header_keys TEXT[] NOT NULL, \
             kafka_header_values TEXT[] NOT NULL, leader_id UUID)"
                .to_owned(),
            "INSERT INTO outbox (create_time, kafka_topic, kafka_key, kafka_value, kafka_header_keys, kafka_header_values) VALUES \
             (now(), $topic$, '', 'v', '{b,a}', '{\"x, y\",\"\"}')"
                .to_owned(),
            Some(""),
            "v",
            vec![header("b", Some("x, y")), header("a", Some(""))],
        ),
        (
            "open-outbox",
            "CREATE TABLE openoutbox_events (event_id UUID PRIMARY KEY, event_type TEXT NOT NULL, partition_key TEXT, payload BYTEA \
             NOT NULL, headers JSONB NOT NULL DEFAULT '{}', status TEXT NOT NULL DEFAULT 'PENDING', attempts INT NOT NULL DEFAULT 0, \
             available_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), created_at TIMESTAMPTZ NOT NULL DEFAULT NOW())"
                .to_owned(),
            format!(
                "INSERT INTO openoutbox_events (event_id, event_type, partition_key, payload, headers) VALUES ('{id}', $topic$, 'k', \
                 '\\x00ff', '{{\"h\": \"1\"}}')"
            ),
            Some("k"),
            "\u{0}\u{fffd}",
            vec![header("h", Some("1")), header("X-Event-ID", Some(id))],
        ),
        (
            "k1s0",
            "CREATE SCHEMA outbox; CREATE TABLE outbox.outbox_messages (id UUID PRIMARY KEY, idempotency_key VARCHAR(255) NOT NULL \
             UNIQUE, topic TEXT NOT NULL, partition_key TEXT NOT NULL, payload JSONB NOT NULL, status TEXT NOT NULL DEFAULT 'PENDING', \
             created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), process_after TIMESTAMPTZ NOT NULL DEFAULT NOW())"
                .to_owned(),
            format!(
                "INSERT INTO outbox.outbox_messages (id, idempotency_key, topic, partition_key, payload) VALUES ('{id}', 'i', $topic$, \
                 'k', '{{\"bb\": 1.10, \"a\": [1, 2]}}')"
            ),
            Some("k"),
            "{\"a\":[1,2],\"bb\":1.10}",
            vec![],
        ),
        (
            "k1s0",
            "CREATE SCHEMA outbox; CREATE TABLE outbox.outbox_messages (id UUID PRIMARY KEY, topic VARCHAR(255) NOT NULL, \
             partition_key VARCHAR(255) NOT NULL, payload JSONB NOT NULL, status VARCHAR(20) NOT NULL DEFAULT 'pending', \
             created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), process_after TIMESTAMPTZ NOT NULL DEFAULT NOW())"
                .to_owned(),
            format!(
                "INSERT INTO outbox.outbox_messages (id, topic, partition_key, payload) VALUES ('{id}', $topic$, 'k', '[ ]')"
            ),
            Some("k"),
            "[]",
            vec![],
        ),
        (
            "k1s0-csharp",
            "CREATE TABLE outbox_messages (id UUID PRIMARY KEY, topic TEXT NOT NULL, payload BYTEA NOT NULL, status TEXT NOT NULL \
             DEFAULT 'Pending', created_at TIMESTAMP NOT NULL)"
                .to_owned(),
            format!("INSERT INTO outbox_messages VALUES ('{id}', $topic$, 'x', 'Pending', now())"),
            None,
            "x",
            vec![],
        ),
    ];
    for (preset, schema, row, key, value, headers) in cases {
        let world = world(&schema, 1).await;
        let name = match preset {
            "spakky" if schema.contains("abandoned_at") => "spakky 8",
            "spakky" => "spakky 6.5",
            "k1s0" if !schema.contains("idempotency_key") => "k1s0's template",
            other => other,
        };
        tells_what_it_found(&world, preset, name).await;
        let row = row.replace("$topic$", &format!("'{}'", world.topic));
        let records = relayed(&world, ["--preset", preset], &row, 1).await;
        assert_eq!(text(records[0].key.as_ref()), key, "{preset}");
        let payload = records[0].payload.clone().unwrap();
        assert_eq!(String::from_utf8_lossy(&payload), value, "{preset}");
        assert_eq!(records[0].headers, headers, "{preset}");
    }
}

/// k1s0's services have one table each, in a schema of its own; the key is one of several members of the payload.
#[tokio::test]
async fn the_tables_of_the_k1s0_services_are_read_by_their_name() {
    let world = world(
        "CREATE SCHEMA activity_service; CREATE TABLE activity_service.outbox_events (id UUID PRIMARY KEY, aggregate_type TEXT NOT NULL, \
         aggregate_id TEXT NOT NULL, event_type TEXT NOT NULL, payload JSONB NOT NULL, created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), \
         published_at TIMESTAMPTZ)",
        1,
    )
    .await;
    let topic = world.topic.clone();
    let args =
        ["--preset", "k1s0-events", "--table", "activity_service.outbox_events", "--map-topic", &topic];
    let insert = |payload: &str| {
        format!(
            "INSERT INTO activity_service.outbox_events VALUES ('11111111-2222-3333-4444-555555555555'::uuid, 'activity', 'a', \
             'ActivityCreated', '{payload}')"
        )
    };
    let inserts = [
        r#"{"task_id": "t", "activity_id": "a"}"#,
        r#"{"task_id": "t", "assignee_id": null}"#,
        r#"{"project_id": "p", "column_id": "c", "board_id": "b"}"#,
        r#"{"board_id": "b"}"#,
        "{}",
    ];
    let inserts = inserts
        .iter()
        .enumerate()
        .map(|(n, payload)| insert(payload).replace("11111111", &format!("{n}1111111")));
    let records = relayed(&world, args, &inserts.collect::<Vec<_>>().join("; "), 5).await;
    let keys: Vec<_> = records.iter().map(|record| text(record.key.as_ref()).unwrap()).collect();
    assert_eq!(keys, ["a", "t", "c", "b", "41111111-2222-3333-4444-555555555555"]);
    assert_eq!(text(records[0].payload.as_ref()), Some(r#"{"activity_id":"a","task_id":"t"}"#));
    assert!(records.iter().all(|record| record.headers.is_empty()), "{records:?}");
}
