//! How far the log may be confirmed: the one place that decides it. Pure.
//!
//! ```text
//!   begin ──► record ──► record ──► commit(end_lsn)        one group per transaction, in commit order
//!               │ticket    │ticket
//!               ▼          ▼
//!            acknowledged, in any order across partitions
//!
//!   groups:  [■■■ end A] [■■□ end B] [■ end C] [open …]    ■ acknowledged  □ in flight
//!                      ▲
//!                      confirmed = A: C waits behind B
//! ```
//!
//! What is confirmed is the `end_lsn` of the last transaction of the contiguous acknowledged prefix. The
//! server skips a transaction on restart if its commit record *starts* before the confirmed position, so
//! `commit_lsn` would bring it again and `end_lsn + 1` would lose an adjacent one.

use std::collections::VecDeque;
use std::time::SystemTime;

use crate::lsn::{Lsn, Position};
use crate::mutants::{self, Mutant};
use crate::publisher::Ticket;

/// Tickets in flight, and what follows from their receipts.
///
/// Holds one small entry per unconfirmed transaction, whatever its size; the loop bounds how far the oldest one without a
/// receipt may lie behind.
#[derive(Debug, Default)]
pub struct Progress {
    groups: VecDeque<Group>,
    next_ticket: u64,
    in_flight: u64,
    open: bool,
    received: Lsn,
    confirmed: Lsn,
}

/// A transaction, or the tail of the log behind one.
#[derive(Debug)]
struct Group {
    commit_lsn: Lsn,
    committed_at: SystemTime,
    first_ticket: u64,
    in_flight: u64,
    /// What may be confirmed once this group and all before it are acknowledged. Unknown while open.
    end: Lsn,
}

impl Progress {
    /// A transaction starts that was committed at that place and time.
    pub fn begin(&mut self, commit_lsn: Lsn, committed_at: SystemTime) {
        self.open = true;
        self.groups.push_back(Group {
            commit_lsn,
            committed_at,
            first_ticket: self.next_ticket,
            in_flight: 0,
            end: Lsn::ZERO,
        });
    }

    /// The ticket that the next record will have.
    #[must_use]
    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.next_ticket)
    }

    /// The publisher has taken the record with [`next_ticket`](Self::next_ticket).
    pub fn taken(&mut self) {
        self.next_ticket += 1;
        self.in_flight += 1;
        if let Some(group) = self.groups.back_mut() {
            group.in_flight += 1;
        }
    }

    /// The open transaction is complete.
    pub fn commit(&mut self, end_lsn: Lsn) {
        self.open = false;
        self.received = self.received.max(end_lsn);
        // A transaction of other tables only moves the end of the one before it: however long the broker
        // is away, those need no room.
        let empty = self.groups.back().is_some_and(|group| group.first_ticket == self.next_ticket);
        if empty && self.groups.len() > 1 {
            self.groups.pop_back();
        }
        if let Some(group) = self.groups.back_mut() {
            group.end = confirmable(group.commit_lsn, end_lsn);
        }
        self.settle();
    }

    /// The server has read the log up to `wal_end`, and sent all that is ours before it.
    ///
    /// Inside a transaction this says nothing that its own end won't. Behind unacknowledged ones it
    /// waits: confirming it now would skip them.
    pub fn keepalive(&mut self, wal_end: Lsn) {
        if self.open || mutants::active(Mutant::KeepaliveIgnored) {
            return;
        }
        self.received = self.received.max(wal_end);
        match self.groups.back_mut() {
            Some(group) if !mutants::active(Mutant::KeepaliveOverUnacked) => {
                group.end = group.end.max(wal_end)
            }
            _ => self.confirmed = self.confirmed.max(wal_end),
        }
    }

    /// The broker has the record of this ticket. Each ticket comes at most once.
    pub fn acknowledged(&mut self, ticket: Ticket) {
        // Receipts of one partition come in order, so the group is nearly always the first.
        let index = match self.groups.get(1) {
            Some(second) if second.first_ticket <= ticket.0 => {
                self.groups.partition_point(|group| group.first_ticket <= ticket.0) - 1
            }
            _ => 0,
        };
        if let Some(group) = self.groups.get_mut(index) {
            group.in_flight = group.in_flight.saturating_sub(1);
            self.in_flight = self.in_flight.saturating_sub(1);
            if mutants::active(Mutant::LastAckWins) && group.in_flight == 0 {
                self.confirmed = self.confirmed.max(group.end);
            }
        }
        if index == 0 {
            self.settle();
        }
    }

    /// The position of a ticket in flight.
    #[must_use]
    pub fn position(&self, ticket: Ticket) -> Option<Position> {
        let index = self.groups.partition_point(|group| group.first_ticket <= ticket.0).checked_sub(1)?;
        let group = self.groups.get(index)?;
        Some(Position { commit_lsn: group.commit_lsn, index: ticket.0 - group.first_ticket })
    }

    /// When the oldest transaction was committed that is not confirmed.
    #[must_use]
    pub fn committed_at(&self) -> Option<SystemTime> {
        self.groups.front().map(|group| group.committed_at)
    }

    /// The highest position that is safe to confirm. Never falls, never exceeds [`received`](Self::received).
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// The highest position that the server has spoken of.
    #[must_use]
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// Records taken and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Whether a transaction is begun and not complete.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    fn settle(&mut self) {
        while let Some(group) = self.groups.front() {
            let unacknowledged = group.in_flight > 0 && !mutants::active(Mutant::ConfirmBeforeAck);
            let unfinished = unacknowledged || (self.open && self.groups.len() == 1);
            if unfinished {
                break;
            }
            self.confirmed = self.confirmed.max(group.end);
            self.groups.pop_front();
        }
    }
}

/// What may be confirmed of a transaction: its end, but for the two classic mistakes.
fn confirmable(commit_lsn: Lsn, end_lsn: Lsn) -> Lsn {
    if mutants::active(Mutant::ConfirmCommitLsn) {
        return commit_lsn;
    }
    Lsn(end_lsn.0 + u64::from(mutants::active(Mutant::ConfirmPlusOne)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// Takes `rows` records in a transaction from `commit` to `end`; returns its first ticket.
    fn transaction(progress: &mut Progress, commit: u64, end: u64, rows: u64) -> u64 {
        progress.begin(Lsn(commit), at(commit));
        let first = progress.next_ticket().0;
        (0..rows).for_each(|_| progress.taken());
        progress.commit(Lsn(end));
        first
    }

    #[test]
    fn a_later_transaction_waits_for_an_earlier_one() {
        let mut progress = Progress::default();
        let a = transaction(&mut progress, 10, 20, 1);
        let b = transaction(&mut progress, 20, 30, 2);
        progress.acknowledged(Ticket(b));
        progress.acknowledged(Ticket(b + 1));
        assert_eq!((progress.confirmed(), progress.committed_at()), (Lsn::ZERO, Some(at(10))));
        progress.acknowledged(Ticket(a));
        assert_eq!((progress.confirmed(), progress.in_flight()), (Lsn(30), 0));
        assert_eq!(progress.committed_at(), None);
    }

    #[test]
    fn a_transaction_is_confirmed_whole_and_only_when_complete() {
        let mut progress = Progress::default();
        progress.begin(Lsn(10), at(10));
        progress.taken();
        progress.acknowledged(Ticket(0));
        assert_eq!(progress.confirmed(), Lsn::ZERO, "more rows may come");
        assert_eq!(progress.position(Ticket(0)), Some(Position { commit_lsn: Lsn(10), index: 0 }));
        progress.commit(Lsn(20));
        assert_eq!(progress.confirmed(), Lsn(20));
    }

    #[test]
    fn a_keepalive_counts_at_once_only_when_nothing_is_pending() {
        let mut progress = Progress::default();
        progress.keepalive(Lsn(5));
        assert_eq!(progress.confirmed(), Lsn(5));
        let ticket = transaction(&mut progress, 10, 20, 1);
        progress.keepalive(Lsn(90));
        assert_eq!((progress.confirmed(), progress.received()), (Lsn(5), Lsn(90)));
        progress.acknowledged(Ticket(ticket));
        assert_eq!(progress.confirmed(), Lsn(90), "it waited behind the transaction");
        progress.begin(Lsn(100), at(100));
        progress.keepalive(Lsn(150));
        assert_eq!(progress.confirmed(), Lsn(90), "not inside a transaction");
        progress.keepalive(Lsn(3));
        progress.commit(Lsn(110));
        assert_eq!(progress.confirmed(), Lsn(110));
        progress.keepalive(Lsn(3));
        assert_eq!(progress.confirmed(), Lsn(110), "never backwards");
    }

    #[test]
    fn an_empty_transaction_is_confirmed_in_its_turn() {
        let mut progress = Progress::default();
        let ticket = transaction(&mut progress, 10, 20, 1);
        for commit in 2..1000 {
            transaction(&mut progress, commit * 10, commit * 10 + 10, 0);
        }
        assert_eq!((progress.confirmed(), progress.groups.len()), (Lsn::ZERO, 1));
        progress.acknowledged(Ticket(ticket));
        assert_eq!(progress.confirmed(), Lsn(10_000));
    }

    /// A model that is too simple to be wrong: every record and every end in one list.
    #[derive(Default)]
    struct Model {
        steps: Vec<Step>,
    }

    enum Step {
        Record { ticket: u64, acknowledged: bool },
        End(Lsn),
    }

    impl Model {
        fn confirmed(&self) -> Lsn {
            let done = |step: &&Step| !matches!(step, Step::Record { acknowledged: false, .. });
            let ends = self.steps.iter().take_while(done).filter_map(|step| match step {
                Step::End(end) => Some(*end),
                Step::Record { .. } => None,
            });
            ends.max().unwrap_or_default()
        }
    }

    #[test]
    fn random_acknowledgements_agree_with_the_model() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            one_history(&mut random);
        }
    }

    fn one_history(random: &mut fastrand::Rng) {
        let (mut progress, mut model, mut waiting) = (Progress::default(), Model::default(), Vec::new());
        let (mut lsn, mut before) = (1, Lsn::ZERO);
        for _ in 0..random.usize(1..60) {
            lsn += random.u64(0..5);
            match random.u8(0..10) {
                0..=2 if !progress.is_open() => progress.begin(Lsn(lsn), at(lsn)),
                0..=4 if progress.is_open() => {
                    let ticket = progress.next_ticket().0;
                    progress.taken();
                    waiting.push(ticket);
                    model.steps.push(Step::Record { ticket, acknowledged: false });
                }
                5 if progress.is_open() => {
                    progress.commit(Lsn(lsn));
                    model.steps.push(Step::End(Lsn(lsn)));
                }
                6 => {
                    let open = progress.is_open();
                    progress.keepalive(Lsn(lsn));
                    if !open {
                        model.steps.push(Step::End(Lsn(lsn)));
                    }
                }
                _ if !waiting.is_empty() => {
                    let chosen = waiting.swap_remove(random.usize(..waiting.len()));
                    progress.acknowledged(Ticket(chosen));
                    for step in &mut model.steps {
                        if let Step::Record { ticket, acknowledged } = step {
                            *acknowledged |= *ticket == chosen;
                        }
                    }
                }
                _ => {}
            }
            assert_eq!(progress.confirmed(), model.confirmed());
            assert_eq!(progress.in_flight(), waiting.len() as u64);
            assert!(progress.confirmed() >= before && progress.confirmed() <= progress.received());
            before = progress.confirmed();
        }
    }
}
