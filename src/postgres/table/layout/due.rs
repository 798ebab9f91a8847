//! Rows whose time is still to come: when that is, and what is kept of them until then.

use std::ops::Range;
use std::time::SystemTime;

use super::{Builder, Layout};
use crate::mapping::{Source, Template, Unit};
use crate::message::OutboxMessage;
use crate::postgres::pgoutput::{Column, Tuple};
use crate::postgres::table::emitted::SentRow;
use crate::postgres::table::unfit_row::UnfitRow;
use crate::postgres::table::value::{self, Kind, RowError, Unfit, Value};

/// The server makes a JSON text of it, and a message in the log, neither of which may be as large as a row may be.
const MOST_BYTES: usize = 256 << 20;
/// The years that a calendar knows, from 1 to 9999, in seconds since 1970.
const CALENDAR: Range<i64> = -62_135_596_800..253_402_300_800;

/// Where a row says when it is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    column: usize,
    unit: Unit,
    /// The column that is the message's id.
    id: Option<usize>,
    /// Of all columns.
    kinds: Vec<Kind>,
}

/// A row that is to be sent later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Later {
    /// The text of the column that is its id, or the message's id.
    pub(crate) id: String,
    /// When it is to be sent, in microseconds since 1970; the largest number is never.
    pub(crate) due: i64,
    /// The text of its columns by their names, as a JSON object.
    pub(crate) content: String,
}

impl Builder<'_> {
    pub(super) fn due(&mut self, due: Option<&(Source, Unit)>, id: Option<&Template>) {
        self.entry = "due";
        let Some((source, unit)) = due else { return };
        let Some(column) = self.find(source) else { return };
        if !matches!(self.kinds[column], Kind::Timestamptz | Kind::Timestamp | Kind::Int) {
            return self.refuse(&source.column, "it must be a time, or a whole number");
        }
        let id = id.and_then(Template::bare).filter(|source| source.members.is_empty());
        let id = id.and_then(|source| self.find(source));
        self.layout.due = Some(Box::new(Due { column, unit: *unit, id, kinds: self.kinds.to_vec() }));
    }
}

impl Layout {
    /// Whether rows may be sent later than they are committed.
    #[inline]
    pub(crate) fn has_due(&self) -> bool {
        self.due.is_some()
    }

    /// What is to be kept of a row whose time was still to come when it was committed. By that clock, and not by when
    /// the row is read: so the answer is the same when the log comes again.
    #[cold]
    pub(crate) fn later(
        &self,
        tuple: &Tuple,
        message: &OutboxMessage,
        committed_at: SystemTime,
    ) -> Result<Option<Later>, Box<UnfitRow>> {
        let Some(due) = &self.due else { return Ok(None) };
        let unfit = |(column, error): (usize, Unfit)| {
            let value = super::raw(tuple, column);
            let error = error.in_column(&self.names[column]);
            Box::new(UnfitRow { message: message.clone(), error, value })
        };
        let at = due.read(tuple).map_err(|error| unfit((due.column, error)))?;
        let Some(at) = at.filter(|at| value::micros(committed_at).is_none_or(|now| *at > now)) else {
            return Ok(None);
        };
        let (content, id) = self.content(due, tuple).map_err(unfit)?;
        if content.len() > MOST_BYTES {
            let what = "time in the past, and the row is too large to be held back";
            let error = RowError::Unfit(self.names[due.column].clone(), what);
            return Err(Box::new(UnfitRow { message: message.clone(), error, value: None }));
        }
        Ok(Some(Later { id: id.unwrap_or_else(|| message.id.to_string()), due: at, content }))
    }

    /// The same of a row that is sent on purpose.
    pub(crate) fn later_of(
        &self,
        row: &SentRow<'_>,
        message: &OutboxMessage,
        committed_at: SystemTime,
    ) -> Result<Option<Later>, Box<UnfitRow>> {
        self.later(&self.tuple_of(row), message, committed_at)
    }

    /// All columns, and the one that is the id.
    fn content(&self, due: &Due, tuple: &Tuple) -> Result<(String, Option<String>), (usize, Unfit)> {
        let (mut json, mut id) = (String::from("{"), None);
        for (column, (value, kind)) in tuple.columns().zip(&due.kinds).enumerate() {
            let text = match value_of(value, *kind).map(text).transpose() {
                Ok(text) => text,
                // A column that is not used, or the row would have come as text.
                Err(Unfit::Binary) => continue,
                Err(error) => return Err((column, error)),
            };
            if due.id == Some(column) {
                id.clone_from(&text);
            }
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&serde_json::Value::from(&*self.names[column]).to_string());
            json.push(':');
            json.push_str(&serde_json::Value::from(text).to_string());
        }
        json.push('}');
        Ok((json, id))
    }
}

impl Due {
    /// When the row is to be sent; none is at once.
    fn read(&self, tuple: &Tuple) -> Result<Option<i64>, Unfit> {
        let kind = self.kinds[self.column];
        let column = tuple.columns().nth(self.column);
        let Some(value) = column.and_then(|column| value_of(column, kind)) else { return Ok(None) };
        let (at, past) = if kind == Kind::Int {
            (value::epoch(&value, self.unit)?, value::int(&value)? < 0)
        } else {
            (value::created_at(&value)?, is_long_ago(&value))
        };
        // Beyond the calendar, or an infinity.
        Ok(Some(at.unwrap_or(if past { i64::MIN } else { i64::MAX })))
    }
}

fn value_of(column: Column, kind: Kind) -> Option<Value> {
    match column {
        Column::Null | Column::UnchangedToast => None,
        Column::Text(bytes) => Some(Value { kind, bytes, binary: false }),
        Column::Binary(bytes) => Some(Value { kind, bytes, binary: true }),
    }
}

/// Of a time beyond the calendar, on which side of it.
fn is_long_ago(value: &Value) -> bool {
    if value.binary {
        return value.bytes.first().is_some_and(|byte| *byte >= 0x80);
    }
    value.bytes.starts_with(b"-") || value.bytes.ends_with(b"BC")
}

/// A value's text, as the server would have written it.
fn text(value: Value) -> Result<String, Unfit> {
    match (value.kind, value.binary) {
        (_, false) => String::from_utf8(value.bytes.to_vec()).map_err(|_| Unfit::NotUtf8),
        (Kind::Bytea, true) => Ok(value::hex(&value.bytes)),
        (Kind::Timestamptz | Kind::Timestamp, true) => time(&value),
        _ => Ok(value::text(value)?.to_string()),
    }
}

/// A time that came in binary form.
fn time(value: &Value) -> Result<String, Unfit> {
    let micros = value::created_at(value)?;
    let known = micros.filter(|micros| CALENDAR.contains(&micros.div_euclid(1_000_000)));
    let Some(micros) = known else {
        return Ok(if is_long_ago(value) { "-infinity" } else { "infinity" }.to_owned());
    };
    let at = jiff::Timestamp::from_microsecond(micros).map_err(|_| Unfit::NotTime)?;
    let text = jiff::tz::TimeZone::UTC.to_datetime(at).to_string().replace('T', " ");
    Ok(if value.kind == Kind::Timestamptz { text + "+00" } else { text })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::mapping::Preset;
    use crate::postgres::names::Outbox;
    use crate::postgres::table::ColumnTypes;

    fn layout(due: &'static str, columns: &[(&str, u32)]) -> Layout {
        let preset = Preset::named("walpost").expect("the preset");
        let mapping = preset.mapping(|entry| (entry == "due").then_some(due)).expect("a mapping");
        let outbox = Outbox { mapping: mapping.into(), ..Outbox::default() };
        Layout::new(&outbox, columns.iter().copied(), &ColumnTypes::default()).expect("a layout")
    }

    const COLUMNS: [(&str, u32); 4] = [("id", 2950), ("topic", 25), ("payload", 114), ("at", 1184)];
    const ID: &str = "11111111-2222-3333-4444-555555555555";

    fn later(layout: &Layout, texts: &[Option<&str>], now: u64) -> Result<Option<Later>, Box<UnfitRow>> {
        let tuple = Tuple::of_texts(texts.iter().copied());
        let message = layout.message(&tuple)?.expect("it is sent");
        layout.later(&tuple, &message, SystemTime::UNIX_EPOCH + Duration::from_micros(now))
    }

    #[test]
    fn only_what_is_due_after_its_commit_is_held() {
        let layout = layout("{at}", &COLUMNS);
        assert!(layout.has_due());
        for (at, now, expected) in [
            (None, 0, None),
            (Some("1970-01-01 00:00:01+00"), 1_000_000, None),
            (Some("1970-01-01 00:00:01+00"), 999_999, Some(1_000_000)),
            (Some("-infinity"), 0, None),
            (Some("infinity"), 0, Some(i64::MAX)),
            (Some("0044-03-15 12:00:00+00 BC"), 0, None),
            (Some("12026-01-01 00:00:00+00"), 0, Some(i64::MAX)),
        ] {
            let row = [Some(ID), Some("t"), Some("{\"a\": \"\u{1}é\"}"), at];
            let later = later(&layout, &row, now).expect("it can be read");
            assert_eq!(later.as_ref().map(|later| later.due), expected, "{at:?}");
            if let (Some(later), Some(at)) = (later, at) {
                let content =
                    format!(r#"{{"id":"{ID}","topic":"t","payload":"{{\"a\": \"\u0001é\"}}","at":"{at}"}}"#);
                assert_eq!((later.id.as_str(), later.content), (ID, content));
            }
        }
        let unfit = later(&layout, &[Some(ID), Some("t"), None, Some("soon")], 0).expect_err("no time");
        assert_eq!((&*unfit.column().name, unfit.value.as_deref()), ("at", Some(&b"soon"[..])));
    }

    #[test]
    fn numbers_are_times_by_their_unit() {
        let columns = [("id", 2950), ("topic", 25), ("payload", 114), ("at", 20)];
        for (due, number, expected) in [
            ("{at} s", "2", Some(2_000_000)),
            ("{at}", "2", Some(2_000)),
            ("{at} us", "2", Some(2)),
            ("{at} s", "9223372036854775807", Some(i64::MAX)),
            ("{at} s", "-9223372036854775808", None),
        ] {
            let row = [Some(ID), Some("t"), None, Some(number)];
            let later = later(&layout(due, &columns), &row, 1).expect("it can be read");
            assert_eq!(later.map(|later| later.due), expected, "{due} {number}");
        }
        assert!(!layout("none", &columns).has_due() && !layout("{gone?}", &columns).has_due());
    }

    #[test]
    fn what_came_in_binary_form_is_kept_as_text() {
        let micros = (1_795_441_345_000_001_i64 - 946_684_800_000_000).to_be_bytes();
        for (kind, bytes, expected) in [
            (Kind::Bytea, &b"\x00\xff"[..], "\\x00ff"),
            (Kind::Timestamptz, &micros[..], "2026-11-23 13:42:25.000001+00"),
            (Kind::Timestamp, &micros[..], "2026-11-23 13:42:25.000001"),
            (Kind::Timestamptz, &i64::MAX.to_be_bytes()[..], "infinity"),
            (Kind::Timestamptz, &(i64::MIN + 1).to_be_bytes()[..], "-infinity"),
            (Kind::Bool, b"\x01", "true"),
            (Kind::Jsonb, b"\x01{}", "{}"),
        ] {
            let value = Value { kind, bytes: Bytes::copy_from_slice(bytes), binary: true };
            assert_eq!(text(value).as_deref(), Ok(expected), "{kind:?}");
        }
    }
}
