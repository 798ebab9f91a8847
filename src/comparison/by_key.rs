//! Topics whose keys lie in other partitions: the order within a key is all that can be compared.

use std::collections::HashMap;

use super::bag::Bag;
use super::fingerprint::Fingerprints;
use super::{Leftover, Place, Side, Source, Stored};
use crate::error::OutboxError;

/// How the comparison ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyVerdict {
    Equal,
    /// The n-th records of one key are not equal.
    Unequal {
        number: u64,
        left: Place,
        right: Place,
    },
    /// The n-th record of a key has no counterpart; so many records in all have none.
    Missing {
        on: Side,
        number: u64,
        count: u64,
        place: Place,
    },
    /// Records without a key; these have no order.
    Keyless(Leftover),
}

/// Compares the records of each key in their order, and those without a key in any. Returns how many the left side has.
pub(crate) fn by_key(
    left: &mut impl Source,
    right: &mut impl Source,
) -> Result<(u64, KeyVerdict), OutboxError> {
    let (mut keys, mut records) = (Keys::default(), 0);
    loop {
        let (here, there) = (left.next()?, right.next()?);
        if here.is_none() && there.is_none() {
            return Ok((records, keys.verdict()));
        }
        records += u64::from(here.is_some());
        for (side, record) in [(Side::Left, here), (Side::Right, there)] {
            if let Some(verdict) = record.and_then(|record| keys.put(side, &record)) {
                return Ok((records, verdict));
            }
        }
    }
}

#[derive(Default)]
struct Keys {
    prints: Fingerprints,
    /// How many records of each key came on the left and on the right.
    counts: HashMap<u128, [u64; 2]>,
    /// Records whose counterpart has not come yet, by key and number.
    waiting: HashMap<u128, Waiting>,
    keyless: Bag,
}

struct Waiting {
    content: u128,
    number: u64,
    side: Side,
    place: Place,
}

impl Keys {
    fn put(&mut self, side: Side, record: &Stored) -> Option<KeyVerdict> {
        let Some(key) = &record.content.key else {
            self.keyless.put(side, record);
            return None;
        };
        let (key, content) = (self.prints.of(key), self.prints.of(&record.content));
        let number = &mut self.counts.entry(key).or_default()[usize::from(side == Side::Right)];
        *number += 1;
        let (number, turn) = (*number, self.prints.of(&(key, *number)));
        let Some(counterpart) = self.waiting.remove(&turn) else {
            self.waiting.insert(turn, Waiting { content, number, side, place: record.place });
            return None;
        };
        let (left, right) = match side {
            Side::Left => (record.place, counterpart.place),
            Side::Right => (counterpart.place, record.place),
        };
        (counterpart.content != content).then_some(KeyVerdict::Unequal { number, left, right })
    }

    fn verdict(self) -> KeyVerdict {
        if let Some(first) = self.waiting.values().min_by_key(|waiting| (waiting.place, waiting.number)) {
            let (on, number, place) = (first.side.other(), first.number, first.place);
            let count = self.waiting.values().filter(|waiting| waiting.side == first.side).count();
            return KeyVerdict::Missing { on, number, count: count as u64, place };
        }
        let leftover = self.keyless.leftover();
        if leftover.is_none() { KeyVerdict::Equal } else { KeyVerdict::Keyless(leftover) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Words;
    use super::*;

    #[test]
    fn keys_are_compared_in_order_and_against_nothing_else() {
        let at = |offset| Place { partition: 0, offset };
        let unequal = |number, left, right| KeyVerdict::Unequal { number, left: at(left), right: at(right) };
        let missing =
            |on, number, count, offset| KeyVerdict::Missing { on, number, count, place: at(offset) };
        for (left, right, expected) in [
            ("", "", KeyVerdict::Equal),
            ("a=1 a=2 b=1 =0 =5", "=5 b=1 a=1 =0 a=2", KeyVerdict::Equal),
            ("a=1 a=2", "a=2 a=1", unequal(1, 0, 0)),
            ("b=0 a=1 a=2", "a=1 a=3 b=0", unequal(2, 2, 1)),
            ("a=1 a=2 a=3", "a=1", missing(Side::Right, 2, 2, 1)),
            ("a=1", "b=1 a=1", missing(Side::Left, 1, 1, 0)),
            ("=1", "=2", KeyVerdict::Keyless(Leftover { left: Some((1, at(0))), right: Some((1, at(0))) })),
        ] {
            let (_, found) = by_key(&mut Words::of(left), &mut Words::of(right)).unwrap();
            assert_eq!(found, expected, "{left} | {right}");
        }
    }
}
