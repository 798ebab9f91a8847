//! The messages of the output plugin `pgoutput`, protocols 1 and 2 without streaming.
//!
//! One file per family of messages; what they hold are views of the bytes that were received.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats".

mod boundary;
mod event;
mod relation;
mod row;
mod tuple;

use bytes::Bytes;

pub use self::boundary::{Begin, Commit, Origin};
pub use self::event::{Message, Truncate};
pub use self::relation::{Relation, RelationColumn, ReplicaIdentity, Type};
pub use self::row::{Delete, Insert, OldRow, Update};
pub use self::tuple::{Column, Columns, Tuple};
use super::decode_error::DecodeError;
use super::reader::Reader;
use crate::mutants::{self, Mutant};

/// Most columns that a row can have: `MaxTupleAttributeNumber` in the server.
const MOST_COLUMNS: u16 = 1664;

/// One message of the logical replication stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogicalMessage {
    /// `B`: a committed transaction starts.
    Begin(Begin),
    /// `C`: it is complete.
    Commit(Commit),
    /// `O`: it was first committed on another server.
    Origin(Origin),
    /// `R`: the shape of a table, before its first row and after each change.
    Relation(Relation),
    /// `Y`: a data type that is not built in.
    Type(Type),
    /// `I`: a new row.
    Insert(Insert),
    /// `U`: a changed row.
    Update(Update),
    /// `D`: a row that is gone.
    Delete(Delete),
    /// `T`: tables that were emptied.
    Truncate(Truncate),
    /// `M`: what somebody wrote with `pg_logical_emit_message`.
    Message(Message),
}

impl LogicalMessage {
    /// Reads one message, which has to fill `body` exactly.
    ///
    /// Everything is checked here, the values of a row included: reading them later can't fail.
    ///
    /// # Errors
    /// The bytes are not a message of these protocols.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        const LAYER: &str = "pgoutput";
        let mut reader = Reader::new(LAYER, body);
        let message = match reader.u8("tag")? {
            b'B' => Self::Begin(Begin::read(&mut reader)?),
            b'C' => Self::Commit(Commit::read(&mut reader)?),
            b'O' => Self::Origin(Origin::read(&mut reader)?),
            b'R' => Self::Relation(Relation::read(&mut reader)?),
            b'Y' => Self::Type(Type::read(&mut reader)?),
            b'I' => Self::Insert(Insert::read(&mut reader)?),
            b'U' => Self::Update(Update::read(&mut reader)?),
            b'D' => Self::Delete(Delete::read(&mut reader)?),
            b'T' => Self::Truncate(Truncate::read(&mut reader)?),
            b'M' => Self::Message(Message::read(&mut reader)?),
            _ if mutants::active(Mutant::UnknownMessageIgnored) => return Ok(Self::ignored()),
            tag => return Err(refuse(LAYER, tag)),
        };
        reader.finish()?;
        Ok(message)
    }

    /// A message that is about nothing of ours.
    fn ignored() -> Self {
        let (prefix, content) = (Bytes::new(), Bytes::new());
        Self::Message(Message { transactional: false, lsn: crate::lsn::Lsn::ZERO, prefix, content })
    }
}

fn refuse(message: &'static str, tag: u8) -> DecodeError {
    match tag {
        b'S' | b'E' | b'c' | b'A' => {
            DecodeError::NotRequested { tag, feature: "streaming of transactions in progress" }
        }
        b'b' | b'P' | b'K' | b'r' | b'p' => DecodeError::NotRequested { tag, feature: "two-phase commit" },
        _ => DecodeError::UnknownTag { message, tag },
    }
}
