//! What a topic holds: how far it has grown, and whether that is what was committed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::block_in_place;

use crate::backlog::payload_start;
use crate::lab::Lab;
use crate::support::kafka::config;
use crate::support::{PATIENCE, unique};

/// A topic that is written in turns, each of which begins where the last one ended.
pub(crate) struct Topic {
    pub(crate) name: String,
    brokers: String,
    partitions: i32,
    consumer: BaseConsumer,
}

impl Topic {
    pub(crate) async fn create(lab: &Lab, partitions: i32) -> Topic {
        let (name, brokers) = (unique("bench"), lab.broker.brokers().to_owned());
        lab.broker.create_topic(&name, partitions).await;
        let consumer = consumer(&brokers);
        Topic { name, brokers, partitions, consumer }
    }

    /// Lets in records of so many bytes.
    pub(crate) async fn set_largest(&self, bytes: u32) {
        let admin: AdminClient<DefaultClientContext> = config(&self.brokers).create().unwrap();
        let bytes = bytes.to_string();
        let change = AlterConfig::new(ResourceSpecifier::Topic(&self.name)).set("max.message.bytes", &bytes);
        for result in admin.alter_configs(&[change], &AdminOptions::new()).await.unwrap() {
            result.unwrap();
        }
    }

    /// The high watermark of each partition.
    pub(crate) fn ends(&self) -> Vec<i64> {
        let end = |partition| self.consumer.fetch_watermarks(&self.name, partition, PATIENCE).unwrap().1;
        block_in_place(|| (0..self.partitions).map(end).collect())
    }

    /// How many records have come since.
    pub(crate) fn grown(&self, since: &[i64]) -> u64 {
        let grown: i64 = self.ends().iter().zip(since).map(|(end, start)| end - start).sum();
        grown.unsigned_abs()
    }

    /// Reads what came since, and compares it with the rows of the backlog: each partition is in order.
    pub(crate) fn check(&self, since: &[i64], rows: u32, position: Position) -> Verdict {
        self.judge(since, rows, position, |message| message.partition().to_be_bytes().to_vec())
    }

    /// The same, where only the rows of a key are in order.
    pub(crate) fn check_keys(&self, since: &[i64], rows: u32, position: Position) -> Verdict {
        self.judge(since, rows, position, |message| message.key().unwrap_or_default().to_vec())
    }

    fn judge(&self, since: &[i64], rows: u32, position: Position, lane: Lane) -> Verdict {
        block_in_place(|| {
            let ends = self.ends();
            let mut judge = Judge::new(rows, position, lane);
            let reader = consumer(&self.brokers);
            assign(&reader, &self.name, since);
            let mut left: i64 = ends.iter().zip(since).map(|(end, start)| end - start).sum();
            let mut heard = Instant::now();
            while left > 0 {
                assert!(heard.elapsed() < PATIENCE, "{left} records can't be read");
                let Some(message) = reader.poll(Duration::from_millis(100)) else { continue };
                judge.hear(&message.unwrap());
                heard = Instant::now();
                left -= 1;
            }
            judge.verdict
        })
    }
}

/// As a consumer of the tests, in no group.
pub(crate) fn consumer(brokers: &str) -> BaseConsumer {
    let mut config = config(brokers);
    config.set("group.id", unique("bench")).set("enable.auto.commit", "false");
    config.create().unwrap()
}

pub(crate) fn assign(reader: &BaseConsumer, topic: &str, from: &[i64]) {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(from) {
        list.add_partition_offset(topic, partition, Offset::Offset(*offset)).unwrap();
    }
    reader.assign(&list).unwrap();
}

/// The number of the row that a record was made of: the end of its id.
pub(crate) fn row_number(message: &BorrowedMessage<'_>) -> usize {
    // Debezium writes it as JSON.
    let id = header(message, "id").trim_matches('"');
    usize::from_str_radix(&id[id.len() - 12..], 16).unwrap()
}

fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> &'a str {
    let headers = message.headers().expect("headers");
    let header = headers.iter().find(|header| header.key == name).unwrap_or_else(|| panic!("no {name}"));
    std::str::from_utf8(header.value.expect("a value")).unwrap()
}

#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) missing: u64,
    pub(crate) repeated: u64,
    /// Not greater than the position before it in its partition or key, and no repeat.
    pub(crate) reordered: u64,
}

impl Verdict {
    /// For a run in which nothing went wrong.
    pub(crate) fn assert_flawless(&self) {
        let good = self.missing == 0 && self.repeated == 0 && self.reordered == 0;
        assert!(good, "the topic is not what was committed: {self:?}");
    }
}

/// What is in order: a partition, or a key.
type Lane = fn(&BorrowedMessage<'_>) -> Vec<u8>;

/// What grows from one record of a lane to the next.
pub(crate) type Position = fn(&BorrowedMessage<'_>) -> (u64, u64);

/// Of a record of the relay: where in the log it was committed.
pub(crate) fn position(message: &BorrowedMessage<'_>) -> (u64, u64) {
    let (high, low) = header(message, "walpost.lsn").split_once('/').unwrap();
    let part = |text: &str| u64::from_str_radix(text, 16).unwrap();
    (part(high) << 32 | part(low), header(message, "walpost.index").parse().unwrap())
}

/// For records without a position: one writer filled the backlog, in the order of the numbers.
pub(crate) fn written(message: &BorrowedMessage<'_>) -> (u64, u64) {
    (0, row_number(message) as u64 + 1)
}

struct Judge {
    seen: Vec<bool>,
    lane: Lane,
    /// Of each lane, the greatest position so far.
    last: HashMap<Vec<u8>, (u64, u64)>,
    position: Position,
    verdict: Verdict,
}

impl Judge {
    fn new(rows: u32, position: Position, lane: Lane) -> Judge {
        let verdict = Verdict { missing: rows.into(), ..Verdict::default() };
        Judge { seen: vec![false; rows as usize], lane, last: HashMap::new(), position, verdict }
    }

    fn hear(&mut self, message: &BorrowedMessage<'_>) {
        let (position, number) = ((self.position)(message), row_number(message));
        let payload = message.payload().expect("a payload");
        assert!(payload.starts_with(payload_start(number).as_bytes()), "row {number} has another payload");
        if std::mem::replace(&mut self.seen[number], true) {
            self.verdict.repeated += 1;
            return;
        }
        self.verdict.missing -= 1;
        let last = self.last.entry((self.lane)(message)).or_default();
        if position <= *last {
            self.verdict.reordered += 1;
        }
        *last = position;
    }
}
