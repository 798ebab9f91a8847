//! `kill -9` of the relay, wherever it is: starting, reading, publishing, waiting for the broker.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::road::Road;
use crate::scenario::{Outcome, Run, scenario};
use crate::support::{KafkaBroker, PATIENCE, PostgresServer};

/// Roads side by side: a relay that is starting leaves the machine idle.
const ROADS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_kill_loses_nothing() {
    scenario("relay-kill", async |run| {
        let server = PostgresServer::start(&[("max_wal_size", "4GB")]).await;
        let _log = run.keep("postgres", server.host());
        let broker = KafkaBroker::shared().await;
        let [one, two, three] = [0, 1, 2].map(|part| kills(run, &server, broker, part));
        let (one, two, three) = tokio::join!(one, two, three);
        one.add(two).add(three)
    })
    .await;
}

async fn kills(run: &Run, server: &PostgresServer, broker: &KafkaBroker, part: usize) -> Outcome {
    let road = Road::new(run, server, broker, &format!("killed{part}"), 3).await;
    let mut random = run.random(part as u64);
    let load = Load::start(&road.world, &mut random).await;
    let kills = run.count(150).div_ceil(ROADS);
    let rows = run.count(1_020_000).div_ceil(ROADS) / kills;
    let mut while_streaming = 0;
    for _ in 0..kills {
        load.add(rows);
        let mut relay = road.spawn();
        // One in six dies somewhere in its start, the others somewhere in their work.
        if random.u8(0..6) > 0 {
            relay.wait_for_log("streaming", PATIENCE).await;
            while_streaming += 1;
        }
        sleep(Duration::from_millis(random.u64(0..1500))).await;
        relay.kill().await;
        road.tried();
    }
    println!("relay-kill: at least {while_streaming} of {kills} relays were streaming when they were killed");
    let relay = road.spawn();
    road.recovered(Instant::now()).await;
    load.finish().await;
    road.judge(relay).await
}
