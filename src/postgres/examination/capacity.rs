//! Whether the server has room for a relay: a slot, a sender, sessions.

use tokio_postgres::Row;

use super::Subject;
use crate::error::OutboxError;
use crate::finding::Finding;
use crate::postgres::names::quote_identifier;
use crate::postgres::session::Cells;

/// All numbers in one row. Sessions are counted by the statistics of databases, which everybody may see.
const COUNTS: &str = "SELECT current_setting('max_replication_slots')::int8, (SELECT count(*) FROM pg_replication_slots), \
     current_setting('max_wal_senders')::int8, (SELECT count(*) FROM pg_stat_replication), \
     current_setting('max_connections')::int8 - CASE WHEN r.rolsuper THEN 0 ELSE \
       current_setting('superuser_reserved_connections')::int8 \
       + coalesce(current_setting('reserved_connections', true), '0')::int8 END, \
     (SELECT coalesce(sum(numbackends), 0)::int8 FROM pg_stat_database), \
     CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END::int8, CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END::int8, \
     r.rolname::text, d.datname::text, \
     (SELECT string_agg(format('SELECT pg_drop_replication_slot(%L);', slot_name), ' ') FROM \
       (SELECT slot_name FROM pg_replication_slots WHERE NOT active ORDER BY 1 LIMIT 3) idle) \
     FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()";

pub(super) async fn look(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let row = subject.row(COUNTS).await?;
    let mut found = vec![slots(subject, &row)?, senders(subject, &row)?];
    found.extend(sessions(subject, &row)?);
    Ok(found)
}

fn slots(subject: &Subject<'_>, row: &Row) -> Result<Finding, OutboxError> {
    let (most, used): (i64, i64) = (row.cell(0)?, row.cell(1)?);
    let text = format!("{used} of {most} replication slots are used (max_replication_slots)");
    if subject.report.slot_exists || used < most {
        return Ok(Finding::good("slots", text));
    }
    let mend = format!("ALTER SYSTEM SET max_replication_slots = {};", most + 10);
    let idle: Option<String> = row.cell(10)?;
    let idle = idle
        .map(|idle| format!("; or drop slots that nobody needs; not in use are: {idle}"))
        .unwrap_or_default();
    let advice = format!("{mend} then restart the server{idle}");
    Ok(Finding::fail("slots", format!("{text}: there is none for the relay"), advice).with_sql(mend))
}

fn senders(subject: &Subject<'_>, row: &Row) -> Result<Finding, OutboxError> {
    let (most, used): (i64, i64) = (row.cell(2)?, row.cell(3)?);
    let text = format!("{used} of {most} senders are used (max_wal_senders)");
    if subject.report.slot_holder.is_some() || used < most {
        return Ok(Finding::good("senders", text));
    }
    let mend = format!("ALTER SYSTEM SET max_wal_senders = {};", most + 10);
    let advice = format!("{mend} then restart the server");
    Ok(Finding::fail("senders", format!("{text}: there is none for the relay"), advice).with_sql(mend))
}

fn sessions(subject: &Subject<'_>, row: &Row) -> Result<Vec<Finding>, OutboxError> {
    let needed = subject.sessions();
    let (most, used): (i64, i64) = (row.cell(4)?, row.cell(5)?);
    let (of_role, of_database): (i64, i64) = (row.cell(6)?, row.cell(7)?);
    let (role, database): (String, String) = (row.cell(8)?, row.cell(9)?);
    let mut found = Vec::new();
    // The connection that reads the log counts as well.
    let limits = [
        ("role", &role, of_role, format!("ALTER ROLE {} CONNECTION LIMIT -1;", quote_identifier(&role))),
        (
            "database",
            &database,
            of_database,
            format!("ALTER DATABASE {} CONNECTION LIMIT -1;", quote_identifier(&database)),
        ),
    ];
    for (kind, name, limit, mend) in limits {
        if (0..=needed).contains(&limit) {
            let text =
                format!("{kind} {name} may have {limit} connections, and the relay needs {}", needed + 1);
            found.push(Finding::fail("sessions", text, mend).all_sql());
        }
    }
    let free = most - used;
    let text = format!("{free} of {most} sessions are free (max_connections), and the relay needs {needed}");
    // Our own session ends with this command.
    if subject.report.slot_holder.is_none() && free + 1 < needed {
        let mend = format!("ALTER SYSTEM SET max_connections = {};", most + 50);
        let advice = format!(
            "{mend} then restart the server; or let services share sessions by a pooler (the relay itself goes past it)"
        );
        found.push(Finding::warn("sessions", text, advice).with_sql(mend));
    } else if found.is_empty() {
        found.push(Finding::good("sessions", text));
    }
    Ok(found)
}
