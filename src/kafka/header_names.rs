//! The headers of a record, whose names may be any bytes.
//!
//! librdkafka's wrapper panics at a name that is not UTF-8, and a release build ends with its first panic, so that nothing
//! can catch it. So a thread says whose headers it reads, and whoever is told of a panic can tell what it really is.

use std::cell::RefCell;
use std::panic;

use rdkafka::message::{BorrowedMessage, Headers, Message};

use crate::error::OutboxError;

/// Where a record is: its topic, partition and offset.
type Place = (String, i32, i64);

thread_local! {
    /// The record whose headers this thread reads.
    static READING: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// Names and values, in their order. See [`tell_unreadable_names`] for names that can't be read.
pub(crate) fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, Option<Vec<u8>>)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    let place = (message.topic().to_owned(), message.partition(), message.offset());
    READING.replace(Some(place));
    let all = headers.iter().map(|it| (it.key.to_owned(), it.value.map(<[u8]>::to_vec))).collect();
    READING.take();
    all
}

/// From now on `tell` is given the error that such a name is, in place of a panic. It must end the process: what follows
/// its return is the panic.
pub(crate) fn tell_unreadable_names(tell: fn(&OutboxError)) {
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |panic| match READING.try_with(RefCell::take).ok().flatten() {
        Some(place) => tell(&unreadable(&place)),
        None => otherwise(panic),
    }));
}

fn unreadable((topic, partition, offset): &Place) -> OutboxError {
    OutboxError::definite(
        format!(
            "topic {topic}, partition {partition}, offset {offset}: a header's name is not UTF-8, and can't be read"
        ),
        "names of Kafka's headers are UTF-8: find out who wrote this record; leave it out with --limit, or compare once it is gone",
    )
}
