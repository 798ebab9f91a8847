//! Events that are written into the log without a table.

use std::time::Duration;

use crate::support::{Consumed, PATIENCE, consume};
use crate::world::{World, stop};

async fn set_up(prefix: &str) -> World {
    World::new(prefix, 1).await
}

/// A record without what tells two events apart.
fn seen(record: &Consumed) -> Consumed {
    let ours = |name: &str| name == "id" || name.starts_with("walpost.");
    let headers = record.headers.iter().filter(|(name, _)| !ours(name)).cloned().collect();
    Consumed { headers, offset: 0, timestamp: None, ..record.clone() }
}

/// The same arguments make the same record, by a row and by a message in the log; in the order of their calls.
#[tokio::test]
async fn an_event_without_a_table_is_the_same_record() {
    let world = set_up("emit").await;
    let relay = world.command(["run"]).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    let calls = [
        r#"'{ "a" :1.10, "ü":"🦀\u0041" }', 'Schlüssel "1"', 'Größe', '{"traceparent": "00-ab", "n": 1.10, "none": null}', 'c-1'"#,
        "NULL, 'gone'",
        "'null', 'k'",
        "'\"\"'",
        "'[1,  2]', '', '', '{}', ''",
    ];
    for call in calls {
        for function in ["publish", "emit"] {
            let sql = format!("SELECT outbox.{function}('{}', {call})", world.topic);
            client.batch_execute(&sql).await.unwrap();
        }
    }
    let records = world.consume(2 * calls.len()).await;
    assert_eq!(records.len(), 2 * calls.len());
    for pair in records.chunks(2) {
        assert_eq!(seen(&pair[0]), seen(&pair[1]));
        assert_ne!(pair[0].header("id"), pair[1].header("id"));
        assert!(pair[0].timestamp.unwrap().abs_diff(pair[1].timestamp.unwrap()) < 60_000);
        let lsn = |record: &Consumed| record.header("walpost.lsn").unwrap().parse::<walpost::Lsn>().unwrap();
        assert!(lsn(&pair[0]) < lsn(&pair[1]));
    }
    assert_eq!(
        client.query_one("SELECT count(*) FROM outbox.messages", &[]).await.unwrap().get::<_, i64>(0),
        5
    );
    stop(relay).await;
}

/// Only what commits, at its place among the rows; never a message outside of a transaction, nor one of others.
#[tokio::test]
async fn events_obey_their_transaction_and_stand_among_rows() {
    let world = set_up("emit").await;
    let relay = world.command(["run"]).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    let sql = format!(
        "BEGIN; SELECT outbox.emit('{0}', '1'); SELECT outbox.publish('{0}', '2'); SELECT outbox.emit('{0}', '3'); \
         SAVEPOINT s; SELECT outbox.emit('{0}', '4'); ROLLBACK TO s; SELECT outbox.emit('{0}', '5'); COMMIT; \
         BEGIN; SELECT outbox.emit('{0}', '6'); ROLLBACK; \
         SELECT pg_logical_emit_message(false, 'walpost.emit:outbox.messages', '{{\"topic\": \"{0}\"}}'); \
         SELECT pg_logical_emit_message(true, 'walpost.emit:outbox.messages', 'nonsense'); \
         SELECT pg_logical_emit_message(true, 'walpost.emit:other.messages', '{{}}'); \
         SELECT outbox.emit('{0}', '7')",
        world.topic
    );
    for statement in sql.split("; ") {
        client.batch_execute(statement).await.unwrap();
    }
    for wrong in ["'a b', '1'", "NULL, '1'", "'t', '1', headers => '[]'", "'t', '{'"] {
        client.batch_execute(&format!("SELECT outbox.emit({wrong})")).await.unwrap_err();
    }
    let records = world.consume(5).await;
    world.caught_up().await;
    let all = consume(&world.brokers, &world.topic, 5, Duration::from_secs(5)).await;
    assert_eq!(all.len(), records.len());
    let values: Vec<_> =
        records.iter().map(|record| String::from_utf8(record.payload.clone().unwrap()).unwrap()).collect();
    assert_eq!(values, ["1", "2", "3", "5", "7"]);
    let indexes: Vec<_> = records[..4].iter().map(|record| record.header("walpost.index").unwrap()).collect();
    assert_eq!(indexes, ["0", "1", "2", "3"]);
    relay.wait_for_log("a message that Walpost has not written is passed over", PATIENCE).await;
    stop(relay).await;
}

/// Who may not call the function can't publish, though the server lets everybody write into the log.
#[tokio::test]
async fn only_who_is_granted_can_publish() {
    let world = set_up("seal").await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    let role = crate::support::unique("service");
    let sql = format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA outbox TO {role}; SET ROLE {role}");
    client.batch_execute(&sql).await.unwrap();
    let emit = format!("SELECT outbox.emit('{}', '1')", world.topic);
    for forbidden in [emit.as_str(), "SELECT * FROM outbox.walpost_seal"] {
        let denied = client.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(denied.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE));
    }
    let forged = format!(
        "{{\"seal\":\"{0}\",\"id\":\"{0}\",\"topic\":\"{1}\",\"key\":null,\"event_type\":null,\"headers\":{{}},\
         \"correlation_id\":null,\"created_at\":1}}",
        uuid::Uuid::new_v4(),
        world.topic
    );
    let forge = format!("SELECT pg_logical_emit_message(true, 'walpost.emit:outbox.messages', '{forged}')");
    client.batch_execute(&forge).await.unwrap();
    relay.wait_for_log("a message that Walpost has not written is passed over", PATIENCE).await;
    let grant = "RESET ROLE; GRANT EXECUTE ON FUNCTION outbox.emit TO ";
    client.batch_execute(&format!("{grant}{role}; SET ROLE {role}; {emit}")).await.unwrap();
    let records = world.consume(1).await;
    assert_eq!((records.len(), records[0].payload.as_deref()), (1, Some(&b"1"[..])));
    client.batch_execute(&format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
    assert!(!relay.log().contains("\"retrying\""), "nobody can make it stumble: {}", relay.log());
    stop(relay).await;
}

/// Somebody changes the seal while a relay streams.
#[tokio::test]
async fn a_seal_that_was_changed_is_read_again() {
    let world = set_up("changed").await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    let emit = format!("SELECT outbox.emit('{}', '1')", world.topic);
    client.batch_execute(&emit).await.unwrap();
    assert_eq!(world.consume(1).await.len(), 1);
    // What is not confirmed comes again, under the old seal, and nobody knows that one any more.
    world.caught_up().await;
    client.batch_execute("UPDATE outbox.walpost_seal SET secret = gen_random_uuid()").await.unwrap();
    client.batch_execute(&emit).await.unwrap();
    relay.wait_for_log("bears another seal than before", PATIENCE).await;
    world.consume(2).await;
    world.caught_up().await;
    assert!(world.consume(2).await.len() >= 2);
    assert!(!relay.log().contains("passed over"), "{}", relay.log());
    stop(relay).await;
}

/// A relay that runs since before the function was made takes its events all the same.
#[tokio::test]
async fn a_relay_learns_of_the_seal_when_it_is_needed() {
    let world = World::new("seal_later", 1).await;
    let client = world.database.client().await;
    client.batch_execute("DROP FUNCTION outbox.emit; DROP TABLE outbox.walpost_seal").await.unwrap();
    let relay = world.relay().await;
    let output = world.command(["setup"]).output().await;
    assert!(output.status.success(), "{output:?}");
    let emit = format!("SELECT outbox.emit('{}', '1')", world.topic);
    client.batch_execute(&emit).await.unwrap();
    assert_eq!(world.consume(1).await.len(), 1);
    stop(relay).await;
}
