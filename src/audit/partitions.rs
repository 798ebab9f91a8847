//! Whether records are in the partitions to which their keys lead. A topic may have had fewer partitions: then all records up to
//! a position are where that number led, and all behind it where the present one does.

use super::ledger::Sample;
use crate::lsn::Position;

/// With more partitions than this, earlier numbers of them are not tried.
const MOST: u32 = 256;

/// Where a record's key leads, as far as that follows from the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    /// None if any partition will do.
    pub(crate) hash: Option<u32>,
    pub(crate) partitions: i32,
}

/// The records of one topic.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    astray: u64,
    /// The last of those.
    last: Option<Position>,
    /// For each earlier number, from 1: the first record that is not where that number would have led.
    against: Vec<Option<Position>>,
    samples: Vec<Sample>,
}

/// What is to be said of those that are elsewhere.
#[derive(Debug, Default)]
pub(super) struct Astray {
    pub(super) wrong: u64,
    /// Where an earlier number of partitions led.
    pub(super) earlier: u64,
    pub(super) samples: Vec<Sample>,
}

impl Partitions {
    /// Notes where a record is, and says whether that is elsewhere. One that does not tell its position is not judged.
    pub(super) fn note(&mut self, lead: Lead, partition: i32, position: Option<Position>) -> bool {
        let (Some(hash), Some(position), Ok(count)) = (lead.hash, position, u32::try_from(lead.partitions))
        else {
            return false;
        };
        let (count, partition) = (count.max(1), partition.unsigned_abs());
        let earlier = if count > MOST { 0 } else { count - 1 };
        self.against.resize(earlier as usize, None);
        for (number, against) in (1..).zip(&mut self.against) {
            if hash % number != partition {
                *against = Some(against.map_or(position, |first| first.min(position)));
            }
        }
        if hash % count == partition {
            return false;
        }
        self.astray += 1;
        self.last = self.last.max(Some(position));
        true
    }

    /// Keeps an example, up to `most`.
    pub(super) fn keep(&mut self, most: usize, sample: impl FnOnce() -> Sample) {
        if self.samples.len() < most {
            self.samples.push(sample());
        }
    }

    /// All records of the topic were noted.
    pub(super) fn close(self) -> Astray {
        let explains = |against: &Option<Position>| against.is_none_or(|first| self.last < Some(first));
        if self.against.iter().any(explains) {
            return Astray { earlier: self.astray, ..Astray::default() };
        }
        Astray { wrong: self.astray, earlier: 0, samples: self.samples }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    /// `hash@partition`, in the order of positions, of a topic with three partitions by now.
    fn judged(records: &str) -> (u64, u64) {
        let mut partitions = Partitions::default();
        for (word, lsn) in records.split_whitespace().zip(1..) {
            let (hash, partition) = word.split_once('@').unwrap();
            let lead = Lead { hash: hash.parse().ok(), partitions: 3 };
            let position = Position { commit_lsn: Lsn(lsn), index: 0 };
            partitions.note(lead, partition.parse().unwrap(), Some(position));
        }
        let Astray { wrong, earlier, .. } = partitions.close();
        (wrong, earlier)
    }

    #[test]
    fn a_record_elsewhere_is_wrong_unless_all_before_it_were_led_by_fewer_partitions() {
        for (records, expected) in [
            ("1@1 2@2 3@0 4@1", (0, 0)),
            ("x@2 y@0", (0, 0)),
            ("1@1 2@2 3@0 4@2", (1, 0)),
            // Two partitions at first, then three.
            ("1@1 2@0 3@1 5@1 4@1 5@2 2@2", (0, 3)),
            // One alone.
            ("1@0 2@0 3@0 4@1", (0, 2)),
            // Back again, which no change of the number explains.
            ("1@1 2@0 3@1 5@2 2@0", (3, 0)),
        ] {
            assert_eq!(judged(records), expected, "{records}");
        }
    }
}
