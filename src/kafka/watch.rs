//! Whether the brokers can be reached: said once when it changes, not each time librdkafka tries again.
//!
//! ```text
//!            all brokers down               and no metadata either
//!   well ───────────────────► suspected ───────────────────────────► fault
//!    ▲                            │                                     │
//!    └────────────────────────────┴─── metadata, or a record's receipt ─┘
//! ```
//! Suspicion comes first because a name that resolves to an IPv6 address nobody listens on makes "all
//! brokers" go down for the moment until the IPv4 address is tried.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;
use tracing::{info, warn};

use crate::vitals::Vitals;

/// While a fault lasts, what is known already is logged at most this often.
const QUIET: Duration = Duration::from_secs(60);

pub(super) struct Watch {
    vitals: Arc<Vitals>,
    /// Suspected or worse; read for every receipt, so kept beside the lock.
    doubt: AtomicBool,
    /// No record has been delivered yet.
    new: AtomicBool,
    /// A broker has refused the login of this producer.
    refused: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Since when it is certain that no broker can be reached.
    fault: Option<Instant>,
    /// What librdkafka last said about a connection.
    reason: Option<String>,
    /// That it hasn't been logged, and what it is about.
    untold: Option<String>,
    limiter: Limiter,
}

impl Watch {
    pub(super) fn new(vitals: Arc<Vitals>) -> Self {
        // A producer that is stuck can't take its own fault along.
        vitals.set_broker_fault(None);
        let (doubt, new, refused) = (AtomicBool::new(false), AtomicBool::new(true), AtomicBool::new(false));
        Watch { vitals, doubt, new, refused, state: Mutex::default() }
    }

    /// Takes in an error that librdkafka reports about the client as a whole.
    pub(super) fn reported(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        if code == Some(RDKafkaErrorCode::Authentication) {
            self.refused.store(true, Relaxed);
        }
        let mut state = self.lock();
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                self.doubt.store(true, Relaxed);
                state.reason.get_or_insert_with(|| reason.to_owned());
            }
            _ => {
                state.untold = code.map(|code| format!("{code:?}"));
                drop(state);
                self.heard(reason);
            }
        }
    }

    /// Takes in what went wrong with a connection, which explains a fault but is none.
    pub(super) fn heard(&self, reason: &str) {
        let mut state = self.lock();
        state.reason = Some(reason.to_owned());
        if state.fault.is_some() {
            self.vitals.set_broker_fault(state.reason.clone());
        }
    }

    /// Takes in that the producer can't go on, which says nothing about the brokers.
    pub(super) fn stopped(&self, reason: &str) {
        if self.is_news("fatal") {
            warn!(target: "walpost::kafka", "the Kafka producer has to start anew: {reason}");
        }
    }

    /// Whether somebody should look if a broker answers.
    pub(super) fn in_doubt(&self) -> bool {
        self.doubt.load(Relaxed)
    }

    /// Whether a broker has ever refused the login. librdkafka tells the same refusal once only.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Whether no record has been delivered yet.
    pub(super) fn is_new(&self) -> bool {
        self.new.load(Relaxed)
    }

    /// A broker has a record.
    pub(super) fn delivered(&self) {
        if self.is_new() {
            self.new.store(false, Relaxed);
        }
        if self.in_doubt() {
            self.answered();
        }
    }

    /// No broker answers.
    pub(super) fn unreachable(&self) {
        let mut state = self.lock();
        let reason = state.reason.clone().unwrap_or_else(|| "no broker answers".to_owned());
        let now = Instant::now();
        let first = state.fault.is_none();
        state.fault.get_or_insert(now);
        if state.limiter.lets_pass("fault", now) || first {
            warn!(target: "walpost::kafka", "Kafka can't be reached, trying on: {reason}");
        }
        self.vitals.set_broker_fault(Some(reason));
    }

    /// A broker has answered.
    pub(super) fn answered(&self) {
        if !self.doubt.swap(false, Relaxed) {
            return;
        }
        if let Some(since) = self.forget() {
            info!(target: "walpost::kafka", "Kafka answers again after {:.1?}", since.elapsed());
        }
    }

    fn forget(&self) -> Option<Instant> {
        let mut state = self.lock();
        (state.reason, state.untold) = (None, None);
        let since = state.fault.take();
        if since.is_some() {
            self.vitals.set_broker_fault(None);
        }
        since
    }

    /// Logs trouble with single brokers. While there is doubt the verdict is logged, not each attempt.
    pub(super) fn tell(&self) {
        let mut state = self.lock();
        let Some(topic) = state.untold.take() else { return };
        if !self.in_doubt() && state.limiter.lets_pass(&topic, Instant::now()) {
            let reason = state.reason.as_deref().unwrap_or_default();
            warn!(target: "walpost::kafka", "trouble with a Kafka broker: {reason}");
        }
    }

    /// Whether a line of librdkafka's log is news.
    pub(super) fn is_news(&self, facility: &str) -> bool {
        self.lock().limiter.lets_pass(facility, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    /// The next producer starts with a clean sheet and finds out for itself.
    fn drop(&mut self) {
        self.forget();
    }
}

/// Lets a topic through once in [`QUIET`].
#[derive(Default)]
struct Limiter(HashMap<String, Instant>);

impl Limiter {
    fn lets_pass(&mut self, topic: &str, now: Instant) -> bool {
        match self.0.get_mut(topic) {
            Some(last) if now.duration_since(*last) < QUIET => false,
            Some(last) => {
                *last = now;
                true
            }
            None => {
                self.0.insert(topic.to_owned(), now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_needs_proof_keeps_its_start_and_ends_with_an_answer() {
        let vitals = Arc::new(Vitals::default());
        let watch = Watch::new(Arc::clone(&vitals));
        watch.reported(Some(RDKafkaErrorCode::BrokerTransportFailure), "a:9092: refused");
        assert!(!watch.in_doubt(), "other brokers may be well");
        watch.reported(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert!(watch.in_doubt() && vitals.broker_fault().is_none());

        watch.unreachable();
        let (since, why) = vitals.broker_fault().expect("a fault");
        assert_eq!(why, "a:9092: refused");
        watch.heard("a:9092: no such name");
        watch.unreachable();
        assert_eq!(vitals.broker_fault(), Some((since, "a:9092: no such name".to_owned())));

        watch.answered();
        assert!(!watch.in_doubt() && vitals.broker_fault().is_none());
        watch.reported(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        watch.unreachable();
        drop(watch);
        assert!(vitals.broker_fault().is_none(), "a producer takes its fault along");
    }

    #[test]
    fn a_topic_passes_once_a_minute() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for (topic, after, passes) in
            [("a", 0, true), ("a", 59, false), ("b", 59, true), ("a", 60, true), ("a", 61, false)]
        {
            let now = start + Duration::from_secs(after);
            assert_eq!(limiter.lets_pass(topic, now), passes, "{topic} after {after} s");
        }
    }
}
