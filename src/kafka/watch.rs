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

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::types::RDKafkaErrorCode;
use tracing::{info, warn};

use crate::vitals::{News, Vitals, millis};

/// Under which name it is among the faults that were told, from one producer to the next.
const UNREACHABLE: &str = "Kafka can't be reached";
const ADVICE: &str = "see whether the brokers are up and reachable from here (--brokers), and whether they take the login; the \
                      relay goes on by itself, and the slot keeps what waits, up to max_slot_wal_keep_size";

pub(super) struct Watch {
    vitals: Arc<Vitals>,
    /// Suspected or worse; read for every receipt, so kept beside the lock.
    doubt: AtomicBool,
    /// No record has been delivered yet.
    new: AtomicBool,
    /// A broker has refused the login of this producer.
    refused: AtomicBool,
    /// A record was delivered since somebody asked.
    moved: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// It is certain that no broker can be reached.
    fault: bool,
    /// What librdkafka last said about a connection.
    reason: Option<String>,
    /// That it hasn't been logged, and what it is about.
    untold: Option<String>,
}

impl Watch {
    pub(super) fn new(vitals: Arc<Vitals>) -> Self {
        // A producer that is stuck can't take its own fault along.
        vitals.set_broker_fault(None);
        let [doubt, new, refused, moved] = [false, true, false, false].map(AtomicBool::new);
        Watch { vitals, doubt, new, refused, moved, state: Mutex::default() }
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
        if state.fault {
            self.vitals.set_broker_fault(state.reason.clone());
        }
    }

    /// Takes in that the producer can't go on, which says nothing about the brokers.
    pub(super) fn stopped(&self, reason: &str) {
        if let Some(News { untold, .. }) = self.meet("fatal") {
            warn!(target: "walpost::kafka", error = reason, untold, "the Kafka producer has to start anew");
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

    /// Whether a record was delivered since the last question.
    pub(super) fn has_moved(&self) -> bool {
        self.moved.swap(false, Relaxed)
    }

    /// A broker has a record.
    pub(super) fn delivered(&self) {
        self.moved.store(true, Relaxed);
        if self.is_new() {
            self.new.store(false, Relaxed);
            // It may be the end of an earlier producer's fault.
            self.tell_end();
        }
        if self.in_doubt() {
            self.answered();
        }
    }

    /// No broker answers.
    pub(super) fn unreachable(&self) {
        let mut state = self.lock();
        let reason = state.reason.clone().unwrap_or_else(|| "no broker answers".to_owned());
        state.fault = true;
        // Before it is told: who reads the log and then asks for the state must find it.
        self.vitals.set_broker_fault(Some(reason.clone()));
        drop(state);
        // A broker that is frozen refuses nothing, so it has lasted for longer than is certain.
        let still = self.vitals.unacknowledged_for();
        if let Some(News { lasted, .. }) = self.vitals.told().meet_after(UNREACHABLE, still) {
            let position = self.vitals.position();
            let lasted_ms = (!lasted.is_zero()).then_some(millis(lasted));
            let text = format!("{UNREACHABLE}, trying on");
            warn!(target: "walpost::kafka", error = reason, advice = ADVICE, position, lasted_ms, "{text}");
        }
    }

    /// A broker has answered.
    pub(super) fn answered(&self) {
        if !self.doubt.swap(false, Relaxed) {
            return;
        }
        self.forget();
        self.tell_end();
    }

    fn tell_end(&self) {
        if let Some(lasted) = self.vitals.told().over(UNREACHABLE) {
            let position = self.vitals.position();
            let lasted_ms = millis(lasted);
            info!(target: "walpost::kafka", position, lasted_ms, "Kafka answers again after {lasted:.1?}");
        }
    }

    fn forget(&self) {
        let mut state = self.lock();
        (state.reason, state.untold) = (None, None);
        if std::mem::take(&mut state.fault) {
            self.vitals.set_broker_fault(None);
        }
    }

    /// Logs trouble with single brokers. While there is doubt the verdict is logged, not each attempt.
    pub(super) fn tell(&self) {
        let mut state = self.lock();
        let Some(topic) = state.untold.take() else { return };
        let reason = state.reason.clone().unwrap_or_default();
        drop(state);
        if !self.in_doubt()
            && let Some(News { untold, .. }) = self.meet(&topic)
        {
            let advice =
                "others may answer; if it lasts, see whether that broker is up and reachable from here";
            warn!(target: "walpost::kafka", error = reason, advice, untold, "trouble with a Kafka broker");
        }
    }

    /// Whether a line of librdkafka's log about this is news.
    pub(super) fn meet(&self, topic: &str) -> Option<News> {
        self.vitals.told().meet(&format!("librdkafka: {topic}"))
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

    #[tokio::test(start_paused = true)]
    async fn a_fault_has_lasted_since_nothing_was_acknowledged() {
        let vitals = Arc::new(Vitals::default());
        let watch = Watch::new(Arc::clone(&vitals));
        vitals.handed_over(3);
        tokio::time::advance(std::time::Duration::from_secs(70)).await;
        watch.reported(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        watch.unreachable();
        tokio::time::advance(std::time::Duration::from_secs(14)).await;
        watch.unreachable();
        assert_eq!(vitals.told().over(UNREACHABLE), Some(std::time::Duration::from_secs(84)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_next_producer_meets_as_well_is_no_news() {
        let vitals = Arc::new(Vitals::default());
        let told = || {
            let watch = Watch::new(Arc::clone(&vitals));
            watch.meet("BROKERFAIL").is_some()
        };
        assert_eq!([told(), told()], [true, false]);
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        assert_eq!([told(), told()], [true, false]);
    }
}
