//! Walpost posts a Postgres outbox to Kafka straight from the write-ahead log.
#![forbid(unsafe_code)]

// The binary's own rooms: public for `main`, and no part of the library's promises.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod config;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod demo;
pub mod error;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod lsn;
pub mod memory;
pub mod message;
pub mod postgres;
pub mod processor;
pub mod progress;
pub mod publisher;
#[cfg(feature = "kafka")]
pub mod relay;
pub mod router;
pub mod store;
pub mod supervisor;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod telemetry;
pub mod vitals;

pub use error::OutboxError;
#[cfg(feature = "kafka")]
pub use kafka::{KafkaPublisher, KafkaSettings};
pub use lsn::{Lsn, Position};
pub use message::{OutboxMessage, OutboxStatus, Payload};
pub use processor::{OutboxProcessor, Pace};
pub use publisher::{Headers, Offer, OutboxPublisher, Receipt, Record, Ticket};
#[cfg(feature = "kafka")]
pub use relay::Relay;
pub use store::{Batch, Change, OutboxStore};
pub use supervisor::{Ends, Supervisor};
pub use vitals::{State, Vitals};
