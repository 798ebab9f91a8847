//! Walpost posts a Postgres outbox to Kafka straight from the write-ahead log.
#![forbid(unsafe_code)]

pub mod error;
pub mod lsn;
pub mod message;
pub mod publisher;
pub mod store;
pub mod vitals;

pub use error::OutboxError;
pub use lsn::{Lsn, Position};
pub use message::{OutboxMessage, OutboxStatus, Payload};
pub use publisher::{Headers, Offer, OutboxPublisher, Receipt, Record, Ticket};
pub use store::{Batch, Change, OutboxStore};
pub use vitals::{State, Vitals};
