//! Retention: what is old and published goes, and nothing else.

use std::time::Duration;

use tokio_postgres::{AsyncMessage, Client, NoTls};
use uuid::Uuid;

use crate::support::{KafkaBroker, PATIENCE, PostgresServer, check, consume, eventually};
use crate::world::{World, stop};

/// A server of these tests: on the shared one others hold transactions open, which holds retention back.
async fn server() -> &'static PostgresServer {
    static SERVER: tokio::sync::OnceCell<PostgresServer> = tokio::sync::OnceCell::const_new();
    SERVER.get_or_init(|| PostgresServer::start(&[("max_prepared_transactions", "5")])).await
}

async fn bare(prefix: &str) -> World {
    World::bare(server().await, KafkaBroker::shared().await, prefix, 1).await
}

async fn set_up(prefix: &str) -> World {
    World::on(server().await, KafkaBroker::shared().await, prefix, 1).await
}

/// Calls the procedure as cron would; what it says.
async fn retain_in(world: &World, call: &str) -> Result<String, String> {
    let (client, mut connection) = tokio_postgres::connect(&world.database.url, NoTls).await.unwrap();
    let notices = tokio::spawn(async move {
        let mut said = Vec::new();
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => said.push(notice.message().to_owned()),
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
        said.join("\n")
    });
    let done = client.batch_execute(call).await;
    drop(client);
    let said = notices.await.unwrap();
    match done {
        Ok(()) => Ok(said),
        Err(error) => {
            let error = error.as_db_error().unwrap();
            Err(format!("{} {}", error.message(), error.hint().unwrap_or_default()))
        }
    }
}

async fn retain(world: &World, keep: &str) -> String {
    retain_in(world, &format!("CALL outbox.retain('{keep}')")).await.unwrap()
}

fn removed(said: &str, rows: u32, partitions: u32) {
    assert!(said.contains(&format!("{rows} rows removed, {partitions} partitions dropped")), "{said}");
}

/// Waits until the slot tells of all transactions until now that it does not need them.
async fn passed(world: &World) {
    let client = world.database.client().await;
    let now: i64 = client.query_one("SELECT txid_current()", &[]).await.unwrap().get(0);
    passed_transaction(&client, &world.slot, now).await;
}

async fn passed_transaction(client: &Client, slot: &str, transaction: i64) {
    let sql =
        "SELECT catalog_xmin::text::bigint > $2 FROM pg_replication_slots WHERE slot_name = $1::text::name";
    eventually("the slot to pass the transaction", PATIENCE, async || {
        record_the_running(client).await;
        client.query_one(sql, &[&slot, &transaction]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
}

/// Has the server write down which transactions are running, which it does by itself every 15 s.
async fn record_the_running(client: &Client) {
    let version = "SELECT current_setting('server_version_num')::int";
    let version: i32 = client.query_one(version, &[]).await.unwrap().get(0);
    let sql = if version >= 160_000 { "SELECT pg_log_standby_snapshot()" } else { "CHECKPOINT" };
    client.batch_execute(sql).await.unwrap();
}

async fn left(world: &World) -> Vec<Uuid> {
    let client = world.database.client().await;
    let sql = "SELECT id FROM outbox.messages ORDER BY created_at, id";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Inserts rows as if so long ago; returns their ids.
async fn insert_at(world: &World, client: &Client, at: &str, count: i64) -> Vec<Uuid> {
    let sql = format!(
        "INSERT INTO outbox.messages (topic, payload, created_at) SELECT $1, '1', {at} \
         FROM generate_series(1, $2::bigint) RETURNING id"
    );
    let rows = client.query(&sql, &[&world.topic, &count]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

const OLD: &str = "now() - interval '2 days'";

#[tokio::test]
async fn what_is_old_and_confirmed_goes() {
    let world = set_up("retain").await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let mut all = insert_at(&world, &client, OLD, 20).await;
    let young = insert_at(&world, &client, "now()", 5).await;
    all.extend(&young);
    assert_eq!(world.consume(25).await.len(), 25);
    passed(&world).await;
    removed(&retain(&world, "3 days").await, 0, 0);
    removed(&retain(&world, "1 day").await, 20, 0);
    assert_eq!(sorted(left(&world).await), sorted(young.clone()));

    // Without a relay nothing is confirmed, and nothing goes, however long the server goes on.
    stop(relay).await;
    world.slot_is_free().await;
    let waiting = insert_at(&world, &client, OLD, 10).await;
    all.extend(&waiting);
    for _ in 0..3 {
        client.query_one("SELECT txid_current()", &[]).await.unwrap();
        record_the_running(&client).await;
    }
    retain(&world, "0 s").await;
    let kept = left(&world).await;
    assert!(waiting.iter().all(|id| kept.contains(id)), "{kept:?}");
    let relay = world.relay().await;
    check(&all, &world.consume(35).await).assert_exact();
    passed(&world).await;
    retain(&world, "0 s").await;
    assert_eq!(left(&world).await, []);
    stop(relay).await;
}

fn sorted(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort();
    ids
}

/// What a broker has not acknowledged is not confirmed, though a relay runs and has read it.
#[tokio::test]
async fn what_kafka_has_not_acknowledged_stays() {
    let broker = KafkaBroker::shared_behind_proxy().await;
    let world = World::behind(server().await, &broker, "refused", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let first = insert_at(&world, &client, OLD, 5).await;
    assert_eq!(world.consume(5).await.len(), 5);
    passed(&world).await;
    broker.proxy.cut();
    let second = insert_at(&world, &client, OLD, 5).await;
    for _ in 0..3 {
        client.query_one("SELECT txid_current()", &[]).await.unwrap();
        record_the_running(&client).await;
    }
    removed(&retain(&world, "1 day").await, 5, 0);
    assert_eq!(sorted(left(&world).await), sorted(second.clone()));
    broker.proxy.heal();
    check(&[first, second].concat(), &world.consume(10).await).assert_exact();
    passed(&world).await;
    removed(&retain(&world, "1 day").await, 5, 0);
    stop(relay).await;
}
