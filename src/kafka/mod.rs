//! The Kafka end of the road: records out through librdkafka, receipts back.
//!
//! ```text
//!   publish() ──► window ──► BaseProducer::send ──► librdkafka's threads ──► broker
//!                   ▲                                                         │
//!   receipts() ◄────┴── inbox ◄── delivery callback ◄── poll thread ◄─────────┘
//! ```
//! - Order: idempotence, no timeout, and nothing accepted after the first failure.
//! - Memory: the window counts what is in flight, keys and headers included, and frees room only
//!   together with the receipt.
//! - Latency: the callback wakes the reader of receipts itself, see `delivery`.

mod alone;
mod clock;
mod context;
mod dead_man;
mod delivery;
#[cfg(feature = "cli")]
mod examination;
mod guard;
#[cfg(feature = "cli")]
mod header_names;
mod introduction;
mod login;
mod partitioner;
mod probe;
mod producer;
#[cfg(feature = "cli")]
mod reader;
mod settings;
mod topics;
mod traces;
mod watch;
mod window;
mod words;

#[cfg(feature = "cli")]
pub(crate) use examination::{Compacted, TopicInUse, compacted, examine};
#[cfg(feature = "cli")]
pub(crate) use guard::{canonical, is_secret};
#[cfg(feature = "cli")]
pub(crate) use header_names::tell_unreadable_names;
pub use probe::{ProbeReport, probe};
pub use producer::KafkaPublisher;
#[cfg(feature = "cli")]
pub(crate) use reader::{Span, TopicReader};
pub use settings::KafkaSettings;
pub use topics::Topics;
