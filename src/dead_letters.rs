//! Where messages wait that can't be sent: the port, and who has to wait.
//!
//! A parked message counts as handled once the store has it durably. Later messages of its key follow it, so
//! that a replay keeps their order. A replay is asked for through the log, so that it has a place in the
//! order of commits: what was committed before is parked behind, what comes after is sent after.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;

/// A message that can't be sent, or that has to wait behind one.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Where it stands in the log.
    pub position: Position,
    /// What it says, as far as it could be read.
    pub message: OutboxMessage,
    /// A column that could not be read, and what was in it.
    pub unfit: Option<UnfitColumn>,
    /// Why it can't be sent.
    pub error: String,
    /// How often that was tried; 0 when it only follows an earlier one of its key.
    pub attempts: u32,
}

impl DeadLetter {
    /// Bytes of its key, payload and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        length(self.message.key()) + length(self.message.payload()) + self.message.headers_json().len()
    }

    /// Bytes of all that it holds.
    pub(crate) fn footprint(&self) -> usize {
        let (message, unfit) = (&self.message, self.unfit.as_ref().and_then(|unfit| unfit.value.as_ref()));
        let text = [Some(message.topic()), message.event_type(), message.correlation_id(), Some(&self.error)];
        let text = text.into_iter().flatten().map(str::len).sum::<usize>();
        self.size() + text + unfit.map_or(0, bytes::Bytes::len)
    }

    /// Whether both wait for the same one.
    #[must_use]
    pub fn shares_key(&self, other: &DeadLetter) -> bool {
        let (own, other) = (&self.message, &other.message);
        own.key().is_some() && own.key() == other.key() && own.topic() == other.topic()
    }
}

/// A column that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfitColumn {
    /// Its name.
    pub name: Arc<str>,
    /// Its value as the server sent it; `None` is null.
    pub value: Option<bytes::Bytes>,
}

/// A letter on its way to the broker after all.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// The position under which it is sent: that of the request, since consumers drop what lies behind.
    pub send_as: Position,
    /// The letter.
    pub letter: DeadLetter,
}

/// For which other letters of the same request a refusal speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of its key that lie behind it, and no others.
    Key,
    /// All of its topic that are as large, too, and the others of their keys.
    AsLarge,
    /// All of its topic, too.
    Topic,
}

impl Reach {
    /// It speaks for letters of its topic from so many bytes on; `None` if for no others.
    #[must_use]
    pub fn least(self, refused: &DeadLetter) -> Option<usize> {
        match self {
            Reach::Key => None,
            Reach::AsLarge => Some(refused.size()),
            Reach::Topic => Some(0),
        }
    }

    /// Whether it speaks for that letter, other than by the key of a third one.
    #[must_use]
    pub fn takes(self, refused: &Replay, other: &Replay) -> bool {
        let (letter, other) = (&refused.letter, &other.letter);
        let alike = |least| other.message.topic() == letter.message.topic() && other.size() >= least;
        let behind = other.position >= letter.position && letter.shares_key(other);
        behind || other.position == letter.position || self.least(letter).is_some_and(alike)
    }
}

/// What is known of letters when a relay begins, or somebody has touched them.
#[derive(Clone, Debug, Default)]
pub struct Parked {
    /// The keys that have an open letter.
    pub keys: ParkedKeys,
    /// Letters that the log may bring again, by position and id; whatever became of them, they are settled.
    pub settled: HashMap<Position, Uuid>,
}

impl Parked {
    /// Whether a message needs no handling any more. Its id is compared as well: in a restored database positions
    /// come a second time.
    #[must_use]
    pub fn is_settled(&self, position: Position, message: &OutboxMessage) -> bool {
        self.settled.get(&position).is_some_and(|id| *id == message.id)
    }
}

/// Keys whose later messages have to wait, each with the first letter that they wait for. Remembered by 128 bits of
/// hash: what two keys share, if ever, is that one waits without need.
#[derive(Clone, Debug, Default)]
pub struct ParkedKeys(HashMap<u128, Position>);

impl ParkedKeys {
    /// Messages of this key that lie behind `letter` wait. One without a key has none behind it.
    pub fn insert(&mut self, topic: &str, key: Option<&[u8]>, letter: Position) {
        if let Some(key) = key {
            let first = self.0.entry(fingerprint(topic, key)).or_insert(letter);
            *first = letter.min(*first);
        }
    }

    /// Whether the message at `position` has to wait. One before all letters of its key does not: the log brings it
    /// again, and parked it would be replayed as something new.
    #[must_use]
    pub fn hold(&self, topic: &str, key: Option<&[u8]>, position: Position) -> bool {
        let first = |key| self.0.get(&fingerprint(topic, key));
        !self.0.is_empty() && key.and_then(first).is_some_and(|first| *first < position)
    }
}

fn fingerprint(topic: &str, key: &[u8]) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, topic, key).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// Keeps dead letters. What has no place for them leaves every method as it is: it has none, and a
/// message that should be parked ends the run. An answer may take long; the relay does not stand still meanwhile.
pub trait DeadLetterStore: Send {
    /// What is parked. Asked for at the beginning, and when [`Change::DeadLetters`](crate::Change::DeadLetters)
    /// says that somebody has touched them.
    ///
    /// # Errors
    /// The store can't be read.
    fn parked(&mut self) -> impl Future<Output = Result<Parked, OutboxError>> + Send {
        std::future::ready(Ok(Parked::default()))
    }

    /// Keeps letters. Durable when it returns; a letter that is there already stays as it is.
    ///
    /// # Errors
    /// They could not be stored, or it is not known whether they were.
    fn park(&mut self, letters: &[DeadLetter]) -> impl Future<Output = Result<(), OutboxError>> + Send {
        let none = OutboxError::definite("there is no place for dead letters", "send or remove the message");
        std::future::ready(if letters.is_empty() { Ok(()) } else { Err(none) })
    }

    /// The next letters to replay, at most `most`, in the order of their positions: those that were asked for
    /// before the transaction at `request`, and all others of their keys. A letter keeps the position that it
    /// was once given for this request, so that a repeat is recognised.
    ///
    /// The log may come again from before a request that was met long ago. Letters that lie behind it, and keys that
    /// were asked for or numbered later, wait for the later one: what is sent under the position of `request` counts
    /// as old for whoever has seen something newer. Therefore who asks notes how far the log is.
    ///
    /// # Errors
    /// The store can't be read or written.
    fn to_replay(
        &mut self,
        request: Lsn,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Replay>, OutboxError>> + Send {
        let _ = (request, most);
        std::future::ready(Ok(Vec::new()))
    }

    /// The broker has these letters.
    ///
    /// # Errors
    /// The store can't be written; they will be replayed again.
    fn replayed(&mut self, letters: &[Position]) -> impl Future<Output = Result<(), OutboxError>> + Send {
        let _ = letters;
        std::future::ready(Ok(()))
    }

    /// A letter was refused again: it stays, and those that this speaks for, until somebody asks again.
    ///
    /// # Errors
    /// The store can't be written.
    fn refused_again(
        &mut self,
        refused: &Replay,
        error: &str,
        reach: Reach,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send {
        let _ = (refused, error, reach);
        std::future::ready(Ok(()))
    }
}

/// No place for dead letters.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDeadLetters;

impl DeadLetterStore for NoDeadLetters {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_in_its_own_topic_behind_its_first_letter_and_none_waits_for_nobody() {
        let at = |index| Position { commit_lsn: Lsn(7), index };
        let mut keys = ParkedKeys::default();
        assert!(!keys.hold("t", Some(b"k"), at(9)));
        for letter in [4, 3, 5] {
            keys.insert("t", Some(b"k"), at(letter));
            keys.insert("t", None, at(letter));
        }
        assert!(keys.hold("t", Some(b"k"), at(4)));
        assert!(!keys.hold("t", Some(b"k"), at(2)) && !keys.hold("t", Some(b"k"), at(3)));
        for (topic, key) in [("t", None), ("u", Some(&b"k"[..])), ("t", Some(b"")), ("tk", Some(b""))] {
            assert!(!keys.hold(topic, key, at(9)), "{topic} {key:?}");
        }
    }
}
