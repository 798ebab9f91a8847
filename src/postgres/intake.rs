//! From what arrives while copying to the changes of the outbox: envelope, message, position, row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::connection::CopyEvent;
use super::pgoutput::{Insert, LogicalMessage};
use super::relations::Relations;
use super::table::RowError;
use super::transaction::TransactionTracker;
use super::wal::Envelope;
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::store::{Batch, Change};

/// So many notices of a connection are logged; a server that has more to say would fill the log.
const LOGGED_NOTICES: u32 = 100;

/// What one connection has told so far, as much of it as the next message depends on.
pub(super) struct Intake {
    relations: Relations,
    tracker: TransactionTracker,
    received: Lsn,
    /// A value came in a binary form that we can't read: ask for text from now on.
    text_only: Arc<AtomicBool>,
    notices: u32,
}

impl Intake {
    pub(super) fn new(relations: Relations, text_only: Arc<AtomicBool>) -> Self {
        Intake {
            relations,
            tracker: TransactionTracker::default(),
            received: Lsn::ZERO,
            text_only,
            notices: 0,
        }
    }

    /// How far the log has been received.
    pub(super) fn received(&self) -> Lsn {
        self.received
    }

    /// Appends the changes that an event brings.
    ///
    /// # Errors
    /// The bytes are not what a server sends, the server has ended the stream, or a row is no message.
    pub(super) fn take(&mut self, event: CopyEvent, into: &mut Batch) -> Result<(), OutboxError> {
        let data = match event {
            CopyEvent::Data(data) => data,
            CopyEvent::Notice { sqlstate, message } => return self.notice(&sqlstate, &message),
            CopyEvent::Done => return Err(OutboxError::transient("the server ended the stream")),
        };
        match Envelope::parse(data).map_err(undecodable)? {
            Envelope::XLogData(data) => {
                let message = LogicalMessage::decode(data.body).map_err(undecodable)?;
                self.take_logical(message, into)
            }
            Envelope::Keepalive(keepalive) => {
                let (wal_end, reply_requested) = (keepalive.wal_end, keepalive.reply_requested);
                self.received = self.received.max(wal_end);
                into.push_back(Change::Keepalive { wal_end, reply_requested });
                Ok(())
            }
        }
    }

    fn take_logical(&mut self, message: LogicalMessage, into: &mut Batch) -> Result<(), OutboxError> {
        match message {
            LogicalMessage::Insert(insert) => self.take_row(&insert, into)?,
            LogicalMessage::Begin(begin) => {
                self.tracker.begin(begin.commit_lsn).map_err(undecodable)?;
                let (commit_lsn, committed_at) = (begin.commit_lsn, begin.committed_at);
                into.push_back(Change::Begin { commit_lsn, committed_at });
            }
            LogicalMessage::Commit(commit) => {
                let end_lsn = self.tracker.commit(commit.commit_lsn, commit.end_lsn).map_err(undecodable)?;
                self.received = self.received.max(end_lsn);
                into.push_back(Change::Commit { end_lsn });
            }
            LogicalMessage::Relation(relation) => self.relations.learn(&relation)?,
            // A publication of inserts sends none of these; one that sends more is obeyed as far as it
            // concerns an outbox.
            LogicalMessage::Update(_)
            | LogicalMessage::Delete(_)
            | LogicalMessage::Truncate(_)
            | LogicalMessage::Origin(_)
            | LogicalMessage::Type(_)
            | LogicalMessage::Message(_) => {}
        }
        Ok(())
    }

    fn take_row(&mut self, insert: &Insert, into: &mut Batch) -> Result<(), OutboxError> {
        let Some(layout) = self.relations.layout(insert.relation)? else { return Ok(()) };
        let position = self.tracker.row().map_err(undecodable)?;
        let message = layout.message(&insert.new).map_err(|error| {
            if matches!(error, RowError::Binary(_)) {
                self.text_only.store(true, Relaxed);
            }
            error.into_error().at(position)
        })?;
        into.push_back(Change::Message { position, message });
        Ok(())
    }

    /// A server that skips a publication says so in a notice only, and goes on without its rows.
    fn notice(&mut self, sqlstate: &str, message: &str) -> Result<(), OutboxError> {
        if matches!(sqlstate, "55000" | "42704") {
            return Err(OutboxError::server("the server skips rows", sqlstate, message).with_advice(
                "the publication must be older than the slot's position: make the publication (`walpost setup`), then \
                 drop the slot and make it anew, and insert again what was committed in between",
            ));
        }
        self.notices = self.notices.saturating_add(1);
        match self.notices {
            ..LOGGED_NOTICES => tracing::warn!(sqlstate, message, "the server says"),
            LOGGED_NOTICES => {
                tracing::warn!(sqlstate, message, "the server says; its further notices are not logged")
            }
            _ => {}
        }
        Ok(())
    }
}

fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> OutboxError {
    OutboxError::protocol("the stream can't be decoded", error)
}
