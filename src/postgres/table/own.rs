//! The table that `walpost setup` makes, told from others by its columns.

use crate::error::OutboxError;
use crate::postgres::names::{TableName, quote_literal};
use crate::postgres::session::{Cells, Session};

/// The columns that `publish`, `emit` and `retain` rely on, and their types.
const COLUMNS: [(&str, &str); 8] = [
    ("id", "uuid"),
    ("topic", "text"),
    ("key", "text"),
    ("payload", "json"),
    ("event_type", "text"),
    ("headers", "jsonb"),
    ("correlation_id", "text"),
    ("created_at", "timestamp with time zone"),
];

/// Their names.
pub(crate) fn own_columns() -> [&'static str; 8] {
    COLUMNS.map(|(name, _)| name)
}

/// Whether a table is made up like the one that `walpost setup` makes; `None` if there is none of that name.
pub(crate) async fn is_own(session: &Session, table: &TableName) -> Result<Option<bool>, OutboxError> {
    let columns = COLUMNS.map(|(name, of_type)| format!("('{name}', '{of_type}')"));
    // A payload may as well be JSON in its other form.
    let sql = format!(
        "SELECT (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
           AND (a.attname, CASE format_type(a.atttypid, NULL) WHEN 'jsonb' THEN CASE a.attname WHEN 'payload' THEN 'json' \
             ELSE 'jsonb' END ELSE format_type(a.atttypid, NULL) END) IN ({})) = {} \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
        columns.join(", "),
        COLUMNS.len(),
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    let row = session.query_one_row("looking at the table's columns", &sql).await?;
    row.map(|row| row.cell(0)).transpose()
}
