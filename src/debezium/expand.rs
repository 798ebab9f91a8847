//! `table.expand.json.payload`: JSON text becomes a value with a schema of its own, as Debezium's router infers it.

use std::collections::HashMap;

use super::datum::Datum;
use super::json::Node;
use super::schema::{Schema, Type};

/// What becomes of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Expanded {
    /// Debezium leaves it as it is.
    Text,
    /// It leaves it as it is as well, and says of it that it has no schema.
    Free,
    Value(Schema, Datum),
    /// It would stop here, or send one thing today and another tomorrow.
    Unstable(Node),
}

/// Why there is no schema.
enum Fault {
    /// Debezium gives up and keeps the text.
    Kept,
    /// Members stand in an order that differs from run to run.
    Unstable,
}

/// Expands the text of a column. The struct is named after the column.
pub(super) fn expand(column: &str, text: &str, keeps_nulls: bool) -> Expanded {
    if !text.starts_with(['{', '[']) {
        return Expanded::Text;
    }
    let Some(node) = Node::parse(text) else { return Expanded::Text };
    let infer = Infer { keeps_nulls };
    let schema = match infer.schema(Some(column), &node) {
        Ok(Some(schema)) => schema,
        Ok(None) => return Expanded::Free,
        Err(Fault::Kept) => return Expanded::Text,
        Err(Fault::Unstable) => return Expanded::Unstable(node),
    };
    let value = match (&schema.of, &node) {
        (Type::Struct(fields), Node::Object(members)) => object(members, fields),
        _ => None,
    };
    match value {
        Some(value) => Expanded::Value(schema, value),
        None => Expanded::Unstable(node),
    }
}

struct Infer {
    keeps_nulls: bool,
}

impl Infer {
    /// The schema of a value; `None` leaves it out. A struct is named after the way to it.
    fn schema(&self, key: Option<&str>, node: &Node) -> Result<Option<Schema>, Fault> {
        Ok(match node {
            Node::Text(_) => Some(Schema::of(Type::Text).optional()),
            Node::Bool(_) => Some(Schema::of(Type::Bool).optional()),
            Node::Number(number) => Some(Schema::of(number_type(number)).optional()),
            Node::Null => self.keeps_nulls.then(|| Schema::of(Type::Bytes).optional()),
            Node::Array(elements) if elements.is_empty() => None,
            Node::Array(elements) => {
                let items = self.items(key, elements)?;
                Some(Schema::of(Type::Array(Box::new(items))).optional())
            }
            Node::Object(members) => {
                let mut fields = Vec::new();
                for (name, value) in members {
                    let path = match key.filter(|key| !key.trim().is_empty()) {
                        Some(key) => format!("{key}.{name}"),
                        None => name.clone(),
                    };
                    if let Some(schema) = self.schema(Some(&path), value)? {
                        if name.is_empty() {
                            return Err(Fault::Kept);
                        }
                        fields.push((name.clone(), schema));
                    }
                }
                Some(Schema { name: key.map(str::to_owned), ..Schema::of(Type::Struct(fields)).optional() })
            }
        })
    }

    /// The schema of an array's elements.
    fn items(&self, key: Option<&str>, elements: &[Node]) -> Result<Schema, Fault> {
        let sample = homogenous(elements).ok_or(Fault::Kept)?;
        if !matches!(sample, Node::Object(_)) {
            return self.schema(None, sample)?.ok_or(Fault::Kept);
        }
        let mut union: Option<Schema> = None;
        for element in elements.iter().filter(|element| matches!(element, Node::Object(_))) {
            let Some(schema) = self.schema(key, element)? else { continue };
            union = Some(match union {
                Some(known) => merged(known, schema)?,
                None => schema,
            });
        }
        union.ok_or(Fault::Kept)
    }
}

/// The first element that is not null, if all others are of its kind; of nulls alone, null.
fn homogenous(elements: &[Node]) -> Option<&Node> {
    let mut others = elements.iter().filter(|element| **element != Node::Null);
    let Some(sample) = others.next() else { return Some(&Node::Null) };
    let alike = others.all(|element| match (sample, element) {
        (Node::Number(one), Node::Number(other)) => number_type(one) == number_type(other),
        _ => std::mem::discriminant(sample) == std::mem::discriminant(element),
    });
    alike.then_some(sample)
}

/// One schema for objects that differ. Debezium takes them in the order of a hash, so only those have a result that does
/// not depend on it of which one has all members of the other, in the same order.
fn merged(known: Schema, schema: Schema) -> Result<Schema, Fault> {
    if known == schema {
        return Ok(known);
    }
    let name = known.name.clone();
    let (Type::Struct(known), Type::Struct(fields)) = (known.of, schema.of) else { return Err(Fault::Kept) };
    let (mut union, shorter) = if known.len() < fields.len() { (fields, known) } else { (known, fields) };
    for ((known, merged), (name, own)) in union.iter_mut().zip(shorter) {
        if *known != name {
            return Err(Fault::Unstable);
        }
        // Null is bytes, and gives way to any other type.
        match (&own.of, &merged.of) {
            _ if own == *merged => {}
            (Type::Bytes, _) => {}
            (_, Type::Bytes) => *merged = own,
            _ => return Err(Fault::Unstable),
        }
    }
    Ok(Schema { name, ..Schema::of(Type::Struct(union)) })
}

/// What Jackson makes of a number's text. An integer beyond 64 bits counts as a double here, which it does not fit.
fn number_type(number: &str) -> Type {
    match (is_integer(number), number.parse::<i64>()) {
        (true, Ok(number)) if i32::try_from(number).is_ok() => Type::Int32,
        (true, Ok(_)) => Type::Int64,
        _ => Type::Double,
    }
}

fn is_integer(number: &str) -> bool {
    !number.contains(['.', 'e', 'E'])
}

/// A value as a schema has it; `None` where Connect would refuse it.
fn value(node: &Node, schema: &Schema) -> Option<Datum> {
    let datum = match node {
        Node::Null => Datum::Null,
        Node::Bool(truth) => Datum::Bool(*truth),
        Node::Text(text) => Datum::Text(text.clone()),
        Node::Number(number) if is_integer(number) => match (&schema.of, number.parse::<i64>().ok()?) {
            (Type::Int32, number) if i32::try_from(number).is_err() => return None,
            (Type::Int64, number) if i32::try_from(number).is_ok() => return None,
            (_, number) => Datum::Int(number),
        },
        Node::Number(number) => Datum::Double(number.parse().ok()?),
        Node::Array(elements) => match &schema.of {
            Type::Array(items) => {
                Datum::List(elements.iter().map(|element| value(element, items)).collect::<Option<_>>()?)
            }
            _ => return None,
        },
        Node::Object(members) => match &schema.of {
            Type::Struct(fields) => object(members, fields)?,
            _ => return None,
        },
    };
    datum.fits(schema).then_some(datum)
}

fn object(members: &[(String, Node)], fields: &[(String, Schema)]) -> Option<Datum> {
    let nodes: HashMap<&str, &Node> = members.iter().map(|(name, node)| (name.as_str(), node)).collect();
    let member = |(name, schema): &(String, Schema)| {
        let datum = nodes.get(name.as_str()).map_or(Some(Datum::Null), |node| value(node, schema))?;
        Some((name.clone(), datum))
    };
    fields.iter().map(member).collect::<Option<_>>().map(Datum::Struct)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value without its schema, or the word for what else becomes of it.
    fn expanded(text: &str, keeps_nulls: bool) -> String {
        match expand("payload", text, keeps_nulls) {
            Expanded::Text => "text".to_owned(),
            Expanded::Free => "free".to_owned(),
            Expanded::Unstable(_) => "unstable".to_owned(),
            Expanded::Value(_, datum) => {
                let mut out = String::new();
                datum.push_json(&mut out, false);
                out
            }
        }
    }

    #[test]
    fn values_are_those_that_were_recorded() {
        for (text, expected) in [
            (r#"{"a": 1.10}"#, r#"{"a":1.1}"#),
            (r#"{"a": 1e-7, "b": 0.0001, "c": 12345678.9}"#, r#"{"a":1.0E-7,"b":1.0E-4,"c":1.23456789E7}"#),
            (r#"{"a": 1000}"#, r#"{"a":1000}"#),
            (r#"{"a": 1e22, "b": 1e400}"#, r#"{"a":1.0E22,"b":"Infinity"}"#),
            (
                r#"{"a": 9223372036854775807, "b": -2147483649}"#,
                r#"{"a":9223372036854775807,"b":-2147483649}"#,
            ),
            (r#"{"b":{"c":null,"d":[]}}"#, r#"{"b":{}}"#),
            (r#"{"a":null}"#, "{}"),
            ("{}", "{}"),
            (r#"{"a":{}}"#, r#"{"a":{}}"#),
            (r#"{"a":[null,1]}"#, r#"{"a":[null,1]}"#),
            (r#"{"a":[{"x":null},{"x":1}]}"#, r#"{"a":[{"x":null},{"x":1}]}"#),
            (r#"{"a":[{"x":1},{"x":1,"y":2}]}"#, r#"{"a":[{"x":1,"y":null},{"x":1,"y":2}]}"#),
            (r#"{"a":[[1],[]]}"#, r#"{"a":[[1],[]]}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("42", "text"),
            ("\"text\"", "text"),
            ("null", "text"),
            ("", "text"),
            (" {\"a\":1}", "text"),
            ("{\"a\":", "text"),
            (r#"{"a":[1,"x"]}"#, "text"),
            (r#"{"a":[1,2.5]}"#, "text"),
            (r#"{"a":[1,3000000000]}"#, "text"),
            (r#"{"a":[null]}"#, "text"),
            (r#"{"a":[[],[1]]}"#, "text"),
            (r#"{"":1}"#, "text"),
            ("[]", "free"),
            ("[1]", "unstable"),
            (r#"[{"a":1}]"#, "unstable"),
            (r#"{"a":12345678901234567890}"#, "unstable"),
            (r#"{"a":[12345678901234567890]}"#, "unstable"),
            (r#"{"a":[{"x":1},{"x":"s"}]}"#, "unstable"),
            (r#"{"a":[{"x":1},{"y":2}]}"#, "unstable"),
            (r#"{"a":[[1],["x"]]}"#, "unstable"),
        ] {
            assert_eq!(expanded(text, false), expected, "{text}");
        }
    }

    #[test]
    fn nulls_can_be_kept() {
        for (text, expected) in [
            (r#"{"a":null}"#, r#"{"a":null}"#),
            (r#"{"a":null,"d":[]}"#, r#"{"a":null}"#),
            (r#"{"a":[null]}"#, r#"{"a":[null]}"#),
            (r#"{"a":[{"x":null},{"x":1}]}"#, r#"{"a":[{"x":null},{"x":1}]}"#),
        ] {
            assert_eq!(expanded(text, true), expected, "{text}");
        }
    }

    #[test]
    fn structs_are_named_after_the_way_to_them() {
        let Expanded::Value(schema, _) = expand("payload", r#"{"a":{"b":1},"c":[{"d":true}]}"#, false) else {
            panic!("a value")
        };
        let json = concat!(
            r#"{"type":"struct","fields":[{"type":"struct","fields":[{"type":"int32","optional":true,"field":"b"}],"#,
            r#""optional":true,"name":"payload.a","field":"a"},{"type":"array","items":{"type":"struct","fields":"#,
            r#"[{"type":"boolean","optional":true,"field":"d"}],"optional":true,"name":"payload.c"},"optional":true,"#,
            r#""field":"c"}],"optional":true,"name":"payload"}"#
        );
        assert_eq!(schema.json(), json);
    }
}
