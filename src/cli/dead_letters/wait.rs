//! `walpost dead-letters replay --wait`: until each letter is sent or refused again.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{count, escape};
use crate::cli::output;
use crate::error::OutboxError;
use crate::lsn::Position;
use crate::postgres::{Asked, DeadLetterOffice, Session, Settled};

/// How often the table is looked at.
const PERIOD: Duration = Duration::from_millis(250);
/// How many letters one look asks for. They are sent in order, so that those behind need no look yet.
const LOOK: usize = 1000;

/// How letters ended so far.
#[derive(Debug, Default)]
struct Tally {
    sent: i64,
    /// Discarded or removed by somebody meanwhile.
    gone: i64,
    /// Refused, or behind one that was.
    refused: i64,
    /// The first of these: where, and why.
    first: Option<(Position, String)>,
}

/// Waits for the letters that were asked for.
///
/// # Errors
/// One was refused again, the time was over before, or the table can't be read.
pub(super) async fn wait(
    session: &Session,
    office: &DeadLetterOffice,
    asked: &Asked,
    limit: Duration,
) -> Result<(), OutboxError> {
    let end = Instant::now().checked_add(limit);
    let mut looks = interval(PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut behind, mut window, mut tally) = (asked.positions.iter().copied(), Vec::new(), Tally::default());
    loop {
        window.extend(behind.by_ref().take(LOOK - window.len()));
        if window.is_empty() {
            return tally.verdict();
        }
        let settled = office.settled(session, &window).await?;
        let done: HashSet<Position> = settled.iter().map(|(at, _)| *at).collect();
        window.retain(|at| !done.contains(at));
        tally.add(settled);
        if window.is_empty() {
            continue;
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(tally.out_of_time(asked.letters, limit, asked.relay_pid.is_some()));
        }
        looks.tick().await;
    }
}

impl Tally {
    fn add(&mut self, settled: Vec<(Position, Settled)>) {
        for (at, how) in settled {
            match how {
                Settled::Sent => self.sent += 1,
                Settled::Gone => self.gone += 1,
                Settled::Refused(_, error) => {
                    self.refused += 1;
                    self.first.get_or_insert((at, error));
                }
            }
        }
    }

    fn verdict(self) -> Result<(), OutboxError> {
        output::say(&self.text());
        let Some((at, error)) = self.first else { return Ok(()) };
        let what = format!(
            "{} refused again, or behind one that was; the first is {at}: {}",
            count(self.refused, "letter was", "letters were"),
            escape(&error)
        );
        Err(OutboxError::definite(
            what,
            "mend the cause, then replay again; `walpost dead-letters list` shows what is left",
        ))
    }

    fn out_of_time(&self, letters: i64, limit: Duration, held: bool) -> OutboxError {
        output::say(&self.text());
        let left = letters - self.sent - self.gone - self.refused;
        let what = format!("{} not sent within {limit:?}", count(left, "letter was", "letters were"));
        let advice = if held {
            "the request stands, and the relay goes on with it: see its log, and `walpost status`"
        } else {
            "the request stands: start `walpost run`, which sends them"
        };
        OutboxError::definite(what, advice)
    }

    fn text(&self) -> String {
        let mut text = format!("sent: {}", count(self.sent, "letter", "letters"));
        if self.gone > 0 {
            text.push_str(&format!("; discarded meanwhile: {}", self.gone));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    #[test]
    fn the_first_refusal_is_named() {
        let at = |index| Position { commit_lsn: Lsn(16), index };
        let mut tally = Tally::default();
        tally.add(vec![(at(0), Settled::Sent), (at(1), Settled::Refused(7, "too large".to_owned()))]);
        tally.add(vec![(at(2), Settled::Refused(0, "waits".to_owned())), (at(3), Settled::Gone)]);
        assert_eq!(tally.text(), "sent: 1 letter; discarded meanwhile: 1");
        let late = tally.out_of_time(6, Duration::from_secs(3), false);
        assert!(late.to_string().starts_with("2 letters were not sent within 3s"), "{late}");
        assert!(late.advice().unwrap().contains("walpost run"));
        let error = tally.verdict().unwrap_err().to_string();
        assert_eq!(
            error,
            "2 letters were refused again, or behind one that was; the first is 0/10+1: too large"
        );
        assert!(Tally::default().verdict().is_ok());
    }
}
