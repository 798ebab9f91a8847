//! All that the page shows, as one JSON object: `/api/state`.

use std::time::Duration;

use serde::Serialize;

use super::events::{Event, Events, now_ms};
use super::filling::{Filling, filling};
use super::health;
use super::history::{Forecast, History, Latency, Sample};
use crate::vitals::{SlotSight, Vitals};

/// A table that is locked is asked again after a minute.
const DESK_STALE: Duration = Duration::from_secs(180);

/// What does not change while the process lives. No secret is in it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct About {
    /// The relay's version.
    pub version: &'static str,
    /// The replication slot.
    pub slot: String,
    /// The publication that it is read through.
    pub publication: String,
    /// The outbox tables.
    pub tables: Vec<String>,
    /// Database, hosts and role.
    pub database: String,
    /// The brokers to begin with.
    pub brokers: String,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    now_ms: u64,
    /// Tells one process from the next.
    started_ms: u64,
    /// Whether records flow, or would if this relay held the slot.
    good: bool,
    #[serde(flatten)]
    ready: health::Ready,
    rate: f64,
    latency: Latency,
    in_flight_bytes: u64,
    received: String,
    slot: Option<Slot>,
    forecast: Forecast,
    /// Told when the slot is nearly lost.
    filling: Option<Filling>,
    /// Open dead letters, counted to 10000; unknown where there is no such table, or it does not answer.
    dead_letters: Option<u64>,
    parked: u64,
    replayed: u64,
    held: Option<u64>,
    next_due: Option<f64>,
    about: &'a About,
    may_act: bool,
    has_letters: bool,
    events_version: u64,
    /// Absent when nothing is new.
    events: Option<Vec<Event>>,
    /// The number of the next sample.
    next: u64,
    samples: Vec<Sample>,
}

/// The slot as the server told of it.
#[derive(Debug, Serialize)]
struct Slot {
    seen_seconds_ago: u64,
    lag_bytes: Option<u64>,
    retained_bytes: Option<u64>,
    safe_bytes: Option<u64>,
    wal_status: Option<String>,
    is_active: bool,
}

/// What whoever asks knows already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The number of the next sample.
    samples: u64,
    /// The version of the events.
    events: u64,
}

/// What is asked and shown beside the vitals.
pub(super) struct Sources<'a> {
    pub(super) vitals: &'a Vitals,
    pub(super) history: &'a History,
    pub(super) events: &'a Events,
    pub(super) about: &'a About,
    pub(super) started_ms: u64,
    pub(super) may_act: bool,
    pub(super) has_letters: bool,
}

impl Known {
    /// Out of a query such as `since=7&events=3`; what makes no sense is not known.
    pub(super) fn of(query: Option<&str>) -> Known {
        let number = |name: &str| {
            let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        Known { samples: number("since"), events: number("events") }
    }
}

/// Puts it together.
pub(super) fn answer<'a>(sources: &Sources<'a>, known: Known) -> Answer<'a> {
    let Sources { vitals, history, events, about, started_ms, may_act, has_letters } = *sources;
    let ready = health::ready(vitals);
    let desk = vitals.desk(DESK_STALE).unwrap_or_default();
    let (events_version, events) = events.since(known.events);
    let (next, samples) = history.since(known.samples);
    let forecast = history.forecast();
    Answer {
        now_ms: now_ms(),
        started_ms,
        good: ready.good,
        filling: filling(vitals, &ready, forecast),
        ready,
        rate: history.rate(),
        latency: history.latency(),
        in_flight_bytes: vitals.tally().in_flight_bytes.get(),
        received: vitals.received().to_string(),
        slot: slot(vitals),
        forecast,
        dead_letters: desk.dead_letters,
        parked: vitals.dead_letters(),
        replayed: vitals.tally().replayed.get(),
        held: desk.held,
        next_due: desk.next_due,
        about,
        may_act,
        has_letters,
        events_version,
        events,
        next,
        samples,
    }
}

/// However old it is, with its age: a page can say so.
fn slot(vitals: &Vitals) -> Option<Slot> {
    let age = vitals.since_slot_seen()?;
    let sight: SlotSight = vitals.slot(Duration::MAX)?;
    Some(Slot {
        seen_seconds_ago: age.as_secs(),
        lag_bytes: sight.lag_bytes(),
        retained_bytes: sight.retained_bytes(),
        safe_bytes: sight.safe_bytes,
        wal_status: sight.wal_status,
        is_active: sight.is_active,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vitals::State;

    #[test]
    fn what_is_known_already_comes_out_of_the_query() {
        assert_eq!(Known::of(Some("since=7&events=3")), Known { samples: 7, events: 3 });
        for query in [None, Some(""), Some("since=-1"), Some("since"), Some("other=1&since=x")] {
            assert_eq!(Known::of(query), Known::default(), "{query:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_tells_what_is_new_and_nothing_twice() {
        let (vitals, mut history, events) = (Vitals::default(), History::default(), Events::default());
        let about = About { slot: "shop".to_owned(), ..About::default() };
        vitals.enter_with_advice(State::Retrying, "refused", "start it");
        vitals.see_slot(SlotSight {
            current: crate::Lsn(9),
            restart: Some(crate::Lsn(4)),
            ..SlotSight::default()
        });
        history.tick(&vitals, &events, 7);
        let sources = Sources {
            vitals: &vitals,
            history: &history,
            events: &events,
            about: &about,
            started_ms: 1,
            may_act: false,
            has_letters: false,
        };
        let told = |known| serde_json::to_value(answer(&sources, known)).unwrap();
        let all = told(Known::default());
        assert_eq!((&all["state"], &all["reason"]), (&"retrying".into(), &"refused".into()));
        assert_eq!((&all["advice"], &all["good"]), (&"start it".into(), &false.into()));
        assert_eq!((&all["about"]["slot"], &all["slot"]["retained_bytes"]), (&"shop".into(), &5.into()));
        assert_eq!(
            (&all["events"][0]["what"], &all["samples"][0][0]),
            (&"retrying: refused".into(), &7.into())
        );
        let known =
            Known { samples: all["next"].as_u64().unwrap(), events: all["events_version"].as_u64().unwrap() };
        let rest = told(known);
        assert!(rest["events"].is_null() && rest["samples"].as_array().unwrap().is_empty(), "{rest}");
    }
}
