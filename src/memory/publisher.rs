//! A topic in memory, with scripted faults.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::error::OutboxError;
use crate::publisher::{Offer, OutboxPublisher, Receipt, Record, Ticket};

/// A record as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Name of the topic.
    pub topic: String,
    /// Key, or null.
    pub key: Option<Vec<u8>>,
    /// Value, or null.
    pub value: Option<Vec<u8>>,
    /// Names and values in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970-01-01 UTC.
    pub timestamp: Option<i64>,
}

/// What happens to one record instead of being stored and acknowledged at once.
#[derive(Debug)]
pub enum Fault {
    /// The record passes without a fault, so that a later one can be hit.
    Pass,
    /// It is refused on the spot.
    Refuse(OutboxError),
    /// It is not stored, and its receipt says so; nothing later is taken.
    Fail(OutboxError),
    /// It is stored, but the receipt says that it failed: the answer was lost.
    LoseAnswer(OutboxError),
    /// It is stored, and its receipt is held back until [`MemoryTopic::release`].
    Hold,
    /// It is stored, and its receipt comes this much later.
    Slow(Duration),
}

/// Publishes to memory. Clones publish to the same topic, each with its own receipts.
#[derive(Debug)]
pub struct MemoryPublisher {
    topic: MemoryTopic,
    pending: Vec<Pending>,
    failed: bool,
}

#[derive(Debug)]
struct Pending {
    ready: Ready,
    receipt: Option<Receipt>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ready {
    At(Instant),
    /// Once the topic has been released this many times.
    Release(u64),
}

/// What a [`MemoryPublisher`] has stored, seen from outside.
#[derive(Clone, Debug, Default)]
pub struct MemoryTopic {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Log {
    records: Vec<StoredRecord>,
    faults: VecDeque<Fault>,
    releases: u64,
    capacity: Option<usize>,
}

impl Default for MemoryPublisher {
    fn default() -> Self {
        MemoryTopic::default().publisher()
    }
}

impl MemoryPublisher {
    /// The topic that this publisher writes to.
    #[must_use]
    pub fn topic(&self) -> MemoryTopic {
        self.topic.clone()
    }
}

impl MemoryTopic {
    /// A new publisher to this topic, as after a reconnect.
    #[must_use]
    pub fn publisher(&self) -> MemoryPublisher {
        MemoryPublisher { topic: self.clone(), pending: Vec::new(), failed: false }
    }

    /// Everything stored, in order.
    #[must_use]
    pub fn records(&self) -> Vec<StoredRecord> {
        self.log().records.clone()
    }

    /// Queues a fault for one of the next records.
    pub fn script(&self, fault: Fault) {
        self.log().faults.push_back(fault);
    }

    /// Lets every receipt go that is held back now.
    pub fn release(&self) {
        self.log().releases += 1;
        self.shared.changed.notify_waiters();
    }

    /// From now on a publisher is full at this many records without a receipt.
    pub fn set_capacity(&self, records: usize) {
        self.log().capacity = Some(records);
    }

    /// Waits until at least `count` records are stored.
    pub async fn wait_for(&self, count: usize) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.log().records.len() >= count {
                return;
            }
            changed.await;
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutboxPublisher for MemoryPublisher {
    fn publish(&mut self, ticket: Ticket, record: &Record<'_>) -> Result<Offer, OutboxError> {
        if self.failed {
            return Err(OutboxError::transient("an earlier record failed"));
        }
        let mut log = self.topic.log();
        if log.capacity.is_some_and(|capacity| self.pending.len() >= capacity) {
            return Ok(Offer::Full);
        }
        let mut ready = Ready::At(Instant::now());
        let mut result = Ok(());
        let mut stored = true;
        match log.faults.pop_front().unwrap_or(Fault::Pass) {
            Fault::Pass => {}
            Fault::Refuse(error) => return Err(error),
            Fault::Fail(error) => {
                (result, stored, self.failed) = (Err(error), false, true);
            }
            Fault::LoseAnswer(error) => (result, self.failed) = (Err(error), true),
            Fault::Hold => ready = Ready::Release(log.releases + 1),
            Fault::Slow(delay) => ready = Ready::At(Instant::now() + delay),
        }
        if stored {
            log.records.push(StoredRecord::of(record));
        }
        drop(log);
        self.pending.push(Pending { ready, receipt: Some(Receipt { ticket, result }) });
        self.topic.shared.changed.notify_waiters();
        Ok(Offer::Taken)
    }

    fn oldest(&self) -> Option<Ticket> {
        self.pending.iter().find_map(|pending| pending.receipt.as_ref()).map(|receipt| receipt.ticket)
    }

    async fn receipts(&mut self, into: &mut Vec<Receipt>) -> Result<(), OutboxError> {
        loop {
            let changed = self.topic.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (now, releases, before) = (Instant::now(), self.topic.log().releases, into.len());
            self.pending.retain_mut(|pending| {
                let ready = match pending.ready {
                    Ready::At(at) => at <= now,
                    Ready::Release(release) => release <= releases,
                };
                into.extend(pending.receipt.take_if(|_| ready));
                !ready
            });
            if into.len() > before {
                return Ok(());
            }
            let next = self.pending.iter().filter_map(|pending| match pending.ready {
                Ready::At(at) => Some(at),
                Ready::Release(_) => None,
            });
            match next.min() {
                Some(at) => tokio::select! { () = sleep_until(at) => {}, () = changed => {} },
                None => changed.await,
            }
        }
    }
}

impl StoredRecord {
    fn of(record: &Record<'_>) -> Self {
        let owned = |bytes: &[u8]| bytes.to_vec();
        let headers = record.headers.iter().map(|(name, value)| (name.to_owned(), value.map(owned)));
        StoredRecord {
            topic: record.topic.to_owned(),
            key: record.key.map(owned),
            value: record.value.map(owned),
            headers: headers.collect(),
            timestamp: record.timestamp,
        }
    }

    /// The value of the last header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(own, _)| own == name).and_then(|(_, value)| value.as_deref())
    }
}
