//! The lives of the processor: opens both ends, runs it, and decides when to try again.
//!
//! ```text
//!            open fails / run fails, transient
//!          ┌──────────────────────────────────────┐
//!          ▼                                      │
//!   wait (back-off) ──► open both ends ──► run ───┤ a message refused: a few more tries
//!          ▲                  │            │      │
//!          └── slot in use ◄──┘            ▼      ▼
//!              (standing by)            stopped  given up (definite)
//! ```
//!
//! Every recovery is this one act: drop both ends with all they hold, open new ones, resume from the slot.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::dead_letters::DeadLetterStore;
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::processor::{OutboxProcessor, Pace};
use crate::publisher::OutboxPublisher;
use crate::refusal::{OnRefusal, Refusals, RetryConfig, Ruling};
use crate::store::OutboxStore;
use crate::vitals::{State, Vitals};

/// A server that accepts and then says nothing is tried again after this long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(90);

/// How often the loop shows that it is alive while it waits.
const BEAT: Duration = Duration::from_secs(5);

/// How long a fault may last before it is told again.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Opens both ends of the road.
pub trait Ends: Send {
    /// The durable side.
    type Store: OutboxStore;
    /// The broker's side.
    type Publisher: OutboxPublisher;
    /// Where messages wait that can't be sent.
    type Letters: DeadLetterStore;

    /// Opens both ends; what is half open when it fails is dropped.
    ///
    /// # Errors
    /// An end can't be opened, or what it needs is missing.
    fn open(&mut self) -> impl Future<Output = Opening<Self>> + Send;
}

/// What [`Ends::open`] gives.
pub type Opening<E> = Result<(<E as Ends>::Store, <E as Ends>::Publisher, <E as Ends>::Letters), OutboxError>;

/// How long to wait before trying again: doubled each time, capped, with jitter.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Before the second try.
    pub base_delay: Duration,
    /// What each wait is longer than the one before.
    pub multiplier: u32,
    /// The longest wait.
    pub max_delay: Duration,
}

impl Backoff {
    /// For a lost connection: quick at first, since most faults are short, and never so slow that a
    /// healed fault goes unnoticed.
    pub const RECONNECT: Backoff =
        Backoff { base_delay: Duration::from_millis(200), multiplier: 2, max_delay: Duration::from_secs(5) };

    /// For a slot that somebody else holds: steady, since taking over quickly is what a standby is for.
    pub const STANDBY: Backoff = Backoff {
        base_delay: Duration::from_millis(500),
        multiplier: 1,
        max_delay: Duration::from_millis(500),
    };

    /// The wait after the `failures`-th failure in a row: between a half and the whole of the step.
    fn delay(&self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        let factor = self.multiplier.saturating_pow(failures.saturating_sub(1).min(20));
        let step = self.base_delay.saturating_mul(factor).min(self.max_delay);
        jittered(step, random)
    }
}

/// Between a half and the whole of the wait.
fn jittered(wait: Duration, random: &mut fastrand::Rng) -> Duration {
    wait.mul_f64(0.5 + random.f64() / 2.0)
}

/// Keeps a processor alive until it is told to stop or only a person can help.
#[derive(Debug)]
pub struct Supervisor<E> {
    ends: E,
    pace: Pace,
    refusals: Refusals,
    vitals: Arc<Vitals>,
    random: fastrand::Rng,
}

impl<E: Ends> Supervisor<E> {
    /// A supervisor whose jitter comes from `seed`.
    pub fn new(ends: E, pace: Pace, vitals: Arc<Vitals>, seed: u64) -> Self {
        let (refusals, random) = (Refusals::default(), fastrand::Rng::with_seed(seed));
        Supervisor { ends, pace, refusals, vitals, random }
    }

    /// Chooses what becomes of a message that can't be sent; without it the line halts.
    #[must_use]
    pub fn with_refusals(mut self, on_refusal: OnRefusal, retry: RetryConfig) -> Self {
        self.refusals = Refusals::new(on_refusal, retry);
        self
    }

    /// Runs life after life. `shutdown` may resolve at any time, also while waiting or opening.
    ///
    /// # Errors
    /// A definite fault, or a message that was refused again and again.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), OutboxError> {
        let mut shutdown = pin!(shutdown);
        let mut faults = Faults::default();
        // Progress is what need not be done again; records of a transaction that never ends are none.
        let (mut furthest, mut settled) = (Lsn::ZERO, 0);
        let result = loop {
            let error = match self.live(shutdown.as_mut()).await {
                Ok(()) => break Ok(()),
                Err(error) => error,
            };
            self.vitals.tally().failed(&error);
            if error.is_message() {
                self.vitals.tally().refused.add(1);
            }
            if self.vitals.phase().state == State::Draining {
                break self.failed_stop(error);
            }
            let progressed = self.vitals.confirmed() > furthest || self.vitals.times_settled() > settled;
            furthest = furthest.max(self.vitals.confirmed());
            settled = self.vitals.times_settled();
            // Not the furthest: a slot that fell back brings refused messages again from before it.
            self.refusals.forget_before(self.vitals.confirmed());
            let Some(wait) = self.judge(&error, progressed, &mut faults) else { break Err(error) };
            self.announce(&error, &faults, wait);
            tokio::select! {
                biased;
                () = &mut shutdown => break Ok(()),
                () = self.wait(wait) => {}
            }
        };
        let error = result.as_ref().err();
        let advice = error.and_then(OutboxError::advice).unwrap_or_default();
        let reason = error.map(OutboxError::chain).unwrap_or_default();
        self.vitals.enter_with_advice(State::Stopped, reason, advice);
        result
    }

    /// One life: from opening both ends to the end of the processor.
    async fn live(
        &mut self,
        mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), OutboxError> {
        let (store, publisher, letters) = tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            ends = open_alive(&mut self.ends, &self.vitals) => ends?,
        };
        tracing::info!("streaming");
        OutboxProcessor::with_dead_letters(store, publisher, letters)
            .with_pace(self.pace)
            .with_vitals(Arc::clone(&self.vitals))
            .with_docket(self.refusals.docket())
            .run(shutdown)
            .await
    }

    /// How long to wait before the next try; `None` when there shall be none.
    fn judge(&mut self, error: &OutboxError, progressed: bool, faults: &mut Faults) -> Option<Duration> {
        if !error.is_message() {
            let backoff = faults.judge(error, progressed)?;
            return Some(backoff.delay(faults.in_a_row, &mut self.random));
        }
        faults.note(error, progressed);
        faults.is_news = true;
        match self.refusals.judge(error) {
            Ruling::Again => Some(Backoff::RECONNECT.delay(1, &mut self.random)),
            Ruling::After(wait) => Some(jittered(wait, &mut self.random)),
            Ruling::Halt => None,
        }
    }

    /// A stop during which an end failed is still a stop: nothing is lost, something may come again.
    fn failed_stop(&mut self, error: OutboxError) -> Result<(), OutboxError> {
        // A refused message is tried again, or parked, by the next relay, unless this one would give up by now.
        let refused = error.is_message() && self.refusals.judge(&error) != Ruling::Halt;
        if error.is_transient() || refused {
            tracing::warn!(
                error = error.chain(),
                "an end failed while stopping: what was in flight will be sent again"
            );
            return Ok(());
        }
        Err(error)
    }

    /// Waits, and shows that the loop is alive meanwhile.
    async fn wait(&self, wait: Duration) {
        let end = Instant::now() + wait;
        while Instant::now() < end {
            self.vitals.beat();
            sleep((end - Instant::now()).min(BEAT)).await;
        }
        self.vitals.beat();
    }

    fn announce(&self, error: &OutboxError, faults: &Faults, wait: Duration) {
        let (reason, advice) = (error.chain(), error.advice().unwrap_or_default());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        // Entered before it is told: who reads the log and then asks for the state must find it.
        let state = if error.is_slot_in_use() { State::StandingBy } else { State::Retrying };
        self.vitals.enter_with_advice(state, reason.clone(), advice);
        if state == State::StandingBy {
            if faults.in_a_row == 1 {
                tracing::info!(
                    reason,
                    "standing by: the slot is in use, and this relay takes over when it is free"
                );
            }
            return;
        }
        // The first fault of a row is news; the same one again is not.
        if faults.is_news {
            tracing::warn!(error = reason, advice, wait_ms, "retrying");
        } else {
            tracing::debug!(error = reason, attempt = faults.in_a_row, wait_ms, "retrying");
        }
    }
}

/// Opens both ends, and shows meanwhile that the loop is alive: several hosts may take their time.
async fn open_alive<E: Ends>(ends: &mut E, vitals: &Vitals) -> Opening<E> {
    let mut opening = pin!(timeout(OPEN_TIMEOUT, ends.open()));
    loop {
        tokio::select! {
            // Ranked, so that one seed gives one history.
            biased;
            result = &mut opening => {
                let late = |_| OutboxError::transient("an end did not open in time");
                return result.map_err(late).and_then(|opened| opened);
            }
            () = sleep(BEAT) => vitals.beat(),
        }
    }
}

/// What went wrong lately, without success in between.
#[derive(Debug, Default)]
struct Faults {
    in_a_row: u32,
    last: String,
    is_news: bool,
    told: Option<Instant>,
}

impl Faults {
    /// How to wait before the next try; `None` when there shall be none.
    fn judge(&mut self, error: &OutboxError, progressed: bool) -> Option<Backoff> {
        if !error.is_transient() {
            return None;
        }
        self.note(error, progressed);
        Some(if error.is_slot_in_use() { Backoff::STANDBY } else { Backoff::RECONNECT })
    }

    fn note(&mut self, error: &OutboxError, progressed: bool) {
        let text = error.chain();
        self.in_a_row = if progressed { 1 } else { self.in_a_row + 1 };
        // Said once, and again every minute that it lasts.
        let stale = self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN);
        self.is_news = progressed || text != self.last || stale;
        if self.is_news {
            self.told = Some(Instant::now());
        }
        if error.is_slot_in_use() && text != self.last {
            self.in_a_row = 1;
        }
        self.last = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_keep_their_jitter() {
        let mut random = fastrand::Rng::with_seed(7);
        let steps = [200, 400, 800, 1600, 3200, 5000, 5000];
        for (failures, step) in (1..).zip(steps) {
            let wait = Backoff::RECONNECT.delay(failures, &mut random).as_millis();
            assert!((step / 2..=step).contains(&wait), "failure {failures}: {wait} ms of {step}");
        }
        let far = Backoff::RECONNECT.delay(u32::MAX, &mut random);
        assert!(far <= Backoff::RECONNECT.max_delay);
    }

    #[test]
    fn the_same_fault_is_news_once_and_progress_starts_anew() {
        let mut faults = Faults::default();
        let fault = || OutboxError::connection("cannot connect", "refused");
        faults.judge(&fault(), false);
        assert!(faults.is_news);
        faults.judge(&fault(), false);
        assert!(!faults.is_news && faults.in_a_row == 2);
        faults.judge(&fault(), true);
        assert!(faults.is_news && faults.in_a_row == 1);
        assert!(faults.judge(&OutboxError::definite("x", "y"), true).is_none());
    }
}
