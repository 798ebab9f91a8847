//! What goes on around the relay: transactions that stay open, clocks that jump, disks that fill, names that move.

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{KafkaBroker, PATIENCE, PostgresServer, check, eventually};
use crate::world::{World, stop};

async fn status(world: &World) -> Value {
    let output = world.command(["status", "--json"]).output().await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn status_text(world: &World) -> String {
    let output = world.command(["status"]).output().await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Commits rows of the outbox, and log beside them, until the slot has confirmed it and the server has looked at
/// what it still needs.
async fn much_is_committed(world: &World, client: &Client) -> Vec<uuid::Uuid> {
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.extend(world.insert(client, 5).await);
        let filler = "INSERT INTO filler SELECT repeat(md5(n::text), 32) FROM generate_series(1, 5000) n";
        client.batch_execute(filler).await.unwrap();
        // The server notes at a checkpoint which transactions are running, and goes by that.
        client.batch_execute("CHECKPOINT").await.unwrap();
    }
    world.caught_up().await;
    sent
}

/// Waits until the slot lets go of the log but for a little.
async fn the_log_is_let_go(world: &World, client: &Client) {
    eventually("the log to be let go", PATIENCE, async || {
        client.batch_execute("CHECKPOINT").await.unwrap();
        (status(world).await["retained_bytes"].as_i64().unwrap() < 1 << 20).then_some(())
    })
    .await;
}

/// What others commit meanwhile arrives and is confirmed; the log is held back, and `status` says by whom.
#[tokio::test]
async fn a_transaction_that_stays_open_is_named_and_holds_back_only_the_log() {
    let server = PostgresServer::start(&[("max_prepared_transactions", "2")]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "open", 1).await;
    let oracle = world.oracle().await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    client.batch_execute("CREATE TABLE filler (text text); CREATE TABLE other (a int)").await.unwrap();
    world.caught_up().await;
    the_log_is_let_go(&world, &client).await;
    assert_eq!(status(&world).await["oldest_transaction"], Value::Null);

    let mut first = world.database.client().await;
    first.batch_execute("SET application_name = 'month end'").await.unwrap();
    let open = first.transaction().await.unwrap();
    open.batch_execute("INSERT INTO other VALUES (1)").await.unwrap();
    let sql = "SELECT pg_backend_pid(), pg_current_xact_id()::xid::text";
    let row = open.query_one(sql, &[]).await.unwrap();
    let (pid, xid): (i32, String) = (row.get(0), row.get(1));
    let insert = "INSERT INTO outbox.messages (topic, key, payload) SELECT $1, 'late', to_json(n) \
                  FROM generate_series(1, 3) n RETURNING id";
    let rows = open.query(insert, &[&world.topic]).await.unwrap();
    let mut late: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let mut sent = much_is_committed(&world, &client).await;
    check(&sent, &world.consume(sent.len()).await).assert_exact();

    let told = status(&world).await;
    assert!(told["retained_bytes"].as_i64().unwrap() > 20 << 20, "{told}");
    assert!(told["lag_bytes"].as_i64().unwrap() < 1 << 20, "{told}");
    let culprit = &told["oldest_transaction"];
    assert_eq!((&culprit["pid"], &culprit["xid"]), (&pid.into(), &xid.into()), "{told}");
    assert_eq!(culprit["application"], "month end");
    assert_eq!((&culprit["user"], &culprit["state"]), (&"postgres".into(), &"idle in transaction".into()));
    assert_eq!(culprit["database"], world.database.name);
    assert!(culprit["since"].is_string() && culprit["seconds"].as_f64().unwrap() > 0.0, "{told}");
    let text = status_text(&world).await;
    for part in ["oldest open", "month end", &format!("pg_terminate_backend({pid})")] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }

    open.commit().await.unwrap();
    sent.append(&mut late);
    let arrived = world.consume(sent.len()).await;
    check(&sent, &arrived).assert_exact();
    assert_eq!(oracle.committed_ids().await, sent, "the late ones are last in the order of commits as well");
    world.caught_up().await;
    the_log_is_let_go(&world, &client).await;

    a_prepared_one_is_named(&world, &client).await;
    stop(relay).await;
}

/// The worst of them, since no session shows it.
async fn a_prepared_one_is_named(world: &World, client: &Client) {
    let prepare = "BEGIN; INSERT INTO other VALUES (2); PREPARE TRANSACTION 'it''s forgotten'";
    client.batch_execute(prepare).await.unwrap();
    let told = status(world).await;
    let culprit = &told["oldest_transaction"];
    assert_eq!((&culprit["prepared"], &culprit["pid"]), (&"it's forgotten".into(), &Value::Null), "{told}");
    let text = status_text(world).await;
    assert!(text.contains("ROLLBACK PREPARED 'it''s forgotten'"), "{text}");
    client.batch_execute("ROLLBACK PREPARED 'it''s forgotten'").await.unwrap();
    assert_eq!(status(world).await["oldest_transaction"], Value::Null);
}
