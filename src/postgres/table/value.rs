//! A column's value, in text or in binary format.
//!
//! Source of the binary forms: the `*_send` functions of each type in the PostgreSQL source
//! (`src/backend/utils/adt`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use bytestring::ByteString;
use uuid::Uuid;

use crate::error::OutboxError;
use crate::mapping::Unit;
use crate::postgres::array;

/// Microseconds from 1970-01-01 to 2000-01-01, where the server's time begins.
const EPOCH_OFFSET_US: i64 = 946_684_800_000_000;

/// What a column's type means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Uuid,
    Text,
    Json,
    Jsonb,
    Bytea,
    Bool,
    /// A whole number of 2, 4 or 8 bytes.
    Int,
    /// Any other number, of which only the text is known.
    Number,
    Timestamptz,
    Timestamp,
    /// Known by its text only.
    Other,
}

impl Kind {
    /// The kind of a built-in type (PostgreSQL source, `pg_type.dat`).
    pub(super) fn of(type_oid: u32) -> Kind {
        match type_oid {
            2950 => Kind::Uuid,
            18 | 19 | 25 | 1042 | 1043 => Kind::Text,
            114 => Kind::Json,
            3802 => Kind::Jsonb,
            17 => Kind::Bytea,
            16 => Kind::Bool,
            20 | 21 | 23 => Kind::Int,
            700 | 701 | 1700 => Kind::Number,
            1184 => Kind::Timestamptz,
            1114 => Kind::Timestamp,
            _ => Kind::Other,
        }
    }

    /// Whether the text that stands for a value can be made of its binary form.
    pub(super) fn has_binary_text(self) -> bool {
        !matches!(self, Kind::Other | Kind::Number | Kind::Timestamptz | Kind::Timestamp)
    }

    /// Whether the text of a value is JSON as it is, as a rule.
    pub(super) fn is_json(self) -> bool {
        matches!(self, Kind::Json | Kind::Jsonb | Kind::Bool | Kind::Int | Kind::Number)
    }
}

/// A value that is not null.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) kind: Kind,
    pub(super) bytes: Bytes,
    pub(super) binary: bool,
}

/// Why a value doesn't fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    NotUtf8,
    NotUuid,
    NotHex,
    NotTime,
    NotNumber,
    NotJson,
    NotArray,
    NotPairs,
    /// No text of the column's own type.
    NotOfType,
    /// A binary form that we can't read; the text form would do.
    Binary,
}

/// Why a row is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    /// The column is null.
    #[error("column {0} is null or empty")]
    Null(Arc<str>),
    /// The server left the value out, which it may do in an update only.
    #[error("column {0} came without its value")]
    Absent(Arc<str>),
    /// Other columns than the server has described.
    #[error("the row has {values} values, and {described} columns were described")]
    Shape { described: usize, values: usize },
    /// The value can't be read.
    #[error("column {0} holds no {1}")]
    Unfit(Arc<str>, &'static str),
    /// The value came in a binary form that we don't know.
    #[error("column {0} came in an unknown binary form")]
    Binary(Arc<str>),
}

impl Unfit {
    pub(super) fn in_column(self, column: &Arc<str>) -> RowError {
        let column = Arc::clone(column);
        match self {
            Unfit::NotUtf8 => RowError::Unfit(column, "UTF-8 text"),
            Unfit::NotUuid => RowError::Unfit(column, "UUID"),
            Unfit::NotHex => RowError::Unfit(column, "bytea in hex"),
            Unfit::NotTime => RowError::Unfit(column, "timestamp"),
            Unfit::NotNumber => RowError::Unfit(column, "number that would do"),
            Unfit::NotJson => RowError::Unfit(column, "JSON"),
            Unfit::NotArray => RowError::Unfit(column, "array of text"),
            Unfit::NotPairs => RowError::Unfit(column, "names, as many as there are values"),
            Unfit::NotOfType => RowError::Unfit(column, "value that Debezium's type for it has"),
            Unfit::Binary => RowError::Binary(column),
        }
    }
}

impl RowError {
    /// The column that it is about.
    pub(crate) fn column(&self) -> Arc<str> {
        match self {
            RowError::Null(name)
            | RowError::Absent(name)
            | RowError::Unfit(name, _)
            | RowError::Binary(name) => Arc::clone(name),
            RowError::Shape { .. } => Arc::from(""),
        }
    }

    /// What the server did wrong, if it was the server; a fresh connection asks for the text form.
    pub(crate) fn of_protocol(&self) -> Option<OutboxError> {
        let broken = matches!(self, RowError::Binary(_) | RowError::Absent(_) | RowError::Shape { .. });
        broken.then(|| OutboxError::protocol("a row can't be read", self.clone()))
    }
}

/// The bytes that a consumer shall see.
pub(super) fn bytes(value: Value) -> Result<Bytes, Unfit> {
    match (value.kind, value.binary) {
        (Kind::Bytea, false) => unhex(&value.bytes),
        (Kind::Uuid, true) => Ok(Bytes::from(uuid(value)?.to_string())),
        (Kind::Jsonb, true) => {
            let mut bytes = value.bytes;
            // The binary form of jsonb is its version, 1, and then its text.
            if bytes.first() != Some(&1) {
                return Err(Unfit::Binary);
            }
            bytes.advance(1);
            Ok(bytes)
        }
        (Kind::Bool | Kind::Int, _) => spelled(&value),
        (Kind::Other | Kind::Number | Kind::Timestamptz | Kind::Timestamp, true) => Err(Unfit::Binary),
        _ => Ok(value.bytes),
    }
}

pub(super) fn text(value: Value) -> Result<ByteString, Unfit> {
    ByteString::try_from(bytes(value)?).map_err(|_| Unfit::NotUtf8)
}

/// The text of a truth value, and of a whole number.
#[cold]
fn spelled(value: &Value) -> Result<Bytes, Unfit> {
    match (value.kind, value.bytes.as_ref(), value.binary) {
        (Kind::Bool, b"t", false) | (Kind::Bool, b"\x01", true) => Ok(Bytes::from_static(b"true")),
        (Kind::Bool, b"f", false) | (Kind::Bool, b"\0", true) => Ok(Bytes::from_static(b"false")),
        (Kind::Int, _, true) => Ok(Bytes::from(int(value)?.to_string())),
        (_, _, true) => Err(Unfit::Binary),
        _ => Ok(value.bytes.clone()),
    }
}

/// A whole number.
pub(super) fn int(value: &Value) -> Result<i64, Unfit> {
    if !value.binary {
        let text = std::str::from_utf8(&value.bytes).map_err(|_| Unfit::NotNumber)?;
        return text.parse().map_err(|_| Unfit::NotNumber);
    }
    match *value.bytes.as_ref() {
        [a, b] => Ok(i64::from(i16::from_be_bytes([a, b]))),
        [a, b, c, d] => Ok(i64::from(i32::from_be_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => Ok(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => Err(Unfit::Binary),
    }
}

/// A partition's number.
pub(super) fn partition(value: &Value) -> Result<i32, Unfit> {
    let number = i32::try_from(int(value)?).map_err(|_| Unfit::NotNumber)?;
    if number < 0 { Err(Unfit::NotNumber) } else { Ok(number) }
}

/// The same as [`created_at`] of a number.
pub(super) fn epoch(value: &Value, unit: Unit) -> Result<Option<i64>, Unfit> {
    let micros = i128::from(int(value)?) * 1_000_000 / i128::from(unit.per_second());
    Ok(i64::try_from(micros).ok())
}

/// The elements of an array of text.
pub(super) fn text_array(value: &Value) -> Result<Vec<Option<String>>, Unfit> {
    if value.binary {
        return Err(Unfit::Binary);
    }
    let text = std::str::from_utf8(&value.bytes).map_err(|_| Unfit::NotUtf8)?;
    array::elements(text).ok_or(Unfit::NotArray)
}

/// A UUID that stands for an id of another kind, always the same (RFC 9562, version 5, in the namespace of OIDs).
pub(super) fn any_id(id: &[u8]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, id)
}

pub(super) fn uuid(value: Value) -> Result<Uuid, Unfit> {
    if value.kind == Kind::Uuid && value.binary {
        return Uuid::from_slice(&value.bytes).map_err(|_| Unfit::NotUuid);
    }
    Uuid::try_parse_ascii(&bytes(value)?).map_err(|_| Unfit::NotUuid)
}

/// Microseconds since 1970-01-01 UTC; `None` for the infinities and what lies beyond the calendar. A
/// timestamp without time zone is taken as UTC.
pub(super) fn created_at(value: &Value) -> Result<Option<i64>, Unfit> {
    if value.binary {
        let bytes: [u8; 8] = value.bytes.as_ref().try_into().map_err(|_| Unfit::NotTime)?;
        return Ok(match i64::from_be_bytes(bytes) {
            i64::MAX | i64::MIN => None,
            since_2000 => since_2000.checked_add(EPOCH_OFFSET_US),
        });
    }
    let text = std::str::from_utf8(&value.bytes).map_err(|_| Unfit::NotTime)?;
    let long_year = text.find('-').is_some_and(|dash| dash > 4);
    if text.ends_with("infinity") || text.ends_with("BC") || long_year {
        return Ok(None);
    }
    let time = match value.kind {
        Kind::Timestamp => {
            let civil: jiff::civil::DateTime = text.parse().map_err(|_| Unfit::NotTime)?;
            civil.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| Unfit::NotTime)?.timestamp()
        }
        _ => text.parse::<jiff::Timestamp>().map_err(|_| Unfit::NotTime)?,
    };
    Ok(Some(time.as_microsecond()))
}

/// Microseconds since 1970.
pub(super) fn micros(at: SystemTime) -> Option<i64> {
    let micros = |span: Duration| i64::try_from(span.as_micros()).ok();
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => micros(before.duration()).map(|micros| -micros),
    }
}

/// `\x` and pairs of hexadecimal digits, as `bytea_output = hex` writes them.
fn unhex(text: &[u8]) -> Result<Bytes, Unfit> {
    let digits = text.strip_prefix(b"\\x").ok_or(Unfit::NotHex)?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match *pair {
        [high, low] => Some((digit(high)? << 4) | digit(low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
    bytes.map(Bytes::from).ok_or(Unfit::NotHex)
}

/// Bytes as SQL reads them.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        text.extend(
            [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default()),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: Kind, bytes: &[u8], binary: bool) -> Value {
        Value { kind, bytes: Bytes::copy_from_slice(bytes), binary }
    }

    #[test]
    fn payloads_come_as_their_own_bytes() {
        for (kind, wire, binary, expected) in [
            (Kind::Json, &b"{ \"a\":1 }"[..], false, Ok(&b"{ \"a\":1 }"[..])),
            (Kind::Json, b"{ \"a\":1 }", true, Ok(b"{ \"a\":1 }")),
            (Kind::Jsonb, b"\x01{\"a\": 1}", true, Ok(b"{\"a\": 1}")),
            (Kind::Jsonb, b"{\"a\": 1}", false, Ok(b"{\"a\": 1}")),
            (Kind::Jsonb, b"\x02{}", true, Err(Unfit::Binary)),
            (Kind::Jsonb, b"", true, Err(Unfit::Binary)),
            (Kind::Bytea, b"\x00\xff", true, Ok(b"\x00\xff")),
            (Kind::Bytea, b"\\x00fF", false, Ok(b"\x00\xff")),
            (Kind::Bytea, b"\\x", false, Ok(b"")),
            (Kind::Bytea, b"\\x0", false, Err(Unfit::NotHex)),
            (Kind::Bytea, b"\\x0g", false, Err(Unfit::NotHex)),
            (Kind::Bytea, b"abc", false, Err(Unfit::NotHex)),
            (Kind::Text, b"", false, Ok(b"")),
            (Kind::Other, b"1.5", false, Ok(b"1.5")),
            (Kind::Other, b"\x00", true, Err(Unfit::Binary)),
        ] {
            let got = bytes(value(kind, wire, binary));
            assert_eq!(got.as_deref(), expected.as_ref().copied(), "{kind:?} {wire:?}");
        }
    }

    #[test]
    fn numbers_and_truth_are_read_in_both_formats() {
        for (kind, wire, binary, expected) in [
            (Kind::Bool, &b"t"[..], false, "true"),
            (Kind::Bool, b"\0", true, "false"),
            (Kind::Int, b"-7", false, "-7"),
            (Kind::Int, b"\xff\xf9", true, "-7"),
            (Kind::Int, b"\x7f\xff\xff\xff", true, "2147483647"),
            (Kind::Int, b"\x80\0\0\0\0\0\0\0", true, "-9223372036854775808"),
            (Kind::Number, b"1.10", false, "1.10"),
        ] {
            assert_eq!(text(value(kind, wire, binary)).as_deref(), Ok(expected));
        }
        assert_eq!(text(value(Kind::Int, b"\0", true)), Err(Unfit::Binary));
        assert_eq!(text(value(Kind::Number, b"\0", true)), Err(Unfit::Binary));
        assert_eq!(partition(&value(Kind::Int, b"-1", false)), Err(Unfit::NotNumber));
        assert_eq!(partition(&value(Kind::Int, b"4294967296", false)), Err(Unfit::NotNumber));
        assert_eq!(
            epoch(&value(Kind::Int, b"1700000000", false), Unit::Seconds),
            Ok(Some(1_700_000_000_000_000))
        );
        assert_eq!(epoch(&value(Kind::Int, b"1999", false), Unit::Nanos), Ok(Some(1)));
        assert_eq!(epoch(&value(Kind::Int, b"9223372036854775807", false), Unit::Seconds), Ok(None));
    }

    #[test]
    fn ids_are_read_in_both_formats() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(uuid(value(Kind::Uuid, id.as_bytes(), true)), Ok(id));
        assert_eq!(uuid(value(Kind::Uuid, id.to_string().as_bytes(), false)), Ok(id));
        assert_eq!(uuid(value(Kind::Uuid, b"123", true)), Err(Unfit::NotUuid));
        assert_eq!(uuid(value(Kind::Text, b"order-1", true)), Err(Unfit::NotUuid));
    }

    #[test]
    fn times_are_read_in_both_formats() {
        let at = |text: &str| created_at(&value(Kind::Timestamptz, text.as_bytes(), false));
        assert_eq!(at("2000-01-01 00:00:00+00"), Ok(Some(EPOCH_OFFSET_US)));
        assert_eq!(at("2026-11-23 19:12:25.000001+05:30"), Ok(Some(1_795_441_345_000_001)));
        assert_eq!(at("1969-12-31 23:59:59.5+00"), Ok(Some(-500_000)));
        for beyond in ["infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "12026-01-01 00:00:00+00"] {
            assert_eq!(at(beyond), Ok(None), "{beyond}");
        }
        assert_eq!(at("yesterday"), Err(Unfit::NotTime));
        let civil = value(Kind::Timestamp, b"2000-01-01 00:00:00.25", false);
        assert_eq!(created_at(&civil), Ok(Some(EPOCH_OFFSET_US + 250_000)));
        let binary = |micros: i64| created_at(&value(Kind::Timestamptz, &micros.to_be_bytes(), true));
        assert_eq!(binary(0), Ok(Some(EPOCH_OFFSET_US)));
        assert_eq!(
            (binary(i64::MAX), binary(i64::MIN), binary(i64::MAX - 1)),
            (Ok(None), Ok(None), Ok(None))
        );
        assert_eq!(created_at(&value(Kind::Timestamptz, b"1234567", true)), Err(Unfit::NotTime));
    }
}
