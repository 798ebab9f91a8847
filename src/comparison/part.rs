//! In what two records differ.

use super::{Content, Side};

/// A part of a record that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Key(Values),
    Value(Values),
    /// The same header with other bytes.
    Header {
        name: String,
        values: Values,
    },
    /// A header that one side lacks.
    HeaderMissing {
        on: Side,
        name: String,
    },
    /// The same names in another order: the n-th, counted from 1, are these.
    HeaderOrder {
        number: usize,
        left: String,
        right: String,
    },
    Timestamp {
        left: Option<i64>,
        right: Option<i64>,
    },
}

/// The bytes on both sides; none is Kafka's null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Values {
    pub(crate) left: Option<Vec<u8>>,
    pub(crate) right: Option<Vec<u8>>,
}

impl Values {
    fn of(left: Option<&Vec<u8>>, right: Option<&Vec<u8>>) -> Option<Values> {
        (left != right).then(|| Values { left: left.cloned(), right: right.cloned() })
    }

    /// The first byte, counted from 0, in which they differ, if both are there.
    pub(crate) fn first_difference(&self) -> Option<usize> {
        let (left, right) = (self.left.as_ref()?, self.right.as_ref()?);
        Some(left.iter().zip(right).take_while(|(left, right)| left == right).count())
    }
}

/// All parts that differ; of the headers, the first one.
pub(crate) fn parts(left: &Content, right: &Content) -> Vec<Part> {
    let mut parts = Vec::new();
    parts.extend(Values::of(left.key.as_ref(), right.key.as_ref()).map(Part::Key));
    parts.extend(Values::of(left.value.as_ref(), right.value.as_ref()).map(Part::Value));
    parts.extend(header(&left.headers, &right.headers));
    if left.timestamp != right.timestamp {
        parts.push(Part::Timestamp { left: left.timestamp, right: right.timestamp });
    }
    parts
}

type Header = (String, Option<Vec<u8>>);

fn header(left: &[Header], right: &[Header]) -> Option<Part> {
    let at = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let count = |headers: &[Header], name: &str| headers.iter().filter(|(it, _)| it == name).count();
    let lacks = |on: Side, (name, _): &Header| {
        let (here, there) = (count(left, name), count(right, name));
        let less = if on == Side::Right { there < here } else { here < there };
        less.then(|| Part::HeaderMissing { on, name: name.clone() })
    };
    match (left.get(at), right.get(at)) {
        (None, None) => None,
        (Some((name, here)), Some((other, there))) if name == other => {
            let values = Values { left: here.clone(), right: there.clone() };
            Some(Part::Header { name: name.clone(), values })
        }
        (Some(here), None) => lacks(Side::Right, here),
        (None, Some(there)) => lacks(Side::Left, there),
        (Some(here), Some(there)) => {
            let order = || Part::HeaderOrder { number: at + 1, left: here.0.clone(), right: there.0.clone() };
            lacks(Side::Right, here).or_else(|| lacks(Side::Left, there)).or_else(|| Some(order()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::content;
    use super::*;

    fn values(left: &str, right: &str) -> Values {
        Values { left: Some(left.as_bytes().to_vec()), right: Some(right.as_bytes().to_vec()) }
    }

    #[test]
    fn each_part_is_found() {
        let missing = |on, name: &str| Part::HeaderMissing { on, name: name.to_owned() };
        let order = |number, left: &str, right: &str| Part::HeaderOrder {
            number,
            left: left.to_owned(),
            right: right.to_owned(),
        };
        let null = Values { left: None, right: Some(Vec::new()) };
        for (left, right, expected) in [
            ("k=v/a:b", "k=v/a:b", vec![]),
            ("k=v", "k=w", vec![Part::Value(values("v", "w"))]),
            ("k=v", "l=w", vec![Part::Key(values("k", "l")), Part::Value(values("v", "w"))]),
            ("=v", "k=v", vec![Part::Key(Values { left: None, right: Some(b"k".to_vec()) })]),
            ("k=v/a:b", "k=v/a:c", vec![Part::Header { name: "a".to_owned(), values: values("b", "c") }]),
            ("k=v/a", "k=v/a:", vec![Part::Header { name: "a".to_owned(), values: null }]),
            ("k=v/a:b", "k=v", vec![missing(Side::Right, "a")]),
            ("k=v", "k=v/a:b", vec![missing(Side::Left, "a")]),
            ("k=v/x:1/a:b", "k=v/a:b", vec![missing(Side::Right, "x")]),
            ("k=v/a:b", "k=v/x:1/a:b", vec![missing(Side::Left, "x")]),
            ("k=v/a:b/c:d", "k=v/c:d/a:b", vec![order(1, "a", "c")]),
            ("k=v/z:z/a:b/c:d", "k=v/z:z/c:d/a:b", vec![order(2, "a", "c")]),
            ("k=v/a:1/a:1", "k=v/a:1", vec![missing(Side::Right, "a")]),
            ("k=v/a:1/b:1", "k=v/a:1/a:1/b:1", vec![missing(Side::Left, "a")]),
        ] {
            assert_eq!(parts(&content(left), &content(right)), expected, "{left} {right}");
        }
        let timed = Content { timestamp: Some(5), ..content("k=v") };
        assert_eq!(parts(&timed, &content("k=v")), [Part::Timestamp { left: Some(5), right: None }]);
    }

    #[test]
    fn the_first_byte_that_differs() {
        for (left, right, expected) in [("", "a", 0), ("abc", "abd", 2), ("ab", "abc", 2), ("b", "a", 0)] {
            assert_eq!(values(left, right).first_difference(), Some(expected), "{left} {right}");
        }
        assert_eq!(Values { left: None, right: Some(Vec::new()) }.first_difference(), None);
    }
}
