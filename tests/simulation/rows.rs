//! The table's rows, as they are written back: durable, by a session of its own that may fail.

use std::sync::Arc;

use tokio::time::Instant;
use walpost::write_back::Written;
use walpost::{OutboxError, RowKey, WriteBack};

use crate::checker::Invariant;
use crate::ends::{LOCKED, Shared, World};
use crate::log::RowId;

pub(crate) struct ModelRows {
    pub(crate) shared: Shared,
    /// The stream that it belongs to.
    pub(crate) id: u64,
}

/// What becomes of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// It fails, before or after it took effect.
    Fails {
        takes_effect: bool,
    },
}

impl ModelRows {
    async fn write(&self, rows: &[Arc<RowKey>]) -> Result<Vec<usize>, OutboxError> {
        let (before, after, fate, unseen) = {
            let World { dice, checker, .. } = &mut *self.shared.lock();
            let longest = if dice.is_calm() { 20 } else { 500 };
            let (mut before, mut after) = (dice.latency(2, longest), dice.latency(2, longest));
            let takes_effect = dice.one_in(2);
            let fails = dice.fault(4);
            if fails && dice.one_in(3) {
                checker.happened("write-back hangs");
                let locked = dice.millis(LOCKED);
                (before, after) = if takes_effect { (before, locked) } else { (locked, after) };
            } else if fails {
                checker.happened(if takes_effect { "write-back's answer lost" } else { "write-back failed" });
            }
            // Their transactions are committed, and not seen yet.
            let unseen: Vec<_> = (0..rows.len()).filter(|_| dice.fault(6)).collect();
            if !unseen.is_empty() {
                checker.happened("row not seen yet");
            }
            checker.note(|| {
                format!("relay: writes {} rows back{}", rows.len(), if fails { ", which fails" } else { "" })
            });
            (before, after, if fails { Fate::Fails { takes_effect } } else { Fate::Done }, unseen)
        };
        self.shared.wait(before).await;
        let takes_effect = fate == Fate::Done || fate == Fate::Fails { takes_effect: true };
        let written = if takes_effect { self.take_effect(rows, &unseen)? } else { Vec::new() };
        self.shared.wait(after).await;
        if fate != Fate::Done {
            return Err(OutboxError::transient("the statement failed"));
        }
        if let Some(ledger) = self.shared.lock().server.ledger(self.id) {
            written.into_iter().for_each(|id| ledger.marks(id, Instant::now()));
        }
        Ok(unseen)
    }

    fn take_effect(&self, rows: &[Arc<RowKey>], unseen: &[usize]) -> Result<Vec<RowId>, OutboxError> {
        let world = &mut *self.shared.lock();
        world.server.advance(Instant::now(), &mut world.log, &mut world.checker);
        if world.server.is_away(Instant::now()) {
            return Err(OutboxError::transient("the session is lost"));
        }
        let World { log, checker, .. } = world;
        let mut written = Vec::new();
        for (_, key) in rows.iter().enumerate().filter(|(index, _)| !unseen.contains(index)) {
            let Some(id) = RowId::of_key(key) else {
                checker.broken(Invariant::MarkedEarly, format!("{key:?} is no row"));
                continue;
            };
            let Some(row) = log.row_mut(id) else { continue };
            if !row.acknowledged {
                checker.broken(
                    Invariant::MarkedEarly,
                    format!("{id:?} is marked, and nobody was told that it arrived"),
                );
            }
            row.marked = true;
            written.push(id);
        }
        Ok(written)
    }
}

impl WriteBack for ModelRows {
    fn write_back<'a>(&'a mut self, rows: &'a [Arc<RowKey>]) -> Written<'a> {
        Box::pin(self.write(rows))
    }

    fn is_known_by_id(&self) -> bool {
        true
    }
}
