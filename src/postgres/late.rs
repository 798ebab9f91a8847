//! Reading late and much from a server that is behind.
//!
//! A walsender sends each message by itself. A reader that sleeps on the socket is woken by every one of them, which
//! costs the server about as much as decoding the row; one that comes a moment later finds hundreds, and a server that
//! has meanwhile filled the window gathers the next ones on its side. So a stream that lags is left alone for a moment
//! unless it has brought much at once. The thread itself sleeps: an event loop that waits for a timer is woken by the
//! socket all the same. What does not lag is read at once.

use std::time::Duration;

use super::connection::READ_SIZE;

/// A stream that lags by this much has more to say at any time.
const LATE: Duration = Duration::from_millis(20);
/// One that brings less than this at a time only seems to lag: the times of commits come by another clock, as those of
/// transactions that were replicated to this server, or a commit takes long to reach the disk.
const MANY: usize = 4096;
/// One that brings so much has even more: the window was full, and what has gathered behind it comes now.
const FULL: usize = READ_SIZE / 4 * 3;
/// How long it is left alone: while the server fills the window of a socket.
const REST: Duration = Duration::from_millis(2);
/// The same on a Unix socket, which holds some hundred small messages before the server has to wait.
const UNIX_REST: Duration = Duration::from_micros(200);

/// When to read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LateReader {
    /// None where the thread has something else to do.
    rest: Duration,
    /// Bytes of the last read.
    read: usize,
}

impl LateReader {
    /// One that sleeps on its thread.
    pub(super) fn sleeping(unix: bool) -> Self {
        LateReader { rest: if unix { UNIX_REST } else { REST }, read: 0 }
    }

    /// So many bytes were read.
    pub(super) fn has_read(&mut self, bytes: usize) {
        self.read = bytes;
    }

    /// To be called before reading: rests if the stream is `behind`, counted from the last read, `since` then.
    pub(super) fn rest(self, behind: Duration, since: Duration) {
        let left = self.left(behind, since);
        if !left.is_zero() {
            std::thread::sleep(left);
        }
    }

    fn left(self, behind: Duration, since: Duration) -> Duration {
        let rests = behind >= LATE && (MANY..FULL).contains(&self.read);
        if rests { self.rest.saturating_sub(since) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stream_that_lags_and_brought_some_is_left_alone() {
        let micros = Duration::from_micros;
        let mut reader = LateReader::sleeping(false);
        assert_eq!(reader.left(micros(20_000), micros(300)), micros(0));
        reader.has_read(10_000);
        assert_eq!(reader.left(micros(20_000), micros(300)), micros(1_700));
        assert_eq!(reader.left(micros(20_000), micros(2_001)), micros(0));
        assert_eq!(reader.left(micros(19_999), micros(300)), micros(0));
        reader.has_read(FULL);
        assert_eq!(reader.left(micros(20_000), micros(300)), micros(0));
        reader.has_read(MANY - 1);
        assert_eq!(reader.left(micros(20_000), micros(300)), micros(0));
        reader.has_read(MANY);
        assert_eq!(reader.left(micros(20_000), micros(300)), micros(1_700));
        let (polite, unix) = (LateReader::default(), LateReader::sleeping(true));
        assert_eq!(LateReader { read: MANY, ..polite }.left(micros(20_000), micros(30)), micros(0));
        assert_eq!(LateReader { read: MANY, ..unix }.left(micros(20_000), micros(30)), micros(170));
    }
}
