//! What is told where there is no slot to be seen, or nobody to be asked for it: why, and what the relay says, which may know
//! more.

use std::time::SystemTime;

use serde::Serialize;
use tokio::time::timeout;

use super::SEARCH;
use super::relay::{self, Relay};
use super::text::{age_text, time};
use super::verdict::{Verdict, word_for_it};
use crate::cli::dead_letters::escape;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Session, unsent};

/// A look that ended before the slot.
#[derive(Debug, Serialize)]
pub(super) struct Unseen {
    #[serde(flatten)]
    pub(super) verdict: Verdict,
    /// What the relay says is wrong with it.
    others: Vec<Verdict>,
    slot: String,
    relay: Relay,
    #[serde(skip)]
    pub(super) error: OutboxError,
}

/// The database can't be asked: it ended at the login, or before.
pub(super) async fn unreachable(config: &Config, error: OutboxError) -> Unseen {
    let advice = error
        .advice()
        .unwrap_or("see whether the server runs, and whether --database-url leads to it")
        .to_owned();
    let reason = format!("the database can't be asked: {}", error.chain());
    Unseen::of(config, Verdict { word: "UNREACHABLE", reason, advice: Some(advice) }, error).await
}

/// The slot is not there: rows may be lost if there are any, and without rows nobody has begun.
pub(super) async fn without_slot(config: &Config, session: &Session) -> Unseen {
    let (word, error) = match timeout(SEARCH, unsent(session, &config.target)).await {
        Ok(Ok(Some(error))) => ("LOST", error),
        // A table that can't be read, or is locked, is no less a matter of set-up.
        _ => {
            let text = format!("slot {} does not exist", config.target.slot);
            (
                "NOBODY",
                OutboxError::definite(text, "run `walpost setup` as the owner, or name the slot with --slot"),
            )
        }
    };
    let verdict = Verdict { word, reason: error.to_string(), advice: error.advice().map(str::to_owned) };
    Unseen::of(config, verdict, error).await
}

impl Unseen {
    /// Asks the relay alone.
    async fn of(config: &Config, verdict: Verdict, error: OutboxError) -> Unseen {
        let slot = config.target.slot.clone();
        let relay = relay::ask(config.observe.listen.as_deref()).await.of_slot(&slot);
        let others = relay.word.as_ref().and_then(word_for_it).into_iter().collect();
        Unseen { verdict, others, slot, relay, error }
    }

    pub(super) fn text(&self) -> String {
        let verdicts: String =
            std::iter::once(&self.verdict).chain(&self.others).map(Verdict::text).collect();
        format!("{verdicts}{:<11} {}\n{:<11} {}\n", "slot", self.slot, "relay", self.relay.text(age_text))
    }

    /// In a line.
    pub(super) fn line(&self) -> String {
        let others: String =
            self.others.iter().map(|other| format!(" | {}: {}", other.word, escape(&other.reason))).collect();
        let Verdict { word, reason, .. } = &self.verdict;
        format!("{} {word}: {}{others}", time(SystemTime::now()), escape(reason))
    }
}
