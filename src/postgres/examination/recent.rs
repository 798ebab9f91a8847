//! What the newest rows of the tables would become: to which topics they go, without a key or with one, and how large the
//! largest is.
//!
//! The look is bounded, whatever the table's size: the last blocks of each table alone are read, and of a value that is
//! stored large only its size. Nothing of a row is shown but its topic.

use tokio_postgres::Row;

use super::{Subject, size};
use crate::error::OutboxError;
use crate::finding::Finding;
use crate::lsn::Position;
use crate::mapping::Piece;
use crate::message::OutboxMessage;
use crate::postgres::names::{Outbox, Target, quote_identifier};
use crate::postgres::pgoutput::Tuple;
use crate::postgres::preflight::Survey;
use crate::postgres::session::Cells;
use crate::router::Router;

const SUBJECT: &str = "recent rows";
/// The last blocks of a table, and at most so many rows of them.
const BLOCKS: i64 = 64;
const ROWS: i64 = 300;
/// Of so many partitions, the newest ones.
const PARTITIONS: i64 = 4;
/// A value that is stored in more bytes is not fetched.
const LARGE: i64 = 8192;
/// How many topics are told to Kafka's side.
const TOPICS: usize = 40;

/// A topic that records go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicInUse {
    pub(crate) name: String,
    /// Some of its records have no key.
    pub(crate) keyless: bool,
    /// Bytes of the largest row that was seen for it, about.
    pub(crate) largest: i64,
}

/// The topics that mappings name by themselves.
pub(super) fn named(target: &Target) -> Vec<TopicInUse> {
    let mut topics = Vec::new();
    for outbox in target.outboxes() {
        if let Some(name) = constant(outbox) {
            let keyless = outbox.mapping.key.is_none();
            note(&mut topics, TopicInUse { name, keyless, largest: 0 });
        }
    }
    topics
}

fn constant(outbox: &Outbox) -> Option<String> {
    if outbox.mapping.contract.is_some() {
        return None;
    }
    let text = |piece: &Piece| match piece {
        Piece::Text(text) => Some(text.clone()),
        Piece::Schema => Some(outbox.table.schema.clone()),
        Piece::Table => Some(outbox.table.name.clone()),
        Piece::Choice(_) => None,
    };
    outbox.mapping.topic.pieces.iter().map(text).collect()
}

/// Adds a topic, or what is new about it.
fn note(topics: &mut Vec<TopicInUse>, seen: TopicInUse) {
    if let Some(topic) = topics.iter_mut().find(|topic| topic.name == seen.name) {
        topic.keyless |= seen.keyless;
        topic.largest = topic.largest.max(seen.largest);
    } else if topics.len() < TOPICS {
        topics.push(seen);
    }
}

pub(super) async fn look(
    subject: &Subject<'_>,
    topics: &mut Vec<TopicInUse>,
) -> Result<Vec<Finding>, OutboxError> {
    // As the stream shows values.
    let form = "SET DateStyle = 'ISO'; SET TimeZone = 'UTC'; SET bytea_output = 'hex'; SET extra_float_digits = 3; \
                SET IntervalStyle = 'postgres'";
    let set = subject.session.client().batch_execute(form).await;
    set.map_err(|error| crate::postgres::session::sql_error("asking the server", error))?;
    let mut seen = Seen::default();
    for (outbox, survey) in subject.target.outboxes().zip(&subject.report.tables) {
        if let (Some(oid), Some(_)) = (survey.oid, &survey.layout)
            && readable(subject, oid).await?
        {
            for part in parts(subject, oid).await? {
                seen.part(subject, outbox, survey, &part, topics).await?;
            }
        }
    }
    Ok((seen.rows > 0).then(|| seen.told(topics.len())).into_iter().collect())
}

async fn readable(subject: &Subject<'_>, oid: u32) -> Result<bool, OutboxError> {
    let sql = format!(
        "SELECT has_schema_privilege(relnamespace, 'USAGE') AND has_table_privilege(oid, 'SELECT') FROM pg_class \
         WHERE oid = {oid}"
    );
    subject.row(&sql).await?.cell(0)
}

/// The table itself, or its newest partitions that hold anything, each with the block to begin at.
async fn parts(subject: &Subject<'_>, oid: u32) -> Result<Vec<(String, i64)>, OutboxError> {
    let sql = format!(
        "SELECT relid::regclass::text, greatest(pg_relation_size(relid) / current_setting('block_size')::int8 - {BLOCKS}, 0) \
         FROM (SELECT relid FROM pg_partition_tree({oid}) WHERE isleaf UNION SELECT {oid}::oid::regclass) t \
         WHERE pg_relation_size(relid) > 0 ORDER BY relid::oid DESC LIMIT {PARTITIONS}"
    );
    let part = |row: &Row| Ok((row.cell(0)?, row.cell(1)?));
    subject.rows(&sql).await?.iter().map(part).collect()
}

#[derive(Default)]
struct Seen {
    rows: usize,
    /// Those that are no message, for a column of theirs.
    unfit: usize,
    largest: i64,
}

impl Seen {
    async fn part(
        &mut self,
        subject: &Subject<'_>,
        outbox: &Outbox,
        survey: &Survey,
        (table, block): &(String, i64),
        topics: &mut Vec<TopicInUse>,
    ) -> Result<(), OutboxError> {
        let columns: Vec<_> = survey.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let texts: Vec<_> = columns
            .iter()
            .map(|column| {
                format!("CASE WHEN pg_column_size(t.{column}) <= {LARGE} THEN t.{column}::text END")
            })
            .collect();
        let sizes: Vec<_> =
            columns.iter().map(|column| format!("coalesce(pg_column_size(t.{column}), 0)")).collect();
        // A range of row identifiers is read block by block (14 and later), and nothing else of the table.
        let sql = format!(
            "SELECT ({})::int8, {} FROM ONLY {table} t WHERE t.ctid >= '({block},0)'::tid ORDER BY t.ctid DESC LIMIT {ROWS}",
            sizes.join(" + "),
            texts.join(", ")
        );
        for row in subject.rows(&sql).await? {
            let stored: i64 = row.cell(0)?;
            let texts: Vec<Option<&str>> =
                (1..=columns.len()).map(|index| row.cell(index)).collect::<Result<_, _>>()?;
            self.rows += 1;
            self.largest = self.largest.max(stored);
            let tuple = Tuple::of_texts(texts.into_iter());
            match survey.layout.as_ref().map(|layout| layout.message(&tuple)) {
                Some(Ok(Some(message))) => note(topics, in_use(outbox, &message, stored)),
                Some(Err(_)) if stored <= LARGE => self.unfit += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn told(&self, topics: usize) -> Finding {
        let text = format!(
            "the last {} rows go to {topics} {}; the largest is stored in {}",
            self.rows,
            if topics == 1 { "topic" } else { "topics" },
            size(self.largest)
        );
        if self.unfit == 0 {
            return Finding::good(SUBJECT, text);
        }
        let text = format!("{} of the last {} rows can't become a message", self.unfit, self.rows);
        let advice = "`walpost run` names row and column, and stops there or parks it (--on-refusal); NOT NULL and a \
                      CHECK on the column keep such rows out";
        Finding::warn(SUBJECT, text, advice)
    }
}

/// What a message wants of its topic. A value that was not fetched counts as it is stored.
fn in_use(outbox: &Outbox, message: &OutboxMessage, stored: i64) -> TopicInUse {
    let length =
        |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    let mut router = Router::default();
    let (name, largest) = match router.route(message, Position::default()) {
        Ok(record) => (record.topic.to_owned(), length(record.key) + length(record.value)),
        Err(_) => (message.topic().to_owned(), 0),
    };
    let keyless = outbox.mapping.contract.is_none() && message.key().is_none();
    TopicInUse { name, keyless, largest: largest.max(stored) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mapping::Mapping;

    #[test]
    fn a_topic_that_no_column_tells_is_known_without_rows() {
        let preset = crate::mapping::Preset::named("spakky").expect("a preset");
        let outbox = |topic: &'static str, key: &'static str| {
            let over = |entry: &str| match entry {
                "topic" => Some(topic),
                "key" => Some(key),
                _ => None,
            };
            let mapping: Arc<Mapping> = preset.mapping(over).expect("a mapping").into();
            Outbox { table: "shop.events".parse().expect("a name"), mapping }
        };
        let target = Target {
            main: outbox("all.{$schema}.{$table}", "none"),
            others: vec![outbox("{event_name}", "none"), outbox("plain", "{id}"), outbox("plain", "none")],
            ..Target::default()
        };
        let topic = |name: &str, keyless| TopicInUse { name: name.to_owned(), keyless, largest: 0 };
        assert_eq!(named(&target), [topic("all.shop.events", true), topic("plain", true)]);
    }
}
