//! What a running relay tells of itself: its state, and a few counters.
//!
//! The loop writes here and never reads; health, the progress line and tests read and never write.

mod latency;
mod phase;
mod tally;
mod told;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::field::{DisplayValue, display};

use crate::lsn::Lsn;
use crate::spans::Spans;
use latency::Latency;

pub use latency::{BUCKETS, Histogram};
pub use phase::{Phase, State};
pub(crate) use tally::size;
pub use tally::{Counter, DeskSight, FAILURES, Level, SlotSight, Tally};
#[cfg(feature = "cli")]
pub(crate) use tally::{is_near_its_end, room_sql};
pub(crate) use told::millis;
pub use told::{News, Told};

/// Shared between the relay's loop and whoever watches it.
#[derive(Debug)]
pub struct Vitals {
    phase: Mutex<Phase>,
    broker: Mutex<Option<(Instant, String)>>,
    /// When that was known last, once it is over.
    broker_away: Mutex<Option<Instant>>,
    write_back: Mutex<Option<(Instant, String)>>,
    epoch: Instant,
    beat_ms: AtomicU64,
    answered_ms: AtomicU64,
    heard_ms: AtomicU64,
    acked_ms: AtomicU64,
    published: AtomicU64,
    parked: AtomicU64,
    settled: AtomicU64,
    asked_ms: AtomicU64,
    holding_ms: AtomicU64,
    in_flight: AtomicU64,
    received: AtomicU64,
    confirmed: AtomicU64,
    last_confirmed: AtomicU64,
    committed_us: AtomicU64,
    oldest_ms: AtomicU64,
    oldest_committed_us: AtomicU64,
    /// When the first transaction was committed that was begun since records were last handed over; 0 if none was.
    batch_us: AtomicU64,
    latency: Latency,
    tally: Tally,
    told: Told,
    slot: Mutex<Option<(Instant, SlotSight)>>,
    desk: Mutex<Option<(Instant, DeskSight)>>,
    reads: Mutex<Option<Reads>>,
    spans: Option<Spans>,
}

/// What a stream is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reads {
    /// The identifier of the database system: given by `initdb`, kept by every copy.
    pub system: String,
    /// The server's process that serves the stream.
    pub pid: i32,
}

/// A question that the table of dead letters has not answered.
#[derive(Debug)]
pub struct Asking(Arc<Vitals>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asked_ms.store(0, Relaxed);
    }
}

impl Default for Vitals {
    fn default() -> Self {
        let now = Instant::now();
        Vitals {
            phase: Mutex::new(Phase {
                state: State::Starting,
                since: now,
                reason: String::new(),
                advice: String::new(),
            }),
            broker: Mutex::default(),
            broker_away: Mutex::default(),
            write_back: Mutex::default(),
            epoch: now,
            beat_ms: AtomicU64::new(0),
            answered_ms: AtomicU64::new(0),
            heard_ms: AtomicU64::new(0),
            acked_ms: AtomicU64::new(0),
            published: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            asked_ms: AtomicU64::new(0),
            holding_ms: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            received: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            last_confirmed: AtomicU64::new(0),
            committed_us: AtomicU64::new(0),
            oldest_ms: AtomicU64::new(0),
            oldest_committed_us: AtomicU64::new(0),
            batch_us: AtomicU64::new(0),
            latency: Latency::default(),
            tally: Tally::default(),
            told: Told::default(),
            slot: Mutex::default(),
            desk: Mutex::default(),
            reads: Mutex::default(),
            spans: None,
        }
    }
}

impl Vitals {
    /// Asks for a span of each record whose row belongs to a trace.
    #[must_use]
    pub fn with_spans(mut self, spans: Spans) -> Self {
        self.spans = Some(spans);
        self
    }

    /// Where spans go, if anybody wants them.
    #[must_use]
    pub fn spans(&self) -> Option<&Spans> {
        self.spans.as_ref()
    }

    /// What is counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The position that is confirmed, for a line of the log; none before there is one.
    pub(crate) fn position(&self) -> Option<DisplayValue<Lsn>> {
        Some(self.last_confirmed()).filter(|lsn| *lsn != Lsn::ZERO).map(display)
    }

    /// What was told lately.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Both ends are open, and nothing is in flight.
    pub fn stream_begins(&self) {
        self.tally.streams.add(1);
        self.latency.forget();
        self.handed_over(0);
    }

    /// A stream of this server begins.
    pub fn reading(&self, reads: Reads) {
        *locked(&self.reads) = Some(reads);
    }

    /// What the last stream was read from; `None` before the first.
    #[must_use]
    pub fn reads(&self) -> Option<Reads> {
        locked(&self.reads).clone()
    }

    /// The server has told of the slot.
    pub fn see_slot(&self, sight: SlotSight) {
        *locked(&self.slot) = Some((Instant::now(), sight));
    }

    /// What the server told of the slot, unless that is older than `most`: then it would look like the present.
    #[must_use]
    pub fn slot(&self, most: Duration) -> Option<SlotSight> {
        locked(&self.slot).as_ref().filter(|(at, _)| at.elapsed() <= most).map(|(_, sight)| sight.clone())
    }

    /// How long the server has not been asked about the slot; `None` before it was.
    #[must_use]
    pub fn since_slot_seen(&self) -> Option<Duration> {
        locked(&self.slot).as_ref().map(|(at, _)| at.elapsed())
    }

    /// The server has told what waits beside the outbox.
    pub fn see_desk(&self, sight: DeskSight) {
        *locked(&self.desk) = Some((Instant::now(), sight));
    }

    /// What waits beside the outbox, unless that is older than `most`.
    #[must_use]
    pub fn desk(&self, most: Duration) -> Option<DeskSight> {
        locked(&self.desk).as_ref().filter(|(at, _)| at.elapsed() <= most).map(|(_, sight)| *sight)
    }

    /// How long records took from commit to acknowledgement.
    #[must_use]
    pub fn latency(&self) -> Histogram {
        self.latency.histogram()
    }

    /// Enters a state; entering the same one again for the same reason changes nothing.
    pub fn enter(&self, state: State, reason: impl Into<String>) {
        self.enter_with_advice(state, reason, "");
    }

    /// The same, for a reason about which a person can do something.
    pub fn enter_with_advice(&self, state: State, reason: impl Into<String>, advice: impl Into<String>) {
        let (reason, advice) = (reason.into(), advice.into());
        let mut phase = locked(&self.phase);
        let since = if phase.state == state { phase.since } else { Instant::now() };
        *phase = Phase { state, since, reason, advice };
    }

    /// The present state.
    #[must_use]
    pub fn phase(&self) -> Phase {
        locked(&self.phase).clone()
    }

    /// Notes that the broker can't be reached and why, or with `None` that it answers.
    pub fn set_broker_fault(&self, fault: Option<String>) {
        let mut broker = locked(&self.broker);
        if broker.is_some() {
            *locked(&self.broker_away) = Some(Instant::now());
        }
        *broker = fault.map(|why| (broker.as_ref().map_or_else(Instant::now, |(since, _)| *since), why));
    }

    /// How long ago the broker could not be reached; zero while it can't.
    #[must_use]
    pub fn since_broker_fault(&self) -> Option<Duration> {
        if self.broker_fault().is_some() {
            return Some(Duration::ZERO);
        }
        locked(&self.broker_away).map(|at| at.elapsed())
    }

    /// Since when the broker can't be reached, and why.
    #[must_use]
    pub fn broker_fault(&self) -> Option<(Instant, String)> {
        locked(&self.broker).clone()
    }

    /// Notes since when and why published rows are not written back, or with `None` that they are.
    pub fn set_write_back_fault(&self, fault: Option<(Instant, &str)>) {
        let mut noted = locked(&self.write_back);
        if noted.is_some() || fault.is_some() {
            *noted = fault.map(|(since, why)| (since, why.to_owned()));
        }
    }

    /// Since when published rows are not written back, and why.
    #[must_use]
    pub fn write_back_fault(&self) -> Option<(Instant, String)> {
        locked(&self.write_back).clone()
    }

    /// The loop has taken a turn.
    pub fn beat(&self) {
        self.beat_ms.store(self.age_ms(), Relaxed);
    }

    /// How long ago the loop took its last turn.
    #[must_use]
    pub fn since_beat(&self) -> Duration {
        self.since(&self.beat_ms)
    }

    /// The database has answered a question beside the stream.
    pub fn database_answered(&self) {
        self.answered_ms.store(self.age_ms().max(1), Relaxed);
    }

    /// How long ago the database answered a question, or the stream began; zero for a store that asks none.
    #[must_use]
    pub fn since_answer(&self) -> Duration {
        self.since_noted(&self.answered_ms)
    }

    /// Something has come through the stream, or nobody is listening to it.
    pub fn log_heard(&self) {
        self.heard_ms.store(self.age_ms().max(1), Relaxed);
    }

    /// How long the stream has been silent, though somebody listened; zero for a store that does not tell.
    #[must_use]
    pub fn since_heard(&self) -> Duration {
        self.since_noted(&self.heard_ms)
    }

    /// Receipts have come; `in_flight` records are still without one.
    pub fn acknowledged(&self, count: u64, in_flight: u64) {
        self.published.fetch_add(count, Relaxed);
        self.latency.acknowledged(count, micros(SystemTime::now()));
        self.acked_ms.store(self.age_ms(), Relaxed);
        self.in_flight.store(in_flight, Relaxed);
    }

    /// Records were handed to the publisher; `in_flight` are without a receipt.
    pub fn handed_over(&self, in_flight: u64) {
        if self.in_flight.swap(in_flight, Relaxed) == 0 && in_flight > 0 {
            self.acked_ms.store(self.age_ms(), Relaxed);
            self.oldest_changed();
        }
    }

    /// So many records were handed over since the last call, or the stream's beginning.
    pub fn sent(&self, records: u64) {
        let begun = self.batch_us.swap(0, Relaxed);
        if records == 0 {
            return;
        }
        // The rest of a transaction that was begun in an earlier batch.
        let committed = if begun == 0 { self.committed_us.load(Relaxed) } else { begun };
        self.latency.sent(committed, records);
    }

    /// How long the broker has owed a receipt without sending any; zero when it owes none.
    #[must_use]
    pub fn unacknowledged_for(&self) -> Duration {
        if self.in_flight() == 0 { Duration::ZERO } else { self.since(&self.acked_ms) }
    }

    /// Another record than before has waited longest for its receipt.
    pub fn oldest_changed(&self) {
        self.oldest_ms.store(self.age_ms(), Relaxed);
    }

    /// How long the same record has been the oldest without a receipt; zero when the broker owes none.
    #[must_use]
    pub fn oldest_waits(&self) -> Duration {
        if self.in_flight() == 0 { Duration::ZERO } else { self.since(&self.oldest_ms) }
    }

    /// When the oldest transaction was committed that is not confirmed.
    pub fn set_oldest_committed_at(&self, at: SystemTime) {
        self.oldest_committed_us.store(micros(at), Relaxed);
    }

    /// A transaction was begun that was committed at that time.
    pub fn set_committed_at(&self, at: SystemTime) {
        let at = micros(at);
        self.committed_us.store(at, Relaxed);
        // Only the loop writes here, so that nothing comes in between.
        if self.batch_us.load(Relaxed) == 0 {
            self.batch_us.store(at, Relaxed);
        }
    }

    /// When the transaction was committed that was begun last.
    #[must_use]
    pub fn committed_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.committed_us.load(Relaxed))
    }

    /// How far what is being published now lies behind the present; zero when all is published.
    #[must_use]
    pub fn lag(&self) -> Duration {
        if self.in_flight() == 0 {
            return Duration::ZERO;
        }
        let committed =
            SystemTime::UNIX_EPOCH + Duration::from_micros(self.oldest_committed_us.load(Relaxed));
        SystemTime::now().duration_since(committed).unwrap_or_default()
    }

    /// The highest position that the server has spoken of, and the one that is confirmed, on this connection: a slot may
    /// have fallen back since the one before.
    pub fn set_positions(&self, received: Lsn, confirmed: Lsn) {
        self.received.store(received.0, Relaxed);
        self.confirmed.store(confirmed.0, Relaxed);
        if confirmed != Lsn::ZERO {
            self.last_confirmed.store(confirmed.0, Relaxed);
        }
    }

    /// That many messages were parked as dead letters.
    pub fn parked(&self, count: u64) {
        self.parked.fetch_add(count, Relaxed);
    }

    /// Letters that were asked for were sent, or refused again: those will not hold up the line once more.
    pub fn letters_settled(&self) {
        self.settled.fetch_add(1, Relaxed);
    }

    /// How often that happened.
    #[must_use]
    pub fn times_settled(&self) -> u64 {
        self.settled.load(Relaxed)
    }

    /// The table of dead letters is asked something, until the answer is dropped.
    #[must_use]
    pub fn asking_for_letters(self: &Arc<Self>) -> Asking {
        self.asked_ms.store(self.age_ms().max(1), Relaxed);
        Asking(Arc::clone(self))
    }

    /// How long the table of dead letters has not answered; zero when it was not asked.
    #[must_use]
    pub fn since_asked_for_letters(&self) -> Duration {
        self.since_noted(&self.asked_ms)
    }

    /// The table of rows that are sent later is asked something, or has answered.
    pub fn holding_back(&self, asked: bool) {
        self.holding_ms.store(if asked { self.age_ms().max(1) } else { 0 }, Relaxed);
    }

    /// How long that table has not answered; zero when it was not asked.
    #[must_use]
    pub fn since_holding_back(&self) -> Duration {
        self.since_noted(&self.holding_ms)
    }

    /// Messages parked as dead letters since the process began.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.parked.load(Relaxed)
    }

    /// Records acknowledged since the process began.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    /// Records handed to the publisher and without a receipt.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// The highest position that the server has spoken of on this connection.
    #[must_use]
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Relaxed))
    }

    /// The position confirmed to the server last, on this connection or one before: what people are told.
    #[must_use]
    pub fn last_confirmed(&self) -> Lsn {
        Lsn(self.last_confirmed.load(Relaxed))
    }

    /// The position confirmed to the server on this connection.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Relaxed))
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn since_noted(&self, mark: &AtomicU64) -> Duration {
        if mark.load(Relaxed) == 0 { Duration::ZERO } else { self.since(mark) }
    }

    fn since(&self, mark: &AtomicU64) -> Duration {
        Duration::from_millis(self.age_ms().saturating_sub(mark.load(Relaxed)))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Microseconds since 1970-01-01 UTC.
fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
