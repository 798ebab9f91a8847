//! The shape of tables and the names of types.

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::{DecodeError, MOST_COLUMNS, Reader};

/// The shape of a table: which value of a row belongs to which column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// What rows call it.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: ByteString,
    /// Its name.
    pub name: ByteString,
    /// What the old values of an update or delete hold.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of a row's values.
    pub columns: Vec<RelationColumn>,
}

/// One column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// It is part of what identifies a row.
    pub is_key: bool,
    /// Its name.
    pub name: ByteString,
    /// Its data type.
    pub type_oid: u32,
    /// What narrows the type, such as a length; -1 for nothing.
    pub type_modifier: i32,
}

/// `REPLICA IDENTITY` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: none; updates and deletes are refused while they are published.
    Nothing,
    /// `f`: all columns.
    Full,
    /// `i`: the columns of a unique index.
    Index,
}

impl Relation {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Relation");
        Ok(Relation {
            oid: reader.u32("relation oid")?,
            namespace: reader.name("namespace")?,
            name: reader.name("relation name")?,
            replica_identity: ReplicaIdentity::read(reader)?,
            columns: columns(reader)?,
        })
    }
}

impl ReplicaIdentity {
    fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        const FIELD: &str = "replica identity";
        match reader.u8(FIELD)? {
            b'd' => Ok(Self::Default),
            b'n' => Ok(Self::Nothing),
            b'f' => Ok(Self::Full),
            b'i' => Ok(Self::Index),
            other => Err(reader.invalid(FIELD, other)),
        }
    }
}

fn columns(reader: &mut Reader<Bytes>) -> Result<Vec<RelationColumn>, DecodeError> {
    /// Flags, the end of an empty name, type and modifier.
    const SHORTEST: usize = 1 + 1 + 4 + 4;
    let count = usize::from(column_count(reader)?);
    if count > reader.remaining() / SHORTEST {
        return Err(reader.short("columns"));
    }
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        columns.push(RelationColumn {
            is_key: reader.flags("column flags", 1)? == 1,
            name: reader.name("column name")?,
            type_oid: reader.u32("column type")?,
            type_modifier: reader.i32("type modifier")?,
        });
    }
    Ok(columns)
}

/// How many columns follow: never negative and never more than a row can have.
pub(super) fn column_count<B: Buf>(reader: &mut Reader<B>) -> Result<u16, DecodeError> {
    const FIELD: &str = "column count";
    let (message, value) = (reader.message(), reader.i16(FIELD)?);
    let negative = |_| DecodeError::Negative { message, field: FIELD, value: i32::from(value) };
    let count = u16::try_from(value).map_err(negative)?;
    if count > MOST_COLUMNS {
        let (count, limit) = (usize::from(count), usize::from(MOST_COLUMNS));
        return Err(DecodeError::TooMany { message, field: FIELD, count, limit });
    }
    Ok(count)
}

/// A data type that is not built in.
///
/// For a domain the server gives the domain's oid with the name of the type beneath it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// What columns call it.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: ByteString,
    /// Its name.
    pub name: ByteString,
}

impl Type {
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        reader.rename("Type");
        Ok(Type {
            oid: reader.u32("type oid")?,
            namespace: reader.name("namespace")?,
            name: reader.name("type name")?,
        })
    }
}
