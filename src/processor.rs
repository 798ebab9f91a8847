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
//! status goes on. Not reading is safe back-pressure, not answering is not. While it waits for the table of dead
//! letters, receipts and status go on as well, see `road`.

mod farewell;
mod letters;
mod road;
mod rows;
mod status;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::dead_letters::{DeadLetterStore, NoDeadLetters};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::mutants::{self, Mutant};
use crate::publisher::{Offer, OutboxPublisher, Ticket};
use crate::refusal::Docket;
use crate::router::Router;
use crate::store::{Batch, Change, OutboxStore};
use crate::vitals::{State, Vitals};
use letters::Letters;
use road::Road;
use status::StatusClock;

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
    /// How many records may be handed out behind one that has no receipt, however fast those of other partitions get
    /// theirs. Each of them is remembered until that one has its own, and comes again if the process dies.
    pub most_behind: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            status_interval: Duration::from_secs(2),
            status_gap: Duration::from_millis(100),
            drain_deadline: Duration::from_secs(25),
            most_behind: 1 << 18,
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
pub struct OutboxProcessor<S, P, L = NoDeadLetters> {
    road: Road<S, P>,
    /// Where letters are kept.
    kept: L,
    letters: Letters,
    router: Router,
    batch: Batch,
    pace: Pace,
    /// The window is closed: the first change of the batch waits for a receipt.
    full: bool,
    /// What earlier lives found out about refused messages.
    docket: Docket,
    /// The delivery that failed, until all is done that it is worth.
    failure: Option<OutboxError>,
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

impl<S: OutboxStore, P: OutboxPublisher> OutboxProcessor<S, P> {
    /// A processor over two open ends. A message that can't be sent ends its run.
    pub fn new(store: S, publisher: P) -> Self {
        OutboxProcessor::with_dead_letters(store, publisher, NoDeadLetters)
    }
}

impl<S: OutboxStore, P: OutboxPublisher, L: DeadLetterStore> OutboxProcessor<S, P, L> {
    /// A processor that has a place for messages that can't be sent.
    pub fn with_dead_letters(store: S, publisher: P, kept: L) -> Self {
        let pace = Pace::default();
        OutboxProcessor {
            road: Road::new(store, publisher, &pace),
            kept,
            letters: Letters::default(),
            router: Router::default(),
            batch: Batch::new(),
            pace,
            full: false,
            docket: Docket::default(),
            failure: None,
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
        self.road.vitals = vitals;
        self
    }

    /// Replaces the default patience.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.road.status = StatusClock::new(&pace);
        self.road.most_behind = pace.most_behind;
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
            self.road.progress.keepalive(self.road.vitals.received());
        }
        self.road.vitals.enter(State::Streaming, "");
        self.road.vitals.stream_begins();
        tokio::select! {
            biased;
            () = &mut shutdown => return self.drain().await,
            learned = self.learn() => learned?,
        }
        loop {
            self.road.beat();
            let Road { store, publisher, progress, rows, receipts, status, .. } = &mut self.road;
            // Ranked: old work before new, and nothing before a stop. No branch starves the next for
            // long, since receipts and confirmations are bounded by what was fetched.
            tokio::select! {
                biased;
                () = &mut shutdown => return self.drain().await,
                result = publisher.receipts(receipts), if progress.in_flight() > 0 => result?,
                result = rows.turn(), if rows.has_work() => result?,
                () = sleep_until(status.due(self.full)) => self.road.confirm().await?,
                result = store.fetch_pending(&mut self.batch), if !self.full => result?,
            }
            // What it waits for may take long: the table of dead letters may be locked.
            let advanced = tokio::select! {
                biased;
                () = &mut shutdown => return self.drain().await,
                advanced = self.advance() => advanced,
            };
            if let Err(stop) = advanced {
                return Err(self.end(stop).await);
            }
            if self.road.status.is_due() {
                self.road.confirm().await?;
            }
        }
    }

    /// Takes in the receipts that have come, and passes the batch on as far as it goes now.
    ///
    /// Cancel-safe: what it waits for is asked again by the next call, and no failure is forgotten.
    async fn advance(&mut self) -> Result<(), Stop> {
        loop {
            self.settle_or_stop().await.map_err(Stop::Failed)?;
            let passed = self.forward();
            let parked = self.park().await?;
            if passed.is_err() {
                self.settle_or_stop().await.map_err(Stop::Failed)?;
            }
            // Receipts may have come while letters were stored.
            let settled = self.road.is_settled();
            match passed? {
                Pause::Empty if settled => return Ok(()),
                // Parking may have made room.
                Pause::Full if settled && !parked => return Ok(()),
                Pause::Touched(request) => {
                    if !self.replay(request).await? && self.road.is_settled() {
                        self.full = true;
                        return Ok(());
                    }
                }
                Pause::Empty | Pause::Full | Pause::Park => {}
            }
        }
    }

    /// Passes the batch on until it is empty or something has to be waited for.
    fn forward(&mut self) -> Result<Pause, Stop> {
        self.full = false;
        let mut pause = Pause::Empty;
        while let Some(change) = self.batch.pop_front() {
            match &change {
                Change::Begin { .. } if self.road.is_spread() => {
                    self.batch.push_front(change);
                    self.full = true;
                    pause = Pause::Full;
                    break;
                }
                Change::Begin { commit_lsn, committed_at } => {
                    self.road.progress.begin(*commit_lsn, *committed_at);
                    self.road.vitals.set_committed_at(*committed_at);
                }
                Change::Message { position, message } => match self.pass(*position, message) {
                    Ok(Offer::Full) if !mutants::active(Mutant::DropOnFull) => {
                        self.batch.push_front(change);
                        self.full = true;
                        pause = Pause::Full;
                        break;
                    }
                    Ok(_) => {}
                    Err(refusal) => return Err(self.stopped_at(change, refusal)),
                },
                Change::Unfit { letter, advice } => {
                    if let Err(refusal) = self.pass_unfit(letter, advice) {
                        return Err(self.stopped_at(change, refusal));
                    }
                }
                Change::PassedOver => self.skip(),
                Change::DeadLetters { commit_lsn } => {
                    pause = Pause::Touched(*commit_lsn);
                    self.batch.push_front(change);
                    break;
                }
                Change::Commit { end_lsn } => self.road.progress.commit(*end_lsn),
                Change::Keepalive { wal_end, reply_requested } => {
                    self.road.progress.keepalive(*wal_end);
                    if *reply_requested {
                        self.road.status.want();
                    }
                }
            }
            if self.letters.is_full() {
                pause = Pause::Park;
                break;
            }
        }
        self.road.tell_sent();
        self.road.note_progress();
        Ok(pause)
    }

    /// The line stops at this change. It stays where it is: should a stop come first, it is met again.
    fn stopped_at(&mut self, change: Change, refusal: OutboxError) -> Stop {
        self.batch.push_front(change);
        self.road.tell_sent();
        Stop::Refused(refusal)
    }

    /// Offers a message to the publisher, unless it has to be parked.
    fn pass(&mut self, position: Position, message: &OutboxMessage) -> Result<Offer, OutboxError> {
        if self.sets_aside(position, message) {
            return Ok(Offer::Taken);
        }
        let suspect = self.docket.suspects(position);
        let waits = (suspect || self.alone) && self.road.progress.in_flight() > 0;
        if waits || self.road.rows.is_full() || self.road.is_spread() {
            return Ok(Offer::Full);
        }
        let offered = match self.router.route(message, position) {
            Ok(record) => self.road.publisher.publish(self.road.progress.next_ticket(), &record),
            Err(refusal) => Err(refusal),
        };
        match offered {
            Ok(Offer::Taken) => {
                self.road.rows.sent(self.road.progress.next_ticket(), message);
                self.road.sent();
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

    /// Takes in the receipts that have come, and the rows that were written back.
    fn settle(&mut self) -> Result<(), OutboxError> {
        if self.road.is_settled() {
            return Ok(());
        }
        let written = self.road.rows.take_written();
        self.road.vitals.tally().written_back.add(written.len() as u64);
        for ticket in written {
            if !mutants::active(Mutant::ConfirmBeforeMark) {
                self.settled(ticket);
            }
        }
        let mut acknowledged = 0;
        let mut receipts = std::mem::take(&mut self.road.receipts);
        for receipt in receipts.drain(..) {
            if let Err(error) = receipt.result {
                if mutants::active(Mutant::ReorderAfterFailure) {
                    continue;
                }
                // One failed delivery stops the line: later records must not slip past it.
                let Some(position) =
                    self.letters.replayed_as(receipt.ticket).or(self.road.progress.position(receipt.ticket))
                else {
                    return Err(error);
                };
                // A batch is refused as a whole: only who had no company is known to be meant.
                let certain = self.alone || self.road.unacknowledged() == 1 || !error.is_message();
                return Err(if certain {
                    error.at(position)
                } else {
                    error.among(position, self.last_taken)
                });
            }
            acknowledged += 1;
            if !self.road.rows.acknowledged(receipt.ticket) || mutants::active(Mutant::ConfirmBeforeMark) {
                self.settled(receipt.ticket);
            }
        }
        self.road.receipts = receipts;
        if acknowledged > 0 {
            self.road.vitals.acknowledged(acknowledged, self.road.unacknowledged());
        }
        self.road.note_progress();
        Ok(())
    }

    /// The message of this ticket needs nothing more.
    fn settled(&mut self, ticket: Ticket) {
        self.road.progress.acknowledged(ticket);
        self.letters.acknowledged(ticket);
    }

    /// Takes in the receipts. When one of them stops the line, what was acknowledged before it is worth a
    /// last confirmation, so that it does not come again.
    async fn settle_or_stop(&mut self) -> Result<(), OutboxError> {
        if self.failure.is_none() {
            self.failure = self.settle().err();
        }
        if self.failure.is_none() {
            return Ok(());
        }
        // It stays until the end: should a stop come in between, it is met again.
        self.write_back_rest().await;
        self.keep_refused_again().await?;
        if let Err(error) = self.road.confirm().await {
            tracing::debug!(error = error.chain(), "what was acknowledged last may come again");
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Told to stop: finishes the open transaction, so that a restart repeats nothing, waits for the
    /// receipts, confirms, and takes leave. Gives up waiting at the deadline; what is then still
    /// unconfirmed comes again.
    async fn drain(mut self) -> Result<(), OutboxError> {
        self.road.vitals.enter(State::Draining, "told to stop");
        let deadline = Instant::now() + self.pace.drain_deadline;
        loop {
            self.road.beat();
            self.road.rows.hurry();
            self.drop_what_has_not_begun();
            match timeout_at(deadline, self.advance()).await {
                Ok(Ok(())) => {}
                Ok(Err(stop)) => return Err(self.end(stop).await),
                // Whoever takes letters does not answer.
                Err(_) => break self.give_up_waiting(),
            }
            let Road { store, publisher, progress, rows, receipts, status, .. } = &mut self.road;
            if progress.in_flight() == 0 && !progress.is_open() {
                break;
            }
            let fetching = progress.is_open() && !self.full;
            tokio::select! {
                biased;
                () = sleep_until(deadline) => break self.give_up_waiting(),
                result = publisher.receipts(receipts), if progress.in_flight() > 0 => result?,
                result = rows.turn(), if rows.has_work() => result?,
                () = sleep_until(status.due(!fetching)) => self.road.confirm().await?,
                result = store.fetch_pending(&mut self.batch), if fetching => result?,
            }
        }
        self.take_leave(deadline).await
    }

    fn give_up_waiting(&self) {
        tracing::warn!(
            in_flight = self.road.progress.in_flight(),
            "stopped with records in flight: they will be sent again"
        );
    }

    /// While draining, only the open transaction goes on.
    fn drop_what_has_not_begun(&mut self) {
        if self.road.progress.is_open() {
            let end = self.batch.iter().position(|change| matches!(change, Change::Commit { .. }));
            self.batch.truncate(end.map_or(self.batch.len(), |end| end + 1));
        } else {
            self.batch.clear();
        }
    }
}
