//! How long records take from the commit of their transaction to the broker's acknowledgement.
//!
//! Counted batch by batch, since the loop does nothing for a single row that it can do for many: all records that were
//! handed over together have the latency of the oldest of them. Receipts are taken in the order of handing over;
//! between partitions that may be another one by some milliseconds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The upper bounds of the buckets, in seconds. The last one of a histogram has no bound.
pub const BUCKETS: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

/// Records under way, and a histogram of those that arrived.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Commit in microseconds since 1970 and number of records of each batch without all its receipts. Never more
    /// entries than records in flight.
    batches: Mutex<VecDeque<(u64, u64)>>,
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram {
    /// How many fell into each bucket, and last those above all bounds.
    pub counts: [u64; BUCKETS.len() + 1],
    /// The sum of all, in seconds.
    pub sum: f64,
}

impl Latency {
    /// What is under way is forgotten: it will be sent again.
    pub(super) fn forget(&self) {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// So many records were handed over, the oldest of them committed at that time.
    pub(super) fn sent(&self, committed_us: u64, records: u64) {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).push_back((committed_us, records));
    }

    /// So many are acknowledged.
    pub(super) fn acknowledged(&self, mut records: u64, now_us: u64) {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        while records > 0
            && let Some((committed_us, left)) = batches.front_mut()
        {
            let taken = records.min(*left);
            // The server's clock may be ahead of ours.
            self.observe(now_us.saturating_sub(*committed_us), taken);
            (records, *left) = (records - taken, *left - taken);
            if *left == 0 {
                batches.pop_front();
            }
        }
    }

    fn observe(&self, us: u64, records: u64) {
        #[allow(clippy::cast_precision_loss, reason = "a latency of centuries may lose a microsecond")]
        let seconds = us as f64 / 1e6;
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(records, Relaxed);
        self.sum_us.fetch_add(us.saturating_mul(records), Relaxed);
    }

    pub(super) fn histogram(&self) -> Histogram {
        let counts = std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "a sum of centuries may lose a microsecond")]
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        Histogram { counts, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_counts_with_the_age_of_its_batch() {
        let latency = Latency::default();
        latency.sent(1_000_000, 3);
        latency.sent(2_000_000, 2);
        latency.acknowledged(1, 1_005_000);
        latency.acknowledged(3, 2_500_000);
        latency.acknowledged(9, 1_000_000);
        let Histogram { counts, sum } = latency.histogram();
        let bucket = |bound| counts[BUCKETS.iter().position(|it| *it == bound).unwrap()];
        assert_eq!((bucket(0.005), bucket(2.5), bucket(0.5)), (1 + 1, 2, 1), "{counts:?}");
        assert!((sum - (0.005 + 3.0 + 0.5)).abs() < 1e-9, "{sum}");
        latency.sent(0, 1);
        latency.acknowledged(1, 8_000_000_000);
        assert_eq!(latency.histogram().counts[BUCKETS.len()], 1);
        latency.sent(0, 1);
        latency.forget();
        latency.acknowledged(1, 0);
        assert_eq!(latency.histogram().counts.iter().sum::<u64>(), 6);
    }
}
