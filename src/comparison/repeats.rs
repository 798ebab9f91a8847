//! What a relay has sent again after a fault.

use std::collections::HashSet;

use super::Content;
use super::fingerprint::Fingerprints;

/// What was seen of one partition: 16 bytes a record, and the room that a hash table leaves free.
#[derive(Default)]
pub(crate) struct Repeats {
    prints: Fingerprints,
    seen: HashSet<u128>,
    passed: u64,
}

impl Repeats {
    /// Whether a record of this id was there before; without an id, one with all of its content.
    pub(crate) fn has(&mut self, content: &Content) -> bool {
        let print = match content.id() {
            Some(id) => self.prints.of(&("id", id)),
            None => self.prints.of(&("content", content)),
        };
        let repeated = !self.seen.insert(print);
        self.passed += u64::from(repeated);
        repeated
    }

    /// Another partition begins.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }

    /// How many there were in all partitions.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::content;
    use super::*;

    #[test]
    fn an_id_decides_and_without_it_everything_does() {
        let mut repeats = Repeats::default();
        let words = ["a=1/id:7", "a=2/id:7", "a=1/id:8", "a=1", "a=1", "a=2", "a=1/id", "a=1/id"];
        let found = words.map(|word| repeats.has(&content(word)));
        assert_eq!(found, [false, true, false, false, true, false, false, true]);
        repeats.forget();
        assert!(!repeats.has(&content("a=1")));
        assert_eq!(repeats.passed(), 3);
    }
}
