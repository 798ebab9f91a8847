//! The replication slot: made when it is missing, and read from where it stands.

use tokio_postgres::error::SqlState;

use super::names::{TableName, Target, quote_identifier, quote_literal};
use super::session::{Cells, Session, sql_error};
use crate::error::OutboxError;
use crate::lsn::Lsn;

/// The prefix of logical messages to the relay of a slot; their content is the slot's name.
pub(crate) const MESSAGE_PREFIX: &str = "walpost.dead_letters";

/// How long making a slot may wait for older transactions before they are named.
const CREATE_TIMEOUT: &str = "20s";

/// Makes the slot. On 17 and later it is a failover slot.
///
/// # Errors
/// No right, no free slot (`max_replication_slots`), or older transactions are still writing.
pub(crate) async fn create(session: &Session, slot: &str, server_version: i32) -> Result<(), OutboxError> {
    let options = if server_version >= 170_000 { "false, false, true" } else { "false" };
    match make(session, slot, options).await {
        // Another relay was quicker.
        Err(error) if error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT.code()) => Ok(()),
        made => made,
    }
}

/// Makes a slot that ends with its session.
///
/// # Errors
/// The same.
pub(crate) async fn create_temporary(session: &Session, slot: &str) -> Result<(), OutboxError> {
    make(session, slot, "true").await
}

/// Copies a slot, with the place at which it stands, until the session ends.
///
/// # Errors
/// No right, or no free slot.
///
/// Source: PostgreSQL documentation, "Replication Management Functions".
#[cfg(feature = "cli")]
pub(super) async fn copy_temporary(session: &Session, slot: &str, copy: &str) -> Result<(), OutboxError> {
    let during = format!("keeping the position of slot {slot}");
    let (slot, copy) = (quote_literal(slot), quote_literal(copy));
    let sql = format!("SELECT pg_copy_logical_replication_slot({slot}, {copy}, true)");
    session.client().batch_execute(&sql).await.map_err(|error| {
        let full = error.code() == Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED);
        let error = sql_error(&during, error);
        let advice = "a slot is needed for as long as this runs: raise max_replication_slots, or drop one that nobody reads";
        if full { error.with_advice(advice) } else { error }
    })
}

/// How to go on behind a slot that is lost: the one place that says it.
pub(crate) fn make_anew(slot: &str) -> String {
    format!(
        "SELECT pg_drop_replication_slot({}); then `walpost setup` makes it anew, and `walpost run` goes on from there; \
         {SEND_WHAT_IS_MISSING}",
        quote_literal(slot)
    )
}

/// How to get a slot past rows of a time at which there was no publication.
pub(super) fn move_past_them(slot: &str) -> String {
    format!(
        "Servers before 18 can't read the slot past such rows: move it, {} start again; {SEND_WHAT_IS_MISSING}",
        move_to_the_end(slot)
    )
}

/// The statement that moves a slot past all that is committed.
pub(super) fn move_to_the_end(slot: &str) -> String {
    format!("SELECT pg_replication_slot_advance({}, pg_current_wal_lsn());", quote_literal(slot))
}

/// What follows when rows were passed over.
pub(crate) const SEND_WHAT_IS_MISSING: &str = "`walpost audit` finds the rows that are in no topic, and prints the `walpost \
     replay` that sends them";

async fn make(session: &Session, slot: &str, options: &str) -> Result<(), OutboxError> {
    let sql =
        format!("SELECT pg_create_logical_replication_slot({}, 'pgoutput', {options})", quote_literal(slot));
    let during = format!("making slot {slot}");
    let timed = format!("SET statement_timeout = '{CREATE_TIMEOUT}'");
    session.client().batch_execute(&timed).await.map_err(|error| sql_error(&during, error))?;
    let created = session.client().batch_execute(&sql).await;
    let reset = session.client().batch_execute("SET statement_timeout = 0").await;
    match created {
        Ok(()) => reset.map_err(|error| sql_error(&during, error)),
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Err(blocked(session, &during).await),
        Err(error) => Err(sql_error(&during, error)),
    }
}

/// Where the slot stands: all before it is confirmed.
///
/// # Errors
/// The session broke, or the slot is gone.
pub(crate) async fn position(session: &Session, slot: &str) -> Result<Lsn, OutboxError> {
    let sql = format!(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = {}",
        quote_literal(slot)
    );
    let row = session.query_one_row("reading the slot's position", &sql).await?;
    let text: Option<String> = row.map(|row| row.cell(0)).transpose()?.flatten();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| OutboxError::transient(format!("slot {slot} has no position")))
}

/// Names the oldest transaction that a new slot, or a lock, waits for.
pub(crate) async fn blocked(session: &Session, during: &str) -> OutboxError {
    let sql = "SELECT format('PID %s of role %s, writing since %s', pid, usename, xact_start) \
               FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() \
               ORDER BY xact_start LIMIT 1";
    let oldest = session.client().query_opt(sql, &[]).await.ok().flatten();
    let oldest = oldest.and_then(|row| row.cell(0).ok()).unwrap_or_else(|| "unknown".to_owned());
    OutboxError::transient(format!("{during} has to wait while older transactions are writing"))
        .with_advice(format!("wait for the oldest one, or end it: {oldest}"))
}

/// The command that starts the stream where the slot stands.
///
/// Protocol 1 knows no streaming of transactions in progress: only what has committed is sent.
/// Source: PostgreSQL documentation, "Logical Streaming Replication Parameters".
pub(crate) fn start_command(target: &Target, binary: bool) -> String {
    let publication = publication_names(target);
    let binary = if binary { ", binary 'true'" } else { "" };
    format!(
        "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names '{publication}', messages 'true'{binary})",
        quote_identifier(&target.slot)
    )
}

/// The publication in the list that the plugin takes, for between quotes.
pub(super) fn publication_names(target: &Target) -> String {
    // A list of identifiers inside a literal: each has its own quotes, whatever it is made of.
    format!("\"{}\"", target.publication.replace('"', "\"\"")).replace('\'', "''")
}

/// What a slot that is missing, and is made now, would not send: the error if any table has rows.
///
/// # Errors
/// The session broke, or a table can't be read.
pub(crate) async fn unsent(session: &Session, target: &Target) -> Result<Option<OutboxError>, OutboxError> {
    for outbox in target.outboxes() {
        if session.has_rows(&outbox.table).await? {
            return Ok(Some(unsent_rows(&target.slot, &outbox.table)));
        }
    }
    Ok(None)
}

fn unsent_rows(slot: &str, table: &TableName) -> OutboxError {
    OutboxError::definite(
        format!("slot {slot} does not exist, and {table} has rows that it would not send"),
        format!(
            "a first start: run `walpost setup` as the owner, which makes the slot; rows that are there already are sent only \
             with --backfill pending or all. Not the first start: somebody dropped the slot, or a failover lost it, and rows \
             may be missing in the topics: `walpost setup` makes it anew, at once, since what is committed until then is not \
             sent either; `walpost run` goes on from there; {SEND_WHAT_IS_MISSING}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_quotes_what_it_is_given() {
        let mut target = Target::default();
        let plain = "START_REPLICATION SLOT walpost LOGICAL 0/0 (proto_version '1', publication_names '\"walpost\"', messages 'true'";
        assert_eq!(start_command(&target, false), format!("{plain})"));
        assert_eq!(start_command(&target, true), format!("{plain}, binary 'true')"));
        target.publication = "a\"b'c,d".to_owned();
        assert!(start_command(&target, false).contains(r#"publication_names '"a""b''c,d"', "#));
    }
}
