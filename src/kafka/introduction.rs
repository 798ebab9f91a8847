//! The first record of a partition goes alone.
//!
//! A broker checks that a producer's batches follow each other without a gap, which keeps later ones out when
//! one was refused. But it knows nothing of a producer whose very first batch in a partition it refused, and
//! takes the next one as the beginning. So nothing is sent behind the first record until the broker has
//! taken it. The broker forgets as well (`producer.id.expiration.ms`, a day by default), so that
//! introductions are made anew now and then.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// After this long every partition is introduced again.
const EXPIRY: Duration = Duration::from_secs(3600);

/// The partitions that this producer has written to.
#[derive(Debug)]
pub(super) struct Introductions {
    topics: HashMap<String, Topic>,
    under_way: usize,
    since: Instant,
}

#[derive(Debug, Default)]
struct Topic {
    /// The number of the record that is alone on its way.
    alone: Option<usize>,
    /// By partition: whether the broker knows this producer there.
    known: Vec<bool>,
}

impl Default for Introductions {
    fn default() -> Self {
        Introductions { topics: HashMap::new(), under_way: 0, since: Instant::now() }
    }
}

impl Introductions {
    /// Whether nothing was ever sent to the topic.
    pub(super) fn is_new(&self, topic: &str) -> bool {
        !self.topics.contains_key(topic)
    }

    /// Whether a record of this topic may be sent now.
    pub(super) fn admits(&self, topic: &str) -> bool {
        self.under_way == 0 || self.topics.get(topic).is_none_or(|topic| topic.alone.is_none())
    }

    /// A record of this topic was sent to that partition; `None` when librdkafka is still to choose one.
    pub(super) fn sent(&mut self, topic: &str, partition: Option<i32>, number: usize) {
        let index = partition.and_then(|partition| usize::try_from(partition).ok());
        let topic = match self.topics.get_mut(topic) {
            Some(known) => known,
            None => self.topics.entry(topic.to_owned()).or_default(),
        };
        if index.is_some_and(|index| topic.known.get(index) == Some(&true)) {
            return;
        }
        topic.alone = Some(number);
        self.under_way += 1;
    }

    /// The broker has the record of this number in that partition.
    pub(super) fn acknowledged(&mut self, number: usize, partition: i32) {
        if self.under_way == 0 {
            return;
        }
        for topic in self.topics.values_mut().filter(|topic| topic.alone == Some(number)) {
            topic.alone = None;
            self.under_way -= 1;
            if let Ok(index) = usize::try_from(partition) {
                let length = topic.known.len().max(index + 1);
                topic.known.resize(length, false);
                topic.known[index] = true;
            }
        }
    }

    /// Forgets what the broker may have forgotten; to be called now and then.
    pub(super) fn expire(&mut self) {
        if self.under_way == 0 && self.since.elapsed() >= EXPIRY {
            *self = Introductions::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_waits_for_its_first_record_and_for_no_other() {
        let mut topics = Introductions::default();
        assert!(topics.admits("a"));
        topics.sent("a", None, 1);
        assert!(!topics.admits("a") && topics.admits("b"), "it may be any partition of the topic");
        topics.sent("b", Some(0), 2);
        topics.acknowledged(2, 0);
        assert!(!topics.admits("a") && topics.admits("b"));
        topics.acknowledged(1, 2);
        topics.sent("a", Some(2), 2);
        assert!(topics.admits("a"), "its partition was told with the acknowledgement");
        topics.sent("a", Some(3), 3);
        assert!(!topics.admits("a"), "another partition, another introduction");
        topics.acknowledged(3, 3);
        topics.sent("a", Some(3), 4);
        assert!(topics.admits("a"), "only the first one goes alone");
        topics.sent("a", Some(0), 5);
        assert!(!topics.admits("a"));
        topics.acknowledged(4, 3);
        assert!(!topics.admits("a"));
        topics.acknowledged(5, 0);
        assert!(topics.admits("a"));
    }

    #[test]
    fn a_broker_that_may_have_forgotten_is_introduced_again() {
        let mut topics = Introductions::default();
        topics.sent("a", Some(0), 1);
        topics.since = Instant::now().checked_sub(EXPIRY).expect("an hour since the start of the clock");
        topics.expire();
        assert!(!topics.admits("a"), "not while one is under way");
        topics.acknowledged(1, 0);
        topics.expire();
        topics.sent("a", Some(0), 2);
        assert!(!topics.admits("a"));
    }
}
