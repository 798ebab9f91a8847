//! Which of the publication's tables is the outbox, and what its rows look like at this place of the log.
//!
//! The server describes a table before its first row, and anew after every change of it. The outbox is
//! followed by its object id, so that a rename changes nothing, and by its name, so that rows of a table
//! that was dropped and made again are not passed over.

use std::collections::HashMap;
use std::sync::Arc;

use super::names::Target;
use super::pgoutput::Relation;
use super::preflight::Preflight;
use super::table::{ColumnTypes, Layout};
use crate::error::OutboxError;

/// More tables than this in one publication are forgotten and learned again.
const MAX_RELATIONS: usize = 10_000;

/// What the server has described on this connection.
#[derive(Debug)]
pub(super) struct Relations {
    target: Target,
    table_oid: Option<u32>,
    types: ColumnTypes,
    /// `None` is a table that is not the outbox.
    known: HashMap<u32, Option<Arc<Layout>>>,
    absent: Vec<&'static str>,
}

impl Relations {
    pub(super) fn new(target: &Target, preflight: &Preflight) -> Self {
        Relations {
            target: target.clone(),
            table_oid: preflight.table_oid,
            types: preflight.column_types.clone(),
            known: HashMap::new(),
            absent: preflight.absent_columns.clone(),
        }
    }

    /// Takes in a description.
    ///
    /// # Errors
    /// The outbox lacks a column that a message needs.
    pub(super) fn learn(&mut self, relation: &Relation) -> Result<(), OutboxError> {
        let table = &self.target.table;
        let is_named = relation.namespace == table.schema && relation.name == table.name;
        let layout = if Some(relation.oid) == self.table_oid || is_named {
            Some(Arc::new(self.layout_of(relation)?))
        } else {
            if self.known.len() >= MAX_RELATIONS {
                self.known.clear();
            }
            if !self.known.contains_key(&relation.oid) {
                let (schema, name) = (&*relation.namespace, &*relation.name);
                tracing::warn!(schema, name, "rows of a table that is not the outbox are ignored");
            }
            None
        };
        self.known.insert(relation.oid, layout);
        Ok(())
    }

    fn layout_of(&mut self, relation: &Relation) -> Result<Layout, OutboxError> {
        let columns = relation.columns.iter().map(|column| (&*column.name, column.type_oid));
        let layout = Layout::new(columns, &self.types).map_err(|error| error.in_table(&self.target.table))?;
        let absent = layout.absent();
        for column in absent.iter().filter(|column| !self.absent.contains(column)) {
            tracing::warn!(column, table = %self.target.table, "the column is gone: messages go on without it");
        }
        self.absent = absent;
        Ok(layout)
    }

    /// The layout of the outbox's rows; `None` for a row of another table.
    ///
    /// # Errors
    /// The server has not described the table.
    pub(super) fn layout(&self, oid: u32) -> Result<Option<&Arc<Layout>>, OutboxError> {
        match self.known.get(&oid) {
            Some(layout) => Ok(layout.as_ref()),
            None => {
                let why = format!("a row of table {oid}, which was not described");
                Err(OutboxError::protocol("the server broke the protocol", why))
            }
        }
    }
}
