//! The operator's view of the dead letters. The relay parks and sends them; here they are looked at.

use tokio_postgres::Row;
use tokio_postgres::types::{PgLsn, ToSql};

use super::letter::{Extent, Letter, LetterState, Rights, Settled};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::postgres::names::{TableName, Target, quote_identifier, quote_literal};
use crate::postgres::session::{Session, sql_error};

/// How many letters are read at a time: of whole ones fewer, since headers and keys may be long.
const GLANCE_PAGE: i64 = 1000;
const WHOLE_PAGE: i64 = 200;
/// What the relay needs on the table.
pub(crate) const RELAY_RIGHTS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];
/// How much of a key, in bytes, and of an error, in letters, a glance takes in.
const GLANCE: i32 = 1000;
/// More than a value can hold.
const WHOLE: i32 = 1 << 30;
const READING: &str = "reading dead letters";

/// The values of a statement's `$1`, `$2` and so on.
pub(super) type Parameters<'a> = Vec<&'a (dyn ToSql + Sync)>;

/// The table of dead letters, as far as it concerns one slot.
#[derive(Debug)]
pub struct DeadLetterOffice {
    table: TableName,
    pub(super) slot: String,
}

impl DeadLetterOffice {
    /// The table beside the outbox table. Nothing is looked at yet.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        let table = TableName { schema: target.table.schema.clone(), name: "dead_letters".to_owned() };
        DeadLetterOffice { table, slot: target.slot.clone() }
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
        let sql = format!(
            "SELECT quote_ident(current_user), has_schema_privilege(n.oid, 'USAGE'), ARRAY(SELECT p.name \
               FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY p (name, number) \
               WHERE NOT has_table_privilege(c.oid, p.name) ORDER BY p.number), pg_is_in_recovery() \
             FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p') \
             WHERE n.nspname = {} AND c.relname = {}",
            quote_literal(&self.table.schema),
            quote_literal(&self.table.name)
        );
        let row = session.query_one_row("looking for the table of dead letters", &sql).await?;
        Ok(row.map(|row| Rights {
            role: row.get(0),
            usage: row.get(1),
            lacking: row.get(2),
            standby: row.get(3),
        }))
    }

    /// What is missing, as a definite error with its mend; these rights are needed.
    ///
    /// # Errors
    /// That error.
    pub fn require(&self, rights: Option<&Rights>, needed: &[&str]) -> Result<(), OutboxError> {
        let table = &self.table;
        let Some(rights) = rights else {
            return Err(OutboxError::definite(
                format!("table {table} does not exist"),
                "run `walpost setup` again: it makes the table and leaves the rest as it is",
            ));
        };
        let lacking: Vec<_> =
            rights.lacking.iter().map(String::as_str).filter(|right| needed.contains(right)).collect();
        let mut grants = Vec::new();
        if !rights.usage {
            grants.push(format!(
                "GRANT USAGE ON SCHEMA {} TO {};",
                quote_identifier(&table.schema),
                rights.role
            ));
        }
        if !lacking.is_empty() {
            grants.push(format!("GRANT {} ON {table} TO {};", lacking.join(", "), rights.role));
        }
        if grants.is_empty() {
            return Ok(());
        }
        Err(OutboxError::definite(
            format!("role {} lacks rights on table {table}", rights.role),
            grants.join(" "),
        ))
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
        row.map(|row| row.get(0)).map_err(|error| sql_error("counting dead letters", error))
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
        let sql = format!(
            "{} AND (t.commit_lsn, t.index) > ($4::pg_lsn, $5::int8) \
             AND ($6::text IS NULL OR t.topic = $6) \
             AND (t.done_at IS NULL OR $7::bool AND t.done_at > now() - interval '1 day') \
             ORDER BY t.commit_lsn, t.index LIMIT $8",
            self.select()
        );
        let (most, full) = extent.limits();
        let page = if full { WHOLE_PAGE } else { GLANCE_PAGE };
        let values: Parameters<'_> = vec![&self.slot, &most, &full, &lsn, &index, &topic, &with_done, &page];
        let rows = session.client().query(&sql, &values).await;
        Ok(rows.map_err(|error| sql_error(READING, error))?.iter().map(letter).collect())
    }

    /// One letter with all but its payload.
    ///
    /// # Errors
    /// There is none at that position, or the table can't be read.
    pub async fn letter(&self, session: &Session, at: Position) -> Result<Letter, OutboxError> {
        let sql = format!("{} AND t.commit_lsn = $4 AND t.index = $5", self.select());
        let ((lsn, index), (most, full)) = (pair(at), Extent::Full.limits());
        let values: Parameters<'_> = vec![&self.slot, &most, &full, &lsn, &index];
        let row = session.client().query_opt(&sql, &values).await;
        let row = row.map_err(|error| sql_error(READING, error))?;
        row.map(|row| letter(&row)).ok_or_else(|| self.unknown(&[at]))
    }

    /// A letter's payload, byte for byte; `None` is a tombstone, or a letter that is not there.
    ///
    /// # Errors
    /// The table can't be read.
    pub async fn payload(&self, session: &Session, at: Position) -> Result<Option<Vec<u8>>, OutboxError> {
        let sql = format!(
            "SELECT payload FROM {} WHERE slot = $1::text AND commit_lsn = $2 AND index = $3",
            self.table
        );
        let (lsn, index) = pair(at);
        let row = session.client().query_opt(&sql, &[&self.slot, &lsn, &index]).await;
        Ok(row.map_err(|error| sql_error(READING, error))?.and_then(|row| row.get(0)))
    }

    /// `$1` the slot, `$2` how much of long values, `$3` whether to read all columns.
    fn select(&self) -> String {
        let time = |column: &str| {
            format!(
                "coalesce(to_char(t.{column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                 t.{column}::text) AS {column}"
            )
        };
        let times: Vec<_> =
            ["created_at", "parked_at", "requested_at", "done_at"].iter().map(|name| time(name)).collect();
        format!(
            "SELECT t.commit_lsn, t.index, t.id, t.topic, substring(t.key FOR $2::int4) AS key, \
             octet_length(t.payload) AS payload_bytes, t.event_type, CASE WHEN $3::bool THEN t.headers END AS headers, \
             t.correlation_id, t.unfit_column, CASE WHEN $3 AND t.unfit_column <> 'payload' THEN t.unfit_value \
             END AS unfit_value, left(t.error, $2) AS error, t.attempts, t.replay_lsn, t.replay_index, t.outcome, {} \
             FROM {} t WHERE t.slot = $1::text",
            times.join(", "),
            self.table
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
            let how = match (row.get::<_, Option<&str>>(2), row.get::<_, Option<i32>>(3)) {
                (Some("sent"), _) => Settled::Sent,
                (None, Some(attempts)) => Settled::Refused(attempts, row.get(4)),
                _ => Settled::Gone,
            };
            (position(row.get(0), row.get(1)), how)
        };
        Ok(rows.iter().map(settled).collect())
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

fn letter(row: &Row) -> Letter {
    let (requested_at, attempts): (Option<String>, i32) = (row.get("requested_at"), row.get("attempts"));
    let state = match row.get::<_, Option<&str>>("outcome") {
        Some("sent") => LetterState::Sent,
        Some(_) => LetterState::Discarded,
        None if requested_at.is_some() => LetterState::Requested,
        None if attempts == 0 => LetterState::Follows,
        None => LetterState::Parked,
    };
    let replay: (Option<PgLsn>, Option<i64>) = (row.get("replay_lsn"), row.get("replay_index"));
    Letter {
        position: position(row.get("commit_lsn"), row.get("index")),
        state,
        parked_at: row.get("parked_at"),
        topic: row.get("topic"),
        key: row.get("key"),
        id: row.get("id"),
        event_type: row.get("event_type"),
        correlation_id: row.get("correlation_id"),
        created_at: row.get("created_at"),
        headers: row.get("headers"),
        payload_bytes: row.get("payload_bytes"),
        unfit_column: row.get("unfit_column"),
        unfit_value: row.get("unfit_value"),
        error: row.get("error"),
        attempts,
        requested_at,
        sent_as: replay.0.zip(replay.1).map(|(lsn, index)| position(lsn, index)),
        done_at: row.get("done_at"),
    }
}

pub(super) fn position(lsn: PgLsn, index: i64) -> Position {
    Position { commit_lsn: Lsn(lsn.into()), index: u64::try_from(index).unwrap_or_default() }
}

pub(super) fn pair(position: Position) -> (PgLsn, i64) {
    (position.commit_lsn.0.into(), i64::try_from(position.index).unwrap_or(i64::MAX))
}
