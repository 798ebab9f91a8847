//! `walpost teardown`: takes back what set-up made, the slot first.

use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{
    Cells, Outbox, Session, Target, drop_table_sql, left_sql, quote_identifier, teardown_sql,
};

/// Drops the slot and, unless others may read it, the publication, and on request the function and the table as well.
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
    if config.borrowed.slot {
        return Err(OutboxError::usage(
            format!("slot {} is the connector's own, as --debezium-config says", target.slot),
            format!(
                "say which one shall go: --slot with that of a trial, or --slot {} if the connector is gone",
                target.slot
            ),
        ));
    }
    let session = Session::open_any(&config.database).await?;
    let advice = "stop the relay that holds the slot, then run this again";
    session
        .run_script("tearing down", &teardown_sql(target, config.borrowed.publication)?)
        .await
        .map_err(|error| if error.is_slot_in_use() { error.with_advice(advice) } else { error })?;
    tell_what_is_left(&session, target, config.borrowed.publication).await?;
    if drop_table {
        session.run_script("dropping the table", &drop_table_sql(target)).await?;
        for outbox in made {
            output::say(&format!("table {} is gone", outbox.table));
        }
    }
    for Outbox { table, mapping } in foreign {
        let is_ours = mapping.made_by_setup;
        let how = if is_ours { "--drop-table drops it with its rows" } else { "its makers' to drop" };
        output::say(&format!("table {table} stays ({how})"));
    }
    Ok(())
}

/// A publication that others may need is still there.
async fn tell_what_is_left(session: &Session, target: &Target, is_borrowed: bool) -> Result<(), OutboxError> {
    let Target { slot, publication, .. } = target;
    let row = session.query_one_row("looking for the publication", &left_sql(target)).await?;
    let (is_left, readers): (bool, Option<String>) = match row {
        Some(row) => (row.cell(0)?, row.cell(1)?),
        None => (false, None),
    };
    if !is_left {
        output::say(&format!("slot {slot} and publication {publication} are gone"));
        return Ok(());
    }
    output::say(&format!("slot {slot} is gone"));
    let why = match readers {
        _ if is_borrowed => "it is the connector's, as --debezium-config says".to_owned(),
        Some(readers) => format!("slot {readers} of this database may be read with it"),
        None => "somebody has just made it".to_owned(),
    };
    output::say(&format!(
        "publication {publication} stays ({why}); if nobody needs it: DROP PUBLICATION {};",
        quote_identifier(publication)
    ));
    Ok(())
}
