//! Text of others that ends on somebody's terminal: names of topics, what a server says, whatever a client calls itself.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a letter would move the cursor, end the line, or turn the text around it.
fn is_risky(letter: char) -> bool {
    let turns = matches!(letter, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}');
    turns || letter.is_control()
}

/// The text with such letters made visible.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_risky(letter) {
            escaped.extend(letter.escape_default());
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

/// A line of JSON with such letters written as JSON writes them. Those below U+0020 it has written so already, and the
/// others stand in strings only.
pub(super) fn escape_json(line: &str) -> Cow<'_, str> {
    let is_risky = |letter: char| letter != '\n' && is_risky(letter);
    if !line.contains(is_risky) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    for letter in line.chars() {
        if is_risky(letter) {
            // All of them have four digits. Writing to a string never fails.
            let _ = write!(escaped, "\\u{:04x}", u32::from(letter));
        } else {
            escaped.push(letter);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        for (text, expected) in [
            ("plain ä → \\", "plain ä → \\"),
            ("a\x1b[2J\n\u{202E}ä\\", "a\\u{1b}[2J\\n\\u{202e}ä\\"),
            ("\u{9b}2J\u{7f}\u{feff}\r\t", "\\u{9b}2J\\u{7f}\\u{feff}\\r\\t"),
        ] {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn a_line_of_json_stays_one() {
        let text = "a\"\\\n\x1b[2J\u{9b}31m\u{202e}\u{7f}\u{2028}ä";
        let line = format!("{}\n", serde_json::json!({ "message": text }));
        let escaped = escape_json(&line);
        assert!(
            escaped.trim_end().chars().all(|letter| letter == 'ä' || (' '..='~').contains(&letter)),
            "{escaped}"
        );
        let back: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(back["message"], text);
    }
}
