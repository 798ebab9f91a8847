//! Templates over columns: `outbox.event.{aggregatetype}`.
//!
//! ```text
//! template  = { text | "{{" | "}}" | "{" source { "|" source } "}" | "{$schema}" | "{$table}" }
//! source    = column [ "?" ] { "." member }
//! column    = name | '"' quoted name '"'
//! ```
//! A source is a column's text, or, with members, what stands there in its JSON. The first source that is not null
//! counts; if all are null, so is the whole template. `?` allows that the table has no such column, which is then null.
//! `{$schema}` and `{$table}` are the names of the row's table, as they were configured.

use std::fmt;
use std::sync::Arc;

/// Where a part of a record comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) pieces: Vec<Piece>,
    /// As it was written.
    text: String,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// The first of these that is not null.
    Choice(Vec<Source>),
    /// The schema of the row's table.
    Schema,
    /// The row's table, without its schema.
    Table,
}

/// A column, or what stands at a place in its JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) column: String,
    /// The table may lack it.
    pub(crate) optional: bool,
    /// From the outermost in; of an array, the index.
    pub(crate) members: Vec<String>,
}

impl Template {
    /// Nothing.
    pub(crate) fn empty() -> Self {
        Template { pieces: Vec::new(), text: String::new() }
    }

    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let doubled = rest.starts_with("{{") || rest.starts_with("}}");
            if doubled {
                plain.push(letter);
                rest = &rest[2..];
            } else if letter == '{' {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                let (piece, after) = braced(&rest[1..])?;
                pieces.push(piece);
                rest = after;
            } else if letter == '}' {
                return Err("there is a } without its {; write }} for the character itself".to_owned());
            } else {
                plain.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Template { pieces, text: text.to_owned() })
    }

    /// The one column that it is, without anything else.
    pub(crate) fn bare(&self) -> Option<&Source> {
        match self.pieces.as_slice() {
            [Piece::Choice(sources)] => match sources.as_slice() {
                [source] if source.members.is_empty() => Some(source),
                _ => None,
            },
            _ => None,
        }
    }

    /// The column that a fault of it is to be blamed on.
    pub(crate) fn blamed(&self) -> Arc<str> {
        let column = self.sources().next().map(|source| source.column.clone());
        Arc::from(column.unwrap_or_else(|| self.to_string()))
    }

    /// Every source in it.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.pieces.iter().flat_map(|piece| match piece {
            Piece::Choice(sources) => sources.as_slice(),
            Piece::Text(_) | Piece::Schema | Piece::Table => &[],
        })
    }
}

/// As it was written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What stands between braces, and the rest behind them.
fn braced(text: &str) -> Result<(Piece, &str), String> {
    for (name, piece) in [("$schema}", Piece::Schema), ("$table}", Piece::Table)] {
        if let Some(rest) = text.strip_prefix(name) {
            return Ok((piece, rest));
        }
    }
    if text.starts_with('$') {
        let what = "of the names with a $ there are {$schema} and {$table}, each alone between its braces; a column \
                    of such a name stands in double quotes";
        return Err(what.to_owned());
    }
    let (sources, rest) = choice(text)?;
    Ok((Piece::Choice(sources), rest))
}

/// Sources up to the brace, and the rest behind it.
fn choice(text: &str) -> Result<(Vec<Source>, &str), String> {
    let mut sources = Vec::new();
    let mut rest = text;
    loop {
        let (source, after) = source(rest)?;
        sources.push(source);
        rest = after;
        if let Some(after) = rest.strip_prefix('|') {
            rest = after;
        } else if let Some(after) = rest.strip_prefix('}') {
            return Ok((sources, after));
        } else {
            return Err(match rest.chars().next() {
                Some(letter) => {
                    format!("{letter:?} can't stand between braces; put an odd name in double quotes")
                }
                None => "a { has no }; write {{ for the character itself".to_owned(),
            });
        }
    }
}

fn source(text: &str) -> Result<(Source, &str), String> {
    let (column, mut rest) = name(text)?;
    let optional = rest.starts_with('?');
    rest = rest.strip_prefix('?').unwrap_or(rest);
    let mut members = Vec::new();
    while let Some(after) = rest.strip_prefix('.') {
        let (member, after) = name(after)?;
        members.push(member);
        rest = after;
    }
    Ok((Source { column, optional, members }, rest))
}

/// A name, exactly as in the catalog or the JSON: nothing is folded to lower case.
fn name(text: &str) -> Result<(String, &str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (mut name, mut rest) = (String::new(), quoted);
        loop {
            let (part, after) = rest.split_once('"').ok_or("a quoted name has no end")?;
            name.push_str(part);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    rest = after;
                }
                None if name.is_empty() => return Err("a name between quotes is empty".to_owned()),
                None => return Ok((name, after)),
            }
        }
    }
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '$' | '-');
    let end = text.find(|letter| !plain(letter)).unwrap_or(text.len());
    match text.split_at(end) {
        ("", _) => Err("a column's name is missing between braces".to_owned()),
        (name, rest) => Ok((name.to_owned(), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(column: &str, members: &[&str]) -> Source {
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        Source { column: column.to_owned(), optional: false, members }
    }

    #[test]
    fn text_and_columns_alternate() {
        let template = Template::parse("outbox.event.{aggregatetype}.{{v1}}").expect("a template");
        let expected = [
            Piece::Text("outbox.event.".to_owned()),
            Piece::Choice(vec![source("aggregatetype", &[])]),
            Piece::Text(".{v1}".to_owned()),
        ];
        assert_eq!(template.pieces, expected);
        assert!(template.bare().is_none());
        assert_eq!(template.to_string(), "outbox.event.{aggregatetype}.{{v1}}");
    }

    #[test]
    fn sources_fall_back_and_reach_into_json() {
        let template = Template::parse(r#"{payload.task_id|payload.items.0."odd.name"|"My ""Id"""?}"#);
        let expected = [
            source("payload", &["task_id"]),
            source("payload", &["items", "0", "odd.name"]),
            Source { optional: true, ..source("My \"Id\"", &[]) },
        ];
        assert_eq!(template.expect("a template").pieces, [Piece::Choice(expected.into())]);
    }

    #[test]
    fn the_table_can_be_named() {
        let template = Template::parse("{$schema}.{$table}.{a}").expect("a template");
        let dot = || Piece::Text(".".to_owned());
        let expected = [Piece::Schema, dot(), Piece::Table, dot(), Piece::Choice(vec![source("a", &[])])];
        assert_eq!(template.pieces, expected);
        assert_eq!(template.sources().count(), 1);
        let quoted = Template::parse("{\"$schema\"}").expect("a template");
        assert_eq!(quoted.pieces, [Piece::Choice(vec![source("$schema", &[])])]);
    }

    #[test]
    fn a_bare_column_is_known_as_such() {
        for (text, column) in
            [("{key}", Some("key")), ("{key?}", Some("key")), ("{a.b}", None), ("{a|b}", None), ("x", None)]
        {
            let template = Template::parse(text).expect(text);
            assert_eq!(template.bare().map(|source| &*source.column), column, "{text}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused_with_the_reason() {
        for (text, reason) in [
            ("{", "a column's name is missing"),
            ("{}", "a column's name is missing"),
            ("{a", "a { has no }"),
            ("a}", "a } without its {"),
            ("{a b}", "' ' can't stand between braces"),
            ("{a|}", "a column's name is missing"),
            ("{a.}", "a column's name is missing"),
            ("{\"a}", "a quoted name has no end"),
            ("{$schemas}", "{$schema} and {$table}"),
            ("{$schema|a}", "each alone"),
            ("{\"\"}", "a name between quotes is empty"),
        ] {
            let error = Template::parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
