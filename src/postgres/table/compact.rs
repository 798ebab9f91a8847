//! JSON as most programs write it: without whitespace, members in the order of their names.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::value::Unfit;

/// Below this depth all stays as it is written: every level is read once more.
const DEPTH: usize = 128;

/// The same JSON, compact. Numbers stay as they are written, escapes in strings only where they must be; of members with one
/// name, the last counts.
pub(super) fn compact(json: &str) -> Result<String, Unfit> {
    let mut text = String::with_capacity(json.len());
    let json: &RawValue = serde_json::from_str(json).map_err(|_| Unfit::NotJson)?;
    push(json, DEPTH, &mut text)?;
    Ok(text)
}

fn push(json: &RawValue, depth: usize, text: &mut String) -> Result<(), Unfit> {
    let written = json.get();
    match written.as_bytes().first() {
        Some(b'{') if depth > 0 => {
            let members: BTreeMap<Cow<'_, str>, &RawValue> =
                serde_json::from_str(written).map_err(|_| Unfit::NotJson)?;
            text.push('{');
            for (index, (name, value)) in members.iter().enumerate() {
                comma(index, text);
                text.push_str(&serde_json::to_string(name).map_err(|_| Unfit::NotJson)?);
                text.push(':');
                push(value, depth - 1, text)?;
            }
            text.push('}');
        }
        Some(b'[') if depth > 0 => {
            let elements: Vec<&RawValue> = serde_json::from_str(written).map_err(|_| Unfit::NotJson)?;
            text.push('[');
            for (index, value) in elements.iter().enumerate() {
                comma(index, text);
                push(value, depth - 1, text)?;
            }
            text.push(']');
        }
        Some(b'"') if written.contains('\\') => text.push_str(&unescaped(written)),
        _ => text.push_str(written),
    }
    Ok(())
}

/// A string as a program writes it that has read it; one with half a surrogate pair, which none can read, as it is.
fn unescaped(written: &str) -> Cow<'_, str> {
    let read = serde_json::from_str::<String>(written).and_then(|read| serde_json::to_string(&read));
    read.map_or(Cow::Borrowed(written), Cow::Owned)
}

fn comma(index: usize, text: &mut String) {
    if index > 0 {
        text.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_goes_and_members_are_sorted() {
        let jsonb = r#" {"b": [1, 2.50, -3e2, {"y": " , \" ", "x": {}}], "zz": null, "amount": 12345678901234567890.10} "#;
        let expected =
            r#"{"amount":12345678901234567890.10,"b":[1,2.50,-3e2,{"x":{},"y":" , \" "}],"zz":null}"#;
        assert_eq!(compact(jsonb).as_deref(), Ok(expected));
        for same in ["7", "null", "[]", "{}", r#"" a ""#] {
            assert_eq!(compact(same).as_deref(), Ok(same));
        }
        assert_eq!(compact("{\"a\": 1} x"), Err(Unfit::NotJson));
    }

    /// A json or text column has escapes that jsonb has not.
    #[test]
    fn names_and_strings_are_escaped_alike() {
        let json = r#"{"\u00fc\/": ["\u00fc\/", "\"\n\u0001\\", "\ud83d\ude00", "\ud83d"]}"#;
        let expected = "{\"ü/\":[\"ü/\",\"\\\"\\n\\u0001\\\\\",\"😀\",\"\\ud83d\"]}";
        assert_eq!(compact(json).as_deref(), Ok(expected));
    }

    /// What programs make of the text that the server sends, which they read and write again.
    #[test]
    fn it_is_what_serde_json_writes() {
        let value = serde_json::json!({"ü": "\u{1}\t\n\u{7f}/\\\"é✅", "": [true, {"b": 19.99, "a": u64::MAX}], "a": i64::MIN});
        let spaced = serde_json::to_string_pretty(&value).expect("JSON");
        assert_eq!(compact(&spaced), Ok(value.to_string()));
    }

    #[test]
    fn what_is_nested_very_deeply_takes_no_stack() {
        let deep = format!("{}{}", "[ ".repeat(100_000), "]".repeat(100_000));
        let made = compact(&deep).expect("JSON");
        assert!(made.starts_with("[[[") && made.len() < deep.len());
    }
}
