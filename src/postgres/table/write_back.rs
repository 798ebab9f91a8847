//! The statement that tells the outbox table which of its rows are published.

use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use crate::error::OutboxError;
use crate::mapping::{Mark, MarkValue};
use crate::message::RowKey;
use crate::postgres::names::{TableName, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, sql_error};
use crate::write_back::WriteBackMode;

/// The server's own operator, whatever others there are.
const EQUAL: &str = "OPERATOR(pg_catalog.=)";

/// A column of a table's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    pub(crate) name: String,
    /// Its type as SQL writes it.
    pub(crate) type_name: String,
    /// The operator by which its index finds a value, as SQL writes it.
    pub(crate) equal: String,
}

/// What is written back, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteBackTable {
    pub(crate) table: TableName,
    key: Vec<KeyColumn>,
    statement: String,
    /// The message's id is the whole key.
    is_id: bool,
    /// Which of the target's outboxes it is.
    pub(crate) index: usize,
    /// No policy hides rows; should that change, it is an error, and no row stays unmarked in silence.
    pub(crate) sees_all: bool,
}

/// The assignments of a mark, of columns with their types as SQL writes them.
pub(crate) fn clauses(marks: &[(&Mark, &str)]) -> String {
    let clause = |(mark, type_name): &(&Mark, &str)| {
        let column = quote_identifier(&mark.column);
        let value = match &mark.value {
            MarkValue::Null => "NULL".to_owned(),
            MarkValue::Now => "pg_catalog.now()".to_owned(),
            MarkValue::Text(text) => format!("{}::{type_name}", quote_literal(text)),
            MarkValue::AsItIs(text) => format!(
                "(CASE WHEN t.{column}::text {EQUAL} pg_catalog.lower(t.{column}::text) THEN {} ELSE {} END)::{type_name}",
                quote_literal(&text.to_lowercase()),
                quote_literal(text)
            ),
        };
        format!("{column} = {value}")
    };
    marks.iter().map(clause).collect::<Vec<_>>().join(", ")
}

impl WriteBackTable {
    pub(crate) fn new(
        table: TableName,
        key: Vec<KeyColumn>,
        mode: WriteBackMode,
        clauses: &str,
        is_id: bool,
        is_partitioned: bool,
    ) -> Self {
        let names: Vec<_> = (1..=key.len()).map(|number| format!("k{number}")).collect();
        let arrays: Vec<_> =
            (1..=key.len()).map(|number| format!("pg_catalog.unnest(${number}::text[])")).collect();
        let equal = key.iter().zip(&names).map(|(column, name)| {
            format!("t.{} {} k.{name}::{}", quote_identifier(&column.name), column.equal, column.type_name)
        });
        let equal = equal.collect::<Vec<_>>().join(" AND ");
        let rows = format!("ROWS FROM ({}) AS k ({})", arrays.join(", "), names.join(", "));
        // Rows of tables that inherit are not published, and may have the same key.
        let alone = if is_partitioned { "" } else { "ONLY " };
        let write = if mode == WriteBackMode::Delete {
            format!("DELETE FROM {alone}{table} t USING {rows} WHERE {equal}")
        } else {
            format!("UPDATE {alone}{table} t SET {clauses} FROM {rows} WHERE {equal}")
        };
        // One statement, and so one snapshot for both.
        let statement = format!(
            "WITH done AS ({write} RETURNING 1) \
             SELECT pg_catalog.count(*), pg_catalog.pg_current_snapshot()::text FROM done"
        );
        WriteBackTable { table, key, statement, is_id, index: 0, sees_all: true }
    }

    pub(crate) fn key(&self) -> &[KeyColumn] {
        &self.key
    }

    /// Whether the id of a message is all that tells its row.
    pub(crate) fn is_known_by_id(&self) -> bool {
        self.is_id
    }

    /// The statement, understood by the server.
    pub(crate) async fn prepare(&self, client: &Client) -> Result<Statement, tokio_postgres::Error> {
        client.prepare(&self.statement).await
    }

    /// Writes rows back. Gives the indexes of those whose transactions could not be seen by the statement: the log tells of a
    /// transaction before others see it, and a COMMIT that waits for a standby may be long in between.
    pub(crate) async fn write(
        &self,
        client: &Client,
        statement: &Statement,
        rows: &[Arc<RowKey>],
    ) -> Result<Vec<usize>, OutboxError> {
        let column = |index: usize| -> Vec<Option<&str>> {
            rows.iter().map(|row| row.values.get(index).and_then(Option::as_deref)).collect()
        };
        let columns: Vec<_> = (0..self.key.len()).map(column).collect();
        let parameters: Vec<_> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        let row = client.query_one(statement, &parameters).await.map_err(|error| self.failed(error))?;
        let (count, snapshot): (i64, &str) = (row.cell(0)?, row.cell(1)?);
        tracing::trace!(table = %self.table, rows = rows.len(), written = count, "written back");
        let snapshot = Snapshot::of_server(snapshot)?;
        let unseen = rows.iter().enumerate().filter(|(_, row)| row.xid != 0 && !snapshot.sees(row.xid));
        Ok(unseen.map(|(index, _)| index).collect())
    }

    /// What a failed statement means. That a row does not bear the mark only a person can mend.
    pub(crate) fn failed(&self, error: tokio_postgres::Error) -> OutboxError {
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        let during = format!("writing back to {}", self.table);
        let advice = match (code.get(..2), code.as_str()) {
            (_, "42501") => {
                "the role may not write rows back any more, or a policy hides some: `walpost check` names the GRANT or the POLICY"
            }
            (_, "42703" | "42P01") => {
                "a column or the table is gone: compare it with --map-mark, or use --write-back none"
            }
            (_, "55000") => {
                "a publication of updates and deletes holds a table without a primary key: give it one, or a REPLICA IDENTITY"
            }
            (Some("22" | "23" | "42" | "0A"), _) => {
                "the table does not take the mark, or does not let the row go: compare its constraints and triggers with \
                 --map-mark and --write-back"
            }
            _ => return sql_error(&during, error),
        };
        OutboxError::definite(sql_error(&during, error).chain(), advice)
    }
}

/// What a statement could see (PostgreSQL documentation, "Transaction ID and Snapshot Information Functions").
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Transactions from here on have not ended.
    xmax: u64,
    /// Those before it that have not.
    running: Vec<u64>,
}

impl Snapshot {
    /// What the server has answered.
    ///
    /// # Errors
    /// It is no snapshot.
    pub(super) fn of_server(text: &str) -> Result<Self, OutboxError> {
        Snapshot::read(text).ok_or_else(|| {
            OutboxError::protocol("the server's answer can't be read", "a snapshot was expected")
        })
    }

    /// Reads `xmin:xmax:xip,xip`.
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (_, xmax, running) = (parts.next()?, parts.next()?, parts.next()?);
        let running = running.split(',').filter(|xid| !xid.is_empty()).map(|xid| xid.parse().ok());
        Some(Snapshot { xmax: xmax.parse().ok()?, running: running.collect::<Option<_>>()? })
    }

    /// Whether it sees a transaction that was committed. An id without an epoch is of the nearest one.
    pub(super) fn sees(&self, xid: u32) -> bool {
        let low = |whole: u64| u32::try_from(whole & u64::from(u32::MAX)).unwrap_or_default();
        let ahead = xid.wrapping_sub(low(self.xmax));
        ahead > u32::MAX / 2 && !self.running.iter().any(|running| low(*running) == xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_has_ended_before_it() {
        let snapshot = Snapshot::read("10:20:10,15").expect("a snapshot");
        for (xid, seen) in
            [(9, true), (10, false), (11, true), (15, false), (19, true), (20, false), (21, false)]
        {
            assert_eq!(snapshot.sees(xid), seen, "{xid}");
        }
        // The number without an epoch has begun anew.
        let young = Snapshot::read("8589934595:8589934596:").expect("a snapshot");
        for (xid, seen) in [(u32::MAX, true), (3, true), (4, false), (5, false)] {
            assert_eq!(young.sees(xid), seen, "{xid}");
        }
        for text in ["", "1", "1:2", "1:x:", "1:2:x"] {
            assert_eq!(Snapshot::read(text), None, "{text}");
        }
    }

    #[test]
    fn marks_become_assignments() {
        let mark = |column: &str, value| Mark { column: column.to_owned(), optional: false, value };
        let marks = [
            mark("status", MarkValue::AsItIs("SENT".to_owned())),
            mark("Sent at", MarkValue::Now),
            mark("locked_by", MarkValue::Null),
            mark("note", MarkValue::Text("it's".to_owned())),
        ];
        let typed: Vec<_> = marks.iter().map(|mark| (mark, "text")).collect();
        assert_eq!(
            clauses(&typed),
            "status = (CASE WHEN t.status::text OPERATOR(pg_catalog.=) pg_catalog.lower(t.status::text) \
             THEN 'sent' ELSE 'SENT' END)::text, \
             \"Sent at\" = pg_catalog.now(), locked_by = NULL, note = 'it''s'::text"
        );
        let key = |name: &str, type_name: &str| KeyColumn {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            equal: EQUAL.to_owned(),
        };
        let columns = vec![key("id", "uuid"), key("Day", "date")];
        let table =
            WriteBackTable::new(TableName::default(), columns, WriteBackMode::Delete, "", false, false);
        assert!(table.statement.contains(
            "DELETE FROM ONLY outbox.messages t \
             USING ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS k (k1, k2) \
             WHERE t.id OPERATOR(pg_catalog.=) k.k1::uuid AND t.\"Day\" OPERATOR(pg_catalog.=) k.k2::date RETURNING 1"
        ));
    }
}
