//! The topic holds exactly what was committed, byte for byte, per partition in commit order.

use uuid::Uuid;

use crate::support::{Consumed, PATIENCE, PostgresServer, check};
use crate::workload;
use crate::world::{World, stop};

#[tokio::test]
async fn concurrent_writers_rollbacks_and_savepoints_arrive_exactly() {
    let world = World::new("exact", 3).await;
    let oracle = world.oracle().await;
    let relay = world.relay().await;
    workload::run(&world, fastrand::u64(..1 << 40), 60).await;
    let committed = oracle.committed_ids().await;
    let records = world.consume(committed.len()).await;
    check(&committed, &records).assert_exact();
    for record in records.iter().filter(|record| record.header("of").is_some()) {
        let id: Uuid = record.header("id").unwrap().parse().unwrap();
        assert_eq!(record.payload.as_deref(), Some(workload::payload(id).as_bytes()));
        let key = (!id.as_u128().is_multiple_of(5)).then(|| workload::key(id).into_bytes());
        assert_eq!(record.key, key);
        assert_eq!(record.header("event_type"), Some("Tested"), "as inserted, not as updated");
        assert_eq!(record.header("of"), Some(id.to_string().as_str()));
    }
    positions_grow(&records);
    stop(relay).await;
}

/// Within a partition, (commit LSN, index) grows from record to record.
fn positions_grow(records: &[Consumed]) {
    let mut newest = std::collections::HashMap::new();
    let mut records: Vec<_> = records.iter().collect();
    records.sort_by_key(|record| (record.partition, record.offset));
    for record in records {
        let lsn: walpost::Lsn = record.header("walpost.lsn").unwrap().parse().unwrap();
        let index: u64 = record.header("walpost.index").unwrap().parse().unwrap();
        let before = newest.insert(record.partition, (lsn, index));
        assert!(before < Some((lsn, index)), "{before:?} then {lsn} {index}");
    }
}

#[tokio::test]
async fn every_field_arrives_as_it_was_written() {
    let world = World::new("fields", 1).await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    let sql = "INSERT INTO outbox.messages (id, topic, key, payload, event_type, headers, correlation_id, created_at) VALUES \
        ('11111111-2222-3333-4444-555555555555', $1, 'Schlüssel', '{ \"a\" :1.10, \"ü\":\"🦀\\u0041\" }', 'Größe', \
         '{\"traceparent\":\"00-ab-cd-01\",\"n\":1.10,\"none\":null,\"o\":{\"x\":[1]}}', 'corr', '2026-01-02 03:04:05.678901+00'), \
        ('22222222-2222-3333-4444-555555555555', $1, NULL, NULL, NULL, '{}', NULL, '2026-01-02 03:04:05+02'), \
        ('33333333-2222-3333-4444-555555555555', $1, '', '\"\"', '', '{}', '', 'infinity')";
    client.execute(sql, &[&world.topic]).await.unwrap();
    let records = world.consume(3).await;
    let header =
        |name: &str, value: Option<&str>| (name.to_owned(), value.map(|value| value.as_bytes().to_vec()));
    let own = |record: &Consumed| -> Vec<_> {
        record.headers.iter().filter(|(name, _)| !name.starts_with("walpost.")).cloned().collect()
    };

    let first = &records[0];
    assert_eq!(first.key.as_deref(), Some("Schlüssel".as_bytes()));
    assert_eq!(first.payload.as_deref(), Some("{ \"a\" :1.10, \"ü\":\"🦀\\u0041\" }".as_bytes()));
    assert_eq!(first.timestamp, Some(1_767_323_045_678));
    let names: Vec<_> = first.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..3], ["id", "event_type", "correlation_id"]);
    assert_eq!(names[names.len() - 2..], ["walpost.lsn", "walpost.index"]);
    let mut headers = own(first);
    headers.sort();
    let mut expected = vec![
        header("id", Some("11111111-2222-3333-4444-555555555555")),
        header("event_type", Some("Größe")),
        header("correlation_id", Some("corr")),
        header("traceparent", Some("00-ab-cd-01")),
        header("n", Some("1.10")),
        header("none", None),
        header("o", Some("{\"x\": [1]}")),
    ];
    expected.sort();
    assert_eq!(headers, expected);

    let second = &records[1];
    assert_eq!((&second.key, &second.payload), (&None, &None), "null is null, not empty");
    assert_eq!(own(second), [header("id", Some("22222222-2222-3333-4444-555555555555"))]);
    assert_eq!(second.timestamp, Some(1_767_315_845_000));

    let third = &records[2];
    assert_eq!((third.key.as_deref(), third.payload.as_deref()), (Some(&b""[..]), Some(&b"\"\""[..])));
    let empty = ["event_type", "correlation_id"].map(|name| third.header(name));
    assert_eq!(empty, [Some(""), Some("")], "empty is empty, not null");
    let indexes: Vec<_> = records.iter().map(|record| record.header("walpost.index").unwrap()).collect();
    assert_eq!(indexes, ["0", "1", "2"]);
    stop(relay).await;
}

/// Payload columns of every type that the contract names, columns in another order with strangers between.
#[tokio::test]
async fn payloads_of_every_type_and_columns_in_any_order() {
    for (kind, literal, expected) in [
        ("json", "'{ \"a\":1 }'", "{ \"a\":1 }"),
        ("jsonb", "'{ \"b\":2,\"a\":1 }'", "{\"a\": 1, \"b\": 2}"),
        ("text", "'plain \u{1F980}'", "plain \u{1F980}"),
        ("bytea", "'\\x00ff0a'", "\u{0}\u{FFFD}\n"),
    ] {
        // The same once more with a stranger among the mapped types, which makes the stream use text format.
        for key in ["text", "public.colour"] {
            let broker = crate::support::KafkaBroker::shared().await;
            let world = World::bare(PostgresServer::shared().await, broker, "types", 1).await;
            let client = world.database.client().await;
            let sql = format!(
                "CREATE TYPE colour AS ENUM ('red', 'blue'); CREATE SCHEMA \"My App\"; \
                 CREATE TABLE \"My App\".\"Out\" (extra int DEFAULT 7, payload {kind}, more point DEFAULT '(1,2)', \
                 topic varchar(80), key {key} DEFAULT 'blue', id uuid PRIMARY KEY DEFAULT gen_random_uuid())"
            );
            client.batch_execute(&sql).await.unwrap();
            let table = "\"My App\".\"Out\"";
            let setup = world.command(["setup", "--table", table, "--publication", "it's"]).output().await;
            assert!(setup.status.success(), "{setup:?}");
            let relay = world.command(["run", "--table", table, "--publication", "it's"]).spawn();
            relay.wait_for_log("streaming", PATIENCE).await;
            let insert =
                format!("INSERT INTO {table} (topic, payload) VALUES ('{}', {literal})", world.topic);
            client.batch_execute(&insert).await.unwrap();
            let records = world.consume(1).await;
            assert_eq!(records[0].key.as_deref(), Some(&b"blue"[..]));
            let payload = records[0].payload.clone().unwrap();
            assert_eq!(String::from_utf8_lossy(&payload), expected, "{kind}");
            assert_eq!(payload.len(), if kind == "bytea" { 3 } else { expected.len() });
            stop(relay).await;
        }
    }
}

#[tokio::test]
async fn a_partitioned_table_is_served_whole() {
    let broker = crate::support::KafkaBroker::shared().await;
    let world = World::bare(PostgresServer::shared().await, broker, "parts", 1).await;
    let client = world.database.client().await;
    let sql = "CREATE SCHEMA outbox; CREATE TABLE outbox.messages (id uuid DEFAULT gen_random_uuid(), topic text, \
               payload json, created_at timestamptz DEFAULT now()) PARTITION BY RANGE (created_at); \
               CREATE TABLE outbox.old PARTITION OF outbox.messages FOR VALUES FROM (MINVALUE) TO ('2022-01-01'); \
               CREATE TABLE outbox.new PARTITION OF outbox.messages FOR VALUES FROM ('2022-01-01') TO ('2024-01-01')";
    client.batch_execute(sql).await.unwrap();
    let setup = world.command(["setup"]).output().await;
    assert!(setup.status.success(), "{setup:?}");
    let relay = world.relay().await;
    let insert = |at: &str| {
        format!(
            "INSERT INTO outbox.messages (topic, payload, created_at) VALUES ('{}', '1', '{at}')",
            world.topic
        )
    };
    client.batch_execute(&insert("2020-01-01")).await.unwrap();
    client.batch_execute(&insert("2023-06-01")).await.unwrap();
    let sql =
        "CREATE TABLE outbox.later PARTITION OF outbox.messages FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)";
    client.batch_execute(sql).await.unwrap();
    client.batch_execute(&insert("2025-01-01")).await.unwrap();
    assert_eq!(world.consume(3).await.len(), 3);
    assert!(!relay.log().contains("not the outbox"), "{}", relay.log());
    stop(relay).await;

    client.batch_execute("ALTER PUBLICATION walpost SET (publish_via_partition_root = false)").await.unwrap();
    let refused = world.command(["run"]).output().await;
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("publish_via_partition_root = true"), "{text}");
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    let server = PostgresServer::shared().await;
    let world = World::new("socket", 1).await;
    let url = server.socket_url(&world.database.name);
    let relay = world.command(["run"]).env("WALPOST_DATABASE_URL", &url).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    let ids = world.insert(&client, 10).await;
    check(&ids, &world.consume(10).await).assert_exact();
    stop(relay).await;
}

/// Of several hosts the first that answers and fits is taken.
#[tokio::test]
async fn several_hosts_are_tried_in_turn() {
    let world = World::new("hosts", 1).await;
    let at = world.database.url.find("127.0.0.1").unwrap();
    let (before, after) = world.database.url.split_at(at);
    let url = format!("{before}127.0.0.1:1,{after}?target_session_attrs=primary");
    let relay = world.command(["run"]).env("WALPOST_DATABASE_URL", url).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    stop(relay).await;
}
