//! What a mapping makes of a table's columns, for a person, and which preset fits them.

use std::collections::BTreeSet;

use super::{Condition, HeaderRule, Mapping, Preset, Source, Template, Timestamp, Value};
use crate::router::{CORRELATION_ID, EVENT_TYPE};

/// A column that a mapping uses, and whether the table may lack it.
type Use<'a> = (&'a str, bool);

/// What became of the columns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Each part: its entry, as it was written, the columns that it is made of, and those that the table may lack and does.
    pub(crate) parts: Vec<PartAccount>,
    /// The columns that are not used.
    pub(crate) unused: Vec<String>,
}

/// What became of one part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PartAccount {
    pub(crate) entry: &'static str,
    pub(crate) written: String,
    pub(crate) made_of: Vec<String>,
    pub(crate) absent: Vec<String>,
}

impl Mapping {
    /// What it makes of these columns.
    pub(crate) fn account(&self, columns: &[&str]) -> Account {
        let mut used = BTreeSet::new();
        let parts = self.written.iter().filter(|(_, written)| !written.is_empty());
        let parts = parts.map(|(entry, written)| {
            let mut part = PartAccount { entry, written: written.clone(), made_of: vec![], absent: vec![] };
            for (column, _) in self.uses(entry) {
                let there = columns.contains(&column);
                let list = if there { &mut part.made_of } else { &mut part.absent };
                if !list.iter().any(|told| told == column) {
                    list.push(column.to_owned());
                }
                used.insert(column);
            }
            part
        });
        let parts = parts.filter(|part| !matches!(part.entry, "own_headers" | "made_by_setup")).collect();
        let unused =
            columns.iter().filter(|column| !used.contains(*column)).map(|column| (*column).to_owned());
        Account { parts, unused: unused.collect() }
    }

    /// Whether its records are made of these columns alone. Which rows are sent, and when, may depend on others.
    #[cfg(feature = "cli")]
    pub(crate) fn needs_no_more_than(&self, columns: &[&str]) -> bool {
        let parts = self.written.iter().filter(|(entry, _)| !matches!(*entry, "only" | "due"));
        let uses = parts.flat_map(|(entry, _)| self.uses(entry));
        uses.into_iter().all(|(column, optional)| optional || columns.contains(&column))
    }

    /// The columns that an entry names.
    fn uses<'a>(&'a self, entry: &str) -> Vec<Use<'a>> {
        match entry {
            "id" => of_template(self.id.as_ref()),
            "topic" => of_template(Some(&self.topic)),
            "key" => of_template(self.key.as_ref()),
            "partition" => of_template(self.partition.as_ref()),
            "value" => match &self.value {
                Some(Value::Template(template) | Value::Compact(template)) => of_template(Some(template)),
                Some(Value::Object(members)) => {
                    members.iter().flat_map(|(_, template)| of_template(Some(template))).collect()
                }
                None => Vec::new(),
            },
            "timestamp" => match &self.timestamp {
                Timestamp::Column(template, _) => of_template(Some(template)),
                Timestamp::None | Timestamp::Commit => Vec::new(),
            },
            EVENT_TYPE => of_template(self.event_type.as_ref()),
            CORRELATION_ID => of_template(self.correlation_id.as_ref()),
            "headers" => self.headers.iter().flat_map(of_header).collect(),
            "only" => {
                let column = |only: &'a Condition| (only.column.as_str(), only.optional);
                self.only.iter().map(column).collect()
            }
            "due" => self.due.iter().map(|(source, _)| of_source(source)).collect(),
            "order" => self.order.iter().map(|column| (column.as_str(), true)).collect(),
            // Needed only for rows that are written back.
            "mark" => self.mark.iter().map(|mark| (mark.column.as_str(), true)).collect(),
            _ => Vec::new(),
        }
    }
}

fn of_source(source: &Source) -> Use<'_> {
    (&source.column, source.optional)
}

fn of_template(template: Option<&Template>) -> Vec<Use<'_>> {
    template.into_iter().flat_map(Template::sources).map(of_source).collect()
}

fn of_header(rule: &HeaderRule) -> Vec<Use<'_>> {
    match rule {
        HeaderRule::Named { value, .. } => of_template(Some(value)),
        HeaderRule::Object(source) => vec![of_source(source)],
        HeaderRule::Pairs { names, values } => vec![of_source(names), of_source(values)],
    }
}

impl Preset {
    /// The preset whose columns these are: of those that lack none, the one that uses the most.
    pub(crate) fn fitting(columns: &[&str]) -> Option<&'static str> {
        let mut best = None;
        for name in Preset::names() {
            let Some(mapping) = Preset::named(name).and_then(|preset| preset.mapping(|_| None).ok()) else {
                continue;
            };
            let uses: BTreeSet<Use<'_>> =
                super::ENTRIES.iter().flat_map(|entry| mapping.uses(entry)).collect();
            let there = |(column, _): &Use<'_>| columns.contains(column);
            if uses.iter().all(|one| one.1 || there(one)) {
                let names: BTreeSet<_> = uses.iter().filter(|one| there(one)).map(|one| one.0).collect();
                if best.is_none_or(|(most, _)| names.len() > most) {
                    best = Some((names.len(), name));
                }
            }
        }
        best.map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns of the tables as their makers make them.
    const TABLES: [(&str, &str); 10] = [
        ("walpost", "id topic key payload event_type headers correlation_id created_at"),
        ("debezium", "id aggregatetype aggregateid type payload"),
        (
            "goharvest",
            "id create_time kafka_topic kafka_key kafka_value kafka_header_keys kafka_header_values leader_id",
        ),
        ("k1s0", "id idempotency_key topic partition_key payload status created_at process_after"),
        ("k1s0-csharp", "id topic payload status created_at"),
        ("k1s0-events", "id event_type payload created_at published_at"),
        (
            "open-outbox",
            "event_id event_type partition_key payload headers status attempts available_at created_at",
        ),
        ("spakky", "id event_name payload headers created_at published_at retry_count claimed_at"),
        (
            "spakky",
            "id event_name payload headers created_at published_at retry_count claimed_at partition_key abandoned_at",
        ),
        ("", "number what"),
    ];

    #[test]
    fn each_table_fits_its_own_preset_best() {
        for (preset, columns) in TABLES {
            let columns: Vec<_> = columns.split(' ').collect();
            assert_eq!(Preset::fitting(&columns).unwrap_or_default(), preset, "{columns:?}");
        }
    }

    #[test]
    fn every_column_is_accounted_for() {
        let preset = Preset::named("spakky").expect("the preset");
        let over = |entry: &str| match entry {
            "value" => Some("object(of={event_name}, data={payload})"),
            "headers" => Some("at={created_at}, {headers}, a?={gone?}"),
            "topic" => Some("orders"),
            "timestamp" => Some("{claimed_at}"),
            _ => None,
        };
        let mapping = preset.mapping(over).expect("a mapping");
        let columns: Vec<_> = TABLES[7].1.split(' ').collect();
        let account = mapping.account(&columns);
        let parts: Vec<_> = account
            .parts
            .iter()
            .map(|part| (part.entry, part.made_of.join(" "), part.absent.join(" ")))
            .collect();
        let part = |entry, made_of: &str, absent: &str| (entry, made_of.to_owned(), absent.to_owned());
        let expected = [
            part("id", "id", ""),
            part("topic", "", ""),
            part("key", "", "partition_key"),
            part("value", "event_name payload", ""),
            part("timestamp", "claimed_at", ""),
            part("headers", "created_at headers", "gone"),
            part("only", "published_at", "abandoned_at"),
            part("order", "created_at id", ""),
            part("mark", "published_at", ""),
        ];
        assert_eq!(parts, expected);
        assert_eq!(account.unused, ["retry_count"]);
        assert_eq!(account.parts[1].written, "orders");
    }
}
