//! The first difference, brought into one shape for people and programs.

use crate::comparison::{Content, Count, Difference, Part, Place, Side, Stored, Values, parts};

/// The first difference between the two sides.
#[derive(Debug)]
pub(super) enum Found {
    /// A topic has no counterpart, which would be called so, nor have so many less one others.
    Unpaired { on: Side, topic: String, wanted: String, count: usize },
    /// Two topics have not as many partitions.
    Partitions { topics: [String; 2], left: usize, right: usize },
    /// Records that stand at one place, or should.
    Record { topics: [String; 2], of: Of, difference: Difference },
    /// How many records only one side has, and one of each.
    Leftover { topics: [String; 2], left: Option<(u64, Stored)>, right: Option<(u64, Stored)> },
}

/// Within what records are numbered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Partition(usize),
    Key,
}

/// What is told of a difference.
#[derive(Debug)]
pub(super) struct Account {
    /// One word for programs.
    pub(super) kind: &'static str,
    pub(super) headline: String,
    pub(super) left: Option<Spot>,
    pub(super) right: Option<Spot>,
    pub(super) parts: Vec<Part>,
    pub(super) advice: &'static str,
}

/// A topic, and a record in it.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) topic: String,
    pub(super) record: Option<(Place, Content)>,
}

impl Spot {
    fn of(topic: &str, record: Option<Stored>) -> Option<Spot> {
        let record = record.map(|stored| (stored.place, stored.content));
        Some(Spot { topic: topic.to_owned(), record })
    }
}

/// A number and what it counts.
pub(super) fn count(number: impl Into<u128>, one: &str) -> String {
    let number = number.into();
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

impl Found {
    pub(super) fn account(self) -> Account {
        match self {
            Found::Unpaired { on, topic, wanted, count } => unpaired(on, topic, &wanted, count),
            Found::Partitions { topics: [one, two], left, right } => Account {
                kind: "partitions",
                headline: format!(
                    "topic {one} has {}, topic {two} has {}",
                    count(left as u64, "partition"),
                    count(right as u64, "partition")
                ),
                left: Spot::of(&one, None),
                right: Spot::of(&two, None),
                parts: Vec::new(),
                advice: "with --by-key the records of each key are compared, in whichever partition they are; with \
                         --unordered all records",
            },
            Found::Record { topics, of, difference } => record(topics, of, difference),
            Found::Leftover { topics, left, right } => leftover(topics, left, right),
        }
    }
}

fn unpaired(on: Side, topic: String, wanted: &str, others: usize) -> Account {
    let mut headline =
        format!("topic {topic} has no counterpart: there is no {wanted} on the {} side", on.name());
    if others > 1 {
        headline.push_str(&format!(" (and {} more like it)", others - 1));
    }
    let here = Some(Spot { topic, record: None });
    let (left, right) = if on == Side::Right { (here, None) } else { (None, here) };
    let advice = "create the topic, or choose another prefix";
    Account { kind: "topic", headline, left, right, parts: Vec::new(), advice }
}

fn record([one, two]: [String; 2], of: Of, difference: Difference) -> Account {
    let within = match of {
        Of::Partition(number) => format!("partition {number}"),
        Of::Key => "its key".to_owned(),
    };
    match difference {
        Difference::Unequal { number, left, right, parts } => Account {
            kind: "record",
            headline: format!("record {number} of {within} is not the same"),
            left: Spot::of(&one, Some(*left)),
            right: Spot::of(&two, Some(*right)),
            advice: advice(&parts),
            parts,
        },
        Difference::Missing { on, number, count, first } => {
            let more = match count {
                Count::Exactly(1) => String::new(),
                Count::Exactly(count) => format!(", and {} more", count - 1),
                Count::AtLeast(count) => format!(", and {} more or yet more", count - 1),
            };
            let (left, right) = if on == Side::Right { (Some(*first), None) } else { (None, Some(*first)) };
            Account {
                kind: "missing",
                headline: format!("record {number} of {within} is missing on the {} side{more}", on.name()),
                left: Spot::of(&one, left),
                right: Spot::of(&two, right),
                parts: Vec::new(),
                advice: MISSING,
            }
        }
    }
}

fn leftover([one, two]: [String; 2], left: Option<(u64, Stored)>, right: Option<(u64, Stored)>) -> Account {
    let many = |side: &Option<(u64, Stored)>| side.as_ref().map_or(0, |(count, _)| *count);
    let headline = format!(
        "{} only on the left, {} only on the right",
        count(many(&left), "record"),
        count(many(&right), "record")
    );
    let [left, right] = [left, right].map(|side| side.map(|(_, record)| record));
    // One event that was changed, or two that have nothing to do with each other.
    let parts = match (&left, &right) {
        (Some(here), Some(there)) if here.content.identity() == there.content.identity() => {
            parts(&here.content, &there.content)
        }
        _ => Vec::new(),
    };
    let advice = if parts.is_empty() { MISSING } else { advice(&parts) };
    Account {
        kind: "unmatched",
        headline,
        left: Spot::of(&one, left),
        right: Spot::of(&two, right),
        parts,
        advice,
    }
}

const MISSING: &str = "what a relay has sent again is passed over with --ignore-repeats; if a relay is not done yet, wait \
                       until it is, then run this again";

fn advice(parts: &[Part]) -> &'static str {
    let of_headers = |part: &Part| {
        matches!(part, Part::Header { .. } | Part::HeaderMissing { .. } | Part::HeaderOrder { .. })
    };
    if parts.iter().all(of_headers) {
        "a header that need not be the same is passed over with --ignore-header NAME; of Walpost, walpost.*"
    } else {
        "--show prints what stands around the first byte that differs; the offsets lead to the whole records"
    }
}

/// The bytes of a part, where it is one of bytes.
pub(super) fn values(part: &Part) -> Option<&Values> {
    match part {
        Part::Key(values) | Part::Value(values) | Part::Header { values, .. } => Some(values),
        Part::HeaderMissing { .. } | Part::HeaderOrder { .. } | Part::Timestamp { .. } => None,
    }
}

/// How many bytes an excerpt has, and how many of them stand before the one that it is about.
const EXCERPT: (usize, usize) = (80, 30);

/// Some bytes around one of them, as letters where they are ASCII.
pub(super) fn excerpt(bytes: &[u8], around: usize) -> String {
    let start = around.saturating_sub(EXCERPT.1).min(bytes.len());
    let end = (start + EXCERPT.0).min(bytes.len());
    let mut text = if start > 0 { "…".to_owned() } else { String::new() };
    for byte in &bytes[start..end] {
        match byte {
            // They would be readable without, and JSON is full of them.
            b'"' | b'\'' => text.push(char::from(*byte)),
            _ => text.extend(byte.escape_ascii().map(char::from)),
        }
    }
    if end < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_show_what_stands_around() {
        let long: Vec<u8> = (0..200).map(|n| b'a' + (n % 26)).collect();
        let text = String::from_utf8(long.clone()).unwrap();
        for (bytes, around, expected) in [
            (&b"{\"a\":'\\'}\n\xff"[..], 3, "{\"a\":'\\\\'}\\n\\xff".to_owned()),
            (b"", 0, String::new()),
            (b"ab", 2, "ab".to_owned()),
            (&long, 0, format!("{}…", &text[..80])),
            (&long, 100, format!("…{}…", &text[70..150])),
            (&long, 200, format!("…{}", &text[170..])),
            (b"ab", 90, "…".to_owned()),
        ] {
            assert_eq!(excerpt(bytes, around), expected);
        }
    }

    #[test]
    fn the_headline_says_it_all() {
        let topics = || ["a".to_owned(), "b".to_owned()];
        let first = || Box::new(Stored::default());
        let missing = |on, count| Found::Record {
            topics: topics(),
            of: Of::Partition(2),
            difference: Difference::Missing { on, number: 7, count, first: first() },
        };
        for (found, kind, expected) in [
            (
                missing(Side::Right, Count::Exactly(1)),
                "missing",
                "record 7 of partition 2 is missing on the right side",
            ),
            (
                missing(Side::Left, Count::Exactly(3)),
                "missing",
                "record 7 of partition 2 is missing on the left side, and 2 more",
            ),
            (
                missing(Side::Left, Count::AtLeast(1000)),
                "missing",
                "record 7 of partition 2 is missing on the left side, and 999 more or yet more",
            ),
            (
                Found::Partitions { topics: topics(), left: 1, right: 3 },
                "partitions",
                "topic a has 1 partition, topic b has 3 partitions",
            ),
            (
                Found::Unpaired { on: Side::Left, topic: "b.x".into(), wanted: "a.x".into(), count: 3 },
                "topic",
                "topic b.x has no counterpart: there is no a.x on the left side (and 2 more like it)",
            ),
            (
                Found::Leftover { topics: topics(), left: None, right: Some((2, *first())) },
                "unmatched",
                "0 records only on the left, 2 records only on the right",
            ),
        ] {
            let account = found.account();
            assert_eq!((account.kind, account.headline.as_str()), (kind, expected));
        }
    }
}
