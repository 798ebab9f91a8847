//! Rows that wait, of tables that the relay does not serve any more: they are told of, and none is lost.

use std::time::Duration;

use tokio_postgres::Client;

use crate::later::{held, values};
use crate::support::walpost::Builder;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Walpost, eventually};
use crate::world::{World, stop};

const BOTH: [&str; 4] = ["--table", "outbox.messages", "--table", "b.messages"];
const MAIN: [&str; 2] = ["--table", "outbox.messages"];

async fn world() -> (World, Client) {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "served", 1).await;
    let output = world.command(["setup"]).args(BOTH).output().await;
    assert!(output.status.success(), "{output:?}");
    let client = world.database.client().await;
    for table in ["outbox.messages", "b.messages"] {
        let column = format!("ALTER TABLE {table} ADD COLUMN scheduled_at timestamptz");
        client.batch_execute(&column).await.unwrap();
    }
    (world, client)
}

async fn started(command: Builder) -> Walpost {
    let relay = command.spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    relay
}

async fn insert(world: &World, client: &Client, table: &str, value: i64, due: &str) {
    let sql = format!(
        "INSERT INTO {table} (topic, key, payload, scheduled_at) VALUES ($1, 'k', to_json($2::int8), {due})"
    );
    client.execute(&sql, &[&world.topic, &value]).await.unwrap();
}

async fn told(command: Builder) -> String {
    let output = command.output().await;
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn a_row_of_a_table_that_is_not_served_waits_until_it_is() {
    let (world, client) = world().await;
    let relay = started(world.command(["run"]).args(BOTH)).await;
    insert(&world, &client, "b.messages", 1, "now() + interval '2 s'").await;
    insert(&world, &client, "b.messages", 2, "now() + interval '3 s'").await;
    insert(&world, &client, "outbox.messages", 3, "now() + interval '4 s'").await;
    eventually("all to wait", PATIENCE, async || (held(&client).await == 3).then_some(())).await;
    world.caught_up().await;
    stop(relay).await;

    let relay = started(world.command(["run"]).args(MAIN)).await;
    let warning = "rows of b.messages wait in outbox.scheduled, and are not sent";
    relay.wait_for_log(warning, PATIENCE).await;
    // The last of all comes, and the others stay.
    assert_eq!(values(&world.consume(1).await), [3]);
    world.caught_up().await;
    assert_eq!(held(&client).await, 2);
    let check = told(world.command(["check"]).args(MAIN)).await;
    assert!(check.contains(warning) && check.contains("UPDATE outbox.scheduled SET source = "), "{check}");
    assert!(check.contains("no row waits; 2 of b.messages, which is not served"), "{check}");
    let status = told(world.command(["status"]).args(MAIN)).await;
    assert!(status.contains("no row waits; 2 of b.messages, which is not served"), "{status}");
    let json = told(world.command(["status", "--json"]).args(MAIN)).await;
    assert!(json.contains("\"held\":0") && json.contains("\"held_unserved\":{\"b.messages\":2}"), "{json}");
    // Somebody who knows better: what waits is of this table.
    let own = "UPDATE outbox.scheduled SET source = 'outbox.messages' WHERE content->>'payload' = '2'";
    assert_eq!(client.execute(own, &[]).await.unwrap(), 1);
    assert_eq!(values(&world.consume(2).await), [3, 2]);
    stop(relay).await;

    let relay = started(world.command(["run"]).args(BOTH)).await;
    assert_eq!(values(&world.consume(3).await), [3, 2, 1]);
    stop(relay).await;
}

/// A relay has released rows and died, and the next one does not serve their table: nothing else keeps them.
#[tokio::test]
async fn a_released_row_of_a_table_that_is_not_served_stops_the_line() {
    let (world, client) = world().await;
    let sql = "SELECT pg_logical_emit_message(true, 'walpost.rows:b.messages', convert_to('{\"seal\":' || to_json(secret) \
         || ',\"mark\":null,\"released\":' || to_json($1::text) || ',\"row\":{\"id\":\"11111111-2222-3333-4444-555555555555\",\"topic\":' \
         || to_json($2::text) || ',\"key\":null,\"payload\":\"1\",\"headers\":\"{}\"}}', 'UTF8')) FROM outbox.walpost_seal";
    client.execute(sql, &[&world.slot, &world.topic]).await.unwrap();
    // What others have held is theirs.
    client.execute(sql, &[&"another", &world.topic]).await.unwrap();
    insert(&world, &client, "outbox.messages", 2, "NULL").await;
    let mut relay = world.command(["run"]).args(MAIN).spawn();
    let status = relay.wait(Duration::from_secs(30)).await;
    let log = relay.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("a row of b.messages is due") && log.contains("name it with --table as well"),
        "{log}"
    );
    let relay = started(world.command(["run"]).args(BOTH)).await;
    assert_eq!(values(&world.consume(2).await), [1, 2]);
    world.caught_up().await;
    stop(relay).await;
}

/// After a rename the function writes beside a table that nobody serves.
#[tokio::test]
async fn events_beside_a_table_that_is_not_served_are_told_of() {
    let world = World::new("renamed", 1).await;
    let client = world.database.client().await;
    client.batch_execute("ALTER TABLE outbox.messages RENAME TO events").await.unwrap();
    let args = ["--table", "outbox.events"];
    let relay = started(world.command(["run"]).args(args)).await;
    let emit = async |payload: &str| {
        let sql = "SELECT outbox.emit($1, $2::text::json)";
        client.execute(sql, &[&world.topic, &payload]).await.unwrap();
    };
    emit("1").await;
    emit("1").await;
    let warning = "an event beside outbox.messages is passed over";
    relay.wait_for_log(warning, PATIENCE).await;
    let output = world.command(["setup"]).args(args).output().await;
    assert!(output.status.success(), "{output:?}");
    emit("2").await;
    assert_eq!(values(&world.consume(1).await), [2]);
    assert_eq!(relay.log().matches(warning).count(), 1, "once");
    stop(relay).await;
}
