//! `walpost replay`: sends chosen rows once more.

use super::arguments::ReplayRowsArguments;
use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{
    Cells, Outbox, Session, TableName, Target, quote_literal, replay as replay_rows, since,
};

/// Asks for the rows through the log; a relay that runs sends them at once.
pub(super) async fn replay(arguments: &ReplayRowsArguments, config: &Config) -> Result<(), OutboxError> {
    let outbox = chosen(arguments.of.as_deref(), &config.target)?;
    let mut conditions = Vec::new();
    if let Some(time) = &arguments.since {
        conditions.push(since(outbox, time)?);
    }
    if let Some(condition) = &arguments.condition {
        conditions.push(format!("({condition})"));
    }
    let session = Session::open_any(&config.database).await?;
    let count = replay_rows(&session, &config.target, &outbox.table, &conditions.join(" AND ")).await?;
    let when = readers(&session, &config.target.slot).await?;
    output::say(&format!("{count} rows of {} are sent again{when}", outbox.table));
    Ok(())
}

/// Who sends them, or that nobody does so far.
async fn readers(session: &Session, slot: &str) -> Result<String, OutboxError> {
    let sql =
        format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = {}", quote_literal(slot));
    let row = session.query_one_row("asking who reads the slot", &sql).await?;
    let pid: Option<i32> = row.map(|row| row.cell(0)).transpose()?.flatten();
    Ok(match pid {
        Some(pid) => format!(": slot {slot} is read by PID {pid}"),
        None => format!(" once a relay reads slot {slot}: nobody does now"),
    })
}

/// The outbox whose rows are meant.
fn chosen<'a>(of: Option<&str>, target: &'a Target) -> Result<&'a Outbox, OutboxError> {
    let advice = || format!("name one of {} with --of", target.tables());
    let Some(of) = of else {
        return if target.others.is_empty() {
            Ok(&target.main)
        } else {
            Err(OutboxError::usage("there are several tables", advice()))
        };
    };
    let table: TableName = of.parse()?;
    let found = target.outboxes().find(|outbox| outbox.table == table);
    found.ok_or_else(|| OutboxError::usage(format!("{table} is none of the relay's tables"), advice()))
}
