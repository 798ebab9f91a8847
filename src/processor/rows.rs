//! The way back into the table: rows whose messages the broker has are written back, and count as in flight until then.
//!
//! ```text
//!   taken ──► sent ──► acknowledged ──► written back ──► settled
//!             by ticket      waiting         batch by batch, beside the loop
//! ```
//!
//! The loop does not wait for the table. What waits is bounded, and closes the window when it is full.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::error::OutboxError;
use crate::message::{OutboxMessage, RowKey};
use crate::mutants::{self, Mutant};
use crate::publisher::Ticket;
use crate::vitals::{Vitals, millis};
use crate::write_back::WriteBack;

/// As many rows are written at once.
const MOST_ROWS: usize = 1_000;
/// As many bytes of keys are written at once.
const MOST_BYTES: usize = 1 << 20;
/// As many rows, and bytes of keys, wait before the window closes.
const MOST_WAITING: usize = 10_000;
const MOST_WAITING_BYTES: usize = 8 << 20;
/// A batch that is not full waits so long for more: each costs the server a transaction.
const LINGER: Duration = Duration::from_millis(50);
/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The same for rows that can't be seen yet.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// After this long it is told that nothing is written back.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// Its name among the faults that were told.
const UNWRITTEN: &str = "published rows are not written back";

/// Rows on their way back into the table.
pub(super) struct Rows {
    way: Way,
    /// The id of a message tells its row.
    by_id: bool,
    /// On their way to the broker, in the order of their tickets.
    sent: VecDeque<(Ticket, Option<Arc<RowKey>>)>,
    /// The broker has them.
    waiting: VecDeque<(Ticket, Arc<RowKey>)>,
    /// Bytes of those.
    bytes: usize,
    /// How many are neither waiting nor settled.
    under_way: usize,
    /// Written back, and not settled yet.
    written: Vec<Ticket>,
    /// When the next batch begins.
    due: Instant,
    trouble: Option<Trouble>,
    /// A batch went well, and that was not looked at.
    went_well: bool,
}

/// Rows under way.
type Batch = Vec<(Ticket, Arc<RowKey>)>;
type Writing =
    Pin<Box<dyn Future<Output = (Box<dyn WriteBack>, Batch, Result<Vec<usize>, OutboxError>)> + Send>>;

enum Way {
    /// Rows stay as they are.
    None,
    Idle(Box<dyn WriteBack>),
    /// Since when.
    Busy(Writing, Instant),
}

/// Why rows have to be asked for again.
struct Trouble {
    since: Instant,
    times: u32,
    why: String,
    advice: String,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rows { sent, waiting, under_way, .. } = self;
        write!(f, "Rows({} sent, {} waiting, {under_way} under way)", sent.len(), waiting.len())
    }
}

impl Rows {
    pub(super) fn new(way: Option<Box<dyn WriteBack>>) -> Self {
        Rows {
            by_id: way.as_ref().is_some_and(|way| way.is_known_by_id()),
            way: way.map_or(Way::None, Way::Idle),
            sent: VecDeque::new(),
            waiting: VecDeque::new(),
            bytes: 0,
            under_way: 0,
            written: Vec::new(),
            due: Instant::now(),
            trouble: None,
            went_well: false,
        }
    }

    /// Whether no more may be sent before some are written back.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MOST_WAITING || self.bytes >= MOST_WAITING_BYTES
    }

    /// How many the broker has that are not settled.
    pub(super) fn owed(&self) -> u64 {
        (self.waiting.len() + self.under_way + self.written.len()) as u64
    }

    /// Whether there is something to write.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.under_way > 0
    }

    /// The publisher has taken the message under this ticket.
    #[inline]
    pub(super) fn sent(&mut self, ticket: Ticket, message: &OutboxMessage) {
        if let (Some(row), false) = (&message.row, matches!(self.way, Way::None)) {
            self.sent.push_back((ticket, Some(Arc::clone(row))));
            if mutants::active(Mutant::MarkBeforeAck) {
                self.acknowledged(ticket);
            }
        }
    }

    /// The same of a dead letter, of which no more is known than its id.
    pub(super) fn sent_again(&mut self, ticket: Ticket, id: Uuid) {
        if self.by_id {
            self.sent.push_back((ticket, Some(Arc::new(RowKey::of_id(id)))));
        }
    }

    /// The broker has the message. Whether its row has to be written back before that counts.
    #[inline]
    pub(super) fn acknowledged(&mut self, ticket: Ticket) -> bool {
        if self.sent.is_empty() {
            return false;
        }
        let index = self.sent.partition_point(|(sent, _)| *sent < ticket);
        let found = self.sent.get_mut(index).filter(|(sent, _)| *sent == ticket);
        let Some(row) = found.and_then(|(_, row)| row.take()) else { return false };
        while self.sent.front().is_some_and(|(_, row)| row.is_none()) {
            self.sent.pop_front();
        }
        if self.waiting.is_empty() && self.trouble.is_none() {
            self.due = Instant::now() + LINGER;
        }
        self.bytes += row.size();
        self.waiting.push_back((ticket, row));
        if self.waiting.len() >= MOST_ROWS || self.bytes >= MOST_BYTES {
            self.hurry();
        }
        true
    }

    /// What waits is written as soon as that is possible.
    pub(super) fn hurry(&mut self) {
        if self.trouble.is_none() {
            self.due = self.due.min(Instant::now());
        }
    }

    /// Those that were written back.
    pub(super) fn take_written(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.written)
    }

    pub(super) fn has_written(&self) -> bool {
        !self.written.is_empty()
    }

    /// Goes on until a batch has come to its end. Cancel-safe: a batch under way stays under way.
    ///
    /// # Errors
    /// What only a person can mend; all else is tried again.
    pub(super) async fn turn(&mut self) -> Result<(), OutboxError> {
        loop {
            match &mut self.way {
                Way::None => pending().await,
                Way::Idle(_) if self.waiting.is_empty() => pending().await,
                Way::Idle(_) => {
                    sleep_until(self.due).await;
                    self.begin();
                }
                Way::Busy(writing, _) => {
                    let (way, batch, result) = writing.await;
                    self.way = Way::Idle(way);
                    return self.end(batch, result);
                }
            }
        }
    }

    fn begin(&mut self) {
        let Way::Idle(mut way) = std::mem::replace(&mut self.way, Way::None) else { return };
        let (mut batch, mut bytes) = (Batch::new(), 0);
        while batch.len() < MOST_ROWS && bytes < MOST_BYTES {
            let Some((ticket, row)) = self.waiting.pop_front() else { break };
            bytes += row.size();
            batch.push((ticket, row));
        }
        self.bytes -= bytes;
        self.under_way = batch.len();
        let writing = async move {
            let rows: Vec<_> = batch.iter().map(|(_, row)| Arc::clone(row)).collect();
            let result = way.write_back(&rows).await;
            (way, batch, result)
        };
        self.way = Way::Busy(Box::pin(writing), Instant::now());
    }

    fn end(&mut self, batch: Batch, result: Result<Vec<usize>, OutboxError>) -> Result<(), OutboxError> {
        self.under_way = 0;
        let again = match result {
            Ok(unseen) => {
                let mut again = Batch::new();
                for (index, (ticket, row)) in batch.into_iter().enumerate() {
                    if unseen.binary_search(&index).is_ok() {
                        again.push((ticket, row));
                    } else {
                        self.written.push(ticket);
                    }
                }
                if again.is_empty() {
                    (self.trouble, self.went_well) = (None, true);
                    self.due = Instant::now() + LINGER;
                } else {
                    let why = "their transactions can't be seen yet, though the log tells of them".to_owned();
                    let advice = "see pg_stat_activity for who waits to commit, and whether a synchronous standby is away";
                    self.meet(why, advice, LOOK_AGAIN);
                }
                again
            }
            Err(error) if error.is_transient() => {
                self.meet(error.chain(), error.advice().unwrap_or_default(), RETRY);
                batch
            }
            Err(error) => return Err(error),
        };
        for (ticket, row) in again.into_iter().rev() {
            self.bytes += row.size();
            self.waiting.push_front((ticket, row));
        }
        if self.waiting.len() >= MOST_ROWS {
            self.hurry();
        }
        Ok(())
    }

    /// Notes why rows have to wait, and until when.
    fn meet(&mut self, why: String, advice: &str, (first, longest): (Duration, Duration)) {
        let now = Instant::now();
        let before = self.trouble.take();
        let (since, times) = before.map_or((now, 0), |before| (before.since, before.times + 1));
        self.due = now + first.saturating_mul(1 << times.min(16)).min(longest);
        self.trouble = Some(Trouble { since, times, why, advice: advice.to_owned() });
    }

    /// Tells, now and then, that rows are not written back; a table that is locked must not hold up the slot in silence.
    pub(super) fn tell(&mut self, vitals: &Vitals) {
        if matches!(self.way, Way::None) {
            return;
        }
        vitals.tally().unwritten.set(self.owed());
        let now = Instant::now();
        if let Way::Busy(_, since) = &self.way
            && self.trouble.is_none()
            && now - *since >= TOLD_AFTER
        {
            self.trouble = Some(Trouble {
                since: *since,
                times: 0,
                why: "the table does not answer".to_owned(),
                advice: "see pg_stat_activity for who locks it, and whether a synchronous standby is away"
                    .to_owned(),
            });
        }
        let rows = self.owed();
        if std::mem::take(&mut self.went_well)
            && let Some(lasted) = vitals.told().over(UNWRITTEN)
        {
            let (position, lasted_ms) = (vitals.position(), millis(lasted + TOLD_AFTER));
            tracing::info!(position, lasted_ms, "published rows are written back again");
        }
        let Some(trouble) = &self.trouble else {
            return vitals.set_write_back_fault(None);
        };
        // Most pass before anybody could do something.
        if now - trouble.since < TOLD_AFTER {
            return;
        }
        vitals.set_write_back_fault(Some((trouble.since, &trouble.why)));
        if vitals.told().meet(UNWRITTEN).is_some() {
            let (why, advice) = (&trouble.why, &trouble.advice);
            let (position, lasted_ms) = (vitals.position(), millis(now - trouble.since));
            let text = format!("{UNWRITTEN}, and the slot waits for them: {why}");
            tracing::warn!(advice, position, rows, lasted_ms, "{text}");
        }
    }
}
