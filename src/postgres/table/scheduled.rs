//! The table of rows whose time is still to come, as the relay uses it.
//!
//! A row is kept under its position in the log, so that one that comes again is not held a second time. When its time has
//! come, one transaction writes it into the log once more and marks it released.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio_postgres::types::{PgLsn, Timestamp, ToSql};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::Later;
use super::dead_letters::pair;
use super::emitted::{self, ROWS};
use super::letter::Rights;
use super::rights;
use super::write_back::Snapshot;
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::postgres::lookout::no_longer_held;
use crate::postgres::names::{TableName, Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session, sql_error};

/// So many rows are stored at once, and released.
const MOST_ROWS: usize = 1_000;
/// At so many bytes it is done before that.
const MOST_BYTES: usize = 4 << 20;
/// So many tables are named.
const MOST_NAMES: usize = 10;
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
    /// The transaction that it came with, without an epoch.
    pub(crate) xid: u32,
    pub(crate) later: Later,
}

/// Rows that are stored together.
#[derive(Debug, Default)]
pub(crate) struct HeldRows {
    rows: Vec<HeldRow>,
    bytes: usize,
    /// The transactions that they came with.
    xids: Vec<u32>,
}

impl HeldRows {
    pub(crate) fn push(&mut self, row: HeldRow) {
        self.bytes += row.later.content.len();
        if self.xids.last() != Some(&row.xid) {
            self.xids.push(row.xid);
        }
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn are_seen_by(&self, snapshot: &str) -> Result<bool, OutboxError> {
        let snapshot = Snapshot::of_server(snapshot)?;
        Ok(self.xids.iter().all(|xid| snapshot.sees(*xid)))
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
    /// How many rows more wait of tables that the relay does not serve, and so can't send.
    pub unserved: BTreeMap<String, i64>,
}

/// As much of it as a starting relay has to know.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Whether a row waits.
    pub(crate) any: bool,
    /// Tables of which rows wait that this relay does not serve: some of them.
    pub(crate) unserved: Vec<String>,
}

/// What the relay sees of the server when it looks for rows that are due.
#[derive(Debug)]
pub(crate) struct Look {
    /// The server's clock, as SQL writes it.
    pub(crate) clock: String,
    /// How long it is until a row is due.
    pub(crate) rest: Duration,
    /// How long until the first one is that is not due yet.
    pub(crate) next: Duration,
    /// How far the log was: what is committed behind it is due after the clock's time, if it is to be sent later.
    pub(crate) log: Lsn,
}

impl Waiting {
    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let next = self.next.as_deref().unwrap_or("never");
        let waiting = match self.rows {
            0 => "no row waits".to_owned(),
            1 => format!("1 row waits, due {next}"),
            rows => format!("{rows} rows wait, the next due {next}"),
        };
        let unserved =
            self.unserved.iter().map(|(table, rows)| format!("; {rows} of {table}, which is not served"));
        waiting + &unserved.collect::<String>()
    }
}

/// One relay's rows.
#[derive(Clone, Debug)]
pub struct ScheduledTable {
    name: TableName,
    /// By which the relay knows what it may send.
    seal: String,
    slot: String,
    /// The tables that this relay serves, as an array in SQL: only their rows can be sent.
    sources: String,
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
        let sources = format!("ARRAY[{}]", target.list(|table| quote_literal(&table.to_string()), ", "));
        ScheduledTable { name, seal, slot: target.slot.clone(), sources, reader: 0 }
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
            "SELECT source, count(*), source = ANY ({}) FROM {} WHERE {} GROUP BY source",
            self.sources,
            self.name,
            self.waits()
        );
        let rows = session.client().query(&sql, &[]).await;
        let mut waiting = Waiting::default();
        for row in rows.map_err(|error| sql_error("counting rows that are due later", error))? {
            if row.cell(2)? {
                waiting.rows += row.cell::<i64, _>(1)?;
            } else if waiting.unserved.len() < MOST_NAMES {
                waiting.unserved.insert(row.cell(0)?, row.cell(1)?);
            }
        }
        if waiting.rows > 0 {
            waiting.next = self.next(session).await?;
        }
        Ok(waiting)
    }

    /// When the next row that is served is due.
    async fn next(&self, session: &Session) -> Result<Option<String>, OutboxError> {
        let sql = format!("SELECT min(due)::text FROM {} WHERE {}", self.name, self.waits_served());
        let row = session.query_one_row("looking for the next row that is due", &sql).await?;
        row.map_or(Ok(None), |row| row.cell(0))
    }

    /// Whether rows wait, and of which tables that are not served. Rows are not counted: a starting relay need not know.
    pub(crate) async fn found(&self, session: &Session) -> Result<Found, OutboxError> {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {0} WHERE {1}), \
             ARRAY(SELECT DISTINCT source FROM {0} WHERE {1} AND source <> ALL ({2}) ORDER BY source LIMIT {MOST_NAMES})",
            self.name,
            self.waits(),
            self.sources
        );
        let row = session.query_one_row("looking for rows that are due later", &sql).await?;
        row.map_or(Ok(Found::default()), |row| Ok(Found { any: row.cell(0)?, unserved: row.cell(1)? }))
    }

    /// What becomes of rows of a table that this relay does not serve, and the mend.
    pub(crate) fn unserved(&self, source: &str) -> (String, String) {
        let (table, slot, of) = (&self.name, quote_literal(&self.slot), quote_literal(source));
        let text = format!(
            "rows of {source} wait in {table}, and are not sent: this relay does not serve that table"
        );
        let advice = format!(
            "name it with --table as well; if it has another name by now: UPDATE {table} SET source = '<its name>' \
             WHERE slot = {slot} AND source = {of} AND released_at IS NULL; if they shall not be sent: \
             UPDATE {table} SET released_at = now(), content = NULL WHERE slot = {slot} AND source = {of} \
             AND released_at IS NULL;"
        );
        (text, advice)
    }

    /// The condition for rows that wait.
    fn waits(&self) -> String {
        format!("slot = {} AND released_at IS NULL", quote_literal(&self.slot))
    }

    /// The same of those that can be sent. One of a table that is not served would be written into the log for nobody.
    fn waits_served(&self) -> String {
        format!("{} AND source = ANY ({})", self.waits(), self.sources)
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

    /// Stores rows; durable when it returns. Those that are there, or were, stay as they are. Tells whether everybody can
    /// see by now what they were inserted with, see [`sees`](Self::sees).
    pub(crate) async fn hold(&self, client: &Client, held: &HeldRows) -> Result<bool, OutboxError> {
        let column = Columns::of(&held.rows);
        let sql = format!(
            "WITH held AS MATERIALIZED (SELECT {} AS yes), done AS ( \
               INSERT INTO {} (slot, commit_lsn, index, id, due, source, content, mark) \
               SELECT $1::text, n.commit_lsn, n.index, n.id, n.due, n.source, n.content::json, n.mark \
               FROM unnest($2::pg_lsn[], $3::int8[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[]) \
               AS n (commit_lsn, index, id, due, source, content, mark) WHERE (SELECT yes FROM held) \
               ON CONFLICT (slot, commit_lsn, index, id) DO NOTHING) \
             SELECT yes, pg_current_snapshot()::text FROM held",
            self.is_ours(),
            self.name
        );
        let row = client.query_one(&sql, &column.parameters(&self.slot)).await;
        let row = row.map_err(|error| self.failed(error))?;
        if row.cell(0)? { held.are_seen_by(row.cell(1)?) } else { Err(no_longer_held(&self.slot)) }
    }

    /// Whether everybody can see the transactions of these rows. The log tells of them before, and long before if a COMMIT
    /// waits for a standby.
    pub(crate) async fn sees(&self, client: &Client, held: &HeldRows) -> Result<bool, OutboxError> {
        let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await;
        held.are_seen_by(row.map_err(|error| self.failed(error))?.cell(0)?)
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
             WITH held AS MATERIALIZED (SELECT {} AS yes), sealed AS MATERIALIZED ({}), \
             next AS MATERIALIZED (SELECT ctid AS place, due, commit_lsn, index, source, content, mark, \
               pg_column_size(content) AS size FROM {table} WHERE (SELECT yes FROM held) AND EXISTS (SELECT FROM sealed) \
               AND {} AND due <= {} \
               ORDER BY due, commit_lsn, index LIMIT {MOST_ROWS} FOR UPDATE SKIP LOCKED), \
             chosen AS MATERIALIZED (SELECT * FROM (SELECT *, sum(size) OVER (ORDER BY due, commit_lsn, index) AS total \
               FROM next) sized WHERE total <= {MOST_BYTES} OR total = size), \
             written AS MATERIALIZED (SELECT count(pg_logical_emit_message(true, '{ROWS}' || r.source, convert_to( \
               {} || ',\"mark\":' || coalesce(to_json(r.mark)::text, 'null') \
               || ',\"released\":' || to_json({slot}::text) || ',\"row\":' || r.content::text || '}}', 'UTF8'))) AS rows \
               FROM sealed s, (SELECT * FROM chosen ORDER BY due, commit_lsn, index) r), \
             marked AS (UPDATE {table} SET released_at = now(), content = NULL \
               WHERE ctid = ANY (ARRAY(SELECT place FROM chosen)) RETURNING 1) \
             SELECT (SELECT yes FROM held), EXISTS (SELECT FROM sealed), (SELECT rows FROM written), \
               (SELECT count(*) FROM marked)",
            self.is_ours(),
            emitted::secret_sql(seal),
            self.waits_served(),
            quote_literal(at),
            emitted::sealed("s"),
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
        let (table, slot, waits) = (&self.name, quote_literal(&self.slot), self.waits_served());
        // An infinity can't be subtracted (before 17).
        let until = |due: &str| {
            format!(
                "(extract(epoch FROM least(greatest((SELECT coalesce(min(due), 'infinity') FROM {table} WHERE {waits}{due}), \
                 clock), clock + interval '1 hour') - clock) * 1000000)::bigint"
            )
        };
        let sql = format!(
            "DELETE FROM {table} WHERE {} AND ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE slot = {slot} \
               AND released_at < now() - interval '1 day' AND commit_lsn < \
               (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = {slot}) LIMIT {MOST_ROWS})); \
             SELECT clock, {}, {}, pg_current_wal_flush_lsn() FROM (SELECT clock_timestamp() AS clock OFFSET 0) now",
            self.is_ours(),
            until(""),
            until(" AND due > clock")
        );
        let row = self.last_row(client, &sql).await?;
        let value = |index: usize| row.as_ref().and_then(|row| row.try_get(index).ok()?).unwrap_or_default();
        let micros = |index: usize| value(index).parse().ok().map(Duration::from_micros);
        let (Some(rest), Some(next), Ok(log)) = (micros(1), micros(2), value(3).parse()) else {
            return Err(OutboxError::protocol(
                "the server's answer can't be read",
                "no time, or no position",
            ));
        };
        Ok(Look { clock: value(0).to_owned(), rest, next, log })
    }

    /// Writes a record of no meaning, so that the log has been written out behind all that was in it before, and is sent.
    pub(crate) async fn write_out(&self, client: &Client) -> Result<(), OutboxError> {
        let sql = "SELECT pg_logical_emit_message(true, 'walpost.mark', '')";
        client.batch_execute(sql).await.map_err(|error| self.failed(error))
    }

    /// Who has locked the first row that is due, as far as that can be seen.
    pub(crate) async fn locked_by(&self, client: &Client) -> Result<Option<String>, OutboxError> {
        let sql = format!(
            "SELECT format('PID %s of role %s', pid, coalesce(usename, '?')) FROM pg_stat_activity WHERE backend_xid = \
             (SELECT xmax FROM {} WHERE {} ORDER BY due, commit_lsn, index LIMIT 1)",
            self.name,
            self.waits_served()
        );
        let row = client.query_opt(&sql, &[]).await.map_err(|error| self.failed(error))?;
        row.map(|row| row.cell(0)).transpose()
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
