//! What the server keeps for the slot, asked in one row together with who holds it.

use tokio_postgres::Client;

use super::names::{Target, quote_literal};
use super::session::{Cells, sql_error};
use super::table::Desk;
use crate::error::OutboxError;
use crate::vitals::{SlotSight, Vitals};

/// The process that reads the slot, and what is kept for it; `None` if there is no such slot.
///
/// Source: PostgreSQL documentation, "pg_replication_slots".
pub(super) async fn slot(
    client: &Client,
    target: &Target,
) -> Result<Option<(Option<i32>, SlotSight)>, OutboxError> {
    // The server computes the whole row of its view for any of the columns.
    let sql = format!(
        "SELECT active_pid, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text, \
         restart_lsn::text, confirmed_flush_lsn::text, safe_wal_size, wal_status::text \
         FROM pg_replication_slots WHERE slot_name = {}",
        quote_literal(&target.slot)
    );
    let row = client.query_opt(&sql, &[]).await;
    let Some(row) = row.map_err(|error| sql_error("asking who holds the slot", error))? else {
        return Ok(None);
    };
    let lsn = |text: Option<String>| text.and_then(|text| text.parse().ok());
    let holder: Option<i32> = row.cell(0)?;
    let sight = SlotSight {
        current: lsn(row.cell(1)?).unwrap_or_default(),
        restart: lsn(row.cell(2)?),
        confirmed: lsn(row.cell(3)?),
        // Below zero once it is too late.
        safe_bytes: row.cell::<Option<i64>, _>(4)?.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
        wal_status: row.cell(5)?,
        is_active: holder.is_some(),
    };
    Ok(Some((holder, sight)))
}

/// Looks at all that metrics tell, for a relay that is not streaming. What can't be seen is left as it was.
pub(super) async fn look(client: &Client, target: &Target, vitals: &Vitals) {
    match slot(client, target).await {
        Ok(Some((_, sight))) => vitals.see_slot(sight),
        Ok(None) => {}
        Err(error) => return tracing::debug!(error = error.chain(), "the slot can't be seen"),
    }
    desk(client, &Desk::of(target), vitals).await;
}

/// Counts what waits beside the outbox; whether that went well.
pub(super) async fn desk(client: &Client, desk: &Desk, vitals: &Vitals) -> bool {
    match desk.look(client).await {
        Ok(sight) => vitals.see_desk(sight),
        Err(error) => {
            tracing::debug!(error = error.chain(), "what waits beside the outbox can't be counted");
            return false;
        }
    }
    true
}
