//! Telling the outbox table what is published: the port. Off unless somebody asks for it.
//!
//! A row is written back after the broker has acknowledged its message, and until then its message counts as in flight.
//! So the slot never moves past a row that is published and not marked, and no row is marked that is not published.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::error::OutboxError;
use crate::message::RowKey;

/// What becomes of a row once its message is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteBackMode {
    /// It stays as it is.
    #[default]
    None,
    /// Columns of it are set, as the mapping says.
    Mark,
    /// It is deleted.
    Delete,
}

/// What [`WriteBack::write_back`] gives: the indexes of the rows that have to be asked for again, since their
/// transactions can't be seen yet.
pub type Written<'a> = Pin<Box<dyn Future<Output = Result<Vec<usize>, OutboxError>> + Send + 'a>>;

/// Writes back which rows are published.
pub trait WriteBack: Send {
    /// Marks or deletes these rows. Durable when it returns. A row that is gone is no error.
    ///
    /// # Errors
    /// They could not be written, or it is not known whether they were. A transient one is tried again.
    fn write_back<'a>(&'a mut self, rows: &'a [Arc<RowKey>]) -> Written<'a>;

    /// Whether the id of a message is all that tells its row: of a dead letter no more is known.
    fn is_known_by_id(&self) -> bool;
}
