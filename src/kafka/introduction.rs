//! The first record of a topic goes alone.
//!
//! A broker checks that a producer's batches follow each other without a gap, which keeps later ones out when
//! one was refused. But it knows nothing of a producer whose very first batch it refused, and takes the next
//! one as the beginning. So nothing is sent behind the first record until the broker has taken it.

use std::collections::HashMap;

/// The topics that this producer has written to.
#[derive(Default)]
pub(super) struct Introductions {
    /// The number of the first record while it is under way; `None` once the broker has it.
    topics: HashMap<String, Option<usize>>,
    under_way: usize,
}

impl Introductions {
    /// Whether a record of this topic may be sent now.
    pub(super) fn admits(&self, topic: &str) -> bool {
        self.under_way == 0 || !matches!(self.topics.get(topic), Some(Some(_)))
    }

    /// A record of this topic was sent.
    pub(super) fn sent(&mut self, topic: &str, number: usize) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.to_owned(), Some(number));
            self.under_way += 1;
        }
    }

    /// The broker has the record of this number.
    pub(super) fn acknowledged(&mut self, number: usize) {
        if self.under_way == 0 {
            return;
        }
        for first in self.topics.values_mut().filter(|first| **first == Some(number)) {
            *first = None;
            self.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_waits_for_its_first_record_and_for_no_other() {
        let mut topics = Introductions::default();
        assert!(topics.admits("a"));
        topics.sent("a", 1);
        assert!(!topics.admits("a") && topics.admits("b"));
        topics.sent("b", 2);
        topics.acknowledged(2);
        assert!(!topics.admits("a") && topics.admits("b"));
        topics.acknowledged(1);
        topics.sent("a", 3);
        assert!(topics.admits("a"), "only the first one goes alone");
    }
}
