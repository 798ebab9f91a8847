//! `walpost dead-letters show`: everything of one letter.

use super::{escape, hex};
use crate::cli::arguments::ShowArguments;
use crate::cli::output;
use crate::error::OutboxError;
use crate::postgres::{DeadLetterOffice, Letter, Session};

/// A longer payload would flood the screen.
const LONGEST: usize = 1 << 20;

pub(super) async fn show(
    session: &Session,
    office: &DeadLetterOffice,
    arguments: &ShowArguments,
) -> Result<(), OutboxError> {
    let letter = office.letter(session, arguments.position).await?;
    if arguments.payload {
        return write_payload(session, office, &letter).await;
    }
    let short = size(&letter).is_some_and(|size| size <= LONGEST);
    let payload = if short { office.payload_part(session, letter.position, 0).await? } else { None };
    output::write(&text(&letter, payload.as_deref()));
    Ok(())
}

/// Writes the payload part by part, so that a large one takes no more memory than a small one.
async fn write_payload(
    session: &Session,
    office: &DeadLetterOffice,
    letter: &Letter,
) -> Result<(), OutboxError> {
    let mut written = 0;
    while let Some(part) = office.payload_part(session, letter.position, written).await? {
        written += part.len();
        if part.is_empty() || !output::write_bytes(&part) {
            return Ok(());
        }
    }
    output::note("the payload is null");
    Ok(())
}

fn size(letter: &Letter) -> Option<usize> {
    letter.payload_bytes.and_then(|bytes| usize::try_from(bytes).ok())
}

fn text(letter: &Letter, payload: Option<&[u8]>) -> String {
    let owned = |text: &Option<String>| text.as_deref().map(lines);
    let sent_as = letter.sent_as.map(|at| at.to_string());
    let unfit = letter.unfit_column.as_ref().map(|column| match &letter.unfit_value {
        Some(value) => format!("column {}: {}", escape(column), readable(value)),
        None => format!("column {}", escape(column)),
    });
    let size = match (size(letter), payload) {
        (Some(size), Some(_)) => super::count(i64::try_from(size).unwrap_or(i64::MAX), "byte", "bytes"),
        (Some(size), None) => format!("{size} bytes, too many to show: use --payload"),
        (None, _) => "null (a tombstone)".to_owned(),
    };
    let rows = [
        ("position", Some(letter.position.to_string())),
        ("state", Some(letter.state.name().to_owned())),
        ("error", Some(lines(&letter.error))),
        ("attempts", Some(letter.attempts.to_string())),
        ("parked at", Some(letter.parked_at.clone())),
        ("requested", owned(&letter.requested_at)),
        ("sent as", sent_as),
        ("done at", owned(&letter.done_at)),
        ("topic", owned(&letter.topic)),
        ("key", Some(letter.key.as_deref().map_or_else(|| "null".to_owned(), readable))),
        ("id", letter.id.map(|id| id.to_string())),
        ("event type", owned(&letter.event_type)),
        ("correlation", owned(&letter.correlation_id)),
        ("created at", owned(&letter.created_at)),
        ("headers", letter.headers.as_deref().map(readable)),
        ("unreadable", unfit),
        ("value", Some(size)),
    ];
    let mut text = String::new();
    for (label, value) in rows {
        if let Some(value) = value {
            text.push_str(&format!("{label:<12}{value}\n"));
        }
    }
    if let Some(bytes) = payload {
        text.push_str(&format!("\n{}\n", readable(bytes)));
    }
    text
}

/// Bytes as text, line by line; as hexadecimal digits when they are none.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => lines(text),
        Err(_) => format!("\\x{}", hex(bytes)),
    }
}

/// Text whose lines and tabs stay.
fn lines(text: &str) -> String {
    text.split('\n')
        .map(|line| line.split('\t').map(escape).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_or_hexadecimal() {
        for (bytes, expected) in [
            (&b"{\n\t\"a\": 1\n}"[..], "{\n\t\"a\": 1\n}"),
            (b"\x1b[2J", "\\u{1b}[2J"),
            (b"\x00\xff", "\\x00ff"),
            (b"", ""),
        ] {
            assert_eq!(readable(bytes), expected);
        }
    }
}
