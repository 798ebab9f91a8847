//! A wire that is cut, torn, slowed down or forgotten, to either side and in either direction.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::road::{Relay, Road};
use crate::scenario::{Outcome, Run, scenario};
use crate::support::proxy::{Flow, Way};
use crate::support::{KafkaBroker, PostgresServer, Proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_postgres_broken_loses_nothing() {
    scenario("wire-postgres", async |run| to_postgres(run, 45, any_fault).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_kafka_broken_loses_nothing() {
    scenario("wire-kafka", async |run| to_kafka(run, 40, any_fault).await).await;
}

/// The server, which is silent from then on, is given up by a relay's own clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_postgres_connection_loses_nothing() {
    scenario("half-open-postgres", async |run| to_postgres(run, 5, abandon).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_kafka_connection_loses_nothing() {
    scenario("half-open-kafka", async |run| to_kafka(run, 10, abandon).await).await;
}

async fn to_postgres(run: &Run, in_ci: usize, fault: impl AsyncFn(&Proxy, &mut Rng)) -> Outcome {
    let server = PostgresServer::shared().await;
    let mut road = Road::new(run, server, KafkaBroker::shared().await, "wire_postgres", 3).await;
    let proxy = Proxy::start(server.address()).await;
    road.database_url = Some(server.url_at(proxy.address(), &road.world.database.name));
    let (mut random, relay) = (run.random(0), road.relay().await);
    trials(run, &road, &proxy, &mut random, relay, in_ci, fault).await
}

async fn to_kafka(run: &Run, in_ci: usize, fault: impl AsyncFn(&Proxy, &mut Rng)) -> Outcome {
    let broker = KafkaBroker::start_behind_proxy().await;
    let _log = run.keep("kafka", broker.kafka.host());
    let server = PostgresServer::shared().await;
    let mut road = Road::new(run, server, &broker.kafka, "wire_kafka", 3).await;
    road.brokers = Some(broker.brokers.clone());
    // A minute by default, which is the same but for the time that it takes.
    road.arguments = ["-X", "socket.timeout.ms=4000"].map(str::to_owned).into();
    let (mut random, relay) = (run.random(0), road.relay().await);
    trials(run, &road, &broker.proxy, &mut random, relay, in_ci, fault).await
}

async fn trials(
    run: &Run,
    road: &Road,
    proxy: &Proxy,
    random: &mut Rng,
    relay: Relay,
    in_ci: usize,
    fault: impl AsyncFn(&Proxy, &mut Rng),
) -> Outcome {
    let load = Load::start(&road.world, random).await;
    for _ in 0..run.count(in_ci) {
        load.add(5000);
        sleep(Duration::from_millis(random.u64(0..300))).await;
        fault(proxy, random).await;
        proxy.heal();
        road.recovered(Instant::now()).await;
        road.tried();
    }
    load.finish().await;
    road.judge(relay).await
}

/// One of the faults that tell the relay of themselves, or that it lives with.
async fn any_fault(proxy: &Proxy, random: &mut Rng) {
    let ways = [&[Way::Up][..], &[Way::Down], &[Way::Up, Way::Down]][random.usize(0..3)];
    match random.u8(0..6) {
        0 => proxy.cut(),
        // Within a frame, as likely as not.
        1 => proxy.reset_after(ways[0], random.usize(1..200_000)),
        2 => proxy.reset(),
        3 => proxy.set(ways, Flow::Frozen),
        4 => proxy.set(ways, Flow::Delayed(Duration::from_millis(random.u64(1..100)))),
        _ => proxy.set(ways, Flow::ByteByByte),
    }
    sleep(Duration::from_millis(random.u64(50..1000))).await;
}

async fn abandon(proxy: &Proxy, _random: &mut Rng) {
    proxy.abandon();
}
