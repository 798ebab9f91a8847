//! What tells a row from all others of its table, read from the log for whoever writes it back.

use std::sync::Arc;

use super::LayoutError;
use super::unfit_row::raw;
use super::value::{self, Kind, RowError, Unfit, Value};
use crate::message::{OutboxMessage, RowKey};
use crate::postgres::pgoutput::{Column, Tuple};

/// The columns of a table's key, in the order of the key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct KeyColumns {
    /// Which of the target's outboxes the table is.
    table: usize,
    columns: Vec<(usize, Kind)>,
}

impl KeyColumns {
    /// The columns of these names.
    pub(super) fn find(
        table: usize,
        key: &[String],
        names: &[Arc<str>],
        kinds: &dyn Fn(usize) -> Kind,
    ) -> Result<Self, LayoutError> {
        let find = |name: &String| {
            let found = names.iter().position(|own| **own == **name);
            let column = found.ok_or_else(|| LayoutError::Key(name.clone()))?;
            Ok::<_, LayoutError>((column, kinds(column)))
        };
        Ok(KeyColumns { table, columns: key.iter().map(find).collect::<Result<_, _>>()? })
    }

    /// Whether their binary forms can be read.
    pub(super) fn is_binary(&self) -> bool {
        self.columns.iter().all(|(_, kind)| kind.has_binary_text())
    }

    /// Whether rows need no key.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Puts the key of a row into its message; gives what is in the way, if something is.
    #[cold]
    pub(super) fn put(
        &self,
        tuple: &Tuple,
        names: &[Arc<str>],
        message: &mut OutboxMessage,
    ) -> Option<(RowError, Option<bytes::Bytes>)> {
        match self.of(tuple) {
            Ok(key) => message.row = Some(Arc::new(key)),
            Err((column, unfit)) => return Some((unfit.in_column(&names[column]), raw(tuple, column))),
        }
        None
    }

    /// The key of a row. A copy: a slice of what was read would hold all of it until the row is written back.
    fn of(&self, tuple: &Tuple) -> Result<RowKey, (usize, Unfit)> {
        let mut values = vec![None; self.columns.len()];
        for (index, column) in tuple.columns().enumerate() {
            for ((wanted, kind), value) in self.columns.iter().zip(&mut values) {
                if *wanted == index {
                    *value = text(&column, *kind).map_err(|unfit| (index, unfit))?;
                }
            }
        }
        Ok(RowKey { table: self.table, xid: 0, values })
    }
}

/// The text of a value as SQL reads it.
fn text(column: &Column, kind: Kind) -> Result<Option<String>, Unfit> {
    let value = match column {
        Column::Null | Column::UnchangedToast => return Ok(None),
        Column::Text(bytes) => {
            return String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| Unfit::NotUtf8);
        }
        Column::Binary(bytes) => Value { kind, bytes: bytes.clone(), binary: true },
    };
    if kind == Kind::Bytea {
        return Ok(Some(value::hex(&value.bytes)));
    }
    Ok(Some(value::text(value)?.to_string()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_key_is_the_text_that_sql_reads_in_either_form() {
        for (kind, binary, expected) in [
            (Kind::Uuid, &[0x11; 16][..], "11111111-1111-1111-1111-111111111111"),
            (Kind::Int, &[0, 0, 0, 0, 0, 0, 1, 0], "256"),
            (Kind::Text, b"a'b", "a'b"),
            (Kind::Bytea, b"\x00\xff", "\\x00ff"),
            (Kind::Bool, b"\x01", "true"),
        ] {
            let text_of = |column| text(&column, kind).expect("a text");
            assert_eq!(text_of(Column::Binary(Bytes::copy_from_slice(binary))).as_deref(), Some(expected));
            let shown = Column::Text(Bytes::copy_from_slice(expected.as_bytes()));
            assert_eq!(text_of(shown).as_deref(), Some(expected));
        }
        assert_eq!(text(&Column::Null, Kind::Text), Ok(None));
        assert_eq!(text(&Column::Text(Bytes::from_static(b"\xff")), Kind::Text), Err(Unfit::NotUtf8));
    }
}
