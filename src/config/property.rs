//! Properties of librdkafka: their names in the environment, and which of them are secrets.

use super::layers::{BROKERS, DATABASE_URL, Layer, Setting};
use crate::error::OutboxError;
use crate::kafka::is_secret;
use crate::postgres::settings::has_password;
use crate::secret::SecretSource;

const PREFIX: &str = "WALPOST_KAFKA_";

/// The properties that have a real underscore in their names and can be written as text
/// (librdkafka, CONFIGURATION.md); everywhere else an underscore stands for a dot.
const UNDERSCORED: [&str; 2] = ["enabled_events", "log_level"];

/// Other names of what `--brokers` says.
const BROKER_LISTS: [&str; 2] = ["bootstrap.servers", "metadata.broker.list"];

/// The property that a variable sets: `WALPOST_KAFKA_LINGER_MS` is `linger.ms`.
pub(super) fn key_of_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX).filter(|rest| !rest.is_empty())?.to_ascii_lowercase();
    Some(if UNDERSCORED.contains(&rest.as_str()) { rest } else { rest.replace('_', ".") })
}

/// What stands behind the name of a property that a file or a command gives.
const FROM_FILE: &str = "@file";
const FROM_COMMAND: &str = "@command";

/// Properties whose own names end as ours of files do (librdkafka, CONFIGURATION.md).
const OWN_FILES: [&str; 2] = ["private.key.file", "template.file"];

/// Takes a property down. `sasl.password.file`, as variables and tables of the file have it, is `sasl.password@file`. Of a
/// property that one source names twice the last one counts, in whichever form.
pub(super) fn put(name: &str, value: &str, layer: &mut Layer) {
    let own = OWN_FILES.iter().any(|own| name.ends_with(own));
    let source = |ending: &str, mark: &str| Some(format!("{}{mark}", name.strip_suffix(ending)?));
    let key = source(".file", FROM_FILE).or_else(|| source(".command", FROM_COMMAND)).filter(|_| !own);
    let key = key.unwrap_or_else(|| name.to_owned());
    layer.properties.retain(|known, _| base(known) != base(&key));
    layer.properties.insert(key, value.to_owned());
}

/// The property that is meant, wherever its value comes from.
pub(super) fn base(name: &str) -> &str {
    name.strip_suffix(FROM_FILE).or_else(|| name.strip_suffix(FROM_COMMAND)).unwrap_or(name)
}

/// The file or command that gives a property, if one does.
pub(super) fn source(name: &str, value: &str) -> Option<SecretSource> {
    if name.ends_with(FROM_FILE) {
        return Some(SecretSource::File(value.into()));
    }
    name.ends_with(FROM_COMMAND).then(|| SecretSource::Command(value.to_owned()))
}

/// Refuses secrets in flags: every user of the machine sees them in the list of processes.
pub(super) fn refuse_secrets(flags: &Layer) -> Result<(), OutboxError> {
    if flags.values.get(DATABASE_URL.key).is_some_and(|text| has_password(text)) {
        return Err(OutboxError::usage(
            "--database-url: a password on the command line shows in the list of processes",
            "leave it out and use --password-file, --password-command, PGPASSWORD or the password file ~/.pgpass",
        ));
    }
    match flags.properties.keys().find(|key| is_secret(key) && base(key) == key.as_str()) {
        Some(key) => Err(OutboxError::usage(
            format!("-X {key}: a secret on the command line shows in the list of processes"),
            format!(
                "use {variable}, or {variable}_FILE with the name of a file, or the [kafka] table of walpost.toml",
                variable = variable_of(key)
            ),
        )),
        None => Ok(()),
    }
}

/// Refuses a second way to name the brokers, since it would be unclear which one wins.
pub(super) fn refuse_broker_lists(properties: &[(String, String)]) -> Result<(), OutboxError> {
    let Setting { flag, variable, key, .. } = &BROKERS;
    match properties.iter().find(|(key, _)| BROKER_LISTS.contains(&base(key))) {
        Some((list, _)) => Err(OutboxError::usage(
            format!("the Kafka property {list} has a setting of its own"),
            format!("use {flag}, {variable}, or `{key}` in walpost.toml"),
        )),
        None => Ok(()),
    }
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_name_properties() {
        for (variable, expected) in [
            ("WALPOST_KAFKA_LINGER_MS", Some("linger.ms")),
            ("WALPOST_KAFKA_SASL_PASSWORD", Some("sasl.password")),
            ("WALPOST_KAFKA_LOG_LEVEL", Some("log_level")),
            ("WALPOST_KAFKA_ENABLED_EVENTS", Some("enabled_events")),
            ("WALPOST_KAFKA_", None),
            ("WALPOST_KAFKA", None),
            ("WALPOST_SLOT", None),
        ] {
            assert_eq!(key_of_variable(variable).as_deref(), expected, "{variable}");
        }
        assert_eq!(variable_of("sasl.password"), "WALPOST_KAFKA_SASL_PASSWORD");
    }

    #[test]
    fn files_and_commands_stand_for_the_property_that_they_give() {
        let mut layer = Layer::default();
        for (name, value) in [
            ("sasl.password", "sesame"),
            ("sasl.password.file", "/a"),
            ("ssl.key.password@command", "c"),
            ("sasl.oauthbearer.assertion.private.key.file", "/k"),
        ] {
            put(name, value, &mut layer);
        }
        let pairs: Vec<_> =
            layer.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let own = ("sasl.oauthbearer.assertion.private.key.file", "/k");
        assert_eq!(pairs, [own, ("sasl.password@file", "/a"), ("ssl.key.password@command", "c")]);
        assert_eq!(source("sasl.password@file", "/a"), Some(SecretSource::File("/a".into())));
        assert_eq!(source("ssl.key.password@command", "c"), Some(SecretSource::Command("c".to_owned())));
        assert_eq!(source("sasl.password", "sesame"), None);
    }

    #[test]
    fn secrets_are_known_by_name() {
        for (key, expected) in [
            ("sasl.password", true),
            ("ssl.key.password", true),
            ("ssl.keystore.password", true),
            ("ssl.key.pem", true),
            ("sasl.oauthbearer.client.secret", true),
            ("sasl.oauthbearer.config", true),
            ("sasl.oauthbearer.assertion.private.key.pem", true),
            ("sasl.oauthbearer.assertion.private.key.passphrase", true),
            ("sasl.username", false),
            ("ssl.key.location", false),
            ("linger.ms", false),
        ] {
            assert_eq!(is_secret(key), expected, "{key}");
        }
    }
}
