//! Topics that may not be written, on a broker that looks at access control lists.

use std::collections::HashSet;

use tokio_postgres::Client;
use uuid::Uuid;

use crate::dead_letters::{ids, insert, letters, parking, quick, replay_all};
use crate::support::acl::{Operation, allow, forbid};
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Walpost, consume, eventually, unique};
use crate::world::{World, stop};

/// A world with one more topic, which is open so far.
struct Guarded {
    broker: KafkaBroker,
    world: World,
    client: Client,
    topic: String,
}

impl Guarded {
    async fn new(prefix: &str) -> Guarded {
        let broker = KafkaBroker::start_guarded().await;
        let world = World::on(PostgresServer::shared().await, &broker, prefix, 1).await;
        let client = world.database.client().await;
        let topic = unique("guarded");
        broker.create_topic(&topic, 1).await;
        Guarded { broker, world, client, topic }
    }

    async fn insert(&self, topic: &str, key: Option<&str>) -> Uuid {
        insert(&self.client, topic, key, "1").await
    }

    async fn forbid(&self, topic: &str, operation: Operation) {
        forbid(self.broker.brokers(), topic, operation).await;
    }

    async fn allow(&self, topic: &str) {
        allow(self.broker.brokers(), topic).await;
    }

    async fn arrived(&self, topic: &str, expected: usize) -> Vec<Uuid> {
        ids(&consume(self.broker.brokers(), topic, expected, PATIENCE).await)
    }
}

/// Without the repeats.
fn first_arrivals(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(*id));
    ids
}

/// Ends with advice that names the topic and the right.
async fn halts_at(relay: &mut Walpost, topic: &str) {
    let status = relay.wait(PATIENCE).await;
    let log = relay.log();
    assert_eq!(status.code(), Some(1), "{log}");
    // What it says last, with its advice.
    let last = log.split("\nerror: ").last().unwrap();
    for part in ["message at ", topic, "authorization", "grant WRITE"] {
        assert!(last.contains(part), "{part:?} is not in {last:?}\n{log}");
    }
}

/// One topic may be seen and not written, one may not even be seen. All others flow, and what was parked arrives in
/// its order once the right is there.
#[tokio::test]
async fn topics_that_may_not_be_written_are_parked_and_replayed_in_order() {
    let guarded = Guarded::new("parkacl").await;
    let (world, closed, secret) = (&guarded.world, &guarded.topic, unique("secret"));
    guarded.broker.create_topic(&secret, 1).await;
    guarded.forbid(closed, Operation::Write).await;
    guarded.forbid(&secret, Operation::All).await;
    let relay = parking(world).await;
    let (mut flows, mut waits) = (Vec::new(), [Vec::new(), Vec::new()]);
    for n in 0..100 {
        let key = (n % 3 > 0).then(|| (n % 7).to_string());
        waits[0].push(guarded.insert(closed, key.as_deref()).await);
        flows.push(guarded.insert(&world.topic, key.as_deref()).await);
        waits[1].push(guarded.insert(&secret, key.as_deref()).await);
    }
    world.caught_up().await;
    let arrived = first_arrivals(guarded.arrived(&world.topic, flows.len()).await);
    assert_eq!(arrived, flows, "all others flow, in order");
    let parked = letters(&guarded.client).await;
    let in_order: Vec<_> = waits[0].iter().zip(&waits[1]).flat_map(|(a, b)| [*a, *b]).collect();
    assert_eq!(parked.iter().map(|letter| letter.0.unwrap()).collect::<Vec<_>>(), in_order);
    for (letter, topic) in parked.iter().zip([closed, &secret]) {
        assert!(letter.1.contains("authorization") && letter.1.contains(topic), "{letter:?}");
    }
    guarded.allow(closed).await;
    guarded.allow(&secret).await;
    assert!(guarded.arrived(closed, 0).await.is_empty());
    replay_all(world).await;
    eventually("all to be sent", PATIENCE, async || letters(&guarded.client).await.is_empty().then_some(()))
        .await;
    for (topic, waits) in [closed, &secret].into_iter().zip(waits) {
        assert_eq!(guarded.arrived(topic, waits.len()).await, waits);
    }
    stop(relay).await;
}

/// By default the line stops there, with what to grant; once it is granted it goes on from there.
#[tokio::test]
async fn a_topic_that_may_not_be_written_halts_the_line_and_is_named() {
    let guarded = Guarded::new("haltacl").await;
    let (world, closed) = (&guarded.world, &guarded.topic);
    guarded.forbid(closed, Operation::Write).await;
    let (mut flows, mut waits) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        flows.push(guarded.insert(&world.topic, Some("a")).await);
        waits.push(guarded.insert(closed, Some("a")).await);
    }
    let mut relay = quick(world.command(["run"])).spawn();
    halts_at(&mut relay, closed).await;
    let early = guarded.arrived(&world.topic, 1).await;
    assert_eq!(early[0], flows[0], "what is before it has been sent");
    let again = quick(world.command(["run"])).output().await;
    assert_eq!(again.status.code(), Some(1), "it is not skipped: {again:?}");
    guarded.allow(closed).await;
    let relay = world.relay().await;
    world.caught_up().await;
    // Another topic may have had what was under way at the halt; that comes again.
    assert_eq!(first_arrivals(guarded.arrived(&world.topic, flows.len()).await), flows);
    assert_eq!(guarded.arrived(closed, waits.len()).await, waits);
    stop(relay).await;
}

/// Revoked in the middle of a stream: what was sent before is there, what comes after waits for the right.
#[tokio::test]
async fn a_right_that_is_revoked_while_rows_flow_is_named_and_goes_on_when_granted() {
    let guarded = Guarded::new("revoked").await;
    let (world, topic) = (&guarded.world, &guarded.topic);
    let mut relay = quick(world.command(["run"])).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    let mut sent = Vec::new();
    let flow = async {
        loop {
            sent.push(guarded.insert(topic, Some("k")).await);
        }
    };
    let revoked = async {
        world.caught_up().await;
        guarded.forbid(topic, Operation::Write).await;
        halts_at(&mut relay, topic).await;
    };
    tokio::select! {
        () = revoked => {}
        () = flow => unreachable!("it never ends"),
    }
    guarded.allow(topic).await;
    // The row that was on its way when the flow ended may have been committed.
    let sql = "SELECT count(*) FROM outbox.messages WHERE topic = $1";
    let committed: i64 = guarded.client.query_one(sql, &[topic]).await.unwrap().get(0);
    let relay = world.relay().await;
    world.caught_up().await;
    let arrived = guarded.arrived(topic, committed.try_into().unwrap()).await;
    println!(
        "{} of {committed} rows were inserted after the first, {} arrived",
        sent.len() - 1,
        arrived.len()
    );
    let first = first_arrivals(arrived);
    assert_eq!(first[..sent.len()], sent);
    assert_eq!(first.len(), usize::try_from(committed).unwrap());
    stop(relay).await;
}
