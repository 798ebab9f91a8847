//! The relay's loop and its supervisor between a model server and a model broker, under virtual time, with every
//! choice made by one seed.
//!
//! `WALPOST_SEEDS=100000` runs that many histories, from `WALPOST_FIRST_SEED` on, `WALPOST_SEED=…` one of them again, with all that happened.
//! A failure prints the command that repeats it.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when something does not hold")]

mod broker;
mod checker;
mod consumer;
mod dice;
mod ends;
mod letters;
mod log;
#[cfg(feature = "mutants")]
mod mutants;
mod poison;
mod processes;
mod rows;
mod run;
mod seeds;
mod server;
mod stream;
#[cfg(feature = "mutants")]
#[path = "../pgoutput/tags.rs"]
mod tags;
