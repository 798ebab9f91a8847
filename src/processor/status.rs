//! When the next status is due.

use std::time::Duration;

use tokio::time::Instant;

use super::Pace;
use crate::lsn::Lsn;

/// The clock of statuses.
#[derive(Debug)]
pub(super) struct StatusClock {
    interval: Duration,
    gap: Duration,
    last: Instant,
    wanted: bool,
    pub(super) sent: Lsn,
}

impl StatusClock {
    pub(super) fn new(pace: &Pace) -> Self {
        StatusClock {
            interval: pace.status_interval,
            gap: pace.status_gap,
            last: Instant::now(),
            wanted: false,
            sent: Lsn::ZERO,
        }
    }

    /// While the store is not read, a status is the only thing that notices the server's leave; so it goes out
    /// more often.
    pub(super) fn due(&self, unread: bool) -> Instant {
        let patience = if unread { self.interval.min(Duration::from_secs(1)) } else { self.interval };
        self.last + if self.wanted { self.gap } else { patience }
    }

    pub(super) fn is_due(&self) -> bool {
        self.wanted && Instant::now() >= self.due(false)
    }

    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// A confirmation that moves the slot is wanted promptly.
    pub(super) fn note(&mut self, confirmed: Lsn) {
        self.wanted |= confirmed > self.sent;
    }

    pub(super) fn sent(&mut self, confirmed: Lsn) {
        self.sent = confirmed;
        self.last = Instant::now();
        self.wanted = false;
    }
}
