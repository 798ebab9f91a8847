//! What follows from a refused message. Pure: times are given, and nothing is awaited.
//!
//! ```text
//!   refused in company ──► send each alone that may be meant ──► one is refused alone
//!                                                                   │
//!   tried again, more and more slowly ◄──── tries left ◄────────────┤
//!                                                                   ▼
//!   halt: the run ends, the slot is held          dead-letter: parked, and the others flow
//! ```
//!
//! A broker refuses a whole batch, and librdkafka says of every record in it that it was refused. Therefore
//! nothing is held against a message that was not alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};

/// What becomes of a message that can't be sent, after all retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRefusal {
    /// The line stops, says why, and holds the slot.
    #[default]
    Halt,
    /// The message is parked in the table of dead letters, and the others flow.
    DeadLetter,
}

/// How often and how slowly a refused message is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryConfig {
    /// Tries after the first one.
    pub max_retries: u32,
    /// The wait before the second try.
    pub base_delay: Duration,
    /// What each wait is longer than the one before; at least 1.
    pub multiplier: f64,
    /// The longest wait.
    pub max_delay: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig {
            max_retries: 5,
            base_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(60),
        }
    }
}

/// How long a cause that was found hopeless is not tried again for the next message.
const HOPELESS_FOR: Duration = Duration::from_secs(600);
/// How long nothing is sent to a topic that takes no message.
const SHUNNED_FOR: Duration = Duration::from_secs(60);
/// How many such causes are remembered; each names a topic.
const MOST_CAUSES: usize = 1000;

/// A message that shall be parked, and what was said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why it can't be sent.
    pub error: String,
    /// How often that was tried.
    pub attempts: u32,
}

/// What a processor has to know of earlier refusals.
#[derive(Clone, Debug, Default)]
pub struct Docket {
    condemned: Arc<BTreeMap<Position, Verdict>>,
    hopeless: Arc<BTreeMap<String, Instant>>,
    /// By topic: since when, and why.
    shunned: Arc<BTreeMap<String, (Instant, String)>>,
    suspects: Option<(Position, Position)>,
    on_refusal: OnRefusal,
}

impl Docket {
    /// What was said of a message that shall be parked.
    #[must_use]
    pub fn verdict(&self, at: Position) -> Option<&Verdict> {
        self.condemned.get(&at)
    }

    /// Why nothing can be sent to a topic, if that was found out a moment ago. Each try may hold up the line for
    /// as long as a missing topic is waited for, so the next one has to wait.
    #[must_use]
    pub fn shuns(&self, topic: &str) -> Option<&str> {
        let (since, why) = self.shunned.get(topic)?;
        (since.elapsed() < SHUNNED_FOR).then_some(why)
    }

    /// Whether the message has to be sent alone, because one of its company was refused.
    #[must_use]
    pub fn suspects(&self, at: Position) -> bool {
        self.suspects.is_some_and(|(first, last)| (first..=last).contains(&at))
    }

    /// Whether a message that was refused before it was sent can be parked at once: the same was tried often
    /// enough a short while ago.
    #[must_use]
    pub fn is_hopeless(&self, error: &OutboxError) -> bool {
        self.on_refusal == OnRefusal::DeadLetter
            && error.is_message()
            && (error.is_for_good()
                || self.hopeless.get(&error.cause()).is_some_and(|found| found.elapsed() < HOPELESS_FOR))
    }
}

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ruling {
    /// Try again at once; the docket says what is different.
    Again,
    /// Try again after this wait; jitter is for who waits.
    After(Duration),
    /// Only a person can help.
    Halt,
}

/// All that was refused and is not yet sent or parked.
#[derive(Debug, Default)]
pub struct Refusals {
    on_refusal: OnRefusal,
    retry: RetryConfig,
    attempts: BTreeMap<Position, u32>,
    docket: Docket,
}

impl Refusals {
    /// With this policy.
    #[must_use]
    pub fn new(on_refusal: OnRefusal, retry: RetryConfig) -> Self {
        let docket = Docket { on_refusal, ..Docket::default() };
        Refusals { on_refusal, retry, attempts: BTreeMap::new(), docket }
    }

    /// For the next processor.
    #[must_use]
    pub fn docket(&self) -> Docket {
        self.docket.clone()
    }

    /// Forgets what has been settled: everything before the confirmed position.
    pub fn forget_before(&mut self, confirmed: Lsn) {
        let open = Position { commit_lsn: confirmed, index: 0 };
        self.attempts = self.attempts.split_off(&open);
        if self.docket.condemned.first_key_value().is_some_and(|(first, _)| *first < open) {
            let condemned = Arc::make_mut(&mut self.docket.condemned);
            *condemned = condemned.split_off(&open);
        }
        if self.docket.suspects.is_some_and(|(_, last)| last < open) {
            self.docket.suspects = None;
        }
    }

    /// Judges the refusal of a message.
    pub fn judge(&mut self, error: &OutboxError) -> Ruling {
        let Some(at) = error.position() else { return Ruling::Halt };
        if let Some(last) = error.company() {
            self.docket.suspects = Some((at, last));
            return Ruling::Again;
        }
        let attempts = self.attempts.entry(at).or_default();
        *attempts += 1;
        let attempts = *attempts;
        // Alone again, so that the others are not refused with it.
        self.docket.suspects = Some((at, at));
        let hopeless = error.is_for_good() || self.docket.is_hopeless(error);
        if attempts <= self.retry.max_retries && !hopeless {
            return Ruling::After(self.delay(attempts));
        }
        if self.on_refusal == OnRefusal::Halt {
            return Ruling::Halt;
        }
        let verdict = Verdict { error: error.reason(), attempts };
        self.remember(error);
        Arc::make_mut(&mut self.docket.condemned).insert(at, verdict);
        Ruling::Again
    }

    fn remember(&mut self, error: &OutboxError) {
        let now = Instant::now();
        if let Some(topic) = error.topic() {
            insert(&mut self.docket.shunned, topic.to_owned(), (now, error.reason()));
        }
        insert(&mut self.docket.hopeless, error.cause(), now);
    }

    /// The wait after so many attempts.
    fn delay(&self, attempts: u32) -> Duration {
        let RetryConfig { base_delay, multiplier, max_delay, .. } = self.retry;
        let power = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = base_delay.as_secs_f64() * multiplier.max(1.0).powi(power);
        max_delay.min(Duration::try_from_secs_f64(seconds).unwrap_or(max_delay))
    }
}

/// Adds to a memory that may forget, so that it can't grow.
fn insert<T: Clone>(memory: &mut Arc<BTreeMap<String, T>>, key: String, value: T) {
    let memory = Arc::make_mut(memory);
    if memory.len() >= MOST_CAUSES {
        memory.clear();
    }
    memory.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(lsn: u64, index: u64) -> Position {
        Position { commit_lsn: Lsn(lsn), index }
    }

    fn refused(position: Position) -> OutboxError {
        OutboxError::broker("publishing to topic t", 10, "too large").at(position)
    }

    #[test]
    fn what_settings_forbid_is_not_tried_again() {
        let error = || OutboxError::message("publishing to topic t", "").for_good("t").at(at(1, 0));
        let mut halting = Refusals::new(OnRefusal::Halt, RetryConfig::default());
        assert_eq!(halting.judge(&error()), Ruling::Halt);
        let mut parking = Refusals::new(OnRefusal::DeadLetter, RetryConfig::default());
        assert!(parking.docket().is_hopeless(&error()), "others are parked without a new start");
        assert_eq!(parking.judge(&error()), Ruling::Again);
        assert_eq!(parking.docket().verdict(at(1, 0)).map(|verdict| verdict.attempts), Some(1));
        assert!(parking.docket().shuns("t").is_some());
    }

    #[test]
    fn waits_follow_the_configuration() {
        let mut refusals = Refusals::new(OnRefusal::Halt, RetryConfig::default());
        let seconds = |ruling| match ruling {
            Ruling::After(wait) => wait.as_secs(),
            other => panic!("{other:?}"),
        };
        let waits: Vec<_> = (0..5).map(|_| seconds(refusals.judge(&refused(at(1, 0))))).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16]);
        assert_eq!(refusals.judge(&refused(at(1, 0))), Ruling::Halt);
        let slow = RetryConfig { max_retries: 9, multiplier: 10.0, ..RetryConfig::default() };
        let mut refusals = Refusals::new(OnRefusal::Halt, slow);
        let waits: Vec<_> = (0..4).map(|_| seconds(refusals.judge(&refused(at(1, 0))))).collect();
        assert_eq!(waits, [1, 10, 60, 60]);
    }

    #[test]
    fn two_that_alternate_come_to_an_end() {
        let mut refusals = Refusals::new(OnRefusal::Halt, RetryConfig::default());
        let rulings: Vec<_> = (0..12).map(|n| refusals.judge(&refused(at(1, n % 2)))).collect();
        assert_eq!(rulings.iter().filter(|ruling| **ruling == Ruling::Halt).count(), 2);
        assert!(rulings[..10].iter().all(|ruling| matches!(ruling, Ruling::After(_))), "{rulings:?}");
    }

    #[test]
    fn nothing_is_held_against_company() {
        let mut refusals = Refusals::new(OnRefusal::DeadLetter, RetryConfig::default());
        for _ in 0..20 {
            let ruling = refusals.judge(&refused(at(1, 0)).among(at(1, 0), at(2, 3)));
            assert_eq!(ruling, Ruling::Again);
        }
        let docket = refusals.docket();
        assert!(docket.suspects(at(1, 7)) && docket.suspects(at(2, 3)) && !docket.suspects(at(2, 4)));
        assert_eq!(docket.verdict(at(1, 0)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn after_all_tries_it_is_parked_and_the_next_of_its_cause_at_once() {
        let mut refusals = Refusals::new(OnRefusal::DeadLetter, RetryConfig::default());
        for _ in 0..5 {
            assert!(matches!(refusals.judge(&refused(at(1, 0))), Ruling::After(_)));
        }
        assert!(!refusals.docket().is_hopeless(&refused(at(9, 9))));
        assert_eq!(refusals.judge(&refused(at(1, 0))), Ruling::Again);
        let verdict = refusals.docket().verdict(at(1, 0)).cloned();
        assert_eq!(verdict.map(|verdict| verdict.attempts), Some(6));
        assert!(refusals.docket().is_hopeless(&refused(at(9, 9))));
        assert_eq!(refusals.judge(&refused(at(2, 0))), Ruling::Again);
        assert_eq!(refusals.docket().verdict(at(2, 0)).map(|verdict| verdict.attempts), Some(1));
        refusals.forget_before(Lsn(2));
        assert!(
            refusals.docket().verdict(at(1, 0)).is_none() && refusals.docket().verdict(at(2, 0)).is_some()
        );
        assert_eq!(refusals.docket().shuns("t"), None, "another size will do");
        let missing =
            || OutboxError::broker("publishing to topic u", 3, "unknown").of_topic("u").at(at(3, 0));
        for _ in 0..6 {
            refusals.judge(&missing());
        }
        assert!(refusals.docket().shuns("u").is_some_and(|why| why.contains("unknown")));
        tokio::time::advance(SHUNNED_FOR).await;
        assert_eq!(refusals.docket().shuns("u"), None, "it is looked at again now and then");
        assert!(refusals.docket().is_hopeless(&missing()), "but not waited for");
        tokio::time::advance(HOPELESS_FOR).await;
        assert!(!refusals.docket().is_hopeless(&refused(at(9, 9))), "it may have been mended meanwhile");
    }
}
