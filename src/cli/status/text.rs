//! Where the slot stands, as people read it.

use std::time::SystemTime;

use super::rates::forecast;
use super::verdict::Verdict;
use super::{Oldest, OpenTransaction, Status};
use crate::cli::dead_letters::escape;
use crate::postgres::{StandingBy, Waiting, quote_literal};

impl Verdict {
    /// With the advice that belongs to it.
    pub(super) fn text(&self) -> String {
        let lines = self.advice.iter().flat_map(|advice| advice.lines());
        let advice: String = lines.map(|line| format!("            -> {}\n", escape(line))).collect();
        format!("{:<11} {}\n{advice}", self.word, escape(&self.reason))
    }
}

impl Status {
    /// All of it.
    pub(super) fn text(&self) -> String {
        let size = |bytes: Option<i64>| bytes.map_or_else(|| "unknown".to_owned(), bytes_text);
        let verdicts: String =
            std::iter::once(&self.verdict).chain(&self.others).map(Verdict::text).collect();
        // The server measures time only while something is on its way.
        let seconds = self.lag_seconds.map_or_else(String::new, |seconds| format!(", {seconds:.3} s"));
        let open = self.oldest_transaction.as_ref().map_or_else(|| "none".to_owned(), OpenTransaction::text);
        let room = self.safe_bytes.map(|bytes| match bytes {
            ..0 => format!(", {} beyond the limit", bytes_text(bytes.saturating_neg())),
            0.. => format!(", {} until the slot is lost", bytes_text(bytes)),
        });
        let lines = [
            ("slot", format!("{} ({})", self.slot, self.wal_status.as_deref().unwrap_or("unknown"))),
            ("held by", self.holder()),
            ("standing by", self.others_text()),
            ("relay", self.relay.text(age_text)),
            ("confirmed", self.confirmed_lsn.clone().unwrap_or_else(|| "nothing yet".to_owned())),
            ("server at", self.current_lsn.clone()),
            ("lag", size(self.lag_bytes) + &seconds),
            ("oldest row", self.oldest_text()),
            ("retained", size(self.retained_bytes) + &room.unwrap_or_default()),
            ("flow", forecast(self, self.rates)),
            ("oldest open", open),
            ("parked", self.letters_text()),
        ];
        let lines = lines.iter().map(|(name, what)| format!("{name:<11} {what}\n")).collect::<String>();
        verdicts + &lines + &self.held_text()
    }

    /// The most of it, in a line.
    pub(super) fn line(&self) -> String {
        let size = |bytes: Option<i64>| bytes.map_or_else(|| "unknown".to_owned(), bytes_text);
        let others: String =
            self.others.iter().map(|other| format!(" | {}: {}", other.word, escape(&other.reason))).collect();
        let oldest = match &self.oldest_unpublished {
            Some(oldest) => format!(", oldest row {}", age_text(oldest.seconds)),
            None => String::new(),
        };
        format!(
            "{} {}: {}{others} | confirmed {}, lag {}{oldest}, retained {}",
            time_of(self.at),
            self.verdict.word,
            escape(&self.verdict.reason),
            self.confirmed_lsn.as_deref().unwrap_or("nothing"),
            size(self.lag_bytes),
            size(self.retained_bytes)
        )
    }

    fn holder(&self) -> String {
        match (&self.pid, &self.held_by) {
            (Some(pid), by) => format!(
                "{} (PID {pid}{}) since {}",
                by.as_deref().map_or("somebody".into(), escape),
                self.held_from.as_ref().map(|from| format!(", from {from}")).unwrap_or_default(),
                self.held_since.as_deref().unwrap_or("an unknown time")
            ),
            (None, _) if self.relay.word.is_some() => "nobody at this moment".to_owned(),
            (None, _) => "nobody: no relay is running".to_owned(),
        }
    }

    fn others_text(&self) -> String {
        let one = |relay: &StandingBy| {
            format!(
                "{} (PID {}{}) since {}",
                relay.name.as_deref().map_or("a relay".into(), escape),
                relay.pid,
                relay.from.as_ref().map(|from| format!(", from {from}")).unwrap_or_default(),
                relay.since.as_deref().unwrap_or("an unknown time")
            )
        };
        match self.standing_by.as_slice() {
            [] => "nobody".to_owned(),
            relays => relays.iter().map(one).collect::<Vec<_>>().join("; "),
        }
    }

    fn oldest_text(&self) -> String {
        match (&self.oldest_unpublished, &self.oldest_unpublished_unknown) {
            (Some(Oldest { lsn, table, committed_at, seconds }), _) => {
                format!("{} old: committed {committed_at} at {lsn}, of {}", age_text(*seconds), escape(table))
            }
            (None, Some(why)) => format!("unknown: {}", escape(why)),
            (None, None) => "none: all that is committed is confirmed".to_owned(),
        }
    }

    fn letters_text(&self) -> String {
        match self.dead_letters {
            None => "unknown: no table of dead letters, or no right to read it".to_owned(),
            Some(0) => "0 dead letters".to_owned(),
            Some(1) => "1 dead letter: `walpost dead-letters list`".to_owned(),
            Some(count) => format!("{count} dead letters: `walpost dead-letters list`"),
        }
    }

    fn held_text(&self) -> String {
        let waiting = Waiting {
            rows: self.held.unwrap_or_default(),
            next: self.next_due.clone(),
            unserved: self.held_unserved.clone(),
        };
        self.held.map_or_else(String::new, |_| format!("held        {}\n", waiting.describe()))
    }
}

impl OpenTransaction {
    fn text(&self) -> String {
        let application = self.application.as_deref().filter(|name| !name.is_empty());
        let known =
            [("", application), ("user ", self.user.as_deref()), ("database ", self.database.as_deref())];
        let known =
            known.iter().filter_map(|(what, name)| name.map(|name| format!(", {what}{}", escape(name))));
        let state = self.state.as_ref().map(|state| format!(", {state}")).unwrap_or_default();
        let since = match (&self.since, self.seconds) {
            (Some(since), Some(seconds)) => format!(" since {since} ({})", age_text(seconds)),
            _ => String::new(),
        };
        let of = self.pid.map(|pid| format!(" of PID {pid}")).unwrap_or_default();
        let what_to_do = self.what_to_do().map(|text| format!("\n            {text}")).unwrap_or_default();
        format!("transaction {}{of}{}{state}{since}{what_to_do}", self.xid, known.collect::<String>())
    }

    /// Who does not see how old it is does not end it either: it may be anybody's, and have begun just now.
    fn what_to_do(&self) -> Option<String> {
        let end = match (&self.prepared, self.pid) {
            (Some(gid), _) => format!("COMMIT PREPARED or ROLLBACK PREPARED {}", escape(&quote_literal(gid))),
            (None, Some(pid)) if self.seconds.is_none() => {
                return Some(format!(
                    "since when is hidden from this role (GRANT pg_read_all_stats shows it); a superuser sees whether it is \
                     old: SELECT state, xact_start FROM pg_stat_activity WHERE pid = {pid}"
                ));
            }
            (None, Some(pid)) => format!("SELECT pg_terminate_backend({pid})"),
            (None, None) => return None,
        };
        Some(format!("the server keeps the log from its first write on until it ends; to end it: {end}"))
    }
}

/// A moment, to the millisecond.
pub(super) fn time(at: SystemTime) -> String {
    let shown = jiff::Timestamp::try_from(at).and_then(|at| at.round(jiff::Unit::Millisecond));
    shown.map_or_else(|_| "an unknown time".to_owned(), |at| at.to_string())
}

/// The same of seconds since 1970.
fn time_of(seconds: f64) -> String {
    let since = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    time(SystemTime::UNIX_EPOCH + since)
}

/// How long something lasts already, in the unit that keeps it short.
pub(super) fn age_text(seconds: f64) -> String {
    let units = [(86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")];
    match units.iter().find(|(size, _)| seconds >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", seconds / size),
        None => format!("{seconds:.1} seconds"),
    }
}

/// A number of bytes in the unit that keeps it short.
pub(super) fn bytes_text(bytes: i64) -> String {
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
    fn each_line_of_advice_is_one() {
        let advice = Some("move it;\nthen start \u{1b}[2J".to_owned());
        let verdict = Verdict { word: "NOBODY", reason: "nobody reads".to_owned(), advice };
        let expected =
            "NOBODY      nobody reads\n            -> move it;\n            -> then start \\u{1b}[2J\n";
        assert_eq!(verdict.text(), expected);
    }

    #[test]
    fn an_open_transaction_is_named_with_what_is_known() {
        let hidden = OpenTransaction { xid: "742".into(), pid: Some(17), ..OpenTransaction::default() };
        let text = hidden.text();
        assert!(text.starts_with("transaction 742 of PID 17\n            since when is hidden"), "{text}");
        assert!(!text.contains("terminate"), "nobody knows whether it is old: {text}");
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
