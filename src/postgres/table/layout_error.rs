//! Why a table can't be an outbox, and what mends it.

use crate::debezium::PlanError;
use crate::error::OutboxError;
use crate::postgres::names::{TableName, quote_identifier};

/// Why a table can't be an outbox.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("has no column {}", .0.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", "))]
    Missing(Vec<String>),
    #[error("has a column {} of a type that can't be used{}", quote_identifier(.0), .1)]
    Type(String, &'static str),
    #[error("can't be mapped: {0} must be one column, such as {{created_at}}")]
    NotBare(&'static str),
    #[error("has a column {} that {}", quote_identifier(.0), .1)]
    Contract(String, String),
}

impl From<PlanError> for LayoutError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Missing(names) => LayoutError::Missing(names),
            PlanError::Unfit { column, why } => LayoutError::Contract(column, why),
        }
    }
}

impl LayoutError {
    /// As a definite error that names the table and the mend.
    pub(crate) fn in_table(&self, table: &TableName) -> OutboxError {
        let advice = match self {
            LayoutError::Contract(..) => {
                "the connector's options (--debezium-config) ask for it: no row of it could be sent as Debezium does".to_owned()
            }
            LayoutError::Missing(names) if names.iter().all(|name| clause(name).is_some()) => {
                let clauses: Vec<_> = names.iter().filter_map(|name| clause(name)).collect();
                format!(
                    "rename the column that holds it, say with --preset or --map-… where it is, or: ALTER TABLE {table} {};",
                    clauses.join(", ")
                )
            }
            LayoutError::Missing(_) => {
                "choose another --preset, or say with --map-… (such as --map-key) which columns the table has; {name?} lets \
                 a column be missing"
                    .to_owned()
            }
            LayoutError::Type(name, _) => format!(
                "compare column {} with the table of `walpost setup --print`, or with the settings --map-…",
                quote_identifier(name)
            ),
            LayoutError::NotBare(_) => "see --map-timestamp and --map-partition in `walpost run --help`".to_owned(),
        };
        OutboxError::definite(format!("table {table} {self}"), advice)
    }
}

/// How to add a column of the table that `walpost setup` makes.
fn clause(name: &str) -> Option<String> {
    match name {
        "id" => Some("ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()".to_owned()),
        "topic" => Some("ADD COLUMN topic text NOT NULL".to_owned()),
        "payload" => Some("ADD COLUMN payload json".to_owned()),
        _ => None,
    }
}
