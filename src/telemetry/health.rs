//! The two questions of an orchestrator: should this process be restarted, and does it do its work?
//!
//! A relay that waits for a broker or a database is healthy and not ready: a restart would not help it.

use std::time::Duration;

use serde::Serialize;

use crate::vitals::{State, Vitals};

/// The loop takes a turn at least every few seconds, whatever it waits for.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// A broker that is well acknowledges within milliseconds; one that elects a leader, within seconds.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// With a fault that is known there is less to wait for.
const FAULTY_AFTER: Duration = Duration::from_secs(2);
/// Longer than the loop stands still while all is well: it beats every five seconds while opening.
const STILL_AFTER: Duration = Duration::from_secs(10);
/// A silent server is asked after five seconds, and answers the next status, two seconds later.
const SILENT_AFTER: Duration = Duration::from_secs(12);

/// The stages that may stand still, in the order of the checks.
pub const STAGES: [&str; 6] =
    ["loop", "later delivery", "reading", "dead letters", "write-back", "publishing"];

/// The answer to `/healthz`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Healthy {
    /// Whether the loop moves.
    #[serde(skip)]
    pub good: bool,
    /// The relay's state.
    pub state: &'static str,
    /// How long it has been in that state.
    pub since_seconds: f64,
    /// Why it is in that state, or what is wrong.
    pub reason: Option<String>,
}

/// The answer to `/readyz`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ready {
    /// Whether messages flow, or would if this relay held the slot.
    #[serde(skip)]
    pub good: bool,
    /// The relay's state; `stalled` when it streams and one of its stages stands still.
    pub state: &'static str,
    /// How long it has been in that state, or the stage has stood still.
    pub since_seconds: f64,
    /// The stage that stands still: one of [`STAGES`].
    pub stage: Option<&'static str>,
    /// What keeps messages from flowing, or why the relay is in its state.
    pub reason: Option<String>,
    /// What a person can do about it.
    pub advice: Option<String>,
    /// How far publishing lies behind committing; unknown while the log is not read.
    pub lag_seconds: Option<f64>,
    /// Records that the broker has not acknowledged yet.
    pub in_flight: u64,
    /// Records acknowledged since the process began.
    pub published: u64,
    /// The position confirmed to the server.
    pub confirmed: String,
}

/// Whether the process is alive and its loop moves.
#[must_use]
pub fn healthy(vitals: &Vitals) -> Healthy {
    let phase = vitals.phase();
    let still = vitals.since_beat();
    let good = still < STUCK_AFTER;
    let reason =
        if good { phase.reason } else { format!("the loop has not moved for {} s", still.as_secs()) };
    Healthy {
        good,
        state: phase.state.name(),
        since_seconds: rounded(phase.since.elapsed()),
        reason: some(reason),
    }
}

/// Whether messages flow, or would if another relay did not hold the slot.
#[must_use]
pub fn ready(vitals: &Vitals) -> Ready {
    let phase = vitals.phase();
    let stall = stall(vitals, phase.state);
    let (reason, advice) = match (&stall, vitals.broker_fault()) {
        // What is known for sure first; librdkafka's words change.
        (Some(stall @ Stall { stage: "publishing", .. }), Some((_, fault))) => {
            (format!("{} (Kafka: {fault})", stall.reason), advice(stall.stage).to_owned())
        }
        (None, Some((_, fault))) => (fault, advice("publishing").to_owned()),
        (Some(stall), _) => (stall.reason.clone(), advice(stall.stage).to_owned()),
        (None, None) if phase.advice.is_empty() => (phase.reason, patience(phase.state).to_owned()),
        (None, None) => (phase.reason, phase.advice),
    };
    let since = stall.as_ref().map_or_else(|| phase.since.elapsed(), |stall| stall.since);
    Ready {
        good: matches!(phase.state, State::Streaming | State::StandingBy) && stall.is_none(),
        state: if stall.is_some() { "stalled" } else { phase.state.name() },
        since_seconds: rounded(since),
        lag_seconds: lag(vitals, phase.state, stall.as_ref()).map(rounded),
        stage: stall.map(|stall| stall.stage),
        reason: some(reason),
        advice: some(advice),
        in_flight: vitals.in_flight(),
        published: vitals.published(),
        confirmed: vitals.last_confirmed().to_string(),
    }
}

/// Who does not read the log does not know how much waits there; what is in flight waits at least so long.
fn lag(vitals: &Vitals, state: State, stall: Option<&Stall>) -> Option<Duration> {
    let is_open = matches!(state, State::Streaming | State::Draining);
    let is_blind = stall.is_some_and(|stall| matches!(stall.stage, "loop" | "reading"));
    Some(vitals.lag()).filter(|lag| is_open && !(is_blind && lag.is_zero()))
}

/// A stage that stands still, although the relay is in good state by its own word.
struct Stall {
    stage: &'static str,
    since: Duration,
    reason: String,
}

fn stall(vitals: &Vitals, state: State) -> Option<Stall> {
    let found = |stage, since: Duration, what: &str| {
        Some(Stall { stage, since, reason: format!("{what} for {} s", since.as_secs()) })
    };
    let still = vitals.since_beat();
    // The loop first: while it stands still, nothing else is told truly.
    if still >= STILL_AFTER && state != State::Stopped {
        return found("loop", still, "the loop has not moved");
    }
    if state != State::Streaming {
        return None;
    }
    // Before the stream, which is not read while rows are stored.
    let held = vitals.since_holding_back();
    if held >= STALLED_AFTER {
        let what = "the table of rows for later (who locks it? see pg_stat_activity) has not answered";
        return found("later delivery", held, what);
    }
    let (answered, heard) = (vitals.since_answer(), vitals.since_heard());
    if answered >= SILENT_AFTER {
        return found("reading", answered, "PostgreSQL has not answered");
    }
    if heard >= SILENT_AFTER {
        return found(
            "reading",
            heard,
            "nothing has come through the log's stream, although the server was asked,",
        );
    }
    let asked = vitals.since_asked_for_letters();
    if asked >= STALLED_AFTER {
        let what = "the table of dead letters (who locks it? see pg_stat_activity) has not answered";
        return found("dead letters", asked, what);
    }
    if let Some((since, why)) = vitals.write_back_fault() {
        return found("write-back", since.elapsed(), &format!("published rows are not written back ({why})"));
    }
    let owed = vitals.unacknowledged_for();
    let patience = if vitals.broker_fault().is_some() { FAULTY_AFTER } else { STALLED_AFTER };
    if owed >= patience {
        return found("publishing", owed, "the broker has acknowledged nothing");
    }
    let waits = vitals.oldest_waits();
    if waits >= STALLED_AFTER {
        let what = "one partition (are enough of its replicas in sync?) has acknowledged nothing, while others have,";
        return found("publishing", waits, what);
    }
    None
}

/// What to know of a state about which nothing else is advised.
fn patience(state: State) -> &'static str {
    match state {
        State::StandingBy => {
            "nothing: this relay takes over when the slot is free; `walpost status` tells who holds it"
        }
        _ => "",
    }
}

/// What helps a stage that stands still.
fn advice(stage: &str) -> &'static str {
    match stage {
        "loop" => {
            "the process is short of time or memory, or was paused: look at its machine; an orchestrator restarts it by \
             /healthz, and nothing is lost"
        }
        "later delivery" | "dead letters" | "write-back" => {
            "see in pg_stat_activity who locks the table, and end that session if it was forgotten"
        }
        "reading" => {
            "see whether PostgreSQL is up and reachable from here; the relay connects again by itself"
        }
        _ => {
            "see whether the brokers are up and reachable from here (--brokers); the relay goes on by itself, and the slot keeps \
             what waits, up to max_slot_wal_keep_size"
        }
    }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// To milliseconds: more digits would only look exact.
fn rounded(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn healthy_means_that_the_loop_moves() {
        let vitals = Vitals::default();
        vitals.enter(State::Retrying, "connection refused");
        pass(29).await;
        let answer = healthy(&vitals);
        assert!(answer.good);
        assert_eq!((answer.state, answer.since_seconds), ("retrying", 29.0));
        assert_eq!(answer.reason.as_deref(), Some("connection refused"));
        pass(1).await;
        let answer = healthy(&vitals);
        assert!(!answer.good);
        assert_eq!(answer.reason.as_deref(), Some("the loop has not moved for 30 s"));
        vitals.beat();
        assert!(healthy(&vitals).good);
    }

    #[tokio::test(start_paused = true)]
    async fn ready_follows_the_state() {
        let vitals = Vitals::default();
        for (state, expected) in [
            (State::Starting, false),
            (State::Streaming, true),
            (State::StandingBy, true),
            (State::Retrying, false),
            (State::Draining, false),
            (State::Stopped, false),
        ] {
            vitals.enter(state, "because");
            vitals.beat();
            let answer = ready(&vitals);
            assert_eq!((answer.good, answer.state), (expected, state.name()));
            assert_eq!(answer.reason.as_deref(), Some("because"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_owes_receipts_makes_unready() {
        let vitals = Vitals::default();
        let pass = async |seconds| {
            pass(seconds).await;
            vitals.beat();
        };
        vitals.enter(State::Streaming, "");
        pass(60).await;
        assert!(ready(&vitals).good, "an idle outbox owes nothing");
        vitals.handed_over(3);
        pass(9).await;
        assert_eq!((ready(&vitals).good, ready(&vitals).reason, ready(&vitals).in_flight), (true, None, 3));
        pass(1).await;
        let answer = ready(&vitals);
        assert!(!answer.good);
        assert_eq!(answer.reason.as_deref(), Some("the broker has acknowledged nothing for 10 s"));
        vitals.set_broker_fault(Some("all brokers are down".to_owned()));
        assert_eq!(
            ready(&vitals).reason.as_deref(),
            Some("the broker has acknowledged nothing for 10 s (Kafka: all brokers are down)")
        );
        assert!(ready(&vitals).advice.is_some_and(|advice| advice.contains("--brokers")));
        vitals.set_broker_fault(None);
        vitals.acknowledged(3, 0);
        assert!(ready(&vitals).good);
        assert_eq!(ready(&vitals).published, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn each_stage_that_stands_still_is_named() {
        let vitals = std::sync::Arc::new(Vitals::default());
        let seen = || {
            let answer = ready(&vitals);
            (answer.good, answer.state, answer.stage, answer.since_seconds)
        };
        vitals.enter(State::Streaming, "");
        pass(10).await;
        assert_eq!(seen(), (false, "stalled", Some("loop"), 10.0));
        vitals.beat();
        assert_eq!(seen(), (true, "streaming", None, 10.0), "a store that does not tell is not judged");
        for heard in [Vitals::database_answered, Vitals::log_heard] {
            heard(&vitals);
            pass(12).await;
            vitals.beat();
            assert_eq!(seen(), (false, "stalled", Some("reading"), 12.0));
            vitals.database_answered();
            vitals.log_heard();
        }
        vitals.holding_back(true);
        pass(10).await;
        vitals.beat();
        assert_eq!(seen(), (false, "stalled", Some("later delivery"), 10.0));
        vitals.holding_back(false);
        vitals.database_answered();
        vitals.log_heard();
        let question = vitals.asking_for_letters();
        pass(10).await;
        vitals.beat();
        assert_eq!(seen(), (false, "stalled", Some("dead letters"), 10.0));
        drop(question);
        vitals.database_answered();
        vitals.log_heard();
        assert!(ready(&vitals).good);
        vitals.handed_over(2);
        pass(9).await;
        vitals.beat();
        vitals.log_heard();
        vitals.database_answered();
        vitals.acknowledged(1, 1);
        vitals.oldest_changed();
        for _ in 0..10 {
            assert!(ready(&vitals).good);
            pass(1).await;
            vitals.beat();
            vitals.log_heard();
            vitals.database_answered();
            vitals.acknowledged(1, 1);
        }
        assert_eq!(seen(), (false, "stalled", Some("publishing"), 10.0));
        vitals.acknowledged(1, 0);
        vitals.handed_over(1);
        vitals.set_broker_fault(Some("down".to_owned()));
        pass(2).await;
        assert_eq!(seen(), (false, "stalled", Some("publishing"), 2.0));
        vitals.enter(State::Retrying, "why");
        assert_eq!(seen(), (false, "retrying", None, 0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn lag_is_known_only_to_whom_reads_the_log() {
        let vitals = Vitals::default();
        let seen = || ready(&vitals).lag_seconds;
        vitals.beat();
        for (state, expected) in [
            (State::Starting, None),
            (State::StandingBy, None),
            (State::Retrying, None),
            (State::Streaming, Some(0.0)),
        ] {
            vitals.enter(state, "");
            assert_eq!(seen(), expected, "{state:?}");
        }
        vitals.database_answered();
        pass(13).await;
        vitals.beat();
        assert_eq!((ready(&vitals).stage, seen()), (Some("reading"), None));
        vitals.set_oldest_committed_at(std::time::SystemTime::now() - Duration::from_secs(40));
        vitals.handed_over(1);
        assert!(seen().is_some_and(|lag| lag >= 40.0), "so much at least: {:?}", seen());
        vitals.enter(State::Retrying, "");
        assert_eq!(seen(), None, "what was in flight is read again");
    }

    #[test]
    fn answers_are_plain_json() {
        let vitals = Vitals::default();
        vitals.enter(State::Streaming, "");
        let text = serde_json::to_string(&ready(&vitals)).unwrap();
        assert_eq!(
            text,
            r#"{"state":"streaming","since_seconds":0.0,"stage":null,"reason":null,"advice":null,"lag_seconds":0.0,"in_flight":0,"published":0,"confirmed":"0/0"}"#
        );
        let text = serde_json::to_string(&healthy(&vitals)).unwrap();
        assert!(text.starts_with(r#"{"state":"streaming","since_seconds":0.0"#), "{text}");
    }
}
