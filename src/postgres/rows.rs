//! Rows that are sent through the log once more: those that were there before the slot, and those that somebody chooses.
//!
//! One transaction writes them into the log as messages, in the order in which they were inserted. So they have their
//! place among what is committed before and after, and nobody but the slot has to remember how far they have come.

use std::time::Duration;

use super::names::{Outbox, TableName, Target, quote_identifier, quote_literal};
use super::preflight::{Preflight, TableColumn};
use super::session::{Cells, Session, open_replication, sql_error};
use super::table::{ConditionTexts, emitted};
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
fn write_sql(target: &Target, part: &Part<'_>, condition: &str, mark: &str) -> String {
    let Part { outbox: Outbox { table, mapping }, columns, .. } = part;
    let members: Vec<_> = columns
        .iter()
        .map(|TableColumn { name, .. }| {
            let (key, column) = (serde_json::Value::from(name.as_str()).to_string(), quote_identifier(name));
            // A cast to text is not what the stream shows: of a char(n) it drops the blanks, to an inet it adds the mask.
            format!(
                "{} {AND} CASE WHEN r.{column} IS DISTINCT FROM NULL \
                 THEN pg_catalog.to_json(pg_catalog.format('%s', r.{column}))::text ELSE 'null' END",
                quote_literal(&format!("{key}:"))
            )
        })
        .collect();
    let prefix = quote_literal(&emitted::rows_prefix(table));
    format!(
        "SELECT pg_catalog.count(pg_catalog.pg_logical_emit_message(true, {prefix}, pg_catalog.convert_to({} \
         {AND} ',\"mark\":' {AND} coalesce(pg_catalog.to_json({mark}::text)::text, 'null') {AND} ',\"row\":{{' {AND} {} \
         {AND} '}}}}', 'UTF8'))) FROM {} s, (SELECT t.* FROM {} t WHERE {condition} ORDER BY {}) r",
        emitted::sealed("s"),
        members.join(&format!(" {AND} ',' {AND} ")),
        seal_table(target),
        part.rows_alone(),
        order(mapping, columns)
    )
}

/// Concatenation by the server's own operator: the statement stands beside a condition that looks for names where its writer
/// does.
const AND: &str = "OPERATOR(pg_catalog.||)";

fn seal_table(target: &Target) -> String {
    format!("{}.walpost_seal", quote_identifier(&target.main.table.schema))
}

/// An outbox, and the columns that its table has.
struct Part<'a> {
    outbox: &'a Outbox,
    columns: &'a [TableColumn],
    is_partitioned: bool,
    conditions: &'a [ConditionTexts],
}

impl Part<'_> {
    /// The table in a FROM clause: without the rows of tables that inherit from it, which the stream does not have either.
    fn rows_alone(&self) -> String {
        let table = &self.outbox.table;
        if self.is_partitioned { table.to_string() } else { format!("ONLY {table}") }
    }
}

/// Every outbox with the columns that were found.
fn parts<'a>(target: &'a Target, preflight: &'a Preflight) -> impl Iterator<Item = Part<'a>> {
    let parts = target.outboxes().zip(&preflight.tables);
    parts.map(|(outbox, survey)| Part {
        outbox,
        columns: &survey.columns,
        is_partitioned: survey.is_partitioned,
        conditions: preflight.column_types.conditions(&outbox.table),
    })
}

/// The order of insertion, as far as the table tells it.
fn order(mapping: &Mapping, columns: &[TableColumn]) -> String {
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

fn has(columns: &[TableColumn], column: &str) -> bool {
    columns.iter().any(|there| there.name == column)
}

/// The condition for rows that are not older than a point in time, as SQL writes it.
///
/// # Errors
/// The mapping names no column of times.
pub fn since(outbox: &Outbox, time: &str) -> Result<String, OutboxError> {
    bound(outbox, "--since", ">=", time)
}

/// The condition for rows that are older than a point in time.
///
/// # Errors
/// The same.
#[cfg(feature = "cli")]
pub(crate) fn until(outbox: &Outbox, time: &str) -> Result<String, OutboxError> {
    bound(outbox, "--until", "<", time)
}

fn bound(outbox: &Outbox, flag: &str, operator: &str, time: &str) -> Result<String, OutboxError> {
    let mapping = &outbox.mapping;
    let column = mapping.time_column().or(mapping.order.first().map(String::as_str));
    match column {
        Some(column) => Ok(format!("t.{} {operator} {}", quote_identifier(column), quote_literal(time))),
        None => Err(OutboxError::usage(
            format!("{flag}: the mapping of {} names no column of times", outbox.table),
            "choose the rows with --where, or name the column with --map-timestamp",
        )),
    }
}

/// The mapping's conditions in SQL, whose texts are compared as the server writes them.
fn pending(mapping: &Mapping, columns: &[TableColumn], written: &[ConditionTexts]) -> String {
    let condition = |(index, only): (usize, &Condition)| {
        let column = format!("t.{}", quote_identifier(&only.column));
        let is = written.get(index).map_or(&only.is, |texts| &texts.written);
        let texts: Vec<_> = is.iter().flatten().map(|text| quote_literal(text)).collect();
        let mut parts = Vec::new();
        if !texts.is_empty() {
            parts.push(format!("format('%s', {column}) IN ({})", texts.join(", ")));
        }
        if is.contains(&None) {
            parts.push(format!("{column} IS NULL"));
        }
        format!("({})", parts.join(" OR "))
    };
    let conditions: Vec<_> = mapping
        .only
        .iter()
        .enumerate()
        .filter(|(_, only)| !only.optional || has(columns, &only.column))
        .map(condition)
        .collect();
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

/// How values look as text, as the stream shows them.
pub(super) const AS_IN_THE_STREAM: &str = "SET LOCAL DateStyle = 'ISO'; SET LOCAL TimeZone = 'UTC'; \
     SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 3; SET LOCAL IntervalStyle = 'postgres'";

/// Makes the slot so that the rows which are there come first, and then what is committed from now on: no row is left
/// out, none comes twice. Of several tables, the rows of one come behind those of the other. Returns how many rows of each
/// table that are. Whoever inserts into one of the tables waits meanwhile.
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
) -> Result<Vec<i64>, OutboxError> {
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
        target.tables()
    );
    if let Err(error) = writer.client().batch_execute(&lock).await {
        let locked = error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE);
        return Err(if locked { slot::blocked(&keeper, &during).await } else { failed(error) });
    }
    // All that was committed in the table lies before this, all that will be, behind.
    let here = "SELECT pg_current_wal_insert_lsn()::text";
    let row = writer.query_one_row(&during, here).await?;
    let here: String = row.map_or_else(|| Ok(String::new()), |row| row.cell(0))?;
    let mut counts = Vec::new();
    for part in parts(target, preflight) {
        let condition = match which {
            Backfill::All => "true".to_owned(),
            _ => pending(&part.outbox.mapping, part.columns, part.conditions),
        };
        let row = writer.query_one_row(&during, &write_sql(target, &part, &condition, "NULL")).await?;
        counts.push(row.map_or(Ok(0), |row| row.cell(0))?);
    }
    writer.client().batch_execute("COMMIT").await.map_err(failed)?;

    let name = quote_literal(&target.slot);
    let run =
        async |call: String| keeper.client().batch_execute(&format!("SELECT {call}")).await.map_err(failed);
    run(format!("pg_replication_slot_advance('{temporary}', '{here}')")).await?;
    run(format!("pg_copy_logical_replication_slot('{temporary}', {name}, false)")).await?;
    if preflight.server_version >= 170_000
        && let Err(error) = make_failover(settings, target).await
    {
        // The next set-up would take it for one that is whole.
        run(format!("pg_drop_replication_slot({name})")).await?;
        return Err(error);
    }
    run(format!("pg_drop_replication_slot('{temporary}')")).await?;
    Ok(counts)
}

/// A copy of a slot does not fail over; only a replication connection can change that.
async fn make_failover(settings: &Settings, target: &Target) -> Result<(), OutboxError> {
    let mut last = OutboxError::usage("no host to connect to", "set PGHOST or the database URL");
    for endpoint in super::session::servers(settings).await {
        let mut connection = match open_replication(&endpoint).await {
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

/// Sends rows of a table once more: those that meet an SQL condition, in which the table's alias is `t`. Each bears the header
/// `walpost.replay`. Returns how many that are.
///
/// # Errors
/// The condition is not valid, a right is missing, or there is no seal.
pub async fn replay(
    session: &Session,
    target: &Target,
    table: &TableName,
    condition: &str,
) -> Result<i64, OutboxError> {
    let during = format!("replaying rows of {table}");
    let preflight = super::preflight::inspect(session, target).await?.passed()?;
    if preflight.seal.secret.is_none() {
        let what = format!("there is no {}, by which the relay knows what it may send", seal_table(target));
        return Err(OutboxError::definite(what, "run `walpost setup` again: it makes what is missing"));
    }
    let Some(part) = parts(target, &preflight).find(|part| part.outbox.table == *table) else {
        return Err(OutboxError::usage(
            format!("{table} is none of the relay's tables"),
            format!("name one of {}", target.tables()),
        ));
    };
    session.be_durable().await?;
    // The condition means what it means to whoever wrote it.
    let begin = format!("BEGIN; {AS_IN_THE_STREAM}; SET LOCAL search_path TO DEFAULT");
    session.client().batch_execute(&begin).await.map_err(|error| sql_error(&during, error))?;
    let sql = write_sql(target, &part, &format!("({condition})"), "pg_catalog.now()");
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
        assert_eq!(pending(&mapping, &[], &[]), "true");
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
            pending(&mapping, &[], &[]),
            "(format('%s', t.status) IN ('NEW', 'it''s') OR t.status IS NULL) AND (t.\"Sent\" IS NULL)"
        );
        let written = ConditionTexts { written: is(&[Some("NEW  ")]), seen: is(&[Some("NEW")]) };
        mapping.only.truncate(1);
        assert_eq!(pending(&mapping, &[], &[written]), "(format('%s', t.status) IN ('NEW  '))");
        let column = |name: &str| TableColumn { name: name.to_owned(), ..TableColumn::default() };
        assert_eq!(order(&mapping, &[column("created_at")]), "t.created_at, t.tableoid, t.ctid");
        assert_eq!(order(&mapping, &[]), "t.tableoid, t.ctid");
        mapping.order = vec!["created_at".to_owned(), "gone".to_owned(), "id".to_owned()];
        let columns = [column("id"), column("created_at")];
        assert_eq!(order(&mapping, &columns), "t.created_at, t.id, t.tableoid, t.ctid");
    }
}
