//! `walpost audit`: whether the topics hold what the tables say.

mod repair;
mod verdict;

use std::collections::BTreeMap;
use std::path::Path;

use self::repair::Repair;
use self::verdict::{LostRow, Totals, Verdict};
use super::arguments::AuditArguments;
use super::pasted;
use crate::audit::{Answer, Expected, Lead, Ledger, Range};
use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::kafka::{Compacted, KafkaSettings, Span, TopicReader, compacted};
use crate::lsn::Lsn;
use crate::message::OwnHeaders;
use crate::postgres::{AuditedRow, AuditedTables, Fate, Selection};
use crate::router::Router;

/// Compares, prints the verdict, and fails if a person is needed. `file` is the configuration that was named.
pub(super) async fn audit(
    arguments: &AuditArguments,
    config: &Config,
    file: Option<&Path>,
) -> Result<(), OutboxError> {
    let of = arguments.of.as_deref().map(str::parse).transpose()?;
    let range = range(arguments, config)?;
    let selection = Selection {
        of,
        since: arguments.since.clone(),
        until: arguments.until.clone(),
        condition: arguments.condition.clone(),
    };
    let mut tables = AuditedTables::open(&config.database, &config.target, &selection).await?;
    let most = usize::from(arguments.show);
    let mut audit =
        Audit { totals: Totals::default(), router: Router::default(), most, repairs: BTreeMap::new() };
    audit.totals.range = range;
    let mut ledger = Ledger::new(most, range);
    ledger.rows_are_of(tables.current);
    ledger.reserve(tables.expected_rows().await?);
    while let Some(page) = tables.page().await? {
        for row in &page {
            match Expected::of(&mut audit.router, &row.message) {
                Ok(expected) => ledger.expect(&expected, row.passes),
                Err(_) => audit.totals.unfit += 1,
            }
        }
        has_room(&ledger)?;
    }
    let (topics, since) = ledger.close();
    let kafka = config.kafka.clone();
    // librdkafka blocks while it waits.
    let opening = tokio::task::spawn_blocking(move || opened(&kafka, &topics));
    let abandoned = |error| OutboxError::connection("the audit was abandoned", error);
    let (reader, places) = opening.await.map_err(abandoned)??;
    let Compacted { topics: compacted, unseen } = compacted(&config.kafka, &places.topics()).await;
    audit.totals.unseen = unseen;
    ledger.compacted(compacted);
    let reading = tokio::task::spawn_blocking(move || read(reader, places, since, ledger));
    let (ledger, read) = reading.await.map_err(abandoned)??;
    audit.totals.read(read);
    let verdict = audit.judge(&mut tables, ledger, &selection).await?;
    output::write(&if arguments.json { verdict.json()? } else { verdict.text() });
    verdict.into_result(&pasted::settings(&arguments.settings_of_replay()?, file))
}

/// The positions whose records are judged.
fn range(arguments: &AuditArguments, config: &Config) -> Result<Range, OutboxError> {
    let lsn = |flag: &str, text: &Option<String>| -> Result<Option<Lsn>, OutboxError> {
        let parsed = text.as_deref().map(str::parse).transpose();
        parsed.map_err(|error| {
            let advice = "write a position as PostgreSQL and the header walpost.lsn do, such as 16/B374D848";
            OutboxError::usage(format!("{flag}: {error}"), advice)
        })
    };
    let range =
        Range { from: lsn("--from-lsn", &arguments.from_lsn)?, to: lsn("--to-lsn", &arguments.to_lsn)? };
    let mute = config.target.outboxes().find(|outbox| outbox.mapping.header_set() == OwnHeaders::None);
    match mute.filter(|_| range.is_part()) {
        Some(outbox) => Err(OutboxError::usage(
            format!("--from-lsn, --to-lsn: records of {} bear no position", outbox.table),
            "choose rows by --since, --until or --where; a position is in the header walpost.lsn (--map-own-headers yes)",
        )),
        None => Ok(range),
    }
}

fn has_room(ledger: &Ledger) -> Result<(), OutboxError> {
    if !ledger.is_full() {
        return Ok(());
    }
    let advice = "audit one part after the other: --since and --until, --where, or --of";
    Err(OutboxError::definite("there are more rows and keys than 1 GiB of memory holds", advice))
}

/// What is read of Kafka.
pub(super) struct Read {
    topics: usize,
    partitions: usize,
    /// Topics that are not there.
    absent: Vec<String>,
    /// Of topics that have lost records to their retention: the time of the oldest that is left.
    kept_since: BTreeMap<String, i64>,
}

/// Partitions and their ends at one moment, by topic.
#[derive(Default)]
struct Places {
    topics: Vec<(String, Vec<Span>)>,
    absent: Vec<String>,
}

impl Places {
    fn topics(&self) -> Vec<String> {
        self.topics.iter().map(|(topic, _)| topic.clone()).collect()
    }
}

/// Asks for all ends before the first record is read, so that it is of one moment, however long it takes.
fn opened(kafka: &KafkaSettings, topics: &[String]) -> Result<(TopicReader, Places), OutboxError> {
    let reader = TopicReader::open(kafka)?;
    let there = reader.topics()?;
    let mut places = Places::default();
    for topic in topics {
        match there.get(topic) {
            None => places.absent.push(topic.clone()),
            Some(count) => {
                let spans = (0..*count).map(|partition| reader.span(topic, partition));
                places.topics.push((topic.clone(), spans.collect::<Result<_, _>>()?));
            }
        }
    }
    Ok((reader, places))
}

/// Reads every topic from that time to where it ended.
fn read(
    mut reader: TopicReader,
    places: Places,
    since: Option<i64>,
    mut ledger: Ledger,
) -> Result<(Ledger, Read), OutboxError> {
    let Places { topics, absent } = places;
    let partitions = topics.iter().map(|(_, spans)| spans.len()).sum();
    let mut read = Read { topics: topics.len(), partitions, absent, kept_since: BTreeMap::new() };
    for (topic, spans) in topics {
        let count = i32::try_from(spans.len()).unwrap_or(i32::MAX);
        for (whole, partition) in spans.into_iter().zip(0..) {
            let span = match since.filter(|_| !ledger.wants_all_of(&topic)) {
                Some(since) => reader.since(&topic, partition, whole, since)?,
                None => whole,
            };
            let oldest = part(&mut reader, &mut ledger, (&topic, partition, count), span)?;
            if whole.first > 0 && span.first == whole.first {
                let kept = read.kept_since.entry(topic.clone()).or_insert(i64::MIN);
                *kept = oldest.unwrap_or(i64::MAX).max(*kept);
            }
        }
        ledger.end_topic();
    }
    Ok((ledger, read))
}

/// Reads a part of a partition, and returns the time of its first record.
fn part(
    reader: &mut TopicReader,
    ledger: &mut Ledger,
    (topic, partition, partitions): (&str, i32, i32),
    span: Span,
) -> Result<Option<i64>, OutboxError> {
    let (mut oldest, mut count) = (None, 0);
    ledger.turn();
    reader.seek(topic, partition, span)?;
    while let Some(record) = reader.next()? {
        oldest = oldest.or(record.content.timestamp);
        count += 1;
        let lead = Lead { hash: reader.hash_of(record.content.key.as_deref()), partitions };
        ledger.meet(topic, record, lead);
        has_room(ledger)?;
    }
    if count < span.end - span.first {
        ledger.has_gaps(topic, partition);
    }
    Ok(oldest)
}

/// What is known of a row that is in no topic.
struct Missing {
    time: Option<i64>,
    is_compacted: bool,
}

struct Audit {
    totals: Totals,
    router: Router,
    /// So many examples.
    most: usize,
    /// By table.
    repairs: BTreeMap<usize, Repair>,
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
                        let is_compacted = ledger.is_compacted(&expected);
                        missing.push((row, Missing { time: expected.timestamp, is_compacted }));
                    }
                }
                self.account(tables, missing, &mut lost).await?;
            }
            tables.unfit = unfit;
        }
        self.totals.of_tables(tables, selection.is_part());
        self.totals.counts = ledger.counts();
        let repairs = self.repairs.into_iter().map(|(table, repair)| repair.of(tables, table)).collect();
        Ok(Verdict::new(self.totals, lost, ledger.into_samples(), repairs))
    }

    /// Tells apart what is missing on one page.
    async fn account(
        &mut self,
        tables: &AuditedTables,
        missing: Vec<(AuditedRow, Missing)>,
        lost: &mut Vec<LostRow>,
    ) -> Result<(), OutboxError> {
        let (rows, missing): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
        let fates = tables.fates(&rows).await?;
        for (row, Missing { time, is_compacted }) in rows.into_iter().zip(missing) {
            let topic = row.message.topic().to_owned();
            // Of a row that does not tell its time it can't be told either.
            let kept = self.totals.kept_since(&topic);
            let expired = kept.is_some_and(|kept| time.is_none_or(|time| time <= kept));
            match fates.get(&row.message.id()) {
                Some(Fate::Parked) => self.totals.parked += 1,
                Some(Fate::Discarded) => self.totals.discarded += 1,
                Some(Fate::Held) => self.totals.held += 1,
                None if is_compacted => self.totals.compacted += 1,
                None if expired => self.totals.expired += 1,
                None => {
                    self.totals.lost += 1;
                    self.repairs.entry(row.table).or_default().note(&row, self.most);
                    if lost.len() < self.most {
                        lost.push(LostRow { id: row.id, topic });
                    }
                }
            }
        }
        Ok(())
    }
}
