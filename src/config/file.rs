//! `walpost.toml`: the same settings, one a line, and a table `[kafka]`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::layers::{DATABASE_URL, Layer, SETTINGS, Setting, TABLE, nearest};
use super::{per_table, property};
use crate::error::OutboxError;
use crate::kafka::is_secret;
use crate::postgres::settings::has_password;

pub(super) const DEFAULT_NAME: &str = "walpost.toml";

/// A file that was found and read.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads the named file, which must exist, or else the default one, which need not.
pub(super) fn read(named: Option<&Path>, folder: &Path) -> Result<Option<Found>, OutboxError> {
    let path = named.map_or_else(|| folder.join(DEFAULT_NAME), Path::to_owned);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Found { path, text })),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OutboxError::usage(
            format!("the configuration file {} cannot be read: {error}", path.display()),
            "name another with --config or WALPOST_CONFIG, or mend its permissions",
        )),
    }
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Layer, OutboxError> {
    let wrong =
        |what: String, advice: String| OutboxError::usage(format!("{}: {what}", path.display()), advice);
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        // The error's own text quotes the line, which may hold a password.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        wrong(format!("line {line}: {}", error.message()), "the file is written in TOML (toml.io)".to_owned())
    })?;
    let mut layer = Layer::default();
    for (key, value) in table {
        if key == "kafka" {
            let Value::Table(table) = value else {
                return Err(wrong(
                    "`kafka` is not a table".to_owned(),
                    "write [kafka] above its properties".to_owned(),
                ));
            };
            flatten("", table, &mut layer).map_err(|key| {
                wrong(
                    format!("`kafka.{key}` is not a plain value"),
                    "write a string, a number or true or false".to_owned(),
                )
            })?;
            continue;
        }
        if key == per_table::KEY {
            of_tables(value, path, &mut layer)?;
            continue;
        }
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let known = SETTINGS.iter().map(|setting| setting.key).chain(["kafka", per_table::KEY]);
            return Err(wrong(
                format!("`{key}` is no setting of Walpost"),
                format!("the nearest is `{}`", nearest(&key, known)),
            ));
        };
        let value = match value {
            Value::String(value) => value,
            Value::Array(values) if setting.key == TABLE.key => {
                let names: Option<Vec<_>> = values.iter().map(Value::as_str).collect();
                names.ok_or_else(|| wrong_type(setting, &wrong))?.join(", ")
            }
            Value::Integer(number) if setting.is_number() => number.to_string(),
            Value::Float(number) if setting.is_number() => number.to_string(),
            _ => return Err(wrong_type(setting, &wrong)),
        };
        layer.values.insert(setting.key, value);
    }
    Ok(layer)
}

/// `[map_for."shop.events"]` and its entries; or all as text, as in the variable.
fn of_tables(value: Value, path: &Path, layer: &mut Layer) -> Result<(), OutboxError> {
    let place = format!("`{}` in {}", per_table::KEY, path.display());
    let wrong = || {
        let advice = "write [map_for.\"shop.events\"] above its entries, such as topic = \"orders\"";
        OutboxError::usage(format!("{place}: not a table of entries"), advice)
    };
    let tables = match value {
        Value::String(text) => return per_table::take_all(&text, &place, layer),
        Value::Table(tables) => tables,
        _ => return Err(wrong()),
    };
    for (table, entries) in &tables {
        for (entry, value) in entries.as_table().ok_or_else(wrong)? {
            per_table::put(table, entry, value.as_str().ok_or_else(wrong)?, &place, layer)?;
        }
    }
    Ok(())
}

fn wrong_type(setting: &Setting, wrong: &impl Fn(String, String) -> OutboxError) -> OutboxError {
    let example = match (setting.default, setting.is_number()) {
        ("", _) => "write it between quotes".to_owned(),
        (number, true) => format!("write a number, such as {} = {number}", setting.key),
        (text, false) => format!("write it between quotes, such as {} = \"{text}\"", setting.key),
    };
    let kind = if setting.is_number() { "number" } else { "string" };
    wrong(format!("`{}` is not a {kind}", setting.key), example)
}

/// `linger.ms = 5` is a table in a table to TOML, `"linger.ms" = 5` is not; they mean the same here.
/// Fails with the name of a value that is neither text nor number nor truth value.
fn flatten(prefix: &str, table: Table, layer: &mut Layer) -> Result<(), String> {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        let text = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            Value::Table(inner) => {
                flatten(&format!("{key}."), inner, layer)?;
                continue;
            }
            Value::Array(_) | Value::Datetime(_) => return Err(key),
        };
        property::put(&key, &text, layer);
    }
    Ok(())
}

/// A warning when the file holds a secret and people other than its owner may read it.
pub(super) fn warn_of_readers(found: &Found, layer: &Layer) -> Option<String> {
    let secret = layer.properties.keys().any(|key| is_secret(key) && property::base(key) == key)
        || layer.values.get(DATABASE_URL.key).is_some_and(|text| has_password(text));
    let warning = || {
        format!(
            "{} holds a secret and every user of this machine can read it: `chmod 0640` or stricter",
            found.path.display()
        )
    };
    (secret && is_open(&found.path)).then(warning)
}

#[cfg(unix)]
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    // The group is left alone: containers are handed secrets that their group may read.
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_open(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Layer, OutboxError> {
        parse(text, Path::new("walpost.toml"))
    }

    #[test]
    fn properties_may_be_written_flat_or_nested() {
        for text in [
            "[kafka]\n\"linger.ms\" = 5\n\"security.protocol\" = \"ssl\"\n\"enable.metrics.push\" = false",
            "[kafka]\nlinger.ms = 5\nsecurity.protocol = \"ssl\"\nenable.metrics.push = false",
            "kafka = { linger = { ms = 5 }, \"security.protocol\" = \"ssl\", enable.metrics.push = false }",
        ] {
            let pairs: Vec<_> = parsed(text).unwrap().properties.into_iter().collect();
            let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
            let expected = [
                pair("enable.metrics.push", "false"),
                pair("linger.ms", "5"),
                pair("security.protocol", "ssl"),
            ];
            assert_eq!(pairs, expected, "{text}");
        }
    }

    #[test]
    fn numbers_may_be_written_as_such() {
        let layer = parsed("max_retries = 9\nmultiplier = 1.5").unwrap();
        let values: Vec<_> = layer.values.into_iter().collect();
        assert_eq!(values, [("max_retries", "9".to_owned()), ("multiplier", "1.5".to_owned())]);
        let layer = parsed("multiplier = 3.0\nmax_retries = '9'").unwrap();
        assert_eq!(layer.values["multiplier"], "3");
    }

    #[test]
    fn mistakes_name_the_key_and_never_quote_the_line() {
        for (text, what, advice) in [
            ("slots = 'a'", "walpost.toml: `slots` is no setting", "the nearest is `slot`"),
            ("[kafak]\na = 1", "`kafak` is no setting", "the nearest is `kafka`"),
            ("drain_timeout = 25", "`drain_timeout` is not a string", "drain_timeout = \"25s\""),
            ("max_retries = true", "`max_retries` is not a number", "max_retries = 5"),
            ("kafka = 1", "`kafka` is not a table", "[kafka]"),
            ("[kafka]\na.b = [1]", "`kafka.a.b` is not a plain value", "a string"),
            ("slot = 'a'\nslot = 'b'", "walpost.toml: line 2: duplicate key", "TOML"),
            ("slot = 'a'\ndatabase_url = 'sesame", "walpost.toml: line 2: ", "TOML"),
        ] {
            let Err(error) = parsed(text) else { panic!("{text}") };
            assert!(error.is_usage() && error.to_string().contains(what), "{text}: {error}");
            assert!(error.advice().unwrap().contains(advice), "{error:?}");
            assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
        }
    }
}
