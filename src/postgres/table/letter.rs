//! A dead letter as an operator meets it, and what can be said about several.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::lsn::Position;

/// A letter as it is shown. Times are UTC, as ISO 8601 writes them.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Where the message stands in the log.
    pub position: Position,
    /// What became of it so far.
    pub state: LetterState,
    /// When it was parked.
    pub parked_at: String,
    /// The message's topic, if it could be read.
    pub topic: Option<String>,
    /// The message's key.
    pub key: Option<Vec<u8>>,
    /// The message's id, if it could be read.
    pub id: Option<Uuid>,
    /// The message's kind of event.
    pub event_type: Option<String>,
    /// The message's correlation id.
    pub correlation_id: Option<String>,
    /// When the message was written.
    pub created_at: Option<String>,
    /// The message's headers as JSON text.
    pub headers: Option<Vec<u8>>,
    /// The length of the payload; `None` for a tombstone, and for a payload that could not be read.
    pub payload_bytes: Option<i32>,
    /// A column that could not be read.
    pub unfit_column: Option<String>,
    /// What is in that column, unless it is the payload.
    pub unfit_value: Option<Vec<u8>>,
    /// Why it was parked.
    pub error: String,
    /// How often it was tried; 0 when it only follows an earlier one of its key.
    pub attempts: i32,
    /// When somebody asked to replay it.
    pub requested_at: Option<String>,
    /// The position under which it is sent again.
    pub sent_as: Option<Position>,
    /// When it was sent or discarded.
    pub done_at: Option<String>,
}

/// What became of a letter so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterState {
    /// It was refused, and waits for somebody.
    Parked,
    /// It waits behind an earlier one of its key.
    Follows,
    /// Somebody asked to send it again.
    Requested,
    /// Kafka has it.
    Sent,
    /// Somebody gave it up.
    Discarded,
}

impl LetterState {
    /// As people and programs read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LetterState::Parked => "parked",
            LetterState::Follows => "follows",
            LetterState::Requested => "replay requested",
            LetterState::Sent => "sent",
            LetterState::Discarded => "discarded",
        }
    }

    /// Whether it waits for something.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, LetterState::Sent | LetterState::Discarded)
    }
}

/// Which letters are meant.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// These.
    Positions(BTreeSet<Position>),
    /// The open ones for a topic.
    Topic(String),
    /// Every open one.
    All,
}

/// How much of each letter is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The beginning of key and error, and no headers.
    Glance,
    /// Everything but the payload.
    Full,
}

/// What a replay was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Open letters that are chosen, with those of the same keys.
    pub letters: i64,
    /// How many of these had been asked for earlier.
    pub earlier: i64,
    /// Of how many keys they are.
    pub keys: i64,
    /// How many have no key, and stand alone.
    pub keyless: i64,
    /// How many lie beyond the end of the log, and so are of another database system: no relay sends these.
    pub foreign: i64,
    /// What inserts those again.
    pub insert_again: String,
    /// The letters in the order in which they are sent, if somebody wants to wait for them.
    pub positions: Vec<Position>,
    /// The server process through which a relay reads the slot.
    pub relay_pid: Option<i32>,
}

/// What was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Letters that are discarded now.
    pub letters: i64,
    /// How many of these somebody had asked to replay; they may have been sent meanwhile.
    pub requested: i64,
    /// Open letters of the same keys, which stay.
    pub left: i64,
}

/// What became of a letter whose replay was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Kafka has it.
    Sent,
    /// Somebody discarded it meanwhile.
    Gone,
    /// It was refused again, or stays behind one that was: attempts, and why.
    Refused(i32, String),
}

/// What the login may do with the table of dead letters.
#[derive(Clone, Debug)]
pub struct Rights {
    /// The login's role, written as in SQL.
    pub role: String,
    /// Whether it may use the schema.
    pub usage: bool,
    /// The rights on the table that it lacks, of those that the relay needs.
    pub lacking: Vec<String>,
    /// Whether the server is a standby, where nothing can be written.
    pub standby: bool,
}
