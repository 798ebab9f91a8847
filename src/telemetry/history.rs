//! What the last quarter of an hour was like, second by second, so that a page that is opened late shows what came
//! before. Bounded; written by one task that ticks every second, and by nobody in the way of a message.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::events::Events;
use super::health;
use crate::vitals::{BUCKETS, Histogram, SlotSight, Vitals};

/// Fifteen minutes.
const SAMPLES: usize = 900;
/// Latency of now is that of so many seconds.
const MINUTE: usize = 60;
/// The curve of latency tells so many seconds at each point.
const SHORT: usize = 10;
/// How far apart what is kept of the slot is.
const APART: Duration = Duration::from_secs(10);
/// Five minutes of it.
const SIGHTS: usize = 31;
/// A trend needs so much time.
const TREND: Duration = Duration::from_secs(20);
/// One that ended so long ago is none: nobody knows how it went on.
const ENDED: Duration = Duration::from_secs(30);

/// One second, as the page's script takes it apart: time in milliseconds since 1970, records a second, lag in seconds,
/// latency in seconds at the median and at 99 of 100, and whether all was well.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Sample(u64, f64, Option<f64>, Option<f64>, Option<f64>, bool);

/// Latency from commit to acknowledgement over the last minute, in seconds. Estimated from a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Latency {
    /// Half of the records were as quick or quicker.
    p50: Option<f64>,
    /// 99 of 100 were.
    p99: Option<f64>,
    /// How many records there were.
    records: u64,
}

/// Where the log that is kept for the slot is heading, in bytes a second over the last minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Forecast {
    /// How fast the server writes its log.
    pub(super) written_per_second: Option<f64>,
    /// How fast that which is kept grows; below zero, it shrinks.
    pub(super) retained_per_second: Option<f64>,
    /// When the slot is lost if it goes on like that, in seconds from now.
    pub(super) lost_in_seconds: Option<f64>,
}

/// The seconds, and what is needed to make the next one.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    /// The number of the next sample, since the process began.
    next: u64,
    counted: Option<(Instant, u64)>,
    latencies: VecDeque<Histogram>,
    sights: VecDeque<(Instant, SlotSight)>,
    told: Option<(&'static str, Option<&'static str>)>,
}

impl History {
    /// Takes down this second; a change of state becomes an event.
    pub(super) fn tick(&mut self, vitals: &Vitals, events: &Events, at_ms: u64) {
        let ready = health::ready(vitals);
        self.announce(&ready, events);
        self.see_slot(vitals);
        let (now, count) = (Instant::now(), vitals.published());
        let rate = self.counted.map_or(0.0, |(since, before)| {
            per_second(count.saturating_sub(before), now.saturating_duration_since(since))
        });
        self.counted = Some((now, count));
        push(&mut self.latencies, vitals.latency(), MINUTE + 1);
        let recent = self.latency_of(SHORT);
        push(
            &mut self.samples,
            Sample(at_ms, rate, ready.lag_seconds, recent.p50, recent.p99, ready.good),
            SAMPLES,
        );
        self.next += 1;
    }

    /// The samples from that number on, all if it is none of ours; and the number of the next one.
    #[must_use]
    pub(super) fn since(&self, number: u64) -> (u64, Vec<Sample>) {
        let first = self.next - self.samples.len() as u64;
        let skipped = if number > self.next { 0 } else { number.saturating_sub(first) };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        (self.next, self.samples.iter().skip(skipped).copied().collect())
    }

    /// Records a second, just now.
    #[must_use]
    pub(super) fn rate(&self) -> f64 {
        self.samples.back().map_or(0.0, |sample| sample.1)
    }

    /// Over the last minute.
    #[must_use]
    pub(super) fn latency(&self) -> Latency {
        self.latency_of(MINUTE)
    }

    /// From the first and the last look of the last minutes.
    #[must_use]
    pub(super) fn forecast(&self) -> Forecast {
        let (Some((from, first)), Some((to, last))) = (self.sights.front(), self.sights.back()) else {
            return Forecast::default();
        };
        let span = to.saturating_duration_since(*from);
        let since = to.elapsed();
        if span < TREND || since > ENDED {
            return Forecast::default();
        }
        let written = per_second(last.current.0.saturating_sub(first.current.0), span);
        let grown = |(less, more)| per_second(u64::saturating_sub(more, less), span);
        let retained = first.retained_bytes().zip(last.retained_bytes());
        let retained = retained.map(|(less, more)| grown((less, more)) - grown((more, less)));
        let lost = last.safe_bytes.zip(retained).filter(|(_, rate)| *rate > 0.0);
        Forecast {
            written_per_second: Some(written),
            retained_per_second: retained,
            lost_in_seconds: lost.map(|(safe, rate)| (real(safe) / rate - since.as_secs_f64()).max(0.0)),
        }
    }

    fn announce(&mut self, ready: &health::Ready, events: &Events) {
        let state = (ready.state, ready.stage);
        if self.told.replace(state) == Some(state) {
            return;
        }
        let stage = ready.stage.map(|stage| format!(" ({stage})")).unwrap_or_default();
        let reason = ready.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        events.note("state", &format!("{}{stage}{reason}", ready.state), ready.advice.as_deref());
    }

    fn see_slot(&mut self, vitals: &Vitals) {
        let Some(age) = vitals.since_slot_seen() else { return };
        let Some(sight) = vitals.slot(APART) else { return };
        let at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        if self.sights.back().is_none_or(|(last, _)| at.saturating_duration_since(*last) >= APART) {
            push(&mut self.sights, (at, sight), SIGHTS);
        }
    }

    fn latency_of(&self, seconds: usize) -> Latency {
        let Some(last) = self.latencies.back() else {
            return Latency { p50: None, p99: None, records: 0 };
        };
        let first = self.latencies.len().saturating_sub(seconds + 1);
        let before = self.latencies.get(first).unwrap_or(last);
        let counts: Vec<u64> =
            last.counts.iter().zip(&before.counts).map(|(now, then)| now.saturating_sub(*then)).collect();
        let records = counts.iter().sum();
        Latency { p50: quantile(&counts, records, 0.5), p99: quantile(&counts, records, 0.99), records }
    }
}

/// As Prometheus' `histogram_quantile` does: evenly spread within a bucket.
fn quantile(counts: &[u64], records: u64, share: f64) -> Option<f64> {
    let wanted = real(records) * share;
    let mut below = 0.0;
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (lower, inside) = (bucket.checked_sub(1).map_or(0.0, |it| BUCKETS[it]), real(*count));
        if below + inside >= wanted {
            // Above the highest bound nothing more is known.
            let upper = BUCKETS.get(bucket).copied().unwrap_or(lower);
            return Some(lower + (upper - lower) * ((wanted - below) / inside).clamp(0.0, 1.0));
        }
        below += inside;
    }
    None
}

fn per_second(count: u64, span: Duration) -> f64 {
    real(count) / span.as_secs_f64().max(0.001)
}

#[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
fn real(number: u64) -> f64 {
    number as f64
}

fn push<T>(ring: &mut VecDeque<T>, item: T, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;
    use crate::vitals::State;

    async fn second(history: &mut History, vitals: &Vitals, events: &Events) {
        tokio::time::advance(Duration::from_secs(1)).await;
        vitals.beat();
        history.tick(vitals, events, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_second_is_kept_for_a_quarter_of_an_hour() {
        let (mut history, vitals, events) = (History::default(), Vitals::default(), Events::default());
        vitals.enter(State::Streaming, "");
        for _ in 0..1000 {
            vitals.acknowledged(5, 0);
            second(&mut history, &vitals, &events).await;
        }
        let (next, all) = history.since(0);
        assert_eq!((next, all.len()), (1000, SAMPLES));
        assert!((history.rate() - 5.0).abs() < 1e-9, "{}", history.rate());
        assert_eq!((history.since(990).1.len(), history.since(1000).1.len()), (10, 0));
        assert_eq!(history.since(2000).1.len(), SAMPLES, "a number of another process");
        assert!(serde_json::to_string(&all[0]).unwrap().starts_with("[0,5.0,0.0,"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_state_is_an_event_once() {
        let (mut history, vitals, events) = (History::default(), Vitals::default(), Events::default());
        vitals.enter(State::Streaming, "");
        second(&mut history, &vitals, &events).await;
        vitals.enter_with_advice(State::Retrying, "refused", "start it");
        second(&mut history, &vitals, &events).await;
        second(&mut history, &vitals, &events).await;
        let all = events.since(0).1.unwrap();
        let all: Vec<_> =
            all.iter().map(|event| (event.what.as_str(), event.advice.as_deref(), event.times)).collect();
        assert_eq!(all, [("retrying: refused", Some("start it"), 1), ("streaming", None, 1)]);
        let samples = history.since(0).1;
        assert_eq!((samples[0].2, samples[2].2, samples[2].5), (Some(0.0), None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn latency_is_that_of_the_last_minute() {
        let (mut history, vitals, events) = (History::default(), Vitals::default(), Events::default());
        history.tick(&vitals, &events, 0);
        assert_eq!(history.latency(), Latency { p50: None, p99: None, records: 0 });
        vitals.set_committed_at(std::time::SystemTime::now() - Duration::from_secs(40));
        vitals.sent(100);
        vitals.acknowledged(100, 0);
        second(&mut history, &vitals, &events).await;
        let Latency { p50, p99, records } = history.latency();
        assert_eq!(records, 100);
        assert!((15.0..60.0).contains(&p50.unwrap()) && p99 > p50, "{p50:?} {p99:?}");
        for _ in 0..60 {
            second(&mut history, &vitals, &events).await;
        }
        assert_eq!(history.latency().records, 0);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut counts = [0; BUCKETS.len() + 1];
        assert_eq!(quantile(&counts, 0, 0.5), None);
        counts[1] = 100;
        assert_eq!(quantile(&counts, 100, 0.5), Some(0.0075));
        counts[BUCKETS.len()] = 100;
        assert_eq!(quantile(&counts, 200, 0.99), Some(7200.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_filled_up_is_lost_in_so_many_seconds() {
        let (mut history, vitals, events) = (History::default(), Vitals::default(), Events::default());
        let sight = |current, restart, safe_bytes| SlotSight {
            current: Lsn(current),
            restart: Some(Lsn(restart)),
            safe_bytes,
            ..SlotSight::default()
        };
        vitals.see_slot(sight(1000, 0, Some(9000)));
        second(&mut history, &vitals, &events).await;
        assert_eq!(history.forecast(), Forecast::default(), "one look is no trend");
        tokio::time::advance(Duration::from_secs(99)).await;
        vitals.see_slot(sight(3000, 0, Some(7000)));
        second(&mut history, &vitals, &events).await;
        let Forecast { written_per_second, retained_per_second, lost_in_seconds } = history.forecast();
        let near = |value: Option<f64>, expected: f64| (value.unwrap() - expected).abs() < expected * 0.03;
        assert!(
            near(written_per_second, 20.0) && near(retained_per_second, 20.0),
            "{:?}",
            history.forecast()
        );
        assert!(near(lost_in_seconds, 350.0), "{lost_in_seconds:?}");
        tokio::time::advance(Duration::from_secs(99)).await;
        vitals.see_slot(sight(4000, 3900, None));
        second(&mut history, &vitals, &events).await;
        let Forecast { retained_per_second, lost_in_seconds, .. } = history.forecast();
        assert!(retained_per_second.unwrap() < 0.0 && lost_in_seconds.is_none());
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(history.forecast(), Forecast::default(), "nobody knows how it went on");
    }
}
