//! The decoder of `pgoutput` against what real servers sent, whole and mutilated.
//!
//! The captures in `tests/data/pgoutput` were made by `capture.sh` there, from the oldest server
//! version that is supported, the newest, and one between.
// Helpers of tests may fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod captures;
mod content;
mod hostile;
mod story;
mod tags;
