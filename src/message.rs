//! What a service says and a consumer hears.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::{Map, Value};
use uuid::Uuid;

/// A message on its way from a transaction to a topic.
///
/// ```
/// use walpost::OutboxMessage;
///
/// let message = OutboxMessage::new("orders", r#"{"order":17}"#)
///     .with_key("customer-4")
///     .with_event_type("OrderPlaced")
///     .with_header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// assert_eq!(message.topic(), "orders");
/// assert_eq!(message.key(), Some(&b"customer-4"[..]));
/// ```
///
/// Cloning is cheap: the parts are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxMessage {
    pub(crate) id: Uuid,
    pub(crate) topic: ByteString,
    pub(crate) key: Option<Bytes>,
    pub(crate) payload: Option<Bytes>,
    pub(crate) event_type: Option<ByteString>,
    /// The JSON text of an object, or nothing.
    pub(crate) headers: Bytes,
    pub(crate) correlation_id: Option<ByteString>,
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) created_at: Option<i64>,
    /// Where it goes in its topic, if the row says so.
    pub(crate) partition: Option<i32>,
    /// What its record has besides the row's headers.
    pub(crate) own_headers: OwnHeaders,
    /// The row that it was made of, if that is written back.
    pub(crate) row: Option<Arc<RowKey>>,
}

/// What tells a row from all others of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowKey {
    /// Which of the store's tables it is of, from 0.
    pub table: usize,
    /// The transaction that inserted it, without an epoch; 0 if that is long over.
    pub xid: u32,
    /// The texts of its key's columns; `None` is null.
    pub values: Vec<Option<String>>,
}

impl RowKey {
    /// That of a row whose key is the id of its message, and which was inserted long ago, into the only table.
    pub(crate) fn of_id(id: Uuid) -> Self {
        RowKey { table: 0, xid: 0, values: vec![Some(id.to_string())] }
    }

    /// Bytes that it takes, roughly.
    pub(crate) fn size(&self) -> usize {
        size_of::<RowKey>()
            + self.values.iter().map(|value| 24 + value.as_ref().map_or(0, String::len)).sum::<usize>()
    }
}

/// Which headers of our own a record has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OwnHeaders {
    /// The id, and the position.
    #[default]
    All,
    /// The position alone.
    Position,
    None,
}

impl OutboxMessage {
    /// A message with a new random id, created now.
    ///
    /// With the table that `walpost setup` makes, the payload must be JSON text; a table whose payload
    /// column is `text` or `bytea` takes anything.
    pub fn new(topic: impl Into<ByteString>, payload: impl Into<Payload>) -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        OutboxMessage {
            id: Uuid::new_v4(),
            topic: topic.into(),
            key: None,
            payload: payload.into().0,
            event_type: None,
            headers: Bytes::new(),
            correlation_id: None,
            created_at: since_epoch.ok().and_then(|age| i64::try_from(age.as_micros()).ok()),
            partition: None,
            row: None,
            own_headers: OwnHeaders::All,
        }
    }

    /// A message of which nothing is known yet.
    pub(crate) fn empty() -> Self {
        OutboxMessage {
            id: Uuid::nil(),
            topic: ByteString::new(),
            key: None,
            payload: None,
            event_type: None,
            headers: Bytes::new(),
            correlation_id: None,
            created_at: None,
            partition: None,
            row: None,
            own_headers: OwnHeaders::All,
        }
    }

    /// A message without a payload: on a compacted topic it deletes the key.
    pub fn tombstone(topic: impl Into<ByteString>, key: impl Into<Bytes>) -> Self {
        let mut message = OutboxMessage::new(topic, Payload(None));
        message.key = Some(key.into());
        message
    }

    /// Sets the id, by which consumers recognise a repeat.
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// Sets the key; messages of one key stay in order.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the kind of event, sent as the header `event_type`.
    #[must_use]
    pub fn with_event_type(mut self, event_type: impl Into<ByteString>) -> Self {
        self.event_type = Some(event_type.into());
        self
    }

    /// Sets the header `correlation_id`.
    #[must_use]
    pub fn with_correlation_id(mut self, correlation_id: impl Into<ByteString>) -> Self {
        self.correlation_id = Some(correlation_id.into());
        self
    }

    /// Adds a header, or replaces the one of that name.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let mut object: Map<String, Value> = serde_json::from_slice(&self.headers).unwrap_or_default();
        object.insert(name.into(), Value::String(value.into()));
        self.headers = Value::Object(object).to_string().into();
        self
    }

    /// Says which row it was made of, so that it is written back.
    #[must_use]
    pub fn with_row(mut self, row: RowKey) -> Self {
        self.row = Some(Arc::new(row));
        self
    }

    /// Identifies the message; sent as the header `id`.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Where it goes.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What it is ordered and partitioned by.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// What it says; `None` is a tombstone.
    #[must_use]
    pub fn payload(&self) -> Option<&[u8]> {
        self.payload.as_deref()
    }

    /// The kind of event.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.event_type.as_deref()
    }

    /// The row's own headers as the JSON text of an object; empty when there are none.
    #[must_use]
    pub fn headers_json(&self) -> &[u8] {
        &self.headers
    }

    /// What links it to other messages of one conversation.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// When it was made, in microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn created_at(&self) -> Option<i64> {
        self.created_at
    }
}

/// The bytes of a message, made from whatever a service has at hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload(pub(crate) Option<Bytes>);

macro_rules! payload_from {
    ($($source:ty),+) => {
        $(impl From<$source> for Payload {
            fn from(source: $source) -> Self {
                Payload(Some(source.into()))
            }
        })+
    };
}
payload_from!(Bytes, String, Vec<u8>, &'static str, &'static [u8]);

impl From<Value> for Payload {
    fn from(value: Value) -> Self {
        Payload(Some(value.to_string().into()))
    }
}

/// How far a message has come. Derived from positions, never stored in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutboxStatus {
    /// Committed, and beyond the confirmed position.
    Pending,
    /// On its way to the broker.
    Processing,
    /// At or before the confirmed position.
    Published,
    /// Parked as a dead letter.
    Failed,
}

impl OutboxStatus {
    /// Whether a message may go from this status to `next`.
    ///
    /// Back to `Pending` is what a restart does to messages in flight, and a replay to dead letters.
    #[must_use]
    pub fn can_transition_to(self, next: OutboxStatus) -> bool {
        use OutboxStatus::{Failed, Pending, Processing, Published};
        matches!(
            (self, next),
            (Pending, Processing) | (Processing, Published | Failed | Pending) | (Failed, Pending)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_added_once_and_replaced_by_name() {
        let message =
            OutboxMessage::new("t", "1").with_header("a", "1").with_header("b", "2").with_header("a", "3");
        let headers: Value = serde_json::from_slice(message.headers_json()).expect("an object");
        assert_eq!(headers, serde_json::json!({"a": "3", "b": "2"}));
    }

    #[test]
    fn statuses_move_only_forward_or_back_to_pending() {
        use OutboxStatus::*;
        let all = [Pending, Processing, Published, Failed];
        let allowed: Vec<_> = all
            .iter()
            .flat_map(|from| all.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from.can_transition_to(*to))
            .collect();
        let expected = [
            (Pending, Processing),
            (Processing, Pending),
            (Processing, Published),
            (Processing, Failed),
            (Failed, Pending),
        ];
        assert_eq!(allowed, expected);
    }
}
