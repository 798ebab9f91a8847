//! Names in SQL: of the table, the publication and the slot.

use std::fmt;
use std::sync::Arc;

use crate::error::OutboxError;
use crate::mapping::Mapping;
use crate::write_back::WriteBackMode;

/// What a relay works on in its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The first outbox. In its schema are the tables that serve them all: dead letters and seal.
    pub main: Outbox,
    /// The other ones.
    pub others: Vec<Outbox>,
    /// The publication that the slot is read through.
    pub publication: String,
    /// The replication slot.
    pub slot: String,
    /// What becomes of a row once its message is published.
    pub write_back: WriteBackMode,
}

/// A table whose rows are messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// The table.
    pub table: TableName,
    /// What of a row becomes which part of a record.
    pub mapping: Arc<Mapping>,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox { table: TableName::default(), mapping: Mapping::walpost() }
    }
}

impl Default for Target {
    fn default() -> Self {
        Target {
            main: Outbox::default(),
            others: Vec::new(),
            publication: "walpost".to_owned(),
            slot: "walpost".to_owned(),
            write_back: WriteBackMode::None,
        }
    }
}

impl Target {
    /// All outboxes, the main one first.
    pub fn outboxes(&self) -> impl Iterator<Item = &Outbox> + Clone {
        std::iter::once(&self.main).chain(&self.others)
    }

    /// Their tables, as SQL lists them.
    #[must_use]
    pub fn tables(&self) -> String {
        self.list(|table| table.to_string(), ", ")
    }

    /// Something about every table.
    pub(crate) fn list(&self, text: impl Fn(&TableName) -> String, between: &str) -> String {
        self.outboxes().map(|outbox| text(&outbox.table)).collect::<Vec<_>>().join(between)
    }
}

/// A table's schema and name, as the catalog holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table's own name.
    pub name: String,
}

impl Default for TableName {
    fn default() -> Self {
        TableName { schema: "outbox".to_owned(), name: "messages".to_owned() }
    }
}

/// As it is written in SQL.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl std::str::FromStr for TableName {
    type Err = OutboxError;

    /// Reads `table`, `schema.table`, or either part in double quotes, as SQL does.
    fn from_str(text: &str) -> Result<Self, OutboxError> {
        let wrong = || {
            let advice = "write schema.table; quote a part that is not lower case: \"My Schema\".\"Table\"";
            OutboxError::usage(format!("{text:?} is not the name of a table"), advice)
        };
        let (first, rest) = identifier(text).ok_or_else(wrong)?;
        let (schema, name) = match rest.strip_prefix('.') {
            Some(rest) => match identifier(rest) {
                Some((second, "")) => (first, second),
                _ => return Err(wrong()),
            },
            None if rest.is_empty() => ("public".to_owned(), first),
            None => return Err(wrong()),
        };
        Ok(TableName { schema, name })
    }
}

impl TableName {
    /// Reads names that are separated by commas.
    ///
    /// # Errors
    /// One of them is none, or comes twice.
    pub fn list(text: &str) -> Result<Vec<TableName>, OutboxError> {
        let mut quoted = false;
        let names = text.split(|letter| {
            quoted ^= letter == '"';
            letter == ',' && !quoted
        });
        let mut tables = Vec::new();
        for name in names {
            let table: TableName = name.trim().parse()?;
            if tables.contains(&table) {
                return Err(OutboxError::usage(format!("table {table} comes twice"), "name it once"));
            }
            tables.push(table);
        }
        Ok(tables)
    }
}

/// The identifier that the text begins with, and the rest. Unquoted ones fold to lower case, and as in a database in UTF-8
/// only the letters A to Z do.
fn identifier(text: &str) -> Option<(String, &str)> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut name = String::new();
            let mut rest = quoted;
            loop {
                let (part, after) = rest.split_once('"')?;
                name.push_str(part);
                match after.strip_prefix('"') {
                    Some(after) => {
                        name.push('"');
                        rest = after;
                    }
                    None => break (name, after),
                }
            }
        }
        None => {
            let end =
                text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            if name.starts_with(|c: char| c.is_numeric() || c == '$') {
                return None;
            }
            (name.to_ascii_lowercase(), rest)
        }
    };
    let valid = !name.is_empty() && name.len() <= 63 && !name.contains(char::is_control);
    valid.then_some((name, rest))
}

/// An identifier as SQL writes it, quoted only where it must be.
pub(crate) fn quote_identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !RESERVED.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A string literal, whatever `standard_conforming_strings` says.
pub(crate) fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Reserved words that somebody might call a table (PostgreSQL documentation, "SQL Key Words").
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "system_user",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_and_written_as_in_sql() {
        for (text, schema, name, written) in [
            ("outbox.messages", "outbox", "messages", "outbox.messages"),
            ("Events", "public", "events", "public.events"),
            ("\"My Schema\".\"a\"\"b\"", "My Schema", "a\"b", "\"My Schema\".\"a\"\"b\""),
            ("s.\"order\"", "s", "order", "s.\"order\""),
            ("s.order", "s", "order", "s.\"order\""),
            ("äpfel.T$1", "äpfel", "t$1", "\"äpfel\".\"t$1\""),
            ("\"a.b\".c", "a.b", "c", "\"a.b\".c"),
        ] {
            let table: TableName = text.parse().expect(text);
            assert_eq!((table.schema.as_str(), table.name.as_str()), (schema, name), "{text}");
            assert_eq!(table.to_string(), written);
        }
        let long = "x".repeat(64);
        for text in ["", ".", "a.", ".a", "a.b.c", "a b", "\"a", "1a", "a.\"\"", "a;b", &long, "\"a\nb\""] {
            assert!(text.parse::<TableName>().is_err_and(|error| error.is_usage()), "{text:?}");
        }
    }

    #[test]
    fn names_are_listed_with_commas() {
        let written = |text: &str| {
            let tables = TableName::list(text).map_err(|error| error.to_string())?;
            Ok::<_, String>(tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(written("a.b"), Ok("a.b".to_owned()));
        assert_eq!(written("a.b, \"x,\"\"y\".c ,D"), Ok("a.b \"x,\"\"y\".c public.d".to_owned()));
        for (text, words) in
            [("a.b,", "is not the name"), ("", "is not the name"), ("a,b,public.A", "public.a comes twice")]
        {
            assert!(written(text).is_err_and(|error| error.contains(words)), "{text}");
        }
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
    }
}
