//! How the slot is when little room is left for it, and what to do: beside whatever else is wrong, since that can be
//! mended later, and a lost slot can't.

use std::time::Duration;

use serde::Serialize;

use super::health::Ready;
use super::history::Forecast;
use crate::postgres::span;
use crate::vitals::{SlotSight, Vitals, size};

/// What the server said longer ago is told with its age.
const OLD: Duration = Duration::from_secs(20);

/// The slot is nearly lost, however well the relay is otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Filling {
    /// After how much log more the slot is lost, and when that is.
    reason: String,
    /// What a person can do about it.
    advice: String,
    /// How much more log may be written until the slot is lost; unknown where the server has no limit of bytes.
    safe_bytes: Option<u64>,
    /// When that is if it goes on like this, in seconds from now; unknown before there is a trend.
    lost_in_seconds: Option<f64>,
}

/// Whether the slot is nearly lost, as far as is known.
pub(super) fn filling(vitals: &Vitals, ready: &Ready, forecast: Forecast) -> Option<Filling> {
    let seen = vitals.since_slot_seen()?;
    // However old: nobody has made room since, as far as is known.
    let slot = vitals.slot(Duration::MAX).filter(SlotSight::is_filling)?;
    let lost_in_seconds = forecast.lost_in_seconds;
    Some(Filling {
        reason: reason(&slot, lost_in_seconds, seen),
        advice: advice(&slot, ready),
        safe_bytes: slot.safe_bytes,
        lost_in_seconds,
    })
}

fn reason(slot: &SlotSight, lost_in: Option<f64>, seen: Duration) -> String {
    let when = match (slot.wal_status.as_deref(), slot.safe_bytes) {
        (Some("unreserved"), _) | (_, None) => "at the server's next checkpoint".to_owned(),
        (_, Some(safe)) => {
            let more = size(i64::try_from(safe).unwrap_or(i64::MAX));
            let time = lost_in.map(|seconds| format!(", in {} if it goes on like this", span(seconds)));
            format!("once another {more} of log are written{}", time.unwrap_or_default())
        }
    };
    let age = if seen > OLD { format!(" (seen {} ago)", span(seen.as_secs_f64())) } else { String::new() };
    format!("the slot is lost, and rows with it, {when}{age}")
}

fn advice(slot: &SlotSight, ready: &Ready) -> String {
    let room = slot.more_room();
    let (retained, lag) = (slot.retained_bytes().unwrap_or(0), slot.lag_bytes().unwrap_or(0));
    let cause = match ready.state {
        // What is wrong has an advice of its own.
        _ if !ready.good => return room,
        "streaming" if ready.reason.is_some() => return room,
        // More is kept from before what is confirmed than from behind it.
        "streaming" if retained.saturating_sub(lag) > lag => {
            "end the transaction that has been open for longest, which `walpost status` names"
        }
        _ => "see with `walpost status` what keeps the slot from moving",
    };
    format!("{cause}; {room}")
}

#[cfg(test)]
mod tests {
    use super::super::health;
    use super::*;
    use crate::lsn::Lsn;
    use crate::vitals::State;

    fn sight(restart: u64, confirmed: u64, safe: u64) -> SlotSight {
        SlotSight {
            current: Lsn(100 << 20),
            restart: Some(Lsn(restart << 20)),
            confirmed: Some(Lsn(confirmed << 20)),
            safe_bytes: Some(safe << 20),
            wal_status: Some("extended".to_owned()),
            is_active: true,
        }
    }

    fn told(vitals: &Vitals, lost_in_seconds: Option<f64>) -> Option<Filling> {
        let forecast = Forecast { lost_in_seconds, ..Forecast::default() };
        filling(vitals, &health::ready(vitals), forecast)
    }

    #[tokio::test(start_paused = true)]
    async fn little_room_is_told_with_how_much_and_how_long() {
        let vitals = Vitals::default();
        vitals.beat();
        vitals.enter(State::Streaming, "");
        assert_eq!(told(&vitals, None), None, "nobody has seen the slot");
        vitals.see_slot(sight(90, 100, 100));
        assert_eq!(told(&vitals, Some(60.0)), None, "there is room");

        vitals.see_slot(sight(0, 100, 12));
        let held = told(&vitals, Some(252.0)).unwrap();
        assert_eq!(
            held.reason,
            "the slot is lost, and rows with it, once another 12.0 MiB of log are written, in 4.2 minutes if it goes on \
             like this"
        );
        assert!(held.advice.starts_with("end the transaction"), "{}", held.advice);
        assert_eq!((held.safe_bytes, held.lost_in_seconds), (Some(12 << 20), Some(252.0)));
        vitals.see_slot(sight(0, 10, 12));
        let slow = told(&vitals, None).unwrap();
        assert!(slow.reason.ends_with("12.0 MiB of log are written"), "{}", slow.reason);
        assert!(slow.advice.starts_with("see with `walpost status`"), "{}", slow.advice);
        vitals.set_broker_fault(Some("all brokers are down".to_owned()));
        let away = told(&vitals, None).unwrap();
        assert_eq!(
            away.advice,
            "to gain time, if the disk has room: ALTER SYSTEM SET max_slot_wal_keep_size = '1136MB'; SELECT \
             pg_reload_conf();",
            "Kafka has its own advice"
        );

        let status = Some("unreserved".to_owned());
        vitals.see_slot(SlotSight { wal_status: status, ..sight(0, 10, 0) });
        let told_now = told(&vitals, Some(0.0)).unwrap().reason;
        assert!(told_now.ends_with("at the server's next checkpoint"), "{told_now}");
        tokio::time::advance(Duration::from_secs(90)).await;
        let later = told(&vitals, None).unwrap().reason;
        assert!(later.ends_with("next checkpoint (seen 1.5 minutes ago)"), "{later}");
    }
}
