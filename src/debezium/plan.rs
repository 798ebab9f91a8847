//! A contract held against a table's real columns, and how a row becomes a record by it.

use std::sync::Arc;

use super::column::{Column, ColumnFacts};
use super::contract::{Contract, OfTable, Place, Runner};
use super::convert::{Converter, Shape};
use super::datum::Datum;
use super::expand::{Expanded, expand};
use super::json::{self, Node};
use super::schema::{Schema, Type};

/// The connector's context in each record, before the router's own headers.
const CONTEXT: &str = "__debezium.context.";

/// A column of the table that is used.
#[derive(Clone, Debug, PartialEq)]
struct Used {
    place: usize,
    column: Column,
    shape: Shape,
}

/// Which column is where, and what is ready before the first row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    contract: Arc<Contract>,
    id: Used,
    key: Used,
    payload: Used,
    routed_by: Used,
    timestamp: Option<Used>,
    version: Option<Used>,
    partition: Option<Used>,
    /// Names as JSON.
    headers: Vec<(String, Used)>,
    envelope: Vec<(String, Used)>,
    /// The context headers as members of a JSON object.
    context: String,
    /// What stands before and after the routing column in the name of an envelope's schema.
    schema_name: (String, String),
}

/// Why the columns can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PlanError {
    Missing(Vec<String>),
    Unfit { column: String, why: String },
}

/// The parts of a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The text of the id, if there is one.
    pub(crate) id: Option<String>,
    /// Empty if the routing column is null.
    pub(crate) topic: String,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    /// An object of text and null.
    pub(crate) headers: String,
    pub(crate) partition: Option<i32>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
}

/// The column whose text is none of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misread(pub(crate) usize);

/// Finds columns, and notes what is wrong with them.
struct Finder<'a, F> {
    contract: &'a Contract,
    names: &'a [Arc<str>],
    facts: F,
    missing: Vec<String>,
    unfit: Option<PlanError>,
}

impl<F: Fn(usize) -> ColumnFacts> Finder<'_, F> {
    fn find(&mut self, name: &str) -> Option<Used> {
        let Some(place) = self.names.iter().position(|own| **own == *name) else {
            if !self.missing.iter().any(|missing| missing == name) {
                self.missing.push(name.to_owned());
            }
            return None;
        };
        match Column::of(&(self.facts)(place), &self.contract.modes) {
            Ok(column) => {
                let shape = Shape::of(column.schema.clone());
                Some(Used { place, column, shape })
            }
            Err(of) => {
                self.refuse(name, format!("is of type {of}, whose form in Debezium is not reproduced"));
                None
            }
        }
    }

    fn refuse(&mut self, column: &str, why: String) {
        self.unfit.get_or_insert_with(|| PlanError::Unfit { column: column.to_owned(), why });
    }

    /// A column whose type the router insists on.
    fn typed(&mut self, name: &str, of: &Type, option: &str) -> Option<Used> {
        let used = self.find(name)?;
        if used.column.schema.of != *of {
            self.refuse(name, format!("is not of the type that Debezium needs for `{option}`"));
        }
        Some(used)
    }

    /// A column that a converter writes.
    fn converted(&mut self, name: &str, converter: &Converter) -> Option<Used> {
        let used = self.find(name)?;
        if let Some(why) = unconvertible(converter, &used.column) {
            self.refuse(name, why);
        }
        Some(used)
    }

    /// A column that becomes a header, which is text.
    fn header(&mut self, name: &str) -> Option<Used> {
        let converter = &self.contract.converters.header;
        let used = self.converted(name, converter)?;
        if matches!(converter, Converter::Bytes(_)) && used.column.is_bytes() {
            self.refuse(name, "holds bytes, which can't be a header as they are".to_owned());
        }
        Some(used)
    }

    /// A column in the envelope, which the converter writes as a part of a struct.
    fn enveloped(&mut self, name: &str) -> Option<Used> {
        let used = self.find(name)?;
        let of_structs = match &self.contract.converters.value {
            Converter::Bytes(Some(delegate)) => delegate.as_ref(),
            other => other,
        };
        let why = match of_structs {
            Converter::Bytes(_) => {
                Some("is placed in an envelope, and a converter of bytes takes none".to_owned())
            }
            converter => unconvertible(converter, &used.column),
        };
        if let Some(why) = why {
            self.refuse(name, why);
        }
        Some(used)
    }

    fn time(&mut self, name: &str) -> Option<Used> {
        let used = self.find(name)?;
        if !used.column.is_time() {
            self.refuse(name, "is no time that Debezium takes for `table.field.event.timestamp`".to_owned());
        }
        Some(used)
    }
}

/// Why a converter has nothing for a column, or nothing that is the same everywhere.
fn unconvertible(converter: &Converter, column: &Column) -> Option<String> {
    match converter {
        Converter::Text if column.is_bytes() => {
            Some("holds bytes, of which Java's text says only how many they are".to_owned())
        }
        Converter::Text | Converter::Simple if column.is_date() => Some(
            "is a date of Java (`time.precision.mode`), whose text depends on the machine's zone".to_owned(),
        ),
        Converter::Bytes(None) if !column.is_bytes() => {
            Some("is not bytea, and a converter of bytes takes nothing else".to_owned())
        }
        Converter::Bytes(Some(delegate)) if !column.is_bytes() => unconvertible(delegate, column),
        _ => None,
    }
}

impl Plan {
    /// Finds the columns, whose facts are asked for by their place.
    pub(crate) fn new(
        contract: &Arc<Contract>,
        (schema, table): (&str, &str),
        names: &[Arc<str>],
        facts: impl Fn(usize) -> ColumnFacts,
    ) -> Result<Self, PlanError> {
        let mut finder = Finder { contract, names, facts, missing: Vec::new(), unfit: None };
        let converters = &contract.converters;
        let payload_converter = if contract.has_envelope() { None } else { Some(&converters.value) };
        let id = finder.header(&contract.id);
        let key = finder.converted(&contract.key, &converters.key);
        let payload = match payload_converter {
            Some(converter) => finder.converted(&contract.payload, converter),
            None => finder.enveloped(&contract.payload),
        };
        let routed_by = finder.typed(&contract.routed_by, &Type::Text, "route.by.field");
        let timestamp = contract.timestamp.as_ref().and_then(|name| finder.time(name));
        let version = contract.version.as_ref();
        let version =
            version.and_then(|name| finder.typed(name, &Type::Int32, "table.field.event.schema.version"));
        let (mut partition, mut headers, mut envelope) = (None, Vec::new(), Vec::new());
        for placed in &contract.placements {
            if contract.may_miss && !names.iter().any(|name| **name == *placed.column) {
                continue;
            }
            match placed.place {
                Place::Header => {
                    let used = finder.header(&placed.column);
                    headers.extend(used.map(|used| (quoted(&placed.alias), used)));
                }
                Place::Envelope => {
                    let used = finder.enveloped(&placed.column);
                    envelope.extend(used.map(|used| (placed.alias.clone(), used)));
                }
                Place::Partition => {
                    partition =
                        finder.typed(&placed.column, &Type::Int32, "table.fields.additional.placement");
                }
            }
        }
        let Finder { missing, unfit, .. } = finder;
        match (id, key, payload, routed_by, unfit) {
            (_, _, _, _, Some(unfit)) if missing.is_empty() => Err(unfit),
            (Some(id), Some(key), Some(payload), Some(routed_by), None) if missing.is_empty() => {
                let plan = Plan {
                    contract: Arc::clone(contract),
                    context: context(contract),
                    schema_name: contract.schema_name(schema, table),
                    id,
                    key,
                    payload,
                    routed_by,
                    timestamp,
                    version,
                    partition,
                    headers,
                    envelope,
                };
                plan.beside_others(format!("{schema}.{table}"))
            }
            _ => Err(PlanError::Missing(missing)),
        }
    }

    /// Refuses what Debezium would write otherwise after one table's rows than after another's.
    fn beside_others(self, table: String) -> Result<Self, PlanError> {
        let contract = &self.contract;
        if !contract.has_envelope() {
            return Ok(self);
        }
        let is_one = contract.expand.is_some() || self.version.is_some();
        let of = OfTable {
            table,
            payload: (!is_one).then(|| self.payload.shape.schema.clone()),
            fields: self
                .envelope
                .iter()
                .map(|(name, used)| (name.clone(), used.column.schema.clone()))
                .collect(),
            shown: contract.converters.value.shows_schemas(),
        };
        match contract.envelopes.add(of) {
            Ok(()) => Ok(self),
            Err((column, other)) => Err(PlanError::Unfit {
                column,
                why: format!(
                    "is not declared as in {other} (type, NOT NULL, default): Debezium has one schema for the envelopes of \
                     both tables, that of whichever row comes first"
                ),
            }),
        }
    }

    /// The places of the columns that are used.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        let ever = [&self.id, &self.key, &self.payload, &self.routed_by].into_iter();
        let maybe = self.timestamp.iter().chain(&self.version).chain(&self.partition);
        let placed = self.headers.iter().chain(&self.envelope).map(|(_, used)| used);
        ever.chain(maybe).chain(placed).map(|used| used.place)
    }

    /// The place of the column that routes.
    pub(crate) fn routed_by(&self) -> usize {
        self.routed_by.place
    }

    /// The record of a row, whose texts are asked for by their place.
    pub(crate) fn event<'a>(&self, text: impl Fn(usize) -> Option<&'a str>) -> Result<Event, Misread> {
        let read = |used: &Used| used.column.read(text(used.place)).ok_or(Misread(used.place));
        let is_connect = self.contract.runner == Runner::Connect;
        let (id, key, converters) = (read(&self.id)?, read(&self.key)?, &self.contract.converters);
        let routed_by = text(self.routed_by.place);
        let timestamp = match &self.timestamp {
            Some(used) if is_connect => {
                let text = text(used.place);
                let datum = text.map(|_| read(used)).transpose()?;
                datum.and_then(|datum| used.column.millis(&datum))
            }
            _ => None,
        };
        // As with a partition, NULL is no version, whatever the column's default.
        let version = self.version.as_ref().and_then(|used| text(used.place)?.parse().ok());
        let partition = match &self.partition {
            Some(used) if is_connect => match text(used.place) {
                Some(text) => {
                    Some(text.parse::<i32>().ok().filter(|number| *number >= 0).ok_or(Misread(used.place))?)
                }
                None => None,
            },
            _ => None,
        };
        Ok(Event {
            topic: routed_by.map(|text| self.contract.route.topic(text)).unwrap_or_default(),
            key: converters.key.bytes(Some(&self.key.shape), &key),
            value: self.value(&read, routed_by.unwrap_or_default(), version)?,
            headers: self.headers(&id, &read)?,
            id: id.java_text(),
            partition,
            timestamp,
        })
    }

    fn headers(
        &self,
        id: &Datum,
        read: &impl Fn(&Used) -> Result<Datum, Misread>,
    ) -> Result<String, Misread> {
        let mut out = format!("{{{}", self.context);
        self.push_header(&mut out, "\"id\"", &self.id, id);
        for (name, used) in &self.headers {
            self.push_header(&mut out, name, used, &read(used)?);
        }
        out.push('}');
        Ok(out)
    }

    fn push_header(&self, out: &mut String, name: &str, used: &Used, datum: &Datum) {
        let value = self.contract.converters.header.text(Some(&used.shape), datum);
        if value.is_none() && self.contract.runner == Runner::Server {
            // The server leaves out what its converter makes null.
            return;
        }
        push_member(out, name, value.as_deref());
    }

    fn value(
        &self,
        read: &impl Fn(&Used) -> Result<Datum, Misread>,
        routed_by: &str,
        version: Option<i32>,
    ) -> Result<Option<Vec<u8>>, Misread> {
        let converter = &self.contract.converters.value;
        let (shape, payload) = self.payload(read(&self.payload)?);
        let shape = match &shape {
            Payload::Column => Some(&self.payload.shape),
            Payload::Expanded(shape) => Some(shape),
            Payload::Free => None,
        };
        // Nothing sees the schema of an envelope but a converter that writes it.
        let envelope = match shape {
            Some(shape) if self.contract.has_envelope() && converter.shows_schemas() => {
                Some(self.envelope(shape, routed_by, version))
            }
            _ => None,
        };
        let is_blank = match &payload {
            Datum::Null => true,
            Datum::Text(text) => text.chars().all(|letter| letter <= ' '),
            _ => false,
        };
        if is_blank && self.contract.tombstones {
            return Ok(None);
        }
        if !self.contract.has_envelope() {
            return Ok(converter.bytes(shape, &payload));
        }
        let mut members = vec![("payload".to_owned(), payload)];
        for (name, used) in &self.envelope {
            members.push((name.clone(), read(used)?));
        }
        Ok(converter.bytes(envelope.as_ref(), &Datum::Struct(members)))
    }

    /// The schema of an envelope around a payload.
    fn envelope(&self, payload: &Shape, routed_by: &str, version: Option<i32>) -> Shape {
        let mut fields = vec![("payload".to_owned(), payload.schema.clone())];
        fields.extend(self.envelope.iter().map(|(name, used)| (name.clone(), used.column.schema.clone())));
        let kept_for = match self.version {
            Some(_) => format!("{version:?}"),
            None => payload.json().to_owned(),
        };
        let (before, after) = &self.schema_name;
        let name = Some(self.contract.envelopes.first(kept_for, || format!("{before}{routed_by}{after}")));
        Shape::of(Schema { name, version, ..Schema::of(Type::Struct(fields)) })
    }

    /// The payload, expanded if that is asked for, and what is known of its schema.
    fn payload(&self, payload: Datum) -> (Payload, Datum) {
        let (Some(how), Datum::Text(text)) = (self.contract.expand, &payload) else {
            return (Payload::Column, payload);
        };
        match expand(&self.contract.payload, text, how.keeps_nulls) {
            Expanded::Text => (Payload::Column, payload),
            Expanded::Free if self.contract.has_envelope() => free(&Node::Array(Vec::new()), text),
            Expanded::Free => (Payload::Free, payload),
            Expanded::Value(schema, datum) => {
                let converter = &self.contract.converters.value;
                let json = converter.shows_schemas();
                (if json { Payload::Expanded(Shape::of(schema)) } else { Payload::Column }, datum)
            }
            Expanded::Unstable(node) => free(&node, text),
        }
    }
}

/// JSON for which Debezium has no value: it is sent as it is.
fn free(node: &Node, written: &str) -> (Payload, Datum) {
    let mut compact = String::new();
    node.push_to(&mut compact);
    (Payload::Free, Datum::Json { compact, written: written.to_owned() })
}

/// The schema of a payload.
enum Payload {
    Column,
    Expanded(Shape),
    Free,
}

impl Contract {
    /// What stands before and behind the routing column's text in an envelope's schema.
    fn schema_name(&self, schema: &str, table: &str) -> (String, String) {
        let parts = [self.prefix.as_str(), schema, table].join(&self.delimiter);
        let valid = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        let before: String = parts.chars().map(|letter| if valid(letter) { letter } else { '_' }).collect();
        (format!("{before}."), ".Value".to_owned())
    }
}

/// The headers of the context, which are the same for all rows of a run.
fn context(contract: &Contract) -> String {
    let mut out = String::new();
    let Some(run_id) = &contract.run_id else { return out };
    let shape = Shape::of(Schema::of(Type::Text));
    let members = [
        ("connectorLogicalName", contract.prefix.as_str()),
        ("taskId", "0"),
        ("connectorName", "postgresql"),
        ("runId", run_id),
    ];
    for (name, value) in members {
        let value = contract.converters.header.text(Some(&shape), &Datum::Text(value.to_owned()));
        push_member(&mut out, &quoted(&format!("{CONTEXT}{name}")), value.as_deref());
    }
    out
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    json::push_string(&mut out, text);
    out
}

/// Adds a member to an object in the making.
fn push_member(out: &mut String, name: &str, value: Option<&str>) {
    if out.len() > 1 {
        out.push(',');
    }
    out.push_str(name);
    out.push(':');
    match value {
        Some(value) => json::push_string(out, value),
        None => out.push_str("null"),
    }
}

#[cfg(test)]
mod tests;
