//! A log in memory with the server's rules of resuming.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::dead_letters::{DeadLetter, DeadLetterStore, Parked, Reach, Replay};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::store::{Batch, Change, OutboxStore};

/// An outbox in memory. Clones share the log; each reads it from the confirmed position on, as a new
/// connection to a slot does.
#[derive(Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// The next change to hand out, once this handle has begun to read.
    cursor: Option<usize>,
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    grown: Notify,
}

#[derive(Debug, Default)]
struct Log {
    changes: Vec<Change>,
    end: u64,
    confirmed: Lsn,
    statuses: Vec<Lsn>,
    fetch_faults: VecDeque<OutboxError>,
    confirm_faults: VecDeque<OutboxError>,
    letters: BTreeMap<Position, Kept>,
    closed: bool,
}

/// A letter, and what somebody wants of it.
#[derive(Debug)]
struct Kept {
    letter: DeadLetter,
    requested: bool,
    /// How far the log was then.
    asked: Lsn,
    replay: Option<Position>,
    done: bool,
}

impl Kept {
    /// Whether it belongs to a later request than that.
    fn waits(&self, request: Lsn) -> bool {
        let later = self.asked > request || self.replay.is_some_and(|replay| replay.commit_lsn > request);
        later && !self.done
    }

    fn shares_key(&self, other: &DeadLetter) -> bool {
        self.letter.shares_key(other)
    }
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        MemoryStore { shared: Arc::clone(&self.shared), cursor: None }
    }
}

/// A transaction over a [`MemoryStore`]; dropping it rolls back.
#[derive(Debug)]
pub struct MemoryTransaction {
    shared: Arc<Shared>,
    saved: Mutex<Vec<OutboxMessage>>,
}

impl MemoryTransaction {
    /// Makes the saved messages pending, all at once. Returns where the transaction ends.
    pub fn commit(self) -> Lsn {
        let saved = std::mem::take(&mut *self.saved.lock().unwrap_or_else(PoisonError::into_inner));
        let mut log = self.shared.log();
        // Transactions follow each other without a gap: the case in which one byte too much loses one.
        let (commit_lsn, end_lsn) = (Lsn(log.end), Lsn(log.end + 8 + saved.len() as u64));
        log.end = end_lsn.0;
        log.changes.push(Change::Begin { commit_lsn, committed_at: SystemTime::now() });
        let position = |index| Position { commit_lsn, index };
        let messages = (0..).map(position).zip(saved);
        log.changes.extend(messages.map(|(position, message)| Change::Message { position, message }));
        log.changes.push(Change::Commit { end_lsn });
        drop(log);
        self.shared.grown.notify_waiters();
        end_lsn
    }
}

impl MemoryStore {
    /// Opens a transaction.
    #[must_use]
    pub fn begin(&self) -> MemoryTransaction {
        MemoryTransaction { shared: Arc::clone(&self.shared), saved: Mutex::default() }
    }

    /// Commits one message in a transaction of its own. Returns where the transaction ends.
    pub fn commit_one(&self, message: OutboxMessage) -> Lsn {
        let transaction = self.begin();
        transaction.saved.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        transaction.commit()
    }

    /// Lets the log grow by foreign writes, of which the server tells in a keepalive.
    pub fn keepalive(&self, reply_requested: bool) -> Lsn {
        let mut log = self.shared.log();
        log.end += 64;
        let wal_end = Lsn(log.end);
        log.changes.push(Change::Keepalive { wal_end, reply_requested });
        drop(log);
        self.shared.grown.notify_waiters();
        wal_end
    }

    /// The dead letters that are neither replayed nor discarded, in order.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let log = self.shared.log();
        log.letters.values().filter(|kept| !kept.done).map(|kept| kept.letter.clone()).collect()
    }

    /// Asks for a replay of these letters and all others of their keys. Returns where the request ends.
    pub fn replay_dead_letters(&self, chosen: &[Position]) -> Lsn {
        self.touch(chosen, |kept, at| {
            if !kept.requested {
                (kept.requested, kept.asked) = (true, at);
            }
        })
    }

    /// Discards these letters. Returns where the request ends.
    pub fn discard_dead_letters(&self, chosen: &[Position]) -> Lsn {
        self.touch(chosen, |kept, _| kept.done = true)
    }

    fn touch(&self, chosen: &[Position], change: impl Fn(&mut Kept, Lsn)) -> Lsn {
        let mut log = self.shared.log();
        for position in chosen {
            let at = Lsn(log.end);
            log.letters.entry(*position).and_modify(|kept| change(kept, at));
        }
        let (commit_lsn, end_lsn) = (Lsn(log.end), Lsn(log.end + 8));
        log.end = end_lsn.0;
        log.changes.extend([
            Change::Begin { commit_lsn, committed_at: SystemTime::now() },
            Change::DeadLetters { commit_lsn },
            Change::Commit { end_lsn },
        ]);
        drop(log);
        self.shared.grown.notify_waiters();
        end_lsn
    }

    /// The next fetch fails with this error.
    pub fn fail_fetch(&self, error: OutboxError) {
        self.shared.log().fetch_faults.push_back(error);
        self.shared.grown.notify_waiters();
    }

    /// The next confirmation fails with this error, and has no effect.
    pub fn fail_confirm(&self, error: OutboxError) {
        self.shared.log().confirm_faults.push_back(error);
    }

    /// The confirmed position.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.shared.log().confirmed
    }

    /// Every confirmation that was sent, repeats included.
    #[must_use]
    pub fn statuses(&self) -> Vec<Lsn> {
        self.shared.log().statuses.clone()
    }

    /// Whether a reader has taken leave in order.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.log().closed
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// The first change to send: a transaction is skipped if its commit record starts before the
    /// confirmed position (PostgreSQL source, `SnapBuildXactNeedsSkip`).
    fn resume(&self) -> usize {
        let wanted = |change: &Change| match change {
            Change::Begin { commit_lsn, .. } => *commit_lsn >= self.confirmed,
            Change::Keepalive { wal_end, .. } => *wal_end > self.confirmed,
            _ => false,
        };
        self.changes.iter().position(wanted).unwrap_or(self.changes.len())
    }
}

impl OutboxStore for MemoryStore {
    type Transaction<'t> = MemoryTransaction;

    async fn save<'t>(
        &'t self,
        transaction: &'t MemoryTransaction,
        message: &'t OutboxMessage,
    ) -> Result<(), OutboxError> {
        transaction.saved.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
        Ok(())
    }

    async fn fetch_pending(&mut self, into: &mut Batch) -> Result<(), OutboxError> {
        loop {
            let grown = self.shared.grown.notified();
            tokio::pin!(grown);
            // Registered before looking, so that growth in between is not missed.
            grown.as_mut().enable();
            {
                let mut log = self.shared.log();
                if let Some(fault) = log.fetch_faults.pop_front() {
                    return Err(fault);
                }
                let cursor = self.cursor.get_or_insert_with(|| log.resume());
                if *cursor < log.changes.len() {
                    into.extend(log.changes.iter().skip(*cursor).cloned());
                    *cursor = log.changes.len();
                    return Ok(());
                }
            }
            grown.await;
        }
    }

    async fn mark_published(&mut self, through: Lsn) -> Result<(), OutboxError> {
        let mut log = self.shared.log();
        if let Some(fault) = log.confirm_faults.pop_front() {
            return Err(fault);
        }
        log.statuses.push(through);
        log.confirmed = log.confirmed.max(through);
        Ok(())
    }

    async fn close(self) -> Result<(), OutboxError> {
        self.shared.log().closed = true;
        Ok(())
    }
}

impl DeadLetterStore for MemoryStore {
    async fn parked(&mut self) -> Result<Parked, OutboxError> {
        let log = self.shared.log();
        let mut parked = Parked::default();
        for (position, kept) in &log.letters {
            if !kept.done {
                parked.keys.insert(kept.letter.message.topic(), kept.letter.message.key(), *position);
            }
            if position.commit_lsn >= log.confirmed {
                parked.settled.insert(*position, kept.letter.message.id);
            }
        }
        Ok(parked)
    }

    async fn park(&mut self, letters: &[DeadLetter]) -> Result<(), OutboxError> {
        let mut log = self.shared.log();
        for letter in letters {
            let kept = Kept {
                letter: letter.clone(),
                requested: false,
                asked: Lsn::ZERO,
                replay: None,
                done: false,
            };
            log.letters.entry(letter.position).or_insert(kept);
        }
        Ok(())
    }

    async fn to_replay(&mut self, request: Lsn, most: usize) -> Result<Vec<Replay>, OutboxError> {
        let mut log = self.shared.log();
        let asked: Vec<DeadLetter> = log
            .letters
            .values()
            .filter(|kept| kept.requested && !kept.done)
            .map(|kept| kept.letter.clone())
            .collect();
        let waiting: Vec<DeadLetter> =
            log.letters.values().filter(|kept| kept.waits(request)).map(|kept| kept.letter.clone()).collect();
        let of_request = |replay: Position| replay.commit_lsn == request;
        let mut index =
            log.letters.values().filter(|kept| kept.replay.is_some_and(of_request)).count() as u64;
        let mut chosen = Vec::new();
        for (position, kept) in log.letters.iter_mut().filter(|(_, kept)| !kept.done) {
            if !kept.requested && !asked.iter().any(|letter| kept.shares_key(letter)) {
                continue;
            }
            // When the log comes again: these belong to a later request.
            let waits = kept.waits(request) || waiting.iter().any(|letter| kept.shares_key(letter));
            if waits || position.commit_lsn >= request {
                continue;
            }
            let send_as = *kept.replay.get_or_insert_with(|| {
                index += 1;
                Position { commit_lsn: request, index: index - 1 }
            });
            chosen.push(Replay { send_as, letter: kept.letter.clone() });
        }
        chosen.sort_by_key(|replay| replay.send_as);
        chosen.truncate(most);
        Ok(chosen)
    }

    async fn replayed(&mut self, letters: &[Position]) -> Result<(), OutboxError> {
        let mut log = self.shared.log();
        for position in letters {
            log.letters.entry(*position).and_modify(|kept| kept.done = true);
        }
        Ok(())
    }

    async fn refused_again(
        &mut self,
        refused: &Replay,
        error: &str,
        reach: Reach,
    ) -> Result<(), OutboxError> {
        let letters = &mut self.shared.log().letters;
        let of_request = |kept: &Kept| {
            let same = |replay: Position| replay.commit_lsn == refused.send_as.commit_lsn;
            !kept.done && kept.replay.is_some_and(same)
        };
        let alike = |kept: &&Kept| {
            let other = Replay { send_as: refused.send_as, letter: kept.letter.clone() };
            of_request(kept) && reach != Reach::Key && reach.takes(refused, &other)
        };
        let alike: Vec<DeadLetter> = letters.values().filter(alike).map(|kept| kept.letter.clone()).collect();
        let own = &refused.letter;
        for (position, kept) in letters.iter_mut().filter(|(_, kept)| !kept.done) {
            let itself = *position == own.position;
            if itself {
                error.clone_into(&mut kept.letter.error);
                kept.letter.attempts += 1;
            }
            let behind =
                *position > own.position && kept.shares_key(own) && !kept.waits(refused.send_as.commit_lsn);
            let with_another = |other: &DeadLetter| other.position == *position || kept.shares_key(other);
            if itself || behind || (of_request(kept) && alike.iter().any(with_another)) {
                (kept.requested, kept.replay) = (false, None);
            }
        }
        Ok(())
    }
}
