//! The one step of a layout that does as Debezium does: all parts of a message at once.

use bytes::Bytes;

use super::derive::{Cells, Fault};
use super::value::{Unfit, any_id};
use crate::debezium::Plan;
use crate::message::OutboxMessage;

/// Fills the message of a row.
pub(super) fn event(plan: &Plan, cells: &Cells, message: &mut OutboxMessage) -> Result<(), Fault> {
    for place in plan.places() {
        if cells.sent(place).is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) {
            return Err((place, Unfit::NotUtf8));
        }
    }
    let text = |place: usize| cells.sent(place).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let event = plan.event(text).map_err(|misread| (misread.0, Unfit::NotOfType))?;
    if let Some(id) = &event.id {
        message.id = uuid::Uuid::try_parse(id).unwrap_or_else(|_| any_id(id.as_bytes()));
    }
    message.topic = event.topic.into();
    message.key = event.key.map(Bytes::from);
    message.payload = event.value.map(Bytes::from);
    message.headers = Bytes::from(event.headers);
    message.partition = event.partition;
    message.created_at = event.timestamp.and_then(|millis| millis.checked_mul(1_000));
    Ok(())
}
