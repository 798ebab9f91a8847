//! What should be in the topics, and what of it was met there.

use std::collections::{HashMap, HashSet};

use super::compaction::Compaction;
use super::partitions::{Astray, Lead, Partitions};
use super::print::{Expected, Print, Prints, Seen};
use crate::comparison::{Content, Part, Place, Stored, parts};
use crate::lsn::{Lsn, Position};

/// More than this is not held, in bytes.
const MOST: usize = 1 << 30;
/// What an entry of a map takes, about: key, value, and the room that is left free.
const MAPPED: usize = 48;

/// A record that should be there. A million of them take 24 MB.
#[derive(Clone, Copy, Debug)]
struct Entry {
    identity: u64,
    content: u64,
    /// Below zero: any.
    partition: i32,
    /// How often it was met, as far as that matters.
    met: u8,
    /// It was first met outside of the range.
    outside: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Expected,
    /// The conditions don't let the row pass as it is now; it may have been sent as it was.
    Optional,
    /// Not confirmed yet.
    Awaited,
    /// Told as missing.
    Told,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows that should be in a topic, without those outside.
    pub(crate) rows: u64,
    /// Rows whose record lies outside of the range of positions.
    pub(crate) outside: u64,
    /// Rows that the conditions don't let pass, and that were not sent.
    pub(crate) left_out: u64,
    /// Records that were read.
    pub(crate) records: u64,
    /// Rows that were met in their topic.
    pub(crate) published: u64,
    /// Rows that were not.
    pub(crate) missing: u64,
    /// Of these, rows that the relay has not confirmed yet.
    pub(crate) not_yet: u64,
    /// Records that came before, by fault or by a new start.
    pub(crate) repeated: u64,
    /// Records that came before and were sent again on purpose.
    pub(crate) replayed: u64,
    pub(crate) out_of_order: u64,
    pub(crate) different: u64,
    /// Records in another partition than the row says or the key leads to.
    pub(crate) wrong_partition: u64,
    /// Records that are where an earlier number of partitions led.
    pub(crate) earlier_partition: u64,
    /// Records with our position of rows that are not in the table.
    pub(crate) unknown: u64,
    /// Records of rows that were committed after the moment of the rows.
    pub(crate) later: u64,
    /// Records without it, of nobody's row.
    pub(crate) foreign: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampleKind {
    Different,
    WrongPartition,
    OutOfOrder,
    Repeated,
    Unknown,
}

/// Positions of records that are judged: from the first on, and before the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: Option<Lsn>,
    pub(crate) to: Option<Lsn>,
}

impl Range {
    /// Whether it leaves anything out.
    pub(crate) fn is_part(self) -> bool {
        self != Range::default()
    }

    fn holds(self, position: Option<Position>) -> bool {
        let Some(Position { commit_lsn, .. }) = position else { return true };
        self.from.is_none_or(|from| from <= commit_lsn) && self.to.is_none_or(|to| commit_lsn < to)
    }
}

/// A record to be shown: never what it says.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) kind: SampleKind,
    pub(crate) topic: String,
    pub(crate) place: Place,
    pub(crate) id: Option<String>,
    pub(crate) position: Option<Position>,
    /// In what it differs.
    pub(crate) parts: Vec<String>,
    identity: u64,
    /// Of one that differs, until its row is found.
    content: Option<Content>,
}

impl Sample {
    fn of(kind: SampleKind, topic: &str, place: Place, print: Print, seen: &Seen) -> Sample {
        Sample {
            kind,
            topic: topic.to_owned(),
            place,
            id: seen.content.id().map(|id| String::from_utf8_lossy(id).into_owned()),
            position: seen.position,
            parts: Vec::new(),
            identity: print.identity,
            content: None,
        }
    }
}

/// What a row is asked about after the topics were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is where it should be, or not wanted there.
    Fine,
    /// It was not met.
    Missing,
}

/// The account of all rows.
#[derive(Default)]
pub(crate) struct Ledger {
    prints: Prints,
    entries: Vec<Entry>,
    counts: Counts,
    samples: Vec<Sample>,
    /// So many of each kind.
    most: usize,
    /// Of the partition that is being read: the last position of each key.
    last: HashMap<u64, Position>,
    topics: HashSet<String>,
    /// Time of the oldest record that is expected; none if one has no time.
    since: Option<i64>,
    range: Range,
    /// What is committed from here on is not among the rows.
    moment: Option<Lsn>,
    /// Of the topic that is being read.
    partitions: Partitions,
    compaction: Compaction,
}

impl Ledger {
    /// With so many samples of each kind.
    pub(crate) fn new(most: usize, range: Range) -> Ledger {
        Ledger { most, range, since: Some(i64::MAX), ..Ledger::default() }
    }

    /// The rows are of the moment at which the log was here.
    pub(crate) fn rows_are_of(&mut self, moment: Lsn) {
        self.moment = Some(moment);
    }

    /// Makes room for about so many rows, so that it need not grow.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.entries.reserve_exact(rows.min(MOST / size_of::<Entry>()));
    }

    /// Whether more is held than there should be.
    pub(crate) fn is_full(&self) -> bool {
        let mapped = self.last.len() + self.compaction.keys();
        self.entries.len() * size_of::<Entry>() + mapped * MAPPED > MOST
    }

    /// A row's record; `passes` says whether the conditions let it.
    pub(crate) fn expect(&mut self, expected: &Expected, passes: bool) {
        let Print { identity, content } = self.prints.of(&expected.topic, &expected.content);
        let state = if passes { State::Expected } else { State::Optional };
        let partition = expected.partition.unwrap_or(-1);
        self.entries.push(Entry { identity, content, partition, met: 0, outside: false, state });
        if !self.topics.contains(&expected.topic) {
            self.topics.insert(expected.topic.clone());
        }
        self.since = self.since.zip(expected.timestamp).map(|(since, time)| since.min(time));
    }

    /// These topics are compacted.
    pub(crate) fn compacted(&mut self, topics: HashSet<String>) {
        self.compaction = Compaction::of(topics);
    }

    /// Whether a topic is to be read from its beginning, whatever the time of the rows is: what it has let go of shows by gaps.
    pub(crate) fn wants_all_of(&self, topic: &str) -> bool {
        self.compaction.is_of(topic)
    }

    /// All rows have been told. Returns their topics, sorted, and the time of the oldest record that may be among them.
    pub(crate) fn close(&mut self) -> (Vec<String>, Option<i64>) {
        self.entries.sort_unstable_by_key(|entry| entry.identity);
        let mut topics: Vec<_> = self.topics.drain().collect();
        topics.sort_unstable();
        (topics, self.since)
    }

    /// Another partition follows.
    pub(crate) fn turn(&mut self) {
        self.last = HashMap::new();
    }

    /// A partition was read, in which there are offsets without a record.
    pub(crate) fn has_gaps(&mut self, topic: &str, partition: i32) {
        self.compaction.has_gaps(topic, partition);
    }

    /// All partitions of a topic were read.
    pub(crate) fn end_topic(&mut self) {
        let Astray { wrong, earlier, samples } = std::mem::take(&mut self.partitions).close();
        self.counts.wrong_partition += wrong;
        self.counts.earlier_partition += earlier;
        let kept = self.samples.iter().filter(|sample| sample.kind == SampleKind::WrongPartition).count();
        self.samples.extend(samples.into_iter().take(self.most.saturating_sub(kept)));
    }

    /// A record of a topic, and where its key leads.
    pub(crate) fn meet(&mut self, topic: &str, stored: Stored, lead: Lead) {
        self.counts.records += 1;
        self.compaction.note(topic, &stored);
        let Stored { place, content } = stored;
        let seen = Seen::of(content);
        let print = self.prints.of(topic, &seen.content);
        let inside = self.range.holds(seen.position);
        let Some(index) = self.find(print) else {
            let behind = |position: Position| self.moment.is_some_and(|moment| position.commit_lsn >= moment);
            if seen.position.is_none() {
                self.counts.foreign += 1;
            } else if seen.position.is_some_and(behind) {
                self.counts.later += 1;
            } else if inside {
                self.counts.unknown += 1;
                self.sample(SampleKind::Unknown, topic, place, print, seen);
            }
            return;
        };
        let entry = &mut self.entries[index];
        let first = entry.met == 0;
        entry.met = entry.met.saturating_add(1);
        entry.outside |= first && !inside;
        let (equal, partition) = (entry.content == print.content, entry.partition);
        let in_order = !first || seen.replayed || self.follows(&seen);
        if !inside {
            return;
        }
        if equal {
            self.look_at_partition(topic, place, print, &seen, (partition, lead));
        }
        if !equal {
            self.counts.different += 1;
            self.sample(SampleKind::Different, topic, place, print, seen);
        } else if !first && seen.replayed {
            self.counts.replayed += 1;
        } else if !first {
            self.counts.repeated += 1;
            self.sample(SampleKind::Repeated, topic, place, print, seen);
        } else if !in_order {
            self.counts.out_of_order += 1;
            self.sample(SampleKind::OutOfOrder, topic, place, print, seen);
        }
    }

    /// The row's own word counts before its key.
    fn look_at_partition(
        &mut self,
        topic: &str,
        place: Place,
        print: Print,
        seen: &Seen,
        (said, lead): (i32, Lead),
    ) {
        let kind = SampleKind::WrongPartition;
        if said < 0 {
            if self.partitions.note(lead, place.partition, seen.position) {
                self.partitions.keep(self.most, || Sample::of(kind, topic, place, print, seen));
            }
        } else if said != place.partition {
            self.counts.wrong_partition += 1;
            if self.has_room_for(kind) {
                self.samples.push(Sample::of(kind, topic, place, print, seen));
            }
        }
    }

    /// Whether the record stands behind all earlier ones of its key, as far as it says where it was in the log.
    fn follows(&mut self, seen: &Seen) -> bool {
        let Some(position) = seen.position else { return true };
        let last = self.last.entry(self.prints.key(seen.content.key.as_deref())).or_insert(position);
        let follows = *last <= position;
        *last = position.max(*last);
        follows
    }

    /// The entry that the record is of: rather one that says the same, rather one that has not been met. Of rows without an id
    /// that say the same, those that conditions keep out now were sent first: they are marked as published.
    fn find(&self, print: Print) -> Option<usize> {
        let run = self.run(print.identity);
        run.min_by_key(|index| {
            let entry = &self.entries[*index];
            (entry.content != print.content, entry.met > 0, entry.state != State::Optional)
        })
    }

    /// The entries of one identity.
    fn run(&self, identity: u64) -> std::ops::Range<usize> {
        let first = self.entries.partition_point(|entry| entry.identity < identity);
        let count = self.entries[first..].iter().take_while(|entry| entry.identity == identity).count();
        first..first + count
    }

    fn sample(&mut self, kind: SampleKind, topic: &str, place: Place, print: Print, seen: Seen) {
        if self.has_room_for(kind) {
            let sample = Sample::of(kind, topic, place, print, &seen);
            let content = (kind == SampleKind::Different).then_some(seen.content);
            self.samples.push(Sample { content, ..sample });
        }
    }

    fn has_room_for(&self, kind: SampleKind) -> bool {
        self.samples.iter().filter(|sample| sample.kind == kind).count() < self.most
    }

    /// Whether any row was not met.
    pub(crate) fn is_whole(&self) -> bool {
        self.entries.iter().all(|entry| entry.met > 0 || entry.state == State::Optional)
    }

    /// A row that is in the log behind what the relay has confirmed.
    pub(crate) fn put_off(&mut self, expected: &Expected) {
        let print = self.prints.of(&expected.topic, &expected.content);
        let open = |entry: &Entry| entry.met == 0 && entry.state == State::Expected;
        if let Some(index) = self.run(print.identity).find(|index| open(&self.entries[*index])) {
            self.entries[index].state = State::Awaited;
        }
    }

    /// A row once more. Each missing one is told once; of records that differ it is noted in what.
    pub(crate) fn ask(&mut self, expected: &Expected) -> Answer {
        let print = self.prints.of(&expected.topic, &expected.content);
        let differing = self.samples.iter_mut().filter(|sample| sample.identity == print.identity);
        for sample in differing {
            if let Some(content) = sample.content.take() {
                sample.parts = parts(&expected.content, &content).iter().map(name).collect();
            }
        }
        let mut run = self.run(print.identity);
        let open = |entry: &Entry| {
            entry.met == 0 && entry.state == State::Expected && entry.content == print.content
        };
        match run.find(|index| open(&self.entries[*index])) {
            None => Answer::Fine,
            Some(index) => {
                self.entries[index].state = State::Told;
                Answer::Missing
            }
        }
    }

    /// Whether a row that is missing may have had a record that its topic has let go of since.
    pub(crate) fn is_compacted(&self, expected: &Expected) -> bool {
        self.compaction.explains(expected)
    }

    /// What came out.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.counts;
        for entry in &self.entries {
            match (entry.met > 0, entry.state) {
                (false, State::Optional) => counts.left_out += 1,
                (true, _) if entry.outside => counts.outside += 1,
                (true, _) => counts.published += 1,
                (false, State::Awaited) => counts.not_yet += 1,
                (false, _) => {}
            }
            counts.missing += u64::from(entry.met == 0 && entry.state != State::Optional);
        }
        counts.rows = counts.published + counts.missing;
        counts
    }

    /// Whether some record's difference has not been named yet.
    pub(crate) fn is_curious(&self) -> bool {
        self.samples.iter().any(|sample| sample.content.is_some())
    }

    pub(crate) fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

/// Which part differs, without its bytes.
fn name(part: &Part) -> String {
    match part {
        Part::Key(_) => "key".to_owned(),
        Part::Value(_) => "value".to_owned(),
        Part::Header { name, .. } | Part::HeaderMissing { name, .. } => format!("header {name}"),
        Part::HeaderOrder { .. } => "order of headers".to_owned(),
        Part::Timestamp { .. } => "time".to_owned(),
    }
}
