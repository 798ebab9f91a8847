//! What stands still, in the log: told when it begins, now and then while it lasts, and once when it is over.
//!
//! Beside the listener, which may be off, and beside the relay's own thread, which may be what stands still.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::health;
use crate::vitals::{State, Vitals, millis};

/// Whose lines these are. The page has its own event of the same.
pub(super) const TARGET: &str = module_path!();

const PERIOD: Duration = Duration::from_millis(500);
/// A little later than `/readyz` says so: a topic that is missing is refused after ten seconds and a moment, and then that
/// is told.
const TOLD_AFTER: Duration = Duration::from_secs(12);

/// What is known from one look to the next.
#[derive(Debug, Default)]
struct Stalls {
    /// The stage that stood still at the last look. A process that wakes from a pause sees one at its first.
    seen: Option<&'static str>,
    /// The stage of which was told that it stands still, and not that this is over.
    lasting: Option<&'static str>,
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Stalled { stage: &'static str, reason: String, advice: String, lasted: Duration },
    Over { stage: &'static str, lasted: Duration, state: &'static str },
}

/// Looks and tells, for ever.
pub(super) async fn watch(vitals: Arc<Vitals>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stalls = Stalls::default();
    loop {
        ticks.tick().await;
        if let Some(line) = stalls.look(&vitals) {
            line.tell(&vitals);
        }
    }
}

impl Stalls {
    /// What is to be told now.
    fn look(&mut self, vitals: &Vitals) -> Option<Line> {
        let ready = health::ready(vitals);
        let before = std::mem::replace(&mut self.seen, ready.stage);
        if let Some(stage) = self.lasting.filter(|stage| ready.stage != Some(*stage)) {
            self.lasting = None;
            let lasted = vitals.told().over(&name(stage))?;
            // Behind a stage that hides it, it may stand still all the same.
            let is_told = is_told_elsewhere(stage, vitals)
                || ready.stage.is_some()
                || vitals.phase().state == State::Stopped;
            return (!is_told).then_some(Line::Over { stage, lasted, state: ready.state });
        }
        let stage = ready.stage?;
        let lasted = Duration::try_from_secs_f64(ready.since_seconds).unwrap_or_default();
        let is_sure = before == Some(stage) && lasted >= TOLD_AFTER;
        if is_told_elsewhere(stage, vitals) || (self.lasting.is_none() && !is_sure) {
            return None;
        }
        self.lasting = Some(stage);
        let news = vitals.told().meet_after(&name(stage), lasted)?;
        let (reason, advice) = (ready.reason.unwrap_or_default(), ready.advice.unwrap_or_default());
        Some(Line::Stalled { stage, reason, advice, lasted: news.lasted })
    }
}

/// Of tables that do not answer, whoever waits for them tells; and that the brokers can't be reached, and that they
/// answer again, is told where it is found out.
fn is_told_elsewhere(stage: &str, vitals: &Vitals) -> bool {
    match stage {
        "publishing" => vitals.since_broker_fault().is_some_and(|since| since < TOLD_AFTER),
        "loop" | "reading" => false,
        _ => true,
    }
}

/// Under which name it is among the faults that were told.
fn name(stage: &str) -> String {
    format!("stalled: {stage}")
}

impl Line {
    fn tell(&self, vitals: &Vitals) {
        let position = vitals.position();
        match self {
            Line::Stalled { stage, reason, advice, lasted } => {
                let lasted_ms = millis(*lasted);
                tracing::warn!(reason, stage, position, lasted_ms, advice, "stalled");
            }
            Line::Over { stage, lasted, state } => {
                let (text, lasted_ms) = (over(stage, *lasted, state), millis(*lasted));
                tracing::info!(stage, position, lasted_ms, "{text}");
            }
        }
    }
}

/// That something stands still no longer, and whether it goes on.
fn over(stage: &str, lasted: Duration, state: &str) -> String {
    let what = if stage == "loop" { "the loop" } else { stage };
    if state == State::Streaming.name() {
        format!("{what} goes on after {lasted:.1?}")
    } else {
        format!("{what} stood still for {lasted:.1?}, and now the relay is {state}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told in so many seconds, each with the second in which it was.
    async fn told_in(
        seconds: u64,
        stalls: &mut Stalls,
        vitals: &Vitals,
        mut each: impl FnMut(&Vitals),
    ) -> Vec<(u64, Line)> {
        let mut lines = Vec::new();
        for second in 1..=seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            each(vitals);
            lines.extend(stalls.look(vitals).map(|line| (second, line)));
        }
        lines
    }

    async fn silent_for(seconds: u64, stalls: &mut Stalls, vitals: &Vitals, each: impl FnMut(&Vitals)) {
        let told = told_in(seconds, stalls, vitals, each).await;
        assert!(told.is_empty(), "{told:?}");
    }

    fn streaming() -> (Stalls, Vitals) {
        let vitals = Vitals::default();
        vitals.enter(State::Streaming, "");
        (Stalls::default(), vitals)
    }

    fn over_in(line: Option<&(u64, Line)>) -> Option<(&'static str, Duration, &'static str)> {
        match line {
            Some((_, Line::Over { stage, lasted, state })) => Some((*stage, *lasted, *state)),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_is_silent_is_told_at_growing_intervals_and_its_end_once() {
        let (mut stalls, vitals) = streaming();
        silent_for(30, &mut stalls, &vitals, Vitals::beat).await;
        vitals.handed_over(3);
        let told = told_in(80, &mut stalls, &vitals, Vitals::beat).await;
        assert_eq!(told.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [12, 72]);
        let (_, Line::Stalled { stage, reason, advice, lasted }) = &told[0] else { panic!("{told:?}") };
        assert_eq!((*stage, reason.as_str()), ("publishing", "the broker has acknowledged nothing for 12 s"));
        assert!(advice.contains("--brokers") && *lasted == Duration::from_secs(12), "{told:?}");
        vitals.acknowledged(3, 0);
        let told = told_in(30, &mut stalls, &vitals, Vitals::beat).await;
        // It began before it was told.
        assert_eq!(
            over_in(told.first()),
            Some(("publishing", Duration::from_secs(81), "streaming")),
            "{told:?}"
        );
        assert_eq!(told.len(), 1, "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_is_known_to_be_away_is_told_elsewhere() {
        let (mut stalls, vitals) = streaming();
        vitals.handed_over(3);
        vitals.set_broker_fault(Some("refused".to_owned()));
        silent_for(100, &mut stalls, &vitals, Vitals::beat).await;
        // It answers, and takes a moment until records flow.
        vitals.set_broker_fault(None);
        silent_for(5, &mut stalls, &vitals, Vitals::beat).await;
        vitals.acknowledged(3, 0);
        silent_for(5, &mut stalls, &vitals, Vitals::beat).await;
        // The next time it takes none.
        vitals.set_broker_fault(Some("refused".to_owned()));
        vitals.handed_over(3);
        silent_for(50, &mut stalls, &vitals, Vitals::beat).await;
        vitals.set_broker_fault(None);
        let told = told_in(30, &mut stalls, &vitals, Vitals::beat).await;
        assert!(matches!(told[..], [(12, Line::Stalled { .. })]), "{told:?}");
    }

    /// A broker is silent for a minute, is known to be away for twenty, and answers again; the silence alone is told here.
    async fn frozen_and_then_away(stalls: &mut Stalls, vitals: &Vitals) {
        vitals.handed_over(3);
        assert_eq!(told_in(60, stalls, vitals, Vitals::beat).await.len(), 1);
        vitals.set_broker_fault(Some("timed out".to_owned()));
        silent_for(1200, stalls, vitals, Vitals::beat).await;
        vitals.set_broker_fault(None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_end_is_told_when_a_frozen_broker_is_found_to_be_away() {
        let (mut stalls, vitals) = streaming();
        frozen_and_then_away(&mut stalls, &vitals).await;
        vitals.acknowledged(3, 0);
        // The line "Kafka answers again" has told it.
        silent_for(30, &mut stalls, &vitals, Vitals::beat).await;
        // And when records do not flow in spite of that, it is still the same stall.
        frozen_and_then_away(&mut stalls, &vitals).await;
        told_in(30, &mut stalls, &vitals, Vitals::beat).await;
        vitals.acknowledged(3, 0);
        let told = told_in(30, &mut stalls, &vitals, Vitals::beat).await;
        let lasted = Duration::from_secs(60 + 1200 + 30 + 1);
        assert_eq!(over_in(told.first()), Some(("publishing", lasted, "streaming")), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn brokers_that_answer_and_take_nothing_are_told_soon() {
        let (mut stalls, vitals) = streaming();
        frozen_and_then_away(&mut stalls, &vitals).await;
        let told = told_in(30, &mut stalls, &vitals, Vitals::beat).await;
        let [(12, Line::Stalled { lasted, .. })] = &told[..] else { panic!("{told:?}") };
        assert_eq!(*lasted, Duration::from_secs(60 + 1200 + 12));
    }

    #[tokio::test(start_paused = true)]
    async fn each_stage_has_its_lines_and_a_pause_has_none() {
        let (mut stalls, vitals) = streaming();
        let told = told_in(12, &mut stalls, &vitals, |_| ()).await;
        assert!(matches!(told[..], [(12, Line::Stalled { stage: "loop", .. })]), "{told:?}");
        let told = told_in(1, &mut stalls, &vitals, Vitals::beat).await;
        assert_eq!(over_in(told.first()), Some(("loop", Duration::from_secs(13), "streaming")), "{told:?}");

        vitals.log_heard();
        let told = told_in(13, &mut stalls, &vitals, Vitals::beat).await;
        assert!(matches!(told[..], [(13, Line::Stalled { stage: "reading", .. })]), "{told:?}");
        vitals.enter(State::Retrying, "gone");
        let told = told_in(1, &mut stalls, &vitals, Vitals::beat).await;
        assert_eq!(over_in(told.first()), Some(("reading", Duration::from_secs(14), "retrying")), "{told:?}");

        vitals.enter(State::Streaming, "");
        vitals.log_heard();
        vitals.holding_back(true);
        let hear = |vitals: &Vitals| {
            vitals.beat();
            vitals.log_heard();
        };
        // The lines of whoever waits for that table tell.
        silent_for(60, &mut stalls, &vitals, hear).await;
        vitals.holding_back(false);

        // The whole process was stopped: the loop moves as soon as anybody.
        tokio::time::advance(Duration::from_secs(60)).await;
        vitals.log_heard();
        assert_eq!(stalls.look(&vitals), None);
        silent_for(30, &mut stalls, &vitals, hear).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_has_stopped_says_no_more() {
        let (mut stalls, vitals) = streaming();
        vitals.handed_over(1);
        assert_eq!(told_in(15, &mut stalls, &vitals, Vitals::beat).await.len(), 1);
        vitals.enter(State::Stopped, "");
        silent_for(15, &mut stalls, &vitals, |_| ()).await;
    }

    #[test]
    fn an_end_tells_whether_it_goes_on() {
        let lasted = Duration::from_millis(84_240);
        for (stage, state, expected) in [
            ("publishing", "streaming", "publishing goes on after 84.2s"),
            ("loop", "streaming", "the loop goes on after 84.2s"),
            ("publishing", "draining", "publishing stood still for 84.2s, and now the relay is draining"),
        ] {
            assert_eq!(over(stage, lasted, state), expected);
        }
    }
}
