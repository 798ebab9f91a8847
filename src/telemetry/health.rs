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
    /// The relay's state.
    pub state: &'static str,
    /// What keeps messages from flowing, or why the relay is in its state.
    pub reason: Option<String>,
    /// How far publishing lies behind committing.
    pub lag_seconds: f64,
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
    let owed = vitals.unacknowledged_for();
    let fault = vitals.broker_fault();
    let patience = if fault.is_some() { FAULTY_AFTER } else { STALLED_AFTER };
    let stalled = phase.state == State::Streaming && owed >= patience;
    let reason = match fault {
        Some((_, fault)) => fault,
        None if stalled => format!("the broker has acknowledged nothing for {} s", owed.as_secs()),
        None => phase.reason,
    };
    Ready {
        good: matches!(phase.state, State::Streaming | State::StandingBy) && !stalled,
        state: phase.state.name(),
        reason: some(reason),
        lag_seconds: rounded(vitals.lag()),
        in_flight: vitals.in_flight(),
        published: vitals.published(),
        confirmed: vitals.confirmed().to_string(),
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
            let answer = ready(&vitals);
            assert_eq!((answer.good, answer.state), (expected, state.name()));
            assert_eq!(answer.reason.as_deref(), Some("because"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_owes_receipts_makes_unready() {
        let vitals = Vitals::default();
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
        assert_eq!(ready(&vitals).reason.as_deref(), Some("all brokers are down"));
        vitals.set_broker_fault(None);
        vitals.acknowledged(3, 0);
        assert!(ready(&vitals).good);
        assert_eq!(ready(&vitals).published, 3);
    }

    #[test]
    fn answers_are_plain_json() {
        let vitals = Vitals::default();
        vitals.enter(State::Streaming, "");
        let text = serde_json::to_string(&ready(&vitals)).unwrap();
        assert_eq!(
            text,
            r#"{"state":"streaming","reason":null,"lag_seconds":0.0,"in_flight":0,"published":0,"confirmed":"0/0"}"#
        );
        let text = serde_json::to_string(&healthy(&vitals)).unwrap();
        assert!(text.starts_with(r#"{"state":"streaming","since_seconds":0.0"#), "{text}");
    }
}
