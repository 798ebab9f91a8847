//! Walpost posts a Postgres outbox to Kafka straight from the write-ahead log.
//!
//! ```text
//!  Postgres                                                                      Kafka
//!    │ bytes                                                                       ▲
//!    ▼                                                                             │ records
//!  connection ─► wal ─► pgoutput ─► transaction ─► table ─┐         ┌─► router ─► kafka ─┐
//!   frames     envelope  messages    position      row →  │         │  topic, key…        │ receipts
//!    ▲                                      OutboxMessage └► processor ◄────────────────┘
//!    └────────── standby status ◄── confirmed Lsn ◄── progress ◄┘
//! ```
//!
//! # Promises
//! Every committed row reaches Kafka, whatever dies; a rolled-back row never does. Within a partition, first
//! arrivals are in commit order. Delivery is at-least-once, and each record carries its [`Position`], so that a
//! consumer drops repeats with one comparison. Memory is bounded by what is in flight.
//!
//! # For services
//! [`OutboxMessage`] and [`postgres::save`] inside your own transaction; the features `kafka` and `cli` are not
//! needed for it. The relay is the binary of the same name.
//!
//! # For whoever builds a relay of their own
//! The words are those of the outbox libraries. [`OutboxStore`] is the durable side, [`OutboxPublisher`] the
//! broker's, [`OutboxProcessor`] the loop between them, [`Supervisor`] what keeps it alive, and [`OutboxError`]
//! says whether trying again helps. A message's [`OutboxStatus`] is derived from positions. [`memory`] has both
//! ends for tests, with scripted faults.
#![deny(unsafe_code)]

#[cfg(feature = "cli")]
mod audit;
// The binary's own rooms: public for `main`, and no part of the library's promises.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "cli")]
mod comparison;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod config;
pub mod dead_letters;
#[cfg_attr(
    not(feature = "cli"),
    allow(dead_code, unused_imports, reason = "only the binary reads a connector's configuration")
)]
mod debezium;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod demo;
pub mod error;
mod finding;
// Doors for `fuzz/`, `tests/hostile/` and `benches/`, which feed bytes to rooms that are private; for nobody else.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "kafka")]
pub mod kafka;
mod lsn;
pub mod mapping;
pub mod memory;
pub mod message;
#[cfg(feature = "mutants")]
#[doc(hidden)]
pub mod mutants;
#[cfg(not(feature = "mutants"))]
mod mutants;
pub mod postgres;
pub mod processor;
pub mod progress;
pub mod publisher;
pub mod refusal;
#[cfg(feature = "kafka")]
pub mod relay;
pub mod router;
pub mod secret;
pub mod spans;
pub mod store;
pub mod supervisor;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod telemetry;
pub mod vitals;
pub mod write_back;

pub use dead_letters::{DeadLetter, DeadLetterStore, NoDeadLetters};
pub use error::OutboxError;
#[cfg(feature = "kafka")]
pub use kafka::{KafkaPublisher, KafkaSettings};
pub use lsn::{Lsn, Position};
pub use message::{OutboxMessage, OutboxStatus, Payload, RowKey};
pub use processor::{OutboxProcessor, Pace};
pub use publisher::{Headers, Offer, OutboxPublisher, Receipt, Record, Ticket};
pub use refusal::{OnRefusal, RetryConfig};
#[cfg(feature = "kafka")]
pub use relay::Relay;
pub use store::{Batch, Change, OutboxStore};
pub use supervisor::{Ends, Opening, Supervisor};
pub use vitals::{State, Vitals};
pub use write_back::{WriteBack, WriteBackMode};
