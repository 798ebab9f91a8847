//! A consumer as any service would have one: reads the topic and enters what arrives into the ledger.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;
use uuid::Uuid;

use super::shop::{Ledger, SharedLedger};
use crate::error::OutboxError;
use crate::router;

/// Reads until it is dropped.
pub(super) struct Consumer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the shop puts into a payload.
#[derive(Deserialize)]
struct Event {
    event: u64,
    customer: String,
}

impl Consumer {
    /// Starts to read all partitions of the topic from the beginning.
    pub(super) fn start(
        brokers: &str,
        topic: &str,
        partitions: i32,
        ledger: SharedLedger,
    ) -> Result<Consumer, OutboxError> {
        let failed = |error: rdkafka::error::KafkaError| {
            OutboxError::connection("the demo's consumer can't read", error)
        };
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "walpost-demo");
        config.set("enable.auto.commit", "false").set("fetch.wait.max.ms", "5");
        let consumer: BaseConsumer = config.create().map_err(failed)?;
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions {
            all.add_partition_offset(topic, partition, Offset::Beginning).map_err(failed)?;
        }
        consumer.assign(&all).map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || read(&consumer, &ledger, &stopped));
        Ok(Consumer { stop, thread: Some(thread) })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(consumer: &BaseConsumer, ledger: &SharedLedger, stopped: &AtomicBool) {
    let mut seen = HashSet::new();
    let mut newest = HashMap::new();
    while !stopped.load(Relaxed) {
        if let Some(Ok(record)) = consumer.poll(Duration::from_millis(20)) {
            enter(&record, &mut ledger.open(), &mut seen, &mut newest);
        }
    }
}

fn header<'a>(record: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a str> {
    let found = record.headers()?.iter().find(|header| header.key == name)?;
    std::str::from_utf8(found.value?).ok()
}

/// Every record either settles a committed event, or is counted for what it should not be.
fn enter(
    record: &BorrowedMessage<'_>,
    ledger: &mut Ledger,
    seen: &mut HashSet<Uuid>,
    newest: &mut HashMap<i32, u64>,
) {
    let id = header(record, router::ID).and_then(|id| id.parse::<Uuid>().ok());
    let event = record.payload().and_then(|payload| serde_json::from_slice::<Event>(payload).ok());
    let (Some(id), Some(event)) = (id, event) else {
        ledger.invented += 1;
        return;
    };
    if !seen.insert(id) {
        ledger.repeated += 1;
        return;
    }
    let Some(committed) = ledger.waiting.remove(&id) else {
        ledger.invented += 1;
        return;
    };
    // The shop numbers its events as it commits them, so within a partition the numbers must grow.
    let newest = newest.entry(record.partition()).or_default();
    if event.event < *newest {
        ledger.out_of_order += 1;
    }
    *newest = event.event;
    let latency = committed.elapsed();
    ledger.arrived += 1;
    ledger.latencies.push(latency);
    ledger.last.push(format!(
        "{:<12} {:<12} {}[{}]@{:<6} {:>7.1} ms",
        header(record, router::EVENT_TYPE).unwrap_or_default(),
        event.customer,
        record.topic(),
        record.partition(),
        record.offset(),
        latency.as_secs_f64() * 1000.0
    ));
    let excess = ledger.last.len().saturating_sub(super::board::ARRIVALS);
    ledger.last.drain(..excess);
}
