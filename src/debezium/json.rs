//! JSON as Jackson writes it, and as it reads it.

use std::fmt::Write as _;

/// Objects and arrays in each other, at most; so many does Jackson read.
const MAX_DEPTH: usize = 1000;
/// The longest number that Jackson reads.
const MAX_NUMBER: usize = 1000;

/// Adds a text between quotes. What lies beyond the first plane is escaped, unlike all other letters.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => push_escape(out, u32::from(control)),
            astral if astral > '\u{ffff}' => {
                let mut pair = [0; 2];
                for unit in astral.encode_utf16(&mut pair) {
                    push_escape(out, u32::from(*unit));
                }
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
}

fn push_escape(out: &mut String, unit: u32) {
    // Writing to a string can't fail.
    let _ = write!(out, "\\u{unit:04X}");
}

/// A value of JSON; of an object's members the last of a name counts, at the place of the first.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Reads the first value of a text; what follows it is not looked at, as Jackson does not.
    pub(super) fn parse(text: &str) -> Option<Node> {
        let mut reader = Reader { rest: text };
        reader.value(0)
    }

    /// Adds the value without spaces, its numbers as they were written.
    pub(super) fn push_to(&self, out: &mut String) {
        match self {
            Node::Null => out.push_str("null"),
            Node::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Node::Number(number) => out.push_str(number),
            Node::Text(text) => push_string(out, text),
            Node::Array(elements) => {
                out.push('[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    element.push_to(out);
                }
                out.push(']');
            }
            Node::Object(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    push_string(out, name);
                    out.push(':');
                    value.push_to(out);
                }
                out.push('}');
            }
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        self.skip_space();
        match self.rest.bytes().next()? {
            b'{' | b'[' if depth >= MAX_DEPTH => None,
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            b'"' => self.text().map(Node::Text),
            b't' => self.take("true").map(|()| Node::Bool(true)),
            b'f' => self.take("false").map(|()| Node::Bool(false)),
            b'n' => self.take("null").map(|()| Node::Null),
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Node> {
        self.take("{")?;
        let mut members: Vec<(String, Node)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        self.skip_space();
        if self.take("}").is_some() {
            return Some(Node::Object(members));
        }
        loop {
            self.skip_space();
            let name = self.text()?;
            self.skip_space();
            self.take(":")?;
            let value = self.value(depth)?;
            match places.get(&name) {
                Some(&place) => members.get_mut(place).map(|member: &mut (String, Node)| member.1 = value)?,
                None => {
                    places.insert(name.clone(), members.len());
                    members.push((name, value));
                }
            }
            self.skip_space();
            if self.take("}").is_some() {
                return Some(Node::Object(members));
            }
            self.take(",")?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<Node> {
        self.take("[")?;
        let mut elements = Vec::new();
        self.skip_space();
        if self.take("]").is_some() {
            return Some(Node::Array(elements));
        }
        loop {
            elements.push(self.value(depth)?);
            self.skip_space();
            if self.take("]").is_some() {
                return Some(Node::Array(elements));
            }
            self.take(",")?;
        }
    }

    fn number(&mut self) -> Option<Node> {
        let end = self
            .rest
            .find(|letter: char| !matches!(letter, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'))
            .unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        if number.len() > MAX_NUMBER || !is_number(number) {
            return None;
        }
        self.rest = rest;
        Some(Node::Number(number.to_owned()))
    }

    fn text(&mut self) -> Option<String> {
        self.take("\"")?;
        let mut text = String::new();
        loop {
            let end = self.rest.find(|letter: char| letter == '"' || letter == '\\' || letter < ' ')?;
            let (plain, rest) = self.rest.split_at(end);
            text.push_str(plain);
            let mut letters = rest.chars();
            match letters.next()? {
                '"' => {
                    self.rest = letters.as_str();
                    return Some(text);
                }
                '\\' => {
                    self.rest = letters.as_str();
                    text.push(self.escape()?);
                }
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let mut letters = self.rest.chars();
        let letter = match letters.next()? {
            plain @ ('"' | '\\' | '/') => plain,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                self.rest = letters.as_str();
                return self.unicode();
            }
            _ => return None,
        };
        self.rest = letters.as_str();
        Some(letter)
    }

    /// Four digits, or a pair of them. Half a pair is no letter, and no value that could be sent.
    fn unicode(&mut self) -> Option<char> {
        let high = self.unit()?;
        if !(0xd800..0xe000).contains(&high) {
            return char::from_u32(high);
        }
        self.take("\\u")?;
        let low = self.unit()?;
        let pair = [u16::try_from(high).ok()?, u16::try_from(low).ok()?];
        char::decode_utf16(pair).next()?.ok()
    }

    fn unit(&mut self) -> Option<u32> {
        let digits =
            self.rest.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        self.rest = &self.rest[4..];
        u32::from_str_radix(digits, 16).ok()
    }
}

/// Whether this is a number of JSON.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent =
        exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)));
    digits(whole) && (whole == "0" || !whole.starts_with('0')) && fraction.is_none_or(digits) && exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = String::new();
        push_string(&mut out, text);
        out
    }

    #[test]
    fn text_is_escaped_as_jackson_does() {
        for (text, json) in [
            ("é漢\u{ffff}", "\"é漢\u{ffff}\""),
            ("🎉", "\"\\uD83C\\uDF89\""),
            ("\u{1}\u{1f}\u{b}", "\"\\u0001\\u001F\\u000B\""),
            ("\u{8}\t\n\u{c}\r\"\\", "\"\\b\\t\\n\\f\\r\\\"\\\\\""),
            ("\u{7f}\u{2028}\u{2029}\u{feff}/<>&'", "\"\u{7f}\u{2028}\u{2029}\u{feff}/<>&'\""),
        ] {
            assert_eq!(quoted(text), json);
        }
    }

    fn compact(text: &str) -> Option<String> {
        let mut out = String::new();
        Node::parse(text)?.push_to(&mut out);
        Some(out)
    }

    #[test]
    fn values_are_read_as_jackson_does() {
        for (text, expected) in [
            ("{ \"a\" : [1, -2.50, 1e22 ] , \"b\":null}", Some("{\"a\":[1,-2.50,1e22],\"b\":null}")),
            ("{\"a\":1,\"b\":2,\"a\":3}", Some("{\"a\":3,\"b\":2}")),
            ("{\"a\":\"\\u00e9\\uD83C\\uDF89\\/\\n\"}", Some("{\"a\":\"é\\uD83C\\uDF89/\\n\"}")),
            ("{} trailing", Some("{}")),
            ("[true,false]", Some("[true,false]")),
            ("{\"a\":\"\\ud800\"}", None),
            ("{\"a\":01}", None),
            ("{\"a\":1.}", None),
            ("{\"a\":NaN}", None),
            ("{\"a\":\"\n\"}", None),
            ("{\"a\" 1}", None),
            ("{a:1}", None),
            ("[1", None),
            ("[1,]", None),
            ("", None),
        ] {
            assert_eq!(compact(text).as_deref(), expected, "{text}");
        }
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Node::parse(&deep(MAX_DEPTH)).is_some());
        assert!(Node::parse(&deep(MAX_DEPTH + 1)).is_none());
        assert!(Node::parse(&format!("[{}]", "1".repeat(MAX_NUMBER + 1))).is_none());
    }
}
