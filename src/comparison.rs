//! Whether two topics hold the same records, and the first place where they do not. Pure: records come in, a verdict
//! goes out; who reads them and who prints it is no business of this room.
//!
//! ```text
//!   in order   left  a b c d      one partition of each side, step by step
//!              right a b X d      ^ the first pair that is not equal
//!   by key     the n-th record of a key on one side against the n-th of that key on the other
//!   unordered  as bags: what is left when all that is equal has cancelled out
//! ```

mod bag;
mod by_key;
mod fingerprint;
mod in_order;
mod part;
mod repeats;
mod sets;

use crate::error::OutboxError;
use crate::router;

pub(crate) use bag::{Leftover, unordered};
pub(crate) use by_key::{KeyVerdict, by_key};
pub(crate) use in_order::in_order;
pub(crate) use part::{Part, Values, parts};
pub(crate) use repeats::Repeats;
pub(crate) use sets::{Pairing, Pattern, pair};

/// A record as a topic holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

/// What is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Content {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
}

impl Content {
    /// The id that most relays put into a header.
    pub(crate) fn id(&self) -> Option<&[u8]> {
        self.headers.iter().find(|(name, _)| name == router::ID)?.1.as_deref()
    }

    /// What probably makes two records one and the same event: the id, else the key.
    pub(crate) fn identity(&self) -> Option<&[u8]> {
        self.id().or(self.key.as_deref())
    }
}

/// Where a record is in its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
        }
    }

    pub(crate) fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

/// What is left out of every comparison.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Names of headers; one that ends in `*` stands for all that begin so.
    pub(crate) ignored: Vec<String>,
    pub(crate) timestamps: bool,
}

impl Rules {
    /// Takes away what does not count.
    pub(crate) fn trim(&self, content: &mut Content) {
        content.headers.retain(|(name, _)| !self.ignores(name));
        if !self.timestamps {
            content.timestamp = None;
        }
    }

    fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|ignored| match ignored.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == ignored,
        })
    }
}

/// Records, one after the other.
pub(crate) trait Source {
    /// The next one, or none at the end.
    fn next(&mut self) -> Result<Option<Stored>, OutboxError>;
}

/// The first place at which two sides do not hold the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The n-th records, counted from 1, are not equal.
    Unequal { number: u64, left: Box<Stored>, right: Box<Stored>, parts: Vec<Part> },
    /// The n-th record of the one side has no counterpart on the other, nor have some that follow it.
    Missing { on: Side, number: u64, count: Count, first: Box<Stored> },
}

/// How many; a count may have been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Exactly(u64),
    AtLeast(u64),
}

/// Sources and records for the tests of this room.
#[cfg(test)]
pub(super) mod testing {
    use std::collections::VecDeque;

    use super::*;

    /// Records written as words: `key=value`, `=value` for no key, and headers after a slash, as in `k=v/id:7/a:b`.
    pub(crate) struct Words(VecDeque<Stored>);

    impl Words {
        pub(crate) fn of(text: &str) -> Words {
            let record = |(offset, word)| Stored {
                place: Place { partition: 0, offset: i64::try_from(offset).unwrap() },
                content: content(word),
            };
            Words(text.split_whitespace().enumerate().map(record).collect())
        }
    }

    impl Source for Words {
        fn next(&mut self) -> Result<Option<Stored>, OutboxError> {
            Ok(self.0.pop_front())
        }
    }

    pub(crate) fn content(word: &str) -> Content {
        let mut pieces = word.split('/');
        let (key, value) = pieces.next().unwrap().split_once('=').unwrap();
        let header = |piece: &str| match piece.split_once(':') {
            Some((name, value)) => (name.to_owned(), Some(value.as_bytes().to_vec())),
            None => (piece.to_owned(), None),
        };
        Content {
            key: Some(key.as_bytes().to_vec()).filter(|key| !key.is_empty()),
            value: Some(value.as_bytes().to_vec()),
            headers: pieces.map(header).collect(),
            timestamp: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_count_is_taken_away() {
        let header = |name: &str| (name.to_owned(), Some(b"x".to_vec()));
        let names = ["id", "walpost.lsn", "walpost.index", "walposts", "trace"];
        let whole = Content { headers: names.map(header).to_vec(), timestamp: Some(7), ..Content::default() };
        for (ignored, timestamps, left) in [
            (&[][..], true, &names[..]),
            (&["trace", "Id"], false, &["id", "walpost.lsn", "walpost.index", "walposts"]),
            (&["walpost.*"], false, &["id", "walposts", "trace"]),
            (&["*"], true, &[]),
        ] {
            let rules = Rules { ignored: ignored.iter().map(|&name| name.to_owned()).collect(), timestamps };
            let mut content = whole.clone();
            rules.trim(&mut content);
            assert_eq!(content.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), left);
            assert_eq!(content.timestamp.is_some(), timestamps);
        }
    }
}
