//! Changes of the table while the relay is running, and while it is not.

use std::time::Duration;

use crate::support::{PATIENCE, Walpost, check};
use crate::world::{World, stop};

#[tokio::test]
async fn columns_come_go_and_change_their_names_under_load() {
    let world = World::new("ddl", 1).await;
    let oracle = world.oracle().await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    for change in [
        "ALTER TABLE outbox.messages ADD COLUMN tenant int DEFAULT 5",
        "ALTER TABLE outbox.messages ADD COLUMN blob bytea, ADD COLUMN place point",
        "ALTER TABLE outbox.messages RENAME tenant TO customer",
        "ALTER TABLE outbox.messages DROP COLUMN blob",
        "ALTER TABLE outbox.messages ALTER COLUMN payload TYPE jsonb",
        "ALTER TABLE outbox.messages ALTER COLUMN payload TYPE text USING payload::text",
        "ALTER TABLE outbox.messages ALTER COLUMN payload TYPE json USING payload::json",
    ] {
        world.insert(&client, 50).await;
        client.batch_execute(change).await.unwrap();
        world.insert(&client, 50).await;
    }
    let committed = oracle.committed_ids().await;
    let records = world.consume(committed.len()).await;
    check(&committed, &records).assert_exact();
    assert!(records.iter().all(|record| record.key.is_some()));
    assert!(!relay.log().contains("\"retrying\""), "{}", relay.log());
    stop(relay).await;
}

#[tokio::test]
async fn a_renamed_table_is_followed_and_found_again_by_its_new_name() {
    let world = World::new("rename", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    world.insert(&client, 5).await;
    client.batch_execute("ALTER TABLE outbox.messages RENAME TO mail").await.unwrap();
    let insert = format!("INSERT INTO outbox.mail (topic, payload) VALUES ('{}', '1')", world.topic);
    client.batch_execute(&insert).await.unwrap();
    assert_eq!(world.consume(6).await.len(), 6);
    stop(relay).await;
    client.batch_execute(&insert).await.unwrap();
    let old_name = world.command(["run"]).output().await;
    assert_eq!(old_name.status.code(), Some(1));
    let relay: Walpost = world.command(["run", "--table", "outbox.mail"]).spawn();
    assert_eq!(world.consume(7).await.len(), 7);
    stop(relay).await;
}

/// Rows of a table that was dropped and made again under the same name are not passed over.
#[tokio::test]
async fn a_table_made_anew_while_the_relay_was_away() {
    let world = World::new("anew", 1).await;
    let client = world.database.client().await;
    world.insert(&client, 5).await;
    let sql = "CREATE TABLE outbox.next (LIKE outbox.messages INCLUDING ALL); DROP TABLE outbox.messages; \
               ALTER TABLE outbox.next RENAME TO messages; ALTER PUBLICATION walpost ADD TABLE outbox.messages";
    client.batch_execute(sql).await.unwrap();
    world.insert(&client, 5).await;
    let relay = world.relay().await;
    assert_eq!(world.consume(10).await.len(), 10);
    stop(relay).await;
}

#[tokio::test]
async fn a_required_column_that_goes_stops_the_relay_at_that_place() {
    let world = World::new("required", 1).await;
    let client = world.database.client().await;
    let mut relay = world.relay().await;
    world.insert(&client, 5).await;
    assert_eq!(world.consume(5).await.len(), 5);
    let sql = format!(
        "ALTER TABLE outbox.messages RENAME payload TO body; INSERT INTO outbox.messages (topic, body) VALUES ('{}', '1')",
        world.topic
    );
    client.batch_execute(&sql).await.unwrap();
    let status = relay.wait(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(1), "{}", relay.log());
    assert!(relay.log().contains("no column payload"), "{}", relay.log());
    client.batch_execute("ALTER TABLE outbox.messages RENAME body TO payload").await.unwrap();
    // The row was written when the column had its other name, so the log still holds it that way.
    let relay = world.command(["run"]).spawn();
    relay.wait_for_log("no column payload", PATIENCE).await;
}

#[tokio::test]
async fn an_optional_column_that_goes_is_told() {
    let world = World::new("optional", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    world.insert(&client, 1).await;
    client.batch_execute("ALTER TABLE outbox.messages DROP COLUMN correlation_id").await.unwrap();
    world.insert(&client, 1).await;
    assert_eq!(world.consume(2).await.len(), 2);
    relay.wait_for_log("correlation_id", PATIENCE).await;
    stop(relay).await;
}
