//! Both ends in memory, for tests of code that uses the outbox and of the processor itself.
//!
//! [`MemoryStore`] is a log that commits and rolls back; [`MemoryPublisher`] is a topic whose faults are
//! scripted: each is queued, used once, and then forgotten.

mod publisher;
mod store;

pub use publisher::{Fault, MemoryPublisher, MemoryTopic, StoredRecord};
pub use store::{MemoryStore, MemoryTransaction};
