//! Rows that are sent through the log once more: those that were there before the slot, and those that somebody chooses.
//!
//! One transaction writes them into the log as messages, in the order in which they were inserted. So they have their
//! place among what is committed before and after, and nobody but the slot has to remember how far they have come.

use std::time::Duration;

use super::names::{TableName, Target, quote_identifier, quote_literal};
use super::preflight::Preflight;
use super::session::{Cells, Session, open_replication, sql_error};
use super::table::emitted;
use super::{settings::Settings, slot};
use crate::error::OutboxError;
use crate::mapping::{Condition, Mapping};

/// How long taking the lock may wait for transactions that are writing to the table.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// Which rows that are there before the slot is made are sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backfill {
    /// None.
    None,
    /// Those that the mapping's conditions let pass.
    Pending,
    /// All.
    All,
}

/// The statement that writes rows into the log and counts them. They bear `mark`, an SQL expression.
fn write_sql(target: &Target, columns: &[(String, u32)], condition: &str, mark: &str) -> String {
    let members: Vec<_> = columns
        .iter()
        .map(|(name, _)| {
            let (key, column) = (serde_json::Value::from(name.as_str()).to_string(), quote_identifier(name));
            format!(
                "{} || coalesce(to_json(r.{column}::text)::text, 'null')",
                quote_literal(&format!("{key}:"))
            )
        })
        .collect();
    let prefix = quote_literal(&emitted::rows_prefix(&target.table));
    format!(
        "SELECT count(pg_logical_emit_message(true, {prefix}, convert_to('{{\"seal\":' || to_json(s.secret) || ',\"mark\":' \
         || coalesce(to_json({mark}::text)::text, 'null') || ',\"row\":{{' || {} || '}}}}', 'UTF8'))) \
         FROM {} s, (SELECT t.* FROM {} t WHERE {condition} ORDER BY {}) r",
        members.join(" || ',' || "),
        seal_table(&target.table),
        target.table,
        order(&target.mapping, columns)
    )
}

fn seal_table(table: &TableName) -> String {
    format!("{}.walpost_seal", quote_identifier(&table.schema))
}

/// The order of insertion, as far as the table tells it.
fn order(mapping: &Mapping, columns: &[(String, u32)]) -> String {
    let told = if mapping.order.is_empty() {
        mapping.time_column().into_iter().collect()
    } else {
        mapping.order.iter().map(String::as_str).collect::<Vec<_>>()
    };
    let there = told.into_iter().filter(|told| has(columns, told));
    let mut order: Vec<_> = there.map(|column| format!("t.{}", quote_identifier(column))).collect();
    order.push("t.tableoid, t.ctid".to_owned());
    order.join(", ")
}

fn has(columns: &[(String, u32)], column: &str) -> bool {
    columns.iter().any(|(name, _)| name == column)
}

/// The condition for rows that are not older than a point in time, as SQL writes it.
///
/// # Errors
/// The mapping names no column of times.
pub fn since(target: &Target, time: &str) -> Result<String, OutboxError> {
    let column = target.mapping.time_column().or(target.mapping.order.first().map(String::as_str));
    match column {
        Some(column) => Ok(format!("t.{} >= {}", quote_identifier(column), quote_literal(time))),
        None => Err(OutboxError::usage(
            "--since: the mapping names no column of times",
            "choose the rows with --where, or name the column with --map-timestamp",
        )),
    }
}

/// The mapping's conditions in SQL.
fn pending(mapping: &Mapping, columns: &[(String, u32)]) -> String {
    let condition = |only: &Condition| {
        let column = format!("t.{}", quote_identifier(&only.column));
        let texts: Vec<_> = only.is.iter().flatten().map(|text| quote_literal(text)).collect();
        let mut parts = Vec::new();
        if !texts.is_empty() {
            parts.push(format!("{column}::text IN ({})", texts.join(", ")));
        }
        if only.is.contains(&None) {
            parts.push(format!("{column} IS NULL"));
        }
        format!("({})", parts.join(" OR "))
    };
    let conditions: Vec<_> = mapping
        .only
        .iter()
        .filter(|only| !only.optional || has(columns, &only.column))
        .map(condition)
        .collect();
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

/// How values look as text, as the stream shows them.
const AS_IN_THE_STREAM: &str = "SET LOCAL DateStyle = 'ISO'; SET LOCAL TimeZone = 'UTC'; SET LOCAL bytea_output = 'hex'; \
     SET LOCAL extra_float_digits = 3; SET LOCAL IntervalStyle = 'postgres'";

/// Makes the slot so that the rows which are there come first, and then what is committed from now on: no row is left
/// out, none comes twice. Returns how many rows that are. Whoever inserts into the table waits meanwhile.
///
/// All is done or nothing: the slot gets its name last.
///
/// # Errors
/// Older transactions go on writing, a right is missing, or the session broke.
pub async fn make_slot_with_rows(
    settings: &Settings,
    target: &Target,
    preflight: &Preflight,
    which: Backfill,
) -> Result<i64, OutboxError> {
    let during = format!("making slot {}", target.slot);
    let failed = |error| sql_error(&during, error);
    // It goes away with its session.
    let keeper = Session::open_any(settings).await?;
    let temporary = format!("walpost_{:016x}", fastrand::u64(..));
    slot::create_temporary(&keeper, &temporary).await?;

    let writer = Session::open_any(settings).await?;
    writer.be_durable().await?;
    let lock = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; {AS_IN_THE_STREAM}; LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
        LOCK_TIMEOUT.as_millis(),
        target.table
    );
    if let Err(error) = writer.client().batch_execute(&lock).await {
        let locked = error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE);
        return Err(if locked { slot::blocked(&keeper, &during).await } else { failed(error) });
    }
    // All that was committed in the table lies before this, all that will be, behind.
    let here = "SELECT pg_current_wal_insert_lsn()::text";
    let row = writer.query_one_row(&during, here).await?;
    let here: String = row.map_or_else(|| Ok(String::new()), |row| row.cell(0))?;
    let condition =
        if which == Backfill::All { "true".to_owned() } else { pending(&target.mapping, &preflight.columns) };
    let row =
        writer.query_one_row(&during, &write_sql(target, &preflight.columns, &condition, "NULL")).await?;
    let count: i64 = row.map_or(Ok(0), |row| row.cell(0))?;
    writer.client().batch_execute("COMMIT").await.map_err(failed)?;

    let name = quote_literal(&target.slot);
    let finish = format!(
        "SELECT pg_replication_slot_advance('{temporary}', '{here}'); \
         SELECT pg_copy_logical_replication_slot('{temporary}', {name}, false); SELECT pg_drop_replication_slot('{temporary}')"
    );
    for statement in finish.split("; ") {
        keeper.client().batch_execute(statement).await.map_err(failed)?;
    }
    if preflight.server_version >= 170_000 {
        make_failover(settings, target).await?;
    }
    Ok(count)
}

/// A copy of a slot does not fail over; only a replication connection can change that.
async fn make_failover(settings: &Settings, target: &Target) -> Result<(), OutboxError> {
    let mut last = OutboxError::usage("no host to connect to", "set PGHOST or the database URL");
    for config in super::session::servers(settings).await {
        let mut connection = match open_replication(&config).await {
            Ok(connection) => connection,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let command = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", quote_identifier(&target.slot));
        connection.first_row("letting the slot fail over", &command).await?;
        return Ok(());
    }
    Err(last)
}

/// Sends rows once more: those that meet an SQL condition over the table, whose alias is `t`. Each bears the header
/// `walpost.replay`. Returns how many that are.
///
/// # Errors
/// The condition is not valid, a right is missing, or there is no seal.
pub async fn replay(session: &Session, target: &Target, condition: &str) -> Result<i64, OutboxError> {
    let during = format!("replaying rows of {}", target.table);
    let preflight = super::preflight::inspect(session, target).await?.passed()?;
    if preflight.seal.secret.is_none() {
        let what =
            format!("there is no {}, by which the relay knows what it may send", seal_table(&target.table));
        return Err(OutboxError::definite(what, "run `walpost setup` again: it makes what is missing"));
    }
    session.be_durable().await?;
    let begin = format!("BEGIN; {AS_IN_THE_STREAM}");
    session.client().batch_execute(&begin).await.map_err(|error| sql_error(&during, error))?;
    let sql = write_sql(target, &preflight.columns, &format!("({condition})"), "now()");
    let row = session.query_one_row(&during, &sql).await?;
    let count = row.map_or(Ok(0), |row| row.cell(0))?;
    session.client().batch_execute("COMMIT").await.map_err(|error| sql_error(&during, error))?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_become_sql() {
        let is = |texts: &[Option<&str>]| texts.iter().map(|text| text.map(str::to_owned)).collect();
        let mut mapping = Mapping::clone(&Mapping::walpost());
        assert_eq!(pending(&mapping, &[]), "true");
        mapping.only = vec![
            Condition {
                column: "status".to_owned(),
                optional: false,
                is: is(&[Some("NEW"), Some("it's"), None]),
            },
            Condition { column: "Sent".to_owned(), optional: false, is: is(&[None]) },
            Condition { column: "abandoned_at".to_owned(), optional: true, is: is(&[None]) },
        ];
        assert_eq!(
            pending(&mapping, &[]),
            "(t.status::text IN ('NEW', 'it''s') OR t.status IS NULL) AND (t.\"Sent\" IS NULL)"
        );
        assert_eq!(order(&mapping, &[("created_at".to_owned(), 1184)]), "t.created_at, t.tableoid, t.ctid");
        assert_eq!(order(&mapping, &[]), "t.tableoid, t.ctid");
        mapping.order = vec!["created_at".to_owned(), "gone".to_owned(), "id".to_owned()];
        let columns = [("id".to_owned(), 2950), ("created_at".to_owned(), 1184)];
        assert_eq!(order(&mapping, &columns), "t.created_at, t.id, t.tableoid, t.ctid");
    }
}
