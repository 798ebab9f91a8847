//! The loop where the two roads meet: changes out to the broker, receipts back to the log.
//!
//! ```text
//!             fetch_pending                     publish
//!   store ───────────────────► batch ─────────────────────► publisher
//!     ▲                          one change at a time;          │
//!     │                          a full publisher stops it      │ receipts
//!     └── mark_published ◄── progress ◄─────────────────────────┘
//! ```
//!
//! A message that can't be sent leaves the road here, see `letters`.
//!
//! The loop never waits for the broker: a full publisher closes the window, the store is not read, and
//! status goes on. Not reading is safe back-pressure, not answering is not.

mod letters;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::dead_letters::DeadLetterStore;
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::mutants::{self, Mutant};
use crate::progress::Progress;
use crate::publisher::{Offer, OutboxPublisher, Receipt};
use crate::refusal::Docket;
use crate::router::Router;
use crate::store::{Batch, Change, OutboxStore};
use crate::vitals::{State, Vitals};
use letters::Letters;

/// How patient a processor is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The longest silence towards the server; well below its `wal_sender_timeout` (60 s by default), and so
    /// short that another relay soon sees that this one is dead.
    pub status_interval: Duration,
    /// The shortest time between two statuses, so that no burst of requests makes a burst of answers.
    pub status_gap: Duration,
    /// How long a stop waits for what is in flight.
    pub drain_deadline: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            status_interval: Duration::from_secs(2),
            status_gap: Duration::from_millis(100),
            drain_deadline: Duration::from_secs(25),
        }
    }
}

/// Publishes what a store holds, in order, and confirms what the broker has acknowledged.
///
/// One processor lives as long as its two ends; the supervisor starts the next one.
///
/// ```
/// use walpost::memory::{MemoryPublisher, MemoryStore};
/// use walpost::{OutboxMessage, OutboxProcessor, OutboxStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), walpost::OutboxError> {
/// let (store, publisher) = (MemoryStore::default(), MemoryPublisher::default());
/// let transaction = store.begin();
/// store.save(&transaction, &OutboxMessage::new("orders", "{}")).await?;
/// transaction.commit();
///
/// let topic = publisher.topic();
/// let arrived = { let topic = topic.clone(); async move { topic.wait_for(1).await } };
/// OutboxProcessor::new(store, publisher).run(arrived).await?;
/// assert_eq!(topic.records()[0].topic, "orders");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OutboxProcessor<S, P> {
    store: S,
    publisher: P,
    router: Router,
    progress: Progress,
    batch: Batch,
    receipts: Vec<Receipt>,
    status: StatusClock,
    pace: Pace,
    vitals: Arc<Vitals>,
    /// The window is closed: the first change of the batch waits for a receipt.
    full: bool,
    /// What earlier lives found out about refused messages.
    docket: Docket,
    letters: Letters,
    /// The record in flight was sent alone, and the next one waits for its receipt.
    alone: bool,
    /// The last message that the publisher has taken.
    last_taken: Position,
}

/// Where [`OutboxProcessor::forward`] comes to a halt.
enum Pause {
    /// All is passed on.
    Empty,
    /// The publisher is full.
    Full,
    /// Letters have to be stored before more can be passed on.
    Park,
    /// Somebody has touched the dead letters, in the transaction that commits there.
    Touched(Lsn),
}

/// Why the line stops.
enum Stop {
    /// A message was refused before it was sent; what is before it is still good.
    Refused(OutboxError),
    /// An end failed.
    Failed(OutboxError),
}

impl<S: OutboxStore + DeadLetterStore, P: OutboxPublisher> OutboxProcessor<S, P> {
    /// A processor over two open ends.
    pub fn new(store: S, publisher: P) -> Self {
        let pace = Pace::default();
        OutboxProcessor {
            store,
            publisher,
            router: Router::default(),
            progress: Progress::default(),
            batch: Batch::new(),
            receipts: Vec::new(),
            status: StatusClock::new(&pace),
            pace,
            vitals: Arc::default(),
            full: false,
            docket: Docket::default(),
            letters: Letters::default(),
            alone: false,
            last_taken: Position::default(),
        }
    }

    /// Tells it what earlier processors found out about refused messages.
    #[must_use]
    pub fn with_docket(mut self, docket: Docket) -> Self {
        self.docket = docket;
        self
    }

    /// Tells its progress to `vitals`.
    #[must_use]
    pub fn with_vitals(mut self, vitals: Arc<Vitals>) -> Self {
        self.vitals = vitals;
        self
    }

    /// Replaces the default patience.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.status = StatusClock::new(&pace);
        self.pace = pace;
        self
    }

    /// Publishes until `shutdown` resolves, then finishes what is under way and takes leave.
    ///
    /// # Errors
    /// One of the ends failed, or a message was refused. Nothing unacknowledged is confirmed; a new
    /// processor over new ends resumes from the last confirmation.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), OutboxError> {
        let mut shutdown = pin!(shutdown);
        if mutants::active(Mutant::SkipAfterReconnect) {
            self.progress.keepalive(self.vitals.received());
        }
        self.vitals.enter(State::Streaming, "");
        self.vitals.handed_over(0);
        self.letters.learn(self.store.parked().await?);
        loop {
            self.vitals.beat();
            // Ranked: old work before new, and nothing before a stop. No branch starves the next for
            // long, since receipts and confirmations are bounded by what was fetched.
            tokio::select! {
                biased;
                () = &mut shutdown => return self.drain().await,
                result = self.publisher.receipts(&mut self.receipts), if self.progress.in_flight() > 0 => {
                    result?;
                    self.settle_or_stop().await?;
                }
                () = sleep_until(self.status.due(self.full)) => self.confirm().await?,
                result = self.store.fetch_pending(&mut self.batch), if !self.full => result?,
            }
            if let Err(stop) = self.advance().await {
                return Err(self.end(stop).await);
            }
            if self.status.is_due() {
                self.confirm().await?;
            }
        }
    }

    /// Passes the batch on as far as it goes now.
    async fn advance(&mut self) -> Result<(), Stop> {
        loop {
            let passed = self.forward();
            let parked = self.park().await?;
            match passed? {
                Pause::Empty => return Ok(()),
                // Parking may have made room.
                Pause::Full if !parked => return Ok(()),
                Pause::Full | Pause::Park => {}
                Pause::Touched(request) => {
                    if !self.replay(request).await? {
                        self.full = true;
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Passes the batch on until it is empty or something has to be waited for.
    fn forward(&mut self) -> Result<Pause, Stop> {
        self.full = false;
        let mut pause = Pause::Empty;
        while let Some(change) = self.batch.pop_front() {
            match &change {
                Change::Begin { commit_lsn, committed_at } => {
                    self.progress.begin(*commit_lsn);
                    self.vitals.set_committed_at(*committed_at);
                }
                Change::Message { position, message } => {
                    let offer = self.pass(*position, message).map_err(Stop::Refused)?;
                    if offer == Offer::Full && !mutants::active(Mutant::DropOnFull) {
                        self.batch.push_front(change);
                        self.full = true;
                        pause = Pause::Full;
                        break;
                    }
                }
                Change::Unfit { letter, advice } => self.pass_unfit(letter, advice).map_err(Stop::Refused)?,
                Change::DeadLetters { commit_lsn } => {
                    pause = Pause::Touched(*commit_lsn);
                    self.batch.push_front(change);
                    break;
                }
                Change::Commit { end_lsn } => self.progress.commit(*end_lsn),
                Change::Keepalive { wal_end, reply_requested } => {
                    self.progress.keepalive(*wal_end);
                    if *reply_requested {
                        self.status.want();
                    }
                }
            }
            if self.letters.is_full() {
                pause = Pause::Park;
                break;
            }
        }
        self.vitals.handed_over(self.progress.in_flight());
        self.note_progress();
        Ok(pause)
    }

    /// Offers a message to the publisher, unless it has to be parked.
    fn pass(&mut self, position: Position, message: &OutboxMessage) -> Result<Offer, OutboxError> {
        if self.sets_aside(position, message) {
            return Ok(Offer::Taken);
        }
        let suspect = self.docket.suspects(position);
        if (suspect || self.alone) && self.progress.in_flight() > 0 {
            return Ok(Offer::Full);
        }
        let offered = match self.router.route(message, position) {
            Ok(record) => self.publisher.publish(self.progress.next_ticket(), &record),
            Err(refusal) => Err(refusal),
        };
        match offered {
            Ok(Offer::Taken) => {
                self.progress.taken();
                (self.alone, self.last_taken) = (suspect, position);
                Ok(Offer::Taken)
            }
            Ok(Offer::Full) => Ok(Offer::Full),
            Err(refusal) if self.docket.is_hopeless(&refusal) => {
                self.park_refused(position, message, &refusal);
                Ok(Offer::Taken)
            }
            Err(refusal) => Err(refusal.at(position)),
        }
    }

    /// Takes in the receipts that have come.
    fn settle(&mut self) -> Result<(), OutboxError> {
        let mut acknowledged = 0;
        for receipt in self.receipts.drain(..) {
            if let Err(error) = receipt.result {
                if mutants::active(Mutant::ReorderAfterFailure) {
                    continue;
                }
                // One failed delivery stops the line: later records must not slip past it.
                let Some(position) =
                    self.letters.replayed_as(receipt.ticket).or(self.progress.position(receipt.ticket))
                else {
                    return Err(error);
                };
                // A batch is refused as a whole: only who had no company is known to be meant.
                let certain = self.alone || self.progress.in_flight() == 1 || !error.is_message();
                return Err(if certain {
                    error.at(position)
                } else {
                    error.among(position, self.last_taken)
                });
            }
            self.progress.acknowledged(receipt.ticket);
            acknowledged += 1;
        }
        self.vitals.acknowledged(acknowledged, self.progress.in_flight());
        self.note_progress();
        Ok(())
    }

    /// Takes in the receipts. When one of them stops the line, what was acknowledged before it is worth a
    /// last confirmation, so that it does not come again.
    async fn settle_or_stop(&mut self) -> Result<(), OutboxError> {
        let Err(failure) = self.settle() else { return Ok(()) };
        let failure = self.keep_refused_again(failure).await?;
        if let Err(error) = self.confirm().await {
            tracing::debug!(error = error.chain(), "what was acknowledged last may come again");
        }
        Err(failure)
    }

    fn note_progress(&mut self) {
        self.status.note(self.progress.confirmed());
        self.vitals.set_positions(self.progress.received(), self.status.sent);
    }

    async fn confirm(&mut self) -> Result<(), OutboxError> {
        let confirmed = self.progress.confirmed();
        self.store.mark_published(confirmed).await?;
        self.status.sent(confirmed);
        self.vitals.set_positions(self.progress.received(), confirmed);
        Ok(())
    }

    /// Told to stop: finishes the open transaction, so that a restart repeats nothing, waits for the
    /// receipts, confirms, and takes leave. Gives up waiting at the deadline; what is then still
    /// unconfirmed comes again.
    async fn drain(mut self) -> Result<(), OutboxError> {
        self.vitals.enter(State::Draining, "told to stop");
        let deadline = Instant::now() + self.pace.drain_deadline;
        self.drop_what_has_not_begun();
        while self.progress.in_flight() > 0 || self.progress.is_open() {
            self.vitals.beat();
            let fetching = self.progress.is_open() && !self.full;
            tokio::select! {
                biased;
                () = sleep_until(deadline) => {
                    tracing::warn!(
                        in_flight = self.progress.in_flight(),
                        "stopped with records in flight: they will be sent again"
                    );
                    break;
                }
                result = self.publisher.receipts(&mut self.receipts), if self.progress.in_flight() > 0 => {
                    result?;
                    self.settle_or_stop().await?;
                }
                () = sleep_until(self.status.due(!fetching)) => self.confirm().await?,
                result = self.store.fetch_pending(&mut self.batch), if fetching => result?,
            }
            self.drop_what_has_not_begun();
            if let Err(stop) = self.advance().await {
                return Err(self.end(stop).await);
            }
        }
        self.take_leave(deadline).await
    }

    /// While draining, only the open transaction goes on.
    fn drop_what_has_not_begun(&mut self) {
        if self.progress.is_open() {
            let end = self.batch.iter().position(|change| matches!(change, Change::Commit { .. }));
            self.batch.truncate(end.map_or(self.batch.len(), |end| end + 1));
        } else {
            self.batch.clear();
        }
    }

    /// Sends the last confirmation and waits until the server has it.
    async fn take_leave(mut self, deadline: Instant) -> Result<(), OutboxError> {
        // The last words get a moment of their own, even when draining took all the time there was.
        let deadline = deadline.max(Instant::now() + Duration::from_secs(2));
        let leave = async {
            if !mutants::active(Mutant::LostLastStatus) {
                self.confirm().await?;
            }
            self.store.close().await
        };
        match timeout_at(deadline, leave).await {
            Ok(result) => result,
            Err(_) => Err(OutboxError::transient("the server did not answer the goodbye in time")),
        }
    }

    /// The error that ends this life, after whatever can still be confirmed.
    async fn end(self, stop: Stop) -> OutboxError {
        match stop {
            Stop::Refused(refusal) => self.finish_before(refusal).await,
            Stop::Failed(error) => error,
        }
    }

    /// A message was refused before it was sent: everything before it is still good, and worth a
    /// confirmation, so that a restart begins at the refused one. Should one of those fail as well, it
    /// is the one to report, since it stands first.
    async fn finish_before(mut self, refusal: OutboxError) -> OutboxError {
        // Short, since nobody hears the server meanwhile, and it may want to stop.
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.progress.in_flight() > 0 {
            match timeout_at(deadline, self.publisher.receipts(&mut self.receipts)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return refusal,
            }
            if let Err(earlier) = self.settle() {
                return earlier;
            }
        }
        if let Err(error) = self.take_leave(deadline).await {
            tracing::debug!(error = error.chain(), "what was in flight may come again");
        }
        refusal
    }
}

/// When the next status is due.
#[derive(Debug)]
struct StatusClock {
    interval: Duration,
    gap: Duration,
    last: Instant,
    wanted: bool,
    sent: Lsn,
}

impl StatusClock {
    fn new(pace: &Pace) -> Self {
        StatusClock {
            interval: pace.status_interval,
            gap: pace.status_gap,
            last: Instant::now(),
            wanted: false,
            sent: Lsn::ZERO,
        }
    }

    /// While the store is not read, a status is the only thing that notices the server's leave; so it goes out
    /// more often.
    fn due(&self, unread: bool) -> Instant {
        let patience = if unread { self.interval.min(Duration::from_secs(1)) } else { self.interval };
        self.last + if self.wanted { self.gap } else { patience }
    }

    fn is_due(&self) -> bool {
        self.wanted && Instant::now() >= self.due(false)
    }

    fn want(&mut self) {
        self.wanted = true;
    }

    /// A confirmation that moves the slot is wanted promptly.
    fn note(&mut self, confirmed: Lsn) {
        self.wanted |= confirmed > self.sent;
    }

    fn sent(&mut self, confirmed: Lsn) {
        self.sent = confirmed;
        self.last = Instant::now();
        self.wanted = false;
    }
}
