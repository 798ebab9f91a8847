//! A value between the database and a record, and the texts that Connect's converters make of it.

use super::json::push_string;
use super::number::{Decimal, double, float};
use super::schema::{Schema, Type};

/// A value; what type it is says its schema.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Datum {
    Null,
    Bool(bool),
    Int(i64),
    Float(f32),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Decimal(Decimal),
    List(Vec<Datum>),
    Struct(Vec<(String, Datum)>),
    /// JSON that no schema describes: what stands in it without spaces, and as it was written.
    Json {
        compact: String,
        written: String,
    },
}

impl Datum {
    pub(super) fn is_null(&self) -> bool {
        *self == Datum::Null
    }

    /// Whether JSON that no schema describes is in it.
    pub(super) fn is_free(&self) -> bool {
        match self {
            Datum::Json { .. } => true,
            Datum::Struct(members) => members.iter().any(|(_, value)| value.is_free()),
            _ => false,
        }
    }

    /// Adds it as the JSON converter does; decimals as numbers, or as the base64 of their bytes.
    pub(super) fn push_json(&self, out: &mut String, numeric: bool) {
        match self {
            Datum::Null => out.push_str("null"),
            Datum::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Datum::Int(number) => out.push_str(&number.to_string()),
            Datum::Float(number) => push_number(out, &float(*number), number.is_finite()),
            Datum::Double(number) => push_number(out, &double(*number), number.is_finite()),
            Datum::Text(text) => push_string(out, text),
            Datum::Bytes(bytes) => push_string(out, &base64(bytes)),
            Datum::Decimal(number) if numeric => out.push_str(&number.text()),
            Datum::Decimal(number) => push_string(out, &base64(&number.bytes())),
            Datum::List(elements) => {
                out.push('[');
                separated(out, elements, ",", |out, element| element.push_json(out, numeric));
                out.push(']');
            }
            Datum::Struct(members) => {
                out.push('{');
                separated(out, members, ",", |out, (name, value)| {
                    push_string(out, name);
                    out.push(':');
                    value.push_json(out, numeric);
                });
                out.push('}');
            }
            Datum::Json { compact, .. } => out.push_str(compact),
        }
    }

    /// Java's `toString`, which the string converter sends; `None` is null.
    pub(super) fn java_text(&self) -> Option<String> {
        let mut out = String::new();
        match self {
            Datum::Null => return None,
            Datum::Text(text) => out.push_str(text),
            other => other.push_java(&mut out),
        }
        Some(out)
    }

    fn push_java(&self, out: &mut String) {
        match self {
            Datum::Null => out.push_str("null"),
            Datum::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Datum::Int(number) => out.push_str(&number.to_string()),
            Datum::Float(number) => out.push_str(&float(*number)),
            Datum::Double(number) => out.push_str(&double(*number)),
            Datum::Text(text) => out.push_str(text),
            // A table with bytes for the string converter is refused before; Java would show where they are.
            Datum::Bytes(bytes) => out.push_str(&base64(bytes)),
            Datum::Decimal(number) => out.push_str(&number.text()),
            Datum::List(elements) => {
                out.push('[');
                separated(out, elements, ", ", |out, element| element.push_java(out));
                out.push(']');
            }
            Datum::Struct(members) => {
                out.push_str("Struct{");
                let shown: Vec<_> = members.iter().filter(|(_, value)| !value.is_null()).collect();
                separated(out, &shown, ",", |out, (name, value)| {
                    out.push_str(name);
                    out.push('=');
                    value.push_java(out);
                });
                out.push('}');
            }
            Datum::Json { written, .. } => out.push_str(written),
        }
    }

    /// What Connect's simple converter makes of a header; `None` is null.
    pub(super) fn header_text(&self) -> Option<String> {
        let mut out = String::new();
        match self {
            Datum::Null => return None,
            Datum::Text(text) => out.push_str(text),
            Datum::Bytes(bytes) => out.push_str(&base64(bytes)),
            other => other.push_embedded(&mut out),
        }
        Some(out)
    }

    fn push_embedded(&self, out: &mut String) {
        match self {
            Datum::Text(text) => push_quoted(out, text),
            Datum::Bytes(bytes) => push_quoted(out, &base64(bytes)),
            Datum::List(elements) => {
                out.push('[');
                separated(out, elements, ",", |out, element| element.push_embedded(out));
                out.push(']');
            }
            Datum::Struct(members) => {
                out.push('{');
                separated(out, members, ",", |out, (name, value)| {
                    push_quoted(out, name);
                    out.push(':');
                    value.push_embedded(out);
                });
                out.push('}');
            }
            other => other.push_java(out),
        }
    }

    /// Whether Connect takes the value for one of that schema.
    pub(super) fn fits(&self, schema: &Schema) -> bool {
        match (self, &schema.of) {
            (Datum::Null, _) => schema.optional,
            (Datum::Bool(_), Type::Bool)
            | (Datum::Int(_), Type::Int16 | Type::Int32 | Type::Int64)
            | (Datum::Float(_), Type::Float)
            | (Datum::Double(_), Type::Double)
            | (Datum::Text(_), Type::Text)
            | (Datum::Bytes(_) | Datum::Decimal(_), Type::Bytes) => true,
            (Datum::List(elements), Type::Array(items)) => elements.iter().all(|element| element.fits(items)),
            (Datum::Struct(_), Type::Struct(_)) => true,
            _ => false,
        }
    }
}

fn push_number(out: &mut String, text: &str, is_finite: bool) {
    if is_finite { out.push_str(text) } else { push_string(out, text) }
}

/// Between quotes, as Connect's `Values` does it: only quotes and backslashes are escaped.
fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
}

fn separated<T>(out: &mut String, items: &[T], between: &str, push: impl Fn(&mut String, &T)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(between);
        }
        push(out, item);
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for place in 0..4_usize {
            let shift = 18 - 6 * place;
            let letter = ALPHABET[((bits >> shift) & 63) as usize];
            out.push(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(datum: &Datum) -> String {
        let mut out = String::new();
        datum.push_json(&mut out, false);
        out
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\x02\x71", "AnE=")]
        {
            assert_eq!(base64(bytes), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn each_converter_has_its_own_text() {
        let text = |text: &str| Datum::Text(text.to_owned());
        let decimal = Datum::Decimal(Decimal::parse("6.25").expect("a number"));
        let list = Datum::List(vec![text("a\"b"), Datum::Null, Datum::Int(1)]);
        let members = [("x", Datum::Null), ("y", text("z")), ("list", list.clone())];
        let row = Datum::Struct(members.map(|(name, value)| (name.to_owned(), value)).into());
        for (datum, as_json, java, header) in [
            (Datum::Null, "null", None, None),
            (Datum::Bool(true), "true", Some("true"), Some("true")),
            (Datum::Int(190), "190", Some("190"), Some("190")),
            (Datum::Double(f64::INFINITY), "\"Infinity\"", Some("Infinity"), Some("Infinity")),
            (Datum::Float(1.5), "1.5", Some("1.5"), Some("1.5")),
            (text("a\"\\b"), r#""a\"\\b""#, Some("a\"\\b"), Some("a\"\\b")),
            (Datum::Bytes(vec![0, 1]), "\"AAE=\"", Some("AAE="), Some("AAE=")),
            (decimal, "\"AnE=\"", Some("6.25"), Some("6.25")),
            (list, r#"["a\"b",null,1]"#, Some("[a\"b, null, 1]"), Some(r#"["a\"b",null,1]"#)),
            (
                row,
                r#"{"x":null,"y":"z","list":["a\"b",null,1]}"#,
                Some("Struct{y=z,list=[a\"b, null, 1]}"),
                Some(r#"{"x":null,"y":"z","list":["a\"b",null,1]}"#),
            ),
        ] {
            assert_eq!(json(&datum), as_json);
            assert_eq!(datum.java_text().as_deref(), java);
            assert_eq!(datum.header_text().as_deref(), header);
        }
    }
}
