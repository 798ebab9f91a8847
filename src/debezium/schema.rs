//! Connect's schemas, and how its JSON converter writes them.

use super::datum::Datum;
use super::json::push_string;

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Bool,
    Int16,
    Int32,
    Int64,
    Float,
    Double,
    Text,
    Bytes,
    Array(Box<Schema>),
    Struct(Vec<(String, Schema)>),
}

/// A type and what Connect says of it besides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schema {
    pub(super) of: Type,
    pub(super) optional: bool,
    pub(super) name: Option<String>,
    pub(super) version: Option<i32>,
    pub(super) doc: Option<&'static str>,
    pub(super) parameters: Vec<(&'static str, String)>,
    pub(super) default: Option<Datum>,
}

impl Schema {
    /// One that has no name, and whose values can't be null.
    pub(super) fn of(of: Type) -> Self {
        let (name, version, doc, parameters, default) = (None, None, None, Vec::new(), None);
        Schema { of, optional: false, name, version, doc, parameters, default }
    }

    /// One with a name, in its first version.
    pub(super) fn named(of: Type, name: &str) -> Self {
        Schema { name: Some(name.to_owned()), version: Some(1), ..Schema::of(of) }
    }

    pub(super) fn optional(self) -> Self {
        Schema { optional: true, ..self }
    }

    pub(super) fn with_parameter(mut self, name: &'static str, value: String) -> Self {
        self.parameters.push((name, value));
        self
    }

    /// As the converter writes it before a value.
    pub(super) fn json(&self) -> String {
        let mut out = String::new();
        self.push_to(&mut out, None);
        out
    }

    fn push_to(&self, out: &mut String, field: Option<&str>) {
        out.push_str("{\"type\":\"");
        out.push_str(self.of.name());
        out.push('"');
        match &self.of {
            Type::Array(items) => {
                out.push_str(",\"items\":");
                items.push_to(out, None);
            }
            Type::Struct(fields) => {
                out.push_str(",\"fields\":[");
                for (index, (name, schema)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    schema.push_to(out, Some(name));
                }
                out.push(']');
            }
            _ => {}
        }
        out.push_str(",\"optional\":");
        out.push_str(if self.optional { "true" } else { "false" });
        if let Some(name) = &self.name {
            push_member(out, "name", name);
        }
        if let Some(version) = self.version {
            out.push_str(&format!(",\"version\":{version}"));
        }
        if let Some(doc) = self.doc {
            push_member(out, "doc", doc);
        }
        self.push_parameters(out);
        if let Some(default) = &self.default {
            out.push_str(",\"default\":");
            default.push_json(out, false);
        }
        if let Some(field) = field {
            push_member(out, "field", field);
        }
        out.push('}');
    }

    fn push_parameters(&self, out: &mut String) {
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            out.push_str(if index == 0 { ",\"parameters\":{" } else { "," });
            push_string(out, name);
            out.push(':');
            push_string(out, value);
        }
        if !self.parameters.is_empty() {
            out.push('}');
        }
    }
}

fn push_member(out: &mut String, name: &str, value: &str) {
    out.push(',');
    push_string(out, name);
    out.push(':');
    push_string(out, value);
}

impl Type {
    fn name(&self) -> &'static str {
        match self {
            Type::Bool => "boolean",
            Type::Int16 => "int16",
            Type::Int32 => "int32",
            Type::Int64 => "int64",
            Type::Float => "float",
            Type::Double => "double",
            Type::Text => "string",
            Type::Bytes => "bytes",
            Type::Array(_) => "array",
            Type::Struct(_) => "struct",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_written_as_the_json_converter_does() {
        let uuid = Schema::named(Type::Text, "io.debezium.data.Uuid");
        let json = r#"{"type":"string","optional":false,"name":"io.debezium.data.Uuid","version":1}"#;
        assert_eq!(uuid.json(), json);
        assert_eq!(Schema::of(Type::Text).optional().json(), r#"{"type":"string","optional":true}"#);
        let price = Schema::named(Type::Bytes, "org.apache.kafka.connect.data.Decimal")
            .with_parameter("scale", "2".to_owned())
            .with_parameter("connect.decimal.precision", "12".to_owned());
        let note =
            Schema { default: Some(Datum::Text("none".to_owned())), ..Schema::of(Type::Text).optional() };
        let tags = Schema::of(Type::Array(Box::new(Schema::of(Type::Text).optional())));
        let fields = [("price", price), ("note", note), ("tags", tags)]
            .map(|(name, schema)| (name.to_owned(), schema));
        let envelope = Schema { name: Some("a.Value".to_owned()), ..Schema::of(Type::Struct(fields.into())) };
        let json = concat!(
            r#"{"type":"struct","fields":[{"type":"bytes","optional":false,"#,
            r#""name":"org.apache.kafka.connect.data.Decimal","version":1,"#,
            r#""parameters":{"scale":"2","connect.decimal.precision":"12"},"field":"price"},"#,
            r#"{"type":"string","optional":true,"default":"none","field":"note"},"#,
            r#"{"type":"array","items":{"type":"string","optional":true},"optional":false,"field":"tags"}],"#,
            r#""optional":false,"name":"a.Value"}"#
        );
        assert_eq!(envelope.json(), json);
    }
}
