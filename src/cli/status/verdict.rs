//! What the figures mean, in a word.

use serde::Serialize;

use super::Status;
use super::rates::{Rates, time_text};
use super::relay::Word;
use super::text::{age_text, bytes_text};
use crate::postgres::{Obstacle, make_anew};
use crate::vitals::{is_near_its_end, room_sql};

/// From here on a relay that is on its way is called late.
pub(super) const BEHIND_BYTES: i64 = 64 << 20;
/// A slot that is lost as soon as this, in seconds, needs a person now.
const SOON: f64 = 3600.0;
/// How long a row may wait, in seconds, while nothing is confirmed.
pub(super) const WAITS: f64 = 10.0;

/// How the relay is, or one thing that is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    #[serde(rename = "verdict")]
    pub(super) word: &'static str,
    pub(super) reason: String,
    pub(super) advice: Option<String>,
}

impl Verdict {
    fn new(word: &'static str, reason: impl Into<String>, advice: impl Into<String>) -> Verdict {
        Verdict { word, reason: reason.into(), advice: Some(advice.into()) }
    }

    /// Whether somebody has to do something.
    pub(super) fn needs_a_person(&self) -> bool {
        !matches!(self.word, "OK" | "BEHIND")
    }

    /// All that is to be said, the most urgent first; there is always one.
    pub(super) fn all(status: &Status, rates: Rates) -> Vec<Verdict> {
        // Of a slot that is gone nothing else matters.
        if let Some(lost) = lost(status) {
            return vec![lost];
        }
        let stalled = stalled(status, rates);
        // A relay that says what it waits for is there, whoever holds the slot at this moment.
        let nobody = (!status.active && stalled.is_none()).then(|| nobody(status));
        let found = [filling(status, rates), stalled, nobody, behind(status, rates)];
        let mut found: Vec<_> = found.into_iter().flatten().collect();
        if found.is_empty() {
            found.push(Verdict { word: "OK", reason: "the relay keeps up".to_owned(), advice: None });
        }
        found
    }
}

fn lost(status: &Status) -> Option<Verdict> {
    if !status.is_lost() {
        return None;
    }
    let why = status.invalidation_reason.as_deref().unwrap_or("its log was removed");
    let reason = format!("the server has given up slot {}: {why}", status.slot);
    Some(Verdict::new("LOST", reason, make_anew(&status.slot)))
}

/// The slot is lost soon, by how fast the log grows, or by how little of it may still be written.
fn filling(status: &Status, rates: Rates) -> Option<Verdict> {
    let left = status.safe_bytes.and_then(|bytes| rates.used_up(bytes));
    let by = rates.measure();
    // A relay that keeps up may have confirmed nothing of what was written in this one second.
    let late = !status.active || status.lag() > BEHIND_BYTES;
    let soon = left.filter(|left| late && *left < SOON);
    let room = status.safe_bytes.zip(status.retained_bytes);
    let near = room.filter(|(safe, retained)| is_near_its_end(*safe, *retained));
    let reason = match (status.wal_status.as_deref(), soon, near) {
        (Some("unreserved"), Some(left), _) if left >= 1.0 => {
            format!("the slot is lost at the server's next checkpoint, within {}{by}", time_text(left))
        }
        (Some("unreserved"), ..) => "the slot is lost at the server's next checkpoint".to_owned(),
        (_, Some(left), _) => format!("the slot is lost in {}{by}", time_text(left)),
        (_, None, Some((safe, retained))) => format!(
            "{} of log are kept for the slot: another {}, and it is lost (max_slot_wal_keep_size {})",
            bytes_text(retained),
            bytes_text(safe),
            status.max_kept.as_deref().unwrap_or("unknown")
        ),
        (_, None, None) => return None,
    };
    let cause = match &status.oldest_transaction {
        _ if !status.active => "let a relay read the slot",
        Some(_) if status.lag() <= BEHIND_BYTES => {
            "end the transaction that has been open for longest (see below)"
        }
        _ => "see why the relay does not keep up",
    };
    let raise = room.map_or_else(
        || "raise max_slot_wal_keep_size".to_owned(),
        |(safe, retained)| room_sql(safe, retained),
    );
    Some(Verdict::new("FILLING", reason, format!("{cause}; to gain time, if the disk has room: {raise}")))
}

/// A relay is there, and nothing is published.
fn stalled(status: &Status, rates: Rates) -> Option<Verdict> {
    match &status.relay.word {
        Some(word) => word_for_it(word),
        None => to_all_appearances(status, rates),
    }
}

/// What the relay itself says is wrong with it.
pub(super) fn word_for_it(word: &Word) -> Option<Verdict> {
    let Word { ready, state, stage, reason, advice, .. } = word;
    let why = reason.as_deref();
    let reason = match (ready, state.as_str(), stage.as_deref()) {
        // Of a good relay there is nothing to explain but that it reaches no broker.
        (true, "streaming", _) => format!("the relay reaches no Kafka broker: {}", why?),
        (false, "stalled", Some("publishing")) => format!("the relay waits for Kafka: {}", why?),
        (false, "stalled", stage) => format!("the relay stands still at {}: {}", stage?, why?),
        (false, "retrying" | "stopped", _) => {
            format!("the relay is {state}: {}", why.unwrap_or("no reason told"))
        }
        _ => return None,
    };
    Some(Verdict { word: "STALLED", reason, advice: advice.clone() })
}

/// Nobody tells: a row waits for long, and nothing is confirmed.
fn to_all_appearances(status: &Status, rates: Rates) -> Option<Verdict> {
    let oldest = status.oldest_unpublished.as_ref()?;
    if !status.active || oldest.seconds < WAITS || rates.confirmed > 0.0 {
        return None;
    }
    let holder = status.pid.map(|pid| format!(" (PID {pid})")).unwrap_or_default();
    let reason = format!(
        "the relay that holds the slot{holder} confirms nothing, and a row has waited for {}",
        age_text(oldest.seconds)
    );
    let brokers = match &status.brokers {
        Some(brokers) => format!("the Kafka brokers ({brokers})"),
        None => "its Kafka brokers".to_owned(),
    };
    let advice = format!(
        "see whether {brokers} answer (`walpost check`), and what the relay's log and its /readyz say: one large transaction \
         looks the same from here; with --listen this command asks the relay"
    );
    Some(Verdict::new("STALLED", reason, advice))
}

fn nobody(status: &Status) -> Verdict {
    let waits = status.lag_bytes.map_or_else(|| "an unknown amount".to_owned(), bytes_text);
    let since = status.inactive_since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    let reason = format!("nobody reads the slot{since}; {waits} of log wait");
    match &status.obstacle {
        Some(Obstacle { reason: why, advice }) => {
            let reason = format!("{reason}; a relay with these settings can't start: {why}");
            Verdict { word: "NOBODY", reason, advice: advice.clone() }
        }
        None => {
            let advice =
                "start `walpost run`; one that runs, and does not read, says why in its log and at /readyz";
            Verdict::new("NOBODY", reason, advice)
        }
    }
}

fn behind(status: &Status, rates: Rates) -> Option<Verdict> {
    let lag = status.lag();
    if !status.active || lag <= BEHIND_BYTES {
        return None;
    }
    let end = match rates.caught_up(lag) {
        Some(seconds) => format!("caught up in {}", time_text(seconds)),
        None => "and does not come closer".to_owned(),
    };
    let reason = format!("the relay lies {} behind, {end}", bytes_text(lag));
    Some(Verdict { word: "BEHIND", reason, advice: None })
}

#[cfg(test)]
mod tests {
    use super::super::Oldest;
    use super::super::rates::LongTerm;
    use super::super::relay::Relay;
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn status() -> Status {
        Status { slot: "w".to_owned(), active: true, lag_bytes: Some(0), ..Status::default() }
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn words(status: &Status, rates: Rates) -> Vec<&'static str> {
        Verdict::all(status, rates).iter().map(|verdict| verdict.word).collect()
    }

    #[test]
    fn the_worst_is_the_word() {
        let (still, rising) = (Rates::default(), Rates { written: 3.2 * MIB, ..Rates::default() });
        let behind = Status { lag_bytes: Some(1 << 30), ..status() };
        let nobody = Status { active: false, ..status() };
        let gone = Status { invalidation_reason: text("idle_timeout"), ..status() };
        for (status, rates, word, reason) in [
            (status(), rising, "OK", "the relay keeps up"),
            (nobody, still, "NOBODY", "nobody reads the slot; 0 bytes of log wait"),
            (behind, rising, "BEHIND", "the relay lies 1.0 GiB behind, and does not come closer"),
            (
                Status { lag_bytes: Some(1 << 30), ..status() },
                Rates { confirmed: MIB, ..Rates::default() },
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
            (gone, still, "LOST", "the server has given up slot w: idle_timeout"),
        ] {
            let verdict = &Verdict::all(&status, rates)[0];
            assert_eq!((verdict.word, verdict.reason.as_str()), (word, reason));
            assert_eq!(verdict.needs_a_person(), !matches!(word, "OK" | "BEHIND"), "{word}");
        }
    }

    #[test]
    fn little_room_is_told_whoever_reads_and_the_others_beside_it() {
        let room = |active, safe: i64, retained: i64| Status {
            active,
            safe_bytes: Some(safe << 20),
            retained_bytes: Some(retained << 20),
            max_kept: text("4GB"),
            ..status()
        };
        let still = Rates::default();
        assert_eq!(words(&room(true, 1025, 3000), still), ["OK"]);
        assert_eq!(words(&room(true, 900, 3100), still), ["FILLING"]);
        assert_eq!(words(&room(false, 900, 3100), still), ["FILLING", "NOBODY"]);
        let late = Status { lag_bytes: Some(3 << 30), ..room(true, 900, 3100) };
        assert_eq!(words(&late, still), ["FILLING", "BEHIND"]);
        let told = &Verdict::all(&room(false, 900, 3100), still)[0];
        let reason = "3.0 GiB of log are kept for the slot: another 900.0 MiB, and it is lost (max_slot_wal_keep_size 4GB)";
        assert_eq!(told.reason, reason);
        assert!(told.advice.as_ref().unwrap().contains("let a relay read"), "{told:?}");
    }

    #[test]
    fn what_the_relay_says_counts_before_what_the_slot_looks_like() {
        let word = |ready, state: &str, stage: Option<&str>, reason: Option<&str>| Status {
            relay: Relay {
                word: Some(Word {
                    ready,
                    state: state.to_owned(),
                    stage: stage.map(str::to_owned),
                    reason: reason.map(str::to_owned),
                    advice: text("see to it"),
                    ..Word::default()
                }),
                ..Relay::default()
            },
            ..status()
        };
        let (still, oldest) = (Rates::default(), |seconds| Some(Oldest { seconds, ..Oldest::default() }));
        for (status, expected) in [
            (word(true, "streaming", None, None), ("OK", "the relay keeps up")),
            (word(true, "standing by", None, Some("slot w is in use")), ("OK", "the relay keeps up")),
            (
                word(true, "streaming", None, Some("refused")),
                ("STALLED", "the relay reaches no Kafka broker: refused"),
            ),
            (
                word(false, "stalled", Some("publishing"), Some("refused")),
                ("STALLED", "the relay waits for Kafka: refused"),
            ),
            (
                word(false, "stalled", Some("dead letters"), Some("locked")),
                ("STALLED", "the relay stands still at dead letters: locked"),
            ),
            (
                Status { active: false, ..word(false, "retrying", None, Some("refused")) },
                ("STALLED", "the relay is retrying: refused"),
            ),
            (
                Status { oldest_unpublished: oldest(60.0), ..word(true, "streaming", None, None) },
                ("OK", "the relay keeps up"),
            ),
            (Status { oldest_unpublished: oldest(9.0), ..status() }, ("OK", "the relay keeps up")),
            (
                Status { oldest_unpublished: oldest(60.0), pid: Some(7), ..status() },
                (
                    "STALLED",
                    "the relay that holds the slot (PID 7) confirms nothing, and a row has waited for 1.0 minutes",
                ),
            ),
            (
                Status { oldest_unpublished: oldest(60.0), active: false, ..status() },
                ("NOBODY", "nobody reads the slot; 0 bytes of log wait"),
            ),
        ] {
            let all = Verdict::all(&status, still);
            assert_eq!((all[0].word, all[0].reason.as_str()), expected);
            assert_eq!(all.len(), 1, "{all:?}");
        }
        let moving = Rates { written: 1.0, confirmed: 1.0, ..Rates::default() };
        assert_eq!(words(&Status { oldest_unpublished: oldest(60.0), ..status() }, moving), ["OK"]);
        let named = Status { oldest_unpublished: oldest(60.0), brokers: text("k:9092"), ..status() };
        let advice = Verdict::all(&named, still)[0].advice.clone().unwrap();
        assert!(advice.contains("the Kafka brokers (k:9092) answer"), "{advice}");
    }

    #[test]
    fn nobody_names_what_is_in_a_relays_way() {
        let obstacle = Obstacle { reason: "no publication".to_owned(), advice: text("make it") };
        let nobody = Status { active: false, obstacle: Some(obstacle), ..status() };
        let all = Verdict::all(&nobody, Rates::default());
        let reason = "nobody reads the slot; 0 bytes of log wait; a relay with these settings can't start: no publication";
        assert_eq!(all, [Verdict::new("NOBODY", reason, "make it")]);
    }

    #[test]
    fn the_measure_stands_behind_what_follows_from_it() {
        let long = LongTerm { bytes_per_second: 3.2 * MIB, seconds: 7200.0 };
        let calm = Rates { long_term: Some(long), ..Rates::default() };
        let unread = Status { safe_bytes: Some(320 << 20), active: false, ..status() };
        let reason = "the slot is lost in 1 min 40 s at the rate of the last 2.0 hours";
        assert_eq!(Verdict::all(&unread, calm)[0].reason, reason);
    }
}
