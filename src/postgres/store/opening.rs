//! What a source looks at before it opens a stream: who holds the slot, whether it is there, and what the publication has let
//! through meanwhile.

use super::super::lookout::holder_of;
use super::super::preflight::{Outcome, Preflight};
use super::super::publication::{self, Change, Look};
use super::super::session::Session;
use super::super::slot;
use super::super::standing_by::Sign;
use super::ReplicationSource;
use crate::error::OutboxError;

impl ReplicationSource {
    /// Looks whether somebody holds the slot, before anything else.
    ///
    /// # Errors
    /// Somebody does.
    pub(super) async fn find_free(&mut self, session: &Session) -> Result<(), OutboxError> {
        match holder_of(session.client(), &self.target, &self.vitals).await? {
            Some(pid) => Err(self.stand_by(session, pid).await?),
            None => Ok(()),
        }
    }

    /// What it means that somebody holds the slot.
    pub(super) async fn stand_by(&mut self, session: &Session, pid: i32) -> Result<OutboxError, OutboxError> {
        self.memory.shared = true;
        // What another relay read by may have been mended since.
        self.published = None;
        self.patience.look(session, &self.target).await?;
        Ok(OutboxError::slot_in_use(format!("slot {} is in use by PID {pid}", self.target.slot)))
    }

    /// Shows others that this relay stands by, if it does: with the session by which it found that out.
    pub(super) async fn show(&mut self, error: OutboxError, session: Session) -> OutboxError {
        if error.is_slot_in_use() && self.sign.as_ref().is_none_or(Sign::is_down) {
            self.sign = match Sign::put_up(session, &self.target.slot).await {
                Ok(sign) => sign,
                // It stands by nevertheless.
                Err(error) => {
                    tracing::debug!(error = error.chain(), "others can't see that this relay stands by");
                    None
                }
            };
        }
        error
    }

    /// Looks at the publication, and compares it with what the stream before this one has seen.
    pub(super) async fn look(
        &mut self,
        session: &Session,
        preflight: &Preflight,
    ) -> Result<Look, OutboxError> {
        let (oids, version) = (preflight.oids(), preflight.server_version);
        let look = publication::look(session.client(), &self.target, &oids, version).await?;
        if let Some(before) = &self.published {
            match before.compare(look.published.as_ref(), &self.target) {
                Change::Broken(what, tables) => {
                    let last = self.memory.trail.last();
                    return Err(publication::skipped(&what, &tables, last.as_ref(), look.place.lsn));
                }
                Change::None => {}
                Change::Harmless(what) | Change::Doubtful(what) => {
                    tracing::warn!("{what}, while this relay was away");
                }
            }
        }
        self.published.clone_from(&look.published);
        Ok(look)
    }

    pub(super) async fn ensure_slot(
        &mut self,
        session: &Session,
        preflight: &Preflight,
    ) -> Result<(), OutboxError> {
        for found in &preflight.findings {
            if let (Outcome::Warning(text, advice), true) = (&found.outcome, found.subject != "slot")
                && self.warned.insert(text.clone())
            {
                tracing::warn!(advice, "{text}");
            }
        }
        let name = &self.target.slot;
        if !preflight.slot_exists {
            if self.slot_was_there {
                return Err(OutboxError::definite(
                    format!(
                        "slot {name} is gone: rows committed since the last confirmation, {}, can't be read any more",
                        self.memory.trail.confirmed()
                    ),
                    format!(
                        "find out who dropped it; `walpost setup` makes it anew, as the owner, and `walpost run` goes on from there; {}; {}",
                        slot::SEND_WHAT_IS_MISSING,
                        self.memory.trail.finding(&self.target)
                    ),
                ));
            }
            if let Some(error) = slot::unsent(session, &self.target).await? {
                return Err(error);
            }
            slot::create(session, name, preflight.server_version).await?;
            tracing::warn!(slot = name, "made the slot: rows committed before this moment are not sent");
        }
        self.slot_was_there = true;
        Ok(())
    }
}
