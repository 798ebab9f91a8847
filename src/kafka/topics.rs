//! Which topics may be written to. Whoever may insert a row names its topic; the relay's user at the brokers may be
//! allowed more than that.

use crate::error::OutboxError;

/// Topics in which brokers keep what they know (Kafka's `Topic.java`); a record of ours there would break the cluster.
const INTERNAL: [&str; 4] =
    ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];

/// The topics that may be written to; by default all but the brokers' own.
///
/// ```
/// use walpost::kafka::Topics;
///
/// let topics = Topics::parse("orders.*, audit")?;
/// assert!(topics.allow("orders.v1") && topics.allow("audit") && !topics.allow("auditing"));
/// assert!(!Topics::default().allow("__consumer_offsets"));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics(Vec<String>);

impl Topics {
    /// Reads names separated by commas, in which `*` stands for any characters; an empty text allows all.
    ///
    /// # Errors
    /// An entry could match no topic; the text says why.
    pub fn parse(text: &str) -> Result<Topics, String> {
        if text.trim().is_empty() {
            return Ok(Topics::default());
        }
        let entry = |entry: &str| {
            let entry = entry.trim();
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*');
            match entry.bytes().all(good) && (1..=249).contains(&entry.len()) {
                true => Ok(entry.to_owned()),
                false => Err(format!("`{}` is no name of a topic", entry.escape_debug())),
            }
        };
        text.split(',').map(entry).collect::<Result<_, _>>().map(Topics)
    }

    /// Whether a topic of this name may be written to.
    #[must_use]
    pub fn allow(&self, name: &str) -> bool {
        !INTERNAL.contains(&name) && (self.0.is_empty() || self.0.iter().any(|entry| matches(entry, name)))
    }

    /// Refuses a topic that may not be written to.
    pub(super) fn check(&self, name: &str) -> Result<(), OutboxError> {
        if self.allow(name) {
            return Ok(());
        }
        let (why, advice) = if INTERNAL.contains(&name) {
            (
                "the brokers keep their own state in it",
                "see which service writes such rows; no setting allows it",
            )
        } else {
            (
                "it is not on the list of topics (--topics)",
                "see which service writes such rows; if the topic is meant, add it to --topics (WALPOST_TOPICS, topics)",
            )
        };
        Err(OutboxError::message(format!("publishing to topic {name}: {why}"), advice).for_good(name))
    }
}

/// Whether the whole name is what the pattern says. Each star is tried from where the last one stood, so that the time is
/// at most the product of both lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == name[seen] => (at, seen) = (at + 1, seen + 1),
            _ => match star {
                Some((of_star, taken)) => {
                    star = Some((of_star, taken + 1));
                    (at, seen) = (of_star + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, expected) in [
            ("orders", "orders", true),
            ("orders", "orders.v1", false),
            ("orders.*", "orders.v1", true),
            ("orders.*", "orders.", true),
            ("orders.*", "orders", false),
            ("*", "a", true),
            ("*.v1", "orders.v1", true),
            ("*.v1", "orders.v1.v2", false),
            ("*.v1", "a.v1.v1", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXc", false),
            ("**a", "bca", true),
            ("orders.*", "xorders.v1", false),
            ("a.b", "axb", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        let long = "a".repeat(249);
        assert!(!matches(&format!("{}b", "*a".repeat(120)), &long));
    }

    #[test]
    fn lists_are_read_and_mistakes_quoted() {
        let topics = Topics::parse(" orders.* ,audit").unwrap();
        assert!(topics.allow("orders.1") && topics.allow("audit") && !topics.allow("other"));
        assert_eq!(Topics::parse(" "), Ok(Topics::default()));
        for text in ["a,,b", "a b", "orders/*", ","] {
            assert!(Topics::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_on_the_list_is_refused_for_good() {
        let topics = Topics::parse("*").unwrap();
        assert!(topics.check("orders").is_ok());
        for (topics, name, why) in [
            (&topics, "__consumer_offsets", "their own state"),
            (&Topics::default(), "__transaction_state", "their own state"),
            (&Topics::parse("orders").unwrap(), "secrets", "--topics"),
        ] {
            let error = topics.check(name).unwrap_err();
            assert!(error.is_message() && error.is_for_good() && error.topic() == Some(name));
            assert!(error.to_string().contains(why) && error.to_string().contains(name), "{error}");
        }
    }
}
