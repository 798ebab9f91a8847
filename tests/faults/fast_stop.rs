//! A fast shutdown of PostgreSQL, which waits for every relay that goes on answering, while the broker is frozen
//! or away.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::road::Road;
use crate::scenario::scenario;
use crate::support::{KafkaBroker, PostgresServer};

/// How long the server may take.
const MOST: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_stop_of_postgres_waits_for_no_broker() {
    scenario("fast-stop", async |run| {
        let server = PostgresServer::start(&[]).await;
        let _log = run.keep("postgres", server.host());
        let broker = KafkaBroker::start_behind_proxy().await;
        let mut road = Road::new(run, &server, &broker.kafka, "fast_stop", 3).await;
        road.brokers = Some(broker.brokers.clone());
        let mut random = run.random(0);
        let load = Load::start(&road.world, &mut random).await;
        let relay = road.relay().await;
        let mut longest = Duration::ZERO;
        for trial in 0..run.count(20) {
            if trial % 2 == 0 {
                broker.proxy.freeze();
            } else {
                broker.proxy.cut();
            }
            // With many rows the relay has stopped reading when the server stops, with few it has not.
            load.add(if trial % 4 < 2 { 6000 } else { 60_000 });
            sleep(Duration::from_millis(random.u64(500..3000))).await;
            let asked = Instant::now();
            server.stop_fast().await;
            longest = longest.max(asked.elapsed());
            assert!(asked.elapsed() < MOST, "the server took {:?} to stop", asked.elapsed());
            server.start_again().await;
            broker.proxy.heal();
            road.recovered(Instant::now()).await;
            road.tried();
        }
        println!("fast-stop: the longest stop took {longest:.2?}");
        load.finish().await;
        road.judge(relay).await
    })
    .await;
}
