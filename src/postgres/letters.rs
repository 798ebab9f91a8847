//! The session of its own in which the relay keeps dead letters.
//!
//! Beside the one that asks who holds the slot: a statement that waits for a lock must not hold up the lease.
//! It is opened when it is needed, and stays open only in a relay that parks.

use std::sync::Arc;

use tokio_postgres::{Client, Config};

use super::session::{Cells, Session, place, sql_error};
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
            None => {
                let session = Session::open(&self.config).await?;
                // An address may lead to another server by now, where the stream's letters have no place.
                if born(&self.beside).await? != born(session.client()).await? {
                    let where_to = place(&self.config);
                    return Err(OutboxError::transient(format!(
                        "{where_to} is no longer the server of the stream"
                    )));
                }
                session.be_durable().await?;
                session
            }
        };
        Ok(self.session.insert(session).client())
    }
}

/// When the server was started, which tells it from others.
async fn born(client: &Client) -> Result<String, OutboxError> {
    let sql = "SELECT extract(epoch FROM pg_postmaster_start_time())::text";
    let row = client.query_one(sql, &[]).await;
    row.map_err(|error| sql_error("asking for the server's start", error))?.cell(0)
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
