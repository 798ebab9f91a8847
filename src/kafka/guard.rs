//! Which librdkafka properties users may change, and which hold up a promise.
//!
//! Names, aliases and ranges are those of librdkafka's CONFIGURATION.md.

use std::borrow::Cow;

use super::login::TOKEN;
use crate::error::OutboxError;

/// Two names of one property: left as written by some, right as used here.
///
/// Properties reach librdkafka in no fixed order, so an alias beside a default would win or lose by chance.
const ALIASES: &[(&str, &str)] = &[
    ("metadata.broker.list", "bootstrap.servers"),
    ("request.required.acks", "acks"),
    ("message.send.max.retries", "retries"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("compression.codec", "compression.type"),
    ("sasl.mechanism", "sasl.mechanisms"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
];

/// Property, values that keep the promise, why no other does.
const GUARDED: &[(&str, &[&str], &str)] = &[
    ("acks", &["all", "-1"], "a record counts as sent only when every in-sync replica has it"),
    ("enable.idempotence", &["true", "t", "1"], "without it a retry changes the order of records"),
    (
        "enable.gapless.guarantee",
        &["true", "t", "1"],
        "without it later records slip past one that has failed",
    ),
    ("retries", &["2147483647"], "a record is retried for as long as it takes"),
    (
        "max.in.flight.requests.per.connection",
        &["1", "2", "3", "4", "5"],
        "brokers keep the order of at most five requests",
    ),
    (
        "message.timeout.ms",
        &["0"],
        "a record that times out is overtaken by later ones, so waiting has no end",
    ),
    ("delivery.report.only.error", &["false", "f", "0"], "every record needs its receipt"),
    ("queuing.strategy", &["fifo"], "records leave in commit order"),
];

/// Property, why it can't be given, what to do instead.
const REFUSED: &[(&str, &str, &str)] = &[
    ("bootstrap.servers", "the brokers have a setting of their own", "use --brokers"),
    (
        "sticky.partitioning.linger.ms",
        "records without a key go to a partition by their place in the log, so that a repeat finds the same one",
        "leave it out",
    ),
    (
        "transactional.id",
        "transactions need more than this property",
        "leave it out: records carry their position, so that consumers can drop repeats",
    ),
    (
        "test.mock.num.brokers",
        "records would go to a broker that lives inside this process",
        "leave it out and name real brokers with --brokers",
    ),
];

/// The name under which a property is known here.
pub(crate) fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name)
}

/// Refuses a property that can't be given at all; `given` is the name as the user wrote it.
pub(super) fn refuse(given: &str) -> Result<(), OutboxError> {
    let name = canonical(given);
    match REFUSED.iter().find(|(refused, ..)| *refused == name) {
        Some((_, why, advice)) => {
            Err(OutboxError::usage(format!("the Kafka property `{given}` can't be set: {why}"), *advice))
        }
        None => Ok(()),
    }
}

/// Lets a property pass unless a promise depends on it; `given` is the name as the user wrote it.
pub(super) fn check(given: &str, value: &str) -> Result<(), OutboxError> {
    let name = canonical(given);
    refuse(given)?;
    if name == TOKEN {
        return Err(OutboxError::usage(
            format!("the Kafka property `{given}` can't be set: a token expires"),
            format!("give a file or a command that has the present one: `{given}@file`, `{given}@command`"),
        ));
    }
    let Some((_, allowed, why)) = GUARDED.iter().find(|(guarded, ..)| *guarded == name) else {
        return Ok(());
    };
    // librdkafka itself takes words in any case.
    if allowed.iter().any(|word| word.eq_ignore_ascii_case(value)) {
        return Ok(());
    }
    Err(OutboxError::usage(
        format!("the Kafka property `{given}` can't be `{value}`: {why}"),
        format!("leave `{given}` out, or set it to {}", allowed.join(" or ")),
    ))
}

/// Whether a property's value must not be shown.
///
/// By the words in its name rather than by a list, so that a property of a later librdkafka is covered.
pub(crate) fn is_secret(name: &str) -> bool {
    const WORDS: &[&str] = &[
        "password",
        "passphrase",
        "secret",
        "key.pem",
        "keystore.pem",
        "oauthbearer.config",
        "oauthbearer.token",
        "jaas",
    ];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// Values that must not be shown, to be taken out of what librdkafka says.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// The values of these properties.
    pub(super) fn of<'a>(properties: impl Iterator<Item = &'a (String, String)>) -> Self {
        Secrets(properties.map(|(_, value)| value.clone()).collect())
    }

    /// The text without secrets and without ends of secrets, since a parser quotes a value from where it
    /// got lost. Fewer than four characters tell nothing, and would be found everywhere.
    pub(super) fn veil<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.0 {
            let ends = secret.char_indices().map(|(start, _)| &secret[start..]).filter(|end| end.len() >= 4);
            for end in ends {
                if text.contains(end) {
                    text = Cow::Owned(text.replace(end, "***"));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_cannot_be_weakened() {
        for (key, value, allowed) in [
            ("acks", "all", true),
            ("acks", "-1", true),
            ("request.required.acks", "ALL", true),
            ("acks", "1", false),
            ("request.required.acks", "0", false),
            ("acks", "", false),
            ("enable.idempotence", "true", true),
            ("enable.idempotence", "false", false),
            ("enable.gapless.guarantee", "T", true),
            ("enable.gapless.guarantee", "0", false),
            ("retries", "2147483647", true),
            ("retries", "10", false),
            ("message.send.max.retries", "0", false),
            ("max.in.flight", "5", true),
            ("max.in.flight", "6", false),
            ("max.in.flight.requests.per.connection", "0", false),
            ("message.timeout.ms", "0", true),
            ("message.timeout.ms", "300000", false),
            ("delivery.timeout.ms", "1", false),
            ("delivery.report.only.error", "true", false),
            ("queuing.strategy", "lifo", false),
            ("queuing.strategy", "fifo", true),
            ("bootstrap.servers", "a:9092", false),
            ("metadata.broker.list", "a:9092", false),
            ("transactional.id", "t", false),
            ("test.mock.num.brokers", "3", false),
            ("partitioner", "consistent_random", true),
            ("linger.ms", "20", true),
        ] {
            let checked = check(key, value);
            assert_eq!(checked.is_ok(), allowed, "{key}={value}");
            if let Err(error) = checked {
                assert!(error.is_usage() && error.advice().is_some(), "{key}={value}");
                assert!(error.to_string().contains(key), "{error}");
            }
        }
    }

    #[test]
    fn secrets_are_known_by_name() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.username", "ssl.key.location", "linger.ms", "ssl.ca.pem"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn secrets_are_taken_out_of_texts() {
        let properties = [("sasl.password", "kafka123"), ("ssl.key.password", "x")];
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let secrets = Secrets::of(properties.iter());
        for (text, veiled) in [
            ("the kafka broker of visible, x", "the kafka broker of visible, x"),
            ("bad password kafka123!", "bad password ***!"),
            ("unexpected character at: ka123", "unexpected character at: ***"),
        ] {
            assert_eq!(secrets.veil(text), veiled);
        }
    }
}
