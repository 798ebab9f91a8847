//! 128 bits that stand for a record, so that a topic need not be held to know what was in it.

use std::hash::{BuildHasher, Hash, RandomState};

/// Two keyed hashes side by side. The keys are chosen anew in every process, so that nobody can prepare records that
/// look alike.
#[derive(Default)]
pub(super) struct Fingerprints {
    high: RandomState,
    low: RandomState,
}

impl Fingerprints {
    pub(super) fn of(&self, what: &(impl Hash + ?Sized)) -> u128 {
        // Told apart by more than their keys, of which the standard library promises little.
        let (high, low) = (self.high.hash_one((0_u8, what)), self.low.hash_one((1_u8, what)));
        (u128::from(high) << 64) | u128::from(low)
    }

    /// Half of it, where a mistake costs a hint and not the verdict.
    pub(super) fn short(&self, what: &(impl Hash + ?Sized)) -> u64 {
        self.low.hash_one(what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::content;
    use super::*;

    #[test]
    fn what_differs_in_anything_looks_different() {
        let prints = Fingerprints::default();
        let words =
            ["k=v", "kv=", "=v", "k=v/a", "k=v/a:", "k=v/a:b", "k=v/b:a", "k=v/a:b/c:d", "k=v/c:d/a:b"];
        let mut seen: Vec<u128> = words.iter().map(|word| prints.of(&content(word))).collect();
        assert_eq!(prints.of(&content("k=v/a:b")), seen[5]);
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
