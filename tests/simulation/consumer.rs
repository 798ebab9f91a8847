//! What a consumer makes of the records where letters come late: it remembers how far each key has come, and drops
//! whatever does not lie behind that.

use std::collections::HashMap;

use walpost::{Lsn, Position};

use crate::broker::Landing;
use crate::checker::{Checker, Invariant};
use crate::letters::Fate;
use crate::log::{Log, RowId};

#[derive(Debug, Default)]
pub(crate) struct Consumer {
    /// The highest position of each key.
    heard: Vec<Position>,
    /// The same for each partition, where a letter must be as new as in its key.
    partitions: Vec<Position>,
    /// What each client has sent last of each key.
    sent: HashMap<(u64, usize), Position>,
    /// Which row was sent under which position that is not its own.
    replays: HashMap<Position, RowId>,
    /// Under which position a row was sent for a request.
    numbers: HashMap<(RowId, Lsn), Position>,
}

impl Consumer {
    pub(crate) fn new(log: &Log) -> Self {
        let (heard, partitions) = (log.keys.len(), log.topics.partitions());
        Consumer {
            heard: vec![Position::default(); heard],
            partitions: vec![Position::default(); partitions],
            ..Consumer::default()
        }
    }

    pub(crate) fn hear(&mut self, landing: &Landing, log: &mut Log, checker: &mut Checker) {
        let Landing { client, id, position, partition } = *landing;
        let replayed = position != log.position(id);
        let again = replayed && self.replays.contains_key(&position);
        if replayed && self.replays.insert(position, id).is_some_and(|other| other != id) {
            checker.broken(Invariant::Invented, format!("two rows are sent as {position}"));
        }
        if replayed {
            let number = *self.numbers.entry((id, position.commit_lsn)).or_insert(position);
            if number != position {
                checker
                    .broken(Invariant::Repeated, format!("{id:?} comes as {position}, and came as {number}"));
            }
        }
        let Some(row) = log.row_mut(id) else { return };
        let first = row.arrivals == 1;
        let Some(key) = row.key else {
            row.seen = true;
            return;
        };
        let far = &mut self.partitions[partition];
        if replayed && !again && position < *far {
            checker.broken(
                Invariant::Reordered,
                format!("{id:?} comes as {position}, and its partition is at {far}"),
            );
        }
        *far = position.max(*far);
        let last = self.sent.insert((client, key), position);
        if last.is_some_and(|last| last >= position) {
            checker.broken(
                Invariant::Reordered,
                format!("{id:?} comes as {position} after {last:?} of its key"),
            );
        }
        let heard = &mut self.heard[key];
        if position > *heard {
            *heard = position;
            row.seen = true;
        } else if first || (replayed && !again) {
            checker.broken(Invariant::Reordered, format!("{id:?} comes as {position}, behind {heard}"));
        }
        if !first {
            return;
        }
        let waits = |earlier: &&RowId| {
            let arrived =
                log.entries[earlier.entry].rows.as_ref().is_some_and(|rows| rows[earlier.row].arrivals > 0);
            let kept = || log.letters.get(log.position(**earlier));
            **earlier < id && !arrived && !kept().is_some_and(|kept| matches!(kept.fate, Fate::Discarded(_)))
        };
        if let Some(earlier) = log.keys[key].iter().find(waits) {
            checker.broken(Invariant::Reordered, format!("{id:?} comes before {earlier:?} of its key"));
        }
    }
}
