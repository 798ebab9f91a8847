//! The outbox tables: whether they are there, and what their columns are.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Finding, Outcome, Preflight, rows};
use crate::error::OutboxError;
use crate::postgres::names::{Outbox, Target, quote_literal};
use crate::postgres::session::{Cells, Session};
use crate::postgres::table::{ColumnTypes, Layout};

/// What is known of one outbox table.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The object id, by which it is followed through a rename.
    pub(crate) oid: Option<u32>,
    pub(crate) columns: Vec<TableColumn>,
    /// How a row becomes a message.
    pub(crate) layout: Option<Arc<Layout>>,
    /// Optional columns that the table doesn't have.
    pub(crate) absent_columns: Vec<String>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    /// The type as SQL writes it.
    pub(crate) type_name: String,
}

/// Looks at every table.
pub(super) async fn inspect(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let mut bases = HashMap::new();
    for outbox in target.outboxes() {
        let survey = table(session, outbox, &mut bases, report).await?;
        report.tables.push(survey);
    }
    report.column_types = ColumnTypes::new(bases);
    for (outbox, index) in target.outboxes().zip(0..) {
        layout(outbox, index, report);
    }
    Ok(())
}

async fn table(
    session: &Session,
    outbox: &Outbox,
    bases: &mut HashMap<u32, u32>,
    report: &mut Preflight,
) -> Result<Survey, OutboxError> {
    let (table, mut survey) = (&outbox.table, Survey::default());
    let sql = format!(
        "SELECT c.oid, c.relkind::text, c.relpersistence::text FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    let Some(row) = rows(session, &sql).await?.pop() else {
        let advice = if outbox.mapping.made_by_setup {
            "run `walpost setup`, or name the table with --table"
        } else {
            "name the table with --table; --preset tells how it is made up"
        };
        report.fail("table", format!("table {table} does not exist"), advice);
        return Ok(survey);
    };
    let oid: u32 = row.cell(0)?;
    survey.oid = Some(oid);
    let (kind, persistence): (String, String) = (row.cell(1)?, row.cell(2)?);
    if !matches!(kind.as_str(), "r" | "p") {
        report.fail("table", format!("{table} is no table"), "name a table with --table");
    } else if persistence != "p" {
        let advice = format!("ALTER TABLE {table} SET LOGGED;");
        report.fail("table", format!("{table} is not in the write-ahead log"), advice);
    } else {
        survey.columns = columns(session, oid, bases).await?;
    }
    Ok(survey)
}

async fn columns(
    session: &Session,
    oid: u32,
    bases: &mut HashMap<u32, u32>,
) -> Result<Vec<TableColumn>, OutboxError> {
    let sql = format!(
        "WITH RECURSIVE base AS (SELECT oid, oid AS base, typbasetype FROM pg_type UNION ALL \
         SELECT b.oid, t.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typbasetype) \
         SELECT a.attname::text, a.atttypid, b.base, format_type(a.atttypid, a.atttypmod) \
         FROM pg_attribute a JOIN base b ON b.oid = a.atttypid AND b.typbasetype = 0 \
         WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
    );
    let mut columns = Vec::new();
    for row in &rows(session, &sql).await? {
        let column = TableColumn { name: row.cell(0)?, type_oid: row.cell(1)?, type_name: row.cell(3)? };
        bases.insert(column.type_oid, row.cell::<u32, _>(2)?);
        columns.push(column);
    }
    Ok(columns)
}

/// Holds the mapping against the columns.
fn layout(outbox: &Outbox, index: usize, report: &mut Preflight) {
    let Some(survey) = report.tables.get_mut(index).filter(|survey| !survey.columns.is_empty()) else {
        return;
    };
    let columns = survey.columns.iter().map(|column| (column.name.as_str(), column.type_oid));
    match Layout::new(outbox, columns, &report.column_types) {
        Ok(layout) => {
            let text = format!("{}: {}", outbox.table, layout.describe());
            survey.absent_columns = layout.absent();
            survey.layout = Some(Arc::new(layout));
            report.good("table", text);
        }
        Err(error) => {
            let outcome = Outcome::Failure(error.in_table(&outbox.table));
            report.findings.push(Finding { subject: "table", outcome });
        }
    }
}
