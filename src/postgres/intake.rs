//! From what arrives while copying to the changes of the outbox: envelope, message, position, row.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::connection::CopyEvent;
use super::names::{Outbox, TableName, Target};
use super::pgoutput::{Insert, LogicalMessage, Message};
use super::preflight::Seal;
use super::relations::Relations;
use super::slot::MESSAGE_PREFIX;
use super::table::emitted::{self, NoEvent};
use super::table::{HeldRow, HeldRows, Layout, RowError, UnfitRow};
use super::transaction::TransactionTracker;
use super::wal::Envelope;
use crate::dead_letters::DeadLetter;
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::{OutboxMessage, OwnHeaders};
use crate::store::{Batch, Change};

/// So many notices of a connection are logged; a server that has more to say would fill the log.
const LOGGED_NOTICES: u32 = 100;

/// So many tables are named whose events are passed over.
const MOST_UNSERVED: usize = 100;

/// What one connection has told so far, as much of it as the next message depends on.
pub(super) struct Intake {
    /// Whose messages are for us.
    slot: String,
    /// Rows that are to be sent later.
    held: HeldRows,
    beside: Vec<Beside>,
    seal: Seal,
    /// An event bears another seal, and was written after ours was read.
    doubts: bool,
    relations: Relations,
    tracker: TransactionTracker,
    received: Lsn,
    /// When the server sent the last message, by its own clock.
    sent_at: SystemTime,
    /// When the last transaction that began was committed, by the same clock.
    committed_at: SystemTime,
    /// The id of that transaction.
    xid: u32,
    /// A value came in a binary form that we can't read: ask for text from now on.
    text_only: Arc<AtomicBool>,
    notices: u32,
    /// Tables that are not served, and of whose events it was told.
    unserved: HashSet<String>,
}

/// What is written into the log beside an outbox table.
struct Beside {
    /// The prefixes of events, and of rows that are sent again.
    events: String,
    rows: String,
    own_headers: OwnHeaders,
}

impl Intake {
    pub(super) fn new(target: &Target, relations: Relations, seal: Seal, text_only: Arc<AtomicBool>) -> Self {
        Intake {
            slot: target.slot.clone(),
            held: HeldRows::default(),
            beside: target.outboxes().map(Beside::of).collect(),
            seal,
            doubts: false,
            relations,
            tracker: TransactionTracker::default(),
            received: Lsn::ZERO,
            sent_at: SystemTime::UNIX_EPOCH,
            committed_at: SystemTime::UNIX_EPOCH,
            xid: 0,
            text_only,
            notices: 0,
            unserved: HashSet::new(),
        }
    }

    /// How far the log has been received.
    pub(super) fn received(&self) -> Lsn {
        self.received
    }

    /// The rows that are held back so far. What follows them must not be handed out before they are stored.
    pub(super) fn held(&mut self) -> &mut HeldRows {
        &mut self.held
    }

    /// How old the last transaction was when it, or the last piece of it, was sent.
    pub(super) fn behind(&self) -> Duration {
        self.sent_at.duration_since(self.committed_at).unwrap_or_default()
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
                self.sent_at = data.clock;
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
                (self.committed_at, self.xid) = (committed_at, begin.xid);
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
            | LogicalMessage::Type(_) => {}
            // One that was not committed proves nothing.
            LogicalMessage::Message(message) if message.transactional && self.is_for_us(&message) => {
                let commit_lsn = self.tracker.open().map_err(undecodable)?;
                into.push_back(Change::DeadLetters { commit_lsn });
            }
            LogicalMessage::Message(message) if message.transactional => self.take_event(&message, into)?,
            LogicalMessage::Message(_) => {}
        }
        Ok(())
    }

    fn take_row(&mut self, insert: &Insert, into: &mut Batch) -> Result<(), OutboxError> {
        let Some(layout) = self.relations.layout(insert.relation)? else { return Ok(()) };
        let position = self.tracker.row().map_err(undecodable)?;
        let unfit = match layout.message(&insert.new) {
            Ok(None) => {
                into.push_back(Change::PassedOver);
                return Ok(());
            }
            Ok(Some(mut message)) => {
                if layout.has_due() {
                    let layout = Arc::clone(layout);
                    return self.take_timed(&layout, insert, position, message, into);
                }
                // In its place: each move of a message costs every row.
                layout.stamp(&mut message, self.committed_at);
                of_transaction(self.xid, &mut message);
                into.push_back(Change::Message { position, message });
                return Ok(());
            }
            Err(unfit) => unfit,
        };
        let table = layout.table().clone();
        self.take_unfit(&table, position, *unfit, into)
    }

    /// A row that may say when it is to be sent.
    #[cold]
    fn take_timed(
        &mut self,
        layout: &Layout,
        insert: &Insert,
        position: Position,
        mut message: OutboxMessage,
        into: &mut Batch,
    ) -> Result<(), OutboxError> {
        match layout.later(&insert.new, &message, self.committed_at) {
            Ok(None) => {}
            Ok(Some(later)) => {
                let source = layout.table().to_string();
                self.hold(HeldRow { position, source, mark: None, xid: self.xid, later }, into);
                return Ok(());
            }
            Err(unfit) => return self.take_unfit(layout.table(), position, *unfit, into),
        }
        layout.stamp(&mut message, self.committed_at);
        of_transaction(self.xid, &mut message);
        into.push_back(Change::Message { position, message });
        Ok(())
    }

    /// It has its place in the transaction, and is sent from another one.
    fn hold(&mut self, row: HeldRow, into: &mut Batch) {
        self.held.push(row);
        into.push_back(Change::PassedOver);
    }

    fn take_unfit(
        &self,
        table: &TableName,
        position: Position,
        unfit: UnfitRow,
        into: &mut Batch,
    ) -> Result<(), OutboxError> {
        if matches!(unfit.error, RowError::Binary(_)) {
            self.text_only.store(true, Relaxed);
        }
        if let Some(error) = unfit.error.of_protocol() {
            return Err(error.at(position));
        }
        let letter = DeadLetter {
            position,
            unfit: Some(unfit.column()),
            error: format!("a row of {table} is no message: {}", unfit.error),
            attempts: 0,
            message: unfit.message,
        };
        into.push_back(Change::Unfit {
            letter: Box::new(letter),
            advice: "give the column NOT NULL and a CHECK",
        });
        Ok(())
    }

    /// An event that was written beside a table, or a row that is sent again; all else is nobody's.
    fn take_event(&mut self, event: &Message, into: &mut Batch) -> Result<(), OutboxError> {
        let found = self.beside.iter().position(|beside| beside.has_written(event));
        let Some((index, beside)) = found.and_then(|index| Some((index, self.beside.get(index)?))) else {
            return self.take_unserved(event);
        };
        let (is_row, own_headers) = (event.prefix == beside.rows.as_bytes(), beside.own_headers);
        let Some(secret) = self.seal.secret else {
            if let Some(refusal) = self.seal.refusal() {
                return Err(refusal);
            }
            if event.lsn > self.seal.as_of {
                // Set up since: the next life reads the seal first.
                return Err(OutboxError::transient("the log holds events whose seal is not known yet"));
            }
            return self.pass_over();
        };
        if !is_row {
            let mut message = match emitted::message(&event.content, secret) {
                Ok(message) => message,
                Err(why) => return self.doubt(why, event.lsn),
            };
            message.own_headers = own_headers;
            let position = self.tracker.row().map_err(undecodable)?;
            into.push_back(Change::Message { position, message });
            return Ok(());
        }
        let row = match emitted::SentRow::read(&event.content, secret) {
            Ok(row) => row,
            Err(why) => return self.doubt(why, event.lsn),
        };
        let Some(layout) = self.relations.outbox(index) else {
            return Err(OutboxError::transient("a row comes again of a table that is not known yet"));
        };
        let released = row.released.as_deref();
        if released.is_some_and(|slot| slot != self.slot) {
            return Ok(());
        }
        let position = self.tracker.row().map_err(undecodable)?;
        let mut message = match layout.message_of(&row) {
            Ok(message) => message,
            Err(unfit) => return self.take_unfit(layout.table(), position, *unfit, into),
        };
        if released.is_none() {
            match layout.later_of(&row, &message, self.committed_at) {
                Ok(None) => {}
                Ok(Some(later)) => {
                    let mark = row.mark.map(String::from);
                    let source = layout.table().to_string();
                    self.hold(HeldRow { position, source, mark, xid: self.xid, later }, into);
                    return Ok(());
                }
                Err(unfit) => return self.take_unfit(layout.table(), position, *unfit, into),
            }
        }
        layout.stamp(&mut message, self.committed_at);
        of_transaction(self.xid, &mut message);
        into.push_back(Change::Message { position, message });
        Ok(())
    }

    /// What was written beside a table that this relay does not serve. Another relay may do so; what was released for
    /// this one is kept nowhere else.
    #[cold]
    fn take_unserved(&mut self, event: &Message) -> Result<(), OutboxError> {
        let (Some(table), Some(secret)) = (emitted::table_of(&event.prefix), self.seal.secret) else {
            return Ok(());
        };
        let Some(released) = emitted::released_by(&event.content, secret) else { return Ok(()) };
        if released.is_some_and(|slot| slot == self.slot) {
            let commit_lsn = self.tracker.open().map_err(undecodable)?;
            return Err(OutboxError::definite(
                format!("a row of {table} is due, at {commit_lsn}, and this relay does not serve that table"),
                format!(
                    "name it with --table as well, at least until the slot has passed {commit_lsn}; if it has another name by \
                     now, give it the old one until then"
                ),
            ));
        }
        if self.unserved.len() < MOST_UNSERVED && self.unserved.insert(table.to_string()) {
            tracing::warn!(
                advice = "if no other relay serves that table: name it with --table; if it has another name by now, run \
                          `walpost setup`, which makes `emit` anew",
                "an event beside {table} is passed over: this relay does not serve that table"
            );
        }
        Ok(())
    }

    /// What bears another seal is nobody's, unless somebody has changed the seal since it was read.
    #[cold]
    fn doubt(&mut self, why: NoEvent, at: Lsn) -> Result<(), OutboxError> {
        if why == NoEvent::Unsealed && at > self.seal.as_of {
            self.doubts = true;
            return Err(OutboxError::transient("the log holds an event that bears another seal than before"));
        }
        self.pass_over()
    }

    /// Whether the seal must be read again before anything goes on.
    pub(super) fn doubts_the_seal(&self) -> bool {
        self.doubts
    }

    /// The seal was read, with the log at `as_of` or behind. Whether it is the one that was known: then the event is nobody's.
    pub(super) fn compare_seal(&mut self, secret: Option<Uuid>, as_of: Lsn) -> Result<bool, OutboxError> {
        self.doubts = false;
        if secret != self.seal.secret {
            return Ok(false);
        }
        self.seal.as_of = as_of;
        self.pass_over().map(|()| true)
    }

    /// Whoever may log in can write such a message; nothing of it can be sent.
    fn pass_over(&mut self) -> Result<(), OutboxError> {
        if self.notices < LOGGED_NOTICES {
            self.notices += 1;
            let commit_lsn = self.tracker.open().map_err(undecodable)?;
            tracing::warn!(%commit_lsn, "a message that Walpost has not written is passed over");
        }
        Ok(())
    }

    fn is_for_us(&self, message: &Message) -> bool {
        message.prefix == MESSAGE_PREFIX.as_bytes() && message.content == self.slot.as_bytes()
    }

    /// A server that skips a publication says so in a notice only, and goes on without its rows.
    fn notice(&mut self, sqlstate: &str, message: &str) -> Result<(), OutboxError> {
        if matches!(sqlstate, "55000" | "42704") {
            return Err(OutboxError::server("the server skips rows", sqlstate, message).with_advice(
                "the publication must be older than the slot's position: make the publication (`walpost setup`), then \
                 drop the slot and make it anew; `walpost audit` finds what was committed in between, and `walpost replay` \
                 sends it",
            ));
        }
        self.notices = self.notices.saturating_add(1);
        match self.notices {
            ..LOGGED_NOTICES => tracing::warn!(sqlstate, error = message, "the server says"),
            LOGGED_NOTICES => {
                tracing::warn!(
                    sqlstate,
                    error = message,
                    "the server says; its further notices are not logged"
                )
            }
            _ => {}
        }
        Ok(())
    }
}

impl Beside {
    fn of(outbox: &Outbox) -> Self {
        Beside {
            events: emitted::prefix(&outbox.table),
            rows: emitted::rows_prefix(&outbox.table),
            own_headers: outbox.mapping.header_set(),
        }
    }

    fn has_written(&self, message: &Message) -> bool {
        message.prefix == self.events.as_bytes() || message.prefix == self.rows.as_bytes()
    }
}

/// A row that is written back knows which transaction it is of.
#[inline]
fn of_transaction(xid: u32, message: &mut OutboxMessage) {
    if let Some(row) = message.row.as_mut().and_then(Arc::get_mut) {
        row.xid = xid;
    }
}

fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> OutboxError {
    OutboxError::protocol("the stream can't be decoded", error)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::postgres::names::Target;
    use crate::postgres::preflight::Preflight;

    fn take(intake: &mut Intake, message: &[u8]) -> Result<(), OutboxError> {
        let frame = [b"w", &[0; 24][..], message].concat();
        intake.take(CopyEvent::Data(Bytes::from(frame)), &mut Batch::new())
    }

    #[test]
    fn a_row_has_the_columns_that_were_described() {
        let column = |name: &str, type_oid: u32| {
            [b"\0", name.as_bytes(), b"\0", &type_oid.to_be_bytes(), &[0xFF; 4]].concat()
        };
        let columns = [column("id", 2950), column("topic", 25), column("payload", 114)].concat();
        let relation = [&b"R\0\0\0\x01outbox\0messages\0d\0\x03"[..], &columns].concat();
        let id = b"t\0\0\0\x2411111111-2222-3333-4444-555555555555";
        for (count, rest, good) in [
            (3, &b"t\0\0\0\x01ot\0\0\0\x011"[..], true),
            // Read as it stands, it would be a message without a payload: a tombstone.
            (2, b"t\0\0\0\x01o", false),
            (4, b"t\0\0\0\x01ot\0\0\0\x011t\0\0\0\x012", false),
        ] {
            let relations = Relations::new(&Target::default(), &Preflight::default());
            let mut intake = Intake::new(&Target::default(), relations, Seal::default(), Arc::default());
            take(&mut intake, &relation).expect("a table");
            let begin = [&b"B\0\0\0\0\0\0\0\x64"[..], &[0; 12]].concat();
            take(&mut intake, &begin).expect("a transaction");
            let row = [&b"I\0\0\0\x01N\0"[..], &[count], id, rest].concat();
            let result = take(&mut intake, &row);
            assert_eq!(result.is_ok(), good, "{count} values: {result:?}");
            assert!(result.is_ok() || result.is_err_and(|error| error.is_transient()));
        }
    }
}
