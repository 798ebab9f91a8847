//! Two relays on one slot, and the first one dies, stands still or is cut off: the second takes over, and from then
//! on the first writes nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use walpost::{Lsn, Position};

use crate::identity::statement;
use crate::life::get;
use crate::support::kafka::BehindProxy;
use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, Walpost, eventually};
use crate::world::{World, stop};

/// How long the slot may stay with a relay that is silent: twelve seconds of silence, and a look twice a second.
const SILENT: Duration = Duration::from_secs(16);

fn position(record: &Consumed) -> Position {
    let commit_lsn: Lsn = record.header("walpost.lsn").unwrap().parse().unwrap();
    Position { commit_lsn, index: record.header("walpost.index").unwrap().parse().unwrap() }
}

/// One writer's records have growing positions; a second writer's among them would break the row.
fn assert_one_writer(records: &[Consumed]) {
    for pair in records.windows(2) {
        let (before, after) = (position(&pair[0]), position(&pair[1]));
        assert!(before < after, "{after} came behind {before}: somebody else writes");
    }
}

/// Two relays; the first one's ways to the database and the broker can be broken.
struct Two {
    world: World,
    first: Walpost,
    second: Walpost,
}

impl Two {
    async fn start(prefix: &str, database: Option<&str>, broker: &BehindProxy) -> Two {
        let mut world = World::behind(PostgresServer::shared().await, broker, prefix, 1).await;
        let mut first = world.command(["run"]);
        if let Some(address) = database {
            first = first.env("WALPOST_DATABASE_URL", over(&world, address));
        }
        let first = first.spawn();
        first.wait_for_log("\"streaming\"", PATIENCE).await;
        world.insert(&world.database.client().await, 3).await;
        world.caught_up().await;
        // The second one reaches the broker on its own way.
        world.for_relay = None;
        let second = world.command(["run"]).spawn();
        second.wait_for_log("standing by", PATIENCE).await;
        // So that its look at the holder has begun.
        sleep(Duration::from_secs(1)).await;
        Two { world, first, second }
    }

    /// Waits until the second streams; gives the time that took, and what is in the topic by then.
    async fn taken_over(&self, since: Instant) -> (Duration, usize) {
        self.second.wait_for_log("\"streaming\"", PATIENCE).await;
        let took = since.elapsed();
        println!("took over after {took:.1?}");
        (took, self.world.consume(0).await.len())
    }
}

/// The world's URL with another server.
fn over(world: &World, address: &str) -> String {
    format!("postgresql://postgres@{address}/{}", world.database.name)
}

/// In this case the queue of the first is full when it is stopped: its wire to the broker is frozen, and healed
/// while it stands still. What is on the wire may arrive; what is queued must not, whenever it is continued.
#[tokio::test]
async fn a_relay_stopped_with_a_full_queue_never_sends_it() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let mut two = Two::start("stopfull", None, &broker).await;
    let client = two.world.database.client().await;
    broker.proxy.freeze();
    let rows: i64 = 20_000;
    for _ in 0..20 {
        two.world.insert(&client, rows / 20).await;
    }
    let address = two.first.listen_address().await;
    eventually("the queue to be full", PATIENCE, async || {
        let (_, body) = get(address, "/readyz").await;
        body.contains(&format!("\"in_flight\":{rows}")).then_some(())
    })
    .await;
    two.first.stop();
    let stopped = Instant::now();
    broker.proxy.heal();
    let (took, _) = two.taken_over(stopped).await;
    assert!(took < SILENT, "{took:?}");
    // Ended by the kernel while it was stopped, so there is nothing to continue.
    let status = two.first.wait(Duration::from_secs(1)).await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status:?}");
    two.world.caught_up().await;
    // All that there is, since more than was expected is what must not be.
    let records = two.world.consume(0).await;
    // The first one's row, then the second one's, which begins again behind the last confirmation; nothing else.
    let breaks: Vec<usize> =
        (1..records.len()).filter(|at| position(&records[at - 1]) >= position(&records[*at])).collect();
    assert!(breaks.len() <= 1, "somebody else writes: {breaks:?}");
    let wire = breaks.first().map_or(0, |at| at - 3);
    println!("{wire} of {rows} were on the wire of the first one");
    assert_eq!(records.len(), rows as usize + 3 + wire);
    let mut ids: Vec<_> = records.iter().map(|record| record.header("id").unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), rows as usize + 3, "nothing lost");
    stop(two.second).await;
}

/// Idle when it is stopped; rows then reach its socket, and must stay there.
#[tokio::test]
async fn a_relay_stopped_while_idle_publishes_nothing_when_it_wakes() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let two = Two::start("stopidle", None, &broker).await;
    let client = two.world.database.client().await;
    sleep(Duration::from_secs(2)).await;
    two.first.stop();
    let stopped = Instant::now();
    sleep(Duration::from_millis(200)).await;
    two.world.insert(&client, 100).await;
    let (took, before) = two.taken_over(stopped).await;
    assert!(took < SILENT, "{took:?}");
    two.second.wait_for_log("ended the session of a relay that has sent no status", PATIENCE).await;
    println!("{before} records when the second began");
    assert_eq!(two.world.consume(103).await.len(), 103);
    two.world.caught_up().await;
    let mark = two.first.mark();
    two.first.cont();
    two.first.wait_for_log_since(mark, "standing by", PATIENCE).await;
    two.world.insert(&client, 10).await;
    two.world.caught_up().await;
    let records = two.world.consume(113).await;
    assert_eq!(records.len(), 113);
    assert_one_writer(&records);
    // And the other way round: it is a good second.
    let mark = two.first.mark();
    stop(two.second).await;
    two.first.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    stop(two.first).await;
    let all = two.world.consume(0).await;
    assert_eq!(all.len(), 113, "nothing came twice");
    assert_one_writer(&all);
}

/// A half-open wire to the database and one to the broker: it hears nothing, and gives up its queue before the
/// second one begins.
#[tokio::test]
async fn a_relay_cut_off_in_silence_stops_before_the_second_begins() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let wire = crate::support::Proxy::start(PostgresServer::shared().await.address()).await;
    let two = Two::start("cutoff", Some(&wire.address().to_string()), &broker).await;
    let client = two.world.database.client().await;
    broker.proxy.freeze();
    for _ in 0..20 {
        two.world.insert(&client, 1000).await;
    }
    sleep(Duration::from_secs(2)).await;
    let mark = two.first.mark();
    wire.freeze();
    let cut = Instant::now();
    two.first
        .wait_for_log_since(mark, "stopped publishing, since another relay may have the slot", PATIENCE)
        .await;
    let fenced = cut.elapsed();
    let (took, _) = two.taken_over(cut).await;
    println!("gave up after {fenced:.1?}");
    assert!(fenced < took && took < SILENT, "{fenced:?} {took:?}");
    broker.proxy.heal();
    wire.heal();
    two.first.wait_for_log_since(mark, "standing by", PATIENCE).await;
    two.world.caught_up().await;
    let records = two.world.consume(20_003).await;
    // What was on the wire arrives in the middle of the second one's, so only the rest is one row.
    let ids: std::collections::HashSet<_> =
        records.iter().map(|it| it.header("id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 20_003, "nothing lost");
    let repeats = records.len() - 20_003;
    println!("{repeats} repeats, of 20000 queued");
    let size = two.world.consume(0).await.len();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(two.world.consume(0).await.len(), size, "nothing more comes");
    stop(two.first).await;
    stop(two.second).await;
}

/// A wire that breaks is heard at once on both sides.
#[tokio::test]
async fn a_relay_that_is_killed_or_cut_is_replaced_at_once() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let wire = crate::support::Proxy::start(PostgresServer::shared().await.address()).await;
    for prefix in ["killed", "cutoff"] {
        let mut two = Two::start(prefix, Some(&wire.address().to_string()), &broker).await;
        let since = Instant::now();
        if prefix == "killed" {
            two.first.kill().await;
        } else {
            wire.cut();
        }
        let (took, _) = two.taken_over(since).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
        wire.heal();
        two.world.insert(&two.world.database.client().await, 10).await;
        two.world.caught_up().await;
        let records = two.world.consume(13).await;
        assert_one_writer(&records);
        stop(two.second).await;
    }
}

/// A pause that is shorter than the lease is no reason for anything.
#[tokio::test]
async fn a_short_pause_changes_nothing() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let two = Two::start("pause", None, &broker).await;
    let client = two.world.database.client().await;
    for _ in 0..3 {
        two.world.insert(&client, 50).await;
        two.first.stop();
        sleep(Duration::from_secs(4)).await;
        two.first.cont();
        two.world.caught_up().await;
    }
    assert!(!two.second.log().contains("\"streaming\""), "{}", two.second.log());
    assert!(!two.first.log().contains("\"retrying\""), "{}", two.first.log());
    assert_one_writer(&two.world.consume(153).await);
    stop(two.first).await;
    stop(two.second).await;
}

/// It may be no relay at all, behind which nothing is published; and a relay that is judged by nobody is never ended.
#[tokio::test]
async fn a_holder_of_another_name_is_told_and_left_alone() {
    let world = World::new("stranger", 1).await;
    let stranger = world.command(["run"]).env("PGAPPNAME", "somebody else").spawn();
    stranger.wait_for_log("\"streaming\"", PATIENCE).await;
    stranger.stop();
    let second = world.command(["run"]).spawn();
    second.wait_for_log("the slot is held by a client of another name", PATIENCE).await;
    assert!(second.log().contains("\"application_name\":\"somebody else\""), "{}", second.log());
    sleep(SILENT).await;
    assert!(!second.log().contains("ended the session"), "{}", second.log());
    assert_eq!(second.log().matches("a client of another name").count(), 1, "{}", second.log());
    let advice = statement(&second.log(), "SELECT pg_terminate_backend(", ")");
    world.database.client().await.batch_execute(&advice).await.unwrap();
    second.wait_for_log("\"streaming\"", PATIENCE).await;
    stop(second).await;
}

/// A role that may not read statistics sees nothing of the other one's statuses. Whom it can't judge it leaves alone.
#[tokio::test]
async fn a_standby_with_the_documented_role_leaves_a_healthy_relay_alone() {
    let world = World::new("leastrole", 1).await;
    let url = world.database.url.replace("postgres@", "walpost@");
    assert_ne!(url, world.database.url);
    let relay = || world.command(["run"]).env("WALPOST_DATABASE_URL", &url).spawn();
    let first = relay();
    first.wait_for_log("\"streaming\"", PATIENCE).await;
    let second = relay();
    second.wait_for_log("standing by", PATIENCE).await;
    sleep(SILENT).await;
    world.insert(&world.database.client().await, 3).await;
    world.caught_up().await;
    assert!(!first.log().contains("\"retrying\""), "{}", first.log());
    assert!(!second.log().contains("ended the session"), "{}", second.log());
    assert_eq!(world.consume(3).await.len(), 3);
    stop(second).await;
    stop(first).await;
}
