//! What follows from a refused message.

use std::time::Duration;

/// What becomes of a message that can't be sent, after all retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRefusal {
    /// The line stops, says why, and holds the slot.
    #[default]
    Halt,
    /// The message is parked in the table of dead letters, and the others flow.
    DeadLetter,
}

/// How often and how slowly a refused message is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryConfig {
    /// Tries after the first one.
    pub max_retries: u32,
    /// The wait before the second try.
    pub base_delay: Duration,
    /// What each wait is longer than the one before; at least 1.
    pub multiplier: f64,
    /// The longest wait.
    pub max_delay: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig {
            max_retries: 5,
            base_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(60),
        }
    }
}
