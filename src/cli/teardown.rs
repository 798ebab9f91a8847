//! `walpost teardown`: takes back what set-up made, the slot first.

use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Outbox, Session, drop_table_sql, teardown_sql};

/// Drops the slot and the publication, and on request the function and the table as well.
pub(super) async fn teardown(config: &Config, drop_table: bool) -> Result<(), OutboxError> {
    let target = &config.target;
    let (made, foreign): (Vec<_>, Vec<_>) =
        target.outboxes().partition(|outbox| drop_table && outbox.mapping.made_by_setup);
    if drop_table && made.is_empty() {
        return Err(OutboxError::usage(
            format!("--drop-table: `walpost setup` has not made table {}", target.tables()),
            "leave it out; the table is its makers' to drop",
        ));
    }
    let session = Session::open_any(&config.database).await?;
    let advice = "stop the relay that holds the slot, then run this again";
    session
        .run_script("tearing down", &teardown_sql(target)?)
        .await
        .map_err(|error| if error.is_slot_in_use() { error.with_advice(advice) } else { error })?;
    output::say(&format!("slot {} and publication {} are gone", target.slot, target.publication));
    if drop_table {
        session.run_script("dropping the table", &drop_table_sql(target)).await?;
        for outbox in made {
            output::say(&format!("table {} is gone", outbox.table));
        }
    }
    for Outbox { table, .. } in foreign {
        let how = if drop_table { "its makers' to drop" } else { "--drop-table drops it with its rows" };
        output::say(&format!("table {table} stays ({how})"));
    }
    Ok(())
}
