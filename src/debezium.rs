//! Debezium's outbox: a connector's own configuration, and the records that it makes of rows, byte for byte.
//!
//! ```text
//! file ─► options ─► contract ─► plan (with a table's columns) ─► event (of a row)
//! ```
//! The rules are those of Debezium 3.6 and of Kafka Connect 4: the connector's types, the outbox event router, and the
//! converters. An option that is not reproduced is refused by name. Nothing here knows a table's real columns, reads files
//! or sends anything.

mod column;
mod contract;
mod convert;
mod converters;
mod datum;
mod default;
mod expand;
mod json;
mod known;
mod modes;
mod number;
mod options;
mod outbox;
mod plan;
mod properties;
mod route;
mod schema;
mod time;

pub(crate) use column::ColumnFacts;
pub(crate) use contract::Contract;
pub(crate) use options::Options;
pub(crate) use plan::{Plan, PlanError};
