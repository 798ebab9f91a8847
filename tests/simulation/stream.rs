//! What a server sends on one connection, and what is on its way back.

use std::collections::VecDeque;

use tokio::time::Instant;
use walpost::dead_letters::UnfitColumn;
use walpost::{Batch, Change, DeadLetter, Lsn, Position};

use crate::checker::Ledger;
use crate::dice::Dice;
use crate::log::{Log, Row, RowId};

/// One client of the slot.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    /// Which relay is its client.
    pub(crate) owner: usize,
    /// The next entry to send, and the next step of it: begin, rows, commit.
    pub(crate) entry: usize,
    pub(crate) step: usize,
    /// How far the log has been read for this client.
    pub(crate) sent: Lsn,
    pub(crate) owes_keepalive: bool,
    pub(crate) asked: bool,
    pub(crate) heard: Instant,
    /// The next bytes arrive then.
    pub(crate) ready: Instant,
    /// On their way, with the time of their arrival.
    pub(crate) statuses: VecDeque<(Instant, Lsn)>,
    pub(crate) wire: Wire,
    pub(crate) ledger: Ledger,
}

/// What is between the two.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    Whole,
    /// Nothing passes, and nobody is told.
    Broken(Instant),
    /// Nothing passes until then.
    Frozen(Instant),
}

pub(crate) fn told(batch: &Batch, from: usize) -> String {
    let word = |change: &Change| match change {
        Change::Begin { commit_lsn, .. } => format!("B{commit_lsn}"),
        Change::Message { position, .. } => position.index.to_string(),
        Change::Unfit { letter, .. } => format!("U{}", letter.position.index),
        Change::PassedOver => "-".to_owned(),
        Change::DeadLetters { commit_lsn } => format!("D{commit_lsn}"),
        Change::Commit { end_lsn } => format!("C{end_lsn}"),
        Change::Keepalive { wal_end, reply_requested } => {
            format!("K{wal_end}{}", if *reply_requested { "?" } else { "" })
        }
    };
    batch.iter().skip(from).map(word).collect::<Vec<_>>().join(" ")
}

/// A row as the relay's reader hands it on.
fn change(position: Position, row: &Row) -> Change {
    if row.passed_over {
        return Change::PassedOver;
    }
    let message = row.message.clone();
    if !row.unfit {
        return Change::Message { position, message };
    }
    let unfit = Some(UnfitColumn { name: "created_at".into(), value: None });
    let error = "a row is no message: column created_at".to_owned();
    Change::Unfit {
        letter: Box::new(DeadLetter { position, message, unfit, error, attempts: 1 }),
        advice: "discard it",
    }
}

impl Connection {
    /// The next change, if there is one.
    pub(crate) fn produce(
        &mut self,
        committed: usize,
        sends_empty: bool,
        now: Instant,
        log: &Log,
        dice: &mut Dice,
        into: &mut Batch,
    ) {
        if dice.one_in(25) {
            // Inside of a transaction the servers of today say where its commit record begins. The protocol's
            // description promises no such thing.
            let ahead = self.step > 0 && dice.one_in(3);
            let wal_end = if ahead { log.entries[self.entry].end } else { self.sent };
            return self.tell(wal_end, dice.one_in(2), into, now);
        }
        if self.entry >= committed {
            if self.owes_keepalive {
                self.say(dice.one_in(4), into, now);
            }
            return;
        }
        let entry = &log.entries[self.entry];
        let foreign =
            entry.ask.is_none() && entry.rows.as_ref().is_none_or(|rows| rows.is_empty() && !sends_empty);
        if foreign {
            // Of what is not ours the server says only how far it has read, and not each time.
            (self.entry, self.sent) = (self.entry + 1, entry.end);
            self.owes_keepalive = true;
            if dice.one_in(2) {
                self.say(dice.one_in(4), into, now);
            }
            return;
        }
        let (commit_lsn, rows, asks) = (entry.commit_lsn, entry.len(), entry.ask.is_some());
        if self.step == 0 {
            self.sent = self.sent.max(commit_lsn);
            self.ledger.begin();
            let committed_at = std::time::SystemTime::UNIX_EPOCH + entry.at;
            into.push_back(Change::Begin { commit_lsn, committed_at });
        } else if self.step <= rows {
            let id = RowId { entry: self.entry, row: self.step - 1 };
            let position = Position { commit_lsn, index: id.row as u64 };
            let row = entry.rows.as_ref().map(|rows| &rows[id.row]);
            let is_letter = log.letters.get(position).is_some();
            self.ledger.row(id, is_letter || row.is_some_and(|row| row.passed_over));
            if !is_letter && row.is_some_and(|row| row.unfit) {
                self.ledger.unfit();
            }
            into.extend(row.map(|row| change(position, row)));
        } else if asks && self.step == rows + 1 {
            self.ledger.request(commit_lsn);
            into.push_back(Change::DeadLetters { commit_lsn });
        } else {
            self.ledger.commit(entry.end, now);
            into.push_back(Change::Commit { end_lsn: entry.end });
            (self.entry, self.step, self.sent) = (self.entry + 1, 0, entry.end);
            return;
        }
        self.step += 1;
    }

    pub(crate) fn say(&mut self, reply_requested: bool, into: &mut Batch, now: Instant) {
        self.owes_keepalive = false;
        self.tell(self.sent, reply_requested, into, now);
    }

    fn tell(&mut self, wal_end: Lsn, reply_requested: bool, into: &mut Batch, now: Instant) {
        self.ledger.keepalive(wal_end, now);
        into.push_back(Change::Keepalive { wal_end, reply_requested });
    }
}
