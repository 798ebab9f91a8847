//! A mock cluster, a publisher that is driven as its contract asks, and a reader.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use walpost::kafka::{KafkaPublisher, KafkaSettings};
use walpost::{Headers, Offer, OutboxError, OutboxPublisher, Receipt, Record, Ticket, Vitals};

pub(crate) type Cluster = MockCluster<'static, DefaultProducerContext>;

/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const ALL: i32 = -1;

pub(crate) fn cluster(brokers: i32, topics: &[(&str, i32)]) -> Cluster {
    let cluster = MockCluster::new(brokers).expect("a mock cluster");
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, brokers).expect("a topic");
    }
    cluster
}

/// A publisher, its vitals, the tickets given out and how many of them have their receipt.
pub(crate) struct Bench {
    pub(crate) publisher: KafkaPublisher,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) next: u64,
    pub(crate) settled: u64,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) fulls: usize,
}

impl Bench {
    pub(crate) fn open(cluster: &Cluster, properties: &[(&str, &str)]) -> Bench {
        Bench::at(&cluster.bootstrap_servers(), properties)
    }

    pub(crate) fn at(brokers: &str, properties: &[(&str, &str)]) -> Bench {
        let settings = properties.iter().fold(KafkaSettings::new(brokers), |settings, (name, value)| {
            settings.with_property(*name, *value)
        });
        let vitals = Arc::new(Vitals::default());
        let publisher = KafkaPublisher::open(&settings, Arc::clone(&vitals)).expect("a publisher");
        Bench { publisher, vitals, next: 0, settled: 0, receipts: Vec::new(), fulls: 0 }
    }

    /// Publishes as the contract asks: the very same record first after the next receipt.
    pub(crate) async fn publish(&mut self, record: &Record<'_>) {
        self.offer(record).await.expect("taken or full");
    }

    /// The same when the publisher may have failed by now, and takes nothing more.
    pub(crate) async fn offer(&mut self, record: &Record<'_>) -> Result<(), OutboxError> {
        while self.publisher.publish(Ticket(self.next), record)? == Offer::Full {
            self.fulls += 1;
            in_time(self.publisher.receipts(&mut self.receipts)).await.expect("a receipt");
        }
        self.next += 1;
        Ok(())
    }

    /// Publishes numbers as values.
    pub(crate) async fn publish_numbers(&mut self, topic: &str, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.publish(&value(topic, number.to_string().as_bytes())).await;
        }
    }

    /// Waits for the receipts of all that was published since the last time, sorted by ticket.
    pub(crate) async fn settle(&mut self) -> Vec<Receipt> {
        let due = std::mem::replace(&mut self.settled, self.next)..self.next;
        while self.receipts.len() < due.clone().count() {
            in_time(self.publisher.receipts(&mut self.receipts)).await.expect("a receipt");
        }
        let mut receipts = std::mem::take(&mut self.receipts);
        receipts.sort_by_key(|receipt| receipt.ticket);
        assert!(receipts.iter().map(|receipt| receipt.ticket.0).eq(due), "one receipt for each ticket");
        receipts
    }

    pub(crate) async fn settle_well(&mut self) {
        for receipt in self.settle().await {
            assert!(receipt.result.is_ok(), "{receipt:?}");
        }
    }
}

pub(crate) static NO_HEADERS: std::sync::LazyLock<Headers> = std::sync::LazyLock::new(Headers::default);

pub(crate) fn value<'a>(topic: &'a str, value: &'a [u8]) -> Record<'a> {
    Record {
        topic,
        partition: None,
        key: None,
        spread: 0,
        value: Some(value),
        timestamp: None,
        headers: &NO_HEADERS,
    }
}

pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Asks again and again; the vitals can't be awaited.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    in_time(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A record as a consumer sees it.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) partition: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Everything in a topic up to its present end, partition by partition.
pub(crate) fn read(cluster: &Cluster, topic: &str, partitions: i32) -> Vec<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .set("fetch.wait.max.ms", "10")
        .create()
        .expect("a consumer");
    let (mut assignment, mut due) = (TopicPartitionList::new(), 0);
    for partition in 0..partitions {
        let (start, end) = consumer.fetch_watermarks(topic, partition, PATIENCE).expect("watermarks");
        assert_eq!(start, 0, "the mock has thrown nothing away");
        assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        due += usize::try_from(end).expect("a count");
    }
    consumer.assign(&assignment).expect("an assignment");
    let (mut seen, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while seen.len() < due {
        assert!(Instant::now() < deadline, "{} of {due} records read", seen.len());
        // Nothing yet, or a broker that is down on purpose: either passes, or the deadline does.
        let Some(Ok(message)) = consumer.poll(Duration::from_secs(1)) else { continue };
        seen.push(Seen::from(&message));
    }
    seen.sort_by_key(|seen| seen.partition);
    seen
}

impl From<&BorrowedMessage<'_>> for Seen {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let owned = |value: &[u8]| value.to_vec();
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(owned))).collect()
        });
        Seen {
            partition: message.partition(),
            key: message.key().map(owned),
            value: message.payload().map(owned),
            timestamp: message.timestamp().to_millis(),
            headers,
        }
    }
}

pub(crate) fn numbers(cluster: &Cluster, topic: &str) -> Vec<u32> {
    let number = |seen: Seen| {
        String::from_utf8(seen.value.expect("a value")).expect("text").parse().expect("a number")
    };
    read(cluster, topic, 1).into_iter().map(number).collect()
}
