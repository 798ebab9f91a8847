//! How much waits beside the outbox, for metrics: dead letters, and rows that are sent later.

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::dead_letter_office::DeadLetterOffice;
use super::scheduled::ScheduledTable;
use crate::error::OutboxError;
use crate::postgres::names::{TableName, Target, quote_literal};
use crate::postgres::session::{Cells, sql_error};
use crate::vitals::DeskSight;

/// More are not counted: that many say enough, and counting millions now and then would cost the server something.
const MOST: u32 = 10_000;

/// The session is the one that proves the lease, and must not wait: a table that is locked is looked at later.
const AT_ONCE: &str = "SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '500ms'";

/// Both tables of one target.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    letters: TableName,
    scheduled: TableName,
    slot: String,
}

impl Desk {
    pub(crate) fn of(target: &Target) -> Self {
        Desk {
            letters: DeadLetterOffice::of(target).table().clone(),
            scheduled: ScheduledTable::of(target).name().clone(),
            slot: quote_literal(&target.slot),
        }
    }

    /// Counts what waits in those tables that are there and may be read.
    ///
    /// # Errors
    /// The session broke, or a table did not answer at once.
    pub(crate) async fn look(&self, client: &Client) -> Result<DeskSight, OutboxError> {
        let failed = |error| sql_error("counting what waits beside the outbox", error);
        let sql = format!(
            "SELECT {}, {}",
            readable(&self.letters, &["slot", "done_at"]),
            readable(&self.scheduled, &["slot", "due", "released_at"])
        );
        let row = client.query_one(&sql, &[]).await.map_err(failed)?;
        let (letters, scheduled): (bool, bool) = (row.cell(0)?, row.cell(1)?);
        let count = |table: &TableName, open: &str| {
            let slot = &self.slot;
            format!(
                "(SELECT count(*) FROM (SELECT FROM {table} WHERE slot = {slot} AND {open} IS NULL LIMIT {MOST}) n)"
            )
        };
        let (mut letters_sql, mut held_sql, mut due_sql) = (nothing(), nothing(), nothing());
        if letters {
            letters_sql = count(&self.letters, "done_at");
        }
        if scheduled {
            held_sql = count(&self.scheduled, "released_at");
            due_sql = format!(
                "(SELECT extract(epoch FROM min(due)) FROM {} WHERE slot = {} AND released_at IS NULL)",
                self.scheduled, self.slot
            );
        }
        // One message, so that it is one transaction, whose settings end with it.
        let sql = format!("{AT_ONCE}; SELECT {letters_sql}, {held_sql}, {due_sql}");
        let answer = client.simple_query(&sql).await.map_err(failed)?;
        let row = answer.iter().find_map(|part| match part {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.map(sight).unwrap_or_default())
    }
}

fn nothing() -> String {
    "NULL".to_owned()
}

fn sight(row: &SimpleQueryRow) -> DeskSight {
    let text = |column| row.try_get(column).ok().flatten();
    let number = |column| text(column).and_then(|text| text.parse().ok());
    // A row may be due at infinity.
    let next_due = text(2).and_then(|text| text.parse().ok()).filter(|at: &f64| at.is_finite());
    DeskSight { dead_letters: number(0), held: number(1), next_due }
}

/// Whether the table is there, is the one that `walpost setup` makes, and may be read. Only the catalog is asked: what
/// would fail would fail again and again, in the server's log.
fn readable(table: &TableName, columns: &[&str]) -> String {
    let names: Vec<_> = columns.iter().map(|name| quote_literal(name)).collect();
    format!(
        "EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND c.relkind IN ('r', 'p') \
         AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') \
         AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped \
           AND a.attname IN ({})) = {})",
        quote_literal(&table.schema),
        quote_literal(&table.name),
        names.join(", "),
        columns.len()
    )
}
