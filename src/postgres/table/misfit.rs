//! Why a mapping does not fit a table, and the mend.

use crate::debezium::PlanError;
use crate::error::OutboxError;
use crate::mapping::Preset;
use crate::postgres::names::{Outbox, TableName, quote_identifier};

/// Why a table can't be an outbox.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("has no column {}", .0.iter().map(Wanted::text).collect::<Vec<_>>().join(", "))]
    Missing(Vec<Wanted>),
    #[error(
        "has a column {} of a type that can't be used for {}: {why}",
        quote_identifier(column),
        flag(entry)
    )]
    Type { entry: &'static str, column: String, why: &'static str },
    #[error("can't be mapped: {} must be one column, such as {{created_at}}", flag(.0))]
    NotBare(&'static str),
    #[error("can't be mapped by {}: {}", flag(.0), .1)]
    Never(&'static str, String),
    #[error("has a generated column {}, which the server does not send", quote_identifier(.0))]
    Generated(String),
    #[error("has no column {}, which belongs to its key", quote_identifier(.0))]
    Key(String),
    #[error("has no column {}, which the connector's options name", quoted(.0))]
    Unnamed(Vec<String>),
    #[error("has a column {} that {}", quote_identifier(.0), .1)]
    Contract(String, String),
}

impl From<PlanError> for LayoutError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Missing(names) => LayoutError::Unnamed(names),
            PlanError::Unfit { column, why } => LayoutError::Contract(column, why),
        }
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ")
}

/// A column that an entry of the mapping names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) entry: &'static str,
    pub(crate) column: String,
}

impl Wanted {
    fn text(&self) -> String {
        format!("{} ({})", quote_identifier(&self.column), flag(self.entry))
    }
}

/// The flag that says an entry otherwise.
fn flag(entry: &str) -> String {
    format!("--map-{}", entry.replace('_', "-"))
}

impl LayoutError {
    /// The same, saying so of a column that is missing because it is generated.
    pub(crate) fn where_generated(self, generated: &[String]) -> Self {
        let missing: Vec<&String> = match &self {
            LayoutError::Missing(wanted) => wanted.iter().map(|wanted| &wanted.column).collect(),
            LayoutError::Unnamed(names) => names.iter().collect(),
            _ => return self,
        };
        match missing.into_iter().find(|column| generated.contains(column)) {
            Some(column) => LayoutError::Generated(column.clone()),
            None => self,
        }
    }

    /// As a definite error that names the table.
    pub(crate) fn in_table(&self, table: &TableName) -> OutboxError {
        OutboxError::definite(format!("table {table} {self}"), "")
    }

    /// As a definite error that names the table, what it has, as `name type`, and the mend.
    pub(crate) fn in_outbox(&self, outbox: &Outbox, columns: &[(&str, &str)]) -> OutboxError {
        let (table, names) = (&outbox.table, columns.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        let mut advice = Vec::new();
        match self {
            LayoutError::Missing(wanted) => {
                let fitting = Preset::fitting(&names).filter(|preset| *preset != outbox.mapping.preset);
                if let Some(preset) = fitting {
                    advice.push(format!("its columns are those of preset {preset}: --preset {preset}"));
                }
                let flags: Vec<_> = wanted.iter().map(|wanted| flag(wanted.entry)).collect();
                advice.push(format!(
                    "it has {}; say with {} which of these it is; {{name?}} lets a column be missing",
                    listed(columns),
                    flags.join(", ")
                ));
                let clauses: Option<Vec<_>> = wanted.iter().map(|wanted| clause(&wanted.column)).collect();
                if let Some(clauses) = clauses.filter(|_| outbox.mapping.made_by_setup && fitting.is_none()) {
                    advice.push(format!("or: ALTER TABLE {table} {};", clauses.join(", ")));
                }
            }
            LayoutError::Type { entry, column, .. } => {
                let found = columns.iter().find(|(name, _)| name == column).map(|(_, type_name)| *type_name);
                advice.push(format!(
                    "{} is of type {}; name another column with {}; the table has {}",
                    quote_identifier(column),
                    found.unwrap_or("unknown"),
                    flag(entry),
                    listed(columns)
                ));
            }
            // Found by the catalog, which has it.
            LayoutError::Key(_) => {}
            LayoutError::Unnamed(_) => advice.push(format!(
                "it has {}; change the options (--debezium-config) or the table: Debezium would stop at its first row",
                listed(columns)
            )),
            LayoutError::Contract(..) => advice.push(
                "the connector's options (--debezium-config) ask for it: no row of it could be sent as Debezium does"
                    .to_owned(),
            ),
            LayoutError::Generated(column) => advice.push(format!(
                "name the columns that {0} is made of, or make it an ordinary one that a trigger fills; from PostgreSQL 18 \
                 on a publication may send stored ones: WITH (publish_generated_columns = stored)",
                quote_identifier(column)
            )),
            LayoutError::NotBare(entry) | LayoutError::Never(entry, _) => {
                advice.push(format!("see {} in `walpost run --help`", flag(entry)))
            }
        }
        self.in_table(table).with_advice(advice.join("\n"))
    }
}

/// As many columns as a person reads.
const MOST_LISTED: usize = 40;

/// Columns with their types, and how many more there are.
pub(crate) fn listed(columns: &[(&str, &str)]) -> String {
    let shown = columns.iter().take(MOST_LISTED);
    let mut shown: Vec<_> =
        shown.map(|(name, type_name)| format!("{} {type_name}", quote_identifier(name))).collect();
    if columns.len() > MOST_LISTED {
        shown.push(format!("and {} more", columns.len() - MOST_LISTED));
    }
    if shown.is_empty() { "no columns".to_owned() } else { shown.join(", ") }
}

/// How to add a column of the table that `walpost setup` makes.
fn clause(name: &str) -> Option<&'static str> {
    match name {
        "id" => Some("ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()"),
        "topic" => Some("ADD COLUMN topic text NOT NULL"),
        "payload" => Some("ADD COLUMN payload json"),
        _ => None,
    }
}
