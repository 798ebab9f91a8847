//! `kill -9` of the relay, wherever it is: starting, reading, publishing, waiting for the broker.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::road::{Relay, Road};
use crate::scenario::{Outcome, Run, scenario};
use crate::support::{KafkaBroker, PostgresServer};

/// Roads side by side: a relay that is starting leaves the machine idle.
const ROADS: usize = 3;
/// A life that gets nowhere ends all the same: it has caught up, or the server is still on its way to the
/// place where the last life ended.
const LONGEST_LIFE: Duration = Duration::from_secs(5);
/// What a life may leave unconfirmed: the records in flight, and as much of a transaction as goes before them.
const WINDOW: usize = 30_000 + 6000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_kill_loses_nothing() {
    scenario("relay-kill", async |run| {
        let broker = KafkaBroker::shared().await;
        let [one, two, three] = [0, 1, 2].map(|part| kills(run, broker, part));
        let (one, two, three) = tokio::join!(one, two, three);
        one.add(two).add(three)
    })
    .await;
}

async fn kills(run: &Run, broker: &KafkaBroker, part: usize) -> Outcome {
    // A server for each road, since a server that starts to send reads the log of all its databases.
    let server = PostgresServer::start(&[("max_wal_size", "4GB")]).await;
    let _log = run.keep(&format!("postgres-{part}"), server.host());
    let road = Road::new(run, &server, broker, &format!("killed{part}"), 3).await;
    let mut random = run.random(part as u64);
    let load = Load::start(&road.world, &mut random).await;
    let kills = run.count(150).div_ceil(ROADS);
    let rows = run.count(1_020_000).div_ceil(ROADS) / kills;
    let (mut at_work, mut published) = (0, 0);
    for _ in 0..kills {
        load.add(rows);
        let mut relay = road.spawn();
        // One in six dies somewhere in its start, the others at a random place of the stream.
        if random.u8(0..6) == 0 {
            sleep(Duration::from_millis(random.u64(0..500))).await;
        } else {
            let count = lives_until(&relay, random.u64(1..=3 * rows as u64)).await;
            at_work += usize::from(count > 0);
            published += count;
        }
        relay.kill().await;
        road.tried();
        // What a server does every 15 s: it notes where a slot may begin to read. These lives are shorter.
        server.client("postgres").await.batch_execute("CHECKPOINT").await.unwrap();
    }
    println!(
        "relay-kill: {at_work} of {kills} relays were killed at work, after {published} messages in all"
    );
    assert!(at_work * 3 >= kills, "too few were killed at work: this proves nothing");
    let relay = road.spawn();
    road.recovered(Instant::now()).await;
    load.finish().await;
    let outcome = road.judge(relay).await;
    let repeated = outcome.verdict.repeated;
    assert!(repeated <= kills * WINDOW, "{repeated} repeated in {kills} kills: more than was in flight");
    outcome
}

/// Waits until the relay has published so many messages, or for the longest life; returns how many it has.
async fn lives_until(relay: &Relay, goal: u64) -> u64 {
    let (born, address) = (Instant::now(), relay.listen_address().await);
    loop {
        let published = relay.published(address).await;
        if published >= goal || born.elapsed() > LONGEST_LIFE {
            return published;
        }
        sleep(Duration::from_millis(2)).await;
    }
}
