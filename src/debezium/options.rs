//! A connector's options, however they were written: Connect's JSON or properties, or the properties of Debezium Server.

use std::collections::BTreeMap;

use super::contract::Runner;
use super::properties;

/// An option that can't be used, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{option}`: {why}")]
pub(crate) struct WrongOption {
    /// As it was written.
    pub(crate) option: String,
    pub(crate) why: String,
}

impl WrongOption {
    pub(super) fn new(option: impl Into<String>, why: impl Into<String>) -> Self {
        WrongOption { option: option.into(), why: why.into() }
    }
}

/// All that files say, later ones over earlier ones, under the names that Connect gives them.
#[derive(Debug, Default)]
pub(crate) struct Options {
    values: BTreeMap<String, Value>,
    is_server: bool,
}

#[derive(Debug)]
struct Value {
    text: String,
    /// The option's name in the file.
    written: String,
}

/// Which converters there are.
pub(super) const PARTS: [&str; 3] = ["key", "value", "header"];

impl Options {
    /// Takes in the text of a file.
    ///
    /// # Errors
    /// It can't be read, or an option in it can't be used beside the others.
    pub(crate) fn read(&mut self, text: &str) -> Result<(), WrongOption> {
        let text = text.trim_start_matches('\u{feff}');
        let pairs = if text.trim_start().starts_with('{') { json(text)? } else { lines(text)? };
        let is_server = pairs.iter().any(|(name, _)| normal(name).starts_with("debezium."));
        if is_server {
            self.is_server = true;
            return self.read_server(pairs);
        }
        self.read_connect(pairs)
    }

    fn read_connect(&mut self, pairs: Vec<(String, String)>) -> Result<(), WrongOption> {
        let has = |name: &str| pairs.iter().any(|(own, _)| own == name);
        for part in PARTS {
            let (class, prefix) = (format!("{part}.converter"), format!("{part}.converter."));
            if has(&class) {
                // A class brings its own options; those of another level are not seen.
                self.values.retain(|name, _| !name.starts_with(&prefix));
            } else if let Some((name, _)) = pairs.iter().find(|(name, _)| name.starts_with(&prefix))
                && part != "header"
            {
                let why = format!(
                    "Connect does not look at it unless `{class}` stands beside it: write both, or neither"
                );
                return Err(WrongOption::new(name, why));
            }
        }
        for (name, text) in pairs {
            self.values.insert(name.clone(), Value { text, written: name });
        }
        Ok(())
    }

    /// What the server hands on to its engine; the options of one format go over those of all.
    fn read_server(&mut self, pairs: Vec<(String, String)>) -> Result<(), WrongOption> {
        let mut later = Vec::new();
        for (written, text) in pairs {
            let name = normal(&written);
            let text = expanded(&written, &text)?;
            let value = |text: &str| Value { text: text.to_owned(), written: written.clone() };
            if let Some(rest) = name.strip_prefix("debezium.source.") {
                self.values.insert(rest.to_owned(), value(&text));
            } else if let Some(rest) = name.strip_prefix("debezium.format.") {
                match rest.split_once('.').filter(|(part, _)| PARTS.contains(part)) {
                    Some((part, rest)) => later.push((format!("{part}.converter.{rest}"), value(&text))),
                    None if PARTS.contains(&rest) => {
                        self.values.insert(format!("format.{rest}"), value(&text));
                    }
                    None => {
                        for part in PARTS {
                            self.values.insert(format!("{part}.converter.{rest}"), value(&text));
                        }
                    }
                }
            } else if let Some(rest) = name.strip_prefix("debezium.sink.kafka.producer.") {
                self.values.insert(format!("producer.override.{rest}"), value(&text));
            } else if let Some(rest) = name.strip_prefix("debezium.") {
                self.values.insert(rest.to_owned(), value(&text));
            } else if !name.starts_with("quarkus.") {
                self.values.insert(name.into_owned(), value(&text));
            }
        }
        self.values.extend(later);
        Ok(())
    }

    pub(super) fn runner(&self) -> Runner {
        if self.is_server { Runner::Server } else { Runner::Connect }
    }

    /// Takes an option out: what is left over at the end was not understood.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, WrongOption> {
        let Some(Value { text, written }) = self.values.remove(name) else { return Ok(None) };
        if !self.is_server
            && text.contains("${")
            && text.split_once("${").is_some_and(|(_, rest)| is_provided(rest))
        {
            let why = "its value comes from a provider of Connect: write the value itself";
            return Err(WrongOption::new(written, why));
        }
        Ok(Some(text))
    }

    /// The same with a default.
    pub(super) fn text(&mut self, name: &str, default: &str) -> Result<String, WrongOption> {
        Ok(self.take(name)?.unwrap_or_else(|| default.to_owned()))
    }

    pub(super) fn truth(&mut self, name: &str, default: bool) -> Result<bool, WrongOption> {
        let written = self.written(name);
        match self.take(name)?.map(|text| text.trim().to_lowercase()).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(WrongOption::new(written, "it is neither true nor false")),
        }
    }

    /// One of these words, in letters of any case.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &str,
        default: T,
        words: &[(&str, T)],
    ) -> Result<T, WrongOption> {
        let written = self.written(name);
        let Some(text) = self.take(name)? else { return Ok(default) };
        let found = words.iter().find(|(word, _)| text.trim().eq_ignore_ascii_case(word));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            WrongOption::new(written, format!("`{text}` is not reproduced; {} is", known.join(" or ")))
        })
    }

    /// How an option is called in its file.
    pub(super) fn written(&self, name: &str) -> String {
        self.values.get(name).map_or_else(|| name.to_owned(), |value| value.written.clone())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// What nobody has taken: names as in Connect and as written, and the values.
    pub(super) fn rest(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.written.as_str(), value.text.as_str()))
    }
}

fn lines(text: &str) -> Result<Vec<(String, String)>, WrongOption> {
    properties::parse(text).map_err(|why| WrongOption::new("a file of properties", why))
}

/// An object of options, or one whose member `config` is that.
fn json(text: &str) -> Result<Vec<(String, String)>, WrongOption> {
    let wrong = |error: serde_json::Error| {
        // The error's own text may quote a value.
        let why = format!("a fault in the JSON at line {}, column {}", error.line(), error.column());
        WrongOption::new("a file of JSON", why)
    };
    let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).map_err(wrong)?;
    if let Some(serde_json::Value::Object(config)) = object.remove("config") {
        object = config;
    }
    let mut pairs = Vec::new();
    for (name, value) in object {
        let text = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text,
            plain @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_)) => plain.to_string(),
            _ => return Err(WrongOption::new(name, "it is neither text nor a number nor a truth value")),
        };
        pairs.push((name, text));
    }
    Ok(pairs)
}

/// A name as the server understands it: `DEBEZIUM_SOURCE_X` is `debezium.source.x`.
fn normal(name: &str) -> std::borrow::Cow<'_, str> {
    let is_variable = name.starts_with("DEBEZIUM_") || name.starts_with("debezium_");
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_variable && plain { name.replace('_', ".").to_lowercase().into() } else { name.into() }
}

/// The server expands `${name}`, unless a backslash or another dollar stands before it.
fn expanded(written: &str, text: &str) -> Result<String, WrongOption> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let escaped = before.strip_suffix(['\\', '$']);
        if escaped.is_none() && !written.ends_with("route.topic.replacement") && !is_secret(written) {
            let why = "its value has an expression in it, which is not expanded here: write the value itself";
            return Err(WrongOption::new(written, why));
        }
        out.push_str(escaped.unwrap_or(before));
        out.push_str("${");
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether an option has no influence on records and may well be written with an expression.
fn is_secret(written: &str) -> bool {
    ["debezium.source.database.", "debezium.source.offset.", "debezium.sink.", "quarkus."]
        .iter()
        .any(|prefix| normal(written).starts_with(prefix))
}

/// Whether what follows `${` is a reference to a provider, `provider:[path:]key}`.
fn is_provided(rest: &str) -> bool {
    rest.split_once('}').is_some_and(|(reference, _)| reference.contains(':'))
}
