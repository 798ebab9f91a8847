//! `walpost check` on Kafka's side. What mends a topic is a command of Kafka's own tools: its change is made here as it is
//! written there.

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::check::Checked;
use crate::support::kafka::config;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Proxy, acl, eventually, unique};
use crate::world::World;

/// What `kafka-configs.sh --alter` would do, by the command in an advice.
async fn run(broker: &KafkaBroker, advice: &str) {
    let (_, command) =
        advice.split_once("kafka-configs.sh ").unwrap_or_else(|| panic!("no command: {advice}"));
    let mut words = command.split_whitespace();
    let mut after = |flag: &str| {
        words.find(|word| *word == flag).unwrap_or_else(|| panic!("no {flag}: {advice}"));
        words.next().unwrap().to_owned()
    };
    let (brokers, topic, change) =
        (after("--bootstrap-server"), after("--entity-name"), after("--add-config"));
    assert_eq!(brokers, broker.brokers());
    set(broker, &topic, &change).await;
}

async fn set(broker: &KafkaBroker, topic: &str, change: &str) {
    let admin: AdminClient<DefaultClientContext> = config(broker.brokers()).create().unwrap();
    let (name, value) = change.split_once('=').unwrap();
    let resource = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    let results = admin.alter_configs([&resource], &AdminOptions::new()).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// The topics that there are, asked for in a way that makes none.
fn topics(brokers: &str) -> Vec<String> {
    let client: BaseConsumer = config(brokers).create().unwrap();
    let metadata = client.fetch_metadata(None, PATIENCE).unwrap();
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

#[tokio::test]
async fn a_topic_that_would_refuse_records_is_told_with_the_change_that_mends_it() {
    let broker = KafkaBroker::shared().await;
    let world = World::new("topics", 3).await;
    let client = world.database.client().await;
    let [copies, compact, missing, small, narrow] =
        ["copies", "compact", "missing", "small", "narrow"].map(unique);
    for topic in [&copies, &compact, &small, &narrow] {
        broker.create_topic(topic, 1).await;
    }
    for (topic, change) in [
        (&copies, "min.insync.replicas=2"),
        (&compact, "cleanup.policy=compact"),
        (&small, "max.message.bytes=20000"),
        (&narrow, "max.message.bytes=500000"),
    ] {
        set(broker, topic, change).await;
    }
    let insert = "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, $2, $3::text::json)";
    // Not compressed where it is stored, or it would be small.
    client.batch_execute("ALTER TABLE outbox.messages ALTER payload SET STORAGE EXTERNAL").await.unwrap();
    let large = format!("\"{}\"", "x".repeat(40_000));
    for (topic, key, payload) in [
        (&copies, Some("k"), "1"),
        (&compact, None, "1"),
        (&missing, Some("k"), "1"),
        (&small, Some("k"), large.as_str()),
        (&narrow, Some("k"), "1"),
    ] {
        client.execute(insert, &[topic, &key, &payload]).await.unwrap();
    }
    // Changes of topics reach the answer a moment later.
    let of = |topic: &str, words: &str| format!("{words}{topic}");
    let checked = eventually("the topics' settings", PATIENCE, async || {
        let checked = Checked::of(world.command(["check"])).await;
        checked.find("topic", "fail", &of(&compact, "")).is_some().then_some(checked)
    })
    .await;
    assert_eq!(checked.code, Some(1));
    let advice = checked.advice(
        "topic",
        "fail",
        &format!("of {copies} has 1 of 1 replicas in sync, and min.insync.replicas is 2"),
    );
    run(broker, &advice).await;
    let advice = checked.advice(
        "topic",
        "fail",
        &format!("{compact} is compacted, and records go there without a key"),
    );
    run(broker, &advice).await;
    let advice = checked.advice("topic", "warn", &format!("a row for {small} has 40"));
    run(broker, &advice).await;
    let advice = checked.advice("topic", "warn", &format!("{narrow} takes 500000 bytes at once"));
    assert!(advice.contains("-X batch.size=500000"), "{advice}");
    let command = world.command(["check", "-X", "batch.size=500000"]);
    assert!(Checked::of(command).await.find("topic", "warn", "500000 bytes at once").is_none());
    run(broker, &advice).await;
    let advice =
        checked.advice("topic", "fail", &format!("{missing} does not exist, and the broker makes none"));
    let create = format!("--create --topic {missing} --partitions 3 --replication-factor 1");
    assert!(advice.contains(&create), "{advice}");
    assert!(!topics(broker.brokers()).contains(&missing), "asking has made it");
    broker.create_topic(&missing, 3).await;
    // The producer's own limit.
    let command = world.command(["check", "-X", "message.max.bytes=10000"]);
    let advice =
        Checked::of(command).await.advice("topic", "warn", "and message.max.bytes of the producer is 10000");
    assert!(advice.contains("-X message.max.bytes=6"), "{advice}");

    eventually("the topics to be mended", PATIENCE, async || {
        let checked = Checked::of(world.command(["check"])).await;
        (checked.code == Some(0)
            && checked.find("topic", "warn", "bytes").is_none()
            && checked.find("topic", "warn", &format!("{missing} keeps one copy")).is_some())
        .then_some(())
    })
    .await;
}

/// Waits until one line says of all of them that they may be written to.
async fn checked_to_write(check: impl AsyncFn() -> Checked, topics: &[&str]) {
    eventually("the right to write", PATIENCE, async || {
        let checked = check().await;
        let told = topics.iter().all(|topic| checked.find("write", "ok", topic).is_some());
        told.then_some(())
    })
    .await;
}

#[tokio::test]
async fn brokers_that_can_not_be_reached_and_users_that_may_not_are_told() {
    let behind = KafkaBroker::start_open_handed_behind_proxy().await;
    let broker = &behind.kafka;
    let world = World::on(PostgresServer::shared().await, broker, "reach", 1).await;
    let client = world.database.client().await;
    let [made, hidden] = ["made", "hidden"].map(unique);
    broker.create_topic(&hidden, 1).await;
    acl::hide(broker, &hidden).await;
    for topic in [&made, &hidden] {
        let insert = "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, 'k', '1')";
        client.execute(insert, &[topic]).await.unwrap();
    }
    // A second wire to the door behind the first one: the brokers answer there, and say that they are at the first.
    let door = Proxy::start(behind.proxy.target()).await;
    let through = door.address().to_string();
    let check = || Checked::of(world.command(["check"]).env("WALPOST_BROKERS", &through));

    let checked = eventually("the list to count", PATIENCE, async || {
        let checked = check().await;
        checked.find("topic", "fail", &hidden).is_some().then_some(checked)
    })
    .await;
    let advice = checked.advice("topic", "fail", &format!("may not even ask about {hidden}"));
    assert!(advice.contains(&format!("--operation Write --topic {hidden}")), "{advice}");
    assert!(
        checked.find("topic", "ok", &format!("{made} does not exist yet; the broker makes it")).is_some()
    );
    assert!(!topics(broker.brokers()).contains(&made), "asking has made it");
    checked.assert_well(&["kafka", "brokers", "producer"]);
    // What may be asked about, and not written to, beside one that may.
    let [open, closed] = ["open", "closed"].map(unique);
    for topic in [&open, &closed] {
        broker.create_topic(topic, 1).await;
        let insert = "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, 'k', '1')";
        client.execute(insert, &[topic]).await.unwrap();
    }
    checked_to_write(&check, &[&open, &closed]).await;
    acl::close(broker, &closed).await;
    let checked = eventually("the list to count", PATIENCE, async || {
        let checked = check().await;
        checked.find("write", "fail", &closed).is_some().then_some(checked)
    })
    .await;
    assert_eq!(checked.code, Some(1));
    let advice = checked.advice("write", "fail", &format!("the Kafka user may not write to {closed}"));
    assert!(advice.contains(&format!("--operation Write --topic {closed}")), "{advice}");
    assert!(checked.find("write", "fail", &open).is_none(), "it may");
    acl::open(broker, &closed).await;
    checked_to_write(&check, &[&open, &closed]).await;

    let checked = check().await;
    assert!(checked.find("kafka", "ok", "not encrypted, without a login").is_some());
    let refusing = ["check", "-X", "allow.auto.create.topics=false"];
    let refused = Checked::of(world.command(refusing)).await;
    refused.advice("topic", "fail", &format!("{made} does not exist, and allow.auto.create.topics is false"));

    behind.proxy.cut();
    let command = world.command(["check"]).env("WALPOST_BROKERS", format!("{through},127.0.0.1:1"));
    let checked = Checked::of(command).await;
    assert_eq!(checked.code, Some(1));
    let advertised = format!("broker 1 can't be reached at {}, where it says it is", behind.brokers);
    assert!(checked.advice("brokers", "fail", &advertised).contains("advertised.listeners"));
    assert!(checked.advice("brokers", "warn", "127.0.0.1:1 of --brokers").contains("take it out"));
    behind.proxy.heal();

    acl::open(broker, &hidden).await;
    acl::close_to_producers(broker).await;
    let checked = eventually("the producer to be refused", PATIENCE, async || {
        let checked = check().await;
        checked.find("producer", "fail", "an idempotent producer is refused").is_some().then_some(checked)
    })
    .await;
    assert!(checked.advice("producer", "fail", "refused").contains("IDEMPOTENT_WRITE"));

    // Without any broker, the database is looked at all the same.
    let command = world.command(["check"]).env("WALPOST_BROKERS", "127.0.0.1:1");
    let checked = Checked::of(command).await;
    assert!(checked.find("slot", "ok", "").is_some());
    checked.advice("kafka", "fail", "no Kafka broker answers at 127.0.0.1:1");
    assert!(checked.find("topics", "warn", "not looked at").is_some());
}
