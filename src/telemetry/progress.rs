//! The progress line: one line a second that says how it goes; and beside it what stands still, in the log.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::console::Console;
use super::{health, stalls};
use crate::lsn::Lsn;
use crate::vitals::{State, Vitals};

const PERIOD: Duration = Duration::from_secs(1);

/// What the line says.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The relay's state.
    pub state: State,
    /// Why it is in that state; may be empty.
    pub reason: String,
    /// Records a second since the line before.
    pub rate: u64,
    /// How far publishing lies behind committing.
    pub lag: Duration,
    /// Records since the start.
    pub published: u64,
    /// The position confirmed to the server.
    pub confirmed: Lsn,
}

impl Snapshot {
    /// The line. While all is well it tells figures first; otherwise the reason comes before them,
    /// since a narrow terminal cuts the end off.
    #[must_use]
    pub fn line(&self) -> String {
        let (state, rate, published) = (self.state.name(), grouped(self.rate), grouped(self.published));
        let (lag, confirmed) = (seconds(self.lag), self.confirmed);
        let figures = format!("{rate}/s · lag {lag} · {published} published · confirmed {confirmed}");
        if self.reason.is_empty() {
            format!("{state} · {figures}")
        } else {
            format!("{state}: {} · {figures}", self.reason)
        }
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn seconds(span: Duration) -> String {
    match span.as_secs() {
        0..60 => format!("{:.1} s", span.as_secs_f64()),
        whole @ 60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        whole => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Keeps the line up to date until it is dropped, and takes it away then. Until then what stands still is told in the log.
#[derive(Debug)]
pub struct Progress {
    console: Console,
    task: Option<JoinHandle<()>>,
    stalls: JoinHandle<()>,
}

impl Progress {
    /// Starts to show the line, if anybody would see it, and to tell what stands still.
    #[must_use]
    pub fn start(console: &Console, vitals: &Arc<Vitals>) -> Progress {
        let task = console.is_live().then(|| tokio::spawn(show(console.clone(), Arc::clone(vitals))));
        let stalls = tokio::spawn(stalls::watch(Arc::clone(vitals)));
        Progress { console: console.clone(), task, stalls }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stalls.abort();
        if let Some(task) = &self.task {
            task.abort();
            self.console.show("");
        }
    }
}

async fn show(console: Console, vitals: Arc<Vitals>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut meter = Meter::new(vitals.published());
    loop {
        ticks.tick().await;
        let phase = vitals.phase();
        let snapshot = Snapshot {
            state: phase.state,
            // What keeps the line from moving matters more than how the state came about.
            reason: health::ready(&vitals).reason.unwrap_or_default(),
            rate: meter.rate(vitals.published()),
            lag: vitals.lag(),
            published: vitals.published(),
            confirmed: vitals.last_confirmed(),
        };
        console.show(&snapshot.line());
    }
}

/// Turns a count into a rate.
struct Meter {
    count: u64,
    at: Instant,
}

impl Meter {
    fn new(count: u64) -> Meter {
        Meter { count, at: Instant::now() }
    }

    /// Counts a second since the last question.
    fn rate(&mut self, count: u64) -> u64 {
        let milliseconds = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let gained = count.saturating_sub(self.count);
        *self = Meter::new(count);
        gained.saturating_mul(1000) / milliseconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_figures_and_the_reason_if_there_is_one() {
        let quiet = Snapshot {
            state: State::Streaming,
            reason: String::new(),
            rate: 0,
            lag: Duration::ZERO,
            published: 0,
            confirmed: Lsn::ZERO,
        };
        let busy = Snapshot {
            rate: 12_345,
            lag: Duration::from_millis(1_260),
            published: 1_234_567,
            confirmed: Lsn(0x16_B374_8000),
            ..quiet.clone()
        };
        let stuck = Snapshot {
            state: State::Retrying,
            reason: "connection refused".to_owned(),
            lag: Duration::from_secs(125),
            ..quiet.clone()
        };
        for (snapshot, expected) in [
            (quiet, "streaming · 0/s · lag 0.0 s · 0 published · confirmed 0/0"),
            (busy, "streaming · 12,345/s · lag 1.3 s · 1,234,567 published · confirmed 16/B3748000"),
            (stuck, "retrying: connection refused · 0/s · lag 2 min 5 s · 0 published · confirmed 0/0"),
        ] {
            assert_eq!(snapshot.line(), expected);
        }
    }

    #[test]
    fn numbers_read_well() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (u64::MAX, "18,446,744,073,709,551,615")]
        {
            assert_eq!(grouped(number), expected);
        }
        for (span, expected) in
            [(59.94, "59.9 s"), (60.0, "1 min 0 s"), (3_600.0, "1 h 0 min"), (90_061.0, "25 h 1 min")]
        {
            assert_eq!(seconds(Duration::from_secs_f64(span)), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_last_interval() {
        let mut meter = Meter::new(10);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(meter.rate(510), 250);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(meter.rate(511), 2);
        assert_eq!(meter.rate(511), 0);
    }
}
