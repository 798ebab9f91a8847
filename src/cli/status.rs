//! `walpost status`: where the slot stands.

mod verdict;

use std::time::Duration;

use self::verdict::{Rates, Sample, Verdict, forecast};
use crate::cli::dead_letters::escape;
use crate::cli::output;
use serde::Serialize;
use std::collections::BTreeMap;
use tokio::time::interval;
use tokio_postgres::Row;

use crate::config::Config;
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::postgres::{Cells, DeadLetterOffice, ScheduledTable, Session, Waiting, lag_sql, quote_literal};

/// One row of `sql/lag.sql`, and what waits beside it.
#[derive(Debug, Default, Serialize)]
struct Status {
    /// In a word: OK, BEHIND, NOBODY, FILLING or LOST.
    verdict: &'static str,
    reason: String,
    advice: Option<String>,
    slot: String,
    active: bool,
    pid: Option<i32>,
    held_by: Option<String>,
    held_from: Option<String>,
    held_since: Option<String>,
    confirmed_lsn: Option<String>,
    current_lsn: String,
    lag_bytes: Option<i64>,
    lag_seconds: Option<f64>,
    retained_bytes: Option<i64>,
    safe_bytes: Option<i64>,
    wal_status: Option<String>,
    /// Why the server has given the slot up; known from 17 on.
    invalidation_reason: Option<String>,
    /// Since when nobody reads the slot; known from 17 on.
    inactive_since: Option<String>,
    /// The server's `max_slot_wal_keep_size`.
    max_kept: Option<String>,
    wal_bytes_per_second: f64,
    confirmed_bytes_per_second: f64,
    /// When the slot is lost if it goes on like this; none if it is not, or nothing bounds it.
    lost_in_seconds: Option<f64>,
    /// What the server keeps log for, beyond what the relay has not confirmed.
    oldest_transaction: Option<OpenTransaction>,
    /// Open dead letters; none when there is no table, or it may not be read.
    dead_letters: Option<i64>,
    /// Rows that are due later; none as above.
    held: Option<i64>,
    /// When the first of them is due.
    next_due: Option<String>,
    /// Those of tables that the relay does not serve, which are not sent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    held_unserved: BTreeMap<String, i64>,
}

/// The oldest transaction that has written and has not ended. Of a session of another user most is hidden, unless
/// the role may read all statistics.
#[derive(Debug, Default, Serialize)]
struct OpenTransaction {
    xid: String,
    pid: Option<i32>,
    /// The name of one that was prepared; no session has it.
    prepared: Option<String>,
    application: Option<String>,
    user: Option<String>,
    database: Option<String>,
    state: Option<String>,
    since: Option<String>,
    seconds: Option<f64>,
}

/// How long rates are measured.
const MEASURED: Duration = Duration::from_secs(1);

/// Prints position, lag, retained log and who holds the slot, and what all that means. With `check` it is an error if a
/// person is needed.
pub(super) async fn status(config: &Config, json: bool, check: bool) -> Result<(), OutboxError> {
    let session = Session::open_any(&config.database).await?;
    let first = Sample::of(&look(&session, config).await?)?;
    let mut clock = interval(MEASURED);
    clock.tick().await;
    clock.tick().await;
    let row = look(&session, config).await?;
    let rates = Rates::between(&first, &Sample::of(&row)?);
    let (letters, waiting) = (open_letters(&session, config).await?, waiting(&session, config).await?);
    let status = Status::of(&row, letters, waiting)?.judged(rates);
    if json {
        let text =
            serde_json::to_string(&status).map_err(|error| OutboxError::connection("writing JSON", error))?;
        output::say(&text);
    } else {
        output::write(&status.text(rates));
    }
    let verdict = Verdict::of(&status, rates);
    match verdict.advice.as_deref().filter(|_| check && verdict.needs_a_person()) {
        Some(advice) => Err(OutboxError::definite(format!("{}: {}", verdict.word, verdict.reason), advice)),
        None => Ok(()),
    }
}

async fn look(session: &Session, config: &Config) -> Result<Row, OutboxError> {
    let row = session.query_one_row("reading the slot's position", &lag_sql(&config.target)?).await?;
    row.ok_or_else(|| {
        let text = format!("slot {} does not exist", config.target.slot);
        OutboxError::definite(text, "run `walpost setup`, or name the slot with --slot")
    })
}

impl Sample {
    fn of(row: &Row) -> Result<Sample, OutboxError> {
        let lsn = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let current = lsn(row.cell("current_lsn")?).unwrap_or(Lsn::ZERO);
        Ok(Sample { at: row.cell("at")?, current, confirmed: lsn(row.cell("confirmed_lsn")?) })
    }
}

/// How many messages wait as dead letters. A table that was set up by an earlier version, or is not granted, is
/// for `walpost check` to complain of.
async fn open_letters(session: &Session, config: &Config) -> Result<Option<i64>, OutboxError> {
    let office = DeadLetterOffice::of(&config.target);
    let rights = office.rights(session).await?;
    match office.require(rights.as_ref(), &["SELECT"]) {
        Ok(()) => office.count_open(session).await.map(Some),
        Err(_) => Ok(None),
    }
}

/// The rows that are due later. The table is there only where the outbox says when.
async fn waiting(session: &Session, config: &Config) -> Result<Option<Waiting>, OutboxError> {
    let table = ScheduledTable::of(&config.target);
    let rights = table.rights(session).await?;
    if config.target.outboxes().all(|outbox| outbox.mapping.due.is_none())
        || table.require(rights.as_ref(), &["SELECT"]).is_err()
    {
        return Ok(None);
    }
    table.waiting(session).await.map(Some)
}

impl Status {
    fn of(row: &Row, dead_letters: Option<i64>, waiting: Option<Waiting>) -> Result<Status, OutboxError> {
        Ok(Status {
            slot: row.cell("slot")?,
            active: row.cell("active")?,
            pid: row.cell("pid")?,
            held_by: row.cell("held_by")?,
            held_from: row.cell("held_from")?,
            held_since: row.cell("held_since")?,
            confirmed_lsn: row.cell("confirmed_lsn")?,
            current_lsn: row.cell("current_lsn")?,
            lag_bytes: row.cell("lag_bytes")?,
            lag_seconds: row.cell("lag_seconds")?,
            retained_bytes: row.cell("retained_bytes")?,
            safe_bytes: row.cell("safe_bytes")?,
            wal_status: row.cell("wal_status")?,
            invalidation_reason: row.cell("invalidation_reason")?,
            inactive_since: row.cell("inactive_since")?,
            max_kept: row.cell("max_kept")?,
            oldest_transaction: OpenTransaction::of(row)?,
            dead_letters,
            held: waiting.as_ref().map(|waiting| waiting.rows),
            next_due: waiting.as_ref().and_then(|waiting| waiting.next.clone()),
            held_unserved: waiting.map(|waiting| waiting.unserved).unwrap_or_default(),
            ..Status::default()
        })
    }

    /// With what the figures mean.
    fn judged(self, rates: Rates) -> Status {
        let Verdict { word, reason, advice } = Verdict::of(&self, rates);
        Status {
            verdict: word,
            reason,
            advice,
            wal_bytes_per_second: rates.written,
            confirmed_bytes_per_second: rates.confirmed,
            lost_in_seconds: self.safe_bytes.and_then(|bytes| rates.used_up(bytes)),
            ..self
        }
    }

    /// The verdict, and the advice that belongs to it.
    fn headline(&self) -> String {
        let advice =
            self.advice.as_ref().map(|advice| format!("            -> {advice}\n")).unwrap_or_default();
        format!("{:<11} {}\n{advice}", self.verdict, self.reason)
    }

    fn text(&self, rates: Rates) -> String {
        let unknown = || "unknown".to_owned();
        let size = |bytes: Option<i64>| bytes.map_or_else(unknown, bytes_text);
        let holder = match (&self.pid, &self.held_by) {
            (Some(pid), by) => format!(
                "{} (PID {pid}{}) since {}",
                by.as_deref().unwrap_or("somebody"),
                self.held_from.as_ref().map(|from| format!(", from {from}")).unwrap_or_default(),
                self.held_since.as_deref().unwrap_or("an unknown time")
            ),
            (None, _) => "nobody: no relay is running".to_owned(),
        };
        // The server measures time only while something is on its way.
        let seconds = self.lag_seconds.map_or_else(String::new, |seconds| format!(", {seconds:.3} s"));
        let letters = match self.dead_letters {
            None => "unknown: no table of dead letters, or no right to read it".to_owned(),
            Some(0) => "0 dead letters".to_owned(),
            Some(1) => "1 dead letter: `walpost dead-letters list`".to_owned(),
            Some(count) => format!("{count} dead letters: `walpost dead-letters list`"),
        };
        let waiting = Waiting {
            rows: self.held.unwrap_or_default(),
            next: self.next_due.clone(),
            unserved: self.held_unserved.clone(),
        };
        let held = self.held.map_or_else(String::new, |_| format!("held        {}\n", waiting.describe()));
        let open = self.oldest_transaction.as_ref().map_or_else(|| "none".to_owned(), OpenTransaction::text);
        let room = self.safe_bytes.map(|bytes| format!(", {} until the slot is lost", bytes_text(bytes)));
        format!(
            "{}slot        {} ({})\nheld by     {holder}\nconfirmed   {}\nserver at   {}\nlag         {}{seconds}\n\
             retained    {}{}\nflow        {}\noldest open {open}\nparked      {letters}\n{held}",
            self.headline(),
            self.slot,
            self.wal_status.as_deref().unwrap_or("unknown"),
            self.confirmed_lsn.as_deref().unwrap_or("nothing yet"),
            self.current_lsn,
            size(self.lag_bytes),
            size(self.retained_bytes),
            room.unwrap_or_default(),
            forecast(self, rates)
        )
    }
}

impl OpenTransaction {
    fn of(row: &Row) -> Result<Option<OpenTransaction>, OutboxError> {
        let Some(xid) = row.cell("oldest_xid")? else { return Ok(None) };
        Ok(Some(OpenTransaction {
            xid,
            pid: row.cell("oldest_pid")?,
            prepared: row.cell("oldest_prepared")?,
            application: row.cell("oldest_application")?,
            user: row.cell("oldest_user")?,
            database: row.cell("oldest_database")?,
            state: row.cell("oldest_state")?,
            since: row.cell("oldest_since")?,
            seconds: row.cell("oldest_seconds")?,
        }))
    }

    fn text(&self) -> String {
        let application = self.application.as_deref().filter(|name| !name.is_empty());
        let known =
            [("", application), ("user ", self.user.as_deref()), ("database ", self.database.as_deref())];
        let known =
            known.iter().filter_map(|(what, name)| name.map(|name| format!(", {what}{}", escape(name))));
        let state = self.state.as_ref().map(|state| format!(", {state}")).unwrap_or_default();
        let since = match (&self.since, self.seconds) {
            (Some(since), Some(seconds)) => format!(" since {since} ({})", age_text(seconds)),
            _ => ", since when is hidden: GRANT pg_read_all_stats to this role".to_owned(),
        };
        let (of, end) = match (&self.prepared, self.pid) {
            (Some(gid), _) => (
                String::new(),
                format!("COMMIT PREPARED or ROLLBACK PREPARED {}", escape(&quote_literal(gid))),
            ),
            (None, Some(pid)) => (format!(" of PID {pid}"), format!("SELECT pg_terminate_backend({pid})")),
            (None, None) => return format!("transaction {}", self.xid),
        };
        format!(
            "transaction {}{of}{}{state}{since}\n            \
             the server keeps the log from its first write on until it ends; to end it: {end}",
            self.xid,
            known.collect::<String>()
        )
    }
}

/// How long something lasts already, in the unit that keeps it short.
fn age_text(seconds: f64) -> String {
    let units = [(86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")];
    match units.iter().find(|(size, _)| seconds >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", seconds / size),
        None => format!("{seconds:.1} seconds"),
    }
}

/// A number of bytes in the unit that keeps it short.
fn bytes_text(bytes: i64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| bytes >= *size) {
        #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (32 << 20, "32.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn an_open_transaction_is_named_with_what_is_known() {
        let hidden = OpenTransaction { xid: "742".into(), pid: Some(17), ..OpenTransaction::default() };
        assert!(
            hidden.text().starts_with("transaction 742 of PID 17, since when is hidden"),
            "{}",
            hidden.text()
        );
        let known = OpenTransaction {
            application: Some("psql".into()),
            user: Some("shop".into()),
            database: Some("orders".into()),
            state: Some("idle in transaction".into()),
            since: Some("2026-11-28 03:00:00+00".into()),
            seconds: Some(5400.0),
            ..hidden
        };
        let text = known.text();
        let line = "transaction 742 of PID 17, psql, user shop, database orders, idle in transaction \
                    since 2026-11-28 03:00:00+00 (1.5 hours)\n";
        assert!(text.starts_with(line) && text.ends_with("pg_terminate_backend(17)"), "{text}");
        let prepared = OpenTransaction { prepared: Some("it's".into()), pid: None, ..known };
        assert!(prepared.text().ends_with("ROLLBACK PREPARED 'it''s'"), "{}", prepared.text());
    }
}
