//! `walpost teardown`: takes back what set-up made, the slot first.

use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{
    Cells, Outbox, Session, Target, as_found, drop_table_sql, left_sql, quote_identifier, staying_sql,
    teardown_sql,
};

/// Drops the slot and, unless others may read it, the publication, and on request the function and the table as well.
pub(super) async fn teardown(config: &Config, drop_table: bool) -> Result<(), OutboxError> {
    let target = &config.target;
    refuse_to_drop_others(target, drop_table)?;
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
    let target = &as_found(&session, target).await?;
    refuse_to_drop_others(target, drop_table)?;
    let advice = "stop the relay that holds the slot, then run this again";
    session
        .run_script("tearing down", &teardown_sql(target, config.borrowed.publication)?)
        .await
        .map_err(|error| if error.is_slot_in_use() { error.with_advice(advice) } else { error })?;
    tell_what_is_left(&session, target, config.borrowed.publication).await?;
    if drop_table {
        session.run_script("dropping the table", &drop_table_sql(target)).await?;
    }
    for Outbox { table, mapping } in target.outboxes() {
        output::say(&match (mapping.made_by_setup, drop_table) {
            (true, true) => format!("table {table} is gone"),
            (true, false) => format!("table {table} stays (--drop-table drops it with its rows)"),
            (false, _) => format!("table {table} stays (its makers' to drop)"),
        });
    }
    tell_what_stays(&session, target).await
}

/// Only a table that set-up has made goes with the rest.
fn refuse_to_drop_others(target: &Target, drop_table: bool) -> Result<(), OutboxError> {
    if !drop_table || target.outboxes().any(|outbox| outbox.mapping.made_by_setup) {
        return Ok(());
    }
    Err(OutboxError::usage(
        format!("--drop-table: `walpost setup` has not made table {}", target.tables()),
        "leave it out; the table is its makers' to drop",
    ))
}

/// Names what set-up has made besides and is still there, with the statements that remove it.
async fn tell_what_stays(session: &Session, target: &Target) -> Result<(), OutboxError> {
    let rows = session.client().query(&staying_sql(target), &[]).await;
    let rows = rows.map_err(|error| OutboxError::connection("looking at what is left", error))?;
    let mut role = None;
    let (mut names, mut drops) = (Vec::new(), Vec::new());
    for row in &rows {
        let (kind, name): (&str, String) = (row.cell(0)?, row.cell(1)?);
        match kind {
            "ROLE" | "OWNER" => role = Some((kind == "OWNER", name)),
            _ => {
                drops.push(format!("DROP {kind} {name};"));
                names.push(format!("{} {name}", kind.to_lowercase()));
            }
        }
    }
    if !names.is_empty() {
        let (names, drops) = (names.join(", "), drops.join(" "));
        output::say(&format!("these stay as well: {names}; if nobody needs them: {drops}"));
    }
    match role {
        None => {}
        Some((true, name)) => output::say(&format!(
            "role {name} stays, and owns something; if nobody needs it, once that is another's: DROP ROLE {name};"
        )),
        Some((false, name)) => output::say(&format!(
            "role {name} stays; if nobody needs it: DROP OWNED BY {name}; in each database in which it has rights, then \
             DROP ROLE {name};"
        )),
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
