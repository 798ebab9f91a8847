//! `walpost replay`: sends chosen rows once more.

use super::arguments::ReplayRowsArguments;
use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Session, replay as replay_rows, since};

/// Asks for the rows through the log; a relay that runs sends them at once.
pub(super) async fn replay(arguments: &ReplayRowsArguments, config: &Config) -> Result<(), OutboxError> {
    let mut conditions = Vec::new();
    if let Some(time) = &arguments.since {
        conditions.push(since(&config.target, time)?);
    }
    if let Some(condition) = &arguments.condition {
        conditions.push(format!("({condition})"));
    }
    let session = Session::open_any(&config.database).await?;
    let count = replay_rows(&session, &config.target, &conditions.join(" AND ")).await?;
    output::say(&format!("{count} rows of {} are sent again", config.target.table));
    Ok(())
}
