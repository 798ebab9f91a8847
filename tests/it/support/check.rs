//! The one judge: what was committed against what arrived.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::Consumed;

/// How many ids or records there are of each kind.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Committed ids that arrived, each counted once.
    pub(crate) delivered: usize,
    /// Arrivals beyond the first of an id.
    pub(crate) repeated: usize,
    /// Committed ids that never arrived.
    pub(crate) lost: usize,
    /// Records whose id was never committed, or that have none.
    pub(crate) invented: usize,
    /// First arrivals that stand behind one of a later commit in the same partition.
    pub(crate) reordered: usize,
    offenders: Vec<String>,
}

/// Judges `records` by the ids that were committed, in commit order.
pub(crate) fn check(committed: &[Uuid], records: &[Consumed]) -> Tally {
    let place: HashMap<Uuid, usize> = committed.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let mut tally = Tally::default();
    // Of each committed id, by its place: the partitions and offsets at which it arrived.
    let mut arrivals: BTreeMap<usize, Vec<(i32, i64)>> = BTreeMap::new();
    for record in records {
        let id = record.header("id").and_then(|it| it.parse::<Uuid>().ok());
        match id.and_then(|id| place.get(&id)) {
            Some(at) => arrivals.entry(*at).or_default().push((record.partition, record.offset)),
            None => {
                tally.invented += 1;
                tally.note("invented", &[(record.partition, record.offset)], record.header("id"));
            }
        }
    }
    for (at, id) in committed.iter().enumerate() {
        let Some(found) = arrivals.get_mut(&at) else {
            tally.lost += 1;
            tally.note(&format!("lost, number {at} of {}", committed.len()), &[], Some(&id.to_string()));
            continue;
        };
        found.sort_unstable();
        tally.delivered += 1;
        tally.repeated += found.len() - 1;
        if found.len() > 1 {
            tally.note("repeated", found, Some(&id.to_string()));
        }
    }
    tally.order(committed, &arrivals);
    tally
}

impl Tally {
    /// Everything arrived once and in order, nothing else came.
    #[track_caller]
    pub(crate) fn assert_exact(&self) {
        self.assert_nothing_lost();
        assert!(self.repeated == 0, "{self:?}\n{}", self.examples("repeated"));
    }

    /// Nothing came but what was committed, and that in order; more may be to come.
    #[track_caller]
    pub(crate) fn assert_not_invented(&self) {
        for (kind, count) in [("invented", self.invented), ("reordered", self.reordered)] {
            assert!(count == 0, "{self:?}\n{}", self.examples(kind));
        }
    }

    /// Everything arrived in order and nothing else came; repeats are allowed.
    #[track_caller]
    pub(crate) fn assert_nothing_lost(&self) {
        for (kind, count) in [("lost", self.lost), ("invented", self.invented), ("reordered", self.reordered)]
        {
            assert!(count == 0, "{self:?}\n{}", self.examples(kind));
        }
    }

    fn order(&mut self, committed: &[Uuid], arrivals: &BTreeMap<usize, Vec<(i32, i64)>>) {
        let mut first: Vec<(i32, i64, usize)> = Vec::new();
        for (at, found) in arrivals {
            // A record without a key that comes again may choose another partition; offsets do not tell
            // which of the two came first, so it is no witness.
            if found.iter().all(|(partition, _)| *partition == found[0].0) {
                first.push((found[0].0, found[0].1, *at));
            }
        }
        first.sort_unstable();
        let mut newest: HashMap<i32, usize> = HashMap::new();
        for (partition, offset, at) in first {
            let newest = newest.entry(partition).or_insert(at);
            if at < *newest {
                self.reordered += 1;
                let what = format!("reordered, commit number {at} behind number {newest}");
                self.note(&what, &[(partition, offset)], Some(&committed[at].to_string()));
            }
            *newest = at.max(*newest);
        }
    }

    fn note(&mut self, what: &str, found: &[(i32, i64)], id: Option<&str>) {
        // Enough to start looking; a broken run may have a million.
        const ENOUGH: usize = 5;
        let kind = what.split(',').next().unwrap_or(what);
        if self.offenders.iter().filter(|it| it.starts_with(kind)).count() < ENOUGH {
            let id = id.unwrap_or("no id");
            self.offenders.push(format!("{what}: {id} at (partition, offset) {found:?}"));
        }
    }

    fn examples(&self, kind: &str) -> String {
        let lines: Vec<&str> =
            self.offenders.iter().filter(|it| it.starts_with(kind)).map(String::as_str).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: Uuid, partition: i32, offset: i64) -> Consumed {
        let headers = vec![("id".to_owned(), Some(id.to_string().into_bytes()))];
        Consumed { partition, offset, key: None, payload: None, headers, timestamp: None }
    }

    /// Ten committed ids and what arrived of them, in one partition, after `change`.
    fn judge(change: impl FnOnce(&mut Vec<Uuid>)) -> Tally {
        let committed: Vec<Uuid> = (0..10).map(|_| Uuid::new_v4()).collect();
        let mut arrived = committed.clone();
        change(&mut arrived);
        let records: Vec<Consumed> = arrived.iter().zip(0..).map(|(id, at)| record(*id, 0, at)).collect();
        check(&committed, &records)
    }

    fn without_one(ids: &mut Vec<Uuid>) {
        ids.remove(4);
    }

    fn counts(tally: &Tally) -> [usize; 5] {
        [tally.delivered, tally.repeated, tally.lost, tally.invented, tally.reordered]
    }

    #[test]
    fn each_fault_is_seen_and_only_that() {
        assert_eq!(counts(&judge(|_| {})), [10, 0, 0, 0, 0]);
        assert_eq!(counts(&judge(without_one)), [9, 0, 1, 0, 0]);
        assert_eq!(counts(&judge(|ids| ids.insert(7, ids[4]))), [10, 1, 0, 0, 0]);
        assert_eq!(counts(&judge(|ids| ids.swap(4, 5))), [10, 0, 0, 0, 1]);
        assert_eq!(counts(&judge(|ids| ids.push(Uuid::new_v4()))), [10, 0, 0, 1, 0]);
        assert_eq!(counts(&judge(Vec::clear)), [0, 0, 10, 0, 0]);
    }

    #[test]
    fn a_rewind_repeats_but_does_not_reorder() {
        let tally = judge(|ids| ids.extend_from_within(3..10));
        assert_eq!(counts(&tally), [10, 7, 0, 0, 0]);
        tally.assert_nothing_lost();
    }

    #[test]
    fn order_is_judged_within_a_partition_by_offset() {
        let ids: Vec<Uuid> = (0..4).map(|_| Uuid::new_v4()).collect();
        // Read in any order: the offsets decide. Across partitions there is no order.
        let records =
            [record(ids[3], 0, 1), record(ids[1], 1, 1), record(ids[2], 0, 0), record(ids[0], 1, 0)];
        check(&ids, &records).assert_exact();
        let records =
            [record(ids[3], 0, 0), record(ids[1], 1, 0), record(ids[2], 0, 1), record(ids[0], 1, 1)];
        assert_eq!(check(&ids, &records).reordered, 2);
    }

    #[test]
    #[should_panic(expected = "lost, number 4 of 10")]
    fn a_loss_is_named() {
        judge(without_one).assert_nothing_lost();
    }

    #[test]
    #[should_panic(expected = "(partition, offset) [(0, 4), (0, 7)]")]
    fn a_repeat_is_not_exact() {
        judge(|ids| ids.insert(7, ids[4])).assert_exact();
    }

    #[test]
    #[should_panic(expected = "no id at (partition, offset) [(0, 0)]")]
    fn a_record_without_an_id_is_invented() {
        let mut stray = record(Uuid::new_v4(), 0, 0);
        stray.headers.clear();
        check(&[], &[stray]).assert_nothing_lost();
    }
}
