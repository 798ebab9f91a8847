//! The presets over the tables as their makers make them, and what `walpost check` says of these.

use super::{header, relayed, text, world};
use crate::world::World;

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
