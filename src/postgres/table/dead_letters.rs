//! The table of dead letters, as the relay uses it.

use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::dead_letter_columns::Columns;
use super::rights;
use super::value::micros;
use crate::dead_letters::{DeadLetter, Parked, Reach, Replay, UnfitColumn};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::{OutboxMessage, OwnHeaders};
use crate::postgres::lookout::no_longer_held;
use crate::postgres::names::{TableName, Target, quote_literal};
use crate::postgres::session::{Cells, sql_error};

/// Rows read at once. What one answer may hold is bounded, see `ration`.
const PAGE: i64 = 1_000;
/// Bytes of a key, and of a topic, that is read together with others.
const SHORT: i32 = 2_048;
/// The topic as bytes, of which pieces can be read.
const TOPIC: &str = "convert_to(topic, 'UTF8')";
/// Bytes of letters read at once; of a larger one, piece by piece.
const PAGE_BYTES: i32 = 4 << 20;

/// Bytes of a letter, as `DeadLetter::size` counts them.
const SIZE: &str = "(coalesce(octet_length(payload), 0) + coalesce(octet_length(key), 0) + coalesce(octet_length(headers), 0))";

/// The condition of a statement in [`fenced`](DeadLetterTable::fenced).
const HELD: &str = "(SELECT yes FROM held)";

/// One relay's letters.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterTable {
    name: TableName,
    slot: String,
    /// Without the table the relay must not run: it has to park what can't be sent.
    required: bool,
    /// Whether the records have our own headers, which a letter does not tell: all outboxes say the same.
    own_headers: OwnHeaders,
    /// The session that reads the slot for this relay. Once it does not any more, nothing is written.
    reader: i32,
}

impl DeadLetterTable {
    pub(crate) fn of(target: &Target, required: bool) -> Self {
        let name = TableName { schema: target.main.table.schema.clone(), name: "dead_letters".to_owned() };
        DeadLetterTable {
            name,
            slot: target.slot.clone(),
            required,
            own_headers: target.main.mapping.header_set(),
            reader: 0,
        }
    }

    /// The same table, for the relay whose stream is the server's process `reader`.
    pub(crate) fn read_by(&self, reader: i32) -> Self {
        DeadLetterTable { reader, ..self.clone() }
    }

    pub(crate) fn is_required(&self) -> bool {
        self.required
    }

    /// The open letters' keys, and the letters that the log may bring again. Removes what was done long ago.
    pub(crate) async fn parked(&self, client: &Client) -> Result<Parked, OutboxError> {
        match self.writers_gone(client).await {
            Ok(()) => self.read_parked(client).await,
            // Set up by an earlier version, and not told to park anything.
            Err(error) if !self.required && error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                Ok(Parked::default())
            }
            // To look may be allowed, and to wait not.
            Err(error) if self.is_only_denied(&error) => match self.read_parked(client).await {
                Err(error) if error.sqlstate() == Some(SqlState::INSUFFICIENT_PRIVILEGE.code()) => {
                    self.warn_of_denial("whether there are dead letters can't be seen");
                    Ok(Parked::default())
                }
                read => read,
            },
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Whether it is a missing grant, in a relay that can do without.
    fn is_only_denied(&self, error: &tokio_postgres::Error) -> bool {
        !self.required && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    }

    fn warn_of_denial(&self, what: &str) {
        let advice = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO <the relay's role>;", self.name);
        tracing::warn!(advice, "{what}");
    }

    /// Waits until every transaction that has written to the table is over. The log tells of a request before others
    /// see its transaction: a COMMIT that waits for a standby may be long in between. And a relay that has just died
    /// may still be storing letters.
    async fn writers_gone(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        // Two statements, and so one transaction, which leaves nothing behind when it fails.
        client.batch_execute(&format!("LOCK TABLE {} IN SHARE MODE; SELECT", self.name)).await
    }

    async fn read_parked(&self, client: &Client) -> Result<Parked, OutboxError> {
        let (table, mut parked) = (&self.name, Parked::default());
        let confirmed = "(SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1::text)";
        if self.required {
            let purge = format!(
                "DELETE FROM {table} WHERE {HELD} AND slot = $1::text AND done_at < now() - interval '1 day' AND commit_lsn < {confirmed}"
            );
            // It may wait for another time.
            self.query(client, &self.fenced("1", &purge, ""), &[&self.slot]).await?;
        }
        let page = format!(
            "SELECT commit_lsn, index, CASE WHEN octet_length(topic) <= {SHORT} THEN topic END, \
             CASE WHEN octet_length(key) <= {SHORT} THEN key END, octet_length(key) > {SHORT}, octet_length(topic) > {SHORT}, \
             id, done_at IS NULL, coalesce(commit_lsn >= {confirmed}, true) FROM {table} \
             WHERE slot = $1::text AND (commit_lsn, index) > ($2, $3) ORDER BY commit_lsn, index LIMIT {PAGE}"
        );
        let (mut lsn, mut index) = (PgLsn::from(0), -1_i64);
        loop {
            let rows = self.query(client, &page, &[&self.slot, &lsn, &index]).await?;
            for row in &rows {
                (lsn, index) = (row.cell(0)?, row.cell(1)?);
                let (long_key, long_topic): (Option<bool>, Option<bool>) = (row.cell(4)?, row.cell(5)?);
                let (id, open, ahead): (Option<Uuid>, bool, bool) =
                    (row.cell(6)?, row.cell(7)?, row.cell(8)?);
                if open {
                    let mut topic = row.cell::<Option<String>, _>(2)?.unwrap_or_default();
                    let mut key = row.cell::<Option<Vec<u8>>, _>(3)?;
                    if long_key == Some(true) {
                        key = self.piece_by_piece(client, "key", lsn, index).await?;
                    }
                    if long_topic == Some(true) {
                        topic = self
                            .text_by_piece(client, TOPIC, lsn, index)
                            .await?
                            .unwrap_or_default()
                            .to_string();
                    }
                    parked.keys.insert(&topic, key.as_deref(), position(lsn, index));
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

    /// A value that is too large for one answer.
    async fn piece_by_piece(
        &self,
        client: &Client,
        column: &str,
        lsn: PgLsn,
        index: i64,
    ) -> Result<Option<Vec<u8>>, OutboxError> {
        let sql = format!(
            "SELECT substring({column} FROM $4 FOR {PAGE_BYTES}) FROM {} \
             WHERE slot = $1::text AND commit_lsn = $2 AND index = $3",
            self.name
        );
        let mut value: Option<Vec<u8>> = None;
        loop {
            let length = value.as_ref().map_or(0, Vec::len);
            let from = i32::try_from(length + 1).unwrap_or(i32::MAX);
            let rows = self.query(client, &sql, &[&self.slot, &lsn, &index, &from]).await?;
            let piece: Option<&[u8]> = rows.first().map(|row| row.cell(0)).transpose()?.flatten();
            let Some(piece) = piece else { return Ok(value) };
            value.get_or_insert_default().extend_from_slice(piece);
            if piece.is_empty() {
                return Ok(value);
            }
        }
    }

    async fn text_by_piece(
        &self,
        client: &Client,
        column: &str,
        lsn: PgLsn,
        index: i64,
    ) -> Result<Option<ByteString>, OutboxError> {
        let bytes = self.piece_by_piece(client, column, lsn, index).await?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned().into()))
    }

    /// Stores letters; durable when it returns.
    pub(crate) async fn park(&self, client: &Client, letters: &[DeadLetter]) -> Result<(), OutboxError> {
        let column = Columns::of(letters);
        let sql = format!(
            "INSERT INTO {} (slot, commit_lsn, index, id, topic, key, payload, event_type, headers, correlation_id, \
             created_at, unfit_column, unfit_value, error, attempts, partition) \
             SELECT $1::text, * FROM unnest($2::pg_lsn[], $3::int8[], $4::uuid[], $5::text[], $6::bytea[], $7::bytea[], \
             $8::text[], $9::bytea[], $10::text[], $11::timestamptz[], $12::text[], $13::bytea[], $14::text[], $15::int4[], \
             $16::int4[]) \
             WHERE {HELD} ON CONFLICT (slot, commit_lsn, index) DO NOTHING",
            self.name
        );
        let taken = format!(
            "LEFT JOIN (SELECT commit_lsn, index FROM {} t \
             JOIN unnest($2::pg_lsn[], $3::int8[], $4::uuid[]) AS new (commit_lsn, index, id) USING (commit_lsn, index) \
             WHERE t.slot = $1::text AND t.id IS DISTINCT FROM new.id LIMIT 1) taken ON true",
            self.name
        );
        let sql = self.fenced("taken.commit_lsn, taken.index", &sql, &taken);
        let row = self.write(client, &sql, &column.parameters(&self.slot)).await?;
        match (row.cell::<Option<PgLsn>, _>(1)?, row.cell::<Option<i64>, _>(2)?) {
            (Some(lsn), Some(index)) => Err(self.place_is_taken(position(lsn, index))),
            _ => Ok(()),
        }
    }

    /// In a restored database the log comes to positions a second time.
    fn place_is_taken(&self, position: Position) -> OutboxError {
        let (table, slot) = (&self.name, quote_literal(&self.slot));
        let Position { commit_lsn, index } = position;
        OutboxError::definite(
            format!(
                "a message can't be parked at {commit_lsn}, index {index}: {table} holds a letter of another message there"
            ),
            format!(
                "it is of another life of this database (restored, or copied); keep it under another name of a slot: \
                 UPDATE {table} SET slot = left(slot::text, 40) || ' until ' || now()::date WHERE slot = {slot} \
                 AND commit_lsn = '{commit_lsn}' AND index = {index};"
            ),
        )
    }

    /// The next letters to send again.
    pub(crate) async fn to_replay(
        &self,
        client: &Client,
        request: Lsn,
        most: usize,
    ) -> Result<Vec<Replay>, OutboxError> {
        let (table, lsn) = (&self.name, PgLsn::from(request.0));
        // Whole keys, since what is behind a letter must not stay behind; and each under one number for ever. When the
        // log comes again, letters from behind this request wait for a later one, and so do keys that were asked for
        // or numbered later: under this one's position they would come as something old.
        // The server knows nothing yet of a table that has just been filled, and takes a few rows for one: each part is
        // written so that it is read once all the same, not once for each row of another.
        let number = format!(
            "WITH chosen AS MATERIALIZED (SELECT d.commit_lsn, d.index, row_number() OVER (ORDER BY d.commit_lsn, d.index) - 1 \
               + (SELECT coalesce(max(replay_index) + 1, 0) FROM {table} WHERE slot = $1::text AND replay_lsn = $2) AS number \
               FROM {table} d WHERE d.slot = $1::text AND d.done_at IS NULL AND d.commit_lsn < $2 \
               AND (d.replay_lsn IS NULL OR d.replay_lsn < $2) \
               AND ((d.topic, d.key) IN (SELECT w.topic, w.key FROM {table} w \
                 WHERE w.slot = $1::text AND w.done_at IS NULL AND w.replay_lsn > $2)) IS NOT TRUE \
               AND (d.requested_at IS NOT NULL OR (d.topic, d.key) IN (SELECT r.topic, r.key FROM {table} r \
                 WHERE r.slot = $1::text AND r.done_at IS NULL AND r.requested_at IS NOT NULL))) \
             UPDATE {table} t SET replay_lsn = $2, replay_index = chosen.number, \
             requested_at = coalesce(t.requested_at, now()) \
             FROM chosen WHERE {HELD} AND t.slot = $1::text AND t.commit_lsn = chosen.commit_lsn AND t.index = chosen.index"
        );
        match self.writers_gone(client).await {
            // Whoever may log in may ask; without a table there is nothing to send.
            Err(error) if !self.required && error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                return Ok(Vec::new());
            }
            // Else whoever may log in could stop this relay for good.
            Err(error) if self.is_only_denied(&error) => {
                self.warn_of_denial("a request to replay dead letters can't be met");
                return Ok(Vec::new());
            }
            gone => gone.map_err(|error| self.failed(error))?,
        }
        self.write(client, &self.fenced("1", &number, ""), &[&self.slot, &lsn]).await?;
        let next = format!(
            "SELECT commit_lsn, index, id, CASE WHEN size <= {PAGE_BYTES} THEN topic END, \
             CASE WHEN size <= {PAGE_BYTES} THEN key END, CASE WHEN size <= {PAGE_BYTES} THEN payload END, \
             CASE WHEN size <= {PAGE_BYTES} THEN event_type END, CASE WHEN size <= {PAGE_BYTES} THEN headers END, \
             CASE WHEN size <= {PAGE_BYTES} THEN correlation_id END, created_at, error, attempts, replay_index, \
             size > {PAGE_BYTES}, unfit_column, partition \
             FROM (SELECT *, sum(size) OVER (ORDER BY replay_index) AS total FROM (SELECT *, \
               coalesce(octet_length(payload), 0) + coalesce(octet_length(key), 0) + coalesce(octet_length(headers), 0) \
               + coalesce(octet_length(event_type), 0) + coalesce(octet_length(correlation_id), 0) \
               + coalesce(octet_length(topic), 0) AS size FROM {table} WHERE slot = $1::text AND done_at IS NULL \
               AND replay_lsn = $2 AND replay_index IS NOT NULL) sized) letters \
             WHERE total <= {PAGE_BYTES} OR total = size ORDER BY replay_index LIMIT $3"
        );
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.query(client, &next, &[&self.slot, &lsn, &most]).await?;
        let mut letters = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut next = replay(row, request)?;
            next.letter.message.own_headers = self.own_headers;
            if row.cell(13)? {
                self.read_large(client, &mut next.letter).await?;
            }
            letters.push(next);
        }
        Ok(letters)
    }

    /// The parts of a letter that are too large for one answer.
    async fn read_large(&self, client: &Client, letter: &mut DeadLetter) -> Result<(), OutboxError> {
        let ((lsn, index), message) = (pair(letter.position), &mut letter.message);
        let (event_type, correlation_id) =
            ("convert_to(event_type, 'UTF8')", "convert_to(correlation_id, 'UTF8')");
        message.topic = self.text_by_piece(client, TOPIC, lsn, index).await?.unwrap_or_default();
        message.event_type = self.text_by_piece(client, event_type, lsn, index).await?;
        message.correlation_id = self.text_by_piece(client, correlation_id, lsn, index).await?;
        message.payload = self.piece_by_piece(client, "payload", lsn, index).await?.map(Bytes::from);
        message.key = self.piece_by_piece(client, "key", lsn, index).await?.map(Bytes::from);
        let headers = self.piece_by_piece(client, "headers", lsn, index).await?;
        message.headers = headers.map(Bytes::from).unwrap_or_default();
        Ok(())
    }

    /// These letters are with the broker.
    pub(crate) async fn replayed(&self, client: &Client, letters: &[Position]) -> Result<(), OutboxError> {
        let (lsns, indexes): (Vec<_>, Vec<_>) = letters.iter().copied().map(pair).unzip();
        let sql = format!(
            "UPDATE {} t SET done_at = now(), outcome = 'sent' FROM unnest($2::pg_lsn[], $3::int8[]) AS s (commit_lsn, index) \
             WHERE {HELD} AND t.slot = $1::text AND t.commit_lsn = s.commit_lsn AND t.index = s.index AND t.done_at IS NULL",
            self.name
        );
        self.write(client, &self.fenced("1", &sql, ""), &[&self.slot, &lsns, &indexes]).await.map(drop)
    }

    /// This letter was refused again: it stays, and those that this speaks for.
    pub(crate) async fn refused_again(
        &self,
        client: &Client,
        refused: &Replay,
        error: &str,
        reach: Reach,
    ) -> Result<(), OutboxError> {
        let (table, letter) = (&self.name, &refused.letter);
        let of_request =
            "slot = $1::text AND done_at IS NULL AND replay_lsn = $7 AND topic = $5 AND $8::int8 IS NOT NULL";
        let sql = format!(
            "UPDATE {table} SET requested_at = NULL, replay_lsn = NULL, replay_index = NULL, \
             attempts = attempts + ((commit_lsn, index) = ($2, $3))::int4, \
             error = CASE WHEN (commit_lsn, index) = ($2, $3) THEN $4 ELSE error END \
             WHERE {HELD} AND slot = $1::text AND done_at IS NULL AND ((commit_lsn, index) = ($2, $3) \
               OR (topic, key) = ($5, $6::bytea) AND (commit_lsn, index) > ($2, $3) \
                 AND (replay_lsn IS NULL OR replay_lsn <= $7) \
               OR {of_request} AND ({SIZE} >= $8 \
                 OR key IN (SELECT key FROM {table} WHERE {of_request} AND {SIZE} >= $8)))"
        );
        let ((lsn, index), (topic, key)) =
            (pair(letter.position), (letter.message.topic(), letter.message.key()));
        let request = PgLsn::from(refused.send_as.commit_lsn.0);
        // The server's text knows no NUL.
        let error = &error.replace('\0', "\u{FFFD}");
        let least = reach.least(letter).map(|least| i64::try_from(least).unwrap_or(i64::MAX));
        let values: [&(dyn ToSql + Sync); 8] =
            [&self.slot, &lsn, &index, error, &topic, &key, &request, &least];
        self.write(client, &self.fenced("1", &sql, ""), &values).await.map(drop)
    }

    /// A statement that writes, if its condition is [`HELD`], only while the slot is this relay's, and selects whether
    /// it was. That is looked at behind the table's lock, for which a relay that takes over waits before it reads
    /// (`writers_gone`): so either this is done before, or not at all.
    fn fenced(&self, also: &str, write: &str, join: &str) -> String {
        let reader = self.reader;
        format!(
            "WITH held AS MATERIALIZED (SELECT EXISTS (SELECT FROM pg_replication_slots \
             WHERE slot_name = $1::text AND active_pid = {reader}) AS yes), done AS ({write}) \
             SELECT held.yes, {also} FROM held {join}"
        )
    }

    /// Executes what [`fenced`](Self::fenced) made.
    async fn write(
        &self,
        client: &Client,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, OutboxError> {
        let row = client.query_one(sql, parameters).await.map_err(|error| self.failed(error))?;
        if row.cell(0)? { Ok(row) } else { Err(no_longer_held(&self.slot)) }
    }

    async fn query(
        &self,
        client: &Client,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, OutboxError> {
        client.query(sql, parameters).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: tokio_postgres::Error) -> OutboxError {
        let code = error.code().cloned();
        let failed = sql_error(&format!("keeping dead letters in {}", self.name), error);
        rights::advised(&self.name, code.as_ref(), failed)
    }
}

pub(super) fn position(lsn: PgLsn, index: i64) -> Position {
    Position { commit_lsn: Lsn(lsn.into()), index: u64::try_from(index).unwrap_or_default() }
}

pub(super) fn pair(position: Position) -> (PgLsn, i64) {
    (position.commit_lsn.0.into(), i64::try_from(position.index).unwrap_or(i64::MAX))
}

/// A letter as it was read for sending.
fn replay(row: &Row, request: Lsn) -> Result<Replay, OutboxError> {
    let text = |index: usize| -> Result<Option<ByteString>, OutboxError> {
        Ok(row.cell::<Option<String>, _>(index)?.map(ByteString::from))
    };
    let bytes = |index: usize| -> Result<Option<Bytes>, OutboxError> {
        Ok(row.cell::<Option<Vec<u8>>, _>(index)?.map(Bytes::from))
    };
    let mut message = OutboxMessage::empty();
    message.id = row.cell::<Option<Uuid>, _>(2)?.unwrap_or_default();
    message.topic = text(3)?.unwrap_or_default();
    message.key = bytes(4)?;
    message.payload = bytes(5)?;
    message.event_type = text(6)?;
    message.headers = bytes(7)?.unwrap_or_default();
    message.correlation_id = text(8)?;
    message.created_at = row.cell::<Option<SystemTime>, _>(9)?.and_then(micros);
    message.partition = row.cell(15)?;
    let send_as = Position { commit_lsn: request, ..position(0.into(), row.cell(12)?) };
    let letter = DeadLetter {
        position: position(row.cell(0)?, row.cell(1)?),
        message,
        // That there is one is what matters: it is not sent.
        unfit: row.cell::<Option<&str>, _>(14)?.map(|name| UnfitColumn { name: name.into(), value: None }),
        error: row.cell(10)?,
        attempts: u32::try_from(row.cell::<i32, _>(11)?).unwrap_or_default(),
    };
    Ok(Replay { send_as, letter })
}
