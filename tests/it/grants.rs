//! What a service needs: no more than the set-up's file says.

use crate::support::unique;
use crate::world::{World, stop};

#[tokio::test]
async fn a_service_that_may_only_insert_can_insert_and_publish() {
    let world = World::new("grants", 1).await;
    let client = world.database.client().await;
    let role = unique("service");
    let as_service = format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA outbox TO {role}; GRANT INSERT ON outbox.messages TO {role}; \
         SET ROLE {role}"
    );
    client.batch_execute(&as_service).await.unwrap();
    let topic = &world.topic;
    let relay = world.relay().await;
    client
        .execute("INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, 'k', '1')", &[topic])
        .await
        .unwrap();
    let publish = "SELECT outbox.publish($1, '2', key => 'k', event_type => 'Two', headers => NULL)";
    let id: uuid::Uuid = client.query_one(publish, &[topic]).await.unwrap().get(0);
    let denied = client.execute("SELECT FROM outbox.messages", &[]).await.unwrap_err();
    assert!(denied.to_string().contains("db error"), "{denied}");
    let records = world.consume(2).await;
    let payloads: Vec<_> = records.iter().map(|record| record.payload.as_deref().unwrap()).collect();
    assert_eq!(payloads, [b"1", b"2"]);
    assert_eq!(records[1].header("id").unwrap(), id.to_string(), "the id that was returned");
    assert_eq!(records[1].header("event_type"), Some("Two"));
    stop(relay).await;
    client.batch_execute(&format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}
