//! Values in their text form: what conditions are compared with, what JSON stays, and what goes missing.

use super::{header, relayed, told, world};
use crate::support::{PATIENCE, consume};
use crate::world::stop;

/// Every text of a condition is written in another way than the server writes such a value; of the other rows each fails
/// one condition.
#[tokio::test]
async fn conditions_are_compared_as_the_server_writes_values() {
    let world = world(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); \
         CREATE TABLE events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), status char(8), sent bool, price numeric(6,2), \
         owner uuid, at timestamptz, feeling mood, n bigserial)",
        1,
    )
    .await;
    let topic = world.topic.clone();
    let only = "status=NEW|OLD, sent=false, price=1, owner=AAAAAAAA-0000-4000-8000-000000000001, \
                at=2026-01-02T03:04:05+01:00|, feeling=glad";
    let args = [
        "--table",
        "events",
        "--map-topic",
        &topic,
        "--map-key",
        "none",
        "--map-value",
        "{n}",
        "--map-only",
        only,
    ];
    let with = |command| {
        world.command([command]).args(args).args(["--map-headers", "none", "--map-timestamp", "none"])
    };
    let owner = "aaaaaaaa-0000-4000-8000-000000000001";
    let fit = format!("'NEW', false, 1, '{owner}', '2026-01-02 02:04:05Z', 'glad'");
    let row = |values: &str| {
        format!("INSERT INTO events (status, sent, price, owner, at, feeling) VALUES ({values});")
    };
    let others = [
        ("'NEW'", "'NEWER'"),
        ("false", "true"),
        (" 1,", " 1.01,"),
        ("0001'", "0002'"),
        ("02:04:05Z", "03:04:05Z"),
        ("'glad'", "'sad'"),
    ];
    let unfit: String = others.iter().map(|(one, other)| row(&fit.replacen(one, other, 1))).collect();
    let client = world.database.client().await;
    client.batch_execute(&format!("{unfit}{}", row(&fit))).await.unwrap();
    let setup = with("setup").args(["--backfill", "pending"]).output().await;
    assert!(setup.status.success(), "{}", told(&setup));
    let relay = with("run").spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    client.batch_execute(&format!("{unfit}{}", row(&fit))).await.unwrap();
    // The scale is another one now, and so is the text of the same number.
    let altered = "ALTER TABLE events ALTER price TYPE numeric(7,3), ALTER status TYPE char(10)";
    client.batch_execute(&format!("{altered}; {}{}", unfit, row(&fit))).await.unwrap();
    let _ = consume(&world.brokers, &topic, 3, PATIENCE).await;
    world.caught_up().await;
    let records = consume(&world.brokers, &topic, 3, PATIENCE).await;
    let values: Vec<_> = records.iter().map(|record| super::text(record.payload.as_ref()).unwrap()).collect();
    assert_eq!(values, ["7", "14", "21"]);
    stop(relay).await;
}

/// JSON null is what some programs write for no headers at all.
#[tokio::test]
async fn json_stays_json_and_null_headers_are_none() {
    let world = world(
        "CREATE TABLE events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), payload jsonb, headers jsonb)",
        1,
    )
    .await;
    let topic = world.topic.clone();
    let value = "object(items={payload.items}, name={payload.name}, n={payload.n}, both={payload.gone|payload.items.0}, \
                 label={payload.name}!, of={id})";
    let args = [
        "--table",
        "events",
        "--map-topic",
        &topic,
        "--map-key",
        "none",
        "--map-value",
        value,
        "--map-timestamp",
        "none",
        "--map-headers",
        "{headers}",
        "--map-own-headers",
        "no",
    ];
    let inserts = r#"INSERT INTO events VALUES ('11111111-2222-3333-4444-555555555555', '{"items": ["1", {"a": 2}], "name": "5", "n": 1.10}', 'null'),
        ('11111111-2222-3333-4444-555555555556', '{}', '{"a": "b"}')"#;
    let records = relayed(&world, args, inserts, 2).await;
    let expected = r#"{"items":["1", {"a": 2}],"name":"5","n":1.10,"both":"1","label":"5!","of":"11111111-2222-3333-4444-555555555555"}"#;
    assert_eq!(super::text(records[0].payload.as_ref()), Some(expected));
    assert_eq!(records[0].headers, []);
    let expected = r#"{"items":null,"name":null,"n":null,"both":null,"label":null,"of":"11111111-2222-3333-4444-555555555556"}"#;
    assert_eq!(super::text(records[1].payload.as_ref()), Some(expected));
    assert_eq!(records[1].headers, [header("a", Some("b"))]);
}

/// A column that may be missing and is generated, and a table whose children's rows the stream does not have.
#[tokio::test]
async fn what_the_stream_does_not_have_is_told() {
    let world = world(
        "CREATE TABLE events (id uuid, topic text, payload json, key text GENERATED ALWAYS AS (topic || 'x') STORED); \
         CREATE TABLE events_of_shop () INHERITS (events)",
        1,
    )
    .await;
    let args = ["--table", "events", "--map-headers", "none"];
    let setup = world.command(["setup"]).args(args).output().await;
    assert!(setup.status.success(), "{}", told(&setup));
    let check = told(&world.command(["check"]).args(args).output().await);
    for words in [
        "column key of public.events is generated, and the server does not send it",
        "rows that are inserted into public.events_of_shop, which inherit from public.events, are not sent",
    ] {
        assert!(check.contains(words), "{words}: {check}");
    }
}
