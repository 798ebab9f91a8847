//! From the routing column's text to a topic, as Kafka's `RegexRouter` does it with Java's regular expressions.
//!
//! A pattern is translated, token by token, into one that means the same here; whatever may mean something else is refused.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Captures, Regex};

/// A pattern and what a text that matches it becomes.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pattern: String,
    replacement: String,
    /// Whether the whole text matches.
    whole: Regex,
    /// The first match in it, which is what gets replaced.
    first: Regex,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Group(usize),
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        (&self.pattern, &self.replacement) == (&other.pattern, &other.replacement)
    }
}

impl Eq for Route {}

/// Which of the two can't be used, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WrongRoute {
    Pattern(String),
    Replacement(String),
}

impl Route {
    pub(super) fn new(pattern: &str, replacement: &str) -> Result<Self, WrongRoute> {
        let translated = translated(pattern).map_err(WrongRoute::Pattern)?;
        let compile = |text: &str| {
            let wrong = |_| WrongRoute::Pattern("it is no regular expression that can be used".to_owned());
            Regex::new(text).map_err(wrong)
        };
        let whole = compile(&format!("\\A(?:{translated})\\z"))?;
        let first = compile(&translated)?;
        let pieces = pieces(replacement, &first).map_err(WrongRoute::Replacement)?;
        Ok(Route { pattern: pattern.to_owned(), replacement: replacement.to_owned(), whole, first, pieces })
    }

    /// The topic; of a text that does not match, the text.
    pub(super) fn topic(&self, routed_by: &str) -> String {
        if !self.whole.is_match(routed_by) {
            return routed_by.to_owned();
        }
        let replaced = |captures: &Captures<'_>| {
            let mut topic = String::new();
            for piece in &self.pieces {
                match piece {
                    Piece::Text(text) => topic.push_str(text),
                    Piece::Group(group) => {
                        topic.push_str(captures.get(*group).map_or("", |group| group.as_str()))
                    }
                }
            }
            topic
        };
        self.first.replace(routed_by, replaced).into_owned()
    }

    /// What stands for the topic, for a person.
    pub(super) fn shown(&self) -> &str {
        &self.replacement
    }
}

/// The pattern in the syntax of the crate `regex`.
fn translated(pattern: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut letters = pattern.chars().peekable();
    let mut is_quantified = false;
    while let Some(letter) = letters.next() {
        let was_quantified = std::mem::take(&mut is_quantified);
        match letter {
            '\\' => out.push_str(&escape(&mut letters)?),
            '(' => group(&mut letters, &mut out)?,
            '[' => class(&mut letters, &mut out)?,
            '.' => out.push_str("[^\\n\\r\\x{85}\\x{2028}\\x{2029}]"),
            '+' if was_quantified => return Err("it has a possessive quantifier".to_owned()),
            '?' if was_quantified => out.push('?'),
            '*' | '+' | '?' => {
                is_quantified = true;
                out.push(letter);
            }
            '{' => {
                is_quantified = true;
                counted(&mut letters, &mut out)?;
            }
            ')' | '|' => out.push(letter),
            '^' => out.push_str("\\A"),
            // Java's $ matches before a line's end as well, which no topic has.
            '$' => out.push_str("\\z"),
            plain => out.push_str(&regex::escape(plain.encode_utf8(&mut [0; 4]))),
        }
    }
    Ok(out)
}

/// `{n}`, `{n,}` or `{n,m}`.
fn counted(letters: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    out.push('{');
    for letter in letters.by_ref() {
        out.push(letter);
        match letter {
            '0'..='9' | ',' => {}
            '}' => return Ok(()),
            _ => break,
        }
    }
    Err("a { has no count behind it".to_owned())
}

/// A group with or without a name, or one that is not counted.
fn group(letters: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    out.push('(');
    if letters.peek() != Some(&'?') {
        return Ok(());
    }
    letters.next();
    out.push('?');
    match letters.next() {
        Some(':') => out.push(':'),
        Some('<') if letters.peek().is_some_and(char::is_ascii_alphabetic) => out.push('<'),
        _ => return Err("it looks ahead or behind, or has flags".to_owned()),
    }
    Ok(())
}

fn escape(letters: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let letter = letters.next().ok_or("it ends with a backslash")?;
    Ok(match letter {
        'd' => "[0-9]".to_owned(),
        'D' => "[^0-9]".to_owned(),
        'w' => "[A-Za-z0-9_]".to_owned(),
        'W' => "[^A-Za-z0-9_]".to_owned(),
        's' => "[ \\t\\n\\x0B\\f\\r]".to_owned(),
        'S' => "[^ \\t\\n\\x0B\\f\\r]".to_owned(),
        't' | 'n' | 'r' | 'f' => format!("\\{letter}"),
        'A' | 'z' => format!("\\{letter}"),
        plain if plain.is_ascii_punctuation() => regex::escape(plain.encode_utf8(&mut [0; 4])),
        other => return Err(format!("\\{other} means something else here")),
    })
}

/// A class of letters, ranges and simple escapes.
fn class(letters: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    let odd = || Err("it has a class in a class".to_owned());
    out.push('[');
    if letters.peek() == Some(&'^') {
        letters.next();
        out.push('^');
    }
    let mut is_empty = true;
    while let Some(letter) = letters.next() {
        match letter {
            ']' if is_empty => return odd(),
            ']' => {
                out.push(']');
                return Ok(());
            }
            '[' => return odd(),
            '&' if letters.peek() == Some(&'&') => return odd(),
            '\\' => match letters.next() {
                Some('d') => out.push_str("0-9"),
                Some('w') => out.push_str("A-Za-z0-9_"),
                Some('s') => out.push_str(" \\t\\n\\x0B\\f\\r"),
                Some(plain) if plain.is_ascii_punctuation() => {
                    out.push('\\');
                    out.push(plain);
                }
                _ => return odd(),
            },
            // A range that begins or ends with a hyphen; here it would be a difference.
            '-' if letters.peek() == Some(&'-') => return Err("it has two hyphens in a class".to_owned()),
            '-' => out.push('-'),
            '~' | '^' => {
                out.push('\\');
                out.push(letter);
            }
            '&' => out.push_str("\\&"),
            plain => out.push(plain),
        }
        is_empty = false;
    }
    Err("a [ has no ]".to_owned())
}

/// The pieces of a replacement: `$1`, `${name}`, and `\` before a letter that means itself.
fn pieces(replacement: &str, pattern: &Regex) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut letters = replacement.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.push(letters.next().ok_or("it ends with a backslash")?),
            '$' => {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                pieces.push(Piece::Group(reference(&mut letters, pattern)?));
            }
            letter => plain.push(letter),
        }
    }
    pieces.push(Piece::Text(plain));
    Ok(pieces)
}

fn reference(letters: &mut Peekable<Chars<'_>>, pattern: &Regex) -> Result<usize, String> {
    if letters.peek() == Some(&'{') {
        letters.next();
        let mut name = String::new();
        loop {
            match letters.next() {
                Some('}') => break,
                Some(letter) => name.push(letter),
                None => return Err("a ${ has no }".to_owned()),
            }
        }
        let group = pattern.capture_names().position(|own| own == Some(name.as_str()));
        return group.ok_or_else(|| format!("the pattern has no group `{name}`"));
    }
    let digit = |letter: char| letter.to_digit(10).and_then(|digit| usize::try_from(digit).ok());
    let mut group = letters.next().and_then(digit).ok_or("a $ has no group behind it")?;
    // As many digits as there can be groups.
    while let Some(longer) = letters.peek().copied().and_then(digit).map(|digit| group * 10 + digit)
        && longer < pattern.captures_len()
    {
        group = longer;
        letters.next();
    }
    if group < pattern.captures_len() { Ok(group) } else { Err(format!("the pattern has no group {group}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_topics_as_in_java() {
        let default = ("(?<routedByValue>.*)", "outbox.event.${routedByValue}");
        for ((pattern, replacement), text, topic) in [
            (default, "Order", "outbox.event.Order"),
            (default, "", "outbox.event."),
            (default, "a b", "outbox.event.a b"),
            (("(.*)\\.(\\w+)", "$2-$1"), "shop.order", "order-shop"),
            (("(.*)\\.(\\w+)", "$2-$1"), "order", "order"),
            (("(a)|b", "<$1>"), "b", "<>"),
            (("(a)(b)?", "$1$12"), "a", "aa2"),
            (("(.*)", "\\$1.\\\\$1"), "x", "$1.\\x"),
            (("a|ab", "c"), "ab", "cb"),
            (("[\\w.-]+?", "t"), "a.b-c", "t.b-c"),
            (("(?:x{2,3})(?<rest>[^-]*)-?", "${rest}"), "xxay-", "ay"),
        ] {
            let route = Route::new(pattern, replacement).expect(pattern);
            assert_eq!(route.topic(text), topic, "{pattern} {text}");
        }
    }

    #[test]
    fn what_may_mean_something_else_is_refused() {
        let whole = "(?<routedByValue>.*)";
        for (pattern, replacement) in [
            ("(?i)a", "x"),
            ("(?=a)", "x"),
            ("(?<!a)b", "x"),
            ("a*+", "x"),
            ("\\p{Alpha}", "x"),
            ("\\Qa\\E", "x"),
            ("(a)\\1", "x"),
            ("\\bx", "x"),
            ("[a&&[b]]", "x"),
            ("[]a]", "x"),
            ("[+--]", "x"),
            ("(", "x"),
            ("a\\", "x"),
            ("a{x}", "x"),
        ] {
            assert!(matches!(Route::new(pattern, replacement), Err(WrongRoute::Pattern(_))), "{pattern}");
        }
        for replacement in ["$", "$x", "${routed}", "${routedByValue", "$2", "x\\"] {
            let route = Route::new(whole, replacement);
            assert!(matches!(route, Err(WrongRoute::Replacement(_))), "{replacement}");
        }
    }
}
