//! A session of its own beside a stream, on the stream's server: a statement that waits for a lock must not hold up the
//! session that asks who holds the slot.

use std::sync::Arc;

use tokio_postgres::Client;

use super::session::{Session, sql_error};
use super::settings::Endpoint;
use crate::error::OutboxError;

/// Opened when it is needed, and anew when it was lost.
#[derive(Debug)]
pub(super) struct Aside {
    endpoint: Endpoint,
    /// The session that asks who holds the slot.
    beside: Arc<Client>,
    session: Option<Session>,
    /// How many sessions there were.
    count: u64,
    /// What is told to a session first.
    settings: String,
}

impl Aside {
    pub(super) fn new(endpoint: Endpoint, beside: Arc<Client>) -> Self {
        Aside { endpoint, beside, session: None, count: 0, settings: String::new() }
    }

    /// Begins each session with these statements.
    pub(super) fn beginning_with(mut self, settings: String) -> Self {
        self.settings = settings;
        self
    }

    pub(super) async fn open(&mut self) -> Result<&Client, OutboxError> {
        let session = match self.session.take().filter(|session| !session.client().is_closed()) {
            Some(session) => session,
            None => {
                let session = Session::open_beside(&self.endpoint, &self.beside).await?;
                let begun = session.client().batch_execute(&self.settings).await;
                begun.map_err(|error| sql_error("opening a session", error))?;
                self.count += 1;
                session
            }
        };
        Ok(self.session.insert(session).client())
    }

    /// The session that is open, and its number.
    pub(super) fn session(&self) -> Option<(&Client, u64)> {
        self.session.as_ref().map(|session| (session.client(), self.count))
    }

    pub(super) fn close(&mut self) {
        self.session = None;
    }

    /// The session that asks who holds the slot, for a short question.
    pub(super) fn beside(&self) -> &Client {
        &self.beside
    }
}
