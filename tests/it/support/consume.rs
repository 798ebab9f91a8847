//! What a topic holds, read from its first offset to its end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::spawn_blocking;

use super::kafka::config;
use super::unique;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Consumed {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
}

impl Consumed {
    /// The first header of that name, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(it, _)| it == name)?;
        std::str::from_utf8(value.as_ref()?).ok()
    }
}

/// Reads until there are `expected` records and then until nothing more is there: every partition read up to
/// its high watermark. When the time is over, returns what came, so that the checker can tell what is missing.
pub(crate) async fn consume(brokers: &str, topic: &str, expected: usize, timeout: Duration) -> Vec<Consumed> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    let read = move || {
        let mut reader = TopicReader::new(&brokers, &topic);
        let mut records = Vec::with_capacity(expected);
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            records.extend(reader.poll(Duration::from_millis(100)));
            // Asking for the watermarks is a round trip; before the count is reached the answer is of no use.
            if records.len() >= expected && reader.at_end() {
                return records;
            }
        }
        eprintln!("{topic}: {} of {expected} records after {timeout:?}", records.len());
        records
    };
    spawn_blocking(read).await.unwrap()
}

/// So that a topic of millions is never in memory as a whole.
const MOST_AT_ONCE: usize = 10_000;

/// Follows a topic from its first offset. Blocking: for threads, or inside `spawn_blocking`.
pub(crate) struct TopicReader {
    consumer: BaseConsumer,
    topic: String,
    /// The offset to come, of every partition; empty until the topic exists.
    next: HashMap<i32, i64>,
}

impl TopicReader {
    pub(crate) fn new(brokers: &str, topic: &str) -> TopicReader {
        let consumer = config(brokers)
            // Asked for by the client library, used by nobody: partitions are assigned by hand, nothing is committed.
            .set("group.id", unique("reader"))
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        TopicReader { consumer, topic: topic.to_owned(), next: HashMap::new() }
    }

    /// The records that are there, up to some thousands, else the first that comes within `wait`.
    pub(crate) fn poll(&mut self, wait: Duration) -> Vec<Consumed> {
        if self.next.is_empty() && !self.assign(wait) {
            return Vec::new();
        }
        let mut records = Vec::new();
        let mut wait = wait;
        // A fault on the way is the broker's absence, which some tests arrange: the caller's deadline decides.
        while records.len() < MOST_AT_ONCE
            && let Some(Ok(message)) = self.consumer.poll(wait)
        {
            self.next.insert(message.partition(), message.offset() + 1);
            records.push(copy(&message));
            wait = Duration::ZERO;
        }
        records
    }

    /// Whether every partition was read up to its high watermark.
    pub(crate) fn at_end(&self) -> bool {
        self.has_reached(&self.ends())
    }

    /// Where each partition ends now; one that does not answer ends nowhere.
    pub(crate) fn ends(&self) -> HashMap<i32, i64> {
        let high = |partition: i32| {
            let marks = self.consumer.fetch_watermarks(&self.topic, partition, Duration::from_secs(5));
            marks.map_or(i64::MAX, |(_, high)| high)
        };
        self.next.keys().map(|partition| (*partition, high(*partition))).collect()
    }

    /// Whether everything before these ends has been read.
    pub(crate) fn has_reached(&self, ends: &HashMap<i32, i64>) -> bool {
        !ends.is_empty() && ends.iter().all(|(partition, end)| self.next.get(partition) >= Some(end))
    }

    fn assign(&mut self, wait: Duration) -> bool {
        let Ok(metadata) = self.consumer.fetch_metadata(Some(&self.topic), wait.max(Duration::from_secs(1)))
        else {
            return false;
        };
        let ids = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|it| it.id());
        self.next = ids.map(|id| (id, 0)).collect();
        let mut list = TopicPartitionList::new();
        for partition in self.next.keys() {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(0)).unwrap();
        }
        self.consumer.assign(&list).unwrap();
        !self.next.is_empty()
    }
}

pub(crate) fn copy(message: &impl Message) -> Consumed {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Consumed {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|it| (it.key.to_owned(), it.value.map(<[u8]>::to_vec))).collect(),
        timestamp: message.timestamp().to_millis(),
    }
}
