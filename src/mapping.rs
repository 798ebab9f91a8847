//! What of a table's row becomes which part of a record: by templates over its columns, one preset a kind of table.
//!
//! A preset is a file of `presets/`, plain data; what the settings say goes over it, entry by entry. Nothing here knows
//! a table's real columns: `postgres/table` holds a mapping against them.

mod account;
mod template;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use include_dir::{Dir, include_dir};

use crate::debezium::Contract;
use crate::message::OwnHeaders;
use crate::router::{CORRELATION_ID, EVENT_TYPE};

pub(crate) use account::{Account, PartAccount};
pub(crate) use template::{Piece, Source, Template};

static PRESETS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/presets");

/// What stands for "no such part" where a template may stand.
const NONE: &str = "none";

/// The entries of a preset's file. Those of our own headers bear their names.
pub(crate) const ENTRIES: [&str; 15] = [
    "id",
    "topic",
    "key",
    "partition",
    "value",
    "timestamp",
    EVENT_TYPE,
    CORRELATION_ID,
    "headers",
    "only",
    "due",
    "order",
    "mark",
    "own_headers",
    "made_by_setup",
];

/// Those that a setting may say otherwise.
#[cfg(feature = "cli")]
pub(crate) fn settable() -> impl Iterator<Item = &'static str> {
    ENTRIES.into_iter().filter(|entry| !matches!(*entry, "order" | "made_by_setup"))
}

/// What of a row becomes which part of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub(crate) id: Option<Template>,
    pub(crate) topic: Template,
    pub(crate) key: Option<Template>,
    pub(crate) partition: Option<Template>,
    pub(crate) value: Option<Value>,
    pub(crate) timestamp: Timestamp,
    pub(crate) event_type: Option<Template>,
    pub(crate) correlation_id: Option<Template>,
    pub(crate) headers: Vec<HeaderRule>,
    pub(crate) only: Vec<Condition>,
    /// The column that tells when a row is to be sent; of a number, its unit.
    pub(crate) due: Option<(Source, Unit)>,
    /// The columns that tell the order of insertion, of those that the table has; none leaves it to the timestamp.
    pub(crate) order: Vec<String>,
    /// What is set in a row once it is published; nothing where the table has no place for it.
    pub(crate) mark: Vec<Mark>,
    /// Whether each record has `id`, `event_type`, `correlation_id`, `walpost.lsn` and `walpost.index`.
    pub(crate) own_headers: bool,
    /// Whether the table is the one that `walpost setup` makes.
    pub(crate) made_by_setup: bool,
    /// Debezium's configuration, which then says all but the conditions, the order and whether headers of our own follow.
    pub(crate) contract: Option<Arc<Contract>>,
    /// The preset's name, and the entries as they were written, in the order of [`ENTRIES`].
    pub(crate) preset: String,
    pub(crate) written: Vec<(&'static str, String)>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Template(Template),
    /// JSON without whitespace, the members of each object in the order of their names.
    Compact(Template),
    /// A JSON object of members with their names.
    Object(Vec<(String, Template)>),
}

/// A record's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Timestamp {
    /// When the producer sends it.
    None,
    /// When the transaction was committed.
    Commit,
    /// A column's; of a number, its unit.
    Column(Template, Unit),
}

/// What a number of time counts, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// How many make a second.
    pub(crate) fn per_second(self) -> i64 {
        match self {
            Unit::Seconds => 1,
            Unit::Millis => 1_000,
            Unit::Micros => 1_000_000,
            Unit::Nanos => 1_000_000_000,
        }
    }
}

/// Where headers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderRule {
    /// One header. When its value is null it is null as well, or left out.
    Named { name: String, omitted: bool, value: Template },
    /// The members of a JSON object.
    Object(Source),
    /// Two columns, arrays of text.
    Pairs { names: Source, values: Source },
}

/// Which rows are sent: those whose column has one of these texts; `None` is null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) column: String,
    /// The table may lack it; it is null then.
    pub(crate) optional: bool,
    pub(crate) is: Vec<Option<String>>,
}

/// A column that is set in a row once it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) column: String,
    /// The table may lack it; it is not set then.
    pub(crate) optional: bool,
    pub(crate) value: MarkValue,
}

/// What it is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MarkValue {
    Null,
    /// The server's time.
    Now,
    Text(String),
    /// A text, or the same in lower case where the column's own is in lower case.
    AsItIs(String),
}

/// A preset's file.
#[derive(Clone, Debug)]
pub struct Preset {
    name: String,
    entries: BTreeMap<String, String>,
}

/// An entry that can't be understood, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct WrongEntry {
    /// Its name in a preset's file.
    pub entry: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// The mapping of the preset `walpost`.
static WALPOST: LazyLock<Arc<Mapping>> = LazyLock::new(|| {
    let preset = Preset::named("walpost");
    let mapping = preset.and_then(|preset| preset.mapping(|_| None).ok());
    Arc::new(mapping.unwrap_or_else(Mapping::empty))
});

impl Preset {
    /// The preset of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let file = PRESETS.get_file(format!("{name}.toml"))?;
        Preset::parse(name, file.contents_utf8()?).ok()
    }

    /// The names of all presets, sorted.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let mut names: Vec<_> =
            PRESETS.files().filter_map(|file| file.path().file_stem()?.to_str()).collect();
        names.sort_unstable();
        names
    }

    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let entries = toml::from_str::<BTreeMap<String, String>>(text).map_err(|error| error.to_string())?;
        let known = |key: &str| key == "table" || ENTRIES.contains(&key);
        match entries.keys().find(|key| !known(key)) {
            Some(key) => Err(format!("there is no entry `{key}`")),
            None => Ok(Preset { name: name.to_owned(), entries }),
        }
    }

    /// The table that it is made for, as SQL writes it; none if there are many.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        self.entries.get("table").map(String::as_str)
    }

    /// The mapping, with what `over` says in place of its own entries.
    ///
    /// # Errors
    /// An entry can't be understood.
    pub fn mapping<'a>(&'a self, over: impl Fn(&str) -> Option<&'a str>) -> Result<Mapping, WrongEntry> {
        let text = |entry: &'static str| {
            let own = || self.entries.get(entry).map(String::as_str);
            over(entry).or_else(own).filter(|text| *text != NONE).unwrap_or_default()
        };
        let template = |entry: &'static str| match text(entry) {
            "" => Ok(None),
            text => Template::parse(text).map(Some).map_err(|why| WrongEntry { entry, why }),
        };
        let wrong = |entry| move |why: String| WrongEntry { entry, why };
        Ok(Mapping {
            id: template("id")?,
            topic: topic(template("topic")?).map_err(wrong("topic"))?,
            key: template("key")?,
            partition: template("partition")?,
            value: value(text("value")).map_err(wrong("value"))?,
            timestamp: timestamp(text("timestamp")).map_err(wrong("timestamp"))?,
            event_type: template(EVENT_TYPE)?,
            correlation_id: template(CORRELATION_ID)?,
            headers: headers(text("headers")).map_err(wrong("headers"))?,
            only: conditions(text("only")).map_err(wrong("only"))?,
            due: due(text("due")).map_err(wrong("due"))?,
            order: items(text("order")).map(str::to_owned).collect(),
            mark: marks(text("mark")).map_err(wrong("mark"))?,
            own_headers: choice(text("own_headers"), true).map_err(wrong("own_headers"))?,
            made_by_setup: choice(text("made_by_setup"), false).map_err(wrong("made_by_setup"))?,
            contract: None,
            preset: self.name.clone(),
            written: ENTRIES.map(|entry| (entry, text(entry).to_owned())).into(),
        })
    }
}

impl Mapping {
    /// The mapping of the preset `walpost`, the table that `walpost setup` makes.
    #[must_use]
    pub fn walpost() -> Arc<Self> {
        Arc::clone(&WALPOST)
    }

    /// The column of its table that the record's time comes from.
    pub(crate) fn time_column(&self) -> Option<&str> {
        match (&self.contract, &self.timestamp) {
            (Some(contract), _) => contract.time_column(),
            (None, Timestamp::Column(template, _)) => template.bare().map(|source| source.column.as_str()),
            (None, Timestamp::None | Timestamp::Commit) => None,
        }
    }

    /// The column that the message's id is of.
    pub(crate) fn id_column(&self) -> Option<&str> {
        match &self.contract {
            Some(contract) => Some(contract.id_column()),
            None => self.id.as_ref().and_then(Template::bare).map(|source| source.column.as_str()),
        }
    }

    /// Whether the conditions are the preset's own, which is made for several shapes of its table.
    pub(crate) fn has_conditions_of_preset(&self) -> bool {
        let preset = Preset::named(&self.preset);
        let own = preset.as_ref().and_then(|preset| preset.entries.get("only")).map(String::as_str);
        self.written.iter().any(|(entry, text)| *entry == "only" && *text == own.unwrap_or_default())
    }

    /// Which headers of our own its records have.
    pub(crate) fn header_set(&self) -> OwnHeaders {
        match (self.own_headers, &self.contract) {
            (false, _) => OwnHeaders::None,
            (true, None) => OwnHeaders::All,
            // The id is among Debezium's headers.
            (true, Some(_)) => OwnHeaders::Position,
        }
    }

    fn empty() -> Self {
        Mapping {
            id: None,
            topic: Template::empty(),
            key: None,
            partition: None,
            value: None,
            timestamp: Timestamp::None,
            event_type: None,
            correlation_id: None,
            headers: Vec::new(),
            only: Vec::new(),
            due: None,
            order: Vec::new(),
            mark: Vec::new(),
            own_headers: true,
            made_by_setup: true,
            contract: None,
            preset: String::new(),
            written: Vec::new(),
        }
    }
}

/// What of a name a topic's name can't have (Kafka source, `org.apache.kafka.common.internals.Topic`).
pub(crate) fn unfit_for_topic(name: &str) -> Option<char> {
    name.chars().find(|letter| !letter.is_ascii_alphanumeric() && !matches!(letter, '.' | '_' | '-'))
}

/// The longest name of a topic, in bytes.
const LONGEST_TOPIC: usize = 249;

/// A topic, of whose own text each row's will be.
fn topic(template: Option<Template>) -> Result<Template, String> {
    let template = template.ok_or("a record without a topic can't be sent")?;
    let texts = template.pieces.iter().filter_map(|piece| match piece {
        Piece::Text(text) => Some(text.as_str()),
        Piece::Choice(_) | Piece::Schema | Piece::Table => None,
    });
    let text: String = texts.collect();
    if let Some(letter) = unfit_for_topic(&text) {
        return Err(format!(
            "no topic's name has the character {letter:?}: a-z, A-Z, 0-9, ., _ and - it may have"
        ));
    }
    let is_constant = matches!(template.pieces.as_slice(), [Piece::Text(_)]);
    if text.len() > LONGEST_TOPIC || is_constant && matches!(text.as_str(), "." | "..") {
        return Err("no topic has that name: it is . or .., or longer than 249 bytes".to_owned());
    }
    Ok(template)
}

/// Yes or no.
fn choice(text: &str, default: bool) -> Result<bool, String> {
    match text {
        "" => Ok(default),
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(format!("`{other}` is neither yes nor no")),
    }
}

/// `{column}` and the like, `compact({column})`, or `object(name={column}, …)`.
fn value(text: &str) -> Result<Option<Value>, String> {
    if let Some(inside) = text.strip_prefix("compact(").and_then(|rest| rest.strip_suffix(')')) {
        return Ok(Some(Value::Compact(Template::parse(inside.trim())?)));
    }
    let Some(members) = text.strip_prefix("object(").and_then(|rest| rest.strip_suffix(')')) else {
        let template = if text.is_empty() { None } else { Some(Template::parse(text)?) };
        return Ok(template.map(Value::Template));
    };
    let mut object = Vec::new();
    for item in items(members) {
        let (name, template) =
            item.split_once('=').ok_or_else(|| format!("`{item}` is not of the form name={{column}}"))?;
        object.push((name.trim().to_owned(), Template::parse(template.trim())?));
    }
    Ok(Some(Value::Object(object)))
}

/// `commit`, or `{column}` and, where it is a number, its unit.
fn timestamp(text: &str) -> Result<Timestamp, String> {
    if text.is_empty() {
        return Ok(Timestamp::None);
    }
    if text == "commit" {
        return Ok(Timestamp::Commit);
    }
    let (template, unit) = text.rsplit_once(' ').unwrap_or((text, "ms"));
    let unit = match unit {
        "s" => Unit::Seconds,
        "ms" => Unit::Millis,
        "us" => Unit::Micros,
        "ns" => Unit::Nanos,
        _ => return Err(format!("`{unit}` is no unit of time: write s, ms, us or ns")),
    };
    Ok(Timestamp::Column(Template::parse(template.trim())?, unit))
}

/// `{column}` and, where it is a number, its unit.
fn due(text: &str) -> Result<Option<(Source, Unit)>, String> {
    match timestamp(text)? {
        Timestamp::None => Ok(None),
        Timestamp::Column(template, unit)
            if template.bare().is_some_and(|source| source.members.is_empty()) =>
        {
            Ok(template.bare().cloned().map(|source| (source, unit)))
        }
        _ => Err(format!("`{text}` is not one column: write {{name}}")),
    }
}

/// A list of `name={column}`, `name?={column}` (left out when null), `{object}` and `{names}={values}`.
fn headers(text: &str) -> Result<Vec<HeaderRule>, String> {
    items(text).map(header).collect()
}

fn header(item: &str) -> Result<HeaderRule, String> {
    let column = |text: &str| {
        let template = Template::parse(text.trim())?;
        template.bare().cloned().ok_or_else(|| format!("`{}` is not one column: write {{name}}", text.trim()))
    };
    match item.split_once('=') {
        None => Ok(HeaderRule::Object(column(item)?)),
        Some((names, values)) if names.trim_start().starts_with('{') => {
            Ok(HeaderRule::Pairs { names: column(names)?, values: column(values)? })
        }
        Some((name, value)) => {
            let name = name.trim();
            let (name, omitted) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
            if name.is_empty() {
                return Err(format!("`{item}` has no name before its ="));
            }
            let value = Template::parse(value.trim())?;
            Ok(HeaderRule::Named { name: name.to_owned(), omitted, value })
        }
    }
}

/// A list of `column=text|text`, where nothing stands for null; `column?=` where the table may lack it.
fn conditions(text: &str) -> Result<Vec<Condition>, String> {
    let condition = |item: &str| {
        let (column, texts) = item
            .split_once('=')
            .filter(|(column, _)| !column.trim().is_empty())
            .ok_or_else(|| format!("`{item}` is not of the form column=text|text"))?;
        let is = texts.split('|').map(str::trim).map(|text| (!text.is_empty()).then(|| text.to_owned()));
        let column = column.trim();
        let (column, optional) = column.strip_suffix('?').map_or((column, false), |column| (column, true));
        let is: Vec<_> = is.collect();
        if optional && !is.contains(&None) {
            return Err(format!(
                "`{item}`: a column that may be missing is null, which is not among the texts"
            ));
        }
        Ok(Condition { column: column.to_owned(), optional, is })
    };
    items(text).map(condition).collect()
}

/// A list of `column=text`, where `now` is the server's time and nothing is null; `'now'` is a text. `TEXT|text` is in lower
/// case where the column's own text is. `column?=` where the table may lack it.
fn marks(text: &str) -> Result<Vec<Mark>, String> {
    let mark = |item: &str| {
        let (column, text) = item
            .split_once('=')
            .filter(|(column, _)| !matches!(column.trim(), "" | "?"))
            .ok_or_else(|| format!("`{item}` is not of the form column=text or column=now"))?;
        let column = column.trim();
        let (column, optional) = column.strip_suffix('?').map_or((column, false), |column| (column, true));
        let value = match text.trim() {
            "" => MarkValue::Null,
            "now" => MarkValue::Now,
            text => match text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
                Some(quoted) => MarkValue::Text(quoted.to_owned()),
                None => mark_text(item, text)?,
            },
        };
        Ok(Mark { column: column.to_owned(), optional, value })
    };
    items(text).map(mark).collect()
}

fn mark_text(item: &str, text: &str) -> Result<MarkValue, String> {
    match text.split_once('|') {
        None => Ok(MarkValue::Text(text.to_owned())),
        Some((one, lower)) if one != lower && one.to_lowercase() == lower => {
            Ok(MarkValue::AsItIs(one.to_owned()))
        }
        Some(_) => Err(format!("`{item}`: of two texts the second must be the first one in lower case")),
    }
}

/// The items of a list, separated by commas outside braces.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    let parts = text.split(move |letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth <= 0
    });
    parts.map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests;
