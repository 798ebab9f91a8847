//! The table of rows whose time is still to come, as the relay uses it.
//!
//! A row is kept under its position in the log, so that one that comes again is not held a second time. When its time has
//! come, one transaction writes it into the log once more and marks it released.

use std::time::{Duration, SystemTime};

use tokio_postgres::types::{PgLsn, Timestamp, ToSql};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::Later;
use super::dead_letters::pair;
use super::emitted::ROWS;
use super::letter::Rights;
use super::rights;
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::postgres::lookout::no_longer_held;
use crate::postgres::names::{TableName, Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session, sql_error};

/// So many rows are stored at once, and released.
const MOST_ROWS: usize = 1_000;
/// At so many bytes it is done before that.
const MOST_BYTES: usize = 4 << 20;
/// After the year 9999, in microseconds since 1970, is never.
const NEVER: i64 = 253_402_300_800_000_000;

/// A row that is to be sent later.
#[derive(Debug)]
pub(crate) struct HeldRow {
    /// Where it stands in the log.
    pub(crate) position: Position,
    /// The table that it was inserted into, as SQL writes it.
    pub(crate) source: String,
    /// When it was asked to be sent again, if it was.
    pub(crate) mark: Option<String>,
    pub(crate) later: Later,
}

/// Rows that are stored together.
#[derive(Debug, Default)]
pub(crate) struct HeldRows {
    rows: Vec<HeldRow>,
    bytes: usize,
}

impl HeldRows {
    pub(crate) fn push(&mut self, row: HeldRow) {
        self.bytes += row.later.content.len();
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// No more shall be pushed.
    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= MOST_ROWS || self.bytes >= MOST_BYTES
    }
}

/// What waits in the table for one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many rows.
    pub rows: i64,
    /// When the first of them is due.
    pub next: Option<String>,
}

/// What the relay sees of the server when it looks for rows that are due.
#[derive(Debug)]
pub(crate) struct Look {
    /// The server's clock, as SQL writes it.
    pub(crate) clock: String,
    /// How long it is until a row is due.
    pub(crate) rest: Duration,
    /// How far the log was: what is committed behind it is due after the clock's time, if it is to be sent later.
    pub(crate) log: Lsn,
}

impl Waiting {
    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let next = self.next.as_deref().unwrap_or("never");
        match self.rows {
            0 => "no row waits".to_owned(),
            1 => format!("1 row waits, due {next}"),
            rows => format!("{rows} rows wait, the next due {next}"),
        }
    }
}

/// One relay's rows.
#[derive(Clone, Debug)]
pub struct ScheduledTable {
    name: TableName,
    /// By which the relay knows what it may send.
    seal: String,
    slot: String,
    /// The session that reads the slot for this relay. Once it does not any more, nothing is written.
    reader: i32,
}

impl ScheduledTable {
    /// The table beside the outbox table. Nothing is looked at yet.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        let schema = target.main.table.schema.clone();
        let seal = format!("{}.walpost_seal", quote_identifier(&schema));
        let name = TableName { schema, name: "scheduled".to_owned() };
        ScheduledTable { name, seal, slot: target.slot.clone(), reader: 0 }
    }

    /// The same table, for the relay whose stream is the server's process `reader`.
    pub(crate) fn read_by(&self, reader: i32) -> Self {
        ScheduledTable { reader, ..self.clone() }
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// What the login may do; `None` when there is no such table. Only the catalog is read.
    ///
    /// # Errors
    /// The catalog can't be read.
    pub async fn rights(&self, session: &Session) -> Result<Option<Rights>, OutboxError> {
        rights::of(session, &self.name).await
    }

    /// What is missing, as a definite error with its mend; these rights are needed.
    ///
    /// # Errors
    /// That error.
    pub fn require(&self, rights: Option<&Rights>, needed: &[&str]) -> Result<(), OutboxError> {
        rights::require(&self.name, rights, needed)
    }

    /// Whether it is the table that `walpost setup` makes, and not another one of that name.
    pub(crate) async fn is_known(&self, session: &Session) -> Result<bool, OutboxError> {
        let sql = format!(
            "SELECT count(*) = 4 FROM pg_attribute WHERE attrelid = {}::regclass AND NOT attisdropped \
             AND attname IN ('slot', 'commit_lsn', 'due', 'released_at')",
            quote_literal(&self.name.to_string())
        );
        let row = session.query_one_row("reading the catalog", &sql).await?;
        row.map_or(Ok(false), |row| row.cell(0))
    }

    /// What waits.
    ///
    /// # Errors
    /// The table can't be read.
    pub async fn waiting(&self, session: &Session) -> Result<Waiting, OutboxError> {
        let sql = format!(
            "SELECT count(*), min(due)::text FROM {} WHERE slot = {} AND released_at IS NULL",
            self.name,
            quote_literal(&self.slot)
        );
        match session.query_one_row("counting rows that are due later", &sql).await? {
            Some(row) => Ok(Waiting { rows: row.cell(0)?, next: row.cell(1)? }),
            None => Ok(Waiting::default()),
        }
    }

    /// Which of these rows wait, by the text of their ids.
    #[cfg(feature = "cli")]
    pub(crate) async fn among(&self, session: &Session, ids: &[String]) -> Result<Vec<String>, OutboxError> {
        let sql = format!(
            "SELECT DISTINCT id FROM {} WHERE slot = $1::text AND id = ANY ($2::text[]) AND released_at IS NULL",
            self.name
        );
        let rows = session.client().query(&sql, &[&self.slot, &ids]).await;
        let rows = rows.map_err(|error| sql_error("looking for rows that are due later", error))?;
        rows.iter().map(|row| row.cell(0)).collect()
    }

    /// Stores rows; durable when it returns. Those that are there, or were, stay as they are.
    pub(crate) async fn hold(&self, client: &Client, held: &HeldRows) -> Result<(), OutboxError> {
        let column = Columns::of(&held.rows);
        let sql = format!(
            "WITH held AS MATERIALIZED (SELECT {} AS yes), done AS ( \
               INSERT INTO {} (slot, commit_lsn, index, id, due, source, content, mark) \
               SELECT $1::text, n.commit_lsn, n.index, n.id, n.due, n.source, n.content::json, n.mark \
               FROM unnest($2::pg_lsn[], $3::int8[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[]) \
               AS n (commit_lsn, index, id, due, source, content, mark) WHERE (SELECT yes FROM held) \
               ON CONFLICT (slot, commit_lsn, index, id) DO NOTHING) \
             SELECT yes FROM held",
            self.is_ours(),
            self.name
        );
        let row = client.query_one(&sql, &column.parameters(&self.slot)).await;
        if row.map_err(|error| self.failed(error))?.cell(0)? {
            Ok(())
        } else {
            Err(no_longer_held(&self.slot))
        }
    }

    /// Writes the next rows that were due at that time into the log, in the order of their times. Returns how many that
    /// are.
    ///
    /// What somebody has locked, to change or cancel it, is passed over.
    pub(crate) async fn release(&self, client: &Client, at: &str) -> Result<u64, OutboxError> {
        let (table, seal, slot) = (&self.name, &self.seal, quote_literal(&self.slot));
        // A relay that has just died may still be releasing: its rows go first. Under a lock of their own, since a
        // statement sees what was committed before it began.
        let sql = format!(
            "SELECT pg_advisory_xact_lock(hashtext('walpost.scheduled'), hashtext({slot})); \
             WITH held AS MATERIALIZED (SELECT {} AS yes), sealed AS MATERIALIZED (SELECT secret FROM {seal}), \
             next AS MATERIALIZED (SELECT ctid AS place, due, commit_lsn, index, source, content, mark, \
               pg_column_size(content) AS size FROM {table} WHERE (SELECT yes FROM held) AND EXISTS (SELECT FROM sealed) \
               AND slot = {slot} AND released_at IS NULL AND due <= {} \
               ORDER BY due, commit_lsn, index LIMIT {MOST_ROWS} FOR UPDATE SKIP LOCKED), \
             chosen AS MATERIALIZED (SELECT * FROM (SELECT *, sum(size) OVER (ORDER BY due, commit_lsn, index) AS total \
               FROM next) sized WHERE total <= {MOST_BYTES} OR total = size), \
             written AS MATERIALIZED (SELECT count(pg_logical_emit_message(true, '{ROWS}' || r.source, convert_to( \
               '{{\"seal\":' || to_json(s.secret) || ',\"mark\":' || coalesce(to_json(r.mark)::text, 'null') \
               || ',\"released\":' || to_json({slot}::text) || ',\"row\":' || r.content::text || '}}', 'UTF8'))) AS rows \
               FROM sealed s, (SELECT * FROM chosen ORDER BY due, commit_lsn, index) r), \
             marked AS (UPDATE {table} SET released_at = now(), content = NULL \
               WHERE ctid = ANY (ARRAY(SELECT place FROM chosen)) RETURNING 1) \
             SELECT (SELECT yes FROM held), EXISTS (SELECT FROM sealed), (SELECT rows FROM written), \
               (SELECT count(*) FROM marked)",
            self.is_ours(),
            quote_literal(at)
        );
        let row = self.last_row(client, &sql).await?;
        let value = |index: usize| row.as_ref().and_then(|row| row.try_get(index).ok()?).unwrap_or_default();
        if value(0) != "t" {
            return Err(no_longer_held(&self.slot));
        }
        if value(1) != "t" {
            let advice = "run `walpost setup` again: it makes what is missing";
            return Err(OutboxError::definite(format!("{seal} is empty"), advice));
        }
        Ok(value(2).parse().unwrap_or_default())
    }

    /// Removes what was released long ago and can't come again, and looks when the next row is due.
    pub(crate) async fn look(&self, client: &Client) -> Result<Look, OutboxError> {
        let (table, slot) = (&self.name, quote_literal(&self.slot));
        let sql = format!(
            "DELETE FROM {table} WHERE {} AND ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE slot = {slot} \
               AND released_at < now() - interval '1 day' AND commit_lsn < \
               (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = {slot}) LIMIT {MOST_ROWS})); \
             SELECT clock, extract(epoch FROM least((SELECT min(due) FROM {table} WHERE slot = {slot} \
               AND released_at IS NULL), clock + interval '1 hour') - clock)::float8, pg_current_wal_flush_lsn() \
             FROM (SELECT clock_timestamp() AS clock OFFSET 0) now",
            self.is_ours()
        );
        let row = self.last_row(client, &sql).await?;
        let value = |index: usize| row.as_ref().and_then(|row| row.try_get(index).ok()?).unwrap_or_default();
        let (seconds, log) = (value(1).parse::<f64>().ok(), value(2).parse().ok());
        let (Some(seconds), Some(log)) = (seconds, log) else {
            return Err(OutboxError::protocol(
                "the server's answer can't be read",
                "no time, or no position",
            ));
        };
        let rest = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Ok(Look { clock: value(0).to_owned(), rest, log })
    }

    fn is_ours(&self) -> String {
        format!(
            "EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {} AND active_pid = {})",
            quote_literal(&self.slot),
            self.reader
        )
    }

    /// Several statements are one transaction, which ends on the server, whatever becomes of this process.
    async fn last_row(&self, client: &Client, sql: &str) -> Result<Option<SimpleQueryRow>, OutboxError> {
        let answer = client.simple_query(sql).await.map_err(|error| self.failed(error))?;
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.last())
    }

    fn failed(&self, error: tokio_postgres::Error) -> OutboxError {
        let code = error.code().cloned();
        let failed = sql_error(&format!("keeping rows for later in {}", self.name), error);
        rights::advised(&self.name, code.as_ref(), failed)
    }
}

/// Rows column by column, since one statement stores them all.
#[derive(Default)]
struct Columns<'a> {
    lsns: Vec<PgLsn>,
    indexes: Vec<i64>,
    ids: Vec<&'a str>,
    dues: Vec<Timestamp<SystemTime>>,
    sources: Vec<&'a str>,
    contents: Vec<&'a str>,
    marks: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a [HeldRow]) -> Self {
        let mut columns = Columns::default();
        for row in rows {
            let (lsn, index) = pair(row.position);
            columns.lsns.push(lsn);
            columns.indexes.push(index);
            columns.ids.push(&row.later.id);
            columns.dues.push(time(row.later.due));
            columns.sources.push(&row.source);
            columns.contents.push(&row.later.content);
            columns.marks.push(row.mark.as_deref());
        }
        columns
    }

    fn parameters<'p>(&'p self, slot: &'p String) -> [&'p (dyn ToSql + Sync); 8] {
        [slot, &self.lsns, &self.indexes, &self.ids, &self.dues, &self.sources, &self.contents, &self.marks]
    }
}

fn time(due: i64) -> Timestamp<SystemTime> {
    let since = Duration::from_micros(due.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if due < 0 { epoch.checked_sub(since) } else { epoch.checked_add(since) };
    time.filter(|_| due < NEVER).map_or(Timestamp::PosInfinity, Timestamp::Value)
}
