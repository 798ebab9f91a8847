//! The broker's side of the road: records out, receipts back.

use std::fmt::Write as _;
use std::future::Future;

use crate::error::OutboxError;

/// The number of a record on its way, given out in the order of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What goes to Kafka, borrowed from the row that it was made of.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// A partition chosen by the row; `None` leaves the choice to the partitioner.
    pub partition: Option<i32>,
    /// `None` is a null key: any partition will do.
    pub key: Option<&'a [u8]>,
    /// Records without a key that share this number go to one partition, also when they are sent again.
    pub spread: u64,
    /// `None` is a null value: a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970-01-01 UTC; `None` lets the broker's client choose the present.
    pub timestamp: Option<i64>,
    /// In the order in which consumers see them.
    pub headers: &'a Headers,
}

/// Record headers in one buffer that is used again for every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    text: Vec<u8>,
    /// End of each name and, unless the value is null, end of its value, both in `text`.
    ends: Vec<(usize, Option<usize>)>,
}

impl Headers {
    /// Forgets all headers and keeps the room they took.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// Adds a header; `None` is a null value, which differs from an empty one.
    pub fn push(&mut self, name: &str, value: Option<&[u8]>) {
        self.text.extend_from_slice(name.as_bytes());
        let name_end = self.text.len();
        let value_end = value.map(|value| {
            self.text.extend_from_slice(value);
            self.text.len()
        });
        self.ends.push((name_end, value_end));
    }

    /// Adds a header whose value is the text of `value`.
    pub fn push_display(&mut self, name: &str, value: impl std::fmt::Display) {
        self.text.extend_from_slice(name.as_bytes());
        let name_end = self.text.len();
        let mut sink = Utf8Sink(&mut self.text);
        // The sink accepts everything; a Display that fails by itself leaves a shorter value.
        let _ = write!(sink, "{value}");
        self.ends.push((name_end, Some(self.text.len())));
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let name = std::str::from_utf8(&self.text[start..name_end]).unwrap_or_default();
            start = value_end.unwrap_or(name_end);
            (name, value_end.map(|end| &self.text[name_end..end]))
        })
    }

    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

struct Utf8Sink<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Utf8Sink<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The publisher's answer to an offered record. Taken is not durable: only a [`Receipt`] says that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Offer {
    /// The publisher owns the record now and will send one receipt for its ticket.
    Taken,
    /// No room: the caller keeps the record and offers the very same one first after the next receipt.
    Full,
}

/// What became of one record.
#[derive(Debug)]
pub struct Receipt {
    /// The ticket under which the record was published.
    pub ticket: Ticket,
    /// `Ok` when every replica that `acks=all` asks for has the record.
    pub result: Result<(), OutboxError>,
}

/// Where records go.
///
/// An implementation keeps the order of records within a partition, and after one failed record
/// lets no later one of the same partition through.
pub trait OutboxPublisher: Send {
    /// Offers a record without waiting.
    ///
    /// # Errors
    /// The record was refused on the spot (too large, no such topic), in which case it was not sent, and it is for
    /// the caller to decide whether others follow; or an earlier one has failed, and nothing follows.
    fn publish(&mut self, ticket: Ticket, record: &Record<'_>) -> Result<Offer, OutboxError>;

    /// The first record, in the order of publishing, whose receipt has not been handed over; `None` when there is none.
    fn oldest(&self) -> Option<Ticket>;

    /// Waits for at least one receipt and appends all that have come.
    ///
    /// Cancel-safe: a receipt is either appended or still waiting.
    ///
    /// # Errors
    /// The publisher can't go on, and no further receipt will come.
    fn receipts(&mut self, into: &mut Vec<Receipt>) -> impl Future<Output = Result<(), OutboxError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_order_null_and_empty() {
        let mut headers = Headers::default();
        headers.push("a", Some(b"1"));
        headers.push("null", None);
        headers.push("empty", Some(b""));
        headers.push_display("n", 42);
        let seen: Vec<_> = headers.iter().collect();
        let expected: Vec<(&str, Option<&[u8]>)> =
            vec![("a", Some(b"1")), ("null", None), ("empty", Some(b"")), ("n", Some(b"42"))];
        assert_eq!(seen, expected);
        headers.clear();
        assert!(headers.is_empty() && headers.iter().next().is_none());
    }
}
