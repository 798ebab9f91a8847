//! From librdkafka's delivery reports to what became of a record.
//!
//! Reports arrive on the poll thread in batches, but `BaseProducer::poll` neither says where a batch ends nor
//! returns before its timeout. So each report goes into the inbox at once, under a lock that nobody else
//! holds for longer than a swap, and only the one that finds the inbox empty wakes the reader; by
//! the time the reader runs, the rest of the batch is there as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use crate::error::OutboxError;

/// What became of the record with that number in the window.
pub(super) type Report = (usize, Result<Place, OutboxError>);

/// Where the broker has put a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// Reports on their way from the poll thread to the caller.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    filled: Notify,
    failed: AtomicBool,
    renewed: OnceLock<&'static str>,
}

#[derive(Default)]
struct State {
    reports: Vec<Report>,
    /// Records that were dropped because another one failed, until that one is reported.
    victims: Vec<Report>,
    /// A turn has gone by since the first of them.
    waited: bool,
    /// The poll thread is gone.
    closed: bool,
}

impl Inbox {
    /// Adds the report of a record that every replica has.
    pub(super) fn delivered(&self, number: usize, place: Place) {
        let mut state = self.lock();
        state.reports.push((number, Ok(place)));
        let was_empty = state.reports.len() == 1;
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Adds the report of a record that failed; true if it is the first.
    ///
    /// librdkafka may report the records that it drops because of a failure before the one that failed.
    /// As that one tells what is wrong, a `victim` waits for it, but two turns at most.
    pub(super) fn failed(&self, number: usize, error: OutboxError, victim: bool) -> bool {
        // Before the report can be read, so that its reader can't publish past it.
        let first = !self.failed.swap(true, Ordering::AcqRel);
        let mut state = self.lock();
        if victim {
            state.victims.push((number, Err(error)));
        } else {
            state.reports.push((number, Err(error)));
            self.release(state);
        }
        first
    }

    /// To be called now and then.
    pub(super) fn turn(&self) {
        let mut state = self.lock();
        if state.waited {
            self.release(state);
        } else {
            state.waited = !state.victims.is_empty();
        }
    }

    fn release(&self, mut guard: MutexGuard<'_, State>) {
        let state = &mut *guard;
        state.reports.append(&mut state.victims);
        state.waited = false;
        drop(guard);
        self.filled.notify_one();
    }

    /// Whether any record has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Lets nothing pass any more, as after a failure.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Another producer has to be made, and why.
    pub(super) fn renew(&self, why: &'static str) {
        // The first reason stays.
        let _ = self.renewed.set(why);
        self.close();
    }

    /// Why another producer has to be made, if it has.
    pub(super) fn renewed(&self) -> Option<&'static str> {
        self.renewed.get().copied()
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Waits until there is a report and swaps all into `into`, which must be empty; false when none will
    /// ever come.
    ///
    /// Cancel-safe: nothing is taken before the last await is over.
    pub(super) async fn take(&self, into: &mut Vec<Report>) -> bool {
        loop {
            {
                let mut state = self.lock();
                if !state.reports.is_empty() {
                    std::mem::swap(&mut state.reports, into);
                    return true;
                }
                if state.closed {
                    return false;
                }
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a record was dropped only because the producer had to stop.
pub(super) fn is_victim(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Fatal, PurgeInflight, PurgeQueue};
    matches!(code, PurgeQueue | PurgeInflight | Fatal)
}

/// The error of a record that was not delivered.
///
/// `fatal` is what stopped the whole producer, if anything did; the code of a victim says nothing of it.
pub(super) fn failure(
    topic: &str,
    code: RDKafkaErrorCode,
    fatal: Option<(RDKafkaErrorCode, String)>,
) -> OutboxError {
    let during = format!("publishing to topic {topic}");
    match fatal.filter(|_| is_victim(code)) {
        Some((fatal, why)) => OutboxError::broker(&during, fatal as i32, why),
        None => OutboxError::broker(&during, code as i32, code).of_topic(topic),
    }
}

/// The error of a record that may have arrived, but after one that has not.
pub(super) fn overtaken() -> OutboxError {
    OutboxError::transient("an earlier record failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place { partition: 0, offset: 0 };

    #[test]
    fn dropped_records_carry_the_reason_of_the_stop() {
        let why = || "Cluster authorization failed".to_owned();
        for (code, fatal, transient, text) in [
            (
                RDKafkaErrorCode::PurgeQueue,
                Some((RDKafkaErrorCode::GaplessGuarantee, why())),
                true,
                "Cluster",
            ),
            (
                RDKafkaErrorCode::Fatal,
                Some((RDKafkaErrorCode::ClusterAuthorizationFailed, why())),
                false,
                "Cluster",
            ),
            (RDKafkaErrorCode::PurgeInflight, None, true, "Purge"),
            (
                RDKafkaErrorCode::MessageSizeTooLarge,
                Some((RDKafkaErrorCode::GaplessGuarantee, why())),
                false,
                "large",
            ),
        ] {
            let error = failure("t", code, fatal);
            assert_eq!(error.is_transient(), transient, "{code}");
            assert!(error.chain().contains(text), "{}", error.chain());
        }
    }

    fn error() -> OutboxError {
        OutboxError::transient("no")
    }

    async fn taken(inbox: &Inbox) -> Vec<usize> {
        let mut reports = Vec::new();
        assert!(inbox.take(&mut reports).await);
        reports.into_iter().map(|(number, _)| number).collect()
    }

    #[tokio::test]
    async fn reports_come_in_order_and_the_end_is_told_last() {
        let inbox = Inbox::default();
        inbox.delivered(0, HERE);
        assert!(!inbox.has_failed());
        assert!(inbox.failed(1, error(), false) && inbox.has_failed());
        assert!(!inbox.failed(2, error(), false), "only one failure is the first");
        inbox.close();
        assert_eq!(taken(&inbox).await, [0, 1, 2]);
        assert!(!inbox.take(&mut Vec::new()).await);
    }

    #[tokio::test]
    async fn victims_wait_for_the_culprit_but_not_for_ever() {
        let inbox = Inbox::default();
        assert!(inbox.failed(5, error(), true) && inbox.has_failed());
        inbox.delivered(3, HERE);
        inbox.turn();
        assert_eq!(taken(&inbox).await, [3]);
        inbox.failed(4, error(), false);
        assert_eq!(taken(&inbox).await, [4, 5]);

        inbox.turn();
        inbox.failed(6, error(), true);
        inbox.turn();
        inbox.failed(7, error(), true);
        inbox.turn();
        assert_eq!(taken(&inbox).await, [6, 7]);
    }

    #[tokio::test]
    async fn an_abandoned_wait_loses_nothing() {
        let inbox = Inbox::default();
        let mut reports = Vec::new();
        for number in 0..3 {
            tokio::select! {
                biased;
                _ = inbox.take(&mut reports) => panic!("there is nothing to take"),
                () = std::future::ready(()) => {}
            }
            inbox.delivered(number, HERE);
            assert_eq!(taken(&inbox).await, [number]);
        }
    }
}
