//! The values of a row.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::relation::column_count;
use super::{DecodeError, Reader};

/// The values of a row, still in the bytes that were received.
///
/// They were walked once when the message was decoded, so that a malformed row fails there; the
/// values are then cut out on demand, and a row costs no allocation.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    /// What follows the column count.
    body: Bytes,
    columns: u16,
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// `n`: null, or in an [`OldRow::Key`](super::OldRow::Key) not part of the key.
    Null,
    /// `u`: a large value that an update has left as it was; the server doesn't look it up.
    UnchangedToast,
    /// `t`: as the type's output function writes it.
    Text(Bytes),
    /// `b`: as the type's send function writes it.
    Binary(Bytes),
}

impl Tuple {
    /// A row of texts, as a server would have sent it.
    #[must_use]
    pub fn of_texts<'a>(texts: impl ExactSizeIterator<Item = Option<&'a str>>) -> Self {
        let columns = u16::try_from(texts.len()).unwrap_or(u16::MAX);
        let mut body = BytesMut::new();
        for text in texts.take(usize::from(columns)) {
            match text.and_then(|text| Some((u32::try_from(text.len()).ok()?, text))) {
                None => body.put_u8(b'n'),
                Some((length, text)) => {
                    body.put_u8(b't');
                    body.put_u32(length);
                    body.put_slice(text.as_bytes());
                }
            }
        }
        Tuple { body: body.freeze(), columns }
    }

    /// Reads a row in which large values may be left out.
    pub(super) fn read(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        Self::cut(reader, |_| true)
    }

    /// Reads a row that nothing may be left out of.
    pub(super) fn read_complete(reader: &mut Reader<Bytes>) -> Result<Self, DecodeError> {
        Self::cut(reader, |head| head != Head::UnchangedToast)
    }

    fn cut(reader: &mut Reader<Bytes>, allowed: fn(Head) -> bool) -> Result<Self, DecodeError> {
        let count = column_count(reader)?;
        let mut ahead = reader.ahead();
        for _ in 0..count {
            let head = Head::read(&mut ahead)?;
            if !allowed(head) {
                return Err(ahead.invalid(KIND, UNCHANGED));
            }
            ahead.skip(head.length(), "column value")?;
        }
        let length = reader.remaining() - ahead.remaining();
        Ok(Tuple { body: reader.take(length, "columns")?, columns: count })
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether it is the row of a table without columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The values, in the order of the relation's columns; they share the received bytes.
    #[must_use]
    pub fn columns(&self) -> Columns {
        Columns { rest: Reader::new("row", self.body.clone()), left: self.columns }
    }
}

/// Payloads don't belong in logs, so a row tells only how large it is.
impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tuple({} columns, {} bytes)", self.columns, self.body.len())
    }
}

/// Iterates over the values of a [`Tuple`].
pub struct Columns {
    rest: Reader<Bytes>,
    left: u16,
}

impl Iterator for Columns {
    type Item = Column;

    // The bytes have been walked before: the errors that `ok` hides can't happen.
    fn next(&mut self) -> Option<Column> {
        self.left = self.left.checked_sub(1)?;
        let head = Head::read(&mut self.rest).ok()?;
        Some(match head {
            Head::Null => Column::Null,
            Head::UnchangedToast => Column::UnchangedToast,
            Head::Text(length) => Column::Text(self.rest.take(length, "column value").ok()?),
            Head::Binary(length) => Column::Binary(self.rest.take(length, "column value").ok()?),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Columns {}

const KIND: &str = "column kind";
const UNCHANGED: u8 = b'u';

/// What stands before a value: its kind, and how many bytes it has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    Null,
    UnchangedToast,
    Text(usize),
    Binary(usize),
}

impl Head {
    fn read<B: Buf>(reader: &mut Reader<B>) -> Result<Self, DecodeError> {
        match reader.u8(KIND)? {
            b'n' => Ok(Self::Null),
            UNCHANGED => Ok(Self::UnchangedToast),
            b't' => reader.length("column length").map(Self::Text),
            b'b' => reader.length("column length").map(Self::Binary),
            other => Err(reader.invalid(KIND, other)),
        }
    }

    fn length(self) -> usize {
        match self {
            Self::Null | Self::UnchangedToast => 0,
            Self::Text(length) | Self::Binary(length) => length,
        }
    }
}
