//! The durable side of the road: what was committed in, how far it is published back.

use std::collections::VecDeque;
use std::future::Future;
use std::time::SystemTime;

use crate::dead_letters::DeadLetter;
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::write_back::WriteBack;

/// One step of the log, in commit order.
///
/// Transactions come one after the other, each `Begin`, its messages, `Commit`.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every change is a message, and a box would cost each an allocation"
)]
pub enum Change {
    /// A committed transaction starts.
    Begin {
        /// Where its commit record begins.
        commit_lsn: Lsn,
        /// When it was committed, by the server's clock.
        committed_at: SystemTime,
    },
    /// A row that was inserted by the open transaction.
    Message {
        /// Where it stands in the open transaction.
        position: Position,
        /// What it says.
        message: OutboxMessage,
    },
    /// A row that is no message: what could be read of it, and why the rest could not.
    Unfit {
        /// Where it stands in the open transaction, and what could be read.
        letter: Box<DeadLetter>,
        /// What a person can do about it.
        advice: &'static str,
    },
    /// A row of the open transaction that is not to be sent, or not now. It has its place like any other.
    PassedOver,
    /// Somebody asked, in the open transaction, to replay dead letters, or has discarded some.
    DeadLetters {
        /// Where the transaction's commit record begins.
        commit_lsn: Lsn,
    },
    /// The open transaction is complete.
    Commit {
        /// Where its commit record ends: what may be confirmed once all its messages are published.
        end_lsn: Lsn,
    },
    /// The server's word on how far it has read the log.
    Keepalive {
        /// Everything before this position that belongs to the outbox has been sent.
        wal_end: Lsn,
        /// The server wants a status now.
        reply_requested: bool,
    },
}

/// Changes that were read and are not yet passed on.
pub type Batch = VecDeque<Change>;

/// Where messages are kept until they are published.
///
/// The verbs are those of the polling outbox libraries; what stands behind them is a log. `save` inserts
/// inside the *caller's* transaction, `fetch_pending` awaits the next changes instead of polling for
/// them, and `mark_published` takes a position, because a log is confirmed as a prefix.
pub trait OutboxStore: Send {
    /// The caller's open transaction.
    type Transaction<'t>: Sync
    where
        Self: 't;

    /// Saves a message; it becomes pending if and when the transaction commits.
    ///
    /// # Errors
    /// The database refused the row.
    fn save<'t>(
        &'t self,
        transaction: &'t Self::Transaction<'t>,
        message: &'t OutboxMessage,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// Waits for at least one change and appends what has come.
    ///
    /// Cancel-safe: a change is either appended or still to be fetched.
    ///
    /// # Errors
    /// The connection is lost, the server broke the protocol, or a row doesn't fit the table's contract.
    fn fetch_pending(&mut self, into: &mut Batch) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// Confirms everything up to `through`, and tells the server that we live.
    ///
    /// # Errors
    /// The connection is lost.
    fn mark_published(&mut self, through: Lsn) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// What only a person can mend, if the store has that to say as it ends. To be asked before a life ends by what somebody
    /// else has said: changes that come meanwhile are dropped, and nothing can be fetched any more, whatever becomes of
    /// this future.
    fn last_words(&mut self) -> impl Future<Output = Option<OutboxError>> + Send {
        std::future::ready(None)
    }

    /// How rows are told that they are published, if they are.
    fn write_back(&self) -> Option<Box<dyn WriteBack>> {
        None
    }

    /// Takes leave: returns once the server has taken the last confirmation.
    ///
    /// # Errors
    /// The connection was lost first; the last confirmation may not have arrived.
    fn close(self) -> impl Future<Output = Result<(), OutboxError>> + Send;
}
