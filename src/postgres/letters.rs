//! The session of its own in which the relay keeps dead letters. It is opened when it is needed, and stays open only in a
//! relay that parks.

use std::sync::Arc;

use tokio_postgres::Client;

use super::aside::Aside;
use super::settings::Endpoint;
use super::table::DeadLetterTable;
use crate::dead_letters::{DeadLetter, DeadLetterStore, Parked, Reach, Replay};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};

/// Keeps the dead letters of one stream.
#[derive(Debug)]
pub struct DeadLetterSession {
    table: DeadLetterTable,
    aside: Aside,
}

impl DeadLetterSession {
    pub(super) fn new(endpoint: Endpoint, table: DeadLetterTable, beside: Arc<Client>) -> Self {
        DeadLetterSession { table, aside: Aside::new(endpoint, beside) }
    }

    async fn open(&mut self) -> Result<&Client, OutboxError> {
        self.aside.open().await
    }
}

impl DeadLetterStore for DeadLetterSession {
    async fn parked(&mut self) -> Result<Parked, OutboxError> {
        let table = self.table.clone();
        let parked = table.parked(self.open().await?).await?;
        if !table.is_required() {
            self.aside.close();
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
