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

/// What each statement ends in, as a role of no other rights.
async fn denied(client: &tokio_postgres::Client, role: &str, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
        let result = client.batch_execute(statement).await;
        client.batch_execute("ROLLBACK; RESET ROLE").await.unwrap();
        let error = result.err().unwrap_or_else(|| panic!("{role} may: {statement}"));
        let code = error.code().map(tokio_postgres::error::SqlState::code).unwrap_or_default();
        assert_eq!(code, "42501", "{role}: {statement}: {error}");
    }
}

#[tokio::test]
async fn relay_and_services_can_do_no_more_than_the_set_up_says() {
    let world = World::new("least", 1).await;
    let client = world.database.client().await;
    let (role, table) = (unique("service"), unique("orders"));
    let made = format!(
        "CREATE TABLE {table} (n int); CREATE ROLE {role}; GRANT USAGE ON SCHEMA outbox TO {role}; \
         GRANT INSERT ON outbox.messages TO {role}"
    );
    client.batch_execute(&made).await.unwrap();
    let others = format!("SELECT FROM {table}");
    let common = [
        others.as_str(),
        "UPDATE outbox.messages SET topic = 'x'",
        "DELETE FROM outbox.messages",
        "TRUNCATE outbox.messages",
        "ALTER TABLE outbox.messages ADD x int",
        "CREATE TABLE outbox.mine (n int)",
        "CREATE FUNCTION outbox.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE PUBLICATION mine FOR TABLE outbox.messages",
        "ALTER PUBLICATION walpost SET (publish = 'delete')",
        "DROP PUBLICATION walpost",
        "SELECT outbox.emit('t', '1')",
        "CREATE ROLE mine",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY outbox.messages (topic) TO PROGRAM 'true'",
    ];
    denied(&client, "walpost", &common).await;
    denied(&client, "walpost", &["INSERT INTO outbox.messages (topic) VALUES ('t')"]).await;
    denied(&client, &role, &common).await;
    let slot = format!("SELECT pg_drop_replication_slot('{}')", world.slot);
    let advance = format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", world.slot);
    let of_service = [
        "SELECT FROM outbox.messages",
        "SELECT FROM outbox.dead_letters",
        "INSERT INTO outbox.dead_letters DEFAULT VALUES",
        "SELECT FROM outbox.scheduled",
        "SELECT FROM outbox.walpost_seal",
        &slot,
        &advance,
        "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
    ];
    denied(&client, &role, &of_service).await;

    // What runs with its owner's rights looks nothing up where others may put things.
    let sql = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND prosecdef \
               AND NOT coalesce(proconfig::text LIKE '%search_path=pg_catalog, pg_temp%', false)";
    let open = client.query(sql, &[]).await.unwrap();
    assert!(open.is_empty(), "{:?}", open.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>());
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}
