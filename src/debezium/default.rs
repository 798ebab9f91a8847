//! The default of a column as the connector understands it: a literal is its value, a function stands for an epoch or a
//! zero, and anything else is none.

use super::column::{ColumnFacts, Form};
use super::datum::Datum;

/// What the server writes for functions without parentheses.
const NOW: [&str; 5] = ["current_timestamp", "current_time", "current_date", "localtime", "localtimestamp"];

/// The value behind `DEFAULT`, if the connector can tell it.
pub(super) fn default_of(facts: &ColumnFacts, expression: &str, form: &Form) -> Option<Datum> {
    if !facts.labels.is_empty() {
        return label(facts, expression).map(Datum::Text);
    }
    let (placeholder, trims) = placeholder(&facts.declared)?;
    let expression = if trims { expression.trim() } else { expression };
    let text = literal(expression, placeholder)?;
    let text = match facts.declared.as_str() {
        "bool" => text.to_lowercase(),
        "uuid" => uuid::Uuid::try_parse(text).ok()?.hyphenated().to_string(),
        "timestamp" => timed(text),
        "timestamptz" => zoned(&timed(text)),
        "time" if text.matches(':').count() == 1 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    // The connector has no value for a default that is a struct.
    if *form == Form::Variable { None } else { form.read(&text).ok() }
}

/// What stands for a function, and whether spaces around the expression are cut off.
fn placeholder(declared: &str) -> Option<(&'static str, bool)> {
    Some(match declared {
        "bool" => ("false", true),
        "bpchar" | "varchar" | "text" | "xml" => ("", false),
        "numeric" | "float4" | "float8" => ("0.0", true),
        "int2" | "int4" | "int8" => ("0", true),
        "json" | "jsonb" => ("{}", false),
        "uuid" => ("00000000-0000-0000-0000-000000000000", true),
        "date" | "timestamp" | "timestamptz" => ("1970-01-01", true),
        "time" => ("00:00", true),
        _ => return None,
    })
}

/// What stands between the first two quotes, or all if there is none.
fn literal<'a>(expression: &'a str, placeholder: &'a str) -> Option<&'a str> {
    if is_function(expression) || NOW.contains(&expression.to_lowercase().as_str()) {
        return Some(placeholder);
    }
    match expression.split_once('\'') {
        Some((_, rest)) => rest.split_once('\'').map(|(literal, _)| literal),
        None if expression.starts_with("NULL::") => None,
        None => Some(expression),
    }
}

/// A name and parentheses behind it.
fn is_function(expression: &str) -> bool {
    let text = expression.strip_prefix('(').unwrap_or(expression);
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != '.');
    end.is_some_and(|end| end > 0 && text[end..].starts_with('(') && text[end..].contains(')'))
}

/// `'sad'::mood` or `'sad'::public.mood`.
fn label(facts: &ColumnFacts, expression: &str) -> Option<String> {
    let (literal, of) = expression.rsplit_once("::")?;
    let name = of.rsplit('.').next().unwrap_or(of).trim_matches('"');
    let literal = literal.strip_prefix('\'')?.strip_suffix('\'')?;
    (name == facts.declared).then(|| literal.to_owned())
}

/// A date alone is its midnight.
fn timed(text: &str) -> String {
    if text.contains(' ') || text.ends_with("infinity") {
        text.to_owned()
    } else {
        format!("{text} 00:00:00")
    }
}

/// Without an offset it is in UTC, where servers stand.
fn zoned(text: &str) -> String {
    let time = text.split_once(' ').map_or("", |(_, time)| time);
    let has_offset = time.contains(['+', '-']) || text.ends_with("infinity");
    if has_offset { text.to_owned() } else { format!("{text}+00") }
}
