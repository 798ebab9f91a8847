//! What the login may do with a table that the relay writes to, and the grants that it lacks.

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::letter::Rights;
use crate::error::OutboxError;
use crate::postgres::names::{TableName, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session};

/// What the relay needs on a table that it writes to.
pub(crate) const RELAY_RIGHTS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

/// What the login may do; `None` when there is no such table. Only the catalog is read.
pub(super) async fn of(session: &Session, table: &TableName) -> Result<Option<Rights>, OutboxError> {
    let sql = format!(
        "SELECT quote_ident(current_user), has_schema_privilege(n.oid, 'USAGE'), ARRAY(SELECT p.name \
           FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY p (name, number) \
           WHERE NOT has_table_privilege(c.oid, p.name) ORDER BY p.number), pg_is_in_recovery() \
         FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p') \
         WHERE n.nspname = {} AND c.relname = {}",
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    let row = session.query_one_row(&format!("looking for {table}"), &sql).await?;
    let rights = |row: Row| {
        Ok(Rights { role: row.cell(0)?, usage: row.cell(1)?, lacking: row.cell(2)?, standby: row.cell(3)? })
    };
    row.map(rights).transpose()
}

/// What is missing, as a definite error with its mend; these rights are needed.
pub(super) fn require(
    table: &TableName,
    rights: Option<&Rights>,
    needed: &[&str],
) -> Result<(), OutboxError> {
    let Some(rights) = rights else {
        return Err(OutboxError::definite(
            format!("table {table} does not exist"),
            "run `walpost setup` again: it makes what is missing and leaves the rest as it is",
        ));
    };
    let lacking: Vec<_> =
        rights.lacking.iter().map(String::as_str).filter(|right| needed.contains(right)).collect();
    let mut grants = Vec::new();
    if !rights.usage {
        grants.push(format!("GRANT USAGE ON SCHEMA {} TO {};", quote_identifier(&table.schema), rights.role));
    }
    if !lacking.is_empty() {
        grants.push(format!("GRANT {} ON {table} TO {};", lacking.join(", "), rights.role));
    }
    if grants.is_empty() {
        return Ok(());
    }
    Err(OutboxError::definite(
        format!("role {} lacks rights on table {table}", rights.role),
        grants.join(" "),
    ))
}

/// The error of a statement on the table, with the mend where something is missing.
pub(super) fn advised(table: &TableName, code: Option<&SqlState>, failed: OutboxError) -> OutboxError {
    if code == Some(&SqlState::UNDEFINED_TABLE) || code == Some(&SqlState::UNDEFINED_COLUMN) {
        return failed
            .with_advice("run `walpost setup` again: it makes what is missing and leaves the rest as it is");
    }
    if code == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        let schema = &table.schema;
        return failed.with_advice(format!(
            "GRANT USAGE ON SCHEMA {schema} TO <the relay's role>; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO <the relay's role>;"
        ));
    }
    failed
}
