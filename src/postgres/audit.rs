//! The tables as `walpost audit` reads them: rows of one moment, and which of them the relay has not confirmed yet.
//!
//! A copy of the slot stays where the relay was before that moment. So what it brings is what was not confirmed then,
//! whatever the relay does meanwhile; it ends with its session, and nothing of it is moved or written.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::SimpleQueryMessage;
use uuid::Uuid;

use super::names::{Outbox, TableName, Target, quote_identifier, quote_literal};
use super::pgoutput::{LogicalMessage, Message, Tuple};
use super::preflight::{Preflight, TableColumn, inspect};
use super::relations::Relations;
use super::rows::{AS_IN_THE_STREAM, since, until};
use super::session::{Cells, Session, sql_error};
use super::settings::Settings;
use super::slot::{self, publication_names};
use super::table::{DeadLetterOffice, Layout, ScheduledTable, emitted};
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::message::OutboxMessage;

/// Most rows of a page, and about how many bytes it shall have.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 4 << 20;
/// The condition for all rows.
const ALL: &str = "true";
const READING: &str = "reading the rows";
const WAITING: &str = "reading what the relay has not confirmed";

/// Which rows are looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Of one table alone.
    pub(crate) of: Option<TableName>,
    pub(crate) since: Option<String>,
    pub(crate) until: Option<String>,
    /// In SQL.
    pub(crate) condition: Option<String>,
}

impl Selection {
    /// Whether some rows are left out by what they hold.
    pub(crate) fn is_part(&self) -> bool {
        self.since.is_some() || self.until.is_some() || self.condition.is_some()
    }

    fn condition(&self, outbox: &Outbox) -> Result<String, OutboxError> {
        let mut conditions = Vec::new();
        if let Some(time) = &self.since {
            conditions.push(since(outbox, time)?);
        }
        if let Some(time) = &self.until {
            conditions.push(until(outbox, time)?);
        }
        if let Some(condition) = &self.condition {
            conditions.push(format!("({condition})"));
        }
        Ok(if conditions.is_empty() { ALL.to_owned() } else { conditions.join(" AND ") })
    }
}

/// A row and the message that it is.
#[derive(Debug)]
pub(crate) struct AuditedRow {
    pub(crate) message: OutboxMessage,
    /// Whether the conditions let it pass as it is now.
    pub(crate) passes: bool,
    /// The text of its id's column.
    pub(crate) id: Option<String>,
    /// Where it stands among the others.
    pub(crate) ordinal: Option<Ordinal>,
    /// Which table it is of.
    pub(crate) table: usize,
}

/// What the column says by which rows are in the order of insertion: a time as ISO 8601 writes it in UTC, or a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ordinal {
    Number(i64),
    Time(String),
}

impl Ordinal {
    /// Of columns whose order is known without asking the server.
    fn of(text: &str, type_oid: u32) -> Option<Ordinal> {
        match type_oid {
            INT2 | INT4 | INT8 => text.parse().ok().map(Ordinal::Number),
            // Other times have more digits, or an era.
            DATE | TIMESTAMP | TIMESTAMPTZ
                if text.as_bytes().get(4) == Some(&b'-') && !text.ends_with("BC") =>
            {
                Some(Ordinal::Time(text.to_owned()))
            }
            _ => None,
        }
    }

    fn literal(&self) -> String {
        match self {
            Ordinal::Number(number) => number.to_string(),
            Ordinal::Time(text) => quote_literal(text),
        }
    }
}

const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;

/// What became of a row that is in no topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Parked,
    Discarded,
    /// It is due later.
    Held,
}

/// A table that is read.
struct Part {
    outbox: Outbox,
    layout: Arc<Layout>,
    sql: String,
    /// Where in a row its id stands.
    id: Option<usize>,
    /// The same of the column by which rows are ordered, with its type.
    order: Option<(usize, TableColumn)>,
    /// Which rows are looked at.
    condition: String,
}

/// The tables at one moment.
pub(crate) struct AuditedTables {
    target: Target,
    preflight: Preflight,
    parts: Vec<Part>,
    rows: Session,
    /// Holds the copy of the slot.
    keeper: Session,
    copy: String,
    /// What the relay had confirmed before that moment.
    pub(crate) confirmed: Lsn,
    /// Where the log was just before that moment.
    pub(crate) current: Lsn,
    /// Rows that no message can be made of.
    pub(crate) unfit: u64,
    is_part: bool,
    /// The table that is being read, and how many rows the next page has.
    place: Option<(usize, usize)>,
    relations: Option<Relations>,
}

impl AuditedTables {
    /// Keeps the relay's position, and takes the moment.
    ///
    /// # Errors
    /// A table or the slot is missing, a right is, or there is no room for a slot.
    pub(crate) async fn open(
        settings: &Settings,
        target: &Target,
        selection: &Selection,
    ) -> Result<AuditedTables, OutboxError> {
        let (rows, endpoint) = Session::open_first(settings).await?;
        let keeper = Session::open_beside(&endpoint, rows.client()).await?;
        let mut preflight = inspect(&rows, target).await?;
        if !preflight.slot_exists {
            let text = format!("slot {} does not exist", target.slot);
            let advice = "name the slot with --slot; if it was dropped: `walpost setup` makes it anew, as the owner, and this \
                          then finds the rows that were committed before and are in no topic";
            return Err(OutboxError::definite(text, advice));
        }
        if preflight.tables.iter().any(|table| table.layout.is_none()) {
            preflight = preflight.passed()?;
        }
        let parts = parts(target, &preflight, selection)?;
        for part in &parts {
            // A second statement behind the condition, or a mistake in it, is refused here.
            rows.client().prepare(&part.sql).await.map_err(|error| sql_error(READING, error))?;
        }
        let copy = format!("walpost_audit_{:016x}", fastrand::u64(..));
        slot::copy_temporary(&keeper, &target.slot, &copy).await?;
        let confirmed = slot::position(&keeper, &copy).await?;
        rows.expect_rows();
        keeper.expect_rows();
        // Before the moment, so that what is committed behind it is not among the rows, or is and is found.
        let row = rows.query_one_row(READING, "SELECT pg_current_wal_lsn()::text").await?;
        let text: String = row.map_or_else(|| Ok(String::new()), |row| row.cell(0))?;
        let current = text
            .parse()
            .map_err(|error| OutboxError::protocol("the server's answer can't be read", error))?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
             SET LOCAL idle_in_transaction_session_timeout = 0; {AS_IN_THE_STREAM}"
        );
        rows.client().batch_execute(&begin).await.map_err(|error| sql_error(READING, error))?;
        // The moment is that of the first statement.
        rows.client().batch_execute("SELECT 1").await.map_err(|error| sql_error(READING, error))?;
        let target = target.clone();
        let (unfit, place, relations, is_part) = (0, None, None, selection.is_part());
        Ok(AuditedTables {
            target,
            preflight,
            parts,
            rows,
            keeper,
            copy,
            confirmed,
            current,
            unfit,
            is_part,
            place,
            relations,
        })
    }

    /// The tables that are read.
    pub(crate) fn names(&self) -> Vec<String> {
        self.parts.iter().map(|part| part.outbox.table.to_string()).collect()
    }

    /// How many rows are to be expected, as the statistics have it: none where a part is chosen.
    ///
    /// # Errors
    /// The session broke.
    pub(crate) async fn expected_rows(&self) -> Result<usize, OutboxError> {
        if self.is_part {
            return Ok(0);
        }
        let names: Vec<_> =
            self.parts.iter().map(|part| quote_literal(&part.outbox.table.to_string())).collect();
        // Of a partitioned table the statistics are those of its leaves.
        let sql = format!(
            "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::float8 FROM unnest(ARRAY[{}]::regclass[]) t (root), \
             LATERAL (SELECT t.root AS leaf UNION SELECT relid FROM pg_partition_tree(t.root)) l \
             JOIN pg_class c ON c.oid = l.leaf WHERE c.relkind = 'r'",
            names.join(", ")
        );
        let row = self.rows.query_one_row(READING, &sql).await?;
        let rows: f64 = row.map_or(Ok(0.0), |row| row.cell(0))?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate, not below zero"
        )]
        Ok((rows * 1.1) as usize)
    }

    /// The next rows; none behind the last one, and then the first ones again.
    ///
    /// # Errors
    /// The session broke, or a row can't be read.
    pub(crate) async fn page(&mut self) -> Result<Option<Vec<AuditedRow>>, OutboxError> {
        let failed = |error| sql_error(READING, error);
        loop {
            let (index, size) = match self.place {
                Some(place) => place,
                None => {
                    self.declare(0).await?;
                    (0, PAGE)
                }
            };
            let answer = self.rows.client().simple_query(&format!("FETCH {size} FROM audited")).await;
            let answer = answer.map_err(failed)?;
            let (mut page, mut largest, mut read) = (Vec::new(), 1, false);
            for message in &answer {
                let SimpleQueryMessage::Row(row) = message else { continue };
                let texts = (0..row.len()).map(|column| row.try_get(column).ok().flatten());
                largest = texts.clone().flatten().map(str::len).sum::<usize>().max(largest);
                read = true;
                page.extend(self.row(index, texts));
            }
            self.place = Some((index, (PAGE_BYTES / largest).clamp(1, PAGE)));
            if read {
                return Ok(Some(page));
            }
            self.rows.client().batch_execute("CLOSE audited").await.map_err(failed)?;
            if index + 1 == self.parts.len() {
                self.place = None;
                return Ok(None);
            }
            self.declare(index + 1).await?;
        }
    }

    async fn declare(&mut self, index: usize) -> Result<(), OutboxError> {
        let sql = format!("DECLARE audited NO SCROLL CURSOR FOR {}", self.parts[index].sql);
        self.rows.client().batch_execute(&sql).await.map_err(|error| sql_error(READING, error))?;
        self.place = Some((index, PAGE));
        Ok(())
    }

    fn row<'a>(
        &mut self,
        table: usize,
        texts: impl ExactSizeIterator<Item = Option<&'a str>> + Clone,
    ) -> Option<AuditedRow> {
        let part = &self.parts[table];
        let text = |column| texts.clone().nth(column).flatten();
        let id = part.id.and_then(text).map(str::to_owned);
        let ordinal = part.order.as_ref();
        let ordinal = ordinal.and_then(|(column, of)| Ordinal::of(text(*column)?, of.type_oid));
        match part.layout.message_now(&Tuple::of_texts(texts)) {
            Ok((message, passes)) => Some(AuditedRow { message, passes, id, ordinal, table }),
            Err(_) => {
                self.unfit += 1;
                None
            }
        }
    }

    /// The next messages that were committed behind what the relay had confirmed; none behind the last one.
    ///
    /// # Errors
    /// The log can't be read.
    pub(crate) async fn unconfirmed(&mut self) -> Result<Option<Vec<OutboxMessage>>, OutboxError> {
        let failed = |error| sql_error(WAITING, error);
        let client = self.keeper.client();
        if self.relations.is_none() {
            let sql = format!(
                "BEGIN; SET LOCAL statement_timeout = 0; DECLARE unconfirmed NO SCROLL CURSOR FOR SELECT data \
                 FROM pg_logical_slot_peek_binary_changes({}, NULL, NULL, 'proto_version', '1', \
                 'publication_names', '{}', 'messages', 'true')",
                quote_literal(&self.copy),
                publication_names(&self.target)
            );
            client.batch_execute(&sql).await.map_err(failed)?;
            self.relations = Some(Relations::quiet(&self.target, &self.preflight));
        }
        let Some(relations) = &mut self.relations else { return Ok(None) };
        let rows = client.query("FETCH 100 FROM unconfirmed", &[]).await.map_err(failed)?;
        if rows.is_empty() {
            client.batch_execute("ROLLBACK").await.map_err(failed)?;
            return Ok(None);
        }
        let mut messages = Vec::new();
        for row in &rows {
            let data = Bytes::copy_from_slice(row.cell::<&[u8], _>(0)?);
            let broken = |error| OutboxError::protocol("the server broke the protocol", error);
            match LogicalMessage::decode(data).map_err(broken)? {
                LogicalMessage::Relation(relation) => relations.learn(&relation)?,
                LogicalMessage::Insert(insert) => {
                    if let Some(layout) = relations.layout(insert.relation)? {
                        messages.extend(layout.message(&insert.new).ok().flatten());
                    }
                }
                LogicalMessage::Message(event) if event.transactional => {
                    messages.extend(requested(&self.parts, &event, self.preflight.seal.secret));
                }
                _ => {}
            }
        }
        Ok(Some(messages))
    }

    /// What is known of rows that are in no topic, by the ids of their messages.
    ///
    /// # Errors
    /// The session broke.
    pub(crate) async fn fates(&self, rows: &[AuditedRow]) -> Result<HashMap<Uuid, Fate>, OutboxError> {
        let mut fates = HashMap::new();
        if rows.is_empty() {
            return Ok(fates);
        }
        let session = &self.keeper;
        let waiting = ScheduledTable::of(&self.target);
        let rights = waiting.rights(session).await?;
        if waiting.require(rights.as_ref(), &["SELECT"]).is_ok() && waiting.is_known(session).await? {
            let ids: Vec<_> = rows.iter().filter_map(|row| row.id.clone()).collect();
            let held = waiting.among(session, &ids).await?;
            let held = rows.iter().filter(|row| row.id.as_ref().is_some_and(|id| held.contains(id)));
            fates.extend(held.map(|row| (row.message.id(), Fate::Held)));
        }
        let office = DeadLetterOffice::of(&self.target);
        let rights = office.rights(session).await?;
        if office.require(rights.as_ref(), &["SELECT"]).is_ok() {
            let ids: Vec<_> = rows.iter().map(|row| row.message.id()).collect();
            let letters = office.among(session, &ids).await?;
            let fate = |discarded| if discarded { Fate::Discarded } else { Fate::Parked };
            fates.extend(letters.into_iter().map(|(id, discarded)| (id, fate(discarded))));
        }
        Ok(fates)
    }

    /// The condition for rows of a table by the texts of their ids.
    pub(crate) fn condition(&self, table: usize, ids: &[String]) -> Option<String> {
        let outbox = &self.parts.get(table)?.outbox;
        let ids: Vec<_> = ids.iter().map(|id| quote_literal(id)).collect();
        Some(format!("{} IN ({})", quote_identifier(outbox.mapping.id_column()?), ids.join(", ")))
    }

    /// The condition for those among the rows that were looked at that stand from here to there.
    pub(crate) fn between(&self, table: usize, first: &Ordinal, last: &Ordinal) -> Option<String> {
        let Part { order, condition, .. } = self.parts.get(table)?;
        let column = quote_identifier(&order.as_ref()?.1.name);
        let also = if condition == ALL { String::new() } else { format!(" AND {condition}") };
        Some(format!("t.{column} BETWEEN {} AND {}{also}", first.literal(), last.literal()))
    }

    /// The name of a table, if it has to be told from others.
    pub(crate) fn name_among(&self, table: usize) -> Option<String> {
        let part = self.parts.get(table).filter(|_| !self.target.others.is_empty())?;
        Some(part.outbox.table.to_string())
    }
}

/// The message of a row that a backfill or a replay has written into the log.
fn requested(parts: &[Part], event: &Message, secret: Option<Uuid>) -> Option<OutboxMessage> {
    let part =
        parts.iter().find(|part| event.prefix == emitted::rows_prefix(&part.outbox.table).as_bytes())?;
    let mut row = emitted::SentRow::read(&event.content, secret?).ok()?;
    // A replay is the same message; its mark is no part of the row.
    row.mark = None;
    part.layout.message_of(&row).ok()
}

/// What is read of each table.
fn parts(target: &Target, preflight: &Preflight, selection: &Selection) -> Result<Vec<Part>, OutboxError> {
    let mut parts = Vec::new();
    for (outbox, survey) in target.outboxes().zip(&preflight.tables) {
        let Some(layout) = survey.layout.clone() else { continue };
        if selection.of.as_ref().is_some_and(|of| *of != outbox.table) {
            continue;
        }
        let columns: Vec<_> =
            survey.columns.iter().map(|column| format!("t.{}", quote_identifier(&column.name))).collect();
        let (table, condition) = (&outbox.table, selection.condition(outbox)?);
        let sql = format!("SELECT {} FROM {table} t WHERE {condition}", columns.join(", "));
        let id = outbox.mapping.id_column();
        let id = id.and_then(|id| survey.columns.iter().position(|column| column.name == id));
        let mapping = &outbox.mapping;
        let order = mapping.time_column().or(mapping.order.first().map(String::as_str));
        let order = survey.columns.iter().enumerate().find(|(_, column)| order == Some(&column.name));
        let order = order.map(|(index, column)| (index, column.clone()));
        parts.push(Part { outbox: outbox.clone(), layout, sql, id, order, condition });
    }
    if parts.is_empty() {
        let of = selection.of.as_ref().map(ToString::to_string).unwrap_or_default();
        let advice = format!("name one of {} with --of", target.tables());
        return Err(OutboxError::usage(format!("{of} is none of the relay's tables"), advice));
    }
    Ok(parts)
}
