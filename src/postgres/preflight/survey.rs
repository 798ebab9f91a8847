//! The outbox tables: whether they are there, and what their columns are.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Row;

use super::{Finding, Preflight, conditions, rows};
use crate::debezium::ColumnFacts;
use crate::error::OutboxError;
use crate::mapping::{Account, PartAccount};
use crate::postgres::names::{Outbox, TableName, Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session};
use crate::postgres::table::{ColumnTypes, Layout, WriteBackTable, listed};

/// What is known of one outbox table.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The object id, by which it is followed through a rename.
    pub(crate) oid: Option<u32>,
    /// It is a table whose rows are in the log.
    pub(crate) is_fit: bool,
    pub(crate) is_partitioned: bool,
    /// The columns that the stream has.
    pub(crate) columns: Vec<TableColumn>,
    /// Generated columns that it has not.
    pub(crate) generated: Vec<String>,
    /// How a row becomes a message.
    pub(crate) layout: Option<Arc<Layout>>,
    /// Optional columns that the table doesn't have.
    pub(crate) absent_columns: Vec<String>,
    /// How rows are written back, if they are.
    pub(crate) write_back: Option<WriteBackTable>,
}

impl Survey {
    /// The columns by which rows are written back.
    pub(crate) fn row_key(&self) -> Vec<String> {
        let key = self.write_back.iter().flat_map(|table| table.key());
        key.map(|column| column.name.clone()).collect()
    }

    /// Names and types of the columns.
    pub(super) fn described(&self) -> Vec<(&str, &str)> {
        self.columns.iter().map(|column| (column.name.as_str(), column.type_name.as_str())).collect()
    }
}

/// A column of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    /// The type as SQL writes it.
    pub(crate) type_name: String,
    /// The same without length or scale.
    pub(crate) bare_type: String,
}

/// Looks at every table.
pub(super) async fn inspect(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let (mut bases, mut facts, mut conditions) = (HashMap::new(), Vec::new(), Vec::new());
    for outbox in target.outboxes() {
        let mut survey = table(session, outbox, report).await?;
        if let Some(oid) = survey.oid.filter(|_| survey.is_fit) {
            let of_columns = columns(session, oid, target, &mut survey, &mut bases).await?;
            let asked = conditions::inspect(session, outbox, &survey.columns, &of_columns).await?;
            facts.push((outbox.table.clone(), of_columns));
            match asked {
                Ok(texts) => conditions.push((outbox.table.clone(), texts)),
                Err(error) => {
                    report.findings.push(Finding::error("mapping", error));
                    survey.is_fit = false;
                }
            }
        }
        report.tables.push(survey);
    }
    report.column_types = ColumnTypes::new(bases, facts).with_conditions(conditions);
    for (outbox, index) in target.outboxes().zip(0..) {
        layout(outbox, index, report);
    }
    Ok(())
}

/// Whether a table is there, and whether its rows are in the log.
async fn table(session: &Session, outbox: &Outbox, report: &mut Preflight) -> Result<Survey, OutboxError> {
    let table = &outbox.table;
    let sql = format!(
        "SELECT c.oid, c.relkind::text, c.relpersistence::text, \
         (SELECT string_agg(inhrelid::regclass::text, ', ' ORDER BY inhrelid) FROM pg_inherits \
           WHERE inhparent = c.oid AND c.relkind = 'r') FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    let Some(row) = rows(session, &sql).await?.pop() else {
        let otherwise = otherwise_written(session, table).await?;
        let advice = if let Some(name) = otherwise {
            format!(
                "there is {name}: write it so, with --table; names are told apart by the case of their letters"
            )
        } else if outbox.mapping.made_by_setup {
            "run `walpost setup`, or name the table with --table".to_owned()
        } else {
            "name the table with --table; --preset tells how it is made up".to_owned()
        };
        report.fail("table", format!("table {table} does not exist"), advice);
        return Ok(Survey::default());
    };
    let (kind, persistence): (String, String) = (row.cell(1)?, row.cell(2)?);
    let is_fit = matches!(kind.as_str(), "r" | "p") && persistence == "p";
    if !matches!(kind.as_str(), "r" | "p") {
        report.fail("table", format!("{table} is no table"), "name a table with --table");
    } else if !is_fit {
        let mend = format!("ALTER TABLE {table} SET LOGGED;");
        report.fail_by_sql("table", format!("{table} is not in the write-ahead log"), mend);
    } else {
        report.good("table", table.to_string());
    }
    if let Some(children) = row.cell::<Option<String>, _>(3)? {
        report.warn(
            "table",
            format!("rows that are inserted into {children}, which inherit from {table}, are not sent"),
            format!("insert into {table} itself, or name those tables with --table as well"),
        );
    }
    Ok(Survey { oid: Some(row.cell(0)?), is_fit, is_partitioned: kind == "p", ..Survey::default() })
}

/// The table whose name differs in nothing but the case of letters, as SQL writes it, if there is just one.
async fn otherwise_written(session: &Session, table: &TableName) -> Result<Option<TableName>, OutboxError> {
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND lower(n.nspname) = lower({}) AND lower(c.relname) = lower({})",
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    match rows(session, &sql).await?.as_slice() {
        [row] => Ok(Some(TableName { schema: row.cell(0)?, name: row.cell(1)? })),
        _ => Ok(None),
    }
}

/// The columns; those that are generated are in the stream only if a publication of 18 or later says so.
async fn columns(
    session: &Session,
    oid: u32,
    target: &Target,
    survey: &mut Survey,
    bases: &mut HashMap<u32, u32>,
) -> Result<HashMap<String, ColumnFacts>, OutboxError> {
    let sql = format!(
        "WITH RECURSIVE base AS (SELECT oid, oid AS base, typbasetype, typtypmod FROM pg_type UNION ALL \
         SELECT b.oid, t.oid, t.typbasetype, CASE b.typtypmod WHEN -1 THEN t.typtypmod ELSE b.typtypmod END \
         FROM base b JOIN pg_type t ON t.oid = b.typbasetype) \
         SELECT a.attname::text, a.atttypid, b.base, format_type(a.atttypid, a.atttypmod), bt.typname::text, dt.typname::text, \
         CASE a.atttypmod WHEN -1 THEN b.typtypmod ELSE a.atttypmod END, NOT (a.attnotnull OR dt.typnotnull), \
         CASE a.attgenerated WHEN '' THEN pg_get_expr(d.adbin, d.adrelid) END, \
         ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = b.base ORDER BY e.enumsortorder), \
         format_type(a.atttypid, -1), \
         a.attgenerated <> '' AND NOT (current_setting('server_version_num')::int4 >= 180000 AND EXISTS ( \
           SELECT FROM pg_publication_tables p JOIN pg_class c ON c.oid = a.attrelid \
           WHERE p.pubname = {} AND p.tablename = c.relname AND p.schemaname = c.relnamespace::regnamespace::text \
             AND to_jsonb(p) -> 'attnames' ? a.attname::text)) \
         FROM pg_attribute a JOIN base b ON b.oid = a.atttypid AND b.typbasetype = 0 \
         JOIN pg_type bt ON bt.oid = b.base JOIN pg_type dt ON dt.oid = a.atttypid \
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        quote_literal(&target.publication)
    );
    let mut facts = HashMap::new();
    for row in &rows(session, &sql).await? {
        let (name, type_oid, type_name): (String, u32, String) = (row.cell(0)?, row.cell(1)?, row.cell(3)?);
        if row.cell(11)? {
            survey.generated.push(name);
            continue;
        }
        bases.insert(type_oid, row.cell::<u32, _>(2)?);
        facts.insert(name.clone(), column_facts(row)?);
        survey.columns.push(TableColumn { name, type_oid, type_name, bare_type: row.cell(10)? });
    }
    Ok(facts)
}

/// What else is said of a column.
fn column_facts(row: &Row) -> Result<ColumnFacts, OutboxError> {
    Ok(ColumnFacts {
        type_oid: row.cell(2)?,
        type_name: row.cell(4)?,
        declared: row.cell(5)?,
        modifier: row.cell(6)?,
        nullable: row.cell(7)?,
        default: row.cell(8)?,
        labels: row.cell(9)?,
    })
}

/// Holds the mapping against the columns.
fn layout(outbox: &Outbox, index: usize, report: &mut Preflight) {
    let Some(survey) = report.tables.get_mut(index).filter(|survey| survey.is_fit) else { return };
    let columns = survey.columns.iter().map(|column| (column.name.as_str(), column.type_oid));
    match Layout::new(outbox, columns, &report.column_types) {
        Ok(layout) => {
            survey.absent_columns = layout.absent();
            survey.layout = Some(Arc::new(layout));
            let text = account(outbox, &survey.described());
            let unsent = survey.absent_columns.iter().find(|name| survey.generated.contains(name)).cloned();
            report.good("mapping", text);
            if let Some(column) = unsent {
                let (table, column) = (&outbox.table, quote_identifier(&column));
                let text = format!(
                    "column {column} of {table} is generated, and the server does not send it: messages go on without it"
                );
                report.warn(
                    "mapping",
                    text,
                    "name the columns that it is made of, or make it an ordinary one that a trigger fills",
                );
            }
        }
        Err(error) => {
            let error = error.where_generated(&survey.generated).in_outbox(outbox, &survey.described());
            report.findings.push(Finding::error("mapping", error));
        }
    }
}

/// Which columns became which part, a line each.
fn account(outbox: &Outbox, columns: &[(&str, &str)]) -> String {
    if let Some(contract) = &outbox.mapping.contract {
        return format!("{} {contract}", outbox.table);
    }
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let Account { parts, unused } = outbox.mapping.account(&names);
    let of = |wanted: &[String]| {
        let column = |wanted: &String| columns.iter().find(|(name, _)| name == wanted).copied();
        listed(&wanted.iter().filter_map(column).collect::<Vec<_>>())
    };
    let mut lines = vec![format!("{} by preset {}", outbox.table, outbox.mapping.preset)];
    for PartAccount { entry, written, made_of, absent } in &parts {
        let mut told = Vec::new();
        if !made_of.is_empty() {
            told.push(of(made_of));
        }
        told.extend(absent.iter().map(|column| format!("no column {}", quote_identifier(column))));
        let told = if told.is_empty() { String::new() } else { format!("  <- {}", told.join(", ")) };
        lines.push(format!("{entry:<14} {written}{told}"));
    }
    if !unused.is_empty() {
        lines.push(format!("{:<14} {}", "not used", of(&unused)));
    }
    lines.join("\n")
}
