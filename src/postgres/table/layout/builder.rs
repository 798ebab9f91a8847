//! A layout in the making: each entry of a mapping held against the columns, and refused if no row could bear it.

use super::{Field, Layout, Only};
use crate::debezium::ColumnFacts;
use crate::mapping::{
    Condition, HeaderRule, Piece, Source, Template, Timestamp, Value as MappedValue, unfit_for_topic,
};
use crate::postgres::names::TableName;
use crate::postgres::table::derive::{Fold, Header, Part, Step, Text};
use crate::postgres::table::misfit::{LayoutError, Wanted};
use crate::postgres::table::value::Kind;

/// Notes something once.
fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// A layout in the making.
pub(super) struct Builder<'a> {
    pub(super) table: &'a TableName,
    pub(super) layout: Layout,
    pub(super) kinds: &'a [Kind],
    /// What the catalog says of a column by its place.
    pub(super) facts: &'a dyn Fn(usize) -> ColumnFacts,
    /// The mapping's entry that is looked at.
    pub(super) entry: &'static str,
    pub(super) missing: Vec<Wanted>,
    pub(super) unfit: Option<LayoutError>,
}

impl Builder<'_> {
    /// Where the column is; notes that it is missing, and whether that is allowed.
    pub(super) fn find(&mut self, source: &Source) -> Option<usize> {
        let found = self.layout.names.iter().position(|name| **name == source.column);
        match found {
            Some(_) => {}
            None if source.optional => push_new(&mut self.layout.absent, source.column.clone()),
            None => push_new(&mut self.missing, Wanted { entry: self.entry, column: source.column.clone() }),
        }
        found
    }

    /// One column becomes one part.
    fn bare(&mut self, field: Field, source: &Source) {
        let Some(column) = self.find(source) else { return };
        let kind = self.kinds[column];
        if !field.accepts(kind) {
            self.refuse(&source.column, field.takes());
        } else if self.layout.columns[column].is_none() {
            self.layout.columns[column] = Some((field, kind));
            self.layout.binary &= kind.has_binary_text() || field == Field::CreatedAt;
        } else {
            self.layout.steps.push(Step::whole(Part::Field(field), column));
        }
    }

    pub(super) fn refuse(&mut self, column: &str, why: &'static str) {
        let (entry, column) = (self.entry, column.to_owned());
        self.unfit.get_or_insert(LayoutError::Type { entry, column, why });
    }

    pub(super) fn part(&mut self, entry: &'static str, field: Field, template: Option<&Template>) {
        self.entry = entry;
        let Some(template) = template else { return };
        if let Some(source) = template.bare() {
            self.bare(field, source);
        } else if field == Field::Id && !matches!(template.pieces.as_slice(), [Piece::Choice(_)]) {
            self.unfit.get_or_insert(LayoutError::Never(
                self.entry,
                format!("{template} is no UUID; {}", field.takes()),
            ));
        } else {
            let text = self.text(template);
            self.layout.steps.push(Step::text(Part::Field(field), text));
        }
    }

    /// The topic, of which no text between columns and no column may be what Kafka takes for no name.
    pub(super) fn topic(&mut self, template: &Template) {
        self.part("topic", Field::Topic, Some(template));
        for piece in &template.pieces {
            let name = match piece {
                Piece::Schema => &self.table.schema,
                Piece::Table => &self.table.name,
                Piece::Text(_) | Piece::Choice(_) => continue,
            };
            if let Some(letter) = unfit_for_topic(name) {
                let why = format!("{name} has the character {letter:?}, which no topic's name has");
                self.unfit.get_or_insert(LayoutError::Never("topic", why));
            }
        }
        for source in template.sources().filter(|source| source.members.is_empty()) {
            if let Some(column) = self.find(source)
                && !Field::Topic.accepts(self.kinds[column])
            {
                self.refuse(&source.column, Field::Topic.takes());
            }
        }
    }

    /// The template with columns in place of their names.
    fn text(&mut self, template: &Template) -> Text {
        for source in template.sources() {
            if let Some(column) = self.find(source) {
                let kind = self.kinds[column];
                self.layout.binary &= kind.has_binary_text();
                if !source.members.is_empty()
                    && !matches!(kind, Kind::Json | Kind::Jsonb | Kind::Text | Kind::Bytea)
                {
                    self.refuse(&source.column, "only JSON has members");
                }
            }
        }
        let names = &self.layout.names;
        Text::of(template, self.table, |name| names.iter().position(|own| **own == *name))
    }

    pub(super) fn headers(&mut self, rules: &[HeaderRule]) {
        self.entry = "headers";
        if let [HeaderRule::Object(source)] = rules {
            return self.bare(Field::Headers, source);
        }
        let mut headers = Vec::new();
        for rule in rules {
            match rule {
                HeaderRule::Named { name, omitted, value } => {
                    // A header whose only column may be missing goes missing with it.
                    let gone =
                        value.bare().is_some_and(|source| source.optional && self.find(source).is_none());
                    if !gone || !omitted {
                        headers.push(Header::named(name, *omitted, self.text(value)));
                    }
                }
                HeaderRule::Object(source) => {
                    if let Some(column) = self.find(source) {
                        if Field::Headers.accepts(self.kinds[column]) {
                            headers.push(Header::Object(column));
                        } else {
                            self.refuse(&source.column, "headers are made of JSON");
                        }
                    }
                }
                HeaderRule::Pairs { names, values } => {
                    let of = [names, values];
                    if let (Some(names), Some(values)) = (self.find(names), self.find(values)) {
                        for (column, source) in [names, values].into_iter().zip(of) {
                            if !self.may_be_array(column) {
                                self.refuse(&source.column, "names and values of headers are arrays of text");
                            }
                        }
                        self.layout.binary = false;
                        headers.push(Header::Pairs { names, values });
                    }
                }
            }
        }
        if !headers.is_empty() {
            self.layout.steps.push(Step::headers(headers));
        }
    }

    pub(super) fn value(&mut self, value: &MappedValue) {
        self.entry = "value";
        let step = match value {
            MappedValue::Template(template) => return self.part("value", Field::Payload, Some(template)),
            MappedValue::Compact(template) => {
                self.must_be_json(template);
                Step::compact(self.text(template))
            }
            MappedValue::Object(members) => {
                let members = members.iter().map(|(name, template)| (name.as_str(), self.text(template)));
                Step::object(members.collect())
            }
        };
        self.layout.steps.push(step);
    }

    /// Whether the column is an array: a type's name begins with an underscore if it is one of arrays.
    fn may_be_array(&self, column: usize) -> bool {
        let name = (self.facts)(column).type_name;
        // That of a column which the catalog has not told of begins so.
        self.kinds[column] == Kind::Other && (name.starts_with('_') || name.starts_with("number "))
    }

    /// Refuses a template that is one column of a type whose text is never JSON.
    fn must_be_json(&mut self, template: &Template) {
        let [Piece::Choice(sources)] = template.pieces.as_slice() else { return };
        for source in sources.iter().filter(|source| source.members.is_empty()) {
            let column = self.layout.names.iter().position(|name| **name == source.column);
            let kind = column.map(|column| self.kinds[column]);
            if matches!(kind, Some(Kind::Uuid | Kind::Timestamp | Kind::Timestamptz)) {
                self.refuse(&source.column, "compact() takes JSON");
            }
        }
    }

    pub(super) fn timestamp(&mut self, timestamp: &Timestamp) {
        self.entry = "timestamp";
        match timestamp {
            Timestamp::None => {}
            Timestamp::Commit => self.layout.commit_time = true,
            Timestamp::Column(template, unit) => match template.bare() {
                Some(source) => {
                    let column = self.layout.names.iter().position(|name| **name == source.column);
                    let number = column.is_some_and(|column| self.kinds[column] == Kind::Int);
                    self.bare(if number { Field::Epoch(*unit) } else { Field::CreatedAt }, source);
                }
                None => self.unfit = Some(LayoutError::NotBare("timestamp")),
            },
        }
    }

    pub(super) fn partition(&mut self, partition: Option<&Template>) {
        self.entry = "partition";
        match partition.map(|template| template.bare()) {
            None => {}
            Some(Some(source)) => self.bare(Field::Partition, source),
            Some(None) => self.unfit = Some(LayoutError::NotBare("partition")),
        }
    }

    /// `seen`: its texts as they are seen in the stream, if the server was asked.
    pub(super) fn only(&mut self, condition: &Condition, seen: Option<&[Option<String>]>) {
        self.entry = "only";
        let Condition { column, optional, .. } = condition;
        let source = Source { column: column.clone(), optional: *optional, members: Vec::new() };
        if let Some(column) = self.find(&source) {
            // Whether a time is null can be seen in any form.
            let null_only = condition.is.iter().all(Option::is_none);
            self.layout.binary &= null_only || self.kinds[column].has_binary_text();
            let (fold, is) =
                (Fold::of((self.facts)(column).type_oid), seen.unwrap_or(&condition.is).to_vec());
            self.layout.only.push(Only { column, fold, is });
        }
    }
}
