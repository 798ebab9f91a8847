//! Deliberate bugs, by which the simulation shows that it would notice them. Test builds only.
//!
//! Each is a mistake that a real relay has made. Without the feature `mutants` nothing of this is left:
//! [`active`] is a constant.

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` is for test builds: deliberate bugs must not be shipped");

/// A deliberate bug.
#[cfg_attr(
    not(feature = "mutants"),
    allow(dead_code, unreachable_pub, reason = "there is nothing to choose")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// Confirms one byte more than the end of a transaction: an adjacent one is lost.
    ConfirmPlusOne,
    /// Confirms where the commit record begins: the transaction comes again.
    ConfirmCommitLsn,
    /// Confirms what was sent, before the broker has it.
    ConfirmBeforeAck,
    /// Confirms the transaction of the last receipt, whatever is still in flight before it.
    LastAckWins,
    /// Confirms a keepalive's position over records in flight.
    KeepaliveOverUnacked,
    /// Never confirms a keepalive's position: an idle slot holds the log for ever.
    KeepaliveIgnored,
    /// Forgets the record for which the publisher had no room.
    DropOnFull,
    /// Goes on after a failed delivery: later records overtake the failed one.
    ReorderAfterFailure,
    /// Takes over how far the previous connection had read.
    SkipAfterReconnect,
    /// Stops without the last confirmation.
    LostLastStatus,
    /// Passes over a message of the log that it does not know.
    UnknownMessageIgnored,
    /// Confirms a refused message before its dead letter is durable.
    DeadLetterNotDurable,
    /// Marks a row as published once it is sent, before the broker has it.
    MarkBeforeAck,
    /// Confirms a row that is published and not marked yet: after a crash it stays unmarked.
    ConfirmBeforeMark,
}

/// Whether this thread runs with that bug.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn active(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use chosen::{active, choose};

#[cfg(feature = "mutants")]
mod chosen {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        // One choice for each thread, so that simulations beside each other don't share a bug.
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    impl Mutant {
        /// All of them.
        pub const ALL: [Mutant; 14] = [
            Mutant::ConfirmPlusOne,
            Mutant::ConfirmCommitLsn,
            Mutant::ConfirmBeforeAck,
            Mutant::LastAckWins,
            Mutant::KeepaliveOverUnacked,
            Mutant::KeepaliveIgnored,
            Mutant::DropOnFull,
            Mutant::ReorderAfterFailure,
            Mutant::SkipAfterReconnect,
            Mutant::LostLastStatus,
            Mutant::UnknownMessageIgnored,
            Mutant::DeadLetterNotDurable,
            Mutant::MarkBeforeAck,
            Mutant::ConfirmBeforeMark,
        ];
    }

    /// Whether this thread runs with that bug.
    #[must_use]
    pub fn active(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(mutant)
    }

    /// From now on this thread runs with that bug, or with none.
    #[doc(hidden)]
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.set(mutant);
    }
}
