//! The one judge of all scenarios: what was committed against what arrived, record by record.

use std::collections::HashMap;

use uuid::Uuid;
use walpost::Lsn;

use crate::ledger::{Ledger, content_of};
use crate::support::Consumed;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Committed rows.
    pub(crate) messages: usize,
    /// Committed rows that never arrived.
    pub(crate) lost: usize,
    /// Records of rows that were never committed, or with other bytes, headers or position than committed.
    pub(crate) invented: usize,
    /// First arrivals behind a later commit in the same partition, or within a key behind a higher counter.
    pub(crate) reordered: usize,
    /// Arrivals beyond the first of a row.
    pub(crate) repeated: usize,
    /// Repeats come as replays of what stands in the partition already, each from some place on without a gap;
    /// so many of them.
    pub(crate) replays: usize,
    /// More would be shuffled records.
    pub(crate) most_replays: usize,
    offenders: Vec<String>,
}

impl Verdict {
    pub(crate) fn add(&mut self, other: Verdict) {
        self.messages += other.messages;
        self.lost += other.lost;
        self.invented += other.invented;
        self.reordered += other.reordered;
        self.repeated += other.repeated;
        self.replays += other.replays;
        self.most_replays += other.most_replays;
        self.offenders.extend(other.offenders);
    }

    #[track_caller]
    pub(crate) fn assert_kept(&self) {
        let kept = [self.lost, self.invented, self.reordered] == [0, 0, 0];
        assert!(kept, "a promise is broken:\n{}", self.offenders.join("\n"));
        let (replays, most) = (self.replays, self.most_replays);
        assert!(replays <= most, "{replays} replays, and at most {most} are explained: repeats are shuffled");
        assert!(self.messages > 0, "nothing was committed: the scenario proved nothing");
    }

    fn note(&mut self, what: &str, record: &Consumed, why: impl std::fmt::Display) {
        let at = format!("partition {} offset {}", record.partition, record.offset);
        self.offend(what, format_args!("{} at {at}: {why}", record.header("id").unwrap_or("no id")));
    }

    fn offend(&mut self, what: &str, text: std::fmt::Arguments<'_>) {
        // Enough to start looking; a broken run may have a million.
        const ENOUGH: usize = 5;
        if self.offenders.iter().filter(|it| it.starts_with(what)).count() < ENOUGH {
            self.offenders.push(format!("{what}: {text}"));
        }
    }
}

/// Takes the records of each partition in the order of their offsets, and remembers only numbers.
pub(crate) struct Checker {
    ledger: Ledger,
    /// Arrivals of each row, by its place.
    arrivals: Vec<u16>,
    /// The commit position that each transaction's records bear; zero before the first.
    commits: Vec<Lsn>,
    partitions: HashMap<i32, Partition>,
    keys: HashMap<Vec<u8>, Key>,
    verdict: Verdict,
}

#[derive(Default)]
struct Partition {
    /// The places of rows in the order of their first arrivals.
    first: Vec<u32>,
    /// Where in `first` the record is that continues what came last.
    next: usize,
}

struct Key {
    partition: i32,
    counter: u64,
}

impl Checker {
    pub(crate) fn new(ledger: Ledger) -> Checker {
        let verdict = Verdict { messages: ledger.rows.len(), ..Verdict::default() };
        Checker {
            arrivals: vec![0; ledger.rows.len()],
            commits: vec![Lsn::ZERO; ledger.transactions.len()],
            partitions: HashMap::new(),
            keys: HashMap::new(),
            ledger,
            verdict,
        }
    }

    pub(crate) fn take(&mut self, record: &Consumed) {
        let id = record.header("id").and_then(|it| it.parse::<Uuid>().ok());
        let Some(&place) = id.as_ref().and_then(|id| self.ledger.places.get(id)) else {
            self.verdict.invented += 1;
            self.verdict.note("invented", record, "never committed");
            return;
        };
        if let Err(why) = self.intact(place, record) {
            self.verdict.invented += 1;
            self.verdict.note("invented", record, why);
        }
        let arrivals = &mut self.arrivals[place as usize];
        *arrivals = arrivals.saturating_add(1);
        let is_first = *arrivals == 1;
        if !is_first {
            self.verdict.repeated += 1;
        }
        // Rows without a key too: they go where they went before.
        self.in_turn(place, record);
        if is_first && record.key.is_some() {
            self.counter(record);
        }
    }

    pub(crate) fn finish(mut self, most_replays: usize) -> Verdict {
        self.verdict.most_replays = most_replays;
        let lost: Vec<usize> = (0..self.arrivals.len()).filter(|at| self.arrivals[*at] == 0).collect();
        self.verdict.lost = lost.len();
        if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
            let transaction = self.ledger.rows[*first].transaction;
            let end = self.ledger.transactions[transaction as usize].end;
            self.verdict.offend(
                "lost",
                format_args!(
                    "commit numbers {first} to {last}, the first in the transaction that ends at {end}"
                ),
            );
        }
        self.verdict
    }

    /// Whether the record holds what was committed, and its position is the row's.
    fn intact(&mut self, place: u32, record: &Consumed) -> Result<(), String> {
        let row = &self.ledger.rows[place as usize];
        if row.content != content_of(record) {
            return Err(format!("not as it was committed: {record:?}"));
        }
        let at = row.transaction as usize;
        let transaction = &self.ledger.transactions[at];
        let [.., (lsn, _), (index, _)] = &*record.headers else { return Err("no position".into()) };
        if (&**lsn, &**index) != ("walpost.lsn", "walpost.index") {
            return Err(format!("the last headers are {lsn} and {index}"));
        }
        let lsn: Lsn = record.header("walpost.lsn").and_then(|it| it.parse().ok()).ok_or("no walpost.lsn")?;
        let index = record.header("walpost.index").and_then(|it| it.parse::<u32>().ok());
        if index != Some(place - transaction.first) {
            return Err(format!("index {index:?}, and it is number {}", place - transaction.first));
        }
        // `test_decoding` tells where a commit record ends; it begins before, and behind the one before it.
        let before = at.checked_sub(1).map_or(Lsn::ZERO, |before| self.ledger.transactions[before].end);
        let commit = &mut self.commits[at];
        if *commit == Lsn::ZERO && (before..transaction.end).contains(&lsn) {
            *commit = lsn;
        }
        if *commit == lsn {
            Ok(())
        } else {
            Err(format!("position {lsn}, committed up to {}", transaction.end))
        }
    }

    /// Either the first arrival of a commit that is later than all before it, or part of a replay.
    fn in_turn(&mut self, place: u32, record: &Consumed) {
        let partition = self.partitions.entry(record.partition).or_default();
        if partition.first.get(partition.next) == Some(&place) {
            partition.next += 1;
        } else if let Ok(at) = partition.first.binary_search(&place) {
            self.verdict.replays += 1;
            partition.next = at + 1;
        } else if let Some(last) = partition.first.last().copied().filter(|last| place < *last) {
            self.verdict.reordered += 1;
            let why = format!("commit number {place} behind number {last}");
            self.verdict.note("reordered", record, why);
        } else {
            partition.first.push(place);
            partition.next = partition.first.len();
        }
    }

    /// The counter in the value rises within its key, whatever the oracle says.
    fn counter(&mut self, record: &Consumed) {
        let (Some(name), Some(counter)) = (&record.key, counter_of(record)) else { return };
        let key = self
            .keys
            .entry(name.clone())
            .or_insert(Key { partition: record.partition, counter: counter.saturating_sub(1) });
        // A counter of several writers has no gap; one writer's own has gaps where it rolled back.
        let shared = name.starts_with(b"shared-");
        let turn = if shared { counter == key.counter + 1 } else { counter > key.counter };
        if key.partition != record.partition || !turn {
            self.verdict.reordered += 1;
            let why = format!(
                "counter {counter} behind {} of partition {} in key {}",
                key.counter,
                key.partition,
                String::from_utf8_lossy(name)
            );
            self.verdict.note("reordered", record, why);
        }
        key.counter = key.counter.max(counter);
    }
}

fn counter_of(record: &Consumed) -> Option<u64> {
    let text = std::str::from_utf8(record.payload.as_ref()?).ok()?;
    let (_, rest) = text.split_once("\"counter\": ")?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: u32 = 20;

    /// Rows in transactions of two, with two keys and a row without in turn, all in one partition.
    fn committed() -> (Ledger, Vec<Consumed>) {
        let (mut ledger, mut records) = (Ledger::default(), Vec::new());
        for at in 0..ROWS {
            let id = Uuid::from_u128(u128::from(at) + 1);
            let commit = Lsn(u64::from(at / 2 + 1) * 100);
            let position = [("walpost.lsn", commit.to_string()), ("walpost.index", (at % 2).to_string())];
            let headers = std::iter::once(("id", id.to_string())).chain(position);
            let record = Consumed {
                partition: 0,
                offset: i64::from(at),
                key: (at % 3 > 0).then(|| format!("key-{}", at % 3).into_bytes()),
                payload: Some(format!("{{\"counter\": {at}}}").into_bytes()),
                headers: headers.map(|(name, value)| (name.to_owned(), Some(value.into_bytes()))).collect(),
                timestamp: Some(7),
            };
            ledger.push(id, content_of(&record));
            if at % 2 == 1 {
                ledger.commit(Lsn(commit.0 + 48));
            }
            records.push(record);
        }
        (ledger, records)
    }

    fn judge(change: impl FnOnce(&mut Vec<Consumed>)) -> Verdict {
        let (ledger, mut records) = committed();
        change(&mut records);
        let mut checker = Checker::new(ledger);
        records.iter().for_each(|record| checker.take(record));
        checker.finish(1)
    }

    fn counts(change: impl FnOnce(&mut Vec<Consumed>)) -> [usize; 5] {
        let it = judge(change);
        [it.lost, it.invented, it.reordered, it.repeated, it.replays]
    }

    #[test]
    fn what_is_right_is_found_right() {
        assert_eq!(counts(|_| {}), [0; 5]);
        judge(|_| {}).assert_kept();
    }

    #[test]
    fn a_missing_and_a_strange_record_are_found() {
        assert_eq!(counts(|records| drop(records.remove(4))), [1, 0, 0, 0, 0]);
        assert_eq!(counts(Vec::clear), [ROWS as usize, 0, 0, 0, 0]);
        let strange = |records: &mut Vec<Consumed>| {
            records[4].headers[0].1 = Some(Uuid::nil().to_string().into_bytes());
        };
        assert_eq!(counts(strange), [1, 1, 0, 0, 0]);
        assert_eq!(counts(|records| records[4].headers.clear()), [1, 1, 0, 0, 0]);
    }

    #[test]
    fn a_changed_byte_header_or_position_is_found() {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(counts(|records| records[4].payload = text("{\"counter\": 04}"))[1], 1);
        assert_eq!(counts(|records| records[4].key = text("key-2"))[1], 1);
        assert_eq!(counts(|records| records[4].timestamp = Some(8))[1], 1);
        assert_eq!(counts(|records| records[4].headers[2].1 = text("1"))[1], 1);
        assert_eq!(counts(|records| records[5].headers[1].1 = text("0/C9"))[1], 1);
        assert_eq!(counts(|records| records[5].headers[1].1 = text("0/1C8"))[1], 1);
        let own = |records: &mut Vec<Consumed>| records[4].headers.insert(1, ("own".into(), None));
        assert_eq!(counts(own)[1], 1);
    }

    #[test]
    fn records_out_of_turn_are_found() {
        assert_eq!(counts(|records| records.swap(4, 5))[2], 1);
        // A row without a key, behind a later one.
        assert_eq!(counts(|records| records.swap(6, 7))[2], 1);
        let moved = |records: &mut Vec<Consumed>| records[4].partition = 1;
        assert_eq!(counts(moved)[2], 1, "a key has one partition");
    }

    #[test]
    fn a_replay_repeats_without_a_gap_and_does_not_reorder() {
        let again = |records: &mut Vec<Consumed>| records.extend_from_within(4..ROWS as usize);
        assert_eq!(counts(again), [0, 0, 0, 16, 1]);
        judge(again).assert_kept();
        let inside = |records: &mut Vec<Consumed>| {
            let again = records[4..9].to_vec();
            records.splice(9..9, again);
        };
        assert_eq!(counts(inside), [0, 0, 0, 5, 1]);
    }

    #[test]
    #[should_panic(expected = "repeats are shuffled")]
    fn repeats_in_any_order_are_no_replay() {
        let shuffled = |records: &mut Vec<Consumed>| {
            let mut again = records.clone();
            again.reverse();
            records.extend(again);
        };
        judge(shuffled).assert_kept();
    }

    #[test]
    #[should_panic(expected = "lost: commit numbers 4 to 4, the first in the transaction that ends at 0/15C")]
    fn a_loss_is_named() {
        judge(|records| drop(records.remove(4))).assert_kept();
    }
}
