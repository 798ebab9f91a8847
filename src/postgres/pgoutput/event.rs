//! Messages that are about no row.

use bytes::Bytes;

use super::{DecodeError, Reader};
use crate::lsn::Lsn;

/// Tables that were emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// `CASCADE`: tables that refer to them were emptied too, and are listed when they are published.
    pub cascade: bool,
    /// `RESTART IDENTITY`: their sequences start anew.
    pub restart_identity: bool,
    /// The tables, as their [`Relation`](super::Relation) named them.
    pub relations: Vec<u32>,
}

impl Truncate {
    const CASCADE: u8 = 1;
    const RESTART_IDENTITY: u8 = 2;

    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Truncate");
        let count = reader.length("relation count")?;
        let flags = reader.flags("options", Self::CASCADE | Self::RESTART_IDENTITY)?;
        if count > reader.remaining() / size_of::<u32>() {
            return Err(reader.short("relation oids"));
        }
        let relations = (0..count).map(|_| reader.u32("relation oid")).collect::<Result<_, _>>()?;
        Ok(Truncate {
            cascade: flags & Self::CASCADE != 0,
            restart_identity: flags & Self::RESTART_IDENTITY != 0,
            relations,
        })
    }
}

/// What somebody wrote with `pg_logical_emit_message`.
///
/// When transactional it comes inside of its transaction. When not it comes outside of any, even if
/// the transaction that wrote it was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// It was committed with the open transaction.
    pub transactional: bool,
    /// Where its record ends in the log; not the position of a commit, though it may equal one.
    pub lsn: Lsn,
    /// Whom it is for. Bytes and of any length, because everybody may write one: a message to somebody
    /// else, in whatever encoding the database lets pass, must not stop the stream.
    pub prefix: Bytes,
    /// What it says.
    pub content: Bytes,
}

impl Message {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Message");
        let transactional = reader.flags("flags", 1)? == 1;
        let lsn = reader.lsn("LSN")?;
        let prefix = reader.until_zero("prefix")?;
        let length = reader.length("content length")?;
        Ok(Message { transactional, lsn, prefix, content: reader.take(length, "content")? })
    }
}
