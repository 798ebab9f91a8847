//! `walpost status`: where the slot stands.

use crate::cli::output;
use serde::Serialize;
use tokio_postgres::Row;

use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Cells, DeadLetterOffice, Session, lag_sql};

/// Transactions shorter than that, in seconds, hold back nothing to speak of.
const LONG: f64 = 10.0;

/// One row of `sql/lag.sql`, and what waits beside it.
#[derive(Debug, Serialize)]
struct Status {
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
    /// Who has written in a transaction that is still open, and since when: the log is kept from there on.
    oldest_writer: Option<String>,
    oldest_writer_seconds: Option<f64>,
    /// Open dead letters; none when there is no table, or it may not be read.
    dead_letters: Option<i64>,
}

/// Prints position, lag, retained log and who holds the slot.
pub(super) async fn status(config: &Config, json: bool) -> Result<(), OutboxError> {
    let session = Session::open_any(&config.database).await?;
    let row = session.query_one_row("reading the slot's position", &lag_sql(&config.target)?).await?;
    let Some(row) = row else {
        let text = format!("slot {} does not exist", config.target.slot);
        return Err(OutboxError::definite(text, "run `walpost setup`, or name the slot with --slot"));
    };
    let status = Status::of(&row, open_letters(&session, config).await?)?;
    if json {
        let text =
            serde_json::to_string(&status).map_err(|error| OutboxError::connection("writing JSON", error))?;
        output::say(&text);
    } else {
        output::write(&status.text());
    }
    Ok(())
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

impl Status {
    fn of(row: &Row, dead_letters: Option<i64>) -> Result<Status, OutboxError> {
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
            oldest_writer: row.cell("oldest_writer")?,
            oldest_writer_seconds: row.cell("oldest_writer_seconds")?,
            dead_letters,
        })
    }

    fn text(&self) -> String {
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
        let room = self.safe_bytes.map(|bytes| format!(", {} until the slot is lost", bytes_text(bytes)));
        format!(
            "slot        {} ({})\nheld by     {holder}\nconfirmed   {}\nserver at   {}\nlag         {}{seconds}\n\
             retained    {}{}\n{}parked      {letters}\n",
            self.slot,
            self.wal_status.as_deref().unwrap_or("unknown"),
            self.confirmed_lsn.as_deref().unwrap_or("nothing yet"),
            self.current_lsn,
            size(self.lag_bytes),
            size(self.retained_bytes),
            room.unwrap_or_default(),
            self.held_back()
        )
    }

    /// Who keeps the server from forgetting the log, if it is for so long that it is worth a line.
    fn held_back(&self) -> String {
        match (&self.oldest_writer, self.oldest_writer_seconds) {
            (Some(who), Some(seconds)) if seconds >= LONG => format!(
                "held back   by {who}, in a transaction that has been open for {seconds:.0} s: what follows it in the log \
                 is published, and kept until it ends\n"
            ),
            _ => String::new(),
        }
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
}
