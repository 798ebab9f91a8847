//! The outbox table: which column is which part of a message, and how a row becomes one.
//!
//! Columns are found by the names that a mapping gives, in any order; others are ignored. The names of our own tables
//! are spelled here, in `sql/` and in `presets/`, and nowhere else.

mod compact;
mod dead_letter_columns;
mod dead_letter_office;
mod dead_letter_requests;
mod dead_letters;
mod derive;
mod desk;
pub(crate) mod emitted;
mod event;
mod layout;
mod letter;
mod misfit;
#[cfg(feature = "cli")]
mod own;
mod rights;
mod row_key;
mod save;
mod scheduled;
#[cfg(feature = "cli")]
mod told;
mod unfit_row;
mod value;
mod write_back;

use std::collections::HashMap;
use std::sync::Arc;

pub use dead_letter_office::DeadLetterOffice;
pub(crate) use dead_letters::DeadLetterTable;
pub(crate) use derive::condition_text;
pub(crate) use desk::Desk;
pub(crate) use layout::{Later, Layout};
pub use letter::{Asked, Chosen, Discarded, Extent, Letter, LetterState, Rights, Settled};
pub(crate) use misfit::{LayoutError, listed};
#[cfg(feature = "cli")]
pub(crate) use own::{is_own, own_columns};
pub(crate) use rights::RELAY_RIGHTS;
pub use save::{OutboxTable, save};
pub(crate) use scheduled::{HeldRow, HeldRows, Look};
pub use scheduled::{ScheduledTable, Waiting};
#[cfg(feature = "cli")]
pub(crate) use told::counted;
pub(crate) use unfit_row::UnfitRow;
pub(crate) use value::{Kind, RowError};
pub(crate) use write_back::{KeyColumn, WriteBackTable, clauses};

use super::names::TableName;
use super::pgoutput::Relation;
use crate::debezium::ColumnFacts;

/// What the catalog says of the columns of tables, by their names.
pub(crate) type Facts = Vec<(TableName, HashMap<String, ColumnFacts>)>;

/// The types of the database's columns with domains seen through, and what else the catalog says of the table's.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnTypes {
    bases: HashMap<u32, u32>,
    facts: Arc<Facts>,
    conditions: Arc<Vec<(TableName, Vec<ConditionTexts>)>>,
}

/// The texts of a condition in the mapping of a table; `None` is null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConditionTexts {
    /// As the server writes such values.
    pub(crate) written: Vec<Option<String>>,
    /// As they are compared with those of the stream.
    pub(crate) seen: Vec<Option<String>>,
}

impl ColumnTypes {
    /// `bases`: from a type to the type that it is, in the end, a domain over. `facts`: of each table's columns.
    pub(crate) fn new(bases: HashMap<u32, u32>, facts: Facts) -> Self {
        ColumnTypes { bases, facts: Arc::new(facts), conditions: Arc::default() }
    }

    /// With the conditions of tables, of each in the mapping's order.
    pub(crate) fn with_conditions(self, conditions: Vec<(TableName, Vec<ConditionTexts>)>) -> Self {
        ColumnTypes { conditions: Arc::new(conditions), ..self }
    }

    /// The conditions of a table, if the server was asked for them.
    pub(crate) fn conditions(&self, table: &TableName) -> &[ConditionTexts] {
        let of_table = self.conditions.iter().find(|(of, _)| of == table);
        of_table.map(|(_, conditions)| conditions.as_slice()).unwrap_or_default()
    }

    fn condition(&self, table: &TableName, index: usize) -> Option<&[Option<String>]> {
        self.conditions(table).get(index).map(|texts| texts.seen.as_slice())
    }

    /// The same as a table was when the log had this description of it: the catalog may be younger or older.
    pub(crate) fn as_of(&self, table: &TableName, relation: &Relation) -> Self {
        let facts = relation.columns.iter().map(|column| {
            let mut facts = self.facts(table, &column.name, column.type_oid);
            // What narrows the type beneath a domain only the catalog says.
            if self.base(column.type_oid) == column.type_oid {
                facts.modifier = column.type_modifier;
            }
            (column.name.to_string(), facts)
        });
        let facts = vec![(table.clone(), facts.collect())];
        ColumnTypes { facts: Arc::new(facts), ..self.clone() }
    }

    fn base(&self, type_oid: u32) -> u32 {
        self.bases.get(&type_oid).copied().unwrap_or(type_oid)
    }

    pub(crate) fn kind(&self, type_oid: u32) -> Kind {
        Kind::of(self.base(type_oid))
    }

    /// What the catalog said of a column; of one that is newer than the look at it, as little as its type says.
    fn facts(&self, table: &TableName, name: &str, type_oid: u32) -> ColumnFacts {
        let base = self.base(type_oid);
        let of_table = self.facts.iter().find(|(of, _)| of == table);
        let known = of_table.and_then(|(_, facts)| facts.get(name)).filter(|facts| facts.type_oid == base);
        known.cloned().unwrap_or_else(|| ColumnFacts {
            type_oid: base,
            type_name: format!("number {base} (new since the last start: start Walpost again)"),
            declared: String::new(),
            modifier: -1,
            nullable: true,
            default: None,
            labels: Vec::new(),
        })
    }
}
