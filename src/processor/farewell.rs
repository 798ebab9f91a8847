//! How a life ends: what is done by then is confirmed, so that it does not come again.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{OutboxProcessor, Stop};
use crate::dead_letters::DeadLetterStore;
use crate::error::OutboxError;
use crate::mutants::{self, Mutant};
use crate::publisher::OutboxPublisher;
use crate::store::OutboxStore;

/// How long the end of a life waits for rows that are written back.
const LAST_ROWS: Duration = Duration::from_secs(2);

impl<S: OutboxStore, P: OutboxPublisher, L: DeadLetterStore> OutboxProcessor<S, P, L> {
    /// Sends the last confirmation and waits until the server has it.
    pub(super) async fn take_leave(mut self, deadline: Instant) -> Result<(), OutboxError> {
        // The last words get a moment of their own, even when draining took all the time there was.
        let deadline = deadline.max(Instant::now() + Duration::from_secs(2));
        let leave = async {
            if !mutants::active(Mutant::LostLastStatus) {
                self.road.confirm().await?;
            }
            self.road.store.close().await
        };
        match timeout_at(deadline, leave).await {
            Ok(result) => result,
            Err(_) => Err(OutboxError::transient("the server did not answer the goodbye in time")),
        }
    }

    /// The error that ends this life, after whatever can still be confirmed.
    pub(super) async fn end(self, stop: Stop) -> OutboxError {
        match stop {
            Stop::Refused(refusal) => self.finish_before(refusal).await,
            Stop::Failed(error) => error,
        }
    }

    /// A message was refused before it was sent: everything before it is still good, and worth a
    /// confirmation, so that a restart begins at the refused one. Should one of those fail as well, it
    /// is the one to report, since it stands first.
    pub(super) async fn finish_before(mut self, refusal: OutboxError) -> OutboxError {
        // Short, since nobody hears the server meanwhile, and it may want to stop.
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.road.progress.in_flight() > 0 {
            self.road.rows.hurry();
            match timeout_at(deadline, self.road.hear()).await {
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

    /// The line stops: what is not marked by now comes again.
    pub(super) async fn write_back_rest(&mut self) {
        // Short, since nobody hears the server meanwhile.
        let deadline = Instant::now() + LAST_ROWS;
        self.road.rows.hurry();
        while self.road.rows.has_work() {
            match timeout_at(deadline, self.road.rows.turn()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
        let written = self.road.rows.take_written();
        self.road.vitals.tally().written_back.add(written.len() as u64);
        for ticket in written {
            self.settled(ticket);
        }
        self.road.note_progress();
    }
}
