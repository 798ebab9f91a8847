//! Events that were written into the log beside the table: by the function `emit` of `sql/setup.sql`, and rows that are
//! sent again. Both bear the seal, since everybody who may log in can write into the log.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::message::OutboxMessage;
use crate::postgres::names::TableName;

/// The prefix of the logical messages that are events of the outbox with that table.
pub(crate) fn prefix(table: &TableName) -> String {
    format!("{EVENTS}{table}")
}

/// The prefix of those that are rows of the table.
pub(crate) fn rows_prefix(table: &TableName) -> String {
    format!("{ROWS}{table}")
}

/// What the prefix of a row's message begins with; the table's name follows.
pub(crate) const ROWS: &str = "walpost.rows:";
/// The same of an event.
const EVENTS: &str = "walpost.emit:";

/// SQL that reads the seal from its table.
pub(crate) fn secret_sql(seal_table: &str) -> String {
    format!("SELECT secret FROM {seal_table}")
}

/// SQL for how a row's message begins: with the seal, from the table of that alias.
pub(crate) fn sealed(seal_table: &str) -> String {
    format!("'{{\"seal\":' OPERATOR(pg_catalog.||) pg_catalog.to_json({seal_table}.secret)")
}

/// Why content is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoEvent {
    /// It can't be read.
    Malformed,
    /// It bears another secret, or none.
    Unsealed,
}

/// A row that is sent again.
#[derive(Deserialize)]
pub(crate) struct SentRow<'a> {
    #[serde(borrow)]
    seal: Cow<'a, str>,
    /// When it was asked for; none for a row that was there before the slot.
    #[serde(borrow)]
    pub(crate) mark: Option<Cow<'a, str>>,
    /// The slot whose relay has held it back until now: for that one alone.
    #[serde(borrow, default)]
    pub(crate) released: Option<Cow<'a, str>>,
    /// The text of its columns by their names.
    #[serde(borrow, rename = "row")]
    pub(crate) columns: HashMap<Cow<'a, str>, Option<Cow<'a, str>>>,
}

impl<'a> SentRow<'a> {
    /// The row that such content holds.
    pub(crate) fn read(content: &'a Bytes, secret: Uuid) -> Result<Self, NoEvent> {
        let sent: SentRow<'a> = serde_json::from_slice(content).map_err(|_| NoEvent::Malformed)?;
        if is_seal(&sent.seal, secret) { Ok(sent) } else { Err(NoEvent::Unsealed) }
    }
}

/// The table beside which a message of this prefix was written; `None` if Walpost does not write such ones.
pub(crate) fn table_of(prefix: &[u8]) -> Option<Cow<'_, str>> {
    let table = [ROWS, EVENTS].iter().find_map(|own| prefix.strip_prefix(own.as_bytes()));
    table.map(String::from_utf8_lossy)
}

/// The least that is said of either.
#[derive(Deserialize)]
struct Sealed<'a> {
    #[serde(borrow)]
    seal: Cow<'a, str>,
    #[serde(borrow, default)]
    released: Option<Cow<'a, str>>,
}

/// Of content that bears the seal, the slot whose relay has held it back until now, if one has; `None` if it does not.
pub(crate) fn released_by(content: &Bytes, secret: Uuid) -> Option<Option<String>> {
    let sealed: Sealed<'_> = serde_json::from_slice(content).ok()?;
    is_seal(&sealed.seal, secret).then(|| sealed.released.map(Cow::into_owned))
}

fn is_seal(text: &str, secret: Uuid) -> bool {
    Uuid::try_parse(text).is_ok_and(|seal| seal == secret)
}

/// What the function writes.
#[derive(Deserialize)]
struct Emitted<'a> {
    #[serde(borrow)]
    seal: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    headers: &'a RawValue,
    #[serde(borrow)]
    correlation_id: Option<Cow<'a, str>>,
    /// Microseconds since 1970.
    created_at: i64,
    /// Missing in a tombstone; the JSON value null is a payload.
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The message that such content holds.
pub(crate) fn message(content: &Bytes, secret: Uuid) -> Result<OutboxMessage, NoEvent> {
    let emitted: Emitted<'_> = serde_json::from_slice(content).map_err(|_| NoEvent::Malformed)?;
    if !is_seal(&emitted.seal, secret) {
        return Err(NoEvent::Unsealed);
    }
    let raw = |value: &RawValue| content.slice_ref(value.get().as_bytes());
    let text = |text: Option<Cow<'_, str>>| text.map(|text| ByteString::from(text.into_owned()));
    let mut message = OutboxMessage::empty();
    message.id = Uuid::try_parse(&emitted.id).map_err(|_| NoEvent::Malformed)?;
    message.topic = ByteString::from(emitted.topic.into_owned());
    message.key = emitted.key.map(|key| Bytes::from(key.into_owned()));
    message.payload = emitted.payload.map(raw);
    message.event_type = text(emitted.event_type);
    message.headers = raw(emitted.headers);
    message.correlation_id = text(emitted.correlation_id);
    message.created_at = Some(emitted.created_at);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Uuid = Uuid::from_u128(7);
    const HEAD: &str = r#"{"seal":"00000000-0000-0000-0000-000000000007","id":"11111111-2222-3333-4444-555555555555","topic":"orders","key":"a\"b","event_type":null,"#;

    #[test]
    fn an_event_keeps_the_bytes_of_its_payload() {
        let rest = r#""headers":{"a": 1.10},"correlation_id":"c","created_at":5,"payload":{ "n" :1.10 }}"#;
        let message = message(&Bytes::from(format!("{HEAD}{rest}")), SEAL).expect("an event");
        assert_eq!((message.topic(), message.key()), ("orders", Some(&b"a\"b"[..])));
        assert_eq!(message.payload(), Some(&b"{ \"n\" :1.10 }"[..]));
        assert_eq!((message.headers_json(), message.created_at()), (&b"{\"a\": 1.10}"[..], Some(5)));
        assert_eq!((message.event_type(), message.correlation_id()), (None, Some("c")));
    }

    #[test]
    fn no_payload_is_another_thing_than_null() {
        let rest = r#""headers":{},"correlation_id":null,"created_at":5"#;
        let payload = |end: &str| {
            let message = message(&Bytes::from(format!("{HEAD}{rest}{end}")), SEAL).expect("an event");
            message.payload().map(<[u8]>::to_vec)
        };
        assert_eq!(payload("}"), None);
        assert_eq!(payload(",\"payload\":null}"), Some(b"null".to_vec()));
    }

    #[test]
    fn what_the_function_has_not_made_is_no_event() {
        for content in ["", "{}", "[]", "{\"id\":1}", HEAD, "\u{0}"] {
            assert_eq!(message(&Bytes::from(content), SEAL), Err(NoEvent::Malformed), "{content}");
        }
        let whole = format!(r#"{HEAD}"headers":{{}},"correlation_id":null,"created_at":5}}"#);
        assert!(message(&Bytes::from(whole.clone()), SEAL).is_ok());
        assert_eq!(message(&Bytes::from(whole), Uuid::nil()), Err(NoEvent::Unsealed));
        let row = Bytes::from(
            r#"{"seal":"00000000-0000-0000-0000-000000000007","mark":null,"row":{"a":"1","b":null}}"#,
        );
        let sent = SentRow::read(&row, SEAL).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(
            (sent.columns["a"].as_deref(), sent.columns["b"].as_deref(), sent.mark),
            (Some("1"), None, None)
        );
        assert!(SentRow::read(&row, Uuid::nil()).is_err_and(|error| error == NoEvent::Unsealed));
    }
}
