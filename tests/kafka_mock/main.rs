//! The Kafka publisher against librdkafka's mock cluster: what it sends, in which order, and what it does when
//! brokers fail. The mock checks no sequence numbers and keeps nothing on disk, so durability and duplicate
//! detection are proved elsewhere, against a real broker.
#![cfg(feature = "kafka")]
#![allow(clippy::expect_used, reason = "clippy sees tests only in functions that are marked as such")]

mod contents;
mod harness;
mod outages;
mod refusals;
