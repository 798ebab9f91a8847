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
use crate::vitals::{State, Told, Vitals, millis};

/// A server that accepts and then says nothing is tried again after this long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(90);

/// How often the loop shows that it is alive while it waits.
const BEAT: Duration = Duration::from_secs(5);

/// A life that has lasted so long is no part of the faults before it.
const STEADY: Duration = Duration::from_secs(10);

/// As many different faults are told in a row; which one it is may alternate, and a text may have a number in it.
const MOST_TEXTS: usize = 4;

/// What to know where nothing else is advised.
const PATIENCE: &str = "the relay tries again by itself until it goes well; the slot keeps what waits, up to \
                        max_slot_wal_keep_size";

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
            let error = match self.live(shutdown.as_mut(), &mut faults).await {
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
        if result.is_ok() {
            // What went wrong else, its caller tells.
            tracing::info!(position = self.vitals.position(), "stopped");
        }
        result
    }

    /// One life: from opening both ends to the end of the processor.
    async fn live(
        &mut self,
        mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
        faults: &mut Faults,
    ) -> Result<(), OutboxError> {
        let (store, publisher, letters) = tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            ends = open_alive(&mut self.ends, &self.vitals) => ends?,
        };
        let processor = OutboxProcessor::with_dead_letters(store, publisher, letters)
            .with_pace(self.pace)
            .with_vitals(Arc::clone(&self.vitals))
            .with_docket(self.refusals.docket());
        // Before it is told: who reads the log and then asks for the state must find it.
        self.vitals.enter(State::Streaming, "");
        let (began, mut running) = (Instant::now(), pin!(processor.run(shutdown)));
        let result = if faults.is_end_due() {
            self.tell_streaming(faults);
            running.await
        } else {
            // Lives that end at once, one after the other, are one fault: only what lasts is told.
            tracing::debug!("streaming");
            tokio::select! {
                biased;
                result = &mut running => result,
                () = sleep(STEADY) => {
                    self.tell_streaming(faults);
                    running.await
                }
            }
        };
        faults.was_steady = began.elapsed() >= STEADY;
        result
    }

    fn tell_streaming(&self, faults: &mut Faults) {
        faults.owes_end = false;
        let (position, attempts) = (self.vitals.position(), (faults.in_a_row > 0).then_some(faults.in_a_row));
        let lasted_ms = faults.since.map(|since| millis(since.elapsed()));
        tracing::info!(position, lasted_ms, attempts, "streaming");
    }

    /// How long to wait before the next try; `None` when there shall be none.
    fn judge(&mut self, error: &OutboxError, progressed: bool, faults: &mut Faults) -> Option<Duration> {
        if !error.is_message() {
            let backoff = faults.judge(error, progressed, self.vitals.told())?;
            return Some(backoff.delay(faults.in_a_row, &mut self.random));
        }
        faults.note(error, progressed, self.vitals.told());
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
                position = self.vitals.position(),
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
        let reason = error.chain();
        let (wait_ms, attempt, position) = (millis(wait), faults.in_a_row, self.vitals.position());
        // Entered before it is told: who reads the log and then asks for the state must find it.
        let state = if error.is_slot_in_use() { State::StandingBy } else { State::Retrying };
        let usual = if state == State::Retrying { PATIENCE } else { "" };
        let advice = error.advice().unwrap_or(usual);
        self.vitals.enter_with_advice(state, reason.clone(), advice);
        if state == State::StandingBy {
            if faults.is_news {
                tracing::info!(
                    position,
                    reason,
                    "standing by: the slot is in use, and this relay takes over when it is free"
                );
            }
            return;
        }
        // The first fault of a row is news; the same one again is only now and then.
        let lasted_ms = faults.since.map(|since| millis(since.elapsed())).filter(|_| attempt > 1);
        if faults.is_news {
            tracing::warn!(error = reason, advice, position, attempt, lasted_ms, wait_ms, "retrying");
        } else {
            tracing::debug!(error = reason, attempt, wait_ms, "retrying");
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
    /// When the first of them was met.
    since: Option<Instant>,
    last: String,
    /// What was told lately.
    texts: Vec<String>,
    is_news: bool,
    /// A fault was told, and its end was not.
    owes_end: bool,
    /// The life before has lasted.
    was_steady: bool,
}

impl Faults {
    /// Under which names they are among those that were told.
    const FAULT: &str = "a fault of the relay";
    const STANDING_BY: &str = "standing by";

    /// Whether it is told at once that all is well.
    fn is_end_due(&self) -> bool {
        self.owes_end || self.in_a_row == 0
    }

    /// How to wait before the next try; `None` when there shall be none.
    fn judge(&mut self, error: &OutboxError, progressed: bool, told: &Told) -> Option<Backoff> {
        if !error.is_transient() {
            return None;
        }
        self.note(error, progressed, told);
        Some(if error.is_slot_in_use() { Backoff::STANDBY } else { Backoff::RECONNECT })
    }

    fn note(&mut self, error: &OutboxError, progressed: bool, told: &Told) {
        let text = error.chain();
        if std::mem::take(&mut self.was_steady) || progressed {
            told.over(Self::FAULT);
            told.over(Self::STANDING_BY);
            (self.in_a_row, self.since) = (0, None);
        }
        self.in_a_row += 1;
        self.since.get_or_insert_with(Instant::now);
        if error.is_slot_in_use() {
            told.over(Self::FAULT);
            let due = told.meet(Self::STANDING_BY);
            self.is_news = due.is_some_and(|news| news.lasted.is_zero() || text != self.last);
            if text != self.last {
                self.in_a_row = 1;
            }
        } else {
            told.over(Self::STANDING_BY);
            let is_due = told.meet(Self::FAULT).is_some();
            if is_due {
                self.texts.clear();
            }
            self.is_news = !self.texts.contains(&text) && self.texts.len() < MOST_TEXTS;
            if self.is_news {
                self.texts.push(text.clone());
            }
        }
        self.owes_end |= self.is_news;
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

    #[tokio::test(start_paused = true)]
    async fn the_same_fault_is_news_once_and_progress_starts_anew() {
        let (mut faults, told) = (Faults::default(), Told::default());
        let fault = || OutboxError::connection("cannot connect", "refused");
        faults.judge(&fault(), false, &told);
        assert!(faults.is_news);
        faults.judge(&fault(), false, &told);
        assert!(!faults.is_news && faults.in_a_row == 2);
        faults.judge(&fault(), true, &told);
        assert!(faults.is_news && faults.in_a_row == 1);
        assert!(faults.judge(&OutboxError::definite("x", "y"), true, &told).is_none());
    }

    /// Hours of tries, two a second.
    async fn told_in(hours: u64, mut meet: impl FnMut(u64, &mut Faults, &Told)) -> usize {
        let (mut faults, told, mut news) = (Faults::default(), Told::default(), 0);
        for number in 0..hours * 7200 {
            meet(number, &mut faults, &told);
            news += usize::from(faults.is_news);
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        news
    }

    #[tokio::test(start_paused = true)]
    async fn no_fault_floods_the_log_however_it_comes() {
        let fault = |number: u64| OutboxError::transient(format!("fault {number}"));
        let same = told_in(4, |_, faults, told| faults.note(&fault(0), false, told)).await;
        assert_eq!(same, 9);
        let in_turn = told_in(4, |number, faults, told| faults.note(&fault(number % 3), false, told)).await;
        assert_eq!(in_turn, 27);
        let numbered = told_in(4, |number, faults, told| faults.note(&fault(number), false, told)).await;
        assert!(numbered <= 9 * MOST_TEXTS, "{numbered}");
        let flapping = told_in(4, |_, faults, told| faults.note(&fault(0), true, told)).await;
        assert!(flapping <= 20, "{flapping}");
        let holder = |number: u64| OutboxError::slot_in_use(format!("in use by PID {number}"));
        let standing = told_in(4, |_, faults, told| faults.note(&holder(1), false, told)).await;
        assert_eq!(standing, 1, "it is no fault");
        let changing = told_in(4, |number, faults, told| faults.note(&holder(number), false, told)).await;
        assert_eq!(changing, 9);
    }
}
