//! The servers of these tests, started once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio_postgres::Client;

use super::configurations::Place;
use crate::support::consume::copy;
use crate::support::debezium::Connect;
use crate::support::kafka::config;
use crate::support::{Consumed, Database, KafkaBroker, PATIENCE, PostgresServer, unique};

/// How long all of Debezium may take, which starts several at once.
pub(crate) const LONGEST: Duration = Duration::from_secs(180);

/// Two brokers, because both relays write to topics of the same names.
pub(crate) struct Lab {
    pub(crate) server: PostgresServer,
    pub(crate) theirs: KafkaBroker,
    pub(crate) ours: KafkaBroker,
    /// Writes to the first one.
    pub(crate) connect: Connect,
}

impl Lab {
    pub(crate) async fn shared() -> &'static Lab {
        static SHARED: OnceCell<Lab> = OnceCell::const_new();
        SHARED.get_or_init(Lab::start).await
    }

    async fn start() -> Lab {
        let many = [("max_replication_slots", "100"), ("max_wal_senders", "100")];
        let theirs = async || {
            let broker = KafkaBroker::start().await;
            let connect = Connect::start(broker.brokers()).await;
            (broker, connect)
        };
        let (server, (theirs, connect), ours) =
            tokio::join!(PostgresServer::start(&many), theirs(), KafkaBroker::start());
        Lab { server, theirs, ours, connect }
    }

    pub(crate) fn place<'a>(&'a self, database: &'a Database) -> Place<'a> {
        let address = self.server.address();
        let (_, port) = address.rsplit_once(':').unwrap();
        Place { port: port.parse().unwrap(), database: &database.name, brokers: self.theirs.brokers() }
    }
}

pub(crate) async fn create_slot(client: &Client, slot: &str, plugin: &str) {
    let sql = "SELECT pg_create_logical_replication_slot($1::text::name, $2::text::name)";
    client.execute(sql, &[&slot, &plugin]).await.unwrap();
}

/// How many records the topics hold.
pub(crate) async fn held(brokers: &str, topics: &[(String, i32)]) -> i64 {
    let (brokers, topics) = (brokers.to_owned(), topics.to_vec());
    let count = move || {
        let reader: BaseConsumer = config(&brokers).create().unwrap();
        // A topic that has just been made may have no leader yet.
        let deadline = Instant::now() + PATIENCE;
        let end = |topic: &str, partition| loop {
            match reader.fetch_watermarks(topic, partition, PATIENCE) {
                Ok((_, end)) => break end,
                Err(error) => assert!(Instant::now() < deadline, "{topic}/{partition}: {error}"),
            }
        };
        topics.iter().map(|(topic, count)| (0..*count).map(|it| end(topic, it)).sum::<i64>()).sum()
    };
    spawn_blocking(count).await.unwrap()
}

/// All that the topics hold now, by partition and offset. One reader for all of them, because many cost many seconds.
pub(crate) async fn read(brokers: &str, topics: Vec<(String, i32)>) -> HashMap<String, Vec<Consumed>> {
    let mut left = held(brokers, &topics).await;
    let brokers = brokers.to_owned();
    let read = move || {
        let reader: BaseConsumer = config(&brokers).set("group.id", unique("reader")).create().unwrap();
        let mut list = TopicPartitionList::new();
        for (topic, count) in &topics {
            for partition in 0..*count {
                list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            }
        }
        reader.assign(&list).unwrap();
        let mut records: HashMap<String, Vec<Consumed>> = HashMap::new();
        while left > 0 {
            let message = reader.poll(PATIENCE).expect("more is there").unwrap();
            records.entry(message.topic().to_owned()).or_default().push(copy(&message));
            left -= 1;
        }
        records.values_mut().for_each(|all| all.sort_by_key(|it| (it.partition, it.offset)));
        records
    };
    spawn_blocking(read).await.unwrap()
}
