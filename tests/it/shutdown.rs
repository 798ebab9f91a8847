//! A fast stop of the server with the broker away, in every state of the relay: never held up.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::life::get;
use crate::support::kafka::BehindProxy;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Proxy, Walpost, eventually};
use crate::world::World;

async fn stops_fast(server: &PostgresServer, state: &str) {
    let asked = Instant::now();
    server.stop_fast().await;
    let took = asked.elapsed();
    println!("{state}: stopped after {took:.1?}");
    assert!(took < Duration::from_secs(5), "{state}: {took:?}");
}

/// A relay that has published some rows, whose broker then freezes.
async fn frozen(server: &PostgresServer, broker: &BehindProxy, rows: i64) -> (World, Walpost) {
    let world = World::behind(server, broker, "shutdown", 1).await;
    let relay = world.command(["run", "--drain-timeout", "20s"]).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    let client = world.database.client().await;
    world.insert(&client, 10).await;
    world.caught_up().await;
    broker.proxy.freeze();
    world.insert(&client, rows).await;
    let address = relay.listen_address().await;
    eventually("rows to be in flight", PATIENCE, async || {
        (!get(address, "/readyz").await.1.contains("\"in_flight\":0")).then_some(())
    })
    .await;
    (world, relay)
}

#[tokio::test]
async fn while_draining() {
    let broker = KafkaBroker::start_behind_proxy().await;
    // Few rows: the store is not read any more. Many: the window is closed, inside an open transaction.
    for rows in [5, 50_000] {
        let server = PostgresServer::start(&[]).await;
        let (_world, mut relay) = frozen(&server, &broker, rows).await;
        relay.terminate();
        relay.wait_for_log("draining", PATIENCE).await;
        sleep(Duration::from_millis(500)).await;
        stops_fast(&server, &format!("draining {rows} rows")).await;
        assert_eq!(relay.wait(PATIENCE).await.code(), Some(0), "{}", relay.log());
        broker.proxy.heal();
    }
}

#[tokio::test]
async fn while_standing_by_retrying_and_opening() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let server = PostgresServer::start(&[]).await;
    let (world, first) = frozen(&server, &broker, 5).await;
    let second = world.command(["run"]).spawn();
    second.wait_for_log("standing by", PATIENCE).await;
    stops_fast(&server, "streaming and standing by").await;
    for relay in [&first, &second] {
        let address = relay.listen_address().await;
        eventually("both to retry", PATIENCE, async || {
            get(address, "/readyz").await.1.contains("\"retrying\"").then_some(())
        })
        .await;
    }
    server.start_again().await;
    stops_fast(&server, "retrying").await;
    drop((first, second));

    // Half-way through opening, since nothing answers any more.
    server.start_again().await;
    let proxy = Proxy::start(server.address()).await;
    proxy.freeze();
    let url = format!("postgresql://postgres@{}/{}", proxy.address(), world.database.name);
    let opening = world.command(["run"]).env("WALPOST_DATABASE_URL", url).spawn();
    eventually("it to connect", PATIENCE, async || (proxy.connections() > 0).then_some(())).await;
    sleep(Duration::from_millis(300)).await;
    stops_fast(&server, "opening").await;
    drop(opening);
}
