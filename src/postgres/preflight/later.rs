//! The table of rows that are sent later: looked at only if the outbox says of its rows when they are due, or if rows wait.

use super::Preflight;
use crate::error::OutboxError;
use crate::postgres::names::Target;
use crate::postgres::session::Session;
use crate::postgres::table::{RELAY_RIGHTS, ScheduledTable};

const SUBJECT: &str = "later";

pub(super) async fn inspect(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let table = ScheduledTable::of(target);
    let has_due =
        report.tables.iter().filter_map(|table| table.layout.as_ref()).any(|layout| layout.has_due());
    let rights = table.rights(session).await?;
    let required = table.require(rights.as_ref(), &RELAY_RIGHTS);
    if let Err(error) = required {
        // A table of that name may be somebody else's.
        if has_due {
            let text = format!("rows may be due later, and can't be held back: {error}");
            let advice = error.advice().unwrap_or_default().to_owned();
            let found = super::Finding::fail(SUBJECT, text, advice);
            // Of a table that is there, what is missing are rights.
            report.findings.push(if rights.is_some() { found.all_sql() } else { found });
        }
        return Ok(());
    }
    if !has_due && !table.is_known(session).await? {
        return Ok(());
    }
    let found = table.found(session).await?;
    report.delivers_later = has_due || found.any;
    if report.delivers_later && report.seal.secret.is_none() {
        let text = "rows may be due later, and there is no seal by which they are known again";
        report.fail(SUBJECT, text, "run `walpost setup` again: it makes what is missing");
    }
    for source in &found.unserved {
        let (text, advice) = table.unserved(source);
        report.warn(SUBJECT, text, advice);
    }
    Ok(())
}

/// Counts the rows that wait, if they may: whoever runs a relay need not know.
///
/// # Errors
/// The session broke, or the table can't be read.
pub async fn inspect_waiting(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    if report.delivers_later && report.seal.secret.is_some() {
        let table = ScheduledTable::of(target);
        let waiting = table.waiting(session).await?;
        report.good(SUBJECT, format!("{}: {}", table.name(), waiting.describe()));
    }
    Ok(())
}
