//! The secret that tells events in the log from what others write there.

use uuid::Uuid;

use super::{Preflight, rows};
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::postgres::names::{Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session};

/// What is known of the secret.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seal {
    /// None if there is none: set up by an earlier version, or not by this program.
    pub(crate) secret: Option<Uuid>,
    /// How far the log was when it was read.
    pub(crate) as_of: Lsn,
}

/// Reads it.
pub(super) async fn inspect(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let table = format!("{}.walpost_seal", quote_identifier(&target.table.schema));
    let sql = format!(
        "SELECT coalesce(has_table_privilege(to_regclass({0}), 'SELECT'), false), to_regclass({0}) IS NOT NULL, \
         CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END::text",
        quote_literal(&table)
    );
    let Some(row) = rows(session, &sql).await?.pop() else { return Ok(()) };
    let as_of: Option<String> = row.cell(2)?;
    report.seal.as_of = as_of.and_then(|text| text.parse().ok()).unwrap_or_default();
    match (row.cell::<bool, _>(0)?, row.cell::<bool, _>(1)?) {
        (true, _) => {
            let row = rows(session, &format!("SELECT secret FROM {table}")).await?.pop();
            report.seal.secret = row.map(|row| row.cell(0)).transpose()?;
        }
        (false, true) => report.fail(
            "seal",
            format!("{table} can't be read, by which events in the log are known"),
            format!("GRANT SELECT ON {table} TO <the relay's role>; or run `walpost setup` again"),
        ),
        (false, false) => {}
    }
    Ok(())
}
