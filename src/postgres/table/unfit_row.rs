//! A row that is no message.

use super::RowError;
use crate::dead_letters::UnfitColumn;
use crate::message::OutboxMessage;
use crate::postgres::pgoutput::{Column, Tuple};

/// A row that is no message.
#[derive(Debug)]
pub(crate) struct UnfitRow {
    /// What could be read.
    pub(crate) message: OutboxMessage,
    /// The first fault.
    pub(crate) error: RowError,
    /// What was in the column that it is about.
    pub(crate) value: Option<bytes::Bytes>,
}

impl UnfitRow {
    /// The column that the fault is about.
    pub(crate) fn column(&self) -> UnfitColumn {
        UnfitColumn { name: self.error.column(), value: self.value.clone() }
    }
}

/// What the server sent for a column; `None` is null.
#[cold]
pub(super) fn raw(tuple: &Tuple, column: usize) -> Option<bytes::Bytes> {
    match tuple.columns().nth(column) {
        Some(Column::Text(bytes) | Column::Binary(bytes)) => Some(bytes),
        _ => None,
    }
}
