//! Whether the wall clock was put back.
//!
//! librdkafka's threads wait until moments of the wall clock. Put back by a day, a wait that is under way, such as
//! the one before the next try to connect, lasts a day longer, and nothing here can wake it. A new producer has
//! threads that do not wait yet.

use std::time::{Duration, Instant, SystemTime};

/// How often both clocks are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A wait that lasts longer by less than this is waited out.
const BEARABLE: Duration = Duration::from_secs(5);

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    steady: Instant,
    wall: SystemTime,
}

impl Seen {
    pub(super) fn now() -> Seen {
        Seen { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// Waits until the wall clock has been put back; says by how much. Cancel-safe.
    pub(super) async fn put_back(&mut self) -> Duration {
        loop {
            tokio::time::sleep_until((self.steady + LOOK_EVERY).into()).await;
            let before = std::mem::replace(self, Seen::now());
            if let Some(by) = before.put_back_at(*self) {
                return by;
            }
        }
    }

    fn put_back_at(self, now: Seen) -> Option<Duration> {
        let expected = self.wall + now.steady.duration_since(self.steady);
        let by = expected.duration_since(now.wall).ok()?;
        (by >= BEARABLE).then_some(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_way_back_counts() {
        let before = Seen::now();
        let day = Duration::from_secs(86_400);
        for (steady, wall, back) in [
            (1, 1, None),
            (1, 60, None),
            (60, 1, Some(59)),
            (5, 1, None),
            (6, 1, Some(5)),
            (86_400, 0, Some(86_400)),
        ] {
            let now = Seen {
                steady: before.steady + Duration::from_secs(steady),
                wall: before.wall + Duration::from_secs(wall),
            };
            assert_eq!(before.put_back_at(now), back.map(Duration::from_secs), "{steady} {wall}");
        }
        let yesterday = Seen { wall: before.wall - day, ..before };
        assert_eq!(before.put_back_at(yesterday), Some(day));
    }
}
