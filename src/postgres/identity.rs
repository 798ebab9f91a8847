//! Whether the server and the slot are those that were read before.
//!
//! The slot is the only durable state, so all that is known of the past is what this process remembers of its
//! own lives: the system, its timeline, and how far it has confirmed. A new process knows nothing and takes the
//! slot as it is.
//!
//! Sources: PostgreSQL documentation, "Streaming Replication Protocol" (IDENTIFY_SYSTEM, TIMELINE_HISTORY).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::connection::{Connection, Wire};
use super::names::{TableName, Target};
use super::slot::SEND_WHAT_IS_MISSING;
use crate::error::OutboxError;
use crate::lsn::Lsn;

/// So many places are kept for which nothing has been confirmed yet.
const MAX_PLACES: usize = 64;

/// Which server this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct System {
    /// Given by `initdb`, kept by every copy.
    pub(super) id: String,
    /// Grows with each promotion and each recovery to a point in time.
    pub(super) timeline: u32,
    /// Where the timeline left the one before it; zero when that isn't known.
    pub(super) branched_at: Lsn,
}

impl System {
    /// Asks the server.
    pub(super) async fn identify<S: Wire>(connection: &mut Connection<S>) -> Result<System, OutboxError> {
        let values = connection.first_row("identifying the server", "IDENTIFY_SYSTEM").await?;
        let (id, timeline) = (text(&values, 0), text(&values, 1).parse().unwrap_or_default());
        let branched_at = if timeline > 1 { branch(connection, timeline).await? } else { Lsn::ZERO };
        Ok(System { id, timeline, branched_at })
    }
}

/// The server's process behind a connection: who holds the slot, once it streams. Asked for, since what the server
/// told at the login may have gone to a pooler in between.
pub(super) async fn reader<S: Wire>(connection: &mut Connection<S>) -> Result<i32, OutboxError> {
    let values = connection.first_row("asking for the process", "SELECT pg_backend_pid()").await?;
    text(&values, 0)
        .parse()
        .map_err(|error| OutboxError::protocol("the server's process id can't be read", error))
}

/// A column of a row; empty if it is null or not there.
fn text(values: &[Option<Bytes>], index: usize) -> String {
    let bytes = values.get(index).and_then(Option::as_ref);
    bytes.map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// Where a timeline begins. A server may have lost the file that says so.
async fn branch<S: Wire>(connection: &mut Connection<S>, timeline: u32) -> Result<Lsn, OutboxError> {
    let command = format!("TIMELINE_HISTORY {timeline}");
    match connection.first_row("reading the timeline's history", &command).await {
        Ok(values) => Ok(values.get(1).and_then(Option::as_ref).map_or(Lsn::ZERO, |file| last_switch(file))),
        Err(error) if error.sqlstate().is_some() => Ok(Lsn::ZERO),
        Err(error) => Err(error),
    }
}

/// The position in the last line of a history file: `parent`, position, reason, separated by tabs.
fn last_switch(file: &[u8]) -> Lsn {
    let text = String::from_utf8_lossy(file);
    let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.next_back().and_then(|line| line.split('\t').nth(1)?.trim().parse().ok()).unwrap_or(Lsn::ZERO)
}

/// A place in the log, and the oldest transaction that had not ended when the log ended there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) lsn: Lsn,
    pub(super) xid: String,
}

impl Place {
    /// SQL that finds every row of transactions that ended behind this place, and few others.
    pub(super) fn rows_since(&self, table: &TableName) -> String {
        format!("SELECT * FROM {table} WHERE age(xmin) <= age('{}'::xid)", self.xid)
    }
}

/// What a stream leaves behind for the next one of the same process.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// The highest position that was ever sent as confirmed.
    confirmed: AtomicU64,
    places: Mutex<VecDeque<Place>>,
}

impl Trail {
    /// To be called before a confirmation is sent: it may arrive although sending fails.
    pub(super) fn confirming(&self, lsn: Lsn) {
        self.confirmed.fetch_max(lsn.0, Relaxed);
    }

    pub(super) fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Relaxed))
    }

    /// All was well with the log ending here.
    pub(super) fn passed(&self, place: Place) {
        let confirmed = self.confirmed();
        let mut places = self.places();
        places.push_back(place);
        while places.get(1).is_some_and(|second| second.lsn <= confirmed) {
            places.pop_front();
        }
        if places.len() > MAX_PLACES {
            places.remove(1);
        }
    }

    /// The last place at which all was well.
    pub(super) fn last(&self) -> Option<Place> {
        self.places().back().cloned()
    }

    /// A place before everything that is not confirmed.
    fn unconfirmed_since(&self) -> Option<Place> {
        self.places().front().filter(|first| first.lsn <= self.confirmed()).cloned()
    }

    /// How to find rows that were committed behind what this process has confirmed.
    pub(super) fn finding(&self, target: &Target) -> String {
        match self.unconfirmed_since() {
            Some(place) => {
                let rows = target.list(|table| place.rows_since(table), "; ");
                format!("rows to compare with the topics: {rows}")
            }
            None => format!("compare the rows of {} with the topics", target.tables()),
        }
    }

    fn places(&self) -> MutexGuard<'_, VecDeque<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this process knows of the server and the slot.
#[derive(Debug, Default)]
pub(super) struct Memory {
    system: Option<System>,
    /// Where the slot stood when this process first saw it, or made it.
    began_at: Option<Lsn>,
    pub(super) trail: Arc<Trail>,
    /// Another client has held the slot since this process did; it may have moved it.
    pub(super) shared: bool,
    told_behind: Option<Lsn>,
}

impl Memory {
    /// Takes in the server that was reached.
    ///
    /// # Errors
    /// It is none that the slot was read from before, or an older branch of it.
    pub(super) fn meet(&mut self, system: System, place: &str) -> Result<(), OutboxError> {
        if let Some(before) = &self.system {
            if before.id != system.id {
                let text = format!(
                    "{place} is another database system: {} instead of {}, whose slot this relay has read",
                    system.id, before.id
                );
                let advice = "if the address leads to the wrong server, mend it. If the server was replaced on purpose \
                              (a dump restored, a major upgrade), make sure that nothing is missing in the topics, \
                              then start again";
                return Err(OutboxError::definite(text, advice));
            }
            if system.timeline < before.timeline {
                let text = format!(
                    "{place} is on timeline {}, and this relay has already read timeline {}: a primary that was \
                     replaced has come back, or an older backup was restored",
                    system.timeline, before.timeline
                );
                let advice = "stop the old primary, or rejoin it as a standby; if it is meant to be the one, start again";
                return Err(OutboxError::definite(text, advice));
            }
            if system.timeline > before.timeline {
                self.promoted(before.timeline, &system);
            }
        }
        self.system = Some(system);
        Ok(())
    }

    fn promoted(&self, before: u32, system: &System) {
        let (timeline, branched_at, confirmed) =
            (system.timeline, system.branched_at, self.trail.confirmed());
        if branched_at != Lsn::ZERO && confirmed > branched_at {
            tracing::warn!(
                before, timeline, %branched_at, %confirmed,
                advice = "synchronized_standby_slots on the primary (17 and later) keeps a relay from running ahead of \
                          its standbys",
                "a server was promoted that had not received all that is published: the topics may hold records of \
                 transactions that the database has lost"
            );
        } else {
            tracing::info!(
                before, timeline, %branched_at, %confirmed,
                "a server was promoted; going on from where its slot stands: some records may come again"
            );
        }
    }

    /// Takes in where the slot stands before the stream starts.
    ///
    /// # Errors
    /// It stands beyond what this process has confirmed, and nobody was seen who could have done so rightly.
    pub(super) fn resume(&mut self, at: Lsn, target: &Target) -> Result<(), OutboxError> {
        let slot = &target.slot;
        let known = self.began_at.map(|began_at| began_at.max(self.trail.confirmed()));
        let Some(known) = known.filter(|_| !self.shared) else {
            (self.began_at, self.shared) = (Some(at), false);
            self.trail.confirming(at);
            return Ok(());
        };
        if at > known {
            let text = format!(
                "slot {slot} stands at {at}, beyond {known}, the last position that this relay has confirmed: it was \
                 advanced, or dropped and made anew, and rows committed in between may never be sent"
            );
            let advice = format!(
                "if another relay has read the slot meanwhile, nothing is missing. If not: {SEND_WHAT_IS_MISSING}; {}. Either \
                 way, start again",
                self.trail.finding(target)
            );
            return Err(OutboxError::definite(text, advice));
        }
        if at < known && self.told_behind != Some(at) {
            self.told_behind = Some(at);
            tracing::info!(
                slot, slot_at = %at, confirmed = %known,
                "the slot stands before what was confirmed, as after a crash of the server: what lies in between comes again"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(id: &str, timeline: u32) -> System {
        System { id: id.to_owned(), timeline, branched_at: Lsn(50) }
    }

    #[test]
    fn another_system_and_an_older_branch_are_refused() {
        let mut memory = Memory::default();
        assert!(memory.meet(system("1", 2), "a").is_ok(), "the first one is taken as it is");
        assert!(memory.meet(system("1", 2), "a").is_ok());
        assert!(memory.meet(system("1", 3), "b").is_ok(), "promoted");
        for (other, words) in [(system("2", 3), "instead of 1"), (system("1", 2), "timeline 2")] {
            let error = memory.meet(other, "b").expect_err("refused");
            assert!(!error.is_transient() && error.to_string().contains(words), "{error}");
        }
        assert!(memory.meet(system("1", 3), "b").is_ok(), "what was refused is not remembered");
    }

    #[test]
    fn a_slot_beyond_what_was_confirmed_is_refused_unless_somebody_else_held_it() {
        let target = Target::default();
        let mut memory = Memory::default();
        assert!(memory.resume(Lsn(100), &target).is_ok());
        assert!(memory.resume(Lsn(100), &target).is_ok());
        memory.trail.confirming(Lsn(200));
        for at in [100, 150, 200] {
            assert!(memory.resume(Lsn(at), &target).is_ok(), "{at}");
        }
        let error = memory.resume(Lsn(201), &target).expect_err("refused");
        assert!(!error.is_transient(), "{error}");
        assert!(error.to_string().contains("stands at 0/C9, beyond 0/C8"), "{error}");
        memory.shared = true;
        assert!(memory.resume(Lsn(300), &target).is_ok());
        assert!(memory.resume(Lsn(301), &target).is_err(), "only once");
    }

    #[test]
    fn the_place_before_what_is_unconfirmed_is_kept() {
        let trail = Trail::default();
        let place = |lsn: u64| Place { lsn: Lsn(lsn), xid: lsn.to_string() };
        trail.confirming(Lsn(10));
        for lsn in [5, 10, 20, 30] {
            trail.passed(place(lsn));
        }
        assert_eq!(trail.unconfirmed_since(), Some(place(10)));
        assert_eq!(trail.last(), Some(place(30)));
        for lsn in 31..500 {
            trail.passed(place(lsn));
        }
        assert_eq!((trail.unconfirmed_since(), trail.last()), (Some(place(10)), Some(place(499))));
        assert!(trail.places().len() <= MAX_PLACES);
        trail.confirming(Lsn(498));
        trail.passed(place(500));
        assert_eq!(trail.unconfirmed_since().map(|first| first.lsn), Some(Lsn(498)));
    }

    #[test]
    fn the_last_switch_of_a_history_is_found() {
        let file =
            b"1\t0/3000148\tno recovery target specified\n\n2\t0/5000098\tno recovery target specified\n";
        assert_eq!(last_switch(file), Lsn(0x500_0098));
        assert_eq!(last_switch(b""), Lsn::ZERO);
    }
}
