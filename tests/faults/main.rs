//! Real faults, many times: the binary as a child process, PostgreSQL, Apache Kafka, and a breakable wire.
//!
//! `make faults` runs each scenario once with the counts of CI, `make soak` runs one for hours. docs/faults.md
//! says which fault is proven where.

// A test says "this must hold" with these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adjacent;
mod broker;
mod checker;
mod fast_stop;
mod ledger;
mod load;
mod network;
mod postgres_kill;
mod relay_kill;
mod road;
mod scenario;
#[path = "../it/support/mod.rs"]
mod support;
#[path = "../it/world.rs"]
#[allow(dead_code)]
mod world;
