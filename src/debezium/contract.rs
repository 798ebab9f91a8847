//! What a connector's configuration asks for, as plain data.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::convert::Converter;
use super::modes::Modes;
use super::route::Route;
use super::schema::Schema;

/// Who runs the connector; what it does with headers, partitions and times differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runner {
    Connect,
    Server,
}

/// What of a row becomes which part of a record, as a connector and its outbox router do it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contract {
    pub(super) runner: Runner,
    /// `topic.prefix` and `topic.delimiter`: they begin the names of schemas.
    pub(super) prefix: String,
    pub(super) delimiter: String,
    pub(super) run_id: Option<String>,
    pub(super) id: String,
    pub(super) key: String,
    pub(super) payload: String,
    pub(super) routed_by: String,
    pub(super) route: Route,
    pub(super) timestamp: Option<String>,
    pub(super) version: Option<String>,
    pub(super) placements: Vec<Placement>,
    /// Whether a column of a placement may be missing.
    pub(super) may_miss: bool,
    /// Whether a blank payload is a null value.
    pub(super) tombstones: bool,
    pub(super) expand: Option<Expand>,
    pub(super) modes: Modes,
    pub(super) converters: Converters,
    pub(super) envelopes: Envelopes,
    /// What the connector reads.
    pub(super) tables: Option<String>,
    pub(super) largest: Option<u64>,
    pub(super) slot: String,
    pub(super) publication: String,
}

/// What the router keeps of envelopes: one schema for each schema of a payload, or for each version, with the name that the
/// first event gave it, whichever table that was of.
#[derive(Debug, Default)]
pub(super) struct Envelopes {
    names: Mutex<HashMap<String, String>>,
    tables: Mutex<Vec<OfTable>>,
}

/// The envelope that a table's rows ask for.
#[derive(Debug)]
pub(super) struct OfTable {
    pub(super) table: String,
    /// That of a payload which is a column; none if envelopes of all tables may be one.
    pub(super) payload: Option<Schema>,
    /// Columns with their places in the envelope.
    pub(super) fields: Vec<(String, Schema)>,
    /// Whether schemas are written.
    pub(super) shown: bool,
}

/// So many does the router keep.
const MAX_NAMES: usize = 10_000;

impl Envelopes {
    /// The name that the schema was first given.
    pub(super) fn first(&self, schema: String, name: impl FnOnce() -> String) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES && !names.contains_key(&schema) {
            names.clear();
        }
        names.entry(schema).or_insert_with(name).clone()
    }

    /// Notes what a table asks for; gives the column, and the table before it, with which that can't be in one envelope.
    pub(super) fn add(&self, of: OfTable) -> Result<(), (String, String)> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // Changed while it runs, it is as Debezium meets it: the schemas stay.
        if tables.iter().any(|other| other.table == of.table) {
            return Ok(());
        }
        match tables.iter().find_map(|other| Some((other.apart(&of)?, other.table.clone()))) {
            Some(apart) => Err(apart),
            None => {
                tables.push(of);
                Ok(())
            }
        }
    }
}

impl OfTable {
    /// The column by which the envelopes of two tables are not one, although the router takes them for one.
    fn apart(&self, other: &OfTable) -> Option<String> {
        if self.payload != other.payload {
            return None;
        }
        let of = |fields: &[(String, Schema)], name: &str| {
            fields.iter().find(|(own, _)| own == name).map(|(_, schema)| schema.clone())
        };
        let both = self.fields.iter().chain(&other.fields);
        let differs = |name: &str| match (of(&self.fields, name), of(&other.fields, name)) {
            (Some(one), Some(two)) if self.shown => one != two,
            // Of another type it is nothing that Debezium sends.
            (Some(one), Some(two)) => one.of == two.of && one.default != two.default,
            _ => true,
        };
        both.map(|(name, _)| name).find(|name| differs(name)).cloned()
    }
}

/// What was seen meanwhile makes no other contract.
impl PartialEq for Envelopes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Envelopes {}

/// A column that goes somewhere besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) column: String,
    pub(super) place: Place,
    pub(super) alias: String,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Header,
    Envelope,
    Partition,
}

/// JSON in the payload becomes JSON in the value; members that are null may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expand {
    pub(super) keeps_nulls: bool,
}

/// How keys, values and headers become bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Converters {
    pub(super) key: Converter,
    pub(super) value: Converter,
    pub(super) header: Converter,
}

impl Contract {
    /// The tables that the connector reads, written as in SQL.
    pub(crate) fn tables(&self) -> Option<&str> {
        self.tables.as_deref()
    }

    /// The slot that the connector reads.
    pub(crate) fn slot(&self) -> &str {
        &self.slot
    }

    /// The publication that it reads through.
    pub(crate) fn publication(&self) -> &str {
        &self.publication
    }

    /// The size in bytes of the largest record that its producer takes, if that is written.
    pub(crate) fn largest(&self) -> Option<u64> {
        self.largest
    }

    /// The column that the event's id is of.
    pub(crate) fn id_column(&self) -> &str {
        &self.id
    }

    /// The column that records may have their time from.
    pub(crate) fn time_column(&self) -> Option<&str> {
        self.timestamp.as_deref()
    }

    /// The columns of the envelope; without any, the value is the payload alone.
    pub(super) fn has_envelope(&self) -> bool {
        self.placements.iter().any(|placed| placed.place == Place::Envelope)
    }
}

/// What it asks for, in a line.
impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let placed = |place: Place| self.placements.iter().filter(move |placed| placed.place == place);
        let names = |place: Place| placed(place).map(|placed| placed.alias.clone());
        let Converters { key, value, header } = &self.converters;
        write!(
            f,
            "as {}: topic {} of {}, key {} as {key}",
            self.runner.shown(),
            self.route.shown(),
            self.routed_by,
            self.key
        )?;
        let envelope: Vec<_> = std::iter::once(self.payload.clone()).chain(names(Place::Envelope)).collect();
        let expanded = if self.expand.is_some() { ", expanded" } else { "" };
        write!(f, ", value {} as {value}{expanded}", envelope.join(" + "))?;
        let context = self.run_id.as_ref().map(|_| "__debezium.context.*".to_owned());
        let headers: Vec<_> =
            context.into_iter().chain(["id".to_owned()]).chain(names(Place::Header)).collect();
        write!(f, ", headers {} as {header}", headers.join(", "))?;
        match placed(Place::Partition).next() {
            Some(placed) if self.runner == Runner::Connect => write!(f, ", partition {}", placed.column),
            _ => Ok(()),
        }
    }
}
