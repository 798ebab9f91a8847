//! A fast shutdown of PostgreSQL, which waits for every relay that goes on answering, while the broker is frozen
//! or away.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::road::Road;
use crate::scenario::{Outcome, Run, scenario};
use crate::support::kafka::BehindProxy;
use crate::support::{KafkaBroker, PostgresServer};

/// How long the server may take.
const MOST: Duration = Duration::from_secs(5);

/// On the oldest version, on the installed one, and on the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fast_stop_of_postgres_waits_for_no_broker() {
    scenario("fast-stop", async |run| {
        let broker = KafkaBroker::start_behind_proxy().await;
        let _log = run.keep("kafka", broker.kafka.host());
        let trials = run.count(20);
        let oldest = PostgresServer::start_version("14", &[]).await;
        let outcome = stops(run, "14", &oldest, &broker, trials / 3).await;
        let installed = PostgresServer::start(&[]).await;
        let outcome = outcome.add(stops(run, "any", &installed, &broker, trials / 3).await);
        let newest = PostgresServer::start_version("18", &[]).await;
        outcome.add(stops(run, "18", &newest, &broker, trials - 2 * (trials / 3)).await)
    })
    .await;
}

async fn stops(
    run: &Run,
    version: &str,
    server: &PostgresServer,
    broker: &BehindProxy,
    trials: usize,
) -> Outcome {
    let _log = run.keep(&format!("postgres-{version}"), server.host());
    let mut road = Road::new(run, server, &broker.kafka, &format!("fast_stop_{version}"), 3).await;
    road.brokers = Some(broker.brokers.clone());
    let mut random = run.random(0);
    let load = Load::start(&road.world, &mut random).await;
    let relay = road.relay().await;
    let mut longest = Duration::ZERO;
    for trial in 0..trials {
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
    load.add(1000);
    load.finish().await;
    let outcome = road.judge(relay).await;
    let repeated = outcome.verdict.repeated;
    println!("fast-stop: PostgreSQL {version}: the longest stop took {longest:.2?}; {repeated} repeated");
    outcome
}
