//! What the figures mean, in a word, and what becomes of the slot if all goes on as it does now.

use super::{Status, bytes_text};
use crate::lsn::Lsn;

/// From here on a relay that is on its way is called late.
const BEHIND_BYTES: i64 = 64 << 20;
/// A slot that is lost as soon as this, in seconds, needs a person now.
const SOON: f64 = 3600.0;

/// The figures of one moment that become rates with those of another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Seconds, by the server's clock.
    pub(super) at: f64,
    pub(super) current: Lsn,
    pub(super) confirmed: Option<Lsn>,
}

/// Bytes of log in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// How many the server writes.
    pub(super) written: f64,
    /// How many the relay confirms.
    pub(super) confirmed: f64,
}

#[allow(clippy::cast_precision_loss, reason = "a rate has few digits that count")]
impl Rates {
    pub(super) fn between(first: &Sample, second: &Sample) -> Rates {
        let seconds = (second.at - first.at).max(0.001);
        let rate = |from: Lsn, to: Lsn| to.distance(from) as f64 / seconds;
        Rates {
            written: rate(first.current, second.current),
            confirmed: first.confirmed.zip(second.confirmed).map_or(0.0, |(from, to)| rate(from, to)),
        }
    }

    /// In how many seconds so many bytes are used up; none if the relay keeps up.
    pub(super) fn used_up(self, bytes: i64) -> Option<f64> {
        let net = self.written - self.confirmed;
        (net >= 1.0).then(|| bytes.max(0) as f64 / net)
    }

    /// In how many seconds the relay has caught up; none if it does not come closer.
    fn caught_up(self, lag: i64) -> Option<f64> {
        let net = self.confirmed - self.written;
        (net >= 1.0).then(|| lag.max(0) as f64 / net)
    }
}

/// How the relay is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) word: &'static str,
    pub(super) reason: String,
    pub(super) advice: Option<String>,
}

impl Verdict {
    /// Whether somebody has to do something.
    pub(super) fn needs_a_person(&self) -> bool {
        !matches!(self.word, "OK" | "BEHIND")
    }

    pub(super) fn of(status: &Status, rates: Rates) -> Verdict {
        let verdict = |word, reason: String, advice: Option<String>| Verdict { word, reason, advice };
        if status.wal_status.as_deref() == Some("lost") || status.invalidation_reason.is_some() {
            let why = status.invalidation_reason.as_deref().unwrap_or("its log was removed");
            let advice = "what was not published is no longer in the log: `walpost teardown` and `walpost setup` make the slot \
                          anew, `walpost audit` finds the rows, `walpost replay` sends them";
            let reason = format!("the server has given up slot {}: {why}", status.slot);
            return verdict("LOST", reason, Some(advice.to_owned()));
        }
        let left = status.safe_bytes.and_then(|bytes| rates.used_up(bytes));
        let lag = status.lag_bytes.unwrap_or_default();
        // A relay that keeps up may have confirmed nothing of what was written in this one second.
        let late = !status.active || lag > BEHIND_BYTES;
        let soon = late && left.is_some_and(|left| left < SOON);
        if status.wal_status.as_deref() == Some("unreserved") || soon {
            let reason = match left {
                Some(left) => format!("the slot is lost in {}", time_text(left)),
                None => "the slot is lost at the server's next checkpoint".to_owned(),
            };
            let advice =
                "raise max_slot_wal_keep_size if the disk has room, and see why the relay does not keep up";
            return verdict("FILLING", reason, Some(advice.to_owned()));
        }
        if !status.active {
            let waits = status.lag_bytes.map_or_else(|| "an unknown amount".to_owned(), bytes_text);
            let since =
                status.inactive_since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
            let reason = format!("nobody reads the slot{since}; {waits} of log wait");
            return verdict("NOBODY", reason, Some("start `walpost run`".to_owned()));
        }
        if lag > BEHIND_BYTES {
            let end = match rates.caught_up(lag) {
                Some(seconds) => format!("caught up in {}", time_text(seconds)),
                None => "and does not come closer".to_owned(),
            };
            return verdict("BEHIND", format!("the relay lies {} behind, {end}", bytes_text(lag)), None);
        }
        verdict("OK", "the relay keeps up".to_owned(), None)
    }
}

/// What becomes of the slot, for a person.
pub(super) fn forecast(status: &Status, rates: Rates) -> String {
    let rate = |bytes: f64| {
        #[allow(clippy::cast_possible_truncation, reason = "a rate is far from the ends of the numbers")]
        let bytes = bytes as i64;
        format!("{}/s", bytes_text(bytes))
    };
    let flow = format!("{} written, {} confirmed", rate(rates.written), rate(rates.confirmed));
    let end = match (status.safe_bytes, rates.used_up(status.safe_bytes.unwrap_or_default())) {
        (_, None) => "nothing piles up".to_owned(),
        (Some(_), Some(seconds)) => format!(
            "the slot is lost in {} (max_slot_wal_keep_size {})",
            time_text(seconds),
            status.max_kept.as_deref().unwrap_or("unknown")
        ),
        (None, Some(_)) => format!(
            "the log grows by {} until the disk is full, whose size SQL does not tell (max_slot_wal_keep_size {})",
            rate(rates.written - rates.confirmed),
            status.max_kept.as_deref().unwrap_or("unknown")
        ),
    };
    format!("{flow}: {end}")
}

/// A time that is still to come, in its two largest units.
fn time_text(seconds: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive, and cut at the largest"
    )]
    let seconds = seconds.round() as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn status() -> Status {
        Status { slot: "w".to_owned(), active: true, lag_bytes: Some(0), ..Status::default() }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let sample =
            |at, current, confirmed| Sample { at, current: Lsn(current), confirmed: Some(Lsn(confirmed)) };
        let rates = Rates::between(&sample(10.0, 1000, 500), &sample(12.0, 3000, 700));
        assert_eq!(rates, Rates { written: 1000.0, confirmed: 100.0 });
        assert_eq!(rates.used_up(9000), Some(10.0));
        assert_eq!(Rates { written: 5.0, confirmed: 5.0 }.used_up(9000), None);
    }

    #[test]
    fn the_worst_is_the_word() {
        let (still, rising) = (Rates::default(), Rates { written: 3.2 * MIB, confirmed: 0.0 });
        let text = |text: &str| Some(text.to_owned());
        for (status, rates, word, reason) in [
            (status(), rising, "OK", "the relay keeps up"),
            (
                Status { active: false, ..status() },
                still,
                "NOBODY",
                "nobody reads the slot; 0 bytes of log wait",
            ),
            (
                Status { lag_bytes: Some(1 << 30), ..status() },
                rising,
                "BEHIND",
                "the relay lies 1.0 GiB behind, and does not come closer",
            ),
            (
                Status { lag_bytes: Some(1 << 30), ..status() },
                Rates { written: 0.0, confirmed: MIB },
                "BEHIND",
                "the relay lies 1.0 GiB behind, caught up in 17 min 4 s",
            ),
            (
                Status { safe_bytes: Some(320 << 20), active: false, ..status() },
                rising,
                "FILLING",
                "the slot is lost in 1 min 40 s",
            ),
            (
                Status { wal_status: text("unreserved"), ..status() },
                still,
                "FILLING",
                "the slot is lost at the server's next checkpoint",
            ),
            (
                Status { wal_status: text("lost"), ..status() },
                still,
                "LOST",
                "the server has given up slot w: its log was removed",
            ),
            (
                Status { invalidation_reason: text("idle_timeout"), ..status() },
                still,
                "LOST",
                "the server has given up slot w: idle_timeout",
            ),
        ] {
            let verdict = Verdict::of(&status, rates);
            assert_eq!((verdict.word, verdict.reason.as_str()), (word, reason));
            assert_eq!(verdict.needs_a_person(), !matches!(word, "OK" | "BEHIND"), "{word}");
        }
    }

    #[test]
    fn a_forecast_names_the_bound_or_that_there_is_none() {
        let rates = Rates { written: 3.2 * MIB, confirmed: 0.0 };
        let bound = Status { safe_bytes: Some(46_875 << 20), max_kept: Some("50GB".to_owned()), ..status() };
        let expected = "3.2 MiB/s written, 0 bytes/s confirmed: the slot is lost in 4 h 4 min (max_slot_wal_keep_size 50GB)";
        assert_eq!(forecast(&bound, rates), expected);
        let none = Status { max_kept: Some("-1".to_owned()), ..status() };
        assert!(forecast(&none, rates).contains("grows by 3.2 MiB/s until the disk is full"));
        assert!(forecast(&none, Rates::default()).ends_with(": nothing piles up"));
    }
}
