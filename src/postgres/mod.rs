//! The Postgres side: an [`OutboxStore`](crate::OutboxStore) that reads the write-ahead log through a
//! replication slot.
//!
//! ```text
//!   connection ─► wal ─► pgoutput ─► transaction ─► table ─► Change
//!     frames    envelope  messages     position     row
//! ```
//!
//! This is the only door to the folder: the rooms behind it know nothing of each other's neighbours.

pub(crate) mod array;
mod aside;
#[cfg(feature = "cli")]
mod audit;
mod auth;
mod begun;
mod connection;
mod decode_error;
#[cfg(feature = "cli")]
mod examination;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod identity;
mod intake;
mod late;
mod letters;
mod lookout;
mod names;
#[doc(hidden)]
pub mod pgoutput;
mod preflight;
mod publication;
mod ration;
#[doc(hidden)]
pub mod reader;
mod relations;
mod rows;
mod schedule;
mod session;
pub mod settings;
mod setup;
mod sight;
mod slot;
mod standing_by;
mod store;
mod table;
mod takeover;
#[cfg(feature = "tls")]
mod tls;
#[doc(hidden)]
pub mod transaction;
#[cfg(feature = "cli")]
mod unpublished;
#[doc(hidden)]
pub mod wal;
mod wire;
mod write_back;

#[cfg(feature = "cli")]
pub(crate) use audit::{AuditedRow, AuditedTables, Fate, Ordinal, Selection};
pub use decode_error::DecodeError;
#[cfg(feature = "cli")]
pub(crate) use examination::{examine, span};
pub use letters::DeadLetterSession;
pub use names::{Outbox, TableName, Target};
#[cfg(feature = "cli")]
pub(crate) use names::{quote_identifier, quote_literal};
#[cfg(feature = "cli")]
pub(crate) use preflight::inspect_readable;
pub use preflight::{
    Finding, Outcome, Preflight, inspect, inspect_dead_letters, inspect_waiting, inspect_write_back,
};
pub use rows::{Backfill, make_slot_with_rows, replay, since};
#[cfg(feature = "cli")]
pub(crate) use session::Cells;
pub use session::Session;
pub use settings::Settings;
#[cfg(feature = "cli")]
pub(crate) use setup::{as_found, as_told, made_sql, staying_sql};
pub use setup::{drop_table_sql, lag_sql, left_sql, setup_sql, setup_sql_without_slot, teardown_sql};
#[cfg(feature = "cli")]
pub(crate) use slot::{SEND_WHAT_IS_MISSING, make_anew, unsent};
#[cfg(feature = "cli")]
pub(crate) use standing_by::{StandingBy, standing_by};
pub use store::{ReplicationSource, ReplicationStore};
#[cfg(feature = "cli")]
pub(crate) use table::counted;
pub use table::{Asked, Chosen, DeadLetterOffice, Discarded, Extent, Letter, LetterState, Rights, Settled};
pub use table::{OutboxTable, ScheduledTable, Waiting, save};
#[cfg(feature = "cli")]
pub(crate) use unpublished::{Behind, Obstacle, Unpublished, look_behind};
