//! `kill -9` of all processes of PostgreSQL, and the recovery from its log.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::road::Road;
use crate::scenario::scenario;
use crate::support::{KafkaBroker, PostgresServer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_kill_loses_nothing() {
    scenario("postgres-kill", async |run| {
        let server = PostgresServer::start(&[]).await;
        let _log = run.keep("postgres", server.host());
        let road = Road::new(run, &server, KafkaBroker::shared().await, "crash", 3).await;
        let mut random = run.random(0);
        let load = Load::start(&road.world, &mut random).await;
        let mut relay = road.relay().await;
        for _ in 0..run.count(20) {
            load.add(10_000);
            sleep(Duration::from_millis(random.u64(0..1200))).await;
            server.kill_all().await;
            // Sometimes the machine takes the relay with it.
            let both = random.u8(0..4) == 0;
            if both {
                relay.kill().await;
            }
            server.start_again().await;
            let since = Instant::now();
            if both {
                relay = road.spawn();
            }
            road.recovered(since).await;
            road.tried();
        }
        load.finish().await;
        road.judge(relay).await
    })
    .await;
}
