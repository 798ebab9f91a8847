//! The session of its own in which the relay keeps dead letters.
//!
//! Beside the one that asks who holds the slot: a statement that waits for a lock must not hold up the lease.
//! It is opened when it is needed, and stays open only in a relay that parks.

use std::sync::Arc;

use tokio_postgres::{Client, Config};

use super::session::Session;
use super::table::DeadLetterTable;
use crate::dead_letters::{DeadLetter, DeadLetterStore, Parked, Reach, Replay};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};

/// Keeps the dead letters of one stream.
#[derive(Debug)]
pub struct DeadLetterSession {
    config: Config,
    table: DeadLetterTable,
    /// The session beside the stream.
    beside: Arc<Client>,
    session: Option<Session>,
}

impl DeadLetterSession {
    pub(super) fn new(config: Config, table: DeadLetterTable, beside: Arc<Client>) -> Self {
        DeadLetterSession { config, table, beside, session: None }
    }

    async fn open(&mut self) -> Result<&Client, OutboxError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::open_beside(&self.config, &self.beside).await?,
        };
        Ok(self.session.insert(session).client())
    }
}

impl DeadLetterStore for DeadLetterSession {
    async fn parked(&mut self) -> Result<Parked, OutboxError> {
        let table = self.table.clone();
        let parked = table.parked(self.open().await?).await?;
        if !table.is_required() {
            self.session = None;
        }
        Ok(parked)
    }

    async fn park(&mut self, letters: &[DeadLetter]) -> Result<(), OutboxError> {
        let table = self.table.clone();
        table.park(self.open().await?, letters).await
    }

    async fn to_replay(&mut self, request: Lsn, most: usize) -> Result<Vec<Replay>, OutboxError> {
        let table = self.table.clone();
        table.to_replay(self.open().await?, request, most).await
    }

    async fn replayed(&mut self, letters: &[Position]) -> Result<(), OutboxError> {
        let table = self.table.clone();
        table.replayed(self.open().await?, letters).await
    }

    async fn refused_again(
        &mut self,
        refused: &Replay,
        error: &str,
        reach: Reach,
    ) -> Result<(), OutboxError> {
        let table = self.table.clone();
        table.refused_again(self.open().await?, refused, error, reach).await
    }
}
