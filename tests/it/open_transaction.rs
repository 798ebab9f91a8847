//! A transaction that stays open holds back the server's log, and nothing else.

use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually};
use crate::world::{World, stop};

async fn status(world: &World) -> serde_json::Value {
    let output = world.command(["status", "--json"]).output().await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn what_is_committed_beside_an_open_transaction_arrives_and_its_holder_is_named() {
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "open", 1).await;
    let relay = world.relay().await;
    let (client, holder) = (world.database.client().await, world.database.client().await);
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    holder.batch_execute("BEGIN").await.unwrap();
    let mut held = world.insert(&holder, 3).await;
    client.batch_execute("CREATE TABLE others (filler text)").await.unwrap();

    let mut ids = world.insert(&client, 50).await;
    let foreign = "INSERT INTO others SELECT repeat('x', 1000) FROM generate_series(1, 30000); CHECKPOINT";
    client.batch_execute(foreign).await.unwrap();
    ids.extend(world.insert(&client, 50).await);
    world.caught_up().await;
    assert_eq!(world.consume(100).await.len(), 100, "all that is committed");

    let now = status(&world).await;
    let (lag, retained) = (now["lag_bytes"].as_i64().unwrap(), now["retained_bytes"].as_i64().unwrap());
    assert!(retained > 30_000_000 && lag < 1_000_000, "{now}");
    let writer = now["oldest_writer"].as_str().unwrap();
    assert!(writer.contains(&format!("PID {pid} of role ")), "{now}");
    let line = eventually("status to tell who holds back the log", PATIENCE, async || {
        let output = world.command(["status"]).output().await;
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find(|line| line.starts_with("held back ")).map(str::to_owned)
    })
    .await;
    assert!(line.contains(&format!("by PID {pid} of role ")), "{line}");

    holder.batch_execute("COMMIT").await.unwrap();
    world.caught_up().await;
    ids.append(&mut held);
    let arrived = world.consume(103).await;
    let arrived: Vec<_> = arrived.iter().map(|record| record.header("id").unwrap().to_owned()).collect();
    assert_eq!(arrived, ids.iter().map(ToString::to_string).collect::<Vec<_>>(), "in the order of commits");
    assert_eq!(status(&world).await["oldest_writer"], serde_json::Value::Null);
    stop(relay).await;
}
