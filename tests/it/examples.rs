//! The services of `examples/`: what each commits arrives, what it rolls back does not.
//!
//! Those whose toolchain is here are built and run. The statements of all of them, also of those, are held against
//! the table that `walpost setup` makes, and go from there to the topic.

mod programs;
mod statements;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio_postgres::Client;

use crate::support::{Consumed, Walpost, unique};
use crate::world::{World, stop};
use programs::Program;
use statements::Statement;

/// What must be quoted in JSON, in SQL or in a shell, and is not ASCII.
const CUSTOMER: &str = r#"Åsa "Ace" O'Hara"#;
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// With the tables of the order service beside the outbox.
async fn shop() -> (World, Client) {
    let world = World::new("example", 1).await;
    let client = world.database.client().await;
    client.batch_execute(&fs::read_to_string(folder("orders.sql")).unwrap()).await.unwrap();
    (world, client)
}

/// Builds the service and runs it; where its toolchain is missing, holds its statements against the table.
async fn serves(name: &str, program: Option<Program>) {
    let Some(program) = program else {
        // Past the capture of the test runner, so that nobody takes it for a run.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "examples/{name}: no toolchain here, so only its SQL is tested").unwrap();
        return arrive(&[name]).await;
    };
    let (world, client) = shop().await;
    let relay = world.relay().await;
    let output = Walpost::of(&program.binary, &program.args)
        .args(["17", CUSTOMER])
        .env("DATABASE_URL", (program.address)(&world.database.url))
        .env("TOPIC", &world.topic)
        .env("TRACEPARENT", TRACEPARENT)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .await;
    assert!(output.status.success(), "{name}: {output:?}");

    let select = "SELECT id::text, correlation_id, floor(extract(epoch FROM created_at) * 1000)::bigint \
                  FROM outbox.messages";
    let rows = client.query(select, &[]).await.unwrap();
    assert_eq!(rows.len(), 1, "{name}");
    let (id, correlation_id, created_at): (String, String, i64) =
        (rows[0].get(0), rows[0].get(1), rows[0].get(2));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said,
        format!("order 17 placed, event {id}\norder 18 rolled back: not enough of lamp\n"),
        "{name}"
    );

    // A row behind all that the service did: when it has arrived, nothing else is to come.
    world.insert(&client, 1).await;
    let records = world.consume(2).await;
    assert_eq!(records.len(), 2, "{name}: {records:?}");
    assert!(records[1].header("event_type").is_none(), "{name}: {records:?}");
    let record = &records[0];
    is_the_event(record, CUSTOMER, &order(17, CUSTOMER));
    assert_eq!(record.header("id"), Some(id.as_str()));
    assert_eq!(record.header("correlation_id"), Some(correlation_id.as_str()));
    assert!(correlation_id.len() >= 32, "{name}: {correlation_id}");
    assert_eq!(record.timestamp, Some(created_at));

    let select = "SELECT number, customer, item, quantity FROM orders";
    let rows = client.query(select, &[]).await.unwrap();
    let orders: Vec<(i64, &str, &str, i32)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    assert_eq!(orders, [(17, CUSTOMER, "lamp", 1)], "{name}");
    let left: i32 = client.query_one("SELECT available FROM stock", &[]).await.unwrap().get(0);
    assert_eq!(left, 99, "{name}");
    stop(relay).await;
}

fn order(number: i64, customer: &str) -> serde_json::Value {
    json!({ "order": number, "customer": customer, "item": "lamp", "quantity": 1 })
}

fn is_the_event(record: &Consumed, key: &str, payload: &serde_json::Value) {
    assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
    let value: serde_json::Value = serde_json::from_slice(record.payload.as_ref().unwrap()).unwrap();
    assert_eq!(value, *payload, "{key}");
    assert_eq!(record.header("event_type"), Some("OrderPlaced"), "{key}");
    assert_eq!(record.header("traceparent"), Some(TRACEPARENT), "{key}");
    let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["id", "event_type", "correlation_id", "traceparent", "walpost.lsn", "walpost.index"],
        "{key}"
    );
}

/// Runs the statements of these services in transactions of their own, with values of ours; all must arrive.
async fn arrive(names: &[&str]) {
    let (world, client) = shop().await;
    let relay = world.relay().await;
    for (number, name) in (1..).zip(names) {
        let statements = statements::of(&folder(name));
        let value = |parameter: &str| sample(parameter, number, name, &world.topic);
        client.batch_execute("BEGIN").await.unwrap();
        for (table, columns) in [("outbox.messages", 8), ("orders", 4)] {
            let found: Vec<&Statement> = statements.iter().filter(|it| it.inserts_into(table)).collect();
            assert_eq!(found.len(), 1, "{name}: one INSERT INTO {table}");
            assert_eq!(found[0].columns().len(), columns, "{name}: {}", found[0].sql);
        }
        for statement in &statements {
            statement.run(&client, value).await.unwrap_or_else(|error| {
                panic!("{name}: {}: {error:?}", statement.sql);
            });
        }
        client.batch_execute("COMMIT").await.unwrap();
    }
    let records = world.consume(names.len()).await;
    assert_eq!(records.len(), names.len(), "{records:?}");
    for (number, (name, record)) in (1..).zip(names.iter().zip(&records)) {
        is_the_event(record, name, &order(number, name));
        assert_eq!(record.header("correlation_id"), Some("request-1"));
        assert_eq!(record.timestamp, Some(1_767_323_045_678));
    }
    stop(relay).await;
}

/// What a service would put there, as SQL.
fn sample(parameter: &str, number: i64, name: &str, topic: &str) -> String {
    match parameter {
        "id" => format!("'{}'", uuid::Uuid::new_v4()),
        "topic" => format!("'{topic}'"),
        "key" | "customer" => format!("'{name}'"),
        "payload" => format!("'{}'", order(number, name)),
        "event_type" => "'OrderPlaced'".to_owned(),
        "headers" => format!(r#"'{{"traceparent":"{TRACEPARENT}"}}'"#),
        "correlation_id" => "'request-1'".to_owned(),
        "created_at" => "'2026-01-02 03:04:05.678901+00'".to_owned(),
        "number" => number.to_string(),
        // Not `lamp` among the rows of a table of stock, which has it already.
        "stock.item" => format!("'{}'", unique("item")),
        "item" => "'lamp'".to_owned(),
        "quantity" | "available" => "1".to_owned(),
        other => panic!("{name}: nobody knows the parameter {other}"),
    }
}

/// Every service but the one whose statement the library writes.
const WITH_SQL: [&str; 9] = [
    "csharp-npgsql",
    "dart-postgres",
    "go-pgx",
    "java-jdbc",
    "python-asyncpg",
    "python-sqlalchemy",
    "rust-sqlx",
    "swift-postgresnio",
    "typescript-pg",
];

#[tokio::test]
async fn the_statements_of_every_example_fit_the_table_and_arrive() {
    let entries = fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<String> =
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.retain(|name| name != "rust-tokio-postgres");
    assert_eq!(names, WITH_SQL);
    arrive(&WITH_SQL).await;
}

#[tokio::test]
async fn rust_with_tokio_postgres() {
    serves("rust-tokio-postgres", programs::rust("rust-tokio-postgres", "orders-tokio-postgres").await).await;
}

#[tokio::test]
async fn rust_with_sqlx() {
    serves("rust-sqlx", programs::rust("rust-sqlx", "orders-sqlx").await).await;
}

#[tokio::test]
async fn go_with_pgx() {
    serves("go-pgx", programs::go("go-pgx").await).await;
}

#[tokio::test]
async fn typescript_with_pg() {
    serves("typescript-pg", programs::typescript("typescript-pg").await).await;
}

#[tokio::test]
async fn python_with_asyncpg() {
    serves("python-asyncpg", programs::python("python-asyncpg").await).await;
}

#[tokio::test]
async fn python_with_sqlalchemy() {
    serves("python-sqlalchemy", programs::python("python-sqlalchemy").await).await;
}

#[tokio::test]
async fn java_with_jdbc() {
    serves("java-jdbc", programs::java("java-jdbc").await).await;
}
