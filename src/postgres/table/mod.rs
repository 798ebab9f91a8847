//! The outbox table: which column is which part of a message, and how a row becomes one.
//!
//! Columns are found by name, in any order; others are ignored. The names are spelled here and in
//! `sql/`, and nowhere else.

mod dead_letter_office;
mod dead_letter_requests;
mod dead_letters;
mod letter;
mod save;
mod value;

use std::collections::HashMap;

pub use dead_letter_office::DeadLetterOffice;
pub(crate) use dead_letter_office::RELAY_RIGHTS;
pub(crate) use dead_letters::DeadLetterTable;
pub use letter::{Asked, Chosen, Discarded, Extent, Letter, LetterState, Rights, Settled};
pub use save::{OutboxTable, save};
pub(crate) use value::RowError;

use super::names::TableName;
use super::pgoutput::{Column, Tuple};
use crate::dead_letters::UnfitColumn;
use crate::error::OutboxError;
use crate::message::OutboxMessage;
use value::{Kind, created_at, text, uuid};

/// A part of a message that has a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Id,
    Topic,
    Key,
    Payload,
    EventType,
    Headers,
    CorrelationId,
    CreatedAt,
}

impl Field {
    const ALL: [(&'static str, Field); 8] = [
        ("id", Field::Id),
        ("topic", Field::Topic),
        ("key", Field::Key),
        ("payload", Field::Payload),
        ("event_type", Field::EventType),
        ("headers", Field::Headers),
        ("correlation_id", Field::CorrelationId),
        ("created_at", Field::CreatedAt),
    ];

    /// Without these a row is no message.
    const REQUIRED: [Field; 3] = [Field::Id, Field::Topic, Field::Payload];

    fn named(name: &str) -> Option<Field> {
        Field::ALL.iter().find(|(own, _)| *own == name).map(|(_, field)| *field)
    }

    fn name(self) -> &'static str {
        Field::ALL.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| name)
    }

    /// Puts a value into its place.
    fn put(self, value: value::Value, message: &mut OutboxMessage) -> Result<(), value::Unfit> {
        match self {
            Field::Id => message.id = uuid(value)?,
            Field::Topic => message.topic = text(value)?,
            Field::Key => message.key = Some(value::bytes(value)?),
            Field::Payload => message.payload = Some(value::bytes(value)?),
            Field::EventType => message.event_type = Some(text(value)?),
            Field::Headers => message.headers = value::bytes(value)?,
            Field::CorrelationId => message.correlation_id = Some(text(value)?),
            Field::CreatedAt => message.created_at = created_at(&value)?,
        }
        Ok(())
    }

    /// Whether the field can be made of a column of that kind.
    fn accepts(self, kind: Kind) -> bool {
        match self {
            Field::CreatedAt => matches!(kind, Kind::Timestamptz | Kind::Timestamp),
            Field::Id => matches!(kind, Kind::Uuid | Kind::Text),
            Field::Headers => matches!(kind, Kind::Json | Kind::Jsonb | Kind::Text),
            Field::Payload | Field::Key => !matches!(kind, Kind::Timestamptz | Kind::Timestamp),
            Field::Topic | Field::EventType | Field::CorrelationId => {
                matches!(kind, Kind::Text | Kind::Uuid | Kind::Other)
            }
        }
    }
}

/// The types of the database's columns with domains seen through.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnTypes {
    bases: HashMap<u32, u32>,
}

impl ColumnTypes {
    /// `bases`: from a type to the type that it is, in the end, a domain over.
    pub(crate) fn new(bases: HashMap<u32, u32>) -> Self {
        ColumnTypes { bases }
    }

    fn kind(&self, type_oid: u32) -> Kind {
        Kind::of(self.bases.get(&type_oid).copied().unwrap_or(type_oid))
    }
}

/// Where in a row each part of a message stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    /// In the order of the row's columns; `None` is a column that is not ours.
    columns: Vec<Option<(Field, Kind)>>,
}

/// Why a table can't be an outbox.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("has no column {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    #[error("has a column {0} of a type that can't be used")]
    Type(&'static str),
}

impl LayoutError {
    /// As a definite error that names the table and the mend.
    pub(crate) fn in_table(&self, table: &TableName) -> OutboxError {
        let advice = match self {
            LayoutError::Missing(names) => {
                let clause = |name: &&str| match *name {
                    "id" => "ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()".to_owned(),
                    "topic" => "ADD COLUMN topic text NOT NULL".to_owned(),
                    name => format!("ADD COLUMN {name} json"),
                };
                let clauses: Vec<_> = names.iter().map(clause).collect();
                format!("rename the column that holds it, or: ALTER TABLE {table} {};", clauses.join(", "))
            }
            LayoutError::Type(name) => {
                format!("compare column {name} with the table of `walpost setup --print`")
            }
        };
        OutboxError::definite(format!("table {table} {self}"), advice)
    }
}

impl Layout {
    /// The layout of columns given by name and type.
    pub(crate) fn new<'a>(
        columns: impl Iterator<Item = (&'a str, u32)>,
        types: &ColumnTypes,
    ) -> Result<Self, LayoutError> {
        let field = |(name, type_oid)| Field::named(name).map(|field| (field, types.kind(type_oid)));
        let layout = Layout { columns: columns.map(field).collect() };
        let has = |wanted: &Field| layout.mapped().any(|(field, _)| field == *wanted);
        let missing: Vec<_> =
            Field::REQUIRED.iter().filter(|field| !has(field)).map(|field| field.name()).collect();
        if !missing.is_empty() {
            return Err(LayoutError::Missing(missing));
        }
        let unfit = layout.mapped().find(|(field, kind)| !field.accepts(*kind));
        match unfit {
            Some((field, _)) => Err(LayoutError::Type(field.name())),
            None => Ok(layout),
        }
    }

    fn mapped(&self) -> impl Iterator<Item = (Field, Kind)> {
        self.columns.iter().copied().flatten()
    }

    /// Whether every mapped column has a binary form that we can read.
    pub(crate) fn is_binary(&self) -> bool {
        self.mapped().all(|(_, kind)| kind != Kind::Other)
    }

    /// The optional parts that have no column.
    pub(crate) fn absent(&self) -> Vec<&'static str> {
        let has = |wanted: Field| self.mapped().any(|(field, _)| field == wanted);
        Field::ALL.iter().filter(|(_, field)| !has(*field)).map(|(name, _)| *name).collect()
    }

    /// The mapped columns, for a person.
    pub(crate) fn describe(&self) -> String {
        let names: Vec<_> = self.mapped().map(|(field, _)| field.name()).collect();
        names.join(", ")
    }

    /// The message of an inserted row.
    pub(crate) fn message(&self, tuple: &Tuple) -> Result<OutboxMessage, Box<UnfitRow>> {
        // Values beyond the description, or columns without a value, would go missing in silence.
        if tuple.len() != self.columns.len() {
            let error = RowError::Shape { described: self.columns.len(), values: tuple.len() };
            return Err(Box::new(UnfitRow { message: OutboxMessage::empty(), error, value: None }));
        }
        let mut has_id = false;
        let mut message = OutboxMessage::empty();
        let mut unfit = None;
        for (column, mapped) in tuple.columns().zip(&self.columns) {
            let Some((field, kind)) = *mapped else { continue };
            let (bytes, binary) = match column {
                Column::Null => continue,
                Column::UnchangedToast => {
                    unfit = unfit.or(Some((RowError::Absent(field.name()), None)));
                    continue;
                }
                Column::Text(bytes) => (bytes, false),
                Column::Binary(bytes) => (bytes, true),
            };
            let value = value::Value { kind, bytes: bytes.clone(), binary };
            if let Err(error) = field.put(value, &mut message) {
                unfit = unfit.or(Some((error.in_column(field.name()), Some(bytes))));
            }
            has_id |= field == Field::Id;
        }
        let null = |name| Some((RowError::Null(name), None));
        let unfit = unfit
            .or_else(|| if !has_id { null(Field::Id.name()) } else { None })
            .or_else(|| if message.topic.is_empty() { null(Field::Topic.name()) } else { None });
        match unfit {
            None => Ok(message),
            Some((error, value)) => Err(Box::new(UnfitRow { message, error, value })),
        }
    }
}

/// A row that is no message.
#[derive(Debug)]
pub(crate) struct UnfitRow {
    /// What could be read.
    pub(crate) message: OutboxMessage,
    /// The first fault.
    pub(crate) error: RowError,
    /// What was in the column that it is about.
    pub(crate) value: Option<bytes::Bytes>,
}

impl UnfitRow {
    /// The column that the fault is about.
    pub(crate) fn column(&self) -> UnfitColumn {
        UnfitColumn { name: self.error.column(), value: self.value.clone() }
    }
}
