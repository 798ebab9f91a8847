//! What is told while the database can't be asked: why, and what the relay says, which may know more.

use std::time::SystemTime;

use serde::Serialize;

use super::relay::{self, Relay};
use super::text::{age_text, time};
use super::verdict::{Verdict, word_for_it};
use crate::cli::dead_letters::escape;
use crate::config::Config;
use crate::error::OutboxError;

/// A look that ended at the login, or before.
#[derive(Debug, Serialize)]
pub(super) struct Unreachable {
    #[serde(flatten)]
    pub(super) verdict: Verdict,
    /// What the relay says is wrong with it.
    others: Vec<Verdict>,
    slot: String,
    relay: Relay,
    #[serde(skip)]
    pub(super) error: OutboxError,
}

impl Unreachable {
    /// Asks the relay alone.
    pub(super) async fn look(config: &Config, error: OutboxError) -> Unreachable {
        let slot = config.target.slot.clone();
        let relay = relay::ask(config.observe.listen.as_deref()).await.of_slot(&slot);
        let advice =
            error.advice().unwrap_or("see whether the server runs, and whether --database-url leads to it");
        let verdict = Verdict {
            word: "UNREACHABLE",
            reason: format!("the database can't be asked: {}", error.chain()),
            advice: Some(advice.to_owned()),
        };
        let others = relay.word.as_ref().and_then(word_for_it).into_iter().collect();
        Unreachable { verdict, others, slot, relay, error }
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
