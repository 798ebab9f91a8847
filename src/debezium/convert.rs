//! Connect's converters: from a value and its schema to the bytes of a record.

use super::datum::Datum;
use super::schema::Schema;

/// A converter of keys, values or headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Converter {
    /// `StringConverter`: Java's text.
    Text,
    /// `SimpleHeaderConverter`: Connect's text.
    Simple,
    /// `JsonConverter`; decimals may be numbers.
    Json { schemas: bool, numeric: bool },
    /// `ByteArrayConverter`, and Debezium's `BinaryDataConverter` with one for what is not bytes.
    Bytes(Option<Box<Converter>>),
}

/// A schema and its JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) schema: Schema,
    json: String,
}

impl Shape {
    pub(super) fn of(schema: Schema) -> Self {
        let json = schema.json();
        Shape { schema, json }
    }

    pub(super) fn json(&self) -> &str {
        &self.json
    }
}

impl Converter {
    /// The bytes of a value, which are text unless they are a column's own; `None` is null.
    pub(super) fn bytes(&self, shape: Option<&Shape>, datum: &Datum) -> Option<Vec<u8>> {
        match (self, datum) {
            (Converter::Bytes(_), Datum::Bytes(bytes)) => Some(bytes.clone()),
            (Converter::Bytes(Some(delegate)), _) => delegate.bytes(shape, datum),
            (Converter::Bytes(None), _) => None,
            _ => self.text(shape, datum).map(String::into_bytes),
        }
    }

    /// The same where bytes as they are can't be.
    pub(super) fn text(&self, shape: Option<&Shape>, datum: &Datum) -> Option<String> {
        match self {
            Converter::Text => datum.java_text(),
            Converter::Simple => datum.header_text(),
            Converter::Json { .. } if shape.is_none() && datum.is_null() => None,
            Converter::Json { schemas, numeric } => {
                let mut out = String::new();
                if !*schemas {
                    datum.push_json(&mut out, *numeric);
                    return Some(out);
                }
                out.push_str("{\"schema\":");
                out.push_str(shape.filter(|_| !datum.is_free()).map_or("null", |shape| &shape.json));
                out.push_str(",\"payload\":");
                datum.push_json(&mut out, *numeric);
                out.push('}');
                Some(out)
            }
            Converter::Bytes(delegate) => delegate.as_deref()?.text(shape, datum),
        }
    }

    /// Whether schemas are seen in what it writes.
    pub(super) fn shows_schemas(&self) -> bool {
        match self {
            Converter::Json { schemas, .. } => *schemas,
            Converter::Bytes(delegate) => delegate.as_deref().is_some_and(Converter::shows_schemas),
            Converter::Text | Converter::Simple => false,
        }
    }
}

/// For a person.
impl std::fmt::Display for Converter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Converter::Text | Converter::Simple => f.write_str("text"),
            Converter::Json { schemas: true, .. } => f.write_str("JSON with schemas"),
            Converter::Json { schemas: false, .. } => f.write_str("JSON"),
            Converter::Bytes(None) => f.write_str("bytes"),
            Converter::Bytes(Some(delegate)) => write!(f, "bytes, or {delegate}"),
        }
    }
}
