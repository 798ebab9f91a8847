//! `walpost audit` and what a topic does by itself: it compacts, it forgets, it grows; and ranges of positions.

use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;
use tokio::task::spawn_blocking;
use tokio_postgres::Client;

use crate::audit::{audit, counts, expected, lose, send, text};
use crate::support::kafka::config;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually};
use crate::world::{World, stop};

fn admin(world: &World) -> AdminClient<DefaultClientContext> {
    config(&world.brokers).create().unwrap()
}

/// A row of that key; gives its id and its payload.
async fn insert(world: &World, client: &Client, key: &str) -> (String, String) {
    let sql = "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, $2, '1') RETURNING id::text, payload::text";
    let row = client.query_one(sql, &[&world.topic, &key]).await.unwrap();
    (row.get(0), row.get(1))
}

/// A broker that compacts at once.
async fn compacting() -> KafkaBroker {
    KafkaBroker::start_changed(&[], |_, settings| {
        settings.push(("log.cleaner.backoff.ms", "100".to_owned()));
    })
    .await
}

async fn compact(world: &World) {
    let resource = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("min.compaction.lag.ms", "0"),
        ("max.compaction.lag.ms", "100"),
    ]
    .into_iter()
    .fold(AlterConfig::new(ResourceSpecifier::Topic(&world.topic)), |resource, (name, value)| {
        resource.set(name, value)
    });
    let results = admin(world).alter_configs([&resource], &AdminOptions::new()).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn what_a_compacted_topic_has_let_go_of_is_not_lost() {
    let broker = compacting().await;
    let world = World::on(PostgresServer::shared().await, &broker, "compact", 1).await;
    compact(&world).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    for key in ["a", "b", "a", "b", "a"] {
        insert(&world, &client, key).await;
    }
    world.caught_up().await;
    // Each row may close a segment; closed ones are compacted.
    let left = eventually("the topic to be compacted", PATIENCE, async || {
        insert(&world, &client, "c").await;
        world.caught_up().await;
        let records = world.consume(1).await;
        let of =
            |key: &str| records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes())).count();
        ((of("a"), of("b")) == (1, 1)).then_some(records.len())
    })
    .await;
    stop(relay).await;
    let rows: i64 = client.query_one("SELECT count(*) FROM outbox.messages", &[]).await.unwrap().get(0);
    let (code, told, stderr) = audit(&world, &[]).await;
    let published = told["published"].as_u64().unwrap();
    assert!(published >= 3 && published <= left as u64, "{told}");
    let compacted = u64::try_from(rows).unwrap() - published;
    assert_eq!(
        (code, told["compacted"].as_u64(), &told["lost"]),
        (0, Some(compacted), &0.into()),
        "{stderr} {told}"
    );
    assert!(text(&world, &[]).await.contains("which a compacted topic keeps\n"));

    // Behind the last one of its key there is nothing that explains it.
    let (id, _) = insert(&world, &client, "a").await;
    lose(&world, &client).await;
    let (code, told, stderr) = audit(&world, &[]).await;
    assert_eq!((code, &told["lost"]), (1, &1.into()), "{stderr}");
    assert_eq!(told["examples"][0]["id"], id);
}

/// Compaction is set, and nothing was let go of so far: what is missing is lost.
#[tokio::test]
async fn a_compacted_topic_without_gaps_excuses_nothing() {
    let world = World::new("nogaps", 1).await;
    world.set_topic("cleanup.policy", "compact").await;
    let client = world.database.client().await;
    insert(&world, &client, "a").await;
    lose(&world, &client).await;
    let relay = world.relay().await;
    insert(&world, &client, "a").await;
    world.caught_up().await;
    stop(relay).await;
    let (code, told, stderr) = audit(&world, &[]).await;
    let lost = [("rows", 2), ("records", 1), ("published", 1), ("lost", 1)];
    assert_eq!((code, counts(&told)), (1, expected(&lost)), "{stderr}");
}

#[tokio::test]
async fn what_retention_has_deleted_cannot_be_told() {
    let world = World::new("expired", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    for _ in 0..10 {
        insert(&world, &client, "k").await;
    }
    world.caught_up().await;
    stop(relay).await;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&world.topic, 0, Offset::Offset(6)).unwrap();
    admin(&world).delete_records(&before, &AdminOptions::new()).await.unwrap();
    let (code, told, stderr) = audit(&world, &[]).await;
    let gone = [("rows", 10), ("records", 4), ("published", 4), ("expired", 6)];
    assert_eq!((code, counts(&told)), (0, expected(&gone)), "{stderr}");
    assert!(text(&world, &[]).await.contains("older than what their topic keeps: can't be told\n"));

    insert(&world, &client, "k").await;
    lose(&world, &client).await;
    let (code, told, stderr) = audit(&world, &[]).await;
    let lost = [("rows", 11), ("records", 4), ("published", 4), ("expired", 6), ("lost", 1)];
    assert_eq!((code, counts(&told)), (1, expected(&lost)), "{stderr}");
}

/// Sends a row's record into a partition of somebody's choice, as the last one of the log.
async fn misplace(world: &World, (id, value): &(String, String), key: &str, partition: i32) {
    let (brokers, topic, key) = (world.brokers.clone(), world.topic.clone(), key.to_owned());
    let (id, value) = (id.clone(), value.clone());
    let write = move || {
        let producer: BaseProducer = config(&brokers).create().unwrap();
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new()
            .insert(header("id", id.as_str()))
            .insert(header("walpost.lsn", "FFFFFFFF/0"))
            .insert(header("walpost.index", "0"));
        let record = BaseRecord::to(&topic).partition(partition).key(&key).payload(&value).headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(PATIENCE).unwrap();
    };
    spawn_blocking(write).await.unwrap();
}

#[tokio::test]
async fn a_record_in_a_wrong_partition_is_told_as_such() {
    let world = World::new("astray", 3).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    world.insert(&client, 50).await;
    world.caught_up().await;
    stop(relay).await;
    let records = world.consume(50).await;
    let home = records.iter().find(|record| record.key.as_deref() == Some(b"3")).unwrap().partition;
    let row = insert(&world, &client, "3").await;
    lose(&world, &client).await;
    misplace(&world, &row, "3", (home + 1) % 3).await;
    let (code, told, stderr) = audit(&world, &[]).await;
    let wrong = [("rows", 51), ("records", 51), ("published", 51), ("wrong_partition", 1)];
    assert_eq!((code, counts(&told)), (1, expected(&wrong)), "{stderr}");
    assert_eq!(
        (&told["verdict"], &told["examples"][0]["kind"]),
        (&"wrong_partition".into(), &"wrong_partition".into())
    );
    assert_eq!(
        (&told["examples"][0]["id"], &told["examples"][0]["partition"]),
        (&row.0.into(), &((home + 1) % 3).into())
    );
    let said = text(&world, &[]).await;
    assert!(said.starts_with("WRONG PARTITION: 1 record is in another partition than"), "{said}");
    // By another partitioner most of them are elsewhere.
    let (code, told, _) = audit(&world, &["-X", "partitioner=fnv1a"]).await;
    assert!(code == 1 && told["wrong_partition"].as_u64().unwrap() > 1, "{told}");
}

#[tokio::test]
async fn partitions_that_were_added_are_no_fault() {
    let world = World::new("grown", 2).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    world.insert(&client, 50).await;
    world.caught_up().await;
    stop(relay).await;
    let more = NewPartitions::new(&world.topic, 5);
    let results = admin(&world).create_partitions([&more], &AdminOptions::new()).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    // Not before every broker knows of them; there is one.
    let relay = world.relay().await;
    world.insert(&client, 50).await;
    world.caught_up().await;
    stop(relay).await;
    let (code, told, stderr) = audit(&world, &[]).await;
    assert_eq!(
        (code, &told["published"], &told["wrong_partition"]),
        (0, &100.into(), &0.into()),
        "{stderr} {told}"
    );
    assert!(told["earlier_partition"].as_u64().unwrap() > 0, "{told}");
    assert!(text(&world, &[]).await.contains("when there were fewer partitions\n"));
}

#[tokio::test]
async fn a_range_of_positions_judges_its_records_and_hides_no_loss() {
    let world = World::new("auditlsn", 1).await;
    let client = world.database.client().await;
    let mut rows = Vec::new();
    for _ in 0..4 {
        rows.push(insert(&world, &client, "k").await);
    }
    lose(&world, &client).await;
    let row = |index: usize, lsn| (rows[index].0.clone(), rows[index].1.clone(), lsn);
    send(&world, &[row(0, 16), row(0, 16), row(1, 32), row(2, 48), row(2, 48)]).await;
    for (args, wanted) in [
        (&[][..], [("rows", 4), ("published", 3), ("outside", 0), ("repeated", 2)]),
        (&["--from-lsn", "0/20"], [("rows", 3), ("published", 2), ("outside", 1), ("repeated", 1)]),
        (&["--to-lsn", "0/20"], [("rows", 2), ("published", 1), ("outside", 2), ("repeated", 1)]),
        (
            &["--from-lsn", "0/11", "--to-lsn", "0/30"],
            [("rows", 2), ("published", 1), ("outside", 2), ("repeated", 0)],
        ),
    ] {
        let (code, told, stderr) = audit(&world, args).await;
        let all: Vec<_> =
            wanted.into_iter().chain([("records", 5), ("lost", 1)]).filter(|(_, n)| *n > 0).collect();
        assert_eq!((code, counts(&told)), (1, expected(&all)), "{args:?} {stderr}");
        assert_eq!(told["examples"][0]["id"], rows[3].0, "what is in no topic is told whatever the range is");
    }
    for args in [&["--from-lsn", "16"][..], &["--to-lsn", "0/20", "--map-own-headers", "no"]] {
        let output = world.command(["audit"]).args(args).output().await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}
