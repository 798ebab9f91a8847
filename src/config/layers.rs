//! What was written, and where: flags over environment over file over defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::environment::{CONFIG_VARIABLE, Environment};
use super::{file, per_table, property};
use crate::error::OutboxError;
use crate::kafka::canonical;

/// The names of one setting in its three forms, and what holds when it is not written.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) flag: &'static str,
    pub(crate) variable: &'static str,
    pub(crate) default: &'static str,
}

impl Setting {
    /// Whether its values are numbers, as its default tells.
    pub(super) fn is_number(&self) -> bool {
        self.default.parse::<f64>().is_ok()
    }
}

macro_rules! settings {
    ($($name:ident: $key:literal, $flag:literal, $variable:literal, $default:literal;)*) => {
        $(pub(crate) static $name: Setting =
            Setting { key: $key, flag: $flag, variable: $variable, default: $default };)*
        /// Every setting but the properties of Kafka.
        pub(crate) static SETTINGS: &[&Setting] = &[$(&$name),*];
    };
}

settings! {
    DATABASE_URL: "database_url", "--database-url", "WALPOST_DATABASE_URL", "";
    PASSWORD_FILE: "password_file", "--password-file", "WALPOST_PASSWORD_FILE", "";
    PASSWORD_COMMAND: "password_command", "--password-command", "WALPOST_PASSWORD_COMMAND", "";
    TABLE: "table", "--table", "WALPOST_TABLE", "";
    PUBLICATION: "publication", "--publication", "WALPOST_PUBLICATION", "walpost";
    SLOT: "slot", "--slot", "WALPOST_SLOT", "walpost";
    PRESET: "preset", "--preset", "WALPOST_PRESET", "walpost";
    DEBEZIUM_CONFIG: "debezium_config", "--debezium-config", "WALPOST_DEBEZIUM_CONFIG", "";
    MAP_ID: "map_id", "--map-id", "WALPOST_MAP_ID", "";
    MAP_TOPIC: "map_topic", "--map-topic", "WALPOST_MAP_TOPIC", "";
    MAP_KEY: "map_key", "--map-key", "WALPOST_MAP_KEY", "";
    MAP_PARTITION: "map_partition", "--map-partition", "WALPOST_MAP_PARTITION", "";
    MAP_VALUE: "map_value", "--map-value", "WALPOST_MAP_VALUE", "";
    MAP_TIMESTAMP: "map_timestamp", "--map-timestamp", "WALPOST_MAP_TIMESTAMP", "";
    MAP_EVENT_TYPE: "map_event_type", "--map-event-type", "WALPOST_MAP_EVENT_TYPE", "";
    MAP_CORRELATION_ID: "map_correlation_id", "--map-correlation-id", "WALPOST_MAP_CORRELATION_ID", "";
    MAP_HEADERS: "map_headers", "--map-headers", "WALPOST_MAP_HEADERS", "";
    MAP_ONLY: "map_only", "--map-only", "WALPOST_MAP_ONLY", "";
    MAP_MARK: "map_mark", "--map-mark", "WALPOST_MAP_MARK", "";
    MAP_DUE: "map_due", "--map-due", "WALPOST_MAP_DUE", "";
    MAP_OWN_HEADERS: "map_own_headers", "--map-own-headers", "WALPOST_MAP_OWN_HEADERS", "";
    BROKERS: "brokers", "--brokers", "WALPOST_BROKERS", "localhost:9092";
    TOPICS: "topics", "--topics", "WALPOST_TOPICS", "";
    DELIVERY: "delivery", "--delivery", "WALPOST_DELIVERY", "at-least-once";
    DRAIN_TIMEOUT: "drain_timeout", "--drain-timeout", "WALPOST_DRAIN_TIMEOUT", "25s";
    WRITE_BACK: "write_back", "--write-back", "WALPOST_WRITE_BACK", "none";
    ON_REFUSAL: "on_refusal", "--on-refusal", "WALPOST_ON_REFUSAL", "halt";
    MAX_RETRIES: "max_retries", "--max-retries", "WALPOST_MAX_RETRIES", "5";
    BASE_DELAY: "base_delay", "--base-delay", "WALPOST_BASE_DELAY", "1s";
    MULTIPLIER: "multiplier", "--multiplier", "WALPOST_MULTIPLIER", "2";
    MAX_DELAY: "max_delay", "--max-delay", "WALPOST_MAX_DELAY", "60s";
    LISTEN: "listen", "--listen", "WALPOST_LISTEN", "127.0.0.1:8480";
    LISTEN_TOKEN_FILE: "listen_token_file", "--listen-token-file", "WALPOST_LISTEN_TOKEN_FILE", "";
    PAGE_ACTIONS: "page_actions", "--page-actions", "WALPOST_PAGE_ACTIONS", "no";
    OTLP_ENDPOINT: "otlp_endpoint", "--otlp-endpoint", "WALPOST_OTLP_ENDPOINT", "";
    LOG_FORMAT: "log_format", "--log-format", "WALPOST_LOG_FORMAT", "";
    LOG_LEVEL: "log_level", "--log-level", "WALPOST_LOG", "info";
}

/// One source of settings: what it says, by the key of the setting.
#[derive(Default)]
pub struct Layer {
    pub(super) values: BTreeMap<&'static str, String>,
    pub(super) properties: BTreeMap<String, String>,
    /// What is said of single tables, by table and entry.
    pub(super) tables: BTreeMap<(String, String), String>,
}

impl Layer {
    /// Takes a setting down if it was written.
    pub(crate) fn put(&mut self, setting: &'static Setting, value: Option<&String>) {
        if let Some(value) = value {
            self.values.insert(setting.key, value.clone());
        }
    }

    /// Takes down a value for a setting that was not given.
    pub(crate) fn put_default(&mut self, setting: &'static Setting, value: &str) {
        self.values.entry(setting.key).or_insert_with(|| value.to_owned());
    }

    /// All of it but the properties of Kafka, as it is typed: flags and values.
    #[cfg(feature = "cli")]
    pub(crate) fn flags(&self) -> impl Iterator<Item = (&'static str, String)> {
        let typed = |setting: &&'static Setting| Some((setting.flag, self.values.get(setting.key)?.clone()));
        let of_tables = self
            .tables
            .iter()
            .map(|((table, entry), text)| (per_table::FLAG, format!("{table}: {entry}={text}")));
        SETTINGS.iter().filter_map(typed).chain(of_tables)
    }

    /// Takes down an entry of one table that was written on the command line.
    ///
    /// # Errors
    /// It has another form.
    pub(crate) fn put_for_table(&mut self, text: &str) -> Result<(), OutboxError> {
        per_table::take(text, per_table::FLAG, self)
    }

    /// Takes down a property of Kafka that was written as `key=value` on the command line.
    ///
    /// # Errors
    /// It has another form.
    pub(crate) fn put_property(&mut self, text: &str) -> Result<(), OutboxError> {
        let (key, value) =
            text.split_once('=').filter(|(key, _)| !key.trim().is_empty()).ok_or_else(|| {
                OutboxError::usage(
                    "-X: a property is written key=value",
                    "for example -X compression.type=zstd -X linger.ms=20",
                )
            })?;
        property::put(key.trim(), value, self);
        Ok(())
    }
}

/// All that was written, source by source.
pub struct Layers {
    flags: Layer,
    environment: Layer,
    file: Layer,
    path: Option<PathBuf>,
    /// To be logged once there is a log.
    warnings: Vec<String>,
}

/// A value and where it was written, for complaints.
#[derive(Debug)]
pub(super) struct Written<'a> {
    pub(super) text: &'a str,
    pub(super) place: String,
}

impl Written<'_> {
    /// A complaint that names the place.
    pub(super) fn wrong(&self, what: &str, advice: &str) -> OutboxError {
        OutboxError::usage(format!("{}: {what}", self.place), advice)
    }
}

impl Layers {
    /// Gathers what was written. The file is the one named by flag or variable, else `walpost.toml` in
    /// `folder` if there is one.
    ///
    /// # Errors
    /// A file or variable can't be understood, or a secret was written on the command line.
    pub fn gather(
        flags: Layer,
        file: Option<&Path>,
        environment: &Environment,
        folder: &Path,
    ) -> Result<Layers, OutboxError> {
        property::refuse_secrets(&flags)?;
        let named = file.or_else(|| environment.get(CONFIG_VARIABLE).map(Path::new));
        let found = file::read(named, folder)?;
        let mut layers = Layers {
            flags,
            environment: environment.layer()?,
            file: Layer::default(),
            path: None,
            warnings: Vec::new(),
        };
        if let Some(found) = found {
            layers.file = file::parse(&found.text, &found.path)?;
            layers.warnings.extend(file::warn_of_readers(&found, &layers.file));
            layers.path = Some(found.path);
        }
        Ok(layers)
    }

    /// What the text of a file says, and nothing else.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn of_file(text: &str, path: &Path) -> Result<Layers, OutboxError> {
        let (flags, environment, file) = (Layer::default(), Layer::default(), file::parse(text, path)?);
        Ok(Layers { flags, environment, file, path: Some(path.to_owned()), warnings: Vec::new() })
    }

    /// Logs which file was read and what is questionable about it.
    pub fn announce(&self) {
        if let Some(path) = &self.path {
            tracing::info!(file = %path.display(), "configuration read");
        }
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// The value that wins; the default, which may be empty, when nothing was written.
    pub(super) fn get(&self, setting: &'static Setting) -> Written<'_> {
        self.given(setting)
            .unwrap_or_else(|| Written { text: setting.default, place: setting.flag.to_owned() })
    }

    /// The value that wins, if one was written.
    pub(super) fn given(&self, setting: &'static Setting) -> Option<Written<'_>> {
        for (layer, place) in [
            (&self.flags, setting.flag.to_owned()),
            (&self.environment, setting.variable.to_owned()),
            (&self.file, self.place_in_file(setting.key)),
        ] {
            if let Some(text) = layer.values.get(setting.key) {
                return Some(Written { text, place });
            }
        }
        None
    }

    /// The properties of Kafka, those of a higher layer in the place of those of a lower one.
    pub(super) fn properties(&self) -> Vec<(String, String)> {
        let mut merged = BTreeMap::new();
        // A property with two names is one property, and so is one that a file or a command gives.
        for layer in [&self.file, &self.environment, &self.flags] {
            let named = |(name, value): (&String, &String)| {
                (canonical(property::base(name)).to_owned(), (name.clone(), value.clone()))
            };
            merged.extend(layer.properties.iter().map(named));
        }
        merged.into_values().collect()
    }

    /// What is said of single tables, with the place: by table and entry, those of a higher layer in the place of those of
    /// a lower one.
    pub(super) fn of_tables(&self) -> BTreeMap<(&str, &str), Written<'_>> {
        let mut merged = BTreeMap::new();
        for (layer, place) in [
            (&self.file, self.place_in_file(per_table::KEY)),
            (&self.environment, per_table::VARIABLE.to_owned()),
            (&self.flags, per_table::FLAG.to_owned()),
        ] {
            merged.extend(layer.tables.iter().map(|((table, entry), text)| {
                let place = format!("{place}, {table}: {entry}");
                ((table.as_str(), entry.as_str()), Written { text, place })
            }));
        }
        merged
    }

    fn place_in_file(&self, key: &str) -> String {
        let path = self.path.as_deref().unwrap_or(Path::new(file::DEFAULT_NAME));
        format!("`{key}` in {}", path.display())
    }
}

/// The known name that was probably meant: one that only lacks its end or has too much of it, else the
/// one that differs in the fewest letters.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let unlike = |known: &str| !known.starts_with(name) && !name.starts_with(known);
    known.min_by_key(|known| (unlike(known), distance(name, known))).unwrap_or_default()
}

/// How many letters must be put in, left out or replaced to make one word of the other
/// (Levenshtein's distance, row by row).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, candidate) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *candidate);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        let keys = || SETTINGS.iter().map(|setting| setting.key);
        for (typed, expected) in [
            ("slots", "slot"),
            ("log-level", "log_level"),
            ("databaseurl", "database_url"),
            ("broker", "brokers"),
            ("tabel", "table"),
            ("drain", "drain_timeout"),
        ] {
            assert_eq!(nearest(typed, keys()), expected, "{typed}");
        }
    }

    #[test]
    fn distances() {
        for (one, other, expected) in [("", "", 0), ("", "ab", 2), ("ab", "", 2), ("kitten", "sitting", 3)] {
            assert_eq!(distance(one, other), expected);
        }
    }
}
