//! The table of dead letters, as the relay uses it.

use std::future::Future;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytestring::ByteString;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::dead_letters::{DeadLetter, Parked, Replay};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::postgres::names::{TableName, Target};
use crate::postgres::session::sql_error;

/// A statement that takes longer waits for somebody; meanwhile the server hears nothing from the relay.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rows read at once.
const PAGE: i64 = 10_000;
/// Bytes of payload read at once; a larger one comes alone.
const PAGE_BYTES: i64 = 4 << 20;

/// One relay's letters.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterTable {
    name: TableName,
    slot: String,
    /// Without the table the relay must not run: it has to park what can't be sent.
    required: bool,
}

impl DeadLetterTable {
    pub(crate) fn of(target: &Target, required: bool) -> Self {
        let name = TableName { schema: target.table.schema.clone(), name: "dead_letters".to_owned() };
        DeadLetterTable { name, slot: target.slot.clone(), required }
    }

    /// The open letters' keys, and the letters that the log may bring again. Removes what was done long ago.
    pub(crate) async fn parked(&self, client: &Client) -> Result<Parked, OutboxError> {
        match in_time(self.read_parked(client)).await? {
            Ok(parked) => Ok(parked),
            // Set up by an earlier version, and not told to park anything.
            Err(error) if !self.required && error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                Ok(Parked::default())
            }
            Err(error) if !self.required && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                tracing::warn!(
                    advice = format!(
                        "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO <the relay's role>;",
                        self.name
                    ),
                    "whether there are dead letters can't be seen"
                );
                Ok(Parked::default())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn read_parked(&self, client: &Client) -> Result<Parked, tokio_postgres::Error> {
        let (table, mut parked) = (&self.name, Parked::default());
        let confirmed = "(SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1::text)";
        if self.required {
            let purge = format!(
                "DELETE FROM {table} WHERE slot = $1::text AND done_at < now() - interval '1 day' AND commit_lsn < {confirmed}"
            );
            client.execute(&purge, &[&self.slot]).await?;
        }
        let page = format!(
            "SELECT commit_lsn, index, topic, key, id, done_at IS NULL, coalesce(commit_lsn >= {confirmed}, true) FROM {table} \
             WHERE slot = $1::text AND (commit_lsn, index) > ($2, $3) ORDER BY commit_lsn, index LIMIT {PAGE}"
        );
        let page = client.prepare(&page).await?;
        let (mut lsn, mut index) = (PgLsn::from(0), -1_i64);
        loop {
            let rows = client.query(&page, &[&self.slot, &lsn, &index]).await?;
            for row in &rows {
                (lsn, index) = (row.get(0), row.get(1));
                let (topic, key): (Option<&str>, Option<&[u8]>) = (row.get(2), row.get(3));
                let (id, open, ahead): (Option<Uuid>, bool, bool) = (row.get(4), row.get(5), row.get(6));
                if open {
                    parked.keys.insert(topic.unwrap_or_default(), key);
                }
                if ahead {
                    parked.settled.insert(position(lsn, index), id.unwrap_or_default());
                }
            }
            if i64::try_from(rows.len()).unwrap_or(PAGE) < PAGE {
                return Ok(parked);
            }
        }
    }

    /// Stores letters; durable when it returns.
    pub(crate) async fn park(&self, client: &Client, letters: &[DeadLetter]) -> Result<(), OutboxError> {
        let column = Columns::of(letters);
        let sql = format!(
            "INSERT INTO {} (slot, commit_lsn, index, id, topic, key, payload, event_type, headers, correlation_id, \
             created_at, unfit_column, unfit_value, error, attempts) \
             SELECT $1::text, * FROM unnest($2::pg_lsn[], $3::int8[], $4::uuid[], $5::text[], $6::bytea[], $7::bytea[], \
             $8::text[], $9::bytea[], $10::text[], $11::timestamptz[], $12::text[], $13::bytea[], $14::text[], $15::int4[]) \
             ON CONFLICT (slot, commit_lsn, index) DO NOTHING",
            self.name
        );
        self.execute(client, &sql, &column.parameters(&self.slot)).await
    }

    /// The next letters to send again.
    pub(crate) async fn to_replay(
        &self,
        client: &Client,
        request: Lsn,
        most: usize,
    ) -> Result<Vec<Replay>, OutboxError> {
        let (table, lsn) = (&self.name, PgLsn::from(request.0));
        // Whole keys, since what is behind a letter must not stay behind; and each under one number for ever.
        let number = format!(
            "WITH chosen AS (SELECT d.commit_lsn, d.index, row_number() OVER (ORDER BY d.commit_lsn, d.index) - 1 \
               + (SELECT coalesce(max(replay_index) + 1, 0) FROM {table} WHERE slot = $1::text AND replay_lsn = $2) AS number \
               FROM {table} d WHERE d.slot = $1::text AND d.done_at IS NULL AND d.replay_lsn IS DISTINCT FROM $2 \
               AND (d.requested_at IS NOT NULL OR (d.topic, d.key) IN (SELECT r.topic, r.key FROM {table} r \
                 WHERE r.slot = $1::text AND r.done_at IS NULL AND r.requested_at IS NOT NULL))) \
             UPDATE {table} t SET replay_lsn = $2, replay_index = chosen.number, \
             requested_at = coalesce(t.requested_at, now()) \
             FROM chosen WHERE t.slot = $1::text AND t.commit_lsn = chosen.commit_lsn AND t.index = chosen.index"
        );
        match in_time(client.execute(&number, &[&self.slot, &lsn])).await? {
            // Whoever may log in may ask; without a table there is nothing to send.
            Err(error) if !self.required && error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                return Ok(Vec::new());
            }
            done => done.map(drop).map_err(|error| self.failed(error))?,
        }
        let next = format!(
            "SELECT commit_lsn, index, id, topic, key, payload, event_type, headers, correlation_id, created_at, error, \
             attempts, replay_index FROM (SELECT *, sum(coalesce(octet_length(payload), 0)) OVER (ORDER BY replay_index \
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM {table} \
               WHERE slot = $1::text AND done_at IS NULL AND replay_lsn = $2) letters \
             WHERE coalesce(before, 0) < {PAGE_BYTES} ORDER BY replay_index LIMIT $3"
        );
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = in_time(client.query(&next, &[&self.slot, &lsn, &most])).await?;
        let rows = rows.map_err(|error| self.failed(error))?;
        Ok(rows.iter().map(|row| replay(row, request)).collect())
    }

    /// These letters are with the broker.
    pub(crate) async fn replayed(&self, client: &Client, letters: &[Position]) -> Result<(), OutboxError> {
        let (lsns, indexes): (Vec<_>, Vec<_>) = letters.iter().copied().map(pair).unzip();
        let sql = format!(
            "UPDATE {} t SET done_at = now(), outcome = 'sent' FROM unnest($2::pg_lsn[], $3::int8[]) AS s (commit_lsn, index) \
             WHERE t.slot = $1::text AND t.commit_lsn = s.commit_lsn AND t.index = s.index AND t.done_at IS NULL",
            self.name
        );
        self.execute(client, &sql, &[&self.slot, &lsns, &indexes]).await
    }

    /// This letter was refused again; it stays, and those behind it of its key.
    pub(crate) async fn refused_again(
        &self,
        client: &Client,
        letter: &DeadLetter,
        error: &str,
    ) -> Result<(), OutboxError> {
        let (lsn, index) = pair(letter.position);
        let sql = format!(
            "UPDATE {} SET requested_at = NULL, replay_lsn = NULL, replay_index = NULL, \
             attempts = attempts + ((commit_lsn, index) = ($2, $3))::int4, \
             error = CASE WHEN (commit_lsn, index) = ($2, $3) THEN $4 ELSE error END \
             WHERE slot = $1::text AND done_at IS NULL AND ((commit_lsn, index) = ($2, $3) \
               OR (topic, key) = ($5, $6::bytea) AND (commit_lsn, index) > ($2, $3))",
            self.name
        );
        let (topic, key) = (letter.message.topic(), letter.message.key());
        self.execute(client, &sql, &[&self.slot, &lsn, &index, &error, &topic, &key]).await
    }

    async fn execute(
        &self,
        client: &Client,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(), OutboxError> {
        let done = in_time(client.execute(sql, parameters)).await?;
        done.map(drop).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: tokio_postgres::Error) -> OutboxError {
        let missing = error.code() == Some(&SqlState::UNDEFINED_TABLE);
        let denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
        let failed = sql_error(&format!("keeping dead letters in {}", self.name), error);
        if missing {
            return failed
                .with_advice("run `walpost setup` again: it makes the table and leaves the rest as it is");
        }
        if denied {
            let (schema, table) = (&self.name.schema, &self.name);
            return failed.with_advice(format!(
                "GRANT USAGE ON SCHEMA {schema} TO <the relay's role>; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO <the relay's role>;"
            ));
        }
        failed
    }
}

async fn in_time<T>(statement: impl Future<Output = T>) -> Result<T, OutboxError> {
    timeout(PATIENCE, statement).await.map_err(|_| {
        OutboxError::transient("the table of dead letters did not answer within 10 s")
            .with_advice("see pg_stat_activity for who locks it")
    })
}

fn position(lsn: PgLsn, index: i64) -> Position {
    Position { commit_lsn: Lsn(lsn.into()), index: u64::try_from(index).unwrap_or_default() }
}

fn pair(position: Position) -> (PgLsn, i64) {
    (position.commit_lsn.0.into(), i64::try_from(position.index).unwrap_or(i64::MAX))
}

/// A letter as it was read for sending.
fn replay(row: &Row, request: Lsn) -> Replay {
    let text = |index: usize| row.get::<_, Option<String>>(index).map(ByteString::from);
    let bytes = |index: usize| row.get::<_, Option<Vec<u8>>>(index).map(Bytes::from);
    let created_at: Option<SystemTime> = row.get(9);
    let mut message = OutboxMessage::empty();
    message.id = row.get::<_, Option<Uuid>>(2).unwrap_or_default();
    message.topic = text(3).unwrap_or_default();
    message.key = bytes(4);
    message.payload = bytes(5);
    message.event_type = text(6);
    message.headers = bytes(7).unwrap_or_default();
    message.correlation_id = text(8);
    message.created_at = created_at.and_then(micros);
    let send_as = Position { commit_lsn: request, ..position(0.into(), row.get(12)) };
    let letter = DeadLetter {
        position: position(row.get(0), row.get(1)),
        message,
        unfit: None,
        error: row.get(10),
        attempts: u32::try_from(row.get::<_, i32>(11)).unwrap_or_default(),
    };
    Replay { send_as, letter }
}

/// Microseconds since 1970.
fn micros(at: SystemTime) -> Option<i64> {
    let micros = |span: Duration| i64::try_from(span.as_micros()).ok();
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => micros(before.duration()).map(|micros| -micros),
    }
}

fn time(micros: i64) -> Option<SystemTime> {
    let span = Duration::from_micros(micros.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    if micros < 0 { epoch.checked_sub(span) } else { epoch.checked_add(span) }
}

/// Letters column by column, since one statement stores them all.
#[derive(Default)]
struct Columns<'a> {
    lsns: Vec<PgLsn>,
    indexes: Vec<i64>,
    ids: Vec<Option<Uuid>>,
    topics: Vec<Option<&'a str>>,
    keys: Vec<Option<&'a [u8]>>,
    payloads: Vec<Option<&'a [u8]>>,
    event_types: Vec<Option<&'a str>>,
    headers: Vec<Option<&'a [u8]>>,
    correlation_ids: Vec<Option<&'a str>>,
    times: Vec<Option<SystemTime>>,
    unfit_columns: Vec<Option<&'a str>>,
    unfit_values: Vec<Option<&'a [u8]>>,
    errors: Vec<String>,
    attempts: Vec<i32>,
}

impl<'a> Columns<'a> {
    fn of(letters: &'a [DeadLetter]) -> Self {
        let mut columns = Columns::default();
        for letter in letters {
            let (message, (lsn, index)) = (&letter.message, pair(letter.position));
            columns.lsns.push(lsn);
            columns.indexes.push(index);
            columns.ids.push(Some(message.id).filter(|id| !id.is_nil()));
            columns.topics.push(Some(message.topic()).filter(|topic| !topic.is_empty()));
            columns.keys.push(message.key());
            columns.payloads.push(message.payload());
            columns.event_types.push(message.event_type());
            columns.headers.push(Some(message.headers_json()).filter(|headers| !headers.is_empty()));
            columns.correlation_ids.push(message.correlation_id());
            columns.times.push(message.created_at.and_then(time));
            columns.unfit_columns.push(letter.unfit.as_ref().map(|unfit| unfit.name));
            columns.unfit_values.push(letter.unfit.as_ref().and_then(|unfit| unfit.value.as_deref()));
            // The server's text knows no NUL.
            columns.errors.push(letter.error.replace('\0', "\u{FFFD}"));
            columns.attempts.push(i32::try_from(letter.attempts).unwrap_or(i32::MAX));
        }
        columns
    }

    fn parameters<'p>(&'p self, slot: &'p String) -> [&'p (dyn ToSql + Sync); 15] {
        [
            slot,
            &self.lsns,
            &self.indexes,
            &self.ids,
            &self.topics,
            &self.keys,
            &self.payloads,
            &self.event_types,
            &self.headers,
            &self.correlation_ids,
            &self.times,
            &self.unfit_columns,
            &self.unfit_values,
            &self.errors,
            &self.attempts,
        ]
    }
}
