//! What the demo shows: a board that is redrawn in place on a terminal, a line a second elsewhere.

use crate::cli::output;
use std::io::Write;
use std::time::Duration;

use super::shop::Ledger;

/// How many of the last arrivals are shown.
pub(super) const ARRIVALS: usize = 6;

/// Draws on standard output.
pub(super) struct Board {
    terminal: bool,
    colour: bool,
    drawn: usize,
}

impl Board {
    pub(super) fn new(terminal: bool, colour: bool) -> Board {
        Board { terminal, colour, drawn: 0 }
    }

    /// How often to show: a terminal is redrawn, elsewhere every look is a line.
    pub(super) fn pace(&self) -> Duration {
        Duration::from_millis(if self.terminal { 200 } else { 1000 })
    }

    /// A line of the introduction.
    pub(super) fn say(&self, text: &str) {
        output::say(text);
    }

    /// Shows how things stand.
    pub(super) fn show(&mut self, ledger: &Ledger, elapsed: Duration, confirmed: &str) {
        let mut out = std::io::stdout().lock();
        let lines = if self.terminal {
            self.panel(ledger, elapsed, confirmed)
        } else {
            vec![plain(ledger, elapsed, confirmed)]
        };
        let mut text = String::new();
        if self.terminal && self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &lines {
            let clear = if self.terminal { "\x1b[K" } else { "" };
            text.push_str(&format!("{line}{clear}\n"));
        }
        self.drawn = lines.len();
        // A closed pipe ends the demo at its next look; there is nothing to do about it here.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn panel(&self, ledger: &Ledger, elapsed: Duration, confirmed: &str) -> Vec<String> {
        let (bold, dim, good, bad, end) = if self.colour {
            ("\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m")
        } else {
            ("", "", "", "", "")
        };
        let (p50, p99) = percentiles(&ledger.latencies);
        let wrong = ledger.out_of_order + ledger.repeated + ledger.invented;
        let verdict = if wrong == 0 {
            format!("{good}in order, each once{end}")
        } else {
            format!("{bad}{wrong} wrong{end}")
        };
        let mut lines = vec![
            String::new(),
            format!(
                "  {bold}committed{end} {:>8} events in {} transactions   {dim}{} rolled back{end}",
                ledger.committed, ledger.transactions, ledger.rolled_back
            ),
            format!(
                "  {bold}arrived{end}   {:>8} events, {verdict}   {dim}{} on the way{end}",
                ledger.arrived,
                ledger.waiting.len()
            ),
            format!(
                "  {bold}latency{end}   {:>8} p50   {} p99   {dim}from COMMIT to consumer{end}",
                millis(p50),
                millis(p99)
            ),
            format!(
                "  {bold}slot{end}      {confirmed:>8} confirmed   {dim}{:.0} s{end}",
                elapsed.as_secs_f64()
            ),
            String::new(),
        ];
        for index in 0..ARRIVALS {
            let arrival = ledger.last.get(index).map_or("", String::as_str);
            lines.push(format!("  {dim}{arrival}{end}"));
        }
        lines
    }

    /// The result, and whether it is as promised.
    ///
    /// A demo that was ended before anything was committed has broken no promise.
    pub(super) fn sum_up(&self, ledger: &Ledger) -> bool {
        let missing = ledger.waiting.len();
        let good = missing == 0
            && ledger.out_of_order + ledger.repeated + ledger.invented == 0
            && ledger.arrived == ledger.committed;
        let (p50, p99) = percentiles(&ledger.latencies);
        output::say("");
        output::say(&format!(
            "{} events committed in {} transactions ({} rolled back), {} arrived: {missing} missing, {} repeated, {} invented, {} out of order",
            ledger.committed,
            ledger.transactions,
            ledger.rolled_back,
            ledger.arrived,
            ledger.repeated,
            ledger.invented,
            ledger.out_of_order
        ));
        output::say(&format!("latency from COMMIT to consumer: {} p50, {} p99", millis(p50), millis(p99)));
        output::say(if good { "everything committed arrived once, in order" } else { "NOT as promised" });
        good
    }
}

fn plain(ledger: &Ledger, elapsed: Duration, confirmed: &str) -> String {
    let (p50, p99) = percentiles(&ledger.latencies);
    format!(
        "{:>4.0} s  committed {}  rolled back {}  arrived {}  out of order {}  repeated {}  p50 {}  p99 {}  slot {confirmed}",
        elapsed.as_secs_f64(),
        ledger.committed,
        ledger.rolled_back,
        ledger.arrived,
        ledger.out_of_order,
        ledger.repeated,
        millis(p50),
        millis(p99)
    )
}

fn millis(latency: Option<Duration>) -> String {
    latency.map_or_else(|| "-".to_owned(), |latency| format!("{:.1} ms", latency.as_secs_f64() * 1000.0))
}

fn percentiles(latencies: &[Duration]) -> (Option<Duration>, Option<Duration>) {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| {
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
    };
    (at(50), at(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_of_none() {
        assert_eq!(percentiles(&[]), (None, None));
        let ms = Duration::from_millis;
        assert_eq!(percentiles(&[ms(7)]), (Some(ms(7)), Some(ms(7))));
        let hundred: Vec<_> = (1..=100).rev().map(ms).collect();
        assert_eq!(percentiles(&hundred), (Some(ms(51)), Some(ms(100))));
    }

    #[test]
    fn the_sum_is_good_only_when_everything_is() {
        let board = Board::new(false, false);
        let good = || Ledger { committed: 1, arrived: 1, ..Ledger::default() };
        assert!(board.sum_up(&good()));
        for bad in [
            Ledger { repeated: 1, ..good() },
            Ledger { out_of_order: 1, ..good() },
            Ledger { invented: 1, ..good() },
            Ledger { waiting: [(uuid::Uuid::nil(), tokio::time::Instant::now())].into(), ..good() },
            Ledger { arrived: 0, ..good() },
        ] {
            assert!(!board.sum_up(&bad), "{bad:?}");
        }
    }
}
