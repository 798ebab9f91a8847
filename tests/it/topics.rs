//! The list of topics that may be written to: whoever may insert a row names any topic.

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::check::Checked;
use crate::dead_letters::{ids, insert, letters, parking_with, quick};
use crate::support::kafka::config;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, unique};
use crate::world::{World, stop};

/// The topics that there are, asked for in a way that makes none.
fn known(brokers: &str) -> Vec<String> {
    let client: BaseConsumer = config(brokers).create().unwrap();
    let metadata = client.fetch_metadata(None, PATIENCE).unwrap();
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

#[tokio::test]
async fn a_topic_that_is_not_on_the_list_is_refused_by_name_and_never_made() {
    // It makes each topic that somebody asks for.
    let behind = KafkaBroker::start_open_handed_behind_proxy().await;
    let broker = &behind.kafka;
    let world = World::on(PostgresServer::shared().await, broker, "listed", 1).await;
    let client = world.database.client().await;
    let (topic, other) = (world.topic.clone(), unique("other"));
    let list = format!("nothing.*,{}*", &topic[..topic.len() - 3]);
    let first = insert(&client, &topic, Some("a"), "1").await;
    insert(&client, &other, Some("b"), "\"sesame\"").await;

    let checked = Checked::of(world.command(["check", "--topics", &list])).await;
    let advice = checked.advice("topic", "fail", &format!("{other} is named by a row"));
    assert!(advice.contains("--topics"), "{advice}");

    let mut halting =
        quick(world.command(["run", "--topics", &list])).env("WALPOST_MAX_RETRIES", "9").spawn();
    assert_eq!(halting.wait(PATIENCE).await.code(), Some(1), "{}", halting.log());
    let log = halting.log();
    assert!(log.contains(&format!("publishing to topic {other}: it is not on the list")), "{log}");
    assert!(log.contains("WALPOST_TOPICS") && !log.contains("sesame"), "{log}");
    assert!(!log.contains("retrying"), "no try could end otherwise: {log}");

    let relay = parking_with(&world, &["--topics", &list]).await;
    let offsets = insert(&client, "__consumer_offsets", Some("c"), "2").await;
    let last = insert(&client, &topic, Some("a"), "3").await;
    world.caught_up().await;
    let parked = letters(&client).await;
    assert_eq!(parked.len(), 2, "{parked:?}");
    assert!(parked[0].1.contains(&other) && parked[0].1.contains("not on the list"), "{parked:?}");
    assert_eq!(parked[1].0, Some(offsets));
    assert!(parked[1].1.contains("__consumer_offsets: the brokers keep their own state"), "{parked:?}");
    let arrived = ids(&world.consume(2).await);
    assert!(arrived.starts_with(&[first]) && arrived.ends_with(&[last]), "{arrived:?}");
    stop(relay).await;
    let known = known(broker.brokers());
    assert!(!known.contains(&other), "{known:?}");
}
