//! The operator's view of the dead letters. The relay parks and sends them; here they are looked at.

use tokio_postgres::Row;
use tokio_postgres::types::{PgLsn, ToSql};

use super::dead_letters::{pair, position};
use super::letter::{Extent, Letter, LetterState, Rights, Settled};
use super::rights;
use crate::error::OutboxError;
use crate::lsn::Position;
use crate::postgres::names::{TableName, Target};
use crate::postgres::session::{Cells, Session, sql_error};

/// How many letters are read at a time.
const PAGE: i64 = 500;
/// At how many bytes of key, headers and the like a page ends before that.
const PAGE_BYTES: i64 = 1 << 20;
/// How many bytes of a payload are read at a time.
const PART: i32 = 1 << 20;
/// How much of a long value is read for a list that people read: bytes or letters.
const GLANCE: i32 = 300;
/// How much otherwise. What is longer is no key and no error that anybody meant to read.
const WHOLE: i32 = 1 << 18;
const READING: &str = "reading dead letters";

/// The values of a statement's `$1`, `$2` and so on.
pub(super) type Parameters<'a> = Vec<&'a (dyn ToSql + Sync)>;

/// The table of dead letters, as far as it concerns one slot.
#[derive(Debug)]
pub struct DeadLetterOffice {
    table: TableName,
    pub(super) outbox: TableName,
    pub(super) slot: String,
}

impl DeadLetterOffice {
    /// The table beside the outbox table. Nothing is looked at yet.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        let table = TableName { schema: target.main.table.schema.clone(), name: "dead_letters".to_owned() };
        DeadLetterOffice { table, outbox: target.main.table.clone(), slot: target.slot.clone() }
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// What the login may do; `None` when there is no such table. Only the catalog is read.
    ///
    /// # Errors
    /// The catalog can't be read.
    pub async fn rights(&self, session: &Session) -> Result<Option<Rights>, OutboxError> {
        rights::of(session, &self.table).await
    }

    /// What is missing, as a definite error with its mend; these rights are needed.
    ///
    /// # Errors
    /// That error.
    pub fn require(&self, rights: Option<&Rights>, needed: &[&str]) -> Result<(), OutboxError> {
        rights::require(&self.table, rights, needed)
    }

    /// Whether letters can be read, and written if that is wanted.
    ///
    /// # Errors
    /// The table is missing, a grant is, or the server is a standby.
    pub async fn enter(&self, session: &Session, to_write: bool) -> Result<(), OutboxError> {
        let rights = self.rights(session).await?;
        let needed: &[&str] = if to_write { &["SELECT", "UPDATE"] } else { &["SELECT"] };
        self.require(rights.as_ref(), needed)?;
        if to_write && rights.is_some_and(|rights| rights.standby) {
            return Err(OutboxError::definite(
                "the server is a standby",
                "connect to the primary; with several hosts in the database URL, add target_session_attrs=primary",
            ));
        }
        Ok(())
    }

    /// How many letters are open.
    ///
    /// # Errors
    /// The table can't be read.
    pub async fn count_open(&self, session: &Session) -> Result<i64, OutboxError> {
        let sql = format!("SELECT count(*) FROM {} WHERE slot = $1::text AND done_at IS NULL", self.table);
        let row = session.client().query_one(&sql, &[&self.slot]).await;
        row.map_err(|error| sql_error("counting dead letters", error))?.cell(0)
    }

    /// The next letters after a position, in the order of the log; none when there are no more. Done ones are
    /// read `with_done`, if that was within the last day.
    ///
    /// # Errors
    /// The table can't be read.
    pub async fn page(
        &self,
        session: &Session,
        after: Option<Position>,
        topic: Option<&str>,
        with_done: bool,
        extent: Extent,
    ) -> Result<Vec<Letter>, OutboxError> {
        let (lsn, index) = after.map_or((PgLsn::from(0), -1), pair);
        // The sizes are known without reading the values. A page has at least one letter.
        let sizes = ["key", "headers", "unfit_value", "error"];
        let sizes = sizes.map(|name| format!("coalesce(octet_length({name}), 0)::int8"));
        let from = format!(
            "(SELECT *, sum(size) OVER (ORDER BY commit_lsn, index) AS total FROM (SELECT *, {} AS size FROM {} \
             WHERE slot = $1::text AND (commit_lsn, index) > ($4::pg_lsn, $5::int8) \
             AND ($6::text IS NULL OR topic = $6) \
             AND (done_at IS NULL OR $7::bool AND done_at > now() - interval '1 day') \
             ORDER BY commit_lsn, index LIMIT {PAGE}) found) t",
            sizes.join(" + "),
            self.table
        );
        let sql = format!(
            "{} AND (NOT $3 OR t.total <= {PAGE_BYTES} OR t.total = t.size) ORDER BY t.commit_lsn, t.index",
            self.select(&from)
        );
        let (most, full) = extent.limits();
        let values: Parameters<'_> = vec![&self.slot, &most, &full, &lsn, &index, &topic, &with_done];
        let rows = session.client().query(&sql, &values).await;
        rows.map_err(|error| sql_error(READING, error))?.iter().map(letter).collect()
    }

    /// One letter with all but its payload.
    ///
    /// # Errors
    /// There is none at that position, or the table can't be read.
    pub async fn letter(&self, session: &Session, at: Position) -> Result<Letter, OutboxError> {
        let sql =
            format!("{} AND t.commit_lsn = $4 AND t.index = $5", self.select(&format!("{} t", self.table)));
        let ((lsn, index), (most, full)) = (pair(at), Extent::Full.limits());
        let values: Parameters<'_> = vec![&self.slot, &most, &full, &lsn, &index];
        let row = session.client().query_opt(&sql, &values).await;
        let row = row.map_err(|error| sql_error(READING, error))?;
        letter(&row.ok_or_else(|| self.unknown(&[at]))?)
    }

    /// A part of a letter's payload, from that byte on, empty at its end; `None` when there is no payload. An
    /// answer is held in memory as a whole, and a payload may be as large as what Kafka refused.
    ///
    /// # Errors
    /// The table can't be read.
    pub async fn payload_part(
        &self,
        session: &Session,
        at: Position,
        from: usize,
    ) -> Result<Option<Vec<u8>>, OutboxError> {
        let sql = format!(
            "SELECT substring(payload FROM $4::int4 FOR {PART}) FROM {} \
             WHERE slot = $1::text AND commit_lsn = $2 AND index = $3",
            self.table
        );
        // Counted from 1. The server's values are shorter than what this type holds.
        let from = i32::try_from(from).unwrap_or(i32::MAX - 1) + 1;
        let (lsn, index) = pair(at);
        let row = session.client().query_opt(&sql, &[&self.slot, &lsn, &index, &from]).await;
        let row = row.map_err(|error| sql_error(READING, error))?;
        row.map_or(Ok(None), |row| row.cell(0))
    }

    /// `$1` the slot, `$2` how much of long values, `$3` whether to read all columns.
    fn select(&self, from: &str) -> String {
        let time = |column: &str| {
            format!(
                "coalesce(to_char(t.{column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                 t.{column}::text) AS {column}"
            )
        };
        let times: Vec<_> =
            ["created_at", "parked_at", "requested_at", "done_at"].iter().map(|name| time(name)).collect();
        format!(
            "SELECT t.commit_lsn, t.index, t.id, left(t.topic, $2::int4) AS topic, substring(t.key FOR $2) AS key, \
             octet_length(t.payload) AS payload_bytes, left(t.event_type, $2) AS event_type, \
             CASE WHEN $3::bool THEN substring(t.headers FOR $2) END AS headers, \
             left(t.correlation_id, $2) AS correlation_id, left(t.unfit_column, $2) AS unfit_column, \
             CASE WHEN $3 AND t.unfit_column <> 'payload' THEN substring(t.unfit_value FOR $2) END AS unfit_value, \
             left(t.error, $2) AS error, t.attempts, t.replay_lsn, t.replay_index, t.outcome, {} \
             FROM {from} WHERE t.slot = $1::text",
            times.join(", ")
        )
    }

    /// Which of these letters are no longer on their way, and how each ended.
    ///
    /// # Errors
    /// The table can't be read.
    pub async fn settled(
        &self,
        session: &Session,
        letters: &[Position],
    ) -> Result<Vec<(Position, Settled)>, OutboxError> {
        let (lsns, indexes): (Vec<_>, Vec<_>) = letters.iter().copied().map(pair).unzip();
        let sql = format!(
            "SELECT w.commit_lsn, w.index, t.outcome, t.attempts, left(t.error, {GLANCE}) \
             FROM unnest($2::pg_lsn[], $3::int8[]) AS w (commit_lsn, index) LEFT JOIN {} t \
             ON t.slot = $1::text AND t.commit_lsn = w.commit_lsn AND t.index = w.index \
             WHERE t.done_at IS NOT NULL OR t.requested_at IS NULL ORDER BY w.commit_lsn, w.index",
            self.table
        );
        let rows = session.client().query(&sql, &[&self.slot, &lsns, &indexes]).await;
        let rows = rows.map_err(|error| sql_error("waiting for the replay", error))?;
        let settled = |row: &Row| {
            let how = match (row.cell::<Option<&str>, _>(2)?, row.cell::<Option<i32>, _>(3)?) {
                (Some("sent"), _) => Settled::Sent,
                (None, Some(attempts)) => Settled::Refused(attempts, row.cell(4)?),
                _ => Settled::Gone,
            };
            Ok((position(row.cell(0)?, row.cell(1)?), how))
        };
        rows.iter().map(settled).collect()
    }

    /// Which of these messages are letters that wait, and which were discarded of late.
    #[cfg(feature = "cli")]
    pub(crate) async fn among(
        &self,
        session: &Session,
        ids: &[uuid::Uuid],
    ) -> Result<Vec<(uuid::Uuid, bool)>, OutboxError> {
        let sql = format!(
            "SELECT id, bool_and(done_at IS NOT NULL) FROM {} WHERE slot = $1::text AND id = ANY ($2::uuid[]) \
             AND (done_at IS NULL OR outcome <> 'sent') GROUP BY id",
            self.table
        );
        let rows = session.client().query(&sql, &[&self.slot, &ids]).await;
        let rows = rows.map_err(|error| sql_error(READING, error))?;
        rows.iter().map(|row| Ok((row.cell(0)?, row.cell(1)?))).collect()
    }

    pub(super) fn unknown(&self, positions: &[Position]) -> OutboxError {
        let (names, more) = (positions.iter().take(5).map(ToString::to_string), positions.len() > 5);
        let (names, dots) = (names.collect::<Vec<_>>().join(", "), if more { ", ..." } else { "" });
        OutboxError::definite(
            format!("slot {} has no dead letter at {names}{dots}", self.slot),
            "see `walpost dead-letters list --all`; a letter that was sent or discarded is kept for a day",
        )
    }
}

impl Extent {
    /// How much of long values, and whether all columns.
    fn limits(self) -> (i32, bool) {
        match self {
            Extent::Glance => (GLANCE, false),
            Extent::Full => (WHOLE, true),
        }
    }
}

fn letter(row: &Row) -> Result<Letter, OutboxError> {
    let (requested_at, attempts): (Option<String>, i32) = (row.cell("requested_at")?, row.cell("attempts")?);
    let state = match row.cell::<Option<&str>, _>("outcome")? {
        Some("sent") => LetterState::Sent,
        Some(_) => LetterState::Discarded,
        None if requested_at.is_some() => LetterState::Requested,
        None if attempts == 0 => LetterState::Follows,
        None => LetterState::Parked,
    };
    let replay: (Option<PgLsn>, Option<i64>) = (row.cell("replay_lsn")?, row.cell("replay_index")?);
    Ok(Letter {
        position: position(row.cell("commit_lsn")?, row.cell("index")?),
        state,
        parked_at: row.cell("parked_at")?,
        topic: row.cell("topic")?,
        key: row.cell("key")?,
        id: row.cell("id")?,
        event_type: row.cell("event_type")?,
        correlation_id: row.cell("correlation_id")?,
        created_at: row.cell("created_at")?,
        headers: row.cell("headers")?,
        payload_bytes: row.cell("payload_bytes")?,
        unfit_column: row.cell("unfit_column")?,
        unfit_value: row.cell("unfit_value")?,
        error: row.cell("error")?,
        attempts,
        requested_at,
        sent_as: replay.0.zip(replay.1).map(|(lsn, index)| position(lsn, index)),
        done_at: row.cell("done_at")?,
    })
}
