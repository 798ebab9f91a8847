//! A broker with access control lists: what may not be written is named, and the others flow.

use uuid::Uuid;

use crate::dead_letters::{ids, insert, letters, parking, quick, replay_all};
use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, acl, consume, eventually, unique};
use crate::world::{World, stop};

/// First arrivals, in order.
fn arrivals(records: &[Consumed]) -> Vec<Uuid> {
    let mut seen = std::collections::HashSet::new();
    ids(records).into_iter().filter(|id| seen.insert(*id)).collect()
}

#[tokio::test]
async fn a_topic_that_may_not_be_written_is_named_and_parked_until_it_may() {
    let broker = KafkaBroker::start_guarded().await;
    let world = World::on(PostgresServer::shared().await, &broker, "guarded", 1).await;
    let client = world.database.client().await;
    let (open, closed) = (world.topic.clone(), unique("closed"));
    broker.create_topic(&closed, 1).await;
    acl::close(&broker, &closed).await;
    let (mut flows, mut waits) = (Vec::new(), Vec::new());
    for n in 0..20 {
        flows.push(insert(&client, &open, Some("k"), &n.to_string()).await);
        waits.push(insert(&client, &closed, Some("k"), &n.to_string()).await);
    }

    let mut halting = quick(world.command(["run"])).spawn();
    assert_eq!(halting.wait(PATIENCE).await.code(), Some(1), "{}", halting.log());
    let log = halting.log();
    assert!(log.contains(&closed) && log.contains("TopicAuthorizationFailed"), "{log}");
    assert!(log.contains("grant WRITE on it"), "{log}");
    // What was on its way to the other topic may have arrived; in its order.
    assert!(flows.starts_with(&arrivals(&world.consume(1).await)));

    let relay = parking(&world).await;
    world.caught_up().await;
    assert_eq!(arrivals(&world.consume(20).await), flows);
    let parked = letters(&client).await;
    assert_eq!(parked.iter().map(|letter| letter.0.unwrap()).collect::<Vec<_>>(), waits);
    assert!(parked[0].1.contains("TopicAuthorizationFailed"), "{parked:?}");

    acl::open(&broker, &closed).await;
    eventually("the broker to let them in", PATIENCE, async || {
        replay_all(&world).await;
        world.caught_up().await;
        letters(&client).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(arrivals(&consume(broker.brokers(), &closed, 20, PATIENCE).await), waits);

    // Taken away from a relay that has written there.
    acl::close(&broker, &closed).await;
    let mut revoked = Vec::new();
    eventually("the broker to keep them out", PATIENCE, async || {
        let id = insert(&client, &closed, Some("k"), "20").await;
        world.caught_up().await;
        let parked = letters(&client).await.iter().any(|letter| letter.0 == Some(id));
        if parked {
            revoked.push(id);
        } else {
            waits.push(id);
        }
        parked.then_some(())
    })
    .await;
    flows.push(insert(&client, &open, Some("k"), "20").await);
    world.caught_up().await;
    assert_eq!(arrivals(&world.consume(21).await), flows);
    let in_topic = consume(broker.brokers(), &closed, waits.len(), PATIENCE).await;
    assert_eq!(arrivals(&in_topic), waits);
    assert_eq!(letters(&client).await.len(), revoked.len());
    stop(relay).await;
}
