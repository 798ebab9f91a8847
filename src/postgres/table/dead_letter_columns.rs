//! Dead letters column by column, since one statement stores them all.

use std::time::{Duration, SystemTime};

use tokio_postgres::types::{PgLsn, ToSql};
use uuid::Uuid;

use super::dead_letters::pair;
use crate::dead_letters::DeadLetter;

/// One list for each column.
#[derive(Default)]
pub(super) struct Columns<'a> {
    lsns: Vec<PgLsn>,
    indexes: Vec<i64>,
    ids: Vec<Option<Uuid>>,
    topics: Vec<Option<&'a str>>,
    keys: Vec<Option<&'a [u8]>>,
    payloads: Vec<Option<&'a [u8]>>,
    event_types: Vec<Option<&'a str>>,
    headers: Vec<Option<&'a [u8]>>,
    correlation_ids: Vec<Option<&'a str>>,
    times: Vec<Option<SystemTime>>,
    unfit_columns: Vec<Option<&'a str>>,
    unfit_values: Vec<Option<&'a [u8]>>,
    errors: Vec<String>,
    attempts: Vec<i32>,
    partitions: Vec<Option<i32>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(letters: &'a [DeadLetter]) -> Self {
        let mut columns = Columns::default();
        for letter in letters {
            let (message, (lsn, index)) = (&letter.message, pair(letter.position));
            columns.lsns.push(lsn);
            columns.indexes.push(index);
            columns.ids.push(Some(message.id).filter(|id| !id.is_nil()));
            columns.topics.push(Some(message.topic()).filter(|topic| !topic.is_empty()));
            columns.keys.push(message.key());
            columns.payloads.push(message.payload());
            columns.event_types.push(message.event_type());
            columns.headers.push(Some(message.headers_json()).filter(|headers| !headers.is_empty()));
            columns.correlation_ids.push(message.correlation_id());
            columns.times.push(message.created_at.and_then(time));
            columns.unfit_columns.push(letter.unfit.as_ref().map(|unfit| &*unfit.name));
            columns.unfit_values.push(letter.unfit.as_ref().and_then(|unfit| unfit.value.as_deref()));
            // The server's text knows no NUL.
            columns.errors.push(letter.error.replace('\0', "\u{FFFD}"));
            columns.attempts.push(i32::try_from(letter.attempts).unwrap_or(i32::MAX));
            columns.partitions.push(message.partition);
        }
        columns
    }

    pub(super) fn parameters<'p>(&'p self, slot: &'p String) -> [&'p (dyn ToSql + Sync); 16] {
        [
            slot,
            &self.lsns,
            &self.indexes,
            &self.ids,
            &self.topics,
            &self.keys,
            &self.payloads,
            &self.event_types,
            &self.headers,
            &self.correlation_ids,
            &self.times,
            &self.unfit_columns,
            &self.unfit_values,
            &self.errors,
            &self.attempts,
            &self.partitions,
        ]
    }
}

fn time(micros: i64) -> Option<SystemTime> {
    let span = Duration::from_micros(micros.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    if micros < 0 { epoch.checked_sub(span) } else { epoch.checked_add(span) }
}
