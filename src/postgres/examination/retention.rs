//! The log that the server keeps: for a relay that is away, for slots that nobody needs any more, for transactions that
//! never end.

use tokio_postgres::Row;

use super::{Subject, size, span};
use crate::error::OutboxError;
use crate::finding::{Finding, Outcome};
use crate::postgres::names::quote_literal;
use crate::postgres::session::Cells;
use crate::vitals::{is_near_its_end, room_sql};

/// A rate over less than this says nothing of a day, in seconds.
const TELLING: f64 = 3600.0;
/// A rate over less than this says nothing at all, in seconds.
const MOMENT: f64 = 60.0;
/// A relay may be away for a night, in seconds.
const NIGHT: f64 = 12.0 * 3600.0;
/// What is given without a rate, and at least, in bytes.
const AT_LEAST: i64 = 4 << 30;
/// How much log a slot may hold without being read, in bytes.
const LEFT_BEHIND: i64 = 256 << 20;
/// How old a transaction may be, in seconds, or in transactions that came after it.
const OLD: (f64, i64) = (600.0, 100_000);

pub(super) async fn look(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let sql = format!(
        "SELECT (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), w.wal_bytes::float8, \
         extract(epoch FROM now() - greatest(w.stats_reset, pg_postmaster_start_time()))::float8, \
         extract(epoch FROM coalesce(current_setting('idle_replication_slot_timeout', true), '0')::interval)::float8, \
         s.wal_status::text, s.safe_wal_size, \
         pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, \
         s.restart_lsn)::int8 FROM pg_stat_wal w LEFT JOIN pg_replication_slots s ON s.slot_name = {}",
        quote_literal(&subject.target.slot)
    );
    let row = subject.row(&sql).await?;
    let bound: i64 = row.cell(0)?;
    let (written, seconds): (f64, f64) = (row.cell(1)?, row.cell(2)?);
    let rate = Rate { bytes: written, seconds: seconds.max(1.0) };
    let in_general = if bound < 0 { unbounded(rate) } else { bounded(bound << 20, rate) };
    let now = status(&row)?;
    // Two sizes for one setting would contradict each other.
    let is_told = now.is_some() && matches!(in_general.outcome, Outcome::Warning(..));
    let in_general = (!is_told).then_some(in_general);
    Ok(in_general.into_iter().chain(idle(row.cell(3)?)).chain(now).collect())
}

/// How much log the server has written.
#[derive(Clone, Copy)]
struct Rate {
    bytes: f64,
    seconds: f64,
}

impl Rate {
    /// Bytes a second, if it was watched for long enough.
    fn known(self) -> Option<f64> {
        let rate = self.bytes / self.seconds;
        (self.seconds >= TELLING && rate >= 1.0).then_some(rate)
    }

    fn text(self) -> String {
        if self.seconds < MOMENT {
            return "how fast it grows can't be told yet".to_owned();
        }
        let hourly = self.bytes / self.seconds * 3600.0;
        #[allow(clippy::cast_possible_truncation, reason = "a figure for a person")]
        let hourly = size(hourly as i64);
        format!("{hourly} an hour on average over {}", span(self.seconds))
    }

    /// A bound that gives two days, in megabytes.
    fn bound(self) -> i64 {
        #[allow(clippy::cast_possible_truncation, reason = "a figure for a setting")]
        let two_days = (self.known().unwrap_or_default() * 2.0 * 86400.0) as i64;
        two_days.max(AT_LEAST).div_euclid(1 << 30) * 1024 + 1024
    }
}

fn unbounded(rate: Rate) -> Finding {
    let text = format!(
        "the log is kept without bound while the relay is away (max_slot_wal_keep_size = -1; {}): a disk that is full \
         stops the server, and how much of it is free can't be seen by SQL",
        rate.text()
    );
    let mend = limit(rate);
    let advice = format!(
        "watch the disk and `walpost status`; or bound it, and lose the slot rather than the server: {mend}"
    );
    Finding::warn("retention", text, advice).with_sql(mend)
}

fn limit(rate: Rate) -> String {
    format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{}MB'; SELECT pg_reload_conf();", rate.bound())
}

#[allow(clippy::cast_precision_loss, reason = "figures for a person")]
fn bounded(bound: i64, rate: Rate) -> Finding {
    let lasts = rate.known().map(|known| bound as f64 / known);
    let text = match lasts {
        Some(lasts) => format!(
            "a relay that is away loses its slot after {} of log, about {} at today's rate ({})",
            size(bound),
            span(lasts),
            rate.text()
        ),
        None => format!(
            "a relay that is away loses its slot after {} of log (max_slot_wal_keep_size; how long that lasts can't be \
             told yet)",
            size(bound)
        ),
    };
    if lasts.map_or(bound < 1 << 30, |lasts| lasts < NIGHT) {
        let mend = limit(rate);
        let advice = format!("if the disk has the room: {mend}");
        return Finding::warn("retention", text, advice).with_sql(mend);
    }
    Finding::good("retention", text)
}

/// 18 and later: a slot that nobody reads is given up.
fn idle(seconds: f64) -> Option<Finding> {
    if seconds <= 0.0 {
        return None;
    }
    let text =
        format!("a relay that is away for {} loses its slot (idle_replication_slot_timeout)", span(seconds));
    if seconds >= 86400.0 {
        return Some(Finding::good("idle timeout", text));
    }
    let mend = "ALTER SYSTEM SET idle_replication_slot_timeout = '3d'; SELECT pg_reload_conf();";
    Some(Finding::warn("idle timeout", text, mend).all_sql())
}

/// How near our own slot is to being lost.
fn status(row: &Row) -> Result<Option<Finding>, OutboxError> {
    let (status, safe): (Option<String>, Option<i64>) = (row.cell(4)?, row.cell(5)?);
    if status.as_deref() != Some("unreserved") {
        let room = safe.zip(row.cell(6)?).filter(|(safe, retained)| is_near_its_end(*safe, *retained));
        return Ok(room.map(|(safe, retained)| near(safe, retained)));
    }
    let beyond = size(safe.unwrap_or_default().abs());
    let text = format!("the slot is {beyond} beyond max_slot_wal_keep_size: the next checkpoint gives it up");
    let mend = "ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();";
    let advice = format!("at once: {mend} then let the relay catch up");
    Ok(Some(Finding::fail("retention", text, advice).with_sql(mend)))
}

fn near(safe: i64, retained: i64) -> Finding {
    let text =
        format!("the slot is lost once another {} of log are written (max_slot_wal_keep_size)", size(safe));
    let mend = room_sql(safe, retained);
    let advice = format!(
        "if the disk has the room: {mend} and let the relay catch up (`walpost status` says what it waits for)"
    );
    Finding::fail("retention", text, advice).with_sql(mend)
}

/// Slots that nobody reads, which hold log.
pub(super) async fn others(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let sql = format!(
        "SELECT slot_name::text, slot_type, coalesce(database::text, ''), held, to_jsonb(s) ->> 'inactive_since' FROM \
         (SELECT s.*, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE \
           pg_current_wal_lsn() END, restart_lsn)::int8 AS held FROM pg_replication_slots s) s \
         WHERE NOT active AND slot_name <> {} AND wal_status <> 'lost' AND held > {LEFT_BEHIND} \
         ORDER BY held DESC LIMIT 5",
        quote_literal(&subject.target.slot)
    );
    let left = |row: &Row| {
        let (name, kind, database): (String, String, String) = (row.cell(0)?, row.cell(1)?, row.cell(2)?);
        let (held, since): (i64, Option<String>) = (row.cell(3)?, row.cell(4)?);
        let of = if database.is_empty() { String::new() } else { format!(" of database {database}") };
        let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
        let text =
            format!("slot {name} ({kind}{of}) is read by nobody{since} and holds {} of log", size(held));
        let mend = format!("SELECT pg_drop_replication_slot({});", quote_literal(&name));
        let advice = format!("start what reads it; or, if nothing does any more: {mend}");
        Ok(Finding::warn("other slots", text, advice).with_sql(mend))
    };
    subject.rows(&sql).await?.iter().map(left).collect()
}

/// Transactions that have written, and go on for long: the log is kept from their beginning, and a new slot waits for them.
pub(super) async fn open(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let (seconds, transactions) = OLD;
    let sql = format!(
        "SELECT who, mend, seconds, later FROM ( \
           SELECT format('PID %s%s', pid, coalesce(', user ' || usename || ', ' || state, '')) AS who, \
             format('SELECT pg_terminate_backend(%s);', pid) AS mend, age(backend_xid)::int8 AS later, \
             extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds \
           FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND backend_xid <> '0'::xid \
           UNION ALL SELECT format('prepared transaction %L of database %s', gid, database), \
             format('ROLLBACK PREPARED %L;', gid), age(transaction)::int8, \
             extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts) t \
         WHERE seconds > {seconds} OR later > {transactions} ORDER BY later DESC LIMIT 3"
    );
    let old = |row: &Row| {
        let (who, mend): (String, String) = (row.cell(0)?, row.cell(1)?);
        let (seconds, later): (Option<f64>, i64) = (row.cell(2)?, row.cell(3)?);
        let since = seconds.map(|seconds| format!(" for {}", span(seconds))).unwrap_or_default();
        let text = format!(
            "{who} has a transaction open{since}, with {later} younger ones: the log is kept from its beginning on"
        );
        let advice = format!("let it end; or end it (of a prepared one, in its database): {mend}");
        Ok(Finding::warn("open", text, advice).with_sql(mend))
    };
    subject.rows(&sql).await?.iter().map(old).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    fn rate(bytes_an_hour: f64, hours: f64) -> Rate {
        Rate { bytes: bytes_an_hour * hours, seconds: hours * 3600.0 }
    }

    fn said(found: &Finding) -> (&str, bool) {
        match &found.outcome {
            Outcome::Good(text) => (text, true),
            Outcome::Warning(text, _) => (text, false),
            Outcome::Failure(_) => panic!("no failure is expected"),
        }
    }

    #[test]
    fn how_long_a_bound_lasts_is_told_by_the_rate() {
        const GIB: f64 = (1_u64 << 30) as f64;
        let found = bounded(10 << 30, rate(GIB, 48.0));
        let (text, good) = said(&found);
        assert!(
            !good
                && text.contains("after 10.0 GiB of log, about 10.0 hours at today's rate (1.0 GiB an hour")
        );
        assert_eq!(
            found.sql.as_deref(),
            Some("ALTER SYSTEM SET max_slot_wal_keep_size = '50176MB'; SELECT pg_reload_conf();")
        );
        assert!(said(&bounded(50_176 << 20, rate(GIB, 48.0))).1, "what is advised is enough");
        let found = bounded(10 << 30, rate(GIB, 0.5));
        assert!(said(&found).1 && said(&found).0.contains("can't be told yet"), "{found:?}");
        assert!(!said(&bounded(512 << 20, rate(GIB, 0.5))).1);
        assert!(said(&bounded(rate(0.0, 48.0).bound() << 20, rate(0.0, 48.0))).1);
    }
}
