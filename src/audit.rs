//! Whether topics hold what the rows of a table say: nothing lost, nothing changed, in order, and what came twice. Pure:
//! messages of rows and records of topics come in, an account goes out.
//!
//! ```text
//!   rows  ─► expect()   the record that each row should be, as 24 bytes
//!   topic ─► meet()     each record against its row
//!   log   ─► put_off()   what the relay has not confirmed yet is not lost
//!   rows  ─► ask()      once more: which rows are missing, and in what the others differ
//! ```
//! Bytes are compared by fingerprints, whose keys are chosen anew in every process.

mod compaction;
mod ledger;
mod partitions;
mod print;

pub(crate) use ledger::{Answer, Counts, Ledger, Range, Sample, SampleKind};
pub(crate) use partitions::Lead;
pub(crate) use print::Expected;

#[cfg(test)]
mod tests;
