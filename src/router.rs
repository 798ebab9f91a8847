//! A row becomes a record: its topic, its key, and the headers that say what and where it is.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::error::OutboxError;
use crate::lsn::Position;
use crate::message::{OutboxMessage, OwnHeaders};
use crate::publisher::{Headers, Record};

/// Header that carries the row's id.
pub const ID: &str = "id";
/// Header that carries the row's kind of event.
pub const EVENT_TYPE: &str = "event_type";
/// Header that carries the row's correlation id.
pub const CORRELATION_ID: &str = "correlation_id";
/// Header that carries the commit LSN, `X/Y`.
pub const LSN: &str = "walpost.lsn";
/// Header that carries the decimal index of the row in its transaction.
pub const INDEX: &str = "walpost.index";
/// Header of a row that is sent again on purpose: when that was asked for.
pub const REPLAY: &str = "walpost.replay";

/// Records without a key stay together for so much of the log, 128 KiB, to share a batch.
const SPREAD_BITS: u32 = 17;

/// Makes records of messages, with one buffer for the headers of them all.
#[derive(Clone, Debug, Default)]
pub struct Router {
    headers: Headers,
}

impl Router {
    /// The record of a message: headers `id`, `event_type` and `correlation_id` when set, the row's own,
    /// then `walpost.lsn` and `walpost.index`, by which a consumer drops repeats: the last headers of
    /// those names are ours, whatever the row holds. A table's mapping may do without `id` and those two.
    ///
    /// # Errors
    /// The row's headers are not a JSON object.
    pub fn route<'a>(
        &'a mut self,
        message: &'a OutboxMessage,
        position: Position,
    ) -> Result<Record<'a>, OutboxError> {
        let headers = &mut self.headers;
        headers.clear();
        if message.own_headers == OwnHeaders::All {
            headers.push_display(ID, message.id);
        }
        if let Some(event_type) = &message.event_type {
            headers.push(EVENT_TYPE, Some(event_type.as_bytes()));
        }
        if let Some(correlation_id) = &message.correlation_id {
            headers.push(CORRELATION_ID, Some(correlation_id.as_bytes()));
        }
        push_row_headers(headers, &message.headers).map_err(|source| refuse(&source).at(position))?;
        if message.own_headers != OwnHeaders::None {
            headers.push_display(LSN, position.commit_lsn);
            headers.push_display(INDEX, position.index);
        }
        Ok(Record {
            topic: &message.topic,
            partition: message.partition,
            key: message.key(),
            spread: position.commit_lsn.0 >> SPREAD_BITS,
            value: message.payload(),
            // Kafka knows no time before 1970; the client's present stands in.
            timestamp: message.created_at.map(|micros| micros.div_euclid(1000)).filter(|millis| *millis > 0),
            headers: &self.headers,
        })
    }
}

fn refuse(source: &serde_json::Error) -> OutboxError {
    // The source's own text quotes a value of the wrong type, which may be a secret; kind and place are enough.
    let kind = match source.classify() {
        Category::Syntax => "a fault in the JSON",
        Category::Eof => "the JSON ends too early",
        Category::Data | Category::Io => "another kind of value, or text that can't be read,",
    };
    OutboxError::message_because(
        "the headers are not a JSON object",
        format!("{kind} at line {}, column {}", source.line(), source.column()),
        "write headers as an object of strings, such as {\"traceparent\":\"...\"}",
    )
}

/// Adds the members of a JSON object: a string as its text, null as a null header, anything else as its
/// own JSON, so that `1.10` stays `1.10`.
fn push_row_headers(headers: &mut Headers, json: &[u8]) -> Result<(), serde_json::Error> {
    if json.is_empty() || json == b"{}" {
        return Ok(());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    match deserializer.deserialize_map(Members(headers)) {
        Ok(()) => deserializer.end(),
        // What writes null for no headers means none; nothing of it was taken in.
        Err(_) if json.trim_ascii() == b"null" => Ok(()),
        Err(error) => Err(error),
    }
}

struct Members<'a>(&'a mut Headers);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some((name, value)) = members.next_entry::<std::borrow::Cow<'de, str>, &'de RawValue>()? {
            match value.get() {
                "null" => self.0.push(&name, None),
                text if text.starts_with('"') => {
                    let text: String = serde_json::from_str(text).map_err(serde::de::Error::custom)?;
                    self.0.push(&name, Some(text.as_bytes()));
                }
                other => self.0.push(&name, Some(other.as_bytes())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    const AT: Position = Position { commit_lsn: Lsn(0x1_0000_00AB), index: 7 };

    fn header_text(message: &OutboxMessage) -> Vec<(String, Option<String>)> {
        let mut router = Router::default();
        let record = router.route(message, AT).expect("a record");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        record.headers.iter().map(|(name, value)| (name.to_owned(), value.map(text))).collect()
    }

    #[test]
    fn headers_come_in_the_contract_order() {
        let mut message = OutboxMessage::new("t", "1")
            .with_event_type("Placed")
            .with_correlation_id("c-1")
            .with_id(uuid::Uuid::nil());
        message.headers =
            br#"{"traceparent":"00-\u00e9\"","n":1.10,"none":null,"deep":{"a":[1, 2]},"yes":true}"#[..]
                .into();
        let expected = [
            ("id", Some("00000000-0000-0000-0000-000000000000")),
            ("event_type", Some("Placed")),
            ("correlation_id", Some("c-1")),
            ("traceparent", Some("00-é\"")),
            ("n", Some("1.10")),
            ("none", None),
            ("deep", Some(r#"{"a":[1, 2]}"#)),
            ("yes", Some("true")),
            ("walpost.lsn", Some("1/AB")),
            ("walpost.index", Some("7")),
        ];
        let expected: Vec<_> = expected.map(|(n, v)| (n.to_owned(), v.map(str::to_owned))).into();
        assert_eq!(header_text(&message), expected);
    }

    #[test]
    fn what_is_not_set_is_not_sent() {
        for json in ["", "{}", "null", " null\n"] {
            let mut message = OutboxMessage::new("t", "1");
            message.headers = json.to_owned().into();
            let names: Vec<_> = header_text(&message).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["id", "walpost.lsn", "walpost.index"], "{json:?}");
        }
    }

    #[test]
    fn key_value_and_time_go_through() {
        let mut router = Router::default();
        let mut message = OutboxMessage::tombstone("t", "k");
        message.created_at = Some(1_999);
        let record = router.route(&message, AT).expect("a record");
        assert_eq!((record.topic, record.key, record.value), ("t", Some(&b"k"[..]), None));
        assert_eq!(record.timestamp, Some(1));
        message.created_at = Some(-1);
        assert_eq!(router.route(&message, AT).expect("a record").timestamp, None);
    }

    #[test]
    fn headers_that_are_no_object_are_refused_with_the_position() {
        for json in
            ["[1]", "\"sesame\"", "{\"sesame\":1", "{} {}", "null 1", "4711", "{\"a\":\"sesame\\uD800\"}"]
        {
            let mut message = OutboxMessage::new("t", "1");
            message.headers = json.to_owned().into();
            let error = Router::default().route(&message, AT).expect_err(json);
            assert!(error.is_message() && error.position() == Some(AT), "{json}: {error:?}");
            assert!(!format!("{error:?}").contains("sesame"), "a header ends in the log: {error:?}");
            assert!(!format!("{error:?}").contains("4711"), "a header ends in the log: {error:?}");
        }
    }
}
