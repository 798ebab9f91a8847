//! How fast the log grows and is confirmed, and what becomes of the slot if that goes on.

use serde::Serialize;

use super::Status;
use super::text::{age_text, bytes_text};
use super::verdict::{BEHIND_BYTES, WAITS};
use crate::lsn::Lsn;

/// The figures of one moment that become rates with those of another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Seconds, by the server's clock.
    pub(super) at: f64,
    pub(super) current: Lsn,
    pub(super) confirmed: Option<Lsn>,
}

/// Bytes of log in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    /// How many the server writes.
    #[serde(rename = "wal_bytes_per_second")]
    pub(super) written: f64,
    /// How many the relay confirms.
    #[serde(rename = "confirmed_bytes_per_second")]
    pub(super) confirmed: f64,
    /// The second that is measured may be a calm one.
    pub(super) long_term: Option<LongTerm>,
}

/// How fast the server has written since the oldest row waits, or since nobody reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct LongTerm {
    pub(super) bytes_per_second: f64,
    /// How long that is.
    pub(super) seconds: f64,
}

#[allow(clippy::cast_precision_loss, reason = "a rate has few digits that count")]
impl LongTerm {
    /// The longest time of which it is known. A row's log begins where it was committed: what was written before it says
    /// nothing of the time since.
    pub(super) fn of(status: &Status) -> Option<LongTerm> {
        let lsn = |text: &str| text.parse::<Lsn>().ok();
        let waits = status.oldest_unpublished.as_ref().and_then(|oldest| {
            let bytes = lsn(&status.current_lsn)?.distance(lsn(&oldest.lsn)?);
            Some((bytes as f64, oldest.seconds))
        });
        let unread = status.inactive_seconds.filter(|_| !status.active);
        let unread = status.lag_bytes.zip(unread).map(|(bytes, seconds)| (bytes as f64, seconds));
        let known = [waits, unread].into_iter().flatten().filter(|(_, seconds)| *seconds >= WAITS);
        let longest = known.max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(LongTerm { bytes_per_second: longest.0 / longest.1, seconds: longest.1 })
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate has few digits that count")]
impl Rates {
    pub(super) fn between(first: &Sample, second: &Sample) -> Rates {
        let seconds = (second.at - first.at).max(0.001);
        let rate = |from: Lsn, to: Lsn| to.distance(from) as f64 / seconds;
        Rates {
            written: rate(first.current, second.current),
            confirmed: first.confirmed.zip(second.confirmed).map_or(0.0, |(from, to)| rate(from, to)),
            long_term: None,
        }
    }

    /// How fast what the relay has not confirmed grows: the worse of this second and the long term.
    pub(super) fn growth(self) -> f64 {
        self.written.max(self.of_long_term()) - self.confirmed
    }

    fn of_long_term(self) -> f64 {
        self.long_term.map_or(0.0, |long| long.bytes_per_second)
    }

    /// The long term, if that is the worse.
    fn worse(self) -> Option<LongTerm> {
        self.long_term.filter(|long| long.bytes_per_second > self.written)
    }

    /// Which of the two counts, to stand behind what follows from it; nothing if there is no choice.
    pub(super) fn measure(self) -> String {
        match self.worse() {
            Some(long) => format!(" at the rate of the last {}", age_text(long.seconds)),
            None => self.or_this_second().to_owned(),
        }
    }

    /// The same where both were told before.
    fn which(self) -> &'static str {
        if self.worse().is_some() { " at the latter rate" } else { self.or_this_second() }
    }

    fn or_this_second(self) -> &'static str {
        if self.long_term.is_some() { " at the rate of this second" } else { "" }
    }

    /// In how many seconds so many bytes are used up; none if the relay keeps up.
    pub(super) fn used_up(self, bytes: i64) -> Option<f64> {
        let growth = self.growth();
        (growth >= 1.0).then(|| bytes.max(0) as f64 / growth)
    }

    /// In how many seconds the relay has caught up; none if it does not come closer.
    pub(super) fn caught_up(self, lag: i64) -> Option<f64> {
        let net = self.confirmed - self.written;
        (net >= 1.0).then(|| lag.max(0) as f64 / net)
    }
}

/// What becomes of the slot, for a person.
pub(super) fn forecast(status: &Status, rates: Rates) -> String {
    let rate = |bytes: f64| {
        #[allow(clippy::cast_possible_truncation, reason = "a rate is far from the ends of the numbers")]
        let bytes = bytes as i64;
        format!("{}/s", bytes_text(bytes))
    };
    if status.is_lost() {
        return format!("{} written: the server keeps none of it for the slot", rate(rates.written));
    }
    let long = rates.long_term.map(|long| {
        format!("; {} written in the last {}", rate(long.bytes_per_second), age_text(long.seconds))
    });
    let flow = format!("{} written, {} confirmed", rate(rates.written), rate(rates.confirmed));
    let (by, kept) = (rates.which(), status.max_kept.as_deref().unwrap_or("unknown"));
    let end = match (status.safe_bytes, rates.used_up(status.safe_bytes.unwrap_or_default())) {
        (_, None) if status.is_small() => "nothing piles up".to_owned(),
        (_, None) => "nothing more piles up in this second".to_owned(),
        (Some(_), Some(seconds)) => {
            format!("the slot is lost in {}{by} (max_slot_wal_keep_size {kept})", time_text(seconds))
        }
        (None, Some(_)) => format!(
            "the log grows by {}{by} until the disk is full, whose size SQL does not tell (max_slot_wal_keep_size {kept})",
            rate(rates.growth())
        ),
    };
    format!("{flow}{}: {end}", long.unwrap_or_default())
}

impl Status {
    /// Whether the relay keeps up, and little is kept.
    fn is_small(&self) -> bool {
        let kept = self.retained_bytes.unwrap_or_default().max(self.lag());
        self.active && kept <= BEHIND_BYTES
    }
}

/// A time that is still to come, in its two largest units.
pub(super) fn time_text(seconds: f64) -> String {
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
    use super::super::Oldest;
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn status() -> Status {
        Status { slot: "w".to_owned(), active: true, lag_bytes: Some(0), ..Status::default() }
    }

    fn rates(written: f64, confirmed: f64) -> Rates {
        Rates { written, confirmed, long_term: None }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let sample =
            |at, current, confirmed| Sample { at, current: Lsn(current), confirmed: Some(Lsn(confirmed)) };
        let between = Rates::between(&sample(10.0, 1000, 500), &sample(12.0, 3000, 700));
        assert_eq!(between, rates(1000.0, 100.0));
        assert_eq!(between.used_up(9000), Some(10.0));
        assert_eq!(rates(5.0, 5.0).used_up(9000), None);
    }

    #[test]
    fn the_long_term_is_the_longest_time_of_which_something_is_known() {
        let oldest = |lsn: &str, seconds| Some(Oldest { lsn: lsn.to_owned(), seconds, ..Oldest::default() });
        let at = |current: &str| Status { current_lsn: current.to_owned(), ..status() };
        let waits = Status { oldest_unpublished: oldest("0/100", 16.0), ..at("0/500") };
        assert_eq!(LongTerm::of(&waits), Some(LongTerm { bytes_per_second: 64.0, seconds: 16.0 }));
        let fresh = Status { oldest_unpublished: oldest("0/100", 9.0), ..at("0/500") };
        assert_eq!(LongTerm::of(&fresh), None, "a few seconds are no long term");
        let unread = Status { lag_bytes: Some(4000), inactive_seconds: Some(40.0), ..fresh };
        assert_eq!(LongTerm::of(&unread), None, "it is read again");
        let unread = Status { active: false, ..unread };
        assert_eq!(LongTerm::of(&unread), Some(LongTerm { bytes_per_second: 100.0, seconds: 40.0 }));
        let both = Status { inactive_seconds: Some(12.0), active: false, ..waits };
        assert_eq!(LongTerm::of(&both).map(|long| long.seconds), Some(16.0));
        assert_eq!(LongTerm::of(&at("0/500")), None);
    }

    #[test]
    fn the_worse_of_the_second_and_the_long_term_counts() {
        let long = |bytes_per_second| Some(LongTerm { bytes_per_second, seconds: 18_000.0 });
        for (written, confirmed, long_term, left, by) in [
            (0.0, 0.0, long(100.0), Some(10.0), " at the rate of the last 5.0 hours"),
            (500.0, 0.0, long(100.0), Some(2.0), " at the rate of this second"),
            (0.0, 0.0, None, None, ""),
            // On its way again.
            (10.0, 200.0, long(100.0), None, " at the rate of the last 5.0 hours"),
        ] {
            let rates = Rates { long_term, ..rates(written, confirmed) };
            assert_eq!((rates.used_up(1000), rates.measure().as_str()), (left, by));
        }
    }

    #[test]
    fn a_forecast_names_the_bound_or_that_there_is_none() {
        let rising = rates(3.2 * MIB, 0.0);
        let bound = Status { safe_bytes: Some(46_875 << 20), max_kept: Some("50GB".to_owned()), ..status() };
        let expected = "3.2 MiB/s written, 0 bytes/s confirmed: the slot is lost in 4 h 4 min (max_slot_wal_keep_size 50GB)";
        assert_eq!(forecast(&bound, rising), expected);
        let long = LongTerm { bytes_per_second: 3.2 * MIB, seconds: 7200.0 };
        let calm = Rates { long_term: Some(long), ..Rates::default() };
        let expected = "0 bytes/s written, 0 bytes/s confirmed; 3.2 MiB/s written in the last 2.0 hours: the slot is lost in 4 h \
                        4 min at the latter rate (max_slot_wal_keep_size 50GB)";
        assert_eq!(forecast(&bound, calm), expected);
        let none = Status { max_kept: Some("-1".to_owned()), ..status() };
        assert!(forecast(&none, rising).contains("grows by 3.2 MiB/s until the disk is full"));
        let grows = "grows by 3.2 MiB/s at the latter rate until the disk is full";
        assert!(forecast(&none, calm).contains(grows));
        assert!(forecast(&none, Rates::default()).ends_with(": nothing piles up"));
        let kept = Status { retained_bytes: Some(3 << 30), ..none };
        assert!(forecast(&kept, Rates::default()).ends_with(": nothing more piles up in this second"));
        let lost = Status { wal_status: Some("lost".to_owned()), ..kept };
        assert_eq!(forecast(&lost, rising), "3.2 MiB/s written: the server keeps none of it for the slot");
    }
}
