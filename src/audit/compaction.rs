//! What a compacted topic may have let go of: a record behind which a later one of its key stands.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::print::Expected;
use crate::comparison::Stored;

/// The newest record of a key.
#[derive(Clone, Copy, Debug)]
struct Latest {
    /// Milliseconds since 1970; the least there is if it has none.
    time: i64,
    partition: i32,
}

/// The compacted topics among those that are read.
#[derive(Default)]
pub(super) struct Compaction {
    topics: HashSet<String>,
    hasher: RandomState,
    /// By topic and key.
    latest: HashMap<u64, Latest>,
    /// Partitions in which offsets are missing.
    gaps: HashSet<(String, i32)>,
}

impl Compaction {
    pub(super) fn of(topics: HashSet<String>) -> Compaction {
        Compaction { topics, ..Compaction::default() }
    }

    pub(super) fn is_of(&self, topic: &str) -> bool {
        self.topics.contains(topic)
    }

    /// A record of a topic.
    pub(super) fn note(&mut self, topic: &str, record: &Stored) {
        let Some(key) = record.content.key.as_deref().filter(|_| self.topics.contains(topic)) else { return };
        let (time, partition) = (record.content.timestamp.unwrap_or(i64::MIN), record.place.partition);
        let latest = self.latest.entry(self.hasher.hash_one((topic, key)));
        let latest = latest.or_insert(Latest { time, partition });
        if time >= latest.time {
            *latest = Latest { time, partition };
        }
    }

    /// A partition has fewer records than offsets.
    pub(super) fn has_gaps(&mut self, topic: &str, partition: i32) {
        if self.topics.contains(topic) {
            self.gaps.insert((topic.to_owned(), partition));
        }
    }

    /// Whether a record that is not there may have been let go of. A partition without gaps has lost none.
    pub(super) fn explains(&self, expected: &Expected) -> bool {
        let Expected { topic, content, timestamp, .. } = expected;
        if !self.topics.contains(topic) {
            return false;
        }
        let Some(key) = content.key.as_deref() else { return false };
        let has_gaps = |partition: i32| self.gaps.contains(&(topic.clone(), partition));
        match self.latest.get(&self.hasher.hash_one((topic.as_str(), key))) {
            Some(latest) => has_gaps(latest.partition) && timestamp.is_none_or(|time| time <= latest.time),
            // A tombstone goes as well, after delete.retention.ms, and leaves nothing of its key.
            None => content.value.is_none() && self.gaps.iter().any(|(of, _)| of == topic),
        }
    }

    /// How many keys are held.
    pub(super) fn keys(&self) -> usize {
        self.latest.len()
    }
}
