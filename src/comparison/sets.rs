//! Which topics are compared with which.

use std::collections::BTreeSet;

use super::Side;

/// A topic, or all whose names begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    One(String),
    Set(String),
}

impl Pattern {
    /// What was typed, or why it can't be.
    pub(crate) fn parse(text: &str) -> Result<Pattern, &'static str> {
        let (name, is_set) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        if name.is_empty() && !is_set || name.len() > 249 {
            return Err("a topic's name has 1 to 249 letters");
        }
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        if !name.chars().all(allowed) {
            return Err(
                "a topic's name is made of a-z, A-Z, 0-9, . _ and -, and * may only stand at its end",
            );
        }
        Ok(if is_set { Pattern::Set(name.to_owned()) } else { Pattern::One(name.to_owned()) })
    }

    pub(crate) fn is_set(&self) -> bool {
        matches!(self, Pattern::Set(_))
    }

    /// The names that it stands for.
    fn choose<'a>(&self, topics: &'a BTreeSet<String>) -> BTreeSet<&'a str> {
        let fits = |topic: &&str| match self {
            Pattern::One(name) => topic == name,
            // Two underscores are Kafka's own, unless somebody asks for them.
            Pattern::Set(prefix) => {
                topic.starts_with(prefix.as_str()) && (!topic.starts_with("__") || prefix.starts_with("__"))
            }
        };
        topics.iter().map(String::as_str).filter(fits).collect()
    }

    /// The name with this in the place of the star.
    fn with(&self, rest: &str) -> String {
        match self {
            Pattern::One(name) => name.clone(),
            Pattern::Set(prefix) => format!("{prefix}{rest}"),
        }
    }

    fn rest<'a>(&self, topic: &'a str) -> &'a str {
        match self {
            Pattern::One(_) => "",
            Pattern::Set(prefix) => &topic[prefix.len()..],
        }
    }
}

/// What two patterns stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// Topics of the left and the right, in the order of their names.
    Pairs(Vec<(String, String)>),
    /// No topic fits the pattern of this side.
    Nothing(Side),
    /// A topic without its counterpart, which would have that name; and how many such topics there are.
    Unpaired { on: Side, topic: String, wanted: String, count: usize },
}

/// Pairs the topics of two patterns, which are both sets or both not.
pub(crate) fn pair(
    (left, on_left): (&Pattern, &BTreeSet<String>),
    (right, on_right): (&Pattern, &BTreeSet<String>),
    one_cluster: bool,
) -> Pairing {
    let (mut here, mut there) = (left.choose(on_left), right.choose(on_right));
    if one_cluster && let (Pattern::Set(short), Pattern::Set(long)) = (left, right) {
        // Of `old*` and `old-new*` the longer one has what fits both.
        if long.starts_with(short.as_str()) {
            here = &here - &there;
        } else if short.starts_with(long.as_str()) {
            there = &there - &here;
        }
    }
    for (side, topics) in [(Side::Left, &here), (Side::Right, &there)] {
        if topics.is_empty() {
            return Pairing::Nothing(side);
        }
    }
    let missing = |side, topics: &BTreeSet<&str>, others: &BTreeSet<&str>, from: &Pattern, to: &Pattern| {
        let wanted = |topic: &&str| to.with(from.rest(topic));
        let lonely: Vec<_> = topics.iter().filter(|topic| !others.contains(wanted(topic).as_str())).collect();
        let (first, count) = (*lonely.first()?, lonely.len());
        Some(Pairing::Unpaired { on: side, topic: (*first).to_owned(), wanted: wanted(first), count })
    };
    let unpaired = missing(Side::Right, &here, &there, left, right)
        .or_else(|| missing(Side::Left, &there, &here, right, left));
    unpaired.unwrap_or_else(|| {
        let pair = |topic: &&str| ((*topic).to_owned(), right.with(left.rest(topic)));
        Pairing::Pairs(here.iter().map(pair).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for (text, expected) in [
            ("orders", Some(Pattern::One("orders".to_owned()))),
            ("old.*", Some(Pattern::Set("old.".to_owned()))),
            ("*", Some(Pattern::Set(String::new()))),
            ("", None),
            ("a*b", None),
            ("a**", None),
            ("a b", None),
            ("ä", None),
        ] {
            assert_eq!(Pattern::parse(text).ok(), expected, "{text}");
        }
        assert!(Pattern::parse(&"a".repeat(250)).is_err());
    }

    #[test]
    fn topics_are_paired_by_what_stands_for_the_star() {
        let pairs = |names: &[(&str, &str)]| {
            Pairing::Pairs(names.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
        };
        let unpaired = |on, topic: &str, wanted: &str, count| Pairing::Unpaired {
            on,
            topic: topic.to_owned(),
            wanted: wanted.to_owned(),
            count,
        };
        for (left, right, topics, expected) in [
            ("a", "b", "a b c", pairs(&[("a", "b")])),
            ("a", "b", "a c", Pairing::Nothing(Side::Right)),
            ("x*", "b*", "b", Pairing::Nothing(Side::Left)),
            ("a.*", "b.*", "a.x a.y b.x b.y c", pairs(&[("a.x", "b.x"), ("a.y", "b.y")])),
            ("a.*", "b.*", "a.x a.y a.z b.x", unpaired(Side::Right, "a.y", "b.y", 2)),
            ("a.*", "b.*", "a.x b.x b.y", unpaired(Side::Left, "b.y", "a.y", 1)),
            ("t*", "t-new*", "t t1 t-new t-new1", pairs(&[("t", "t-new"), ("t1", "t-new1")])),
            ("t-new*", "t*", "t t1 t-new t-new1", pairs(&[("t-new", "t"), ("t-new1", "t1")])),
            ("*", "new.*", "__offsets a new.a", pairs(&[("a", "new.a")])),
        ] {
            let topics: BTreeSet<String> = topics.split(' ').map(str::to_owned).collect();
            let [one, two] = [left, right].map(|text| Pattern::parse(text).unwrap());
            assert_eq!(pair((&one, &topics), (&two, &topics), true), expected, "{left} {right}");
        }
    }

    #[test]
    fn of_two_clusters_each_has_its_own_topics() {
        let topics: BTreeSet<String> = ["t".to_owned()].into();
        let one = Pattern::parse("t*").unwrap();
        let expected = Pairing::Pairs(vec![("t".to_owned(), "t".to_owned())]);
        assert_eq!(pair((&one, &topics), (&one, &topics), false), expected);
    }
}
