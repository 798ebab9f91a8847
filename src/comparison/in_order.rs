//! Two partitions, record by record.

use super::{Count, Difference, Side, Source, Stored, parts};
use crate::error::OutboxError;

/// How far is looked ahead to tell a record that is missing from one that was changed.
const AHEAD: u64 = 1000;

/// Compares until the first difference, the end of both, or so many records. Returns how many were equal.
pub(crate) fn in_order(
    left: &mut impl Source,
    right: &mut impl Source,
    limit: u64,
) -> Result<(u64, Option<Difference>), OutboxError> {
    let mut equal = 0;
    while equal < limit {
        let number = equal + 1;
        let difference = match (left.next()?, right.next()?) {
            (None, None) => break,
            (Some(here), Some(there)) if here.content == there.content => {
                equal += 1;
                continue;
            }
            (Some(here), Some(there)) => tell_apart(left, right, number, here, there)?,
            (Some(first), None) => tail(left, Side::Right, number, first)?,
            (None, Some(first)) => tail(right, Side::Left, number, first)?,
        };
        return Ok((equal, Some(difference)));
    }
    Ok((equal, None))
}

/// The one side has ended before the other.
fn tail(longer: &mut impl Source, on: Side, number: u64, first: Stored) -> Result<Difference, OutboxError> {
    let mut count = 1;
    while longer.next()?.is_some() {
        count += 1;
        if count == AHEAD {
            return Ok(missing(on, number, Count::AtLeast(count), first));
        }
    }
    Ok(missing(on, number, Count::Exactly(count), first))
}

fn missing(on: Side, number: u64, count: Count, first: Stored) -> Difference {
    Difference::Missing { on, number, count, first: Box::new(first) }
}

/// Two records stand at one place and are not equal. They are one event that was changed, unless one of them comes
/// soon after on the other side: then what stands before it there is missing here.
fn tell_apart(
    left: &mut impl Source,
    right: &mut impl Source,
    number: u64,
    here: Stored,
    there: Stored,
) -> Result<Difference, OutboxError> {
    let same_id = here.content.id().is_some() && here.content.id() == there.content.id();
    if !same_id {
        for ahead in 1..=AHEAD {
            let (next_here, next_there) = (left.next()?, right.next()?);
            let after_here = next_here.as_ref().map(|record| &record.content);
            let after_there = next_there.as_ref().map(|record| &record.content);
            if after_here.is_none() && after_there.is_none() || ahead == 1 && after_here == after_there {
                break;
            }
            if after_here == Some(&there.content) {
                return Ok(missing(Side::Right, number, Count::Exactly(ahead), here));
            }
            if after_there == Some(&here.content) {
                return Ok(missing(Side::Left, number, Count::Exactly(ahead), there));
            }
        }
    }
    let parts = parts(&here.content, &there.content);
    Ok(Difference::Unequal { number, left: Box::new(here), right: Box::new(there), parts })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Words;
    use super::*;

    /// `=` and how many, `3<>` for the third pair that differs, `3<2` for two missing on the left from the third on.
    fn verdict(left: &str, right: &str, limit: u64) -> String {
        let (equal, difference) = in_order(&mut Words::of(left), &mut Words::of(right), limit).unwrap();
        match difference {
            None => format!("={equal}"),
            Some(Difference::Unequal { number, left, right, .. }) => {
                assert_eq!((left.place, number), (right.place, equal + 1));
                format!("{number}<>")
            }
            Some(Difference::Missing { on, number, count, first }) => {
                assert_eq!(number, equal + 1);
                assert_eq!(first.place.offset, i64::try_from(equal).unwrap());
                let sign = if on == Side::Left { '<' } else { '>' };
                match count {
                    Count::Exactly(count) => format!("{number}{sign}{count}"),
                    Count::AtLeast(count) => format!("{number}{sign}{count}+"),
                }
            }
        }
    }

    #[test]
    fn the_first_difference_is_named_for_what_it_is() {
        for (left, right, limit, expected) in [
            ("", "", 9, "=0"),
            ("a=1 b=2", "a=1 b=2", 9, "=2"),
            ("a=1 b=2", "a=1 b=3", 1, "=1"),
            ("a=1 b=2", "a=1 b=3", 2, "2<>"),
            ("a=1 b=2 c=3", "a=1 b=X c=3", 9, "2<>"),
            ("a=1 b=2 c=3", "a=1 b=X", 9, "2<>"),
            ("a=1", "", 9, "1>1"),
            ("a=1", "a=1 b=2 c=3", 9, "2<2"),
            ("a=1 c=3", "a=1 b=2 c=3", 9, "2<1"),
            ("a=1 b=2 c=3 d=4", "a=1 d=4", 9, "2>2"),
            ("a=1 a=1 b=2 c=3", "a=1 b=2 c=3", 9, "2>1"),
            ("a=1 b=2 c=3", "a=1 c=3 b=2", 9, "2>1"),
            // One event by its id, even where the same content stands again further on.
            ("a=1/id:1 a=2/id:2", "a=9/id:1 a=1/id:1", 9, "1<>"),
            ("a=1/id:1 a=2/id:2", "a=2/id:2", 9, "1>1"),
        ] {
            assert_eq!(verdict(left, right, limit), expected, "{left} | {right}");
        }
    }

    #[test]
    fn nobody_counts_a_long_tail_to_its_end() {
        let long = "a=1 ".repeat(1500);
        assert_eq!(verdict(&long, "a=1", 9999), "2>1000+");
        assert_eq!(verdict("a=1", &long[..4 * 1000], 9999), "2<999");
        // What comes back later than that is taken for changed.
        assert_eq!(verdict("b=2", &(long + "b=2"), 9999), "1<>");
    }
}
