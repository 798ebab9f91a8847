//! The outcome as people and programs read it.

use serde::Serialize;

use super::found::{Account, Found, Spot, count, excerpt, values};
use crate::cli::dead_letters::escape;
use crate::comparison::Part;
use crate::error::OutboxError;

/// How the comparison ended.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) totals: Totals,
    pub(super) account: Option<Account>,
}

/// How much was compared; of pairs, the left one first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) records: u64,
    pub(super) topics: u64,
    pub(super) partitions: (usize, usize),
    /// Those that were passed over.
    pub(super) repeats: (u64, u64),
}

impl Verdict {
    pub(super) fn new(totals: Totals, found: Option<Found>) -> Verdict {
        Verdict { totals, account: found.map(Found::account) }
    }

    /// An error, which ends the command after the difference has been printed, if there is one.
    pub(super) fn into_result(self) -> Result<(), OutboxError> {
        match self.account {
            None => Ok(()),
            Some(account) => Err(OutboxError::definite("the two sides do not hold the same", account.advice)),
        }
    }

    pub(super) fn text(&self, show: bool) -> String {
        match &self.account {
            None => format!("equal: {}\n", self.totals.text()),
            Some(account) => {
                format!("different: {}\n{}", account.headline, account.lines(show))
            }
        }
    }

    pub(super) fn json(&self, show: bool) -> Result<String, OutboxError> {
        let Totals { records, topics, partitions, repeats } = self.totals;
        let difference = self.account.as_ref().map(|account| JsonDifference {
            kind: account.kind,
            what: &account.headline,
            left: account.left.as_ref().map(JsonSpot::of),
            right: account.right.as_ref().map(JsonSpot::of),
            parts: account.parts.iter().map(|part| JsonPart::of(part, show)).collect(),
        });
        let report = Json {
            equal: difference.is_none(),
            records,
            topics,
            partitions: partitions.into(),
            repeats: repeats.into(),
            difference,
        };
        serde_json::to_string(&report)
            .map(|text| text + "\n")
            .map_err(|error| OutboxError::connection("writing JSON", error))
    }
}

impl Totals {
    fn text(&self) -> String {
        let mut text = format!("{} in {}, ", count(self.records, "record"), count(self.topics, "topic"));
        match self.partitions {
            (left, right) if left == right => text.push_str(&count(left as u64, "partition")),
            (left, right) => {
                text.push_str(&format!(
                    "{} on the left and {right} on the right",
                    count(left as u64, "partition")
                ));
            }
        }
        match self.repeats {
            (0, 0) => {}
            (left, right) => {
                text.push_str(&format!("; repeats passed over: {left} on the left, {right} on the right"));
            }
        }
        text
    }
}

impl Account {
    fn lines(&self, show: bool) -> String {
        let mut text = String::new();
        for (side, spot) in [("left", &self.left), ("right", &self.right)] {
            if let Some(Spot { topic, record: Some((place, content)) }) = spot {
                text.push_str(&format!(
                    "  {side:<8} {topic}, partition {}, offset {}: key {}, value {}\n",
                    place.partition,
                    place.offset,
                    size(content.key.as_ref()),
                    size(content.value.as_ref())
                ));
                if show && self.parts.is_empty() {
                    for (name, bytes) in [("key", &content.key), ("value", &content.value)] {
                        let bytes = bytes.as_ref().map_or_else(|| "null".to_owned(), |it| excerpt(it, 0));
                        text.push_str(&format!("  {:<8} {name:<5} {bytes}\n", ""));
                    }
                }
            }
        }
        text.extend(self.parts.iter().map(|part| line(part, show)));
        text
    }
}

fn size(bytes: Option<&Vec<u8>>) -> String {
    bytes.map_or_else(|| "null".to_owned(), |bytes| count(bytes.len() as u64, "byte"))
}

/// What differs, and under it the bytes if they are to be shown.
fn line(part: &Part, show: bool) -> String {
    let time = |time: &Option<i64>| time.map_or_else(|| "none".to_owned(), |time| format!("{time} ms"));
    let text = match part {
        Part::Key(_) => "key".to_owned(),
        Part::Value(_) => "value".to_owned(),
        Part::Header { name, .. } => format!("header {}", escape(name)),
        Part::HeaderMissing { on, name } => {
            return format!("  header {} is missing on the {}\n", escape(name), on.name());
        }
        Part::HeaderOrder { number, left, right } => {
            let (left, right) = (escape(left), escape(right));
            return format!("  header {number} is {left} on the left, {right} on the right: another order\n");
        }
        Part::Timestamp { left, right } => {
            return format!("  time is {} on the left, {} on the right\n", time(left), time(right));
        }
    };
    let Some(both) = values(part) else { return text };
    let at = both.first_difference();
    let first = at.map_or_else(String::new, |at| format!("; byte {at} is the first that differs"));
    let (left, right) = (size(both.left.as_ref()), size(both.right.as_ref()));
    let mut text = format!("  {text} has {left} on the left, {right} on the right{first}\n");
    if show {
        for (side, bytes) in [("left", &both.left), ("right", &both.right)] {
            let bytes = bytes.as_ref().map_or_else(|| "null".to_owned(), |it| excerpt(it, at.unwrap_or(0)));
            text.push_str(&format!("    {side:<6} {bytes}\n"));
        }
    }
    text
}

#[derive(Serialize)]
struct Json<'a> {
    equal: bool,
    records: u64,
    topics: u64,
    partitions: Both<usize>,
    /// Those that were passed over.
    repeats: Both<u64>,
    difference: Option<JsonDifference<'a>>,
}

#[derive(Serialize)]
struct Both<T> {
    left: T,
    right: T,
}

impl<T> From<(T, T)> for Both<T> {
    fn from((left, right): (T, T)) -> Self {
        Both { left, right }
    }
}

#[derive(Serialize)]
struct JsonDifference<'a> {
    kind: &'static str,
    what: &'a str,
    left: Option<JsonSpot<'a>>,
    right: Option<JsonSpot<'a>>,
    parts: Vec<JsonPart<'a>>,
}

#[derive(Serialize)]
struct JsonSpot<'a> {
    topic: &'a str,
    partition: Option<i32>,
    offset: Option<i64>,
}

impl JsonSpot<'_> {
    fn of(spot: &Spot) -> JsonSpot<'_> {
        let place = spot.record.as_ref().map(|(place, _)| *place);
        JsonSpot {
            topic: &spot.topic,
            partition: place.map(|place| place.partition),
            offset: place.map(|place| place.offset),
        }
    }
}

#[derive(Default, Serialize)]
struct JsonPart<'a> {
    part: &'static str,
    header: Option<&'a str>,
    missing_on: Option<&'static str>,
    /// The header that stands on the right where `header` stands on the left.
    other_header: Option<&'a str>,
    /// How many bytes; null is Kafka's.
    bytes: Option<Both<Option<usize>>>,
    first_byte: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    excerpt: Option<Both<Option<String>>>,
    timestamp: Option<Both<Option<i64>>>,
}

impl JsonPart<'_> {
    fn of(part: &Part, show: bool) -> JsonPart<'_> {
        let (name, header) = match part {
            Part::Key(_) => ("key", None),
            Part::Value(_) => ("value", None),
            Part::Header { name, .. } => ("header", Some(name.as_str())),
            Part::HeaderMissing { name, .. } => ("header missing", Some(name.as_str())),
            Part::HeaderOrder { left, .. } => ("header order", Some(left.as_str())),
            Part::Timestamp { .. } => ("timestamp", None),
        };
        let mut json = JsonPart { part: name, header, ..JsonPart::default() };
        match part {
            Part::HeaderMissing { on, .. } => json.missing_on = Some(on.name()),
            Part::HeaderOrder { right, .. } => json.other_header = Some(right),
            Part::Timestamp { left, right } => json.timestamp = Some((*left, *right).into()),
            _ => {}
        }
        if let Some(both) = values(part) {
            let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
            json.bytes = Some((length(&both.left), length(&both.right)).into());
            json.first_byte = both.first_difference();
            let around = json.first_byte.unwrap_or(0);
            let cut = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| excerpt(bytes, around));
            json.excerpt = show.then(|| (cut(&both.left), cut(&both.right)).into());
        }
        json
    }
}
