//! Events that were written into the log without a table, by the function of `sql/emit.sql`.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::message::OutboxMessage;
use crate::postgres::names::TableName;

/// The prefix of the logical messages that are events of the outbox with that table.
pub(crate) fn prefix(table: &TableName) -> String {
    format!("walpost.emit:{table}")
}

/// What the function writes.
#[derive(Deserialize)]
struct Emitted<'a> {
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

/// The message that such content holds; `None` if the function has not made it.
pub(crate) fn message(content: &Bytes) -> Option<OutboxMessage> {
    let emitted: Emitted<'_> = serde_json::from_slice(content).ok()?;
    let raw = |value: &RawValue| content.slice_ref(value.get().as_bytes());
    let text = |text: Option<Cow<'_, str>>| text.map(|text| ByteString::from(text.into_owned()));
    let mut message = OutboxMessage::empty();
    message.id = Uuid::try_parse(&emitted.id).ok()?;
    message.topic = ByteString::from(emitted.topic.into_owned());
    message.key = emitted.key.map(|key| Bytes::from(key.into_owned()));
    message.payload = emitted.payload.map(raw);
    message.event_type = text(emitted.event_type);
    message.headers = raw(emitted.headers);
    message.correlation_id = text(emitted.correlation_id);
    message.created_at = Some(emitted.created_at);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        r#"{"id":"11111111-2222-3333-4444-555555555555","topic":"orders","key":"a\"b","event_type":null,"#;

    #[test]
    fn an_event_keeps_the_bytes_of_its_payload() {
        let rest = r#""headers":{"a": 1.10},"correlation_id":"c","created_at":5,"payload":{ "n" :1.10 }}"#;
        let message = message(&Bytes::from(format!("{HEAD}{rest}"))).expect("an event");
        assert_eq!((message.topic(), message.key()), ("orders", Some(&b"a\"b"[..])));
        assert_eq!(message.payload(), Some(&b"{ \"n\" :1.10 }"[..]));
        assert_eq!((message.headers_json(), message.created_at()), (&b"{\"a\": 1.10}"[..], Some(5)));
        assert_eq!((message.event_type(), message.correlation_id()), (None, Some("c")));
    }

    #[test]
    fn no_payload_is_another_thing_than_null() {
        let rest = r#""headers":{},"correlation_id":null,"created_at":5"#;
        let payload = |end: &str| {
            let message = message(&Bytes::from(format!("{HEAD}{rest}{end}"))).expect("an event");
            message.payload().map(<[u8]>::to_vec)
        };
        assert_eq!(payload("}"), None);
        assert_eq!(payload(",\"payload\":null}"), Some(b"null".to_vec()));
    }

    #[test]
    fn what_the_function_has_not_made_is_no_event() {
        for content in ["", "{}", "[]", "{\"id\":1}", HEAD, "\u{0}"] {
            assert!(message(&Bytes::from(content)).is_none(), "{content}");
        }
    }
}
