//! The Postgres side: a replication connection, what it says, and where each row stands.

mod decode_error;
#[doc(hidden)]
pub mod pgoutput;
#[doc(hidden)]
pub mod reader;
#[doc(hidden)]
pub mod transaction;
#[doc(hidden)]
pub mod wal;

#[doc(hidden)]
pub use decode_error::DecodeError;
