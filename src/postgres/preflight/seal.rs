//! The secret that tells events in the log from what others write there.

use tokio_postgres::Client;
use uuid::Uuid;

use super::{Finding, Preflight, rows};
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::postgres::names::{Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session, sql_error};
use crate::postgres::table::emitted::secret_sql;

/// What is known of the secret.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seal {
    /// None if there is none: set up by an earlier version, or not by this program.
    pub(crate) secret: Option<Uuid>,
    /// There is one that the relay may not read: the table, and the grants that mend it.
    hidden: Option<(String, String)>,
    /// How far the log was when it was read.
    pub(crate) as_of: Lsn,
}

impl Seal {
    /// Why an event can't be judged, if there is a secret that can't be read.
    pub(crate) fn refusal(&self) -> Option<OutboxError> {
        let (table, grants) = self.hidden.as_ref()?;
        Some(OutboxError::definite(
            format!("the log holds an event, and {table} can't be read, by which events are known"),
            grants,
        ))
    }
}

/// Reads it again, and where the log ended before.
pub(crate) async fn read_again(client: &Client, target: &Target) -> Result<(Option<Uuid>, Lsn), OutboxError> {
    let failed = |error| sql_error("reading the seal", error);
    // One after the other, since a statement sees what was committed before it began.
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.map_err(failed)?;
    let as_of = row.cell::<String, _>(0)?.parse().unwrap_or_default();
    let row = client.query_opt(&secret_sql(&table(target)), &[]).await.map_err(failed)?;
    Ok((row.map(|row| row.cell(0)).transpose()?, as_of))
}

/// The table that holds it.
fn table(target: &Target) -> String {
    format!("{}.walpost_seal", quote_identifier(&target.main.table.schema))
}

/// Reads it. A relay that sends rows alone can do without.
pub(super) async fn inspect(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let table = table(target);
    let sql = format!(
        "SELECT has_schema_privilege(n.oid, 'USAGE'), \
         CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END::text, \
         has_table_privilege(c.oid, 'SELECT'), current_user::text \
         FROM (SELECT) one LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND nspname = {}) \
         ON relname = 'walpost_seal'",
        quote_literal(&target.main.table.schema)
    );
    let Some(row) = rows(session, &sql).await?.pop() else { return Ok(()) };
    let as_of: Option<String> = row.cell(1)?;
    report.seal.as_of = as_of.and_then(|text| text.parse().ok()).unwrap_or_default();
    let (usage, select): (Option<bool>, Option<bool>) = (row.cell(0)?, row.cell(2)?);
    match usage.zip(select) {
        Some((true, true)) => {
            let row = rows(session, &secret_sql(&table)).await?.pop();
            report.seal.secret = row.map(|row| row.cell(0)).transpose()?;
        }
        Some((usage, select)) => {
            let text = format!(
                "{table} can't be read: an event of `emit`, or a row that is replayed, stops the relay"
            );
            let role = quote_identifier(&row.cell::<String, _>(3)?);
            let schema = quote_identifier(&target.main.table.schema);
            let usage = (!usage).then(|| format!("GRANT USAGE ON SCHEMA {schema} TO {role};"));
            let select = (!select).then(|| format!("GRANT SELECT ON {table} TO {role};"));
            let grants = usage.into_iter().chain(select).collect::<Vec<_>>().join(" ");
            report.findings.push(Finding::warn("seal", text, grants.clone()).all_sql());
            report.seal.hidden = Some((table, grants));
        }
        None => {}
    }
    Ok(())
}
