//! The slot: whether it is there, ours, and able to go on.

use super::{Finding, Preflight, Younger, rows};
use crate::error::OutboxError;
use crate::postgres::names::{Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session};
use crate::postgres::slot::{SEND_WHAT_IS_MISSING, make_anew, move_past_them};

pub(super) async fn inspect(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let slot = &target.slot;
    // A slot keeps the catalog as of its oldest transaction; what is younger has changed under it. A slot that was
    // never read was made right after its publication.
    let sql = format!(
        "SELECT plugin::text, slot_type, database::text, current_database()::text, wal_status::text, active_pid, \
         to_jsonb(s) ->> 'invalidation_reason', catalog_xmin::text, \
         EXISTS (SELECT FROM pg_publication p WHERE p.pubname = {publication} AND (age(p.xmin) <= age(s.catalog_xmin) \
           OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid IN ({table_oids}) \
             AND age(r.xmin) <= age(s.catalog_xmin)))), \
         EXISTS (SELECT FROM pg_stat_replication_slots u WHERE u.slot_name = s.slot_name AND u.total_txns > 0) \
         FROM pg_replication_slots s WHERE slot_name = {}",
        quote_literal(slot),
        publication = quote_literal(&target.publication),
        table_oids = report.oids().iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    );
    let Some(row) = rows(session, &sql).await?.pop() else {
        report.warn(
            "slot",
            format!("slot {slot} does not exist: rows committed before it is made are not sent"),
            "run `walpost setup`; `walpost run` makes it too",
        );
        return Ok(());
    };
    report.slot_exists = true;
    report.slot_holder = row.cell(5)?;
    let mut cells: [Option<String>; 8] = Default::default();
    for index in [0, 1, 2, 3, 4, 6, 7] {
        cells[index] = row.cell(index)?;
    }
    let text = |index: usize| cells[index].as_deref().unwrap_or_default();
    if text(1) != "logical" || text(0) != "pgoutput" || text(2) != text(3) {
        let found = format!("{} slot of plugin {:?} in database {:?}", text(1), text(0), text(2));
        report.fail(
            "slot",
            format!("slot {slot} is a {found}"),
            format!(
                "name another slot with --slot; needed is a logical pgoutput slot in database {:?}",
                text(3)
            ),
        );
    } else if text(4) == "lost" {
        let error = lost(target, text(6), text(7));
        report.findings.push(Finding::error("slot", error));
    } else {
        let held = report.slot_holder.map(|pid| format!(", in use by PID {pid}"));
        report.good("slot", format!("{slot}{}", held.unwrap_or_default()));
        if row.cell(8)? && report.slot_holder.is_none() {
            let mut younger = Younger { rows: rows_since(target, text(7)), told: None };
            if row.cell(9)? {
                let may_be_stuck = report.server_version < 180_000;
                younger.told = Some(report.findings.len());
                report.findings.push(may_be_skipped(target, &younger.rows, may_be_stuck));
            }
            report.younger = Some(younger);
        }
    }
    Ok(())
}

/// Of a publication that is younger than the place at which the slot stands; whether the server might not be able to read on
/// from there.
pub(super) fn may_be_skipped(target: &Target, rows: &str, may_be_stuck: bool) -> Finding {
    let Target { slot, publication, .. } = target;
    let mut advice = format!("{SEND_WHAT_IS_MISSING}; or compare with the topics, at least: {rows}");
    if may_be_stuck {
        advice.push_str(". If it was missing meanwhile, the relay ends at such a row: ");
        advice.push_str(&move_past_them(slot));
    }
    let text = format!(
        "publication {} was made or changed after the place at which slot {slot} stands: rows committed before that \
         change may never be sent",
        quote_identifier(publication)
    );
    Finding::warn("publication", text, advice)
}

/// SQL that finds the rows of transactions that are not older than this one.
fn rows_since(target: &Target, xid: &str) -> String {
    target.list(|table| format!("SELECT * FROM {table} WHERE age(xmin) <= age('{xid}'::xid)"), "; ")
}

/// The server has given the slot up, and no waiting brings it back.
fn lost(target: &Target, reason: &str, catalog_xmin: &str) -> OutboxError {
    let slot = &target.slot;
    let (why, prevent) = match reason {
        "idle_timeout" => {
            (", since nobody has read it for idle_replication_slot_timeout", "raise that setting")
        }
        "wal_level_insufficient" => (", since wal_level was lowered", "keep wal_level at logical"),
        "rows_removed" => (", since catalog rows that it needs were removed", "set hot_standby_feedback"),
        _ => (
            ", since it has fallen further behind than max_slot_wal_keep_size",
            "raise max_slot_wal_keep_size",
        ),
    };
    // Gone on some versions with the slot's other data.
    let rows = if catalog_xmin.is_empty() {
        format!("they are among the rows of {}", target.tables())
    } else {
        format!("they are among these: {}", rows_since(target, catalog_xmin))
    };
    OutboxError::definite(
        format!(
            "slot {slot} has lost log that it needs{why}: what was committed behind its position can't be read from \
             the log any more"
        ),
        format!("{}; {rows}; {prevent}, so that it does not happen again", make_anew(slot)),
    )
}
