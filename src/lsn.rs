//! Places in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A log sequence number: a byte position in the write-ahead log.
///
/// Written `X/Y`, two hexadecimal halves, as the type `pg_lsn` writes it
/// (PostgreSQL documentation, "pg_lsn Type").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, which the protocol uses for "no position".
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes of log from `earlier` to here; 0 when `earlier` lies ahead.
    #[must_use]
    pub fn distance(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was not two hexadecimal halves of at most 32 bits with a slash between.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a log position of the form X/Y")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let half = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if plain {
                u32::from_str_radix(digits, 16).map_err(|_| ParseLsnError)
            } else {
                Err(ParseLsnError)
            }
        };
        Ok(Lsn((u64::from(half(high)?) << 32) | u64::from(half(low)?)))
    }
}

/// Where a message stands in commit order: which transaction, and which row of it.
///
/// Rows of one transaction share their commit LSN, so the pair is the identity; a consumer that
/// remembers the highest pair it has seen drops every repeat with one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Where the transaction's commit record begins.
    pub commit_lsn: Lsn,
    /// Counted from 0 over the outbox rows of the transaction.
    pub index: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.commit_lsn, self.index)
    }
}

/// The text was not a log position, a plus and a decimal number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position of the form X/Y+index, such as 0/16B3748+0")]
pub struct ParsePositionError;

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let (lsn, index) = text.split_once('+').ok_or(ParsePositionError)?;
        if !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParsePositionError);
        }
        let commit_lsn = lsn.parse().map_err(|_| ParsePositionError)?;
        Ok(Position { commit_lsn, index: index.parse().map_err(|_| ParsePositionError)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        for (text, number) in [("0/0", 0), ("0/16B3748", 0x16B_3748), ("A/FFFFFFFF", 0xA_FFFF_FFFF)] {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "/", "1", "1/", "/1", "1/G", "+1/2", "100000000/0", "1/2/3", " 1/2"] {
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError), "{text:?}");
        }
    }

    #[test]
    fn positions_sort_by_commit_then_index() {
        let at = |lsn, index| Position { commit_lsn: Lsn(lsn), index };
        assert!(at(1, 9) < at(2, 0) && at(2, 0) < at(2, 1));
        assert_eq!(at(0x1_0000_0002, 3).to_string(), "1/2+3");
    }

    #[test]
    fn positions_are_read_as_they_are_written() {
        let at = Position { commit_lsn: Lsn(0x1_0000_0002), index: 30 };
        assert_eq!(at.to_string().parse(), Ok(at));
        for text in
            ["", "1/2", "1/2+", "+3", "1/2+-3", "1/2++3", "1/2+3a", "12+3", "1/2+99999999999999999999"]
        {
            assert_eq!(text.parse::<Position>(), Err(ParsePositionError), "{text:?}");
        }
    }
}
