//! What stands for a record, so that neither table nor topic need be held.

use std::hash::{BuildHasher, RandomState};

use crate::comparison::Content;
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::router::{self, Router};

/// A header that is another one in every run of the relay: part of Debezium's context.
const RUN_ID: &str = "__debezium.context.runId";

/// The record that a row should be.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) topic: String,
    /// If the row says it.
    pub(crate) partition: Option<i32>,
    pub(crate) content: Content,
    /// Milliseconds since 1970; none if the record has the time of its sending.
    pub(crate) timestamp: Option<i64>,
}

impl Expected {
    /// By the same code as the relay's.
    ///
    /// # Errors
    /// The relay would refuse it.
    pub(crate) fn of(router: &mut Router, message: &OutboxMessage) -> Result<Expected, OutboxError> {
        // A row does not tell its position; it is left out of the comparison.
        let nowhere = Position { commit_lsn: Lsn::ZERO, index: 0 };
        let record = router.route(message, nowhere)?;
        let content = Content {
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
            timestamp: None,
        };
        let Seen { content, .. } = Seen::of(content);
        let (topic, partition, timestamp) = (record.topic.to_owned(), record.partition, record.timestamp);
        Ok(Expected { topic, partition, content, timestamp })
    }
}

/// A record without what is added when it is sent.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) content: Content,
    /// Where the row stood in the log, if the record says so.
    pub(super) position: Option<Position>,
    /// It was sent again on purpose.
    pub(super) replayed: bool,
}

impl Seen {
    pub(super) fn of(mut content: Content) -> Seen {
        let text = |value: Option<Vec<u8>>| value.and_then(|value| String::from_utf8(value).ok());
        // The last ones of these names are the relay's, whatever the row holds.
        let index = text(take_last(&mut content, router::INDEX)).and_then(|text| text.parse().ok());
        let lsn = text(take_last(&mut content, router::LSN)).and_then(|text| text.parse().ok());
        let replayed = take_last(&mut content, router::REPLAY).is_some();
        content.headers.retain(|(name, _)| name != RUN_ID);
        content.timestamp = None;
        let position = lsn.zip(index).map(|(commit_lsn, index)| Position { commit_lsn, index });
        Seen { content, position, replayed }
    }
}

fn take_last(content: &mut Content, name: &str) -> Option<Vec<u8>> {
    let at = content.headers.iter().rposition(|(own, _)| own == name)?;
    content.headers.remove(at).1
}

/// Which row a record is of, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Print {
    pub(super) identity: u64,
    pub(super) content: u64,
}

/// Makes prints.
#[derive(Default)]
pub(super) struct Prints {
    one: RandomState,
    two: RandomState,
}

impl Prints {
    /// A record without an id is what it says.
    pub(super) fn of(&self, topic: &str, content: &Content) -> Print {
        let print = self.two.hash_one(content);
        let identity = match content.id() {
            Some(id) => self.one.hash_one((topic, id)),
            None => self.one.hash_one((topic, print)),
        };
        Print { identity, content: print }
    }

    pub(super) fn key(&self, key: Option<&[u8]>) -> u64 {
        self.one.hash_one(key)
    }
}
