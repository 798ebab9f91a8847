//! Standbys: whether one that is promoted has the slot, and whether one that is away holds up the relay.
//!
//! Source: PostgreSQL documentation, "Logical Replication Failover" and "Replication Slot Synchronization". What is set on
//! the standby itself can't be seen from here but for its feedback.

use tokio_postgres::Row;

use super::{STREAMS, Subject};
use crate::error::OutboxError;
use crate::finding::Finding;
use crate::postgres::names::{quote_identifier, quote_literal};
use crate::postgres::session::Cells;

/// The first version whose slots a standby can keep.
const FAILOVER: i32 = 170_000;

struct Standbys {
    /// Physical slots that somebody reads.
    slots: Vec<String>,
    /// Those of them whose reader says nothing of what it needs.
    mute: Vec<String>,
    /// Standbys that stream, with a slot or without.
    streaming: i64,
    /// The relay's slot is there, and is meant to be kept by standbys; of before 17, null.
    failover: Option<bool>,
    /// `synchronized_standby_slots`, and those of it that nobody reads.
    awaited: String,
    away: Vec<String>,
}

async fn standbys(subject: &Subject<'_>) -> Result<Standbys, OutboxError> {
    // The column is not there before 17.
    let sql = format!(
        "WITH kept AS (SELECT s.* FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid \
           WHERE s.slot_type = 'physical' AND r.application_name NOT LIKE 'pg\\_%') \
         SELECT ARRAY(SELECT slot_name::text FROM kept ORDER BY 1), \
         ARRAY(SELECT slot_name::text FROM kept WHERE xmin IS NULL AND catalog_xmin IS NULL ORDER BY 1), \
         (SELECT count(*) FROM pg_stat_replication r WHERE {STREAMS} AND r.application_name NOT LIKE 'pg\\_%'), \
         (SELECT (to_jsonb(s) ->> 'failover')::bool FROM pg_replication_slots s WHERE slot_name = {}), \
         coalesce(current_setting('synchronized_standby_slots', true), ''), \
         ARRAY(SELECT wanted FROM string_to_table(replace(coalesce( \
             current_setting('synchronized_standby_slots', true), ''), ' ', ''), ',') wanted \
           WHERE wanted <> '' AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_name = wanted \
             AND s.slot_type = 'physical' AND s.active))",
        quote_literal(&subject.target.slot)
    );
    let row: Row = subject.row(&sql).await?;
    Ok(Standbys {
        slots: row.cell(0)?,
        mute: row.cell(1)?,
        streaming: row.cell(2)?,
        failover: row.cell(3)?,
        awaited: row.cell(4)?,
        away: row.cell(5)?,
    })
}

pub(super) async fn look(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let standbys = standbys(subject).await?;
    let mut found: Vec<_> = held_up(subject, &standbys).into_iter().collect();
    if standbys.streaming == 0 && standbys.slots.is_empty() {
        return Ok(found);
    }
    let slot = &subject.target.slot;
    if subject.report.server_version < FAILOVER {
        let text = format!("a standby that is promoted does not have slot {slot}: before 17 none keeps it");
        let advice = "after a failover the relay ends, and `walpost audit` finds the rows to send again; PostgreSQL 17 and \
                      later keep the slot";
        found.push(Finding::warn("standby", text, advice));
    } else if subject.report.slot_exists && standbys.failover != Some(true) {
        let text = format!("a standby that is promoted does not have slot {slot}: it is no failover slot");
        let advice = format!(
            "stop the relay, then run: psql \"dbname={} replication=database\" -c 'ALTER_REPLICATION_SLOT {} (FAILOVER true)'",
            subject.endpoint.config.get_dbname().unwrap_or_default(),
            quote_identifier(slot)
        );
        found.push(Finding::warn("standby", text, advice));
    } else if subject.report.slot_exists {
        found.extend(kept(subject, &standbys));
    }
    Ok(found)
}

/// A failover slot waits for the standbys that are named.
fn held_up(subject: &Subject<'_>, standbys: &Standbys) -> Option<Finding> {
    if standbys.failover != Some(true) || standbys.away.is_empty() {
        return None;
    }
    let away = standbys.away.join(", ");
    let rest: Vec<_> = standbys.awaited.split(',').map(str::trim).map(str::to_owned).collect();
    let rest: Vec<_> = rest.into_iter().filter(|name| !standbys.away.contains(name)).collect();
    let text = format!(
        "slot {} waits for what nobody reads: {away} (synchronized_standby_slots); the relay gets no row meanwhile",
        subject.target.slot
    );
    let mend = format!(
        "ALTER SYSTEM SET synchronized_standby_slots = {}; SELECT pg_reload_conf();",
        quote_literal(&rest.join(", ")).trim_start()
    );
    Some(
        Finding::fail("standby", text, format!("start that standby; or do not wait for it: {mend}"))
            .with_sql(mend),
    )
}

/// What a standby needs so that the slot is there after a failover, and behind no record.
fn kept(subject: &Subject<'_>, standbys: &Standbys) -> Vec<Finding> {
    let slot = &subject.target.slot;
    let mut found = Vec::new();
    if standbys.awaited.is_empty() {
        let text = format!(
            "Kafka may have rows that a promoted standby has not: slot {slot} does not wait for standbys \
             (synchronized_standby_slots)"
        );
        if standbys.slots.is_empty() {
            let advice = "give the standby a slot of its own (primary_slot_name), and name it in synchronized_standby_slots";
            found.push(Finding::warn("standby", text, advice));
        } else {
            let mend = format!(
                "ALTER SYSTEM SET synchronized_standby_slots = {}; SELECT pg_reload_conf();",
                quote_literal(&standbys.slots.join(", ")).trim_start()
            );
            let advice = format!("name the slots of those that may be promoted: {mend}");
            found.push(Finding::warn("standby", text, advice).with_sql(mend));
        }
    }
    for mute in &standbys.mute {
        let text = format!("the standby of slot {mute} keeps no slots: it sends no hot_standby_feedback");
        let mend = "ALTER SYSTEM SET hot_standby_feedback = on; ALTER SYSTEM SET sync_replication_slots = on; \
                    SELECT pg_reload_conf();";
        let advice = format!("on the standby, whose primary_conninfo needs a dbname as well: {mend}");
        found.push(Finding::warn("standby", text, advice).with_sql(mend));
    }
    if found.is_empty() {
        let text = format!("slot {slot} fails over, and waits for {}", standbys.awaited);
        found.push(Finding::good("standby", text));
    }
    found
}
