//! Where a transaction starts, ends, and comes from.

use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;

use super::{DecodeError, Reader};
use crate::lsn::Lsn;

/// A committed transaction starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where its commit record begins; the documentation calls it the final LSN.
    pub commit_lsn: Lsn,
    /// When it was committed, by the clock of the server that it was first committed on.
    pub committed_at: SystemTime,
    /// Its id, without an epoch.
    pub xid: u32,
}

impl Begin {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Begin");
        Ok(Begin {
            commit_lsn: reader.lsn("final LSN")?,
            committed_at: reader.time("commit time")?,
            xid: reader.u32("transaction id")?,
        })
    }
}

/// The transaction is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where its commit record begins, as in its [`Begin`].
    pub commit_lsn: Lsn,
    /// Where that record ends: what may be confirmed when the transaction is dealt with.
    pub end_lsn: Lsn,
    /// As in its [`Begin`].
    pub committed_at: SystemTime,
}

impl Commit {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Commit");
        // None is defined so far.
        reader.flags("flags", 0)?;
        Ok(Commit {
            commit_lsn: reader.lsn("commit LSN")?,
            end_lsn: reader.lsn("end LSN")?,
            committed_at: reader.time("commit time")?,
        })
    }
}

/// The open transaction was replicated to the server from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where it was committed there.
    pub commit_lsn: Lsn,
    /// What the server calls that place.
    pub name: ByteString,
}

impl Origin {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Origin");
        Ok(Origin { commit_lsn: reader.lsn("commit LSN")?, name: reader.name("name")? })
    }
}
