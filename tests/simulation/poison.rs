//! What the broker takes from nobody: single rows, and whole topics for a while.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use walpost::OutboxError;

use crate::dice::Dice;
use crate::log::{Log, RowId};

/// How a row is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Before it is sent.
    AtOnce,
    /// By its receipt; what follows it in the partition fails for another reason.
    Alone,
    /// With all that is on its way to the partition, as a batch is refused.
    WithCompany,
}

#[derive(Debug)]
struct Poison {
    manner: Manner,
    /// How many times it is refused.
    tries: u32,
}

/// A topic that takes nothing.
#[derive(Debug)]
struct Shut {
    topic: String,
    from: Instant,
    until: Instant,
    manner: Manner,
}

#[derive(Debug, Default)]
pub(crate) struct Poisons {
    rows: HashMap<RowId, Poison>,
    topics: Vec<Shut>,
    /// How many times a row was refused for a fault of its own or its topic's.
    refusals: HashMap<RowId, u32>,
    has_shut: HashSet<String>,
}

impl Poisons {
    pub(crate) fn new(log: &Log, span: Duration, dice: &mut Dice) -> Self {
        let mut poisons = Poisons::default();
        let is_bad = if log.parks { !dice.is_calm() } else { dice.fault(3) };
        if !is_bad || log.entries.is_empty() {
            return poisons;
        }
        for _ in 0..if log.parks { dice.size(6) } else { 1 } {
            let entry = dice.index(log.entries.len());
            if log.entries[entry].len() == 0 {
                continue;
            }
            let id = RowId { entry, row: dice.index(log.entries[entry].len()) };
            let for_good = dice.one_in(if log.parks { 2 } else { 4 });
            let tries = if for_good { u32::MAX } else { 1 + dice.index(6) as u32 };
            poisons.rows.insert(id, Poison { manner: manner(dice), tries });
        }
        if dice.one_in(4) {
            let from = Instant::now() + span.mul_f64(dice.below(1000) as f64 / 1000.0);
            let most = if dice.one_in(3) { 60_000 } else { 5_000 };
            let until = from + dice.millis(most);
            poisons.topics.push(Shut { topic: log.topics.name(dice), from, until, manner: manner(dice) });
        }
        poisons
    }

    /// Somebody has mended all causes.
    pub(crate) fn heal(&mut self) {
        self.rows.clear();
        self.topics.clear();
    }

    /// Whether and how this record is refused now.
    pub(crate) fn refuses(&mut self, id: RowId, topic: &str, now: Instant) -> Option<(Manner, OutboxError)> {
        let during = format!("publishing to topic {topic}");
        if let Some(shut) =
            self.topics.iter().find(|shut| shut.topic == topic && (shut.from..shut.until).contains(&now))
        {
            self.has_shut.insert(topic.to_owned());
            *self.refusals.entry(id).or_default() += 1;
            return Some((shut.manner, OutboxError::broker(&during, 29, "not authorised").of_topic(topic)));
        }
        let poison = self.rows.get_mut(&id).filter(|poison| poison.tries > 0)?;
        poison.tries -= u32::from(poison.tries != u32::MAX);
        *self.refusals.entry(id).or_default() += 1;
        Some((poison.manner, too_large(topic)))
    }

    pub(crate) fn refusals_of(&self, id: RowId) -> u32 {
        self.refusals.get(&id).copied().unwrap_or_default()
    }

    /// Whether the topic has refused everything at some time.
    pub(crate) fn has_shut(&self, topic: &str) -> bool {
        self.has_shut.contains(topic)
    }
}

pub(crate) fn too_large(topic: &str) -> OutboxError {
    OutboxError::broker(&format!("publishing to topic {topic}"), 10, "message too large")
}

fn manner(dice: &mut Dice) -> Manner {
    [Manner::AtOnce, Manner::Alone, Manner::WithCompany][dice.index(3)]
}
