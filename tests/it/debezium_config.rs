//! A connector's own configuration: rows of a real table become records as Debezium makes them.

use std::fs;

use tokio_postgres::Client;

use crate::support::walpost::Builder;
use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, consume, eventually};
use crate::world::{World, stop};

const TABLE: &str = "CREATE TABLE outboxevent (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, \
    aggregateid varchar(255), type varchar(255), payload jsonb, no int DEFAULT 7, note text DEFAULT 'none', price numeric(12,2), \
    total numeric, at timestamp, atz timestamptz, day date, tags text[], lane int, raw bytea, mood mood)";
const INSERTS: &str = "INSERT INTO outboxevent VALUES \
    ('00000000-0000-4000-8000-000000000001', 'Order', 'k-1', 'Paid', '{\"b\": null, \"a\": 1.10}', 5, 'é🎉', 6.25, 1.10, \
     '2024-03-01 05:00:04.128451', '2024-03-01 05:00:04.128451+00', '2024-03-01', '{a,NULL}', 1, '\\x00ff', 'glad'), \
    ('00000000-0000-4000-8000-000000000002', 'Order', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL), \
    ('00000000-0000-4000-8000-000000000003', 'Order', 'k-3', '', '{\"n\": 12345678901234567890}', 1, '', -0.01, 100, '2001-09-09 01:46:40', \
     'infinity', '1969-12-31', '{}', 0, '', 'sad')";

/// Relays the rows by a configuration, whose topic is `{topic}`, and reads the records in the order of their ids.
async fn relayed(name: &str, options: &str, more: &[&str]) -> (World, Vec<Consumed>) {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, name, 3).await;
    let client = world.database.client().await;
    client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'glad')").await.unwrap();
    client.batch_execute(TABLE).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("connector.properties");
    fs::write(&file, options.replace("{topic}", &world.topic)).unwrap();
    let file = file.to_string_lossy().into_owned();
    let args = ["--preset", "debezium", "--debezium-config", &file];
    // The slot is the connector's.
    let with =
        |command| world.command([command]).env("WALPOST_SLOT", "").args(args).args(more.iter().copied());
    let setup = with("setup").output().await;
    assert!(setup.status.success(), "{setup:?}");
    let relay = with("run").spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    client.batch_execute(INSERTS).await.unwrap();
    let mut records = consume(&world.brokers, &world.topic, 3, PATIENCE).await;
    stop(relay).await;
    let id = |record: &Consumed| record.headers.iter().find(|(name, _)| name == "id").cloned();
    records.sort_by_key(|record| id(record).map(|(_, value)| value));
    (world, records)
}

const ROUTER: &str = "transforms=outbox\ntransforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
    transforms.outbox.route.topic.replacement={topic}\n";
const CONNECT: &str = "connector.class=io.debezium.connector.postgresql.PostgresConnector\ntopic.prefix=shop\nslot.name={slot}\n\
    extended.headers.enabled=false\n";

fn connect(more: &str) -> String {
    let slot = format!("dbz_{:x}", fastrand::u64(..));
    format!("{}{ROUTER}{more}", CONNECT.replace("{slot}", &slot))
}

fn server(more: &str) -> String {
    let prefixed =
        |text: &str, prefix: &str| text.lines().map(|line| format!("{prefix}{line}\n")).collect::<String>();
    let source = CONNECT.replace("{slot}", &format!("dbz_{:x}", fastrand::u64(..)));
    format!(
        "debezium.sink.type=kafka\n{}{}{more}",
        prefixed(&source, "debezium.source."),
        prefixed(ROUTER, "debezium.")
    )
}

fn text(bytes: Option<&Vec<u8>>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap())
}

fn headers(record: &Consumed) -> Vec<(&str, Option<&str>)> {
    record.headers.iter().map(|(name, value)| (name.as_str(), text(value.as_ref()))).collect()
}

const TEXT: &str = "key.converter=org.apache.kafka.connect.storage.StringConverter\n\
    value.converter=org.apache.kafka.connect.storage.StringConverter\n";
const ID: &str = "00000000-0000-4000-8000-00000000000";

#[tokio::test]
async fn connect_with_text_sends_partitions_times_and_plain_headers() {
    let options = connect(&format!(
        "{TEXT}transforms.outbox.table.fields.additional.placement=type:header:kind,no:header,price:header,lane:partition\n\
         transforms.outbox.table.field.event.timestamp=at\n"
    ));
    let (_, records) = relayed("dbzc", &options, &[]).await;
    let [first, second, third] = records.as_slice() else { panic!("three") };
    assert_eq!(
        (text(first.key.as_ref()), text(first.payload.as_ref())),
        (Some("k-1"), Some("{\"a\": 1.10, \"b\": null}"))
    );
    assert_eq!((first.partition, first.timestamp), (1, Some(1_709_269_204_128)));
    let id = format!("{ID}1");
    assert_eq!(
        headers(first),
        [("id", Some(id.as_str())), ("kind", Some("Paid")), ("no", Some("5")), ("price", Some("6.25"))]
    );
    assert_eq!((second.key.as_ref(), second.payload.as_ref()), (None, None));
    let id = format!("{ID}2");
    assert_eq!(
        headers(second),
        [("id", Some(id.as_str())), ("kind", None), ("no", Some("7")), ("price", None)]
    );
    assert_eq!((third.partition, text(third.payload.as_ref())), (0, Some("{\"n\": 12345678901234567890}")));
}

#[tokio::test]
async fn connect_with_json_wraps_and_expands() {
    let json = "key.converter=org.apache.kafka.connect.json.JsonConverter\nkey.converter.schemas.enable=false\n\
                value.converter=org.apache.kafka.connect.json.JsonConverter\nvalue.converter.schemas.enable=false\n";
    let placed = "no:envelope,note:envelope:text,price:envelope,total:envelope,at:envelope,atz:envelope,day:envelope,\
                  tags:envelope,raw:envelope,mood:envelope";
    let options = connect(&format!(
        "{json}transforms.outbox.table.expand.json.payload=true\ntransforms.outbox.table.fields.additional.placement={placed}\n"
    ));
    let (_, records) = relayed("dbzj", &options, &["--map-own-headers", "yes"]).await;
    let values: Vec<_> = records.iter().map(|record| text(record.payload.as_ref()).unwrap()).collect();
    let expected = [
        r#"{"payload":{"a":1.1},"no":5,"text":"é\uD83C\uDF89","price":"AnE=","total":{"scale":1,"value":"Cw=="},"at":1709269204128451,"atz":"2024-03-01T05:00:04.128451Z","day":19783,"tags":["a",null],"raw":"AP8=","mood":"glad"}"#,
        r#"{"payload":null,"no":7,"text":"none","price":null,"total":null,"at":null,"atz":null,"day":null,"tags":null,"raw":null,"mood":null}"#,
        r#"{"payload":{"n":12345678901234567890},"no":1,"text":"","price":"/w==","total":{"scale":0,"value":"ZA=="},"at":1000000000000000,"atz":"infinity","day":-1,"tags":[],"raw":"","mood":"sad"}"#,
    ];
    assert_eq!(values, expected);
    let keys: Vec<_> = records.iter().map(|record| text(record.key.as_ref())).collect();
    assert_eq!(keys, [Some("\"k-1\""), Some("null"), Some("\"k-3\"")]);
    let names: Vec<_> = headers(&records[0]).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["id", "walpost.lsn", "walpost.index"]);
}

#[tokio::test]
async fn the_server_writes_schemas_everywhere_by_default() {
    let options =
        server("debezium.transforms.outbox.table.fields.additional.placement=type:header,lane:partition\n")
            .replace("debezium.source.extended.headers.enabled=false\n", "");
    let (_, records) = relayed("dbzs", &options, &[]).await;
    let first = &records[0];
    let key = r#"{"schema":{"type":"string","optional":true},"payload":"k-1"}"#;
    assert_eq!(text(first.key.as_ref()), Some(key));
    let value = r#"{"schema":{"type":"string","optional":true,"name":"io.debezium.data.Json","version":1},"payload":"{\"a\": 1.10, \"b\": null}"}"#;
    assert_eq!(text(first.payload.as_ref()), Some(value));
    let headers = headers(first);
    let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    let context = ["connectorLogicalName", "taskId", "connectorName", "runId"];
    let context: Vec<_> = context.iter().map(|name| format!("__debezium.context.{name}")).collect();
    assert_eq!(names[..4], context);
    assert_eq!(names[4..], ["id", "type"]);
    assert_eq!(headers[0].1, Some(r#"{"schema":{"type":"string","optional":false},"payload":"shop"}"#));
    let id = format!(
        r#"{{"schema":{{"type":"string","optional":false,"name":"io.debezium.data.Uuid","version":1}},"payload":"{ID}1"}}"#
    );
    assert_eq!(headers[4].1, Some(id.as_str()));
    assert_eq!(headers[5].1, Some(r#"{"schema":{"type":"string","optional":true},"payload":"Paid"}"#));
}

#[tokio::test]
async fn a_slot_and_a_publication_of_debezium_are_taken_over_and_given_back() {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "dbzt", 1).await;
    let client = world.database.client().await;
    client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'glad')").await.unwrap();
    client.batch_execute(TABLE).await.unwrap();
    // As Debezium makes them by itself, and with rows that wait since.
    let slot = format!("dbz_{:x}", fastrand::u64(..));
    client.batch_execute("CREATE PUBLICATION dbz_publication FOR ALL TABLES").await.unwrap();
    let made = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    client.batch_execute(&made).await.unwrap();
    client.batch_execute(INSERTS).await.unwrap();
    client.batch_execute("UPDATE outboxevent SET type = 'x'; DELETE FROM outboxevent").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.properties");
    let options = connect(TEXT).replace("{topic}", &world.topic);
    let own = options.lines().filter(|line| !line.starts_with("slot.name")).map(|line| format!("{line}\n"));
    fs::write(&file, format!("{}slot.name={slot}\n", own.collect::<String>())).unwrap();
    let file = file.to_string_lossy().into_owned();
    let args = ["--preset", "debezium", "--debezium-config", &file];
    let with = |command| world.command([command]).env("WALPOST_SLOT", "").args(args);
    let relay = with("run").spawn();
    let records = consume(&world.brokers, &world.topic, 3, PATIENCE).await;
    let ids: Vec<_> = records.iter().map(|record| headers(record)[0].1.unwrap().to_owned()).collect();
    assert_eq!(ids, ["1", "2", "3"].map(|last| format!("{ID}{last}")));
    stop(relay).await;
    // What is confirmed is behind the rows: whoever reads the slot next begins there.
    let left = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', '1', \
         'publication_names', 'dbz_publication') WHERE get_byte(data, 0) = ascii('I')"
    );
    let left: i64 = client.query_one(&left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
    let check = with("check").output().await;
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    let line = format!(
        "ok    mapping      public.outboxevent as Kafka Connect: topic {} of aggregatetype, key aggregateid as text",
        world.topic
    );
    assert!(told.contains(&line), "{told}");
}

#[tokio::test]
async fn a_column_that_can_not_be_reproduced_is_told_before_the_first_row() {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "dbzx", 1).await;
    let client = world.database.client().await;
    client
        .batch_execute(
            "CREATE TABLE outboxevent (id uuid, aggregatetype text, aggregateid interval, payload text)",
        )
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.properties");
    fs::write(&file, connect(TEXT)).unwrap();
    let file = file.to_string_lossy().into_owned();
    let output = world.command(["run", "--preset", "debezium", "--debezium-config", &file]).output().await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("column aggregateid that is of type interval"), "{told}");
    // The connector finds its tables in any case; here they are named as they are.
    fs::write(&file, format!("{}table.include.list=Public.OutboxEvent\n", connect(TEXT))).unwrap();
    let output = world.command(["run", "--preset", "debezium", "--debezium-config", &file]).output().await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("there is public.outboxevent: write it so, with --table"), "{told}");
}

/// A database with one outbox, and a connector's file.
async fn with_table(name: &str, table: &str, options: &str) -> (World, Client, tempfile::NamedTempFile) {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, name, 1).await;
    let client = world.database.client().await;
    client.batch_execute(table).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), connect(&format!("{TEXT}{options}")).replace("{topic}", &world.topic)).unwrap();
    let setup = with_file(&world, "setup", &file).output().await;
    assert!(setup.status.success(), "{setup:?}");
    (world, client, file)
}

fn with_file(world: &World, command: &str, file: &tempfile::NamedTempFile) -> Builder {
    let file = file.path().to_str().unwrap();
    let args = ["--preset", "debezium", "--debezium-config", file];
    world.command([command]).env("WALPOST_SLOT", "").args(args)
}

#[tokio::test]
async fn a_column_is_as_wide_as_it_was_when_its_row_was_written() {
    let (world, client, file) = with_table(
        "dbzw",
        "CREATE TABLE outboxevent (id uuid DEFAULT gen_random_uuid(), aggregatetype text DEFAULT 'a', aggregateid text, \
         payload text, price numeric(6,2) DEFAULT 6.25, at timestamp(3) DEFAULT '2024-03-01 05:00:04.128451')",
        "transforms.outbox.table.fields.additional.placement=price:header,at:header\n",
    )
    .await;
    let insert = "INSERT INTO outboxevent DEFAULT VALUES";
    // The first row waits, and the catalog knows later types only.
    client.batch_execute(insert).await.unwrap();
    let wider = "ALTER TABLE outboxevent ALTER price TYPE numeric(8,3), ALTER at TYPE timestamp";
    client.batch_execute(wider).await.unwrap();
    client.batch_execute(insert).await.unwrap();
    let relay = with_file(&world, "run", &file).spawn();
    consume(&world.brokers, &world.topic, 2, PATIENCE).await;
    let narrower = "ALTER TABLE outboxevent ALTER price TYPE numeric(7,1), ALTER at TYPE timestamp(2)";
    client.batch_execute(narrower).await.unwrap();
    client.batch_execute(insert).await.unwrap();
    let records = consume(&world.brokers, &world.topic, 3, PATIENCE).await;
    stop(relay).await;
    let seen: Vec<_> =
        records.iter().map(|it| (it.header("price").unwrap(), it.header("at").unwrap())).collect();
    assert_eq!(seen, [("6.25", "1709269204128"), ("6.250", "1709269204128451"), ("6.3", "1709269204130")]);
}

#[tokio::test]
async fn rows_are_marked_by_the_id_that_the_connector_names() {
    let (world, client, file) = with_table(
        "dbzm",
        "CREATE TABLE outboxevent (event_id uuid NOT NULL UNIQUE, aggregatetype text, aggregateid text, payload text, \
         sent timestamptz)",
        "transforms.outbox.table.field.event.id=event_id\n",
    )
    .await;
    let relay =
        with_file(&world, "run", &file).args(["--write-back", "mark", "--map-mark", "sent=now"]).spawn();
    client.batch_execute(&format!("INSERT INTO outboxevent VALUES ('{ID}1', 'a', 'k', 'p')")).await.unwrap();
    let marked = "SELECT count(*) FROM outboxevent WHERE sent IS NOT NULL";
    eventually("the row to be marked", PATIENCE, async || {
        let count: i64 = client.query_one(marked, &[]).await.unwrap().get(0);
        (count == 1).then_some(())
    })
    .await;
    stop(relay).await;
}

/// Debezium has one schema for the envelopes of both, so that its records depend on which row comes first.
#[tokio::test]
async fn tables_with_one_envelope_that_are_declared_apart_are_told_before_the_first_row() {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "dbzm", 1).await;
    let client = world.database.client().await;
    let columns = "id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text, payload jsonb, no int";
    let tables = format!("CREATE TABLE one ({columns}); CREATE TABLE two ({columns} NOT NULL)");
    client.batch_execute(&tables).await.unwrap();
    let json = "key.converter=org.apache.kafka.connect.json.JsonConverter\n\
                value.converter=org.apache.kafka.connect.json.JsonConverter\n";
    let options = connect(&format!(
        "{json}transforms.outbox.table.fields.additional.placement=no:envelope\ntable.include.list=public.one,public.two\n"
    ));
    let told = async || {
        let check = world.command(["check", "--preset", "debezium", "--debezium-config", "c.properties"]);
        let output = check.file("c.properties", &options).env("WALPOST_SLOT", "").output().await;
        String::from_utf8(output.stdout).unwrap()
    };
    let apart = told().await;
    let expected = "column no that is not declared as in public.one (type, NOT NULL, default)";
    assert!(apart.contains("FAIL  mapping") && apart.contains(expected), "{apart}");
    client.batch_execute("ALTER TABLE one ALTER no SET NOT NULL").await.unwrap();
    let alike = told().await;
    assert!(
        alike.contains("ok    mapping      public.two as Kafka Connect") && !alike.contains("FAIL  mapping"),
        "{alike}"
    );
}
