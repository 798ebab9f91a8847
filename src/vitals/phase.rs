//! Where in its life a relay is.

use tokio::time::Instant;

/// Which phase of its life a relay is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Opening both ends.
    Starting,
    /// Another relay holds the slot; this one takes over when it goes.
    StandingBy,
    /// Reading the log and publishing.
    Streaming,
    /// An end failed; waiting to open both again.
    Retrying,
    /// Told to stop; waiting for what is in flight.
    Draining,
    /// Over.
    Stopped,
}

impl State {
    /// The word for logs and health.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::StandingBy => "standing by",
            State::Streaming => "streaming",
            State::Retrying => "retrying",
            State::Draining => "draining",
            State::Stopped => "stopped",
        }
    }
}

/// The state, since when, and why.
#[derive(Clone, Debug)]
pub struct Phase {
    /// The state.
    pub state: State,
    /// When it was entered.
    pub since: Instant,
    /// Why, in a sentence; empty when there is nothing to explain.
    pub reason: String,
    /// What a person can do about it; empty when there is nothing to do.
    pub advice: String,
}
