//! `walpost audit`: whether the topics hold what the tables say.

mod verdict;

use std::collections::BTreeMap;

use self::verdict::{LostRow, Totals, Verdict};
use super::arguments::AuditArguments;
use crate::audit::{Answer, Expected, Ledger};
use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::kafka::{KafkaSettings, Span, TopicReader};
use crate::postgres::{AuditedTables, Fate, Selection};
use crate::router::Router;

/// Compares, prints the verdict, and fails if a person is needed.
pub(super) async fn audit(arguments: &AuditArguments, config: &Config) -> Result<(), OutboxError> {
    let of = arguments.of.as_deref().map(str::parse).transpose()?;
    let selection = Selection {
        of,
        since: arguments.since.clone(),
        until: arguments.until.clone(),
        condition: arguments.condition.clone(),
    };
    let mut tables = AuditedTables::open(&config.database, &config.target, &selection).await?;
    let most = usize::from(arguments.show);
    let mut audit = Audit { totals: Totals::default(), router: Router::default(), most };
    let mut ledger = Ledger::new(most);
    while let Some(page) = tables.page().await? {
        for row in &page {
            match Expected::of(&mut audit.router, &row.message) {
                Ok(expected) => ledger.expect(&expected, row.passes),
                Err(_) => audit.totals.unfit += 1,
            }
        }
    }
    let (topics, since) = ledger.close();
    let kafka = config.kafka.clone();
    // librdkafka blocks while it waits.
    let reading = tokio::task::spawn_blocking(move || read(&kafka, &topics, since, ledger));
    let (ledger, read) =
        reading.await.map_err(|error| OutboxError::connection("the audit was abandoned", error))??;
    audit.totals.read(read);
    let verdict = audit.judge(&mut tables, ledger, &selection).await?;
    output::write(&if arguments.json { verdict.json()? } else { verdict.text() });
    verdict.into_result()
}

/// What was read of Kafka.
pub(super) struct Read {
    topics: usize,
    partitions: usize,
    /// Topics that are not there.
    absent: Vec<String>,
    /// Of topics that have lost records to their retention: the time of the oldest that is left.
    kept_since: BTreeMap<String, i64>,
}

/// Reads every topic from that time to where it ends now.
fn read(
    kafka: &KafkaSettings,
    topics: &[String],
    since: Option<i64>,
    mut ledger: Ledger,
) -> Result<(Ledger, Read), OutboxError> {
    let mut reader = TopicReader::open(kafka)?;
    let there = reader.topics()?;
    let mut read = Read { topics: 0, partitions: 0, absent: Vec::new(), kept_since: BTreeMap::new() };
    // All ends before the first record, so that it is of one moment, however long it takes.
    let mut ahead = Vec::new();
    for topic in topics {
        let Some(partitions) = there.get(topic) else {
            read.absent.push(topic.clone());
            continue;
        };
        read.topics += 1;
        for partition in 0..*partitions {
            ahead.push((topic, partition, reader.span(topic, partition)?));
        }
    }
    read.partitions = ahead.len();
    for (topic, partition, whole) in ahead {
        let span = match since {
            Some(since) => reader.since(topic, partition, whole, since)?,
            None => whole,
        };
        let oldest = part(&mut reader, &mut ledger, topic, partition, span)?;
        if whole.first > 0 && span.first == whole.first {
            let kept = read.kept_since.entry(topic.clone()).or_insert(i64::MIN);
            *kept = oldest.unwrap_or(i64::MAX).max(*kept);
        }
    }
    Ok((ledger, read))
}

/// Reads a part of a partition, and returns the time of its first record.
fn part(
    reader: &mut TopicReader,
    ledger: &mut Ledger,
    topic: &str,
    partition: i32,
    span: Span,
) -> Result<Option<i64>, OutboxError> {
    let mut oldest = None;
    ledger.turn();
    reader.seek(topic, partition, span)?;
    while let Some(record) = reader.next()? {
        oldest = oldest.or(record.content.timestamp);
        ledger.meet(topic, record);
    }
    Ok(oldest)
}

struct Audit {
    totals: Totals,
    router: Router,
    /// So many examples.
    most: usize,
}

impl Audit {
    /// Finds out why rows are missing, and which they are.
    async fn judge(
        mut self,
        tables: &mut AuditedTables,
        mut ledger: Ledger,
        selection: &Selection,
    ) -> Result<Verdict, OutboxError> {
        let mut lost = Vec::new();
        if !ledger.is_whole() {
            while let Some(messages) = tables.unconfirmed().await? {
                for message in messages {
                    if let Ok(expected) = Expected::of(&mut self.router, &message) {
                        ledger.put_off(&expected);
                    }
                }
            }
        }
        if !ledger.is_whole() || ledger.is_curious() {
            // Rows that can't be read were counted when they were read first.
            let unfit = tables.unfit;
            while let Some(page) = tables.page().await? {
                let mut missing = Vec::new();
                for row in page {
                    let Ok(expected) = Expected::of(&mut self.router, &row.message) else { continue };
                    if ledger.ask(&expected) == Answer::Missing {
                        missing.push((row, expected.timestamp));
                    }
                }
                self.account(tables, missing, &mut lost).await?;
            }
            tables.unfit = unfit;
        }
        self.totals.of_tables(tables, selection.is_part());
        self.totals.counts = ledger.counts();
        let mut repair = Vec::new();
        for table in 0..tables.names().len() {
            let ids: Vec<_> = lost
                .iter()
                .filter(|row: &&LostRow| row.table == table)
                .filter_map(|row| row.id.clone())
                .collect();
            if !ids.is_empty() {
                repair.extend(tables.condition(table, &ids));
            }
        }
        Ok(Verdict::new(self.totals, lost, ledger.into_samples(), repair))
    }

    /// Tells apart what is missing on one page.
    async fn account(
        &mut self,
        tables: &AuditedTables,
        missing: Vec<(crate::postgres::AuditedRow, Option<i64>)>,
        lost: &mut Vec<LostRow>,
    ) -> Result<(), OutboxError> {
        let (rows, times): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
        let fates = tables.fates(&rows).await?;
        for (row, time) in rows.into_iter().zip(times) {
            let topic = row.message.topic().to_owned();
            let expired = self.totals.kept_since(&topic).zip(time).is_some_and(|(kept, time)| time <= kept);
            match fates.get(&row.message.id()) {
                Some(Fate::Parked) => self.totals.parked += 1,
                Some(Fate::Discarded) => self.totals.discarded += 1,
                Some(Fate::Held) => self.totals.held += 1,
                None if expired => self.totals.expired += 1,
                None => {
                    self.totals.lost += 1;
                    if lost.len() < self.most {
                        lost.push(LostRow { id: row.id, topic, table: row.table });
                    }
                }
            }
        }
        Ok(())
    }
}
