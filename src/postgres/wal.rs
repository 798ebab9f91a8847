//! The envelope: what a CopyData frame of the replication stream carries, and the word we send back.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol", START_REPLICATION.

use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};

use super::decode_error::DecodeError;
use super::reader::Reader;
use crate::lsn::Lsn;

/// 2000-01-01 00:00:00 UTC, from which Postgres counts, in seconds since 1970-01-01.
const EPOCH_SECONDS: u64 = 946_684_800;

/// What the server sends while it streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// One message of the output plugin.
    XLogData(XLogData),
    /// How far the server has come, and perhaps a question whether we are still here.
    Keepalive(Keepalive),
}

/// `w`: one message of the output plugin.
///
/// The positions are those of the message and neither ascend nor tell how much log there is: use
/// those of `Commit` and of the keepalives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XLogData {
    /// Where the data begins; zero for a message that belongs to no place.
    pub start: Lsn,
    /// Called the end of the log on the server; in a logical stream it equals `start`.
    pub end: Lsn,
    /// The server's clock at sending.
    pub clock: SystemTime,
    /// The message itself, shared with the frame.
    pub body: Bytes,
}

/// `k`: primary keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How far the server has sent: nothing of ours before it is still to come.
    pub wal_end: Lsn,
    /// The server's clock at sending.
    pub clock: SystemTime,
    /// The server wants a status soon, or it will hang up.
    pub reply_requested: bool,
}

impl Envelope {
    /// Opens the body of a CopyData frame.
    ///
    /// # Errors
    /// The bytes are not a message of the server's half of the protocol.
    pub fn parse(frame: Bytes) -> Result<Self, DecodeError> {
        const LAYER: &str = "replication";
        let mut reader = Reader::new(LAYER, frame);
        match reader.u8("tag")? {
            b'w' => xlog_data(reader).map(Self::XLogData),
            b'k' => keepalive(reader).map(Self::Keepalive),
            tag => Err(DecodeError::UnknownTag { message: LAYER, tag }),
        }
    }
}

fn xlog_data(mut reader: Reader<Bytes>) -> Result<XLogData, DecodeError> {
    reader.rename("XLogData");
    Ok(XLogData {
        start: reader.lsn("start")?,
        end: reader.lsn("end")?,
        clock: reader.time("clock")?,
        body: reader.take_rest(),
    })
}

fn keepalive(mut reader: Reader<Bytes>) -> Result<Keepalive, DecodeError> {
    reader.rename("Keepalive");
    let keepalive = Keepalive {
        wal_end: reader.lsn("end of the log")?,
        clock: reader.time("clock")?,
        reply_requested: reader.flags("reply request", 1)? == 1,
    };
    reader.finish()?;
    Ok(keepalive)
}

/// `r`: standby status update, the word that moves the slot.
///
/// The three positions go out as they are given. None is derived from another: `flush` alone lets the
/// server forget, and a zero there means "nothing yet", not "as much as was written".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received up to here.
    pub write: Lsn,
    /// Safe up to here: the server may forget what lies before.
    pub flush: Lsn,
    /// Acted upon up to here.
    pub apply: Lsn,
    /// Our clock at sending.
    pub clock: SystemTime,
    /// We want a keepalive at once.
    pub reply_requested: bool,
}

impl StandbyStatus {
    /// Tag, three positions, clock, flag.
    const BODY: usize = 1 + 8 + 8 + 8 + 8 + 1;

    /// Appends a complete CopyData frame, header included.
    pub fn append_frame(&self, into: &mut BytesMut) {
        // The length counts itself and not the tag before it.
        const LENGTH: i32 = (4 + StandbyStatus::BODY) as i32;
        into.reserve(1 + 4 + Self::BODY);
        into.put_u8(b'd');
        into.put_i32(LENGTH);
        into.put_u8(b'r');
        into.put_u64(self.write.0);
        into.put_u64(self.flush.0);
        into.put_u64(self.apply.0);
        into.put_i64(wire_time(self.clock));
        into.put_u8(u8::from(self.reply_requested));
    }
}

fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS)
}

/// The time `micros` microseconds after 2000-01-01, or before it when negative.
///
/// `None` where the system's clock doesn't reach.
#[must_use]
pub fn system_time(micros: i64) -> Option<SystemTime> {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { epoch().checked_sub(distance) } else { epoch().checked_add(distance) }
}

/// Microseconds from 2000-01-01 to `time`, as near as the wire can say.
#[must_use]
pub fn wire_time(time: SystemTime) -> i64 {
    let micros = |distance: Duration| i64::try_from(distance.as_micros()).unwrap_or(i64::MAX);
    match time.duration_since(epoch()) {
        Ok(after) => micros(after),
        Err(before) => -micros(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: i64 = 0x0002_B1C5_D2E3_F405;

    fn frame(tag: u8, numbers: &[u64], end: &[u8]) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_u8(tag);
        numbers.iter().for_each(|&number| frame.put_u64(number));
        frame.put_slice(end);
        frame.freeze()
    }

    #[test]
    fn both_kinds_are_opened() {
        let clock = system_time(CLOCK).unwrap();
        let data = Envelope::parse(frame(b'w', &[5, 6, CLOCK as u64], b"body"));
        let body = Bytes::from_static(b"body");
        assert_eq!(data, Ok(Envelope::XLogData(XLogData { start: Lsn(5), end: Lsn(6), clock, body })));
        for (byte, reply_requested) in [(0, false), (1, true)] {
            let alive = Envelope::parse(frame(b'k', &[7, CLOCK as u64], &[byte]));
            assert_eq!(alive, Ok(Envelope::Keepalive(Keepalive { wal_end: Lsn(7), clock, reply_requested })));
        }
    }

    #[test]
    fn broken_envelopes_name_what_is_wrong() {
        let data = frame(b'w', &[1, 2, 3], b"");
        for end in 0..data.len() {
            let error = Envelope::parse(data.slice(..end));
            assert!(matches!(error, Err(DecodeError::Short { .. })), "{end}: {error:?}");
        }
        let cases = [
            (frame(b'k', &[1, 2], b""), DecodeError::Short { message: "Keepalive", field: "reply request" }),
            (frame(b'k', &[1, 2], &[0, 0]), DecodeError::LeftOver { message: "Keepalive", bytes: 1 }),
            (
                frame(b'k', &[1, 2], &[2]),
                DecodeError::Invalid { message: "Keepalive", field: "reply request", value: 2 },
            ),
            (frame(b'r', &[1, 2, 3, 4], &[0]), DecodeError::UnknownTag { message: "replication", tag: b'r' }),
        ];
        for (frame, error) in cases {
            assert_eq!(Envelope::parse(frame), Err(error));
        }
    }

    #[test]
    fn a_status_is_one_frame_with_the_positions_as_given() {
        let status = StandbyStatus {
            write: Lsn(3),
            flush: Lsn::ZERO,
            apply: Lsn(1),
            clock: system_time(-1).unwrap(),
            reply_requested: true,
        };
        let mut out = BytesMut::from(&b"before"[..]);
        status.append_frame(&mut out);
        let expected = [
            b"before".as_slice(),
            b"d\0\0\0\x26r",
            b"\0\0\0\0\0\0\0\x03",
            b"\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\x01",
            b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
            b"\x01",
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn time_goes_both_ways_and_never_panics() {
        let millennium = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS);
        assert_eq!(system_time(0), Some(millennium));
        for micros in [0, 1, -1, CLOCK, -CLOCK, -946_684_800_000_000] {
            assert_eq!(system_time(micros).map(wire_time), Some(micros));
        }
        for micros in [i64::MIN, i64::MAX] {
            // Nearer than a microsecond only in the one value that has no positive twin.
            let back = system_time(micros).map_or(micros, wire_time);
            assert!(back.abs_diff(micros) <= 1, "{micros} came back as {back}");
        }
    }
}
