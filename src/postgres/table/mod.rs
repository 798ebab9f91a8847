//! The outbox table: which column is which part of a message, and how a row becomes one.
//!
//! Columns are found by the names that a mapping gives, in any order; others are ignored. The names of our own tables
//! are spelled here, in `sql/` and in `presets/`, and nowhere else.

mod compact;
mod dead_letter_office;
mod dead_letter_requests;
mod dead_letters;
mod derive;
pub(crate) mod emitted;
mod layout;
mod letter;
mod misfit;
mod save;
mod value;

use std::collections::HashMap;

pub use dead_letter_office::DeadLetterOffice;
pub(crate) use dead_letter_office::RELAY_RIGHTS;
pub(crate) use dead_letters::DeadLetterTable;
pub(crate) use layout::{Layout, UnfitRow};
pub use letter::{Asked, Chosen, Discarded, Extent, Letter, LetterState, Rights, Settled};
pub(crate) use misfit::{LayoutError, listed};
pub use save::{OutboxTable, save};
pub(crate) use value::RowError;

use value::Kind;

/// The types of the database's columns with domains seen through.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnTypes {
    bases: HashMap<u32, u32>,
}

impl ColumnTypes {
    /// `bases`: from a type to the type that it is, in the end, a domain over.
    pub(crate) fn new(bases: HashMap<u32, u32>) -> Self {
        ColumnTypes { bases }
    }

    fn kind(&self, type_oid: u32) -> Kind {
        Kind::of(self.bases.get(&type_oid).copied().unwrap_or(type_oid))
    }
}
