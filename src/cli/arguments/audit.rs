//! Arguments of `walpost audit`.

use clap::Args;

use super::shared::{DatabaseArguments, KafkaArguments, MappingArguments};
use crate::config::Layer;
use crate::error::OutboxError;

/// Arguments of `walpost audit`.
#[derive(Args)]
pub struct AuditArguments {
    /// Rows that were written at this time or later, such as '2026-11-28 22:00+01'
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Rows that were written before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Judge only records at this position of the log or behind it, such as 16/B374D848 (header walpost.lsn)
    ///
    /// A row does not tell its position, its record does. So a row is left out, as outside, if its record lies outside of the
    /// range; one that is in no topic is told as lost whatever the range is.
    #[arg(long, value_name = "LSN")]
    pub from_lsn: Option<String>,
    /// Judge only records before this position
    #[arg(long, value_name = "LSN")]
    pub to_lsn: Option<String>,
    /// A condition in SQL over the table's columns, whose alias is t, such as "topic = 'orders'"
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// One table alone, if there are several
    #[arg(long, value_name = "NAME")]
    pub of: Option<String>,
    /// Show so many examples of each fault
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub show: u16,
    /// Print one JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(super) database: DatabaseArguments,
    #[command(flatten)]
    pub(super) mapping: MappingArguments,
    #[command(flatten)]
    pub(super) kafka: KafkaArguments,
}

impl AuditArguments {
    /// The settings among them that `walpost replay` takes as well.
    pub(in crate::cli) fn settings_of_replay(&self) -> Result<Layer, OutboxError> {
        let mut layer = Layer::default();
        self.database.put_into(&mut layer)?;
        self.mapping.put_into(&mut layer);
        Ok(layer)
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  walpost audit
  walpost audit --since '2026-11-28 22:00+01' --until '2026-11-29 06:00+01' --json
  walpost audit --from-lsn 16/B374D848
  walpost audit --where \"topic = 'orders'\" --show 100";
