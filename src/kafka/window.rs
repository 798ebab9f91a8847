//! What is in flight, and how much of it there may be.
//!
//! librdkafka's own bounds count payloads only, leave out keys, headers and its bookkeeping (`rkm_len` in
//! its `rd_kafka_curr_msgs_add`), and free room later than the receipt is seen. This window counts
//! all of it, and room is free the moment a receipt is handed over.

use std::collections::VecDeque;

use crate::publisher::{Record, Ticket};

/// librdkafka's structure for a message and the allocator's share, roughly.
const PER_RECORD: usize = 256;
/// The same for a header.
const PER_HEADER: usize = 64;

/// How much may be without a receipt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Number of records; 0 is no limit.
    pub(super) records: usize,
    /// Bytes that records take in memory. Requests under way add at most `batch.size` for each of
    /// `max.in.flight` per broker.
    pub(super) bytes: usize,
}

/// Records without a receipt, numbered in the order of publishing.
///
/// The numbers are the window's own, so that a receipt finds its record by subtraction whatever tickets
/// the caller gives out.
#[derive(Debug)]
pub(super) struct Window {
    limits: Limits,
    entries: VecDeque<Entry>,
    /// The number of the first entry.
    first: usize,
    records: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    /// Bytes in memory; 0 once its receipt has come while an earlier one is still due.
    bytes: usize,
}

impl Window {
    pub(super) fn new(limits: Limits) -> Self {
        Window { limits, entries: VecDeque::new(), first: 0, records: 0, bytes: 0 }
    }

    /// Whether a record of that size fits. An empty window takes any, or it would never go.
    pub(super) fn admits(&self, bytes: usize) -> bool {
        let Limits { records, bytes: most } = self.limits;
        self.records == 0 || ((records == 0 || self.records < records) && self.bytes + bytes <= most)
    }

    /// The number that the next record will get.
    pub(super) fn next(&self) -> usize {
        self.first.wrapping_add(self.entries.len())
    }

    /// Counts a record in.
    pub(super) fn push(&mut self, ticket: Ticket, bytes: usize) {
        self.entries.push_back(Entry { ticket, bytes });
        self.records += 1;
        self.bytes += bytes;
    }

    /// Counts a record out; `None` if that number is not in flight.
    pub(super) fn remove(&mut self, number: usize) -> Option<Ticket> {
        let entry = self.entries.get_mut(number.wrapping_sub(self.first)).filter(|entry| entry.bytes > 0)?;
        let ticket = entry.ticket;
        self.bytes -= std::mem::take(&mut entry.bytes);
        self.records -= 1;
        while self.entries.front().is_some_and(|entry| entry.bytes == 0) {
            self.entries.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        Some(ticket)
    }

    /// The first record that has no receipt.
    pub(super) fn oldest(&self) -> Option<Ticket> {
        self.entries.front().map(|entry| entry.ticket)
    }

    /// Bytes that records without a receipt take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }
}

/// What a record takes in memory while it is in flight, in bytes; never 0.
pub(super) fn footprint(record: &Record<'_>) -> usize {
    let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers = record.headers.iter().map(|(name, value)| PER_HEADER + name.len() + length(value));
    PER_RECORD + length(record.key) + length(record.value) + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_in_both_ways_and_freed_with_the_receipt() {
        let mut window = Window::new(Limits { records: 3, bytes: 1000 });
        assert!(window.admits(5000), "an empty window takes any record");
        window.push(Ticket(7), 400);
        assert!(window.admits(600) && !window.admits(601));
        window.push(Ticket(9), 100);
        window.push(Ticket(10), 100);
        assert!(!window.admits(1), "three records are in");
        assert_eq!(window.remove(1), Some(Ticket(9)));
        assert!(window.admits(500) && !window.admits(501));
        assert_eq!(window.oldest(), Some(Ticket(7)));
        assert_eq!(window.remove(1), None, "a second receipt changes nothing");
        assert_eq!(window.remove(0), Some(Ticket(7)));
        assert_eq!((window.first, window.next(), window.oldest()), (2, 3, Some(Ticket(10))));
        assert_eq!(window.remove(0), None);
        assert_eq!(window.remove(3), None);
        assert_eq!(window.remove(2), Some(Ticket(10)));
        assert!(window.is_empty() && window.bytes == 0 && window.entries.is_empty());
    }

    #[test]
    fn no_limit_on_records_still_bounds_bytes() {
        let mut window = Window::new(Limits { records: 0, bytes: 10 });
        (0..10).for_each(|n| window.push(Ticket(n), 1));
        assert!(!window.admits(1));
    }
}
