//! Rows that came, changed or went.

use bytes::Bytes;

use super::{DecodeError, Reader, Tuple};

/// A new row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// The table, as its [`Relation`](super::Relation) named it.
    pub relation: u32,
    /// Its values; none of them is [`UnchangedToast`](super::Column::UnchangedToast).
    pub new: Tuple,
}

impl Insert {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Insert");
        let relation = reader.u32("relation oid")?;
        match reader.u8(ROW_TAG)? {
            b'N' => Ok(Insert { relation, new: Tuple::read_complete(reader)? }),
            other => Err(reader.invalid(ROW_TAG, other)),
        }
    }
}

/// A changed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The table, as its [`Relation`](super::Relation) named it.
    pub relation: u32,
    /// What it was before: absent when the identity is a key and the key has not changed.
    pub old: Option<OldRow>,
    /// What it is now.
    pub new: Tuple,
}

impl Update {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Update");
        let relation = reader.u32("relation oid")?;
        let mut tag = reader.u8(ROW_TAG)?;
        let mut old = None;
        if tag != b'N' {
            old = Some(OldRow::read(reader, tag)?);
            tag = reader.u8(ROW_TAG)?;
        }
        match tag {
            b'N' => Ok(Update { relation, old, new: Tuple::read(reader)? }),
            other => Err(reader.invalid(ROW_TAG, other)),
        }
    }
}

/// A row that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The table, as its [`Relation`](super::Relation) named it.
    pub relation: u32,
    /// What it was.
    pub old: OldRow,
}

impl Delete {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Delete");
        let relation = reader.u32("relation oid")?;
        let tag = reader.u8(ROW_TAG)?;
        Ok(Delete { relation, old: OldRow::read(reader, tag)? })
    }
}

/// What is known of a row as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldRow {
    /// `K`: the columns that identify it; all others are null.
    Key(Tuple),
    /// `O`: all columns, with `REPLICA IDENTITY FULL`.
    Full(Tuple),
}

impl OldRow {
    fn read(reader: &mut Reader<Bytes>, tag: u8) -> Result<Self, DecodeError> {
        match tag {
            b'K' => Tuple::read(reader).map(Self::Key),
            b'O' => Tuple::read(reader).map(Self::Full),
            other => Err(reader.invalid(ROW_TAG, other)),
        }
    }
}

/// The byte before a row's values says which row they are of.
const ROW_TAG: &str = "row tag";
