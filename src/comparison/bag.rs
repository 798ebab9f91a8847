//! Topics as bags of records, wherever in them each is.

use std::collections::HashMap;

use super::fingerprint::Fingerprints;
use super::{Place, Side, Source, Stored};
use crate::error::OutboxError;

/// Records of one side that have not been met on the other, by what they hold.
#[derive(Default)]
pub(super) struct Bag {
    prints: Fingerprints,
    open: HashMap<u128, Open>,
}

/// Records of one content.
struct Open {
    /// How many more the left side has; below zero, the right one.
    surplus: i64,
    /// Where the first of them is.
    place: Place,
    /// What may tell its changed counterpart.
    identity: Option<u64>,
}

/// What the two sides do not have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// How many records only the left side has, and where one of them is.
    pub(crate) left: Option<(u64, Place)>,
    pub(crate) right: Option<(u64, Place)>,
}

impl Leftover {
    pub(crate) fn is_none(&self) -> bool {
        self.left.is_none() && self.right.is_none()
    }
}

/// Compares all that both sides hold. Returns how many records the left one has.
pub(crate) fn unordered(
    left: &mut impl Source,
    right: &mut impl Source,
) -> Result<(u64, Leftover), OutboxError> {
    let (mut bag, mut records) = (Bag::default(), 0);
    // Alternately, so that what is equal is soon met and forgotten.
    loop {
        let (here, there) = (left.next()?, right.next()?);
        if here.is_none() && there.is_none() {
            return Ok((records, bag.leftover()));
        }
        records += u64::from(here.is_some());
        for (side, record) in [(Side::Left, here), (Side::Right, there)] {
            if let Some(record) = record {
                bag.put(side, &record);
            }
        }
    }
}

impl Bag {
    pub(super) fn put(&mut self, side: Side, record: &Stored) {
        let step = if side == Side::Left { 1 } else { -1 };
        let print = self.prints.of(&record.content);
        let identity = record.content.identity().map(|identity| self.prints.short(identity));
        let fresh = Open { surplus: 0, place: record.place, identity };
        let open = self.open.entry(print).or_insert(fresh);
        open.surplus += step;
        if open.surplus == 0 {
            self.open.remove(&print);
        }
    }

    /// The first place of each side; the right one is that of the same event, if there is one.
    pub(super) fn leftover(&self) -> Leftover {
        let of =
            |side: Side| self.open.values().filter(move |open| (open.surplus > 0) == (side == Side::Left));
        let count = |side: Side| of(side).map(|open| open.surplus.unsigned_abs()).sum::<u64>();
        let left = of(Side::Left).min_by_key(|open| open.place);
        let identity = left.and_then(|left| left.identity);
        let right = of(Side::Right).min_by_key(|open| (open.identity != identity, open.place));
        Leftover {
            left: left.map(|open| (count(Side::Left), open.place)),
            right: right.map(|open| (count(Side::Right), open.place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Words;
    use super::*;

    #[test]
    fn what_is_equal_cancels_out() {
        let at = |count, offset| Some((count, Place { partition: 0, offset }));
        for (left, right, records, expected) in [
            ("", "", 0, (None, None)),
            ("a=1 b=2 =3", "=3 a=1 b=2", 3, (None, None)),
            ("a=1 a=1", "a=1 a=1", 2, (None, None)),
            ("a=1 a=1", "a=1", 2, (at(1, 0), None)),
            ("a=1", "b=2 a=1 a=1", 1, (None, at(2, 0))),
            ("a=1 b=2 c=3", "c=4 a=1 b=2", 3, (at(1, 2), at(1, 0))),
            ("a=1/id:1 b=2/id:2", "x=0/id:9 b=3/id:2 a=0/id:1", 2, (at(2, 0), at(3, 2))),
        ] {
            let found = unordered(&mut Words::of(left), &mut Words::of(right)).unwrap();
            let expected = Leftover { left: expected.0, right: expected.1 };
            // Of records with one content any may be the one too many.
            let (counts, wanted) =
                [&found.1, &expected].map(|it| (it.left.map(|it| it.0), it.right.map(|it| it.0))).into();
            assert_eq!((found.0, counts), (records, wanted), "{left} | {right}");
            if !left.contains("a=1 a=1") && !right.contains("a=1 a=1") {
                assert_eq!(found.1, expected, "{left} | {right}");
            }
        }
    }

    #[test]
    fn what_was_met_takes_no_memory() {
        let mut bag = Bag::default();
        let mut words = Words::of(&"a=1 b=2 =3 ".repeat(100));
        while let Some(record) = words.next().unwrap() {
            bag.put(Side::Left, &record);
            bag.put(Side::Right, &record);
            assert!(bag.open.is_empty());
        }
    }
}
