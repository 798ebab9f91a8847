//! What is counted since the process began, and what the server last told beside the stream. Metrics read it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::OutboxError;
use crate::lsn::Lsn;

/// A number that only grows, as long as the process lives.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts so many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that is what it is now.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// It is that now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// What it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters. Each is written once a batch or less, never for a single row.
#[derive(Debug, Default)]
pub struct Tally {
    /// How often both ends were open and streaming began.
    pub streams: Counter,
    /// What ended a stream, or kept one from beginning: [`FAILURES`], in their order.
    failures: [Counter; FAILURES.len()],
    /// How often a record was refused, by the broker or before it was sent. The same one counts again with each try.
    pub refused: Counter,
    /// Dead letters that were sent after all.
    pub replayed: Counter,
    /// Bytes that records in flight take in memory.
    pub in_flight_bytes: Level,
    /// Rows that are published, and not yet marked or deleted.
    pub unwritten: Level,
    /// Rows that were marked or deleted.
    pub written_back: Counter,
    /// Spans that a collector has taken.
    pub spans_exported: Counter,
    /// Spans that were dropped: the collector did not take them, or there was no room to wait.
    pub spans_dropped: Counter,
}

/// The kinds of failures, by what helps.
pub const FAILURES: [&str; 4] = ["transient", "message", "definite", "usage"];

impl Tally {
    /// A stream has ended with that, or could not begin. That another relay holds the slot is no failure.
    pub fn failed(&self, error: &OutboxError) {
        let kind = match error {
            _ if error.is_slot_in_use() => return,
            _ if error.is_transient() => 0,
            _ if error.is_message() => 1,
            _ if error.is_usage() => 3,
            _ => 2,
        };
        self.failures[kind].add(1);
    }

    /// How often a stream has ended so, by the name of the kind.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FAILURES.into_iter().zip(&self.failures).map(|(name, counter)| (name, counter.get()))
    }
}

/// What the server keeps for the slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSight {
    /// Where the server's log ends.
    pub current: Lsn,
    /// From where on it is kept for the slot.
    pub restart: Option<Lsn>,
    /// What the slot has confirmed.
    pub confirmed: Option<Lsn>,
    /// How many more bytes may be written until the slot is lost; `None` if there is no limit.
    pub safe_bytes: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost` (PostgreSQL documentation, "pg_replication_slots").
    pub wal_status: Option<String>,
    /// Somebody reads it.
    pub is_active: bool,
}

impl SlotSight {
    /// How much log the server keeps for the slot, in bytes.
    #[must_use]
    pub fn retained_bytes(&self) -> Option<u64> {
        self.restart.map(|lsn| self.current.0.saturating_sub(lsn.0))
    }

    /// How much of the log lies behind what the slot has confirmed, in bytes.
    #[must_use]
    pub fn lag_bytes(&self) -> Option<u64> {
        self.confirmed.map(|lsn| self.current.0.saturating_sub(lsn.0))
    }

    /// Whether the slot needs a person: the next checkpoint may take it, or little room is left.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        let room = self.safe_bytes.zip(self.retained_bytes());
        self.wal_status.as_deref() == Some("unreserved")
            || room.is_some_and(|(safe, retained)| is_near_its_end(signed(safe), signed(retained)))
    }

    /// How time is gained while the cause is mended.
    pub(crate) fn more_room(&self) -> String {
        match self.safe_bytes.zip(self.retained_bytes()) {
            Some((safe, retained)) => {
                format!("to gain time, if the disk has room: {}", room_sql(signed(safe), signed(retained)))
            }
            None => "to gain time, raise max_slot_wal_keep_size if the disk has room".to_owned(),
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whether a slot needs a person: a quarter of what may be kept for it is left, as in the alert `WalpostSlotWalNearLimit`.
pub(crate) fn is_near_its_end(safe: i64, retained: i64) -> bool {
    safe < safe.saturating_add(retained) / 4
}

/// What gives a slot twice the room that it has now, and at least a gigabyte more; for whoever knows that the disk has it.
pub(crate) fn room_sql(safe: i64, retained: i64) -> String {
    /// The server counts in units of 1024 · 1024.
    const MEGABYTE: i64 = 1 << 20;
    // Beyond the limit, what is kept counts: less would not save it.
    let now = safe.max(0).saturating_add(retained);
    let wanted = now.saturating_mul(2).max(now.saturating_add(1 << 30));
    let megabytes = wanted / MEGABYTE + i64::from(wanted % MEGABYTE > 0);
    format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{megabytes}MB'; SELECT pg_reload_conf();")
}

/// A number of bytes in the unit that keeps it short.
pub(crate) fn size(bytes: i64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

/// What waits in the tables beside the outbox. Unknown where there is no such table, or it may not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeskSight {
    /// Dead letters that are neither sent nor discarded.
    pub dead_letters: Option<u64>,
    /// Rows that are sent later.
    pub held: Option<u64>,
    /// When the first of them is due, in seconds since 1970.
    pub next_due: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_a_quarter_of_what_may_be_kept() {
        let sight = |safe_bytes, retained, status: &str| SlotSight {
            current: Lsn(1000 + retained),
            restart: Some(Lsn(1000)),
            safe_bytes,
            wal_status: Some(status.to_owned()),
            ..SlotSight::default()
        };
        for (safe, retained, status, expected) in [
            (Some(25), 75, "extended", false),
            (Some(24), 76, "extended", true),
            (Some(0), 100, "unreserved", true),
            (None, u64::from(u32::MAX), "extended", false),
            (None, 0, "unreserved", true),
            (Some(u64::MAX), 1, "reserved", false),
        ] {
            assert_eq!(sight(safe, retained, status).is_filling(), expected, "{safe:?} {retained} {status}");
        }
        assert!(!SlotSight { safe_bytes: Some(0), ..SlotSight::default() }.is_filling(), "nothing is kept");
    }

    #[test]
    fn more_room_is_twice_as_much_and_at_least_a_gigabyte_more() {
        const MB: i64 = 1 << 20;
        for (safe, retained, expected) in [
            (12 * MB, 100 * MB, 1136),
            (512 * MB, 1536 * MB, 4096),
            (0, 2048 * MB + 1, 4097),
            (-100 * MB, 4196 * MB, 8392),
            (-10_240 * MB, 12_288 * MB, 24_576),
            (1, 0, 1025),
            (i64::MAX, i64::MAX, i64::MAX / MB + 1),
        ] {
            let sql =
                format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{expected}MB'; SELECT pg_reload_conf();");
            assert_eq!(room_sql(safe, retained), sql, "{safe} {retained}");
        }
        let told = SlotSight::default().more_room();
        assert!(
            told.contains("max_slot_wal_keep_size") && !told.contains("ALTER"),
            "no limit is known: {told}"
        );
    }

    #[test]
    fn failures_are_counted_by_what_helps_and_standing_by_is_none() {
        let tally = Tally::default();
        tally.failed(&OutboxError::transient("away"));
        tally.failed(&OutboxError::slot_in_use("held"));
        tally.failed(&OutboxError::message("too large", "less"));
        tally.failed(&OutboxError::definite("gone", "mend"));
        tally.failed(&OutboxError::definite("gone", "mend"));
        tally.failed(&OutboxError::usage("no", "yes"));
        let counted: Vec<_> = tally.failures().collect();
        assert_eq!(counted, [("transient", 1), ("message", 1), ("definite", 2), ("usage", 1)]);
    }
}
