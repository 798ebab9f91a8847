//! `walpost dead-letters list`: a table for people, or a line of JSON each.

use std::io::{IsTerminal, stdout};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{escape, hex};
use crate::cli::arguments::ListArguments;
use crate::cli::output;
use crate::error::OutboxError;
use crate::postgres::{DeadLetterOffice, Extent, Letter, Session};

/// Letters of a key and a topic that the table shows.
const KEY_WIDTH: usize = 20;
const TOPIC_WIDTH: usize = 24;
/// A terminal cuts what is too wide between these, in place of wrapping it.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Lists page by page, so that a million letters take no more memory than a few.
pub(super) async fn list(
    session: &Session,
    office: &DeadLetterOffice,
    arguments: &ListArguments,
    slot: &str,
) -> Result<(), OutboxError> {
    let extent = if arguments.json { Extent::Full } else { Extent::Glance };
    let mut table = Table { widths: HEAD.map(str::len), cut: stdout().is_terminal() };
    let (mut after, mut open, mut done) = (None, 0_i64, 0_i64);
    loop {
        let page = office.page(session, after, arguments.topic.as_deref(), arguments.all, extent).await?;
        let text = if arguments.json {
            page.iter().map(json).collect::<Result<String, _>>()?
        } else {
            table.page(&page, after.is_none())
        };
        for letter in &page {
            after = Some(letter.position);
            *(if letter.state.is_open() { &mut open } else { &mut done }) += 1;
        }
        // Whoever has gone away wants no more, and is told nothing.
        if !output::write(&text) {
            return Ok(());
        }
        if page.is_empty() {
            output::note(&summary(open, done, arguments, slot));
            return Ok(());
        }
    }
}

fn summary(open: i64, done: i64, arguments: &ListArguments, slot: &str) -> String {
    let of = match &arguments.topic {
        Some(topic) => format!("slot {slot} for topic {}", escape(topic)),
        None => format!("slot {slot}"),
    };
    let letters = |number: i64| super::count(number, "dead letter", "dead letters");
    match (open, done) {
        (0, 0) => format!("no {}dead letters of {of}", if arguments.all { "" } else { "open " }),
        (open, 0) => format!("{} of {of}", letters(open)),
        (open, done) => format!("{} of {of}: {open} open, {done} done within a day", letters(open + done)),
    }
}

const HEAD: [&str; 7] = ["POSITION", "PARKED AT", "TOPIC", "KEY", "TRIES", "STATE", "ERROR"];

fn cells(letter: &Letter) -> [String; 7] {
    let key = letter.key.as_ref().map(|key| escape(&String::from_utf8_lossy(key)));
    // To the second is enough to find it in a log.
    let parked_at = letter.parked_at.split('.').next().unwrap_or_default().replace('T', " ");
    [
        letter.position.to_string(),
        parked_at,
        shorten(letter.topic.as_deref().map_or_else(|| "-".to_owned(), escape), TOPIC_WIDTH),
        shorten(key.unwrap_or_else(|| "-".to_owned()), KEY_WIDTH),
        letter.attempts.to_string(),
        letter.state.name().to_owned(),
        escape(&letter.error),
    ]
}

/// The table that is being written.
struct Table {
    /// As the first page needs them; what is wider further down moves the rest of its line.
    widths: [usize; 7],
    cut: bool,
}

impl Table {
    /// The lines of a page, under a head if it is the first.
    fn page(&mut self, letters: &[Letter], first: bool) -> String {
        let mut rows: Vec<_> = letters.iter().map(cells).collect();
        if first && !rows.is_empty() {
            rows.insert(0, HEAD.map(str::to_owned));
            for row in &rows {
                for (width, cell) in self.widths.iter_mut().zip(row) {
                    *width = cell.chars().count().max(*width);
                }
            }
        }
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String; 7]) -> String {
        let cells = self.widths.iter().zip(row).map(|(width, cell)| format!("{cell:<width$}"));
        let text = cells.collect::<Vec<_>>().join("  ");
        let text = text.trim_end();
        if self.cut { format!("{NO_WRAP}{text}{WRAP}\n") } else { format!("{text}\n") }
    }
}

fn shorten(text: String, width: usize) -> String {
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A letter as a program reads it.
#[derive(Serialize)]
struct Line<'a> {
    position: String,
    state: &'static str,
    parked_at: &'a str,
    topic: Option<&'a str>,
    /// The key's text, or null when it is none or not UTF-8.
    key: Option<&'a str>,
    /// The key's bytes, when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    id: Option<String>,
    event_type: Option<&'a str>,
    correlation_id: Option<&'a str>,
    created_at: Option<&'a str>,
    headers: Option<Json<'a>>,
    payload_bytes: Option<i32>,
    attempts: i32,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unfit_column: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unfit_value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unfit_value_hex: Option<String>,
    requested_at: Option<&'a str>,
    sent_as: Option<String>,
    done_at: Option<&'a str>,
}

/// Headers: the object as it was written, or the text of something that is no JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Json<'a> {
    Object(Box<RawValue>),
    Text(std::borrow::Cow<'a, str>),
}

fn json(letter: &Letter) -> Result<String, OutboxError> {
    let text = |bytes: &'_ Option<Vec<u8>>| -> (Option<String>, Option<String>) {
        match bytes.as_ref().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => (None, None),
            Some((_, Ok(text))) => (Some(text.to_owned()), None),
            Some((bytes, Err(_))) => (None, Some(hex(bytes))),
        }
    };
    let ((key, key_hex), (unfit_value, unfit_value_hex)) = (text(&letter.key), text(&letter.unfit_value));
    let line = Line {
        position: letter.position.to_string(),
        state: letter.state.name(),
        parked_at: &letter.parked_at,
        topic: letter.topic.as_deref(),
        key: key.as_deref(),
        key_hex,
        id: letter.id.map(|id| id.to_string()),
        event_type: letter.event_type.as_deref(),
        correlation_id: letter.correlation_id.as_deref(),
        created_at: letter.created_at.as_deref(),
        headers: letter.headers.as_deref().map(headers),
        payload_bytes: letter.payload_bytes,
        attempts: letter.attempts,
        error: &letter.error,
        unfit_column: letter.unfit_column.as_deref(),
        unfit_value: unfit_value.as_deref(),
        unfit_value_hex,
        requested_at: letter.requested_at.as_deref(),
        sent_as: letter.sent_as.map(|at| at.to_string()),
        done_at: letter.done_at.as_deref(),
    };
    let text =
        serde_json::to_string(&line).map_err(|error| OutboxError::connection("writing JSON", error))?;
    Ok(text + "\n")
}

fn headers(bytes: &[u8]) -> Json<'_> {
    let text = String::from_utf8_lossy(bytes);
    // Between tokens a line may end; inside of a string it can't. One object stays one line.
    match RawValue::from_string(text.replace(['\n', '\r'], " ")) {
        Ok(object) => Json::Object(object),
        Err(_) => Json::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::{Lsn, Position};
    use crate::postgres::LetterState;

    fn letter() -> Letter {
        Letter {
            position: Position { commit_lsn: Lsn(0x154_3048), index: 2 },
            state: LetterState::Parked,
            parked_at: "2031-05-06T07:08:09.123456Z".to_owned(),
            topic: Some("orders".to_owned()),
            key: Some(b"a\x1b\xff".to_vec()),
            id: None,
            event_type: None,
            correlation_id: None,
            created_at: None,
            headers: Some(b"{\"n\":\n1.10}".to_vec()),
            payload_bytes: Some(3),
            unfit_column: None,
            unfit_value: None,
            error: "too\nlarge".to_owned(),
            attempts: 6,
            requested_at: None,
            sent_as: None,
            done_at: None,
        }
    }

    #[test]
    fn a_letter_is_one_line_for_people() {
        let mut table = Table { widths: HEAD.map(str::len), cut: false };
        let head = "POSITION     PARKED AT            TOPIC   KEY       TRIES  STATE   ERROR\n";
        let line = "0/1543048+2  2031-05-06 07:08:09  orders  a\\u{1b}\u{FFFD}  6      parked  too\\nlarge\n";
        assert_eq!(table.page(&[letter()], true), format!("{head}{line}"));
        assert_eq!(table.page(&[letter()], false), line);
        assert_eq!(table.page(&[], true), "");
        table.cut = true;
        assert_eq!(table.page(&[letter()], false), format!("\x1b[?7l{}\x1b[?7h\n", line.trim_end()));
        assert_eq!(shorten("ä".repeat(21), 20), format!("{}…", "ä".repeat(19)));
    }

    #[test]
    fn a_letter_is_one_line_for_programs() {
        let text = json(&letter()).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.contains("\"headers\":{\"n\": 1.10}"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["key"], &value["key_hex"]), (&serde_json::Value::Null, &"611bff".into()));
        let broken = Letter { headers: Some(b"{".to_vec()), key: Some(b"k".to_vec()), ..letter() };
        let value: serde_json::Value = serde_json::from_str(&json(&broken).unwrap()).unwrap();
        assert_eq!((&value["headers"], &value["key"]), (&"{".into(), &"k".into()));
    }
}
