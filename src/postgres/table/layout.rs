//! A mapping held against a table's real columns, and how a row becomes a message by it.
//!
//! A part that is one column is put straight into its place; any other is derived once the whole row has been looked at.

mod builder;
mod due;
#[cfg(feature = "cli")]
mod now;

use std::sync::Arc;
use std::time::SystemTime;

use super::ColumnTypes;
use super::derive::{Cells, Fold, Step, with_header};
use super::emitted::SentRow;
use super::misfit::LayoutError;
use super::row_key::KeyColumns;
use super::unfit_row::{UnfitRow, raw};
use super::value::{self, Kind, RowError, Unfit, any_id, created_at, text, uuid};
use crate::debezium::Plan;
use crate::mapping::{Template, Unit};
use crate::message::{OutboxMessage, OwnHeaders};
use crate::postgres::names::{Outbox, TableName};
use crate::postgres::pgoutput::{Column, Tuple};
use crate::router::{CORRELATION_ID, EVENT_TYPE, REPLAY};
use builder::Builder;
use due::Due;
pub(crate) use due::Later;

/// A part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Id,
    /// An id that need not be a UUID.
    AnyId,
    Topic,
    Key,
    Partition,
    Payload,
    EventType,
    Headers,
    CorrelationId,
    CreatedAt,
    /// The same of a number.
    Epoch(Unit),
}

impl Field {
    /// Puts a value into its place.
    pub(super) fn put(self, value: value::Value, message: &mut OutboxMessage) -> Result<(), Unfit> {
        match self {
            Field::Id => message.id = uuid(value)?,
            Field::Topic => message.topic = text(value)?,
            Field::Key => message.key = Some(value::bytes(value)?),
            Field::Payload => message.payload = Some(value::bytes(value)?),
            Field::EventType => message.event_type = Some(text(value)?),
            Field::Headers => message.headers = value::bytes(value)?,
            Field::CorrelationId => message.correlation_id = Some(text(value)?),
            Field::CreatedAt => message.created_at = created_at(&value)?,
            Field::AnyId | Field::Partition | Field::Epoch(_) => self.put_number(value, message)?,
        }
        Ok(())
    }

    /// Parts that the table of `walpost setup` does not have.
    #[cold]
    fn put_number(self, value: value::Value, message: &mut OutboxMessage) -> Result<(), Unfit> {
        match self {
            Field::AnyId => {
                message.id = uuid(value.clone()).or_else(|_| Ok(any_id(&value::bytes(value)?)))?
            }
            Field::Epoch(unit) => message.created_at = value::epoch(&value, unit)?,
            _ => message.partition = Some(value::partition(&value)?),
        }
        Ok(())
    }

    /// Whether the field can be made of a column of that kind.
    fn accepts(self, kind: Kind) -> bool {
        let time = matches!(kind, Kind::Timestamptz | Kind::Timestamp);
        match self {
            Field::CreatedAt => time,
            Field::Epoch(_) | Field::Partition => kind == Kind::Int,
            Field::Id => matches!(kind, Kind::Uuid | Kind::Text),
            Field::Headers => matches!(kind, Kind::Json | Kind::Jsonb | Kind::Text),
            Field::AnyId | Field::Payload | Field::Key => !time,
            Field::Topic | Field::EventType | Field::CorrelationId => {
                !time && !matches!(kind, Kind::Json | Kind::Jsonb | Kind::Bytea)
            }
        }
    }

    /// Of which types it can be made, for a person.
    fn takes(self) -> &'static str {
        match self {
            Field::CreatedAt | Field::Epoch(_) => "a time is a timestamp, or a whole number with its unit",
            Field::Partition => "a partition is a whole number",
            Field::Id => "an id that consumers see is a uuid; others go with --map-own-headers no",
            Field::Headers => "headers are made of JSON",
            Field::AnyId | Field::Payload | Field::Key => "a point in time has no one text",
            Field::Topic | Field::EventType | Field::CorrelationId => {
                "a name is no time, no JSON and no bytea"
            }
        }
    }
}

/// Where in a row each part of a message stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    table: TableName,
    /// In the order of the row's columns; `None` is a column that is not a part by itself.
    columns: Vec<Option<(Field, Kind)>>,
    names: Vec<Arc<str>>,
    /// The kinds of all columns; empty if the row need not be looked at as a whole.
    kinds: Vec<Kind>,
    steps: Vec<Step>,
    only: Vec<Only>,
    /// What tells rows that are written back from each other; else none.
    key: KeyColumns,
    due: Option<Box<Due>>,
    /// The column that a message without an id, or without a topic, is to be blamed on.
    id: Option<Arc<str>>,
    topic: Arc<str>,
    commit_time: bool,
    own_headers: OwnHeaders,
    binary: bool,
    absent: Vec<String>,
}

/// The texts of a column that let a row pass.
#[derive(Clone, Debug, PartialEq)]
struct Only {
    column: usize,
    fold: Fold,
    is: Vec<Option<String>>,
}

impl Layout {
    /// The layout of columns given by name and type.
    pub(crate) fn new<'a>(
        outbox: &Outbox,
        columns: impl Iterator<Item = (&'a str, u32)>,
        types: &ColumnTypes,
    ) -> Result<Self, LayoutError> {
        let mapping = &*outbox.mapping;
        let (names, type_oids): (Vec<Arc<str>>, Vec<u32>) =
            columns.map(|(name, type_oid)| (Arc::from(name), type_oid)).unzip();
        let kinds: Vec<Kind> = type_oids.iter().map(|type_oid| types.kind(*type_oid)).collect();
        let all = names.clone();
        let facts = |place: usize| types.facts(&outbox.table, &all[place], type_oids[place]);
        let layout = Layout {
            table: outbox.table.clone(),
            columns: vec![None; names.len()],
            names,
            kinds: Vec::new(),
            steps: Vec::new(),
            only: Vec::new(),
            key: KeyColumns::default(),
            due: None,
            id: mapping.id.as_ref().map(Template::blamed),
            topic: mapping.topic.blamed(),
            commit_time: false,
            own_headers: mapping.header_set(),
            binary: true,
            absent: Vec::new(),
        };
        if let Some(contract) = &mapping.contract {
            let of = (outbox.table.schema.as_str(), outbox.table.name.as_str());
            let plan = Plan::new(contract, of, &layout.names, facts)?;
            return Ok(layout.with_plan(plan, kinds));
        }
        let mut builder = Builder {
            table: &outbox.table,
            layout,
            kinds: &kinds,
            facts: &facts,
            entry: "id",
            missing: Vec::new(),
            unfit: None,
        };
        // An id that consumers see by our own header is what it says it is.
        let id = if mapping.own_headers { Field::Id } else { Field::AnyId };
        builder.part("id", id, mapping.id.as_ref());
        builder.topic(&mapping.topic);
        builder.part("key", Field::Key, mapping.key.as_ref());
        if let Some(value) = &mapping.value {
            builder.value(value);
        }
        builder.part(EVENT_TYPE, Field::EventType, mapping.event_type.as_ref());
        builder.headers(&mapping.headers);
        builder.part(CORRELATION_ID, Field::CorrelationId, mapping.correlation_id.as_ref());
        builder.timestamp(&mapping.timestamp);
        builder.partition(mapping.partition.as_ref());
        for (index, condition) in mapping.only.iter().enumerate() {
            builder.only(condition, types.condition(&outbox.table, index));
        }
        builder.due(mapping.due.as_ref(), mapping.id.as_ref());
        let Builder { mut layout, missing, unfit, .. } = builder;
        if !missing.is_empty() {
            return Err(LayoutError::Missing(missing));
        }
        if let Some(unfit) = unfit {
            return Err(unfit);
        }
        if !layout.steps.is_empty() || !layout.only.is_empty() {
            layout.kinds = kinds;
        }
        Ok(layout)
    }

    /// The same for rows that are written back, which these columns of the target's outbox `index` tell apart.
    pub(crate) fn keyed(
        mut self,
        index: usize,
        key: &[String],
        kinds: &dyn Fn(usize) -> Kind,
    ) -> Result<Self, LayoutError> {
        self.key = KeyColumns::find(index, key, &self.names, kinds)?;
        self.binary &= self.key.is_binary();
        Ok(self)
    }

    /// The layout of a table whose rows become messages as Debezium makes them.
    fn with_plan(mut self, plan: Plan, kinds: Vec<Kind>) -> Self {
        self.topic = Arc::clone(&self.names[plan.routed_by()]);
        self.steps.push(Step::event(plan));
        Layout { kinds, id: None, binary: false, ..self }
    }

    /// The outbox that it is of.
    pub(crate) fn table(&self) -> &TableName {
        &self.table
    }

    /// Whether every column that is used has a binary form that we can read.
    pub(crate) fn is_binary(&self) -> bool {
        self.binary
    }

    /// Gives the message the time of its commit, if that is what the mapping asks for.
    #[inline]
    pub(crate) fn stamp(&self, message: &mut OutboxMessage, committed_at: SystemTime) {
        if self.commit_time {
            message.created_at = value::micros(committed_at);
        }
    }

    /// The columns that may be missing, and are.
    pub(crate) fn absent(&self) -> Vec<String> {
        self.absent.clone()
    }

    /// The message of a row that is sent on purpose, whatever the conditions; of its columns, the text.
    pub(crate) fn message_of(&self, row: &SentRow<'_>) -> Result<OutboxMessage, Box<UnfitRow>> {
        let tuple = self.tuple_of(row);
        let cells = if self.kinds.is_empty() { Cells::default() } else { Cells::of(&tuple, &self.kinds) };
        let mut message = self.build(&tuple, &cells)?;
        if let Some(mark) = &row.mark {
            message.headers = with_header(&message.headers, REPLAY, mark);
        }
        Ok(message)
    }

    fn tuple_of(&self, row: &SentRow<'_>) -> Tuple {
        let texts = self.names.iter().map(|name| row.columns.get(&**name).and_then(|text| text.as_deref()));
        Tuple::of_texts(texts)
    }

    /// The message of an inserted row; `None` for one that is not to be sent.
    pub(crate) fn message(&self, tuple: &Tuple) -> Result<Option<OutboxMessage>, Box<UnfitRow>> {
        // Values beyond the description, or columns without a value, would go missing in silence.
        if tuple.len() != self.columns.len() {
            let error = RowError::Shape { described: self.columns.len(), values: tuple.len() };
            return Err(Box::new(UnfitRow { message: OutboxMessage::empty(), error, value: None }));
        }
        let cells = if self.kinds.is_empty() { Cells::default() } else { Cells::of(tuple, &self.kinds) };
        for only in &self.only {
            match cells.is_one_of(only.column, only.fold, &only.is) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    let error = error.in_column(&self.names[only.column]);
                    return Err(Box::new(UnfitRow { message: OutboxMessage::empty(), error, value: None }));
                }
            }
        }
        self.build(tuple, &cells).map(Some)
    }

    // On the road of every row: apart, it costs a move of the message.
    #[inline(always)]
    fn build(&self, tuple: &Tuple, cells: &Cells) -> Result<OutboxMessage, Box<UnfitRow>> {
        let mut has_id = false;
        let mut message = OutboxMessage::empty();
        message.own_headers = self.own_headers;
        let mut unfit = None;
        for (index, (column, mapped)) in tuple.columns().zip(&self.columns).enumerate() {
            let Some((field, kind)) = *mapped else { continue };
            let (bytes, binary) = match column {
                Column::Null => continue,
                Column::UnchangedToast => {
                    unfit = unfit.or_else(|| Some((RowError::Absent(Arc::clone(&self.names[index])), None)));
                    continue;
                }
                Column::Text(bytes) => (bytes, false),
                Column::Binary(bytes) => (bytes, true),
            };
            if let Err(error) = field.put(value::Value { kind, bytes, binary }, &mut message) {
                unfit = unfit.or_else(|| Some((error.in_column(&self.names[index]), raw(tuple, index))));
            }
            has_id |= matches!(field, Field::Id | Field::AnyId);
        }
        for step in &self.steps {
            match step.apply(cells, &mut message) {
                Ok(put) => has_id |= put && step.is_id(),
                Err((column, error)) => {
                    unfit =
                        unfit.or_else(|| Some((error.in_column(&self.names[column]), raw(tuple, column))));
                }
            }
        }
        if !self.key.is_empty() {
            unfit = unfit.or_else(|| self.key.put(tuple, &self.names, &mut message));
        }
        let null = |name: &Arc<str>| Some((RowError::Null(Arc::clone(name)), None));
        let unfit = unfit
            .or_else(|| if has_id { None } else { self.id.as_ref().and_then(null) })
            .or_else(|| if message.topic.is_empty() { null(&self.topic) } else { None });
        match unfit {
            None => Ok(message),
            Some((error, value)) => Err(Box::new(UnfitRow { message, error, value })),
        }
    }
}
