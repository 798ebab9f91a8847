//! Both ends of the road and what is on it: what goes on while something else is waited for.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Pace;
use super::rows::Rows;
use super::status::StatusClock;
use crate::error::OutboxError;
use crate::progress::Progress;
use crate::publisher::{OutboxPublisher, Receipt, Ticket};
use crate::store::OutboxStore;
use crate::vitals::{Vitals, millis};

/// After this long it is told that the table of dead letters does not answer.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// What is told of then, and its name among the faults that were told.
const SILENT: &str = "the table of dead letters";

/// The two ends, and how far all is between them.
#[derive(Debug)]
pub(super) struct Road<S, P> {
    pub(super) store: S,
    pub(super) publisher: P,
    pub(super) progress: Progress,
    /// On their way back into the table.
    pub(super) rows: Rows,
    /// Come, and not taken in yet.
    pub(super) receipts: Vec<Receipt>,
    /// The oldest record that had no receipt when we last looked.
    pub(super) oldest: Option<Ticket>,
    /// See [`Pace::most_behind`](super::Pace::most_behind).
    pub(super) most_behind: u64,
    /// Handed to the publisher, and not told yet.
    pub(super) sent: u64,
    pub(super) status: StatusClock,
    pub(super) vitals: Arc<Vitals>,
}

impl<S: OutboxStore, P: OutboxPublisher> Road<S, P> {
    pub(super) fn new(store: S, publisher: P, pace: &Pace) -> Self {
        let (status, most_behind) = (StatusClock::new(pace), pace.most_behind);
        let (progress, receipts, vitals) = (Progress::default(), Vec::new(), Arc::default());
        let rows = Rows::new(store.write_back());
        Road {
            store,
            publisher,
            progress,
            rows,
            receipts,
            oldest: None,
            sent: 0,
            most_behind,
            status,
            vitals,
        }
    }

    /// The loop takes a turn.
    pub(super) fn beat(&mut self) {
        self.vitals.beat();
        self.rows.tell(&self.vitals);
    }

    /// Whether all is taken in that has come.
    pub(super) fn is_settled(&self) -> bool {
        self.receipts.is_empty() && !self.rows.has_written()
    }

    /// Records that the broker has not acknowledged.
    pub(super) fn unacknowledged(&self) -> u64 {
        self.progress.in_flight().saturating_sub(self.rows.owed())
    }

    /// Waits for receipts, or for rows that are written back.
    pub(super) async fn hear(&mut self) -> Result<(), OutboxError> {
        tokio::select! {
            biased;
            result = self.publisher.receipts(&mut self.receipts) => result,
            result = self.rows.turn() => result,
        }
    }

    /// The publisher has taken the record with the next ticket.
    #[inline]
    pub(super) fn sent(&mut self) {
        self.oldest = self.oldest.or(Some(self.progress.next_ticket()));
        self.progress.taken();
        self.sent += 1;
    }

    /// Looks which record has waited longest for its receipt.
    pub(super) fn look_for_oldest(&mut self) {
        let oldest = self.publisher.oldest();
        if oldest != self.oldest {
            self.oldest = oldest;
            self.vitals.oldest_changed();
        }
    }

    /// Whether one partition has fallen so far behind the others that these have to wait for it.
    pub(super) fn is_spread(&self) -> bool {
        self.oldest.is_some_and(|oldest| self.progress.next_ticket().0 - oldest.0 >= self.most_behind)
    }

    pub(super) fn tell_sent(&mut self) {
        self.vitals.handed_over(self.unacknowledged());
        self.vitals.sent(std::mem::take(&mut self.sent));
    }

    pub(super) fn note_progress(&mut self) {
        self.look_for_oldest();
        if let Some(at) = self.progress.committed_at() {
            self.vitals.set_oldest_committed_at(at);
        }
        self.status.note(self.progress.confirmed());
        self.vitals.set_positions(self.progress.received(), self.status.sent);
    }

    pub(super) async fn confirm(&mut self) -> Result<(), OutboxError> {
        let confirmed = self.progress.confirmed();
        self.store.mark_published(confirmed).await?;
        self.status.sent(confirmed);
        self.vitals.set_positions(self.progress.received(), confirmed);
        Ok(())
    }

    /// Waits for a statement about dead letters, however long it takes. Meanwhile receipts are collected, and the
    /// server hears from us: a table that is locked must cost neither the slot nor the process.
    ///
    /// # Errors
    /// The statement failed, or an end of the road did.
    pub(super) async fn attend<T>(
        &mut self,
        statement: impl Future<Output = Result<T, OutboxError>>,
    ) -> Result<T, OutboxError> {
        match self.wait_for(statement).await {
            // The stream was not heard meanwhile. What only a person can mend would come from it again in every life.
            Err(error) if error.is_transient() => Err(self.store.last_words().await.unwrap_or(error)),
            answer => answer,
        }
    }

    async fn wait_for<T>(
        &mut self,
        statement: impl Future<Output = Result<T, OutboxError>>,
    ) -> Result<T, OutboxError> {
        let mut statement = pin!(statement);
        let asked = Instant::now();
        let _answered = self.vitals.asking_for_letters();
        loop {
            self.beat();
            tokio::select! {
                biased;
                // First, since it looks at the lease: whoever has slept over an answer must not act on it.
                () = sleep_until(self.status.due(true)) => self.confirm().await?,
                answer = &mut statement => {
                    self.has_answered(&answer, asked.elapsed());
                    return answer;
                }
                result = self.publisher.receipts(&mut self.receipts), if self.progress.in_flight() > 0 => result?,
                result = self.rows.turn(), if self.rows.has_work() => result?,
            }
            let waited = asked.elapsed();
            if waited >= TOLD_AFTER && self.vitals.told().meet(SILENT).is_some() {
                tracing::warn!(
                    position = self.vitals.position(),
                    advice = "see pg_stat_activity for who locks it",
                    lasted_ms = millis(waited),
                    "waiting: {SILENT} has not answered for {} s",
                    waited.as_secs()
                );
            }
        }
    }

    /// If it was told that the table is silent, so is that it no longer is.
    fn has_answered<T>(&self, answer: &Result<T, OutboxError>, waited: Duration) {
        if answer.is_ok() && self.vitals.told().over(SILENT).is_some() {
            let (position, lasted_ms) = (self.vitals.position(), millis(waited));
            tracing::info!(position, lasted_ms, "{SILENT} answers again");
        }
    }
}
