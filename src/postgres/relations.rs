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
use super::table::{ColumnTypes, Layout, LayoutError};
use crate::error::OutboxError;

/// A server that describes more tables than this is not describing its own.
const MAX_RELATIONS: usize = 1_000_000;
/// The same of tables that bear the outbox's name, each of which was dropped for the next one: their layouts are kept.
const MAX_OUTBOXES: usize = 1_000;

/// What the server has described on this connection.
#[derive(Debug)]
pub(super) struct Relations {
    target: Target,
    table_oid: Option<u32>,
    types: ColumnTypes,
    known: HashMap<u32, Known>,
    /// How many of them are the outbox.
    outboxes: usize,
    absent: Vec<String>,
    /// The columns by which rows are written back.
    key: Vec<String>,
    /// The outbox's newest layout; before the first description, that of the catalog.
    newest: Option<Arc<Layout>>,
}

/// What a described table is to us.
#[derive(Debug)]
enum Known {
    Outbox(Arc<Layout>),
    /// Partitions of the outbox among them, which are described beside their root and have no rows of their own.
    Other {
        named: bool,
    },
}

impl Relations {
    pub(super) fn new(target: &Target, preflight: &Preflight) -> Self {
        Relations {
            target: target.clone(),
            table_oid: preflight.table_oid,
            types: preflight.column_types.clone(),
            known: HashMap::new(),
            outboxes: 0,
            absent: preflight.absent_columns.clone(),
            key: preflight.row_key(),
            newest: preflight.layout.clone(),
        }
    }

    /// Takes in a description.
    ///
    /// # Errors
    /// The outbox lacks a column that a message needs.
    pub(super) fn learn(&mut self, relation: &Relation) -> Result<(), OutboxError> {
        let table = &self.target.table;
        let is_named = relation.namespace == table.schema && relation.name == table.name;
        let known = if Some(relation.oid) == self.table_oid || is_named {
            let layout = Arc::new(self.layout_of(relation)?);
            self.newest = Some(Arc::clone(&layout));
            Known::Outbox(layout)
        } else {
            Known::Other {
                named: matches!(self.known.get(&relation.oid), Some(Known::Other { named: true })),
            }
        };
        self.outboxes += usize::from(matches!(known, Known::Outbox(_)));
        if let Some(Known::Outbox(_)) = self.known.insert(relation.oid, known) {
            self.outboxes -= 1;
        }
        if self.known.len() > MAX_RELATIONS || self.outboxes > MAX_OUTBOXES {
            let why = "it describes tables without end";
            return Err(OutboxError::protocol("the server broke the protocol", why));
        }
        Ok(())
    }

    fn layout_of(&mut self, relation: &Relation) -> Result<Layout, OutboxError> {
        let columns = relation.columns.iter().map(|column| (&*column.name, column.type_oid));
        let kinds = |column: usize| self.types.kind(relation.columns[column].type_oid);
        let layout = Layout::new(&self.target.mapping, columns, &self.types)
            .and_then(|layout| layout.keyed(&self.key, &kinds))
            .map_err(|error| self.changed(&error))?;
        let absent = layout.absent();
        for column in absent.iter().filter(|column| !self.absent.contains(column)) {
            tracing::warn!(column, table = %self.target.table, "the column is gone: messages go on without it");
        }
        self.absent = absent;
        Ok(layout)
    }

    /// The log holds rows of a time at which the table was no outbox.
    fn changed(&self, error: &LayoutError) -> OutboxError {
        let (table, slot) = (&self.target.table, &self.target.slot);
        error.in_table(table).with_advice(format!(
            "undo the change of {table}, for the rows to come; rows written since the change stay in the log as \
             they are: `walpost teardown` and `walpost setup` make slot {slot} anew behind them, then insert them again"
        ))
    }

    /// The layout of rows that are not in the log as such.
    pub(super) fn outbox(&self) -> Option<Arc<Layout>> {
        self.newest.clone()
    }

    /// The layout of the outbox's rows; `None` for a row of another table.
    ///
    /// # Errors
    /// The server has not described the table.
    pub(super) fn layout(&mut self, oid: u32) -> Result<Option<&Arc<Layout>>, OutboxError> {
        match self.known.get_mut(&oid) {
            Some(Known::Outbox(layout)) => Ok(Some(layout)),
            Some(Known::Other { named }) => {
                if !std::mem::replace(named, true) {
                    let outbox = self.target.table.to_string();
                    tracing::warn!(oid, outbox, "rows of a table that is not the outbox are ignored");
                }
                Ok(None)
            }
            None => {
                let why = format!("a row of table {oid}, which was not described");
                Err(OutboxError::protocol("the server broke the protocol", why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::pgoutput::{RelationColumn, ReplicaIdentity};

    fn outbox(oid: u32) -> Relation {
        let column = |(name, type_oid): (&'static str, u32)| RelationColumn {
            is_key: false,
            name: name.into(),
            type_oid,
            type_modifier: -1,
        };
        Relation {
            oid,
            namespace: "outbox".into(),
            name: "messages".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: [("id", 2950), ("topic", 25), ("payload", 114)].map(column).into(),
        }
    }

    #[test]
    fn an_outbox_may_be_altered_for_ever_but_not_be_another_each_time() {
        let mut relations = Relations::new(&Target::default(), &Preflight::default());
        for _ in 0..3 * MAX_OUTBOXES {
            relations.learn(&outbox(1)).expect("the same table again");
        }
        let refused = (2..).find(|oid| relations.learn(&outbox(*oid)).is_err());
        assert_eq!(refused, u32::try_from(MAX_OUTBOXES + 1).ok());
    }
}
