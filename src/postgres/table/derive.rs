//! Parts of a message that are more than one column: templates, members of JSON, headers, wrapped values.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use super::compact::compact;
use super::event::event;
use super::layout::Field;
use super::value::{self, Kind, Unfit, Value, text_array};
use crate::debezium::Plan;
use crate::mapping::{Piece, Template};
use crate::message::OutboxMessage;
use crate::postgres::names::TableName;
use crate::postgres::pgoutput::{Column, Tuple};

/// The values of a row.
#[derive(Default)]
pub(super) struct Cells(Vec<Cell>);

/// A value of a row.
enum Cell {
    /// Also where the server left it out.
    Null,
    Value(Value),
}

/// The column that a part can't be made of, and why.
pub(super) type Fault = (usize, Unfit);

impl Cells {
    pub(super) fn of(tuple: &Tuple, kinds: &[Kind]) -> Self {
        let cell = |(column, kind): (Column, &Kind)| match column {
            Column::Null | Column::UnchangedToast => Cell::Null,
            Column::Text(bytes) => Cell::Value(Value { kind: *kind, bytes, binary: false }),
            Column::Binary(bytes) => Cell::Value(Value { kind: *kind, bytes, binary: true }),
        };
        Cells(tuple.columns().zip(kinds).map(cell).collect())
    }

    /// A value that is not null.
    fn value(&self, column: usize) -> Option<&Value> {
        match self.0.get(column) {
            Some(Cell::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// What the server sent for a value, in text form; `None` is null.
    pub(super) fn sent(&self, column: usize) -> Option<&Bytes> {
        self.value(column).map(|value| &value.bytes)
    }

    /// A value's text; `None` is null.
    pub(super) fn text(&self, column: usize) -> Result<Option<ByteString>, Unfit> {
        self.value(column).map(|value| value::text(value.clone())).transpose()
    }
}

impl Cells {
    /// Whether a value is one of these; `None` is null.
    pub(super) fn is_one_of(
        &self,
        column: usize,
        fold: Fold,
        texts: &[Option<String>],
    ) -> Result<bool, Unfit> {
        if self.value(column).is_none() {
            return Ok(texts.contains(&None));
        }
        if texts.iter().all(Option::is_none) {
            return Ok(false);
        }
        let text = self.text(column)?;
        let text = text.as_deref().map(|text| fold.fold(text));
        Ok(texts.iter().any(|one| one.is_some() && one.as_deref() == text))
    }
}

/// What of a text says nothing: it comes with the length that a column is declared with, which may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    Nothing,
    /// The blanks that fill a `char(n)` up.
    Blanks,
    /// The zeros that fill the scale of a `numeric` up.
    Zeros,
}

impl Fold {
    /// Of a built-in type (PostgreSQL source, `pg_type.dat`).
    pub(super) fn of(type_oid: u32) -> Self {
        match type_oid {
            1042 => Fold::Blanks,
            1700 => Fold::Zeros,
            _ => Fold::Nothing,
        }
    }

    fn fold(self, text: &str) -> &str {
        match self {
            Fold::Blanks => text.trim_end_matches(' '),
            Fold::Zeros if text.contains('.') => text.trim_end_matches('0').trim_end_matches('.'),
            Fold::Nothing | Fold::Zeros => text,
        }
    }
}

/// A text that the server has written of a value of that type, as it is compared with a row's.
pub(crate) fn condition_text(type_oid: u32, written: &str) -> String {
    let value =
        Value { kind: Kind::of(type_oid), bytes: Bytes::copy_from_slice(written.as_bytes()), binary: false };
    let text = value::text(value).unwrap_or_else(|_| ByteString::from(written));
    Fold::of(type_oid).fold(&text).to_owned()
}

/// How a part is derived.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    part: Part,
    how: How,
}

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Field(Field),
    Headers,
    /// All of them.
    Event,
}

#[derive(Clone, Debug, PartialEq)]
enum How {
    /// The column as it is.
    Whole(usize),
    Text(Text),
    /// JSON to be made compact.
    Compact(Text),
    Headers(Vec<Header>),
    /// The members' names as JSON, and what they are.
    Object(Vec<(String, Text)>),
    /// The whole message, as Debezium makes it.
    Event(Arc<Plan>),
}

/// A template over columns by their place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text(Vec<Segment>);

#[derive(Clone, Debug, PartialEq)]
enum Segment {
    Plain(String),
    /// Columns that the table has, and members of their JSON; none at all is null.
    Choice(Vec<(usize, Vec<String>)>),
}

/// Where headers come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Header {
    /// The name as JSON.
    Named {
        name: String,
        omitted: bool,
        value: Text,
    },
    Object(usize),
    Pairs {
        names: usize,
        values: usize,
    },
}

impl Header {
    pub(super) fn named(name: &str, omitted: bool, value: Text) -> Self {
        Header::Named { name: quoted(name), omitted, value }
    }
}

impl Step {
    pub(super) fn whole(part: Part, column: usize) -> Self {
        Step { part, how: How::Whole(column) }
    }

    pub(super) fn text(part: Part, text: Text) -> Self {
        Step { part, how: How::Text(text) }
    }

    pub(super) fn compact(text: Text) -> Self {
        Step { part: Part::Field(Field::Payload), how: How::Compact(text) }
    }

    pub(super) fn headers(headers: Vec<Header>) -> Self {
        Step { part: Part::Headers, how: How::Headers(headers) }
    }

    pub(super) fn object(members: Vec<(&str, Text)>) -> Self {
        let members = members.into_iter().map(|(name, text)| (quoted(name), text));
        Step { part: Part::Field(Field::Payload), how: How::Object(members.collect()) }
    }

    pub(super) fn event(plan: Plan) -> Self {
        Step { part: Part::Event, how: How::Event(Arc::new(plan)) }
    }

    pub(super) fn is_id(&self) -> bool {
        matches!(self.part, Part::Event | Part::Field(Field::Id | Field::AnyId))
    }

    /// Puts the part into its place; false if it is null.
    pub(super) fn apply(&self, cells: &Cells, message: &mut OutboxMessage) -> Result<bool, Fault> {
        let (column, value) = match &self.how {
            How::Whole(column) => match cells.value(*column) {
                Some(value) => (*column, value.clone()),
                None => return Ok(false),
            },
            How::Text(text) => match text.render(cells)? {
                Some(rendered) => (text.first_column(), plain(rendered)),
                None => return Ok(false),
            },
            How::Compact(text) => match text.render(cells)? {
                Some(json) => {
                    let compact = compact(&json).map_err(|unfit| (text.first_column(), unfit))?;
                    (text.first_column(), plain(compact))
                }
                None => return Ok(false),
            },
            How::Headers(headers) => {
                message.headers = object_of_headers(headers, cells)?;
                return Ok(true);
            }
            How::Object(members) => {
                message.payload = Some(object_of_members(members, cells)?);
                return Ok(true);
            }
            How::Event(plan) => return event(plan, cells, message).map(|()| true),
        };
        match self.part {
            Part::Field(field) => field.put(value, message).map_err(|error| (column, error))?,
            Part::Headers | Part::Event => {}
        }
        Ok(true)
    }
}

fn plain(text: String) -> Value {
    Value { kind: Kind::Text, bytes: Bytes::from(text), binary: false }
}

impl Text {
    /// The template with the places of its columns, of those that there are.
    pub(super) fn of(template: &Template, table: &TableName, place: impl Fn(&str) -> Option<usize>) -> Self {
        let segment = |piece: &Piece| match piece {
            Piece::Text(text) => Segment::Plain(text.clone()),
            Piece::Schema => Segment::Plain(table.schema.clone()),
            Piece::Table => Segment::Plain(table.name.clone()),
            Piece::Choice(sources) => {
                let found = sources
                    .iter()
                    .filter_map(|source| Some((place(&source.column)?, source.members.clone())));
                Segment::Choice(found.collect())
            }
        };
        Text(template.pieces.iter().map(segment).collect())
    }

    /// What a fault of the whole is to be blamed on.
    fn first_column(&self) -> usize {
        let column = |segment: &Segment| match segment {
            Segment::Plain(_) => None,
            Segment::Choice(sources) => sources.first().map(|(column, _)| *column),
        };
        self.0.iter().find_map(column).unwrap_or_default()
    }

    /// The text of a row; `None` if one of its choices is null.
    fn render(&self, cells: &Cells) -> Result<Option<String>, Fault> {
        let mut text = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Plain(plain) => text.push_str(plain),
                Segment::Choice(sources) => match first(sources, cells)? {
                    Some(chosen) => text.push_str(&chosen),
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(text))
    }
}

/// The first source that is not null.
fn first(sources: &[(usize, Vec<String>)], cells: &Cells) -> Result<Option<ByteString>, Fault> {
    for (column, members) in sources {
        let text = cells.text(*column).map_err(|error| (*column, error))?;
        let found = match text {
            Some(json) if !members.is_empty() => member(&json, members).map_err(|error| (*column, error))?,
            text => text,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The same as JSON: JSON and numbers as they are written, any other text as a string.
fn first_json(sources: &[(usize, Vec<String>)], cells: &Cells) -> Result<Option<String>, Fault> {
    for (column, members) in sources {
        let Some(text) = cells.text(*column).map_err(|error| (*column, error))? else { continue };
        if members.is_empty() {
            let is_json = cells.value(*column).is_some_and(|value| value.kind.is_json());
            // A number may be none in JSON: NaN, Infinity.
            let as_it_is = is_json && serde_json::from_str::<&RawValue>(&text).is_ok();
            return Ok(Some(if as_it_is { text.to_string() } else { quoted(&text) }));
        }
        if let Some(found) = raw_member(&text, members).map_err(|error| (*column, error))? {
            return Ok(Some(found.to_owned()));
        }
    }
    Ok(None)
}

/// What stands at a place in JSON: a string's text, anything else as it is written; `None` for null and for nothing.
fn member(json: &str, members: &[String]) -> Result<Option<ByteString>, Unfit> {
    match raw_member(json, members)? {
        Some(text) if text.starts_with('"') => {
            let text: String = serde_json::from_str(text).map_err(|_| Unfit::NotJson)?;
            Ok(Some(ByteString::from(text)))
        }
        other => Ok(other.map(ByteString::from)),
    }
}

/// The same as it is written.
fn raw_member<'a>(json: &'a str, members: &[String]) -> Result<Option<&'a str>, Unfit> {
    let mut here: &RawValue = serde_json::from_str(json).map_err(|_| Unfit::NotJson)?;
    for name in members {
        let next = match here.get().as_bytes().first() {
            Some(b'{') => {
                let object: HashMap<Cow<'_, str>, &RawValue> =
                    serde_json::from_str(here.get()).map_err(|_| Unfit::NotJson)?;
                object.get(name.as_str()).copied()
            }
            Some(b'[') => {
                let array: Vec<&RawValue> = serde_json::from_str(here.get()).map_err(|_| Unfit::NotJson)?;
                name.parse::<usize>().ok().and_then(|index| array.get(index).copied())
            }
            _ => None,
        };
        match next {
            Some(next) => here = next,
            None => return Ok(None),
        }
    }
    Ok(Some(here.get()).filter(|text| *text != "null"))
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// A JSON object with one member more; what is no object stays as it is, and is refused later.
pub(super) fn with_header(json: &Bytes, name: &str, value: &str) -> Bytes {
    let text = std::str::from_utf8(json).unwrap_or_default().trim();
    let inner = if text.is_empty() || text == "null" {
        Some("")
    } else {
        text.strip_prefix('{').and_then(|text| text.strip_suffix('}'))
    };
    let Some(inner) = inner else { return json.clone() };
    let mut object = Object::new();
    if !inner.trim().is_empty() {
        object.0.push_str(inner);
    }
    object.push(&quoted(name), &quoted(value));
    object.end()
}

/// JSON objects in the making: members, separated by commas.
struct Object(String);

impl Object {
    fn new() -> Self {
        Object("{".to_owned())
    }

    fn push(&mut self, name: &str, value: &str) {
        self.comma();
        self.0.push_str(name);
        self.0.push(':');
        self.0.push_str(value);
    }

    fn comma(&mut self) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
    }

    fn end(mut self) -> Bytes {
        self.0.push('}');
        Bytes::from(self.0)
    }
}

/// All headers as one JSON object, which may have several members of one name.
fn object_of_headers(headers: &[Header], cells: &Cells) -> Result<Bytes, Fault> {
    let mut object = Object::new();
    for header in headers {
        match header {
            Header::Named { name, omitted, value } => match value.render(cells)? {
                Some(value) => object.push(name, &quoted(&value)),
                None if *omitted => {}
                None => object.push(name, "null"),
            },
            Header::Object(column) => {
                let text = cells.text(*column).map_err(|error| (*column, error))?;
                let text = text.as_deref().map(str::trim).unwrap_or_default();
                let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
                    if text.is_empty() || text == "null" {
                        continue;
                    }
                    return Err((*column, Unfit::NotJson));
                };
                if serde_json::from_str::<&RawValue>(text).is_err() {
                    return Err((*column, Unfit::NotJson));
                }
                if !inner.trim().is_empty() {
                    object.comma();
                    object.0.push_str(inner);
                }
            }
            Header::Pairs { names, values } => push_pairs(&mut object, *names, *values, cells)?,
        }
    }
    Ok(object.end())
}

fn push_pairs(object: &mut Object, names: usize, values: usize, cells: &Cells) -> Result<(), Fault> {
    let elements = |column: usize| {
        let array = cells.value(column).map(text_array).transpose().map_err(|error| (column, error))?;
        Ok(array.unwrap_or_default())
    };
    let (keys, texts): (Vec<_>, Vec<_>) = (elements(names)?, elements(values)?);
    if keys.len() != texts.len() {
        return Err((names, Unfit::NotPairs));
    }
    for (key, text) in keys.into_iter().zip(texts) {
        let key = key.ok_or((names, Unfit::NotPairs))?;
        object.push(&quoted(&key), &text.map_or_else(|| "null".to_owned(), |text| quoted(&text)));
    }
    Ok(())
}

/// A JSON object of the members' values.
fn object_of_members(members: &[(String, Text)], cells: &Cells) -> Result<Bytes, Fault> {
    let mut object = Object::new();
    for (name, text) in members {
        let json = match text.0.as_slice() {
            [Segment::Choice(sources)] => first_json(sources, cells)?,
            _ => text.render(cells)?.map(|text| quoted(&text)),
        };
        object.push(name, json.as_deref().unwrap_or("null"));
    }
    Ok(object.end())
}
