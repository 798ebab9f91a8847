//! A broker that is killed, frozen, or away for a minute, and a relay that dies meanwhile.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::road::Road;
use crate::scenario::scenario;
use crate::support::{KafkaBroker, PostgresServer};
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_kill_loses_nothing() {
    let up = async |broker: &KafkaBroker| broker.start_again().await;
    outages("broker-kill", 4, async |broker| broker.kill().await, Duration::from_secs(4), up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_frozen_for_45_s_loses_nothing() {
    let up = async |broker: &KafkaBroker| broker.resume();
    outages("broker-frozen", 3, async |broker| broker.pause(), Duration::from_secs(45), up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_down_for_60_s_loses_nothing() {
    let up = async |broker: &KafkaBroker| broker.start_again().await;
    outages("broker-down", 3, async |broker| broker.stop().await, Duration::from_secs(60), up).await;
}

async fn outages(
    name: &'static str,
    in_ci: usize,
    down: impl AsyncFn(&KafkaBroker),
    lasts: Duration,
    up: impl AsyncFn(&KafkaBroker),
) {
    scenario(name, async |run| {
        let server = PostgresServer::shared().await;
        let broker = KafkaBroker::start().await;
        let _log = run.keep("kafka", broker.host());
        let road = Road::new(run, server, &broker, &name.replace('-', "_"), 3).await;
        let mut random = run.random(0);
        let load = Load::start(&road.world, &mut random).await;
        let mut relay = road.relay().await;
        // Each partition's first record goes alone, and nothing more is read meanwhile: that shall be over.
        load.add(20_000);
        road.recovered(Instant::now()).await;
        for trial in 0..run.count(in_ci) {
            // A relay that has read all there is hears of the log behind it, and must not confirm that. The
            // other trials have more rows than it holds in flight, so that it stops reading.
            let dies = trial % 2 == 0;
            let rows = if dies { 12_000 } else { 60_000 };
            load.add(rows / 2);
            sleep(Duration::from_millis(random.u64(0..1500))).await;
            down(&broker).await;
            let since = Instant::now();
            load.add(rows / 2);
            write_elsewhere(&road.world).await;
            if dies {
                relay.kill().await;
            }
            sleep(lasts.saturating_sub(since.elapsed())).await;
            up(&broker).await;
            let healed = Instant::now();
            if dies {
                relay = road.spawn();
            }
            road.recovered(healed).await;
            road.tried();
        }
        load.finish().await;
        road.judge(relay).await
    })
    .await;
}

/// Rows that are not for the relay, for a few seconds: the server tells it how far the log has got.
async fn write_elsewhere(world: &World) {
    let client = world.database.client().await;
    client.batch_execute("CREATE TABLE IF NOT EXISTS foreign_rows (filler text)").await.unwrap();
    for _ in 0..10 {
        let sql = "INSERT INTO foreign_rows SELECT md5(n::text) FROM generate_series(1, 100) n";
        client.batch_execute(sql).await.unwrap();
        sleep(Duration::from_millis(300)).await;
    }
}
