//! The cursor through which every byte of the replication protocol is read.
//!
//! Nothing else looks at the bytes, so no length is trusted anywhere: a read beyond the end is an
//! error that names the field, and what nobody read is an error too.

use std::time::SystemTime;

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::decode_error::DecodeError;
use super::wal;
use crate::lsn::Lsn;

/// Longest name, in bytes. A stock server has 63 for identifiers, and an origin's name has to fit on
/// an index page; a longer one is a position gone wrong, and would only end up in a log.
const LONGEST_NAME: usize = 8 * 1024;

/// Reads a message from front to back.
///
/// Over [`Bytes`] it hands out views that share the buffer; over `&[u8]` it only looks ahead.
pub struct Reader<B> {
    rest: B,
    message: &'static str,
}

impl<B: Buf> Reader<B> {
    /// Starts at the front of `body`; `message` is what errors call it.
    pub fn new(message: &'static str, body: B) -> Self {
        Reader { rest: body, message }
    }

    /// What errors call the message from here on: its kind is known once its tag has been read.
    pub fn rename(&mut self, message: &'static str) {
        self.message = message;
    }

    /// What errors call the message.
    #[must_use]
    pub fn message(&self) -> &'static str {
        self.message
    }

    /// How many bytes have not been read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.remaining()
    }

    /// One byte.
    ///
    /// # Errors
    /// No byte is left.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| self.short(field))
    }

    /// Two bytes, signed.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn i16(&mut self, field: &'static str) -> Result<i16, DecodeError> {
        self.rest.try_get_i16().map_err(|_| self.short(field))
    }

    /// Four bytes, unsigned: object ids and transaction ids.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.rest.try_get_u32().map_err(|_| self.short(field))
    }

    /// Four bytes, signed.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.rest.try_get_i32().map_err(|_| self.short(field))
    }

    /// Eight bytes, signed.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.rest.try_get_i64().map_err(|_| self.short(field))
    }

    /// A position in the log.
    ///
    /// # Errors
    /// Fewer than eight bytes are left.
    pub fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        self.rest.try_get_u64().map(Lsn).map_err(|_| self.short(field))
    }

    /// A time: microseconds since 2000-01-01.
    ///
    /// # Errors
    /// Fewer than eight bytes are left, or this system's clock doesn't reach that far.
    pub fn time(&mut self, field: &'static str) -> Result<SystemTime, DecodeError> {
        let micros = self.i64(field)?;
        wal::system_time(micros).ok_or(DecodeError::OutOfTime { message: self.message, field, micros })
    }

    /// A length of four bytes, which the protocol writes as a signed number.
    ///
    /// # Errors
    /// Fewer bytes are left, or the length is negative. Whether so many bytes follow is *not* checked.
    pub fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let value = self.i32(field)?;
        usize::try_from(value).map_err(|_| DecodeError::Negative { message: self.message, field, value })
    }

    /// A byte of flags, none of them outside `known`: a flag that is not understood changes the
    /// meaning of a message in a way that is not understood either.
    ///
    /// # Errors
    /// No byte is left, or another flag is set.
    pub fn flags(&mut self, field: &'static str, known: u8) -> Result<u8, DecodeError> {
        match self.u8(field)? {
            flags if flags & !known == 0 => Ok(flags),
            flags => Err(self.invalid(field, flags)),
        }
    }

    /// Passes over `count` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn skip(&mut self, count: usize, field: &'static str) -> Result<(), DecodeError> {
        if count > self.remaining() {
            return Err(self.short(field));
        }
        self.rest.advance(count);
        Ok(())
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(DecodeError::LeftOver { message: self.message, bytes }),
        }
    }

    /// The error of a field that the bytes end in.
    #[must_use]
    pub fn short(&self, field: &'static str) -> DecodeError {
        DecodeError::Short { message: self.message, field }
    }

    /// The error of a field with an undefined value.
    #[must_use]
    pub fn invalid(&self, field: &'static str, value: u8) -> DecodeError {
        DecodeError::Invalid { message: self.message, field, value }
    }
}

impl Reader<Bytes> {
    /// The next `count` bytes, shared with the buffer that they came in.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, count: usize, field: &'static str) -> Result<Bytes, DecodeError> {
        if count > self.remaining() {
            return Err(self.short(field));
        }
        Ok(self.rest.split_to(count))
    }

    /// All that is left.
    #[must_use]
    pub fn take_rest(self) -> Bytes {
        self.rest
    }

    /// Bytes up to a zero byte, which is read too and left out.
    ///
    /// # Errors
    /// There is no zero byte.
    pub fn until_zero(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        let Some(end) = self.rest.iter().position(|&byte| byte == 0) else {
            return Err(self.short(field));
        };
        let text = self.take(end, field)?;
        self.skip(1, field)?;
        Ok(text)
    }

    /// A name: UTF-8 text that ends with a zero byte.
    ///
    /// # Errors
    /// There is no zero byte, the text is not UTF-8, or it is longer than any name can be.
    pub fn name(&mut self, field: &'static str) -> Result<ByteString, DecodeError> {
        let text = self.until_zero(field)?;
        if text.len() > LONGEST_NAME {
            let (count, limit) = (text.len(), LONGEST_NAME);
            return Err(DecodeError::TooMany { message: self.message, field, count, limit });
        }
        ByteString::try_from(text).map_err(|_| DecodeError::NotUtf8 { message: self.message, field })
    }

    /// A second reader at the same place, which leaves this one where it is.
    #[must_use]
    pub fn ahead(&self) -> Reader<&[u8]> {
        Reader { rest: &self.rest, message: self.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader<Bytes> {
        Reader::new("test", Bytes::from_static(bytes))
    }

    #[test]
    fn numbers_are_big_endian_and_signed_as_named() {
        let mut reader = reader(b"\xFF\xFF\xFE\0\0\0\x01\xFF\xFF\xFF\xFD\0\0\0\x0A\0\0\0\x0B");
        assert_eq!(reader.u8("a"), Ok(255));
        assert_eq!(reader.i16("b"), Ok(-2));
        assert_eq!(reader.u32("c"), Ok(1));
        assert_eq!(reader.i32("d"), Ok(-3));
        assert_eq!(reader.lsn("e"), Ok(Lsn(0xA_0000_000B)));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_short_read_names_its_field_and_a_long_message_is_refused() {
        let short = |field| Err(DecodeError::Short { message: "test", field });
        assert_eq!(reader(b"").u8("flags").map(drop), short("flags"));
        assert_eq!(reader(b"1234567").i64("clock").map(drop), short("clock"));
        assert_eq!(reader(b"123").take(4, "value").map(drop), short("value"));
        assert_eq!(reader(b"123").take(usize::MAX, "value").map(drop), short("value"));
        assert_eq!(reader(b"no end").name("name").map(drop), short("name"));
        assert_eq!(reader(b"ab").finish(), Err(DecodeError::LeftOver { message: "test", bytes: 2 }));
    }

    #[test]
    fn names_are_utf8_and_not_endless() {
        let mut two = reader("Łódź\0\0".as_bytes());
        assert_eq!(two.name("first").as_deref(), Ok("Łódź"));
        assert_eq!(two.name("second").as_deref(), Ok(""));
        assert_eq!(two.finish(), Ok(()));
        assert_eq!(
            reader(b"\xFF\0").name("name"),
            Err(DecodeError::NotUtf8 { message: "test", field: "name" })
        );
        let long = Bytes::from([vec![b'a'; LONGEST_NAME + 1], vec![0]].concat());
        assert!(matches!(Reader::new("test", long).name("name"), Err(DecodeError::TooMany { .. })));
    }

    #[test]
    fn what_is_taken_shares_the_buffer() {
        let body = Bytes::from(b"0123456789".to_vec());
        let mut reader = Reader::new("test", body.clone());
        assert_eq!(reader.skip(2, "head"), Ok(()));
        let taken = reader.take(3, "value");
        assert_eq!(taken.as_ref().map(|bytes| bytes.as_ptr()), Ok(body[2..].as_ptr()));
    }
}
