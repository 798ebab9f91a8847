//! What an operator asks of the dead letters: to send them again, or to give them up.
//!
//! A change and its marker in the log are one transaction, so that the relay hears of every change, in the
//! order of commits, and of none that was rolled back.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Transaction;
use tokio_postgres::types::{PgLsn, ToSql};

use super::dead_letter_office::{DeadLetterOffice, Parameters};
use super::dead_letters::{pair, position};
use super::letter::{Asked, Chosen, Discarded};
use crate::error::OutboxError;
use crate::lsn::Position;
use crate::postgres::names::quote_literal;
use crate::postgres::session::{Cells, Session, sql_error};
use crate::postgres::slot::MESSAGE_PREFIX;

/// A row that a running relay holds is free in a moment; a table that somebody locks is worth a word.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '10s'";
/// How many positions are read at a time.
const PART: i64 = 50_000;
const ASKING: &str = "asking for a replay";
const DISCARDING: &str = "discarding dead letters";

impl DeadLetterOffice {
    /// Asks to send the chosen letters again, each with all that are open of its key, since what stands behind
    /// it must not stay behind. Asking for one again is no fault: its marker may have gone with an older slot.
    ///
    /// `to_wait` remembers which letters they are.
    ///
    /// # Errors
    /// None is chosen, one is not there or done, the slot does not exist, or the table can't be written.
    pub async fn replay(
        &self,
        session: &mut Session,
        chosen: &Chosen,
        to_wait: bool,
    ) -> Result<Asked, OutboxError> {
        let transaction = begin(session, ASKING).await?;
        let relay_pid = self.relay_pid(&transaction).await?;
        self.find(&transaction, chosen, ASKING).await?;
        let (lsns, indexes) = chosen.pairs();
        let mut values: Parameters<'_> = vec![&self.slot];
        let mut which = chosen.condition(&mut values, &lsns, &indexes);
        if matches!(chosen, Chosen::Positions(_)) {
            which = format!("({which} OR (t.topic, t.key) IN ({}))", self.keys_of_positions());
        }
        let sql = format!(
            "WITH asked AS (UPDATE {} t SET requested_at = coalesce(t.requested_at, now()), \
               replay_lsn = coalesce(t.replay_lsn, pg_current_wal_insert_lsn()) \
               WHERE t.slot = $1::text AND t.done_at IS NULL AND {which} \
               RETURNING t.topic, t.key, t.requested_at <> now() AS earlier, \
               t.commit_lsn > pg_current_wal_insert_lsn() AS foreign_to_this) \
             SELECT count(*), count(*) FILTER (WHERE earlier), \
             count(DISTINCT (topic, key)) FILTER (WHERE topic IS NOT NULL AND key IS NOT NULL), \
             count(*) FILTER (WHERE topic IS NULL OR key IS NULL), count(*) FILTER (WHERE foreign_to_this) FROM asked",
            self.table()
        );
        let row = transaction.query_one(&sql, &values).await.map_err(|error| sql_error(ASKING, error))?;
        let positions =
            if to_wait { self.requested(&transaction, &which, &values).await? } else { Vec::new() };
        let asked = Asked {
            letters: row.cell(0)?,
            earlier: row.cell(1)?,
            keys: row.cell(2)?,
            keyless: row.cell(3)?,
            foreign: row.cell(4)?,
            insert_again: self.insert_again(),
            positions,
            relay_pid,
        };
        self.tell(transaction, asked.letters, chosen, ASKING).await?;
        Ok(asked)
    }

    /// The SQL that makes rows of letters whose positions are another system's, in a table as `setup` makes it.
    /// With ids of their own, since the rows that they were may still be there.
    fn insert_again(&self) -> String {
        let (table, outbox) = (self.table(), &self.outbox);
        format!(
            "INSERT INTO {outbox} (topic, key, payload, event_type, headers, correlation_id, created_at) \
             SELECT topic, convert_from(key, 'UTF8'), convert_from(payload, 'UTF8')::json, event_type, \
             coalesce(convert_from(headers, 'UTF8')::jsonb, '{{}}'), correlation_id, coalesce(created_at, now()) FROM {table} \
             WHERE slot = {} AND done_at IS NULL AND unfit_column IS NULL AND commit_lsn > pg_current_wal_insert_lsn() \
             ORDER BY commit_lsn, index;",
            quote_literal(&self.slot)
        )
    }

    /// The chosen letters that are asked for, in order, read in parts.
    async fn requested(
        &self,
        transaction: &Transaction<'_>,
        which: &str,
        values: &Parameters<'_>,
    ) -> Result<Vec<Position>, OutboxError> {
        let next = values.len() + 1;
        let sql = format!(
            "SELECT t.commit_lsn, t.index FROM {} t WHERE t.slot = $1::text AND t.done_at IS NULL \
             AND t.requested_at IS NOT NULL AND {which} AND (t.commit_lsn, t.index) > (${next}::pg_lsn, ${}::int8) \
             ORDER BY t.commit_lsn, t.index LIMIT {PART}",
            self.table(),
            next + 1
        );
        let mut positions = Vec::new();
        loop {
            let (lsn, index) = positions.last().copied().map_or((PgLsn::from(0), -1), pair);
            let mut values = values.clone();
            values.extend([&lsn as &(dyn ToSql + Sync), &index]);
            let rows = transaction.query(&sql, &values).await.map_err(|error| sql_error(ASKING, error))?;
            for row in &rows {
                positions.push(position(row.cell(0)?, row.cell(1)?));
            }
            if rows.is_empty() {
                return Ok(positions);
            }
        }
    }

    /// Gives the chosen letters up, and none but these.
    ///
    /// # Errors
    /// None is chosen, one is not there or done, or the table can't be written.
    pub async fn discard(&self, session: &mut Session, chosen: &Chosen) -> Result<Discarded, OutboxError> {
        let transaction = begin(session, DISCARDING).await?;
        self.find(&transaction, chosen, DISCARDING).await?;
        let (lsns, indexes) = chosen.pairs();
        let mut values: Parameters<'_> = vec![&self.slot];
        let which = chosen.condition(&mut values, &lsns, &indexes);
        let table = self.table();
        // Every part of a statement sees the table as it was before it.
        let sql = format!(
            "WITH gone AS (UPDATE {table} t SET done_at = now(), outcome = 'discarded' \
               WHERE t.slot = $1::text AND t.done_at IS NULL AND {which} \
               RETURNING t.topic, t.key, t.requested_at IS NOT NULL AS requested) \
             SELECT count(*), count(*) FILTER (WHERE requested), (SELECT count(*) FROM {table} o \
               WHERE o.slot = $1::text AND o.done_at IS NULL AND (o.topic, o.key) IN (SELECT g.topic, g.key FROM gone g \
                 WHERE g.topic IS NOT NULL AND g.key IS NOT NULL)) \
             - count(*) FILTER (WHERE topic IS NOT NULL AND key IS NOT NULL) FROM gone"
        );
        let row = transaction.query_one(&sql, &values).await.map_err(|error| sql_error(DISCARDING, error))?;
        let discarded = Discarded { letters: row.cell(0)?, requested: row.cell(1)?, left: row.cell(2)? };
        self.tell(transaction, discarded.letters, chosen, DISCARDING).await?;
        Ok(discarded)
    }

    /// The keys of the letters at `$2` and `$3`.
    fn keys_of_positions(&self) -> String {
        format!(
            "SELECT t.topic, t.key FROM {} t WHERE t.slot = $1::text AND {AT} \
             AND t.topic IS NOT NULL AND t.key IS NOT NULL",
            self.table()
        )
    }

    /// Who reads the slot. A request that no slot will ever bring to a relay would wait for ever.
    async fn relay_pid(&self, transaction: &Transaction<'_>) -> Result<Option<i32>, OutboxError> {
        let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1::text";
        let row =
            transaction.query_opt(sql, &[&self.slot]).await.map_err(|error| sql_error(ASKING, error))?;
        let row = row.ok_or_else(|| {
            OutboxError::definite(
                format!("slot {} does not exist, so no relay would hear of the request", self.slot),
                "run `walpost setup`, which makes it, or name the slot with --slot; then ask again",
            )
        })?;
        row.cell(0)
    }

    /// Locks the letters that were named, in order, and makes sure that they are there and open.
    async fn find(
        &self,
        transaction: &Transaction<'_>,
        chosen: &Chosen,
        during: &str,
    ) -> Result<(), OutboxError> {
        let Chosen::Positions(positions) = chosen else { return Ok(()) };
        let (lsns, indexes) = chosen.pairs();
        let sql = format!(
            "SELECT t.commit_lsn, t.index, t.outcome FROM {} t WHERE t.slot = $1::text AND {AT} \
             ORDER BY t.commit_lsn, t.index FOR UPDATE",
            self.table()
        );
        let rows = transaction.query(&sql, &[&self.slot, &lsns, &indexes]).await;
        let rows = rows.map_err(|error| sql_error(during, error))?;
        let found = rows.iter().map(|row| Ok((position(row.cell(0)?, row.cell(1)?), row.cell(2)?)));
        let found: HashMap<Position, Option<String>> = found.collect::<Result<_, OutboxError>>()?;
        let unknown: Vec<_> = positions.iter().copied().filter(|at| !found.contains_key(at)).collect();
        if !unknown.is_empty() {
            return Err(self.unknown(&unknown));
        }
        let done = positions
            .iter()
            .find_map(|at| found.get(at).and_then(Option::as_ref).map(|outcome| (at, outcome)));
        match done {
            Some((at, outcome)) => Err(OutboxError::definite(
                format!("dead letter {at} was {outcome} already; nothing was changed"),
                "leave it out; `walpost dead-letters list` shows the open ones",
            )),
            None => Ok(()),
        }
    }

    /// Puts the marker into the log and commits.
    async fn tell(
        &self,
        transaction: Transaction<'_>,
        letters: i64,
        chosen: &Chosen,
        during: &str,
    ) -> Result<(), OutboxError> {
        if letters == 0 {
            let of = match chosen {
                Chosen::Topic(topic) => format!(" for topic {topic:?}"),
                _ => String::new(),
            };
            let what = format!("slot {} has no open dead letter{of}; nothing was changed", self.slot);
            return Err(OutboxError::definite(what, "see `walpost dead-letters list --all`"));
        }
        let marker = "SELECT pg_logical_emit_message(true, $1::text, $2::text)";
        let told = transaction.execute(marker, &[&MESSAGE_PREFIX, &self.slot]).await;
        told.map_err(|error| sql_error(during, error))?;
        transaction.commit().await.map_err(|error| sql_error(during, error))
    }
}

/// Whether a letter is at one of the positions in `$2` and `$3`.
const AT: &str = "(t.commit_lsn, t.index) IN (SELECT * FROM unnest($2::pg_lsn[], $3::int8[]))";

impl Chosen {
    /// The condition for letters `t`, with its parameters from `$2` on.
    fn condition<'a>(
        &'a self,
        values: &mut Parameters<'a>,
        lsns: &'a Vec<PgLsn>,
        indexes: &'a Vec<i64>,
    ) -> String {
        match self {
            Chosen::Positions(_) => {
                values.extend([lsns as &(dyn ToSql + Sync), indexes]);
                AT.to_owned()
            }
            Chosen::Topic(topic) => {
                values.push(topic);
                "t.topic = $2".to_owned()
            }
            Chosen::All => "true".to_owned(),
        }
    }

    fn pairs(&self) -> (Vec<PgLsn>, Vec<i64>) {
        let none = BTreeSet::new();
        let positions = if let Chosen::Positions(positions) = self { positions } else { &none };
        positions.iter().copied().map(pair).unzip()
    }
}

async fn begin<'a>(session: &'a mut Session, during: &str) -> Result<Transaction<'a>, OutboxError> {
    let failed = |error| sql_error(during, error);
    let transaction = session.client_mut().transaction().await.map_err(failed)?;
    transaction.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    Ok(transaction)
}
