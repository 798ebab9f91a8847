//! Dead letters on the page: the same as `walpost dead-letters`, over the same code.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::error::OutboxError;
use crate::lsn::Position;
use crate::postgres::{Chosen, DeadLetterOffice, Extent, Letter, Session, Settings, Target};

/// However many pages are open, the table is read no more often than that.
const FRESH: Duration = Duration::from_secs(1);
/// How many letters are shown.
const SHOWN: usize = 100;
/// How many may be named at once.
const NAMED: usize = 1000;
/// A server that does not answer must not keep a browser waiting for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the letters are.
#[derive(Clone, Debug)]
pub struct Letters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Settings,
    target: Target,
    /// Held while the database is asked, so that never more than one connection is made.
    last: Mutex<Option<(Instant, Arc<Page>)>>,
}

/// What is shown.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    letters: Vec<Shown>,
    /// Whether there are more than these.
    more: bool,
}

/// A letter without its payload and headers.
#[derive(Debug, Serialize)]
struct Shown {
    position: String,
    state: &'static str,
    parked_at: String,
    topic: Option<String>,
    /// Bytes that are no text are replaced.
    key: Option<String>,
    bytes: Option<i32>,
    attempts: i32,
    error: String,
}

/// What shall be done with which letters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// Each as X/Y+index.
    positions: Vec<String>,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Replay,
    Discard,
}

/// What became of it, in a sentence.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    text: String,
}

impl Letters {
    /// Those of this target. Nothing is looked at yet.
    #[must_use]
    pub fn new(database: Settings, target: Target) -> Letters {
        Letters(Arc::new(Inner { database, target, last: Mutex::default() }))
    }

    /// The first open ones.
    pub(super) async fn list(&self) -> Result<Arc<Page>, OutboxError> {
        let mut last = self.0.last.lock().await;
        if let Some((at, page)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            tracing::trace!(age = ?at.elapsed(), "the letters were read a moment ago");
            return Ok(Arc::clone(page));
        }
        let page = Arc::new(in_time(self.read()).await?);
        *last = Some((Instant::now(), Arc::clone(&page)));
        Ok(page)
    }

    async fn read(&self) -> Result<Page, OutboxError> {
        let office = DeadLetterOffice::of(&self.0.target);
        let session = self.open(&office, false).await?;
        let mut letters = office.page(&session, None, None, false, Extent::Glance).await?;
        let more = letters.len() > SHOWN;
        letters.truncate(SHOWN);
        Ok(Page { letters: letters.into_iter().map(shown).collect(), more })
    }

    /// Carries it out.
    pub(super) async fn act(&self, action: Action, request: &Request) -> Result<Outcome, OutboxError> {
        let chosen = request.chosen()?;
        let mut last = self.0.last.lock().await;
        *last = None;
        in_time(self.carry_out(action, &chosen)).await
    }

    async fn carry_out(&self, action: Action, chosen: &Chosen) -> Result<Outcome, OutboxError> {
        let office = DeadLetterOffice::of(&self.0.target);
        let mut session = self.open(&office, true).await?;
        let text = match action {
            Action::Replay => {
                let asked = office.replay(&mut session, chosen, false).await?;
                tracing::info!(letters = asked.letters, "a replay of dead letters was asked for on the page");
                asked.told(&self.0.target.slot)
            }
            Action::Discard => {
                let discarded = office.discard(&mut session, chosen).await?;
                tracing::info!(letters = discarded.letters, "dead letters were discarded on the page");
                discarded.told()
            }
        };
        Ok(Outcome { text })
    }

    async fn open(&self, office: &DeadLetterOffice, to_write: bool) -> Result<Session, OutboxError> {
        let session = Session::open_any(&self.0.database).await?;
        office.enter(&session, to_write).await?;
        Ok(session)
    }
}

impl Request {
    fn chosen(&self) -> Result<Chosen, OutboxError> {
        let advice = "name letters by their positions, such as 0/16B3748+0";
        if self.positions.is_empty() || self.positions.len() > NAMED {
            return Err(OutboxError::usage(format!("1 to {NAMED} letters can be named at once"), advice));
        }
        let position = |text: &String| {
            let wrong = |_| OutboxError::usage("a position makes no sense", advice);
            text.parse::<Position>().map_err(wrong)
        };
        Ok(Chosen::Positions(self.positions.iter().map(position).collect::<Result<_, _>>()?))
    }
}

fn shown(letter: Letter) -> Shown {
    Shown {
        position: letter.position.to_string(),
        state: letter.state.name(),
        parked_at: letter.parked_at,
        topic: letter.topic,
        key: letter.key.map(|key| String::from_utf8_lossy(&key).into_owned()),
        bytes: letter.payload_bytes,
        attempts: letter.attempts,
        error: letter.error,
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, OutboxError>>) -> Result<T, OutboxError> {
    let late = |_| OutboxError::transient("the database has not answered in time");
    timeout(PATIENCE, work).await.map_err(late).and_then(|result| result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_positions_name_letters() {
        let request = |positions: &[&str]| Request {
            positions: positions.iter().map(|position| (*position).to_owned()).collect(),
        };
        assert!(
            matches!(request(&["0/A0+1", "0/A0+1"]).chosen(), Ok(Chosen::Positions(all)) if all.len() == 1)
        );
        for wrong in [&[][..], &["0/A0"], &["all"], &["0/A0+1", ""], &["0/A0+1'; --"], &["0/A0+1"; 1001]] {
            let error = request(wrong).chosen().unwrap_err();
            assert!(error.is_usage(), "{wrong:?}");
        }
    }
}
