//! What has happened lately: changes of state, and what the log has warned of. Bounded, newest first.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event as LogEvent, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::Context;

use super::stalls;

/// How many are kept.
const MOST: usize = 100;
/// How many letters of a text are kept.
const LONGEST: usize = 600;
/// The same thing within that time is one event that came several times.
const SAME_WITHIN: Duration = Duration::from_secs(120);
/// How many of the newest are compared: two faults that alternate are two events.
const COMPARED: usize = 8;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Event {
    /// When it happened last, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// `state`, `warning` or `error`.
    pub(super) kind: &'static str,
    /// What happened.
    pub(super) what: String,
    /// What helps.
    pub(super) advice: Option<String>,
    /// How often it has happened in a row.
    pub(super) times: u32,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    version: u64,
}

/// The list. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<Kept>>);

impl Events {
    /// Takes down what happened.
    pub(super) fn note(&self, kind: &'static str, what: &str, advice: Option<&str>) {
        self.note_at(now_ms(), kind, what, advice);
    }

    fn note_at(&self, at_ms: u64, kind: &'static str, what: &str, advice: Option<&str>) {
        let (what, advice) = (shortened(what), advice.map(shortened));
        let mut kept = self.kept();
        kept.version += 1;
        let since = at_ms.saturating_sub(u64::try_from(SAME_WITHIN.as_millis()).unwrap_or(u64::MAX));
        let is_same = |event: &Event| event.what == what && event.kind == kind && event.at_ms >= since;
        if let Some(place) = kept.events.iter().take(COMPARED).position(is_same)
            && let Some(mut event) = kept.events.remove(place)
        {
            event.times = event.times.saturating_add(1);
            event.at_ms = at_ms;
            kept.events.push_front(event);
            return;
        }
        kept.events.truncate(MOST - 1);
        kept.events.push_front(Event { at_ms, kind, what, advice, times: 1 });
    }

    /// All, newest first, unless nothing has changed since that version; and the version.
    #[must_use]
    pub(super) fn since(&self, version: u64) -> (u64, Option<Vec<Event>>) {
        let kept = self.kept();
        (kept.version, (kept.version != version).then(|| kept.events.iter().cloned().collect()))
    }

    /// Writes down what the log warns of, whatever level the log itself is set to. That something stands still is a change
    /// of state already.
    pub(super) fn recorder<S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>>(
        &self,
    ) -> impl Layer<S> + Send + Sync + 'static {
        let ours: fn(&Metadata<'_>) -> bool = |it| {
            let is_new = it.target().starts_with("walpost") && it.target() != stalls::TARGET;
            *it.level() <= Level::WARN && is_new
        };
        let filter: FilterFn<fn(&Metadata<'_>) -> bool> = filter_fn(ours);
        Recorder(self.clone()).with_filter(filter.with_max_level_hint(LevelFilter::WARN))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Recorder(Events);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &LogEvent<'_>, _context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let kind = if *event.metadata().level() == Level::ERROR { "error" } else { "warning" };
        let what = match (line.message, line.cause) {
            (message, cause) if cause.is_empty() => message,
            (message, cause) => format!("{message}: {cause}"),
        };
        self.0.note(kind, &what, Some(&*line.advice).filter(|advice| !advice.is_empty()));
    }
}

/// The parts of a line of the log that a person needs.
#[derive(Default)]
struct Line {
    message: String,
    cause: String,
    advice: String,
}

impl Line {
    fn part(&mut self, field: &Field) -> Option<&mut String> {
        match field.name() {
            "message" => Some(&mut self.message),
            "error" | "reason" => Some(&mut self.cause),
            "advice" => Some(&mut self.advice),
            _ => None,
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(part) = self.part(field) {
            value.clone_into(part);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if let Some(part) = self.part(field) {
            *part = format!("{value:?}");
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Milliseconds since 1970-01-01 UTC.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn texts(events: &Events) -> Vec<(String, u32)> {
        let (_, all) = events.since(0);
        all.unwrap_or_default().into_iter().map(|event| (event.what, event.times)).collect()
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let events = Events::default();
        for number in 0..250 {
            events.note_at(number, "state", &number.to_string(), None);
        }
        let kept = texts(&events);
        assert_eq!((kept.len(), kept[0].0.as_str(), kept[99].0.as_str()), (100, "249", "150"));
    }

    #[test]
    fn what_comes_again_is_counted_and_what_comes_much_later_is_told_again() {
        let events = Events::default();
        for (at, what) in [(0, "a"), (1_000, "b"), (2_000, "a"), (3_000, "b"), (200_000, "a")] {
            events.note_at(at, "warning", what, Some("mend"));
        }
        let expected = [("a", 1), ("b", 2), ("a", 2)].map(|(what, times)| (what.to_owned(), times));
        assert_eq!(texts(&events), expected);
        let (version, all) = events.since(0);
        assert!(all.is_some_and(|all| all[0].advice.as_deref() == Some("mend")));
        assert_eq!(events.since(version), (version, None));
    }

    #[test]
    fn texts_are_cut() {
        let events = Events::default();
        events.note("error", &"ä".repeat(10_000), None);
        assert_eq!(texts(&events)[0].0.chars().count(), LONGEST + 1);
    }

    #[test]
    fn warnings_of_the_log_are_kept_with_cause_and_advice() {
        let events = Events::default();
        let subscriber = tracing_subscriber::registry().with(events.recorder());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("all is well");
            tracing::warn!(error = "refused", advice = "start it", wait_ms = 7, "retrying");
            tracing::warn!(target: "hyper", "not ours");
            tracing::warn!(target: stalls::TARGET, "told as a state");
            tracing::error!("over {}", 1);
        });
        let (_, all) = events.since(0);
        let all: Vec<_> =
            all.unwrap().into_iter().map(|event| (event.kind, event.what, event.advice)).collect();
        assert_eq!(
            all,
            [
                ("error", "over 1".to_owned(), None),
                ("warning", "retrying: refused".to_owned(), Some("start it".to_owned())),
            ]
        );
    }
}
