//! A broker that is killed, frozen, or away for a minute.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::road::Road;
use crate::scenario::scenario;
use crate::support::{KafkaBroker, PostgresServer};

/// More than a relay holds in flight, so that it also stops reading.
const ROWS: usize = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_kill_loses_nothing() {
    outages("broker-kill", 4, async |broker| {
        broker.kill().await;
        sleep(Duration::from_secs(1)).await;
        broker.start_again().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_frozen_for_45_s_loses_nothing() {
    outages("broker-frozen", 3, async |broker| {
        broker.pause();
        sleep(Duration::from_secs(45)).await;
        broker.resume();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_down_for_60_s_loses_nothing() {
    outages("broker-down", 3, async |broker| {
        broker.stop().await;
        sleep(Duration::from_secs(60)).await;
        broker.start_again().await;
    })
    .await;
}

async fn outages(name: &'static str, in_ci: usize, outage: impl AsyncFn(&KafkaBroker)) {
    scenario(name, async |run| {
        let server = PostgresServer::shared().await;
        let broker = KafkaBroker::start().await;
        let _log = run.keep("kafka", broker.host());
        let road = Road::new(run, server, &broker, &name.replace('-', "_"), 3).await;
        let mut random = run.random(0);
        let load = Load::start(&road.world, &mut random).await;
        let relay = road.relay().await;
        for _ in 0..run.count(in_ci) {
            load.add(ROWS);
            sleep(Duration::from_millis(random.u64(0..1500))).await;
            outage(&broker).await;
            road.recovered(Instant::now()).await;
            road.tried();
        }
        load.finish().await;
        road.judge(relay).await
    })
    .await;
}
