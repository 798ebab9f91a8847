//! The outcome as people and programs read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::Read;
use super::repair::Conditions;
use crate::audit::{Counts, Range, Sample, SampleKind};
use crate::cli::dead_letters::escape;
use crate::error::OutboxError;
use crate::postgres::AuditedTables;

/// A row that is in no topic, without a reason.
#[derive(Debug)]
pub(super) struct LostRow {
    pub(super) id: Option<String>,
    pub(super) topic: String,
}

/// All that was counted.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) counts: Counts,
    pub(super) lost: u64,
    pub(super) parked: u64,
    pub(super) discarded: u64,
    pub(super) held: u64,
    pub(super) expired: u64,
    pub(super) compacted: u64,
    pub(super) unfit: u64,
    pub(super) range: Range,
    /// Topics of which nobody tells whether they are compacted.
    pub(super) unseen: Vec<String>,
    tables: Vec<String>,
    is_part: bool,
    confirmed: String,
    current: String,
    topics: usize,
    partitions: usize,
    absent: Vec<String>,
    kept_since: BTreeMap<String, i64>,
}

impl Totals {
    pub(super) fn read(&mut self, read: Read) {
        let Read { topics, partitions, absent, kept_since } = read;
        (self.topics, self.partitions, self.absent, self.kept_since) =
            (topics, partitions, absent, kept_since);
    }

    pub(super) fn of_tables(&mut self, tables: &AuditedTables, is_part: bool) {
        self.tables = tables.names();
        self.is_part = is_part;
        self.unfit += tables.unfit;
        (self.confirmed, self.current) = (tables.confirmed.to_string(), tables.current.to_string());
    }

    /// The time of the oldest record that a topic still has, if it has lost some to its retention.
    pub(super) fn kept_since(&self, topic: &str) -> Option<i64> {
        self.kept_since.get(topic).copied()
    }
}

/// How the audit ended.
#[derive(Debug)]
pub(super) struct Verdict {
    totals: Totals,
    lost: Vec<LostRow>,
    samples: Vec<Sample>,
    /// How lost rows are sent again, by table.
    repairs: Vec<Conditions>,
}

impl Verdict {
    pub(super) fn new(
        totals: Totals,
        lost: Vec<LostRow>,
        samples: Vec<Sample>,
        repairs: Vec<Conditions>,
    ) -> Verdict {
        Verdict { totals, lost, samples, repairs }
    }

    /// The worst that was found.
    fn word(&self) -> &'static str {
        let Counts { different, wrong_partition, out_of_order, .. } = self.totals.counts;
        match (self.totals.lost, different, wrong_partition, out_of_order) {
            (0, 0, 0, 0) => "OK",
            (0, 0, 0, _) => "OUT OF ORDER",
            (0, 0, _, _) => "WRONG PARTITION",
            (0, _, _, _) => "DIFFERENT",
            _ => "LOST",
        }
    }

    fn headline(&self) -> String {
        let Totals { counts, lost, .. } = &self.totals;
        let many =
            |count: u64, one: &str, more: &str| if count == 1 { one.to_owned() } else { more.to_owned() };
        match self.word() {
            "LOST" => {
                let rows = many(counts.rows, "row", "rows");
                format!("{lost} of {} {rows} {} in no topic", counts.rows, many(*lost, "is", "are"))
            }
            "DIFFERENT" => {
                let count = counts.different;
                format!("{count} {} not what the row says", many(count, "record is", "records are"))
            }
            "WRONG PARTITION" => {
                let count = counts.wrong_partition;
                let records = many(count, "record is", "records are");
                format!("{count} {records} in another partition than the row says or the key leads to")
            }
            "OUT OF ORDER" => {
                let count = counts.out_of_order;
                format!(
                    "{count} {} behind a later one of the same key",
                    many(count, "record stands", "records stand")
                )
            }
            _ if counts.repeated > 0 => {
                let repeats = many(counts.repeated, "record came", "records came");
                format!("nothing is lost; {} {repeats} again, as at least once allows", counts.repeated)
            }
            _ => "nothing is lost".to_owned(),
        }
    }

    /// What to do, with the settings that were typed; an error that ends the command after its findings were printed, if a
    /// person is needed.
    pub(super) fn into_result(self, settings: &str) -> Result<(), OutboxError> {
        match self.word() {
            "OK" => Ok(()),
            "LOST" => {
                let commands: Vec<_> =
                    self.repairs.iter().flat_map(|conditions| conditions.commands(settings)).collect();
                let advice = if commands.is_empty() {
                    "find the rows with --show and --json; rows without an id can't be chosen by it"
                        .to_owned()
                } else {
                    commands.join("\n")
                };
                Err(OutboxError::definite("the topics do not hold what the tables say", advice))
            }
            _ => Err(OutboxError::definite(
                "the topics do not hold what the tables say",
                "see which rows were changed after they were inserted, who else writes to the topic, and by which partitioner \
                 (`-X partitioner`); `walpost replay` sends a row again as it is now",
            )),
        }
    }

    pub(super) fn text(&self) -> String {
        let Totals { counts, tables, topics, partitions, .. } = &self.totals;
        let mut text = format!("{}: {}\n", self.word(), self.headline());
        let mut line = |name: &str, what: String| {
            // Writing to a string never fails.
            let _ = writeln!(text, "{name:<13} {what}");
        };
        line("rows", format!("{} of {}", counts.rows, tables.join(", ")));
        line("records", format!("{} in {topics} topics, {partitions} partitions", counts.records));
        line("published", counts.published.to_string());
        let awaited = format!("{}, committed behind {}", counts.not_yet, self.totals.confirmed);
        for (name, count, what) in [
            ("not yet", counts.not_yet, awaited),
            ("held", self.totals.held, format!("{}, due later", self.totals.held)),
            ("parked", self.totals.parked, format!("{}: `walpost dead-letters list`", self.totals.parked)),
            ("discarded", self.totals.discarded, format!("{} dead letters", self.totals.discarded)),
            ("unfit", self.totals.unfit, format!("{} rows that no record can be made of", self.totals.unfit)),
            (
                "expired",
                self.totals.expired,
                format!("{}, older than what their topic keeps: can't be told", self.totals.expired),
            ),
            (
                "compacted",
                self.totals.compacted,
                format!(
                    "{}, behind later records of their keys, which a compacted topic keeps",
                    self.totals.compacted
                ),
            ),
            (
                "outside",
                counts.outside,
                format!("{}, whose records lie outside of the range", counts.outside),
            ),
            ("left out", counts.left_out, format!("{}, by the conditions", counts.left_out)),
            ("lost", self.totals.lost, self.totals.lost.to_string()),
            ("different", counts.different, counts.different.to_string()),
            ("partition", counts.wrong_partition, format!("{} in a wrong one", counts.wrong_partition)),
            (
                "moved",
                counts.earlier_partition,
                format!(
                    "{} are where their keys led when there were fewer partitions",
                    counts.earlier_partition
                ),
            ),
            ("out of order", counts.out_of_order, counts.out_of_order.to_string()),
            ("repeated", counts.repeated, counts.repeated.to_string()),
            ("replayed", counts.replayed, format!("{}, on purpose", counts.replayed)),
            ("later", counts.later, format!("{} records of what was committed since", counts.later)),
        ] {
            if count > 0 || matches!(name, "lost") {
                line(name, what);
            }
        }
        if counts.unknown > 0 && !self.totals.is_part {
            line("no row", format!("{} records whose row is not in the table, or beside it", counts.unknown));
        }
        for topic in &self.totals.absent {
            line("no topic", escape(topic));
        }
        for topic in self.totals.unseen.iter().filter(|_| self.totals.lost > 0) {
            line("unknown", format!("whether {} is compacted: its settings may not be seen", escape(topic)));
        }
        text + &self.examples()
    }

    fn examples(&self) -> String {
        let lost = self.lost.iter().map(|row| {
            let id = row.id.as_deref().map_or("unknown".into(), escape);
            format!("  lost            id {id}, topic {}\n", escape(&row.topic))
        });
        let shown = self.samples.iter().filter(|sample| self.is_shown(sample));
        let samples = shown.map(|sample| {
            let Sample { kind, topic, place, id, position, parts, .. } = sample;
            let mut line = format!("  {:<15}", kind_text(*kind));
            if let Some(id) = id {
                let _ = write!(line, " id {},", escape(id));
            }
            let _ = write!(line, " topic {} [{}] {}", escape(topic), place.partition, place.offset);
            if let Some(position) = position {
                let _ = write!(line, ", position {position}");
            }
            if !parts.is_empty() {
                let _ = write!(line, ": {}", escape(&parts.join(", ")));
            }
            line + "\n"
        });
        lost.chain(samples).collect()
    }

    /// Of a range of rows, records of others are no news.
    fn is_shown(&self, sample: &Sample) -> bool {
        sample.kind != SampleKind::Unknown || !self.totals.is_part
    }

    pub(super) fn json(&self) -> Result<String, OutboxError> {
        let Totals { counts, lost, parked, discarded, held, expired, compacted, unfit, range, .. } =
            &self.totals;
        let of_lost = self.lost.iter().map(|row| JsonExample {
            kind: "lost",
            id: row.id.as_deref(),
            topic: &row.topic,
            partition: None,
            offset: None,
            position: None,
            parts: &[],
        });
        let of_samples =
            self.samples.iter().filter(|sample| self.is_shown(sample)).map(|sample| JsonExample {
                kind: kind_name(sample.kind),
                id: sample.id.as_deref(),
                topic: &sample.topic,
                partition: Some(sample.place.partition),
                offset: Some(sample.place.offset),
                position: sample.position.map(|position| position.to_string()),
                parts: &sample.parts,
            });
        let report = Json {
            ok: self.word() == "OK",
            verdict: self.word().to_lowercase().replace(' ', "_"),
            reason: self.headline(),
            tables: &self.totals.tables,
            confirmed_lsn: &self.totals.confirmed,
            current_lsn: &self.totals.current,
            rows: counts.rows,
            records: counts.records,
            published: counts.published,
            not_yet: counts.not_yet,
            held: *held,
            parked: *parked,
            discarded: *discarded,
            unfit: *unfit,
            expired: *expired,
            compacted: *compacted,
            from_lsn: range.from.map(|lsn| lsn.to_string()),
            to_lsn: range.to.map(|lsn| lsn.to_string()),
            outside: counts.outside,
            left_out: counts.left_out,
            lost: *lost,
            different: counts.different,
            wrong_partition: counts.wrong_partition,
            earlier_partition: counts.earlier_partition,
            out_of_order: counts.out_of_order,
            repeated: counts.repeated,
            replayed: counts.replayed,
            later: counts.later,
            no_row: (!self.totals.is_part).then_some(counts.unknown),
            absent_topics: &self.totals.absent,
            unseen_topics: &self.totals.unseen,
            replay: self.repairs.iter().filter_map(|repair| repair.exact.as_deref()).collect(),
            replay_all: self.repairs.iter().filter_map(|repair| repair.all.as_deref()).collect(),
            examples: of_lost.chain(of_samples).collect(),
        };
        let text = serde_json::to_string(&report);
        text.map(|text| text + "\n").map_err(|error| OutboxError::connection("writing JSON", error))
    }
}

fn kind_name(kind: SampleKind) -> &'static str {
    match kind {
        SampleKind::Different => "different",
        SampleKind::WrongPartition => "wrong_partition",
        SampleKind::OutOfOrder => "out_of_order",
        SampleKind::Repeated => "repeated",
        SampleKind::Unknown => "no_row",
    }
}

fn kind_text(kind: SampleKind) -> String {
    kind_name(kind).replace('_', " ")
}

#[derive(Serialize)]
struct Json<'a> {
    ok: bool,
    verdict: String,
    reason: String,
    tables: &'a [String],
    confirmed_lsn: &'a str,
    current_lsn: &'a str,
    rows: u64,
    records: u64,
    published: u64,
    not_yet: u64,
    held: u64,
    parked: u64,
    discarded: u64,
    unfit: u64,
    expired: u64,
    compacted: u64,
    from_lsn: Option<String>,
    to_lsn: Option<String>,
    /// Rows whose records lie outside of that range.
    outside: u64,
    left_out: u64,
    lost: u64,
    different: u64,
    wrong_partition: u64,
    /// Where the keys led when a topic had fewer partitions; no fault.
    earlier_partition: u64,
    out_of_order: u64,
    repeated: u64,
    replayed: u64,
    /// Records of what was committed after the rows were read; no fault.
    later: u64,
    /// Null where a part of the rows was chosen.
    no_row: Option<u64>,
    absent_topics: &'a [String],
    /// Topics of which nobody tells whether they are compacted.
    unseen_topics: &'a [String],
    /// Conditions for `walpost replay --where`, by table: of lost rows alone, the first hundred of them or those that are shown.
    replay: Vec<&'a str>,
    /// The same of all lost rows, and maybe of others that lie between them.
    replay_all: Vec<&'a str>,
    examples: Vec<JsonExample<'a>>,
}

#[derive(Serialize)]
struct JsonExample<'a> {
    kind: &'static str,
    id: Option<&'a str>,
    topic: &'a str,
    partition: Option<i32>,
    offset: Option<i64>,
    position: Option<String>,
    parts: &'a [String],
}
