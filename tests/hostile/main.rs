//! Bytes that nobody sends in good faith: the fuzz targets over their kept inputs and mutations of them, and servers
//! that lie over a real socket. Memory is counted.
// Helpers of tests may fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corpus;
mod mutate;
mod server;

use peak_alloc::PeakAlloc;
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One test at a time, from its first line to its last: the allocator counts for the whole process, also what a test
/// that is about to measure prepares.
static MEASURING: Mutex<()> = Mutex::const_new(());

/// Counts what is allocated from its beginning, or the last reset, on.
struct Measurement {
    before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Measurement {
    async fn begin() -> Self {
        let alone = MEASURING.lock().await;
        let mut measurement = Measurement { before: 0, _alone: alone };
        measurement.reset();
        measurement
    }

    fn reset(&mut self) {
        ALLOCATOR.reset_peak_usage();
        self.before = ALLOCATOR.current_usage();
    }

    /// The most bytes that were held at once, beyond those from before.
    fn peak(&self) -> usize {
        ALLOCATOR.peak_usage().saturating_sub(self.before)
    }
}
