//! Gives every row its position: the commit LSN of its transaction, and its number in it.
//!
//! The server sends whole transactions, one after the other, in the order of their commits. Everything
//! that follows (what may be confirmed, which repeats consumers drop) stands on that order, so it is
//! checked here and not believed.

use crate::lsn::{Lsn, Position};

/// The place in the stream of one connection. A new connection starts with a new tracker: after a
/// crash the server may send older transactions again.
///
/// ```text
///             begin(commit_lsn)                        row() → Position { commit_lsn, next_index }
///  Between ─────────────────────► Open { commit_lsn, ──┐ next_index += 1
///     ▲                                  next_index } ◄┘
///     │                                      │
///     └──────────────────────────────────────┘
///              commit(commit_lsn, end_lsn) → end_lsn
/// ```
///
/// A call that has no arrow where the stream stands is an [`OrderError`] and changes nothing. Logical messages
/// outside of transactions are legal and move nothing.
#[derive(Debug, Default)]
pub struct TransactionTracker {
    state: State,
    /// Where the last transaction's commit record ended; the next one's can't begin before.
    last_end: Lsn,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Between,
    Open {
        commit_lsn: Lsn,
        next_index: u64,
    },
}

/// Messages in an order that a server doesn't send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A transaction begins inside another one.
    #[error("transaction {begun} begins before {open} has ended")]
    BeginInside {
        /// Commit LSN of the transaction that is open.
        open: Lsn,
        /// Commit LSN of the one that begins.
        begun: Lsn,
    },
    /// A transaction begins that was committed before the last one.
    #[error("transaction {begun} comes after one that ended at {last_end}")]
    Backwards {
        /// Where the last transaction ended.
        last_end: Lsn,
        /// Commit LSN of the one that begins.
        begun: Lsn,
    },
    /// Something that belongs to a transaction comes outside of any.
    #[error("{what} outside of a transaction")]
    Outside {
        /// What came.
        what: &'static str,
    },
    /// A transaction ends that is not the one that began.
    #[error("transaction {open} ends as {committed}")]
    OtherCommit {
        /// Commit LSN by its beginning.
        open: Lsn,
        /// Commit LSN by its end.
        committed: Lsn,
    },
    /// A commit record that ends where it begins, or before.
    #[error("commit record at {commit_lsn} ends at {end_lsn}")]
    EndBeforeCommit {
        /// Where the record begins.
        commit_lsn: Lsn,
        /// Where it ends.
        end_lsn: Lsn,
    },
}

impl TransactionTracker {
    /// Before the first message of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a transaction has begun and not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// The commit LSN of the open transaction.
    ///
    /// # Errors
    /// None is open.
    pub fn open(&self) -> Result<Lsn, OrderError> {
        match self.state {
            State::Open { commit_lsn, .. } => Ok(commit_lsn),
            State::Between => Err(OrderError::Outside { what: "a transactional message" }),
        }
    }

    /// A transaction begins.
    ///
    /// # Errors
    /// Another one is open, or the last one was committed later.
    pub fn begin(&mut self, commit_lsn: Lsn) -> Result<(), OrderError> {
        if let State::Open { commit_lsn: open, .. } = self.state {
            return Err(OrderError::BeginInside { open, begun: commit_lsn });
        }
        if commit_lsn < self.last_end {
            return Err(OrderError::Backwards { last_end: self.last_end, begun: commit_lsn });
        }
        self.state = State::Open { commit_lsn, next_index: 0 };
        Ok(())
    }

    /// A row of the outbox; gives its position.
    ///
    /// # Errors
    /// No transaction is open.
    pub fn row(&mut self) -> Result<Position, OrderError> {
        let State::Open { commit_lsn, next_index } = &mut self.state else {
            return Err(OrderError::Outside { what: "row" });
        };
        let position = Position { commit_lsn: *commit_lsn, index: *next_index };
        *next_index += 1;
        Ok(position)
    }

    /// The transaction ends; gives the position that may be confirmed once its rows are published.
    ///
    /// # Errors
    /// No transaction is open or another one than this, or the record has no extent.
    pub fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<Lsn, OrderError> {
        let State::Open { commit_lsn: open, .. } = self.state else {
            return Err(OrderError::Outside { what: "commit" });
        };
        if commit_lsn != open {
            return Err(OrderError::OtherCommit { open, committed: commit_lsn });
        }
        if end_lsn <= commit_lsn {
            return Err(OrderError::EndBeforeCommit { commit_lsn, end_lsn });
        }
        self.state = State::Between;
        self.last_end = end_lsn;
        Ok(end_lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_within_their_transaction() {
        let mut tracker = TransactionTracker::new();
        // The second transaction begins exactly where the first one ends.
        for (commit_lsn, end_lsn, rows) in [(100, 148, 3), (148, 200, 0), (900, 948, 2)] {
            assert!(!tracker.is_open());
            assert_eq!(tracker.begin(Lsn(commit_lsn)), Ok(()));
            assert!(tracker.is_open());
            for index in 0..rows {
                assert_eq!(tracker.row(), Ok(Position { commit_lsn: Lsn(commit_lsn), index }));
            }
            assert_eq!(tracker.commit(Lsn(commit_lsn), Lsn(end_lsn)), Ok(Lsn(end_lsn)));
        }
    }

    #[test]
    fn impossible_orders_are_refused_and_change_nothing() {
        let mut tracker = TransactionTracker::new();
        assert_eq!(tracker.row(), Err(OrderError::Outside { what: "row" }));
        assert_eq!(tracker.commit(Lsn(1), Lsn(2)), Err(OrderError::Outside { what: "commit" }));

        assert_eq!(tracker.begin(Lsn(100)), Ok(()));
        let inside = OrderError::BeginInside { open: Lsn(100), begun: Lsn(200) };
        assert_eq!(tracker.begin(Lsn(200)), Err(inside));
        let other = OrderError::OtherCommit { open: Lsn(100), committed: Lsn(101) };
        assert_eq!(tracker.commit(Lsn(101), Lsn(148)), Err(other));
        for end_lsn in [Lsn(100), Lsn(99), Lsn::ZERO] {
            let none = OrderError::EndBeforeCommit { commit_lsn: Lsn(100), end_lsn };
            assert_eq!(tracker.commit(Lsn(100), end_lsn), Err(none));
        }
        assert_eq!(tracker.commit(Lsn(100), Lsn(148)), Ok(Lsn(148)));

        // The same transaction again, and one committed within the last one's record.
        for begun in [Lsn(100), Lsn(147)] {
            assert_eq!(tracker.begin(begun), Err(OrderError::Backwards { last_end: Lsn(148), begun }));
            assert!(!tracker.is_open());
        }
        assert_eq!(tracker.commit(Lsn(100), Lsn(148)), Err(OrderError::Outside { what: "commit" }));
    }
}
