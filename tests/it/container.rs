//! The relay as the first process of a container, which the kernel shields from signals of its own.

use std::time::Duration;

use crate::life::get;
use crate::support::room::{child_of, signal};
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Walpost, eventually};
use crate::world::World;

/// Eight seconds of standing still end it (`kafka/dead_man.rs`).
const ENDED: Duration = Duration::from_secs(12);

async fn first_process(world: &World) -> (Walpost, u32) {
    let relay = world.command(["run"]).first_in_a_container().spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    let first = child_of(relay.id()).await;
    (relay, first)
}

#[tokio::test]
async fn a_container_is_told_to_stop_and_drains() {
    let world = World::new("container", 1).await;
    let (mut relay, first) = first_process(&world).await;
    world.insert(&world.database.client().await, 3).await;
    assert_eq!(world.consume(3).await.len(), 3);
    signal(first, "TERM");
    let status = relay.wait(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(relay.log().contains("SIGTERM: draining"), "passed on");
    world.slot_is_free().await;
    // What is wrong with its configuration still ends it with the code that says so.
    let output = world.command(["run", "--drain-timeout", "soon"]).first_in_a_container().output().await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// A paused container, with records in flight: the kernel ends it while it stands still, as it does any relay.
#[tokio::test]
async fn a_paused_container_never_sends_what_it_held() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(PostgresServer::shared().await, &broker, "paused", 1).await;
    let (mut relay, first) = first_process(&world).await;
    let client = world.database.client().await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    broker.proxy.freeze();
    world.insert(&client, 100).await;
    let address = relay.listen_address().await;
    eventually("records in flight", PATIENCE, async || {
        let (_, body) = get(address, "/readyz").await;
        body.contains("\"in_flight\":100").then_some(())
    })
    .await;
    let worker = child_of(first).await;
    signal(worker, "STOP");
    signal(first, "STOP");
    // The first process is asleep as well, so that the worker's end is seen from outside.
    eventually("the kernel to end it", ENDED, async || {
        let state = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
    signal(first, "CONT");
    let status = relay.wait(PATIENCE).await;
    assert_eq!(status.code(), Some(137), "{status:?}");
}
