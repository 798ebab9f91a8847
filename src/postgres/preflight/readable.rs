//! Whether the log can be read from where the slot stands. Servers before 18 decode a row with the catalog of its own time, and
//! fail at one for which there was no publication, also when it is back.
//!
//! A publication that was only altered looks the same in the catalog, so the log itself is read: a temporary copy of the slot,
//! for no longer than a moment; nothing of the slot is moved.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::slot::may_be_skipped;
use super::{Finding, Preflight};
use crate::error::OutboxError;
use crate::postgres::names::{Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session, sql_error};
use crate::postgres::settings::Settings;
use crate::postgres::slot::{copy_temporary, move_to_the_end, publication_names};

const READING: &str = "reading the log behind the slot";
/// How long the log is read for, and how long the server may work on one statement; less, so that it says so itself.
const PATIENCE: Duration = Duration::from_secs(3);
const STATEMENT: Duration = Duration::from_secs(2);
/// So many changes are asked for at a time: the server collects them before it sends any.
const CHANGES: i64 = 10_000;

/// What was read.
enum Read {
    ToTheEnd,
    /// It takes too long to know more.
    InPart,
    /// The server can't read on.
    Stuck(OutboxError),
}

/// Looks whether a relay could read the log, where the catalog leaves it in doubt; gives a failure if it could not. What was
/// warned of without knowing is corrected.
pub(crate) async fn inspect(settings: &Settings, target: &Target, report: &mut Preflight) -> Option<Finding> {
    if report.server_version >= 180_000 {
        return None;
    }
    let younger = report.younger.take()?;
    // A look that can't be done leaves the warning as it is.
    let read = timeout(2 * PATIENCE, read(settings, target)).await.ok()?.ok()?;
    match read {
        Read::InPart => None,
        Read::ToTheEnd => {
            let told = younger.told.and_then(|at| report.findings.get_mut(at));
            if let Some(told) = told {
                *told = may_be_skipped(target, &younger.rows, false);
            }
            None
        }
        Read::Stuck(error) => {
            if let Some(at) = younger.told {
                report.findings.remove(at);
            }
            Some(stuck(target, &younger.rows, &error))
        }
    }
}

/// The server can't read the slot past rows of a time at which there was no publication.
pub(in crate::postgres) fn stuck(target: &Target, rows: &str, error: &OutboxError) -> Finding {
    let Target { slot, publication, .. } = target;
    let mend = move_to_the_end(slot);
    let text = format!(
        "publication {} was missing while rows were committed that slot {slot} has still to bring, and a server before 18 can't \
         read past them: a relay ends there ({})",
        quote_identifier(publication),
        error.chain()
    );
    let advice = format!(
        "move the slot: {mend}\n\
         what is committed until then and not sent is passed over. Rows are still in the table, among these: {rows}\n\
         then `walpost audit` finds the rows that are in no topic, and prints the `walpost replay` that sends them; events of \
         `emit` are in no table, and do not come again"
    );
    Finding::fail("publication", text, advice).with_sql(mend)
}

async fn read(settings: &Settings, target: &Target) -> Result<Read, OutboxError> {
    let session = Session::open_any(settings).await?;
    let copy = format!("walpost_check_{:016x}", fastrand::u64(..));
    let bounded = format!("SET statement_timeout = {}", STATEMENT.as_millis());
    session.client().batch_execute(&bounded).await.map_err(|error| sql_error(READING, error))?;
    let now = session.query_one_row(READING, "SELECT pg_current_wal_lsn()::text").await?;
    let end: String = now.map_or_else(|| Ok(String::new()), |row| row.cell(0))?;
    copy_temporary(&session, &target.slot, &copy).await?;
    // If time is up, the copy ends with its session.
    let Ok(read) = timeout(PATIENCE, through(&session, target, &copy, &end)).await else {
        return Ok(Read::InPart);
    };
    // Not left to the end of the session, which others need not see; a server that could not read has dropped it already.
    let drop = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {}",
        quote_literal(&copy)
    );
    session.client().batch_execute(&drop).await.map_err(|error| sql_error(READING, error))?;
    read
}

/// Reads a slot of ours up to a place.
async fn through(session: &Session, target: &Target, copy: &str, end: &str) -> Result<Read, OutboxError> {
    let sql = format!(
        "SELECT count(*) FROM pg_logical_slot_get_binary_changes({}, {}, {CHANGES}, 'proto_version', '1', \
         'publication_names', '{}')",
        quote_literal(copy),
        quote_literal(end),
        publication_names(target)
    );
    loop {
        match session.client().query_one(&sql, &[]).await {
            Ok(row) if row.cell::<i64, _>(0)? < CHANGES => return Ok(Read::ToTheEnd),
            Ok(_) => {}
            // The copy is there, so it is the publication that is not.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
                return Ok(Read::Stuck(sql_error(READING, error)));
            }
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => return Ok(Read::InPart),
            Err(error) => return Err(sql_error(READING, error)),
        }
    }
}
