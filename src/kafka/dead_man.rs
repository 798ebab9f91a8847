//! A dead man's switch: the kernel ends the process when its loop stands still with records in flight.
//!
//! A relay that is paused for long (SIGSTOP, a frozen container) loses the slot to another one. When it wakes, the
//! threads of librdkafka would send what was queued before the loop could stop them. So the loop's every turn
//! winds up a timer of the kernel, which keeps running while the process does not, and whose signal, SIGKILL,
//! reaches a stopped process too. Nothing is lost by it: what was in flight is unconfirmed, and comes again.
//!
//! ```text
//!   loop ──touch──► when, busy? ──► thread: sets the timer to `when` + 8 s, or stops it
//! ```
//! The thread is only there because the timer must stay on one. While the loop stands still it winds up nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::error::OutboxError;

/// How long the loop may stand still with records in flight. Longer than any turn takes while all is well, and
/// shorter than the silence after which another relay takes the slot.
const STILL: Duration = Duration::from_secs(8);
/// How often the timer is wound up.
const TURN: Duration = Duration::from_millis(500);

/// The loop's side; the switch is off once this is dropped.
#[derive(Debug)]
pub(super) struct DeadMan {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    touched_ms: AtomicU64,
    busy: AtomicBool,
    wound: AtomicBool,
    over: AtomicBool,
}

impl DeadMan {
    /// Starts with nothing in flight.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start() -> Result<DeadMan, OutboxError> {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            touched_ms: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            wound: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let handle =
            thread::Builder::new().name("dead-man".to_owned()).spawn(move || theirs.wind()).map_err(
                |error| OutboxError::connection("cannot start the thread of the dead man's switch", error),
            )?;
        Ok(DeadMan { shared, thread: handle.thread().clone() })
    }

    /// The loop has taken a turn; `busy` when records are in flight or about to be.
    pub(super) fn touch(&self, busy: bool) {
        let now = self.shared.now_ms();
        let before = self.shared.touched_ms.swap(now, SeqCst);
        self.shared.busy.store(busy, SeqCst);
        // After a pause the thread may have woken first, and wound up what was left from before it.
        let paused = u128::from(now.saturating_sub(before)) > TURN.as_millis();
        if paused || (busy && !self.shared.wound.load(SeqCst)) {
            self.thread.unpark();
        }
    }

    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        self.shared.busy.load(SeqCst)
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.thread.unpark();
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What is left of the time, counted from the last touch.
    fn left(&self) -> Duration {
        let still = Duration::from_millis(self.now_ms().saturating_sub(self.touched_ms.load(SeqCst)));
        // Zero would stop the timer.
        STILL.saturating_sub(still).max(Duration::from_millis(1))
    }

    fn wind(&self) {
        let Some(mut timer) = timer::Kill::new() else {
            tracing::debug!("this system has no timer for a dead man's switch");
            return;
        };
        while !self.over.load(SeqCst) {
            let busy = self.busy.load(SeqCst);
            let wound = timer.set(busy.then(|| self.left()));
            self.wound.store(busy && wound, SeqCst);
            if busy {
                thread::park_timeout(TURN);
            } else if !self.busy.load(SeqCst) {
                thread::park();
            }
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
mod timer {
    use std::time::Duration;

    use nix::sys::signal::{SigEvent, SigevNotify, Signal};
    use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
    use nix::time::ClockId;

    /// A timer of the kernel that kills this process.
    pub(super) struct Kill(Timer);

    impl Kill {
        pub(super) fn new() -> Option<Kill> {
            let event = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
            Timer::new(ClockId::CLOCK_MONOTONIC, event).ok().map(Kill)
        }

        /// Lets it go off after that time, or never; false if the system refuses.
        pub(super) fn set(&mut self, left: Option<Duration>) -> bool {
            let left = left.unwrap_or_default().into();
            self.0.set(Expiration::OneShot(left), TimerSetTimeFlags::empty()).is_ok()
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
mod timer {
    use std::time::Duration;

    pub(super) struct Kill;

    impl Kill {
        pub(super) fn new() -> Option<Kill> {
            None
        }

        pub(super) fn set(&mut self, _left: Option<Duration>) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That it goes off is shown with a process of its own (`tests/it/takeover.rs`); here that it does not.
    #[test]
    fn a_loop_that_turns_or_has_nothing_in_flight_lives() {
        let switch = DeadMan::start().expect("a thread");
        switch.touch(true);
        thread::park_timeout(2 * TURN);
        assert!(switch.shared.wound.load(SeqCst), "wound up");
        assert!(switch.shared.left() < STILL);
        switch.touch(false);
        thread::park_timeout(3 * TURN);
        assert!(!switch.shared.wound.load(SeqCst), "stopped");
        drop(switch);
    }
}
