//! Whether the client that holds the slot is dead, although its connection is not.
//!
//! The server keeps a silent walsender for `wal_sender_timeout`. A relay that stands by may know earlier: another
//! relay sends a status every two seconds. So the time of its last status, as the server tells it, is watched by
//! our own clock (it is the holder's word, by the holder's clock), and a holder whose status does not change is
//! ended, if the server lets this role do so: one that may read statistics (`pg_read_all_stats`), and is the same role or
//! has `pg_signal_backend`.
//!
//! A walsender that is busy decoding reads no status. Its wait event tells it from one that waits for its client.
//!
//! Source: PostgreSQL documentation, "The Cumulative Statistics System": pg_stat_replication, wait events.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::names::{Target, quote_literal};
use super::session::{Cells, Session, sql_error};
use crate::error::OutboxError;

/// A holder that has sent nothing for this long is ended. It stops publishing by itself before (`LEASE`).
const SILENT_AFTER: Duration = Duration::from_secs(12);
/// Looks that lie further apart than this prove nothing: it may have been us who stood still.
const MAX_GAP: Duration = Duration::from_secs(4);

/// What was seen of the holder so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    seen: Option<Seen>,
    /// The server does not let us; said once.
    refused: bool,
    /// The holder of another name that was told of.
    stranger: Option<i32>,
}

#[derive(Debug)]
struct Seen {
    holder: Holder,
    since: Instant,
    last: Instant,
}

/// The session behind a slot, and its client's last status.
#[derive(Clone, Debug, PartialEq)]
struct Holder {
    pid: i32,
    started: String,
    /// Empty before the first.
    status_at: String,
}

impl Patience {
    /// Looks at the holder, and ends it if it has been silent for long enough.
    pub(super) async fn look(&mut self, session: &Session, target: &Target) -> Result<(), OutboxError> {
        let slot = quote_literal(&target.slot);
        // Only what can be seen is judged: to a role that may not read statistics every holder would seem silent, and
        // its `state` is null.
        let sql = format!(
            "SELECT r.pid, r.backend_start::text, coalesce(r.reply_time::text, ''), \
             coalesce(a.wait_event, ''), coalesce(r.application_name, ''), \
             coalesce(r.application_name, '') = current_setting('application_name') \
             FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid \
             JOIN pg_stat_activity a ON a.pid = r.pid WHERE s.slot_name = {slot} AND r.state IS NOT NULL"
        );
        let Some(row) = session.query_one_row("looking at the slot's holder", &sql).await? else {
            self.seen = None;
            return Ok(());
        };
        if !row.cell(5)? {
            // Only relays are judged: other clients may have their reasons to be silent.
            self.seen = None;
            self.tell_of_stranger(row.cell(0)?, row.cell(4)?, target);
            return Ok(());
        }
        let holder = Holder { pid: row.cell(0)?, started: row.cell(1)?, status_at: row.cell(2)? };
        let waits = row.cell::<String, _>(3)?.to_ascii_lowercase().starts_with("walsender");
        let now = Instant::now();
        if self.silent_for(holder.clone(), waits, now) < SILENT_AFTER || self.refused {
            return Ok(());
        }
        self.end(session, &holder, target).await
    }

    /// Says once that the holder may be no relay at all, behind which nothing would be published.
    fn tell_of_stranger(&mut self, pid: i32, application_name: &str, target: &Target) {
        if self.stranger.replace(pid) == Some(pid) {
            return;
        }
        let slot = &target.slot;
        let advice = format!(
            "if it is no relay, nothing is published until it leaves: SELECT pg_terminate_backend({pid}); if it is one, \
             give both the same application_name, so that one can take over from the other when it falls silent"
        );
        tracing::warn!(slot, pid, application_name, advice, "the slot is held by a client of another name");
    }

    /// How long nothing has been heard of this holder.
    fn silent_for(&mut self, holder: Holder, waits: bool, now: Instant) -> Duration {
        let same = |seen: &&mut Seen| waits && seen.holder == holder && now - seen.last <= MAX_GAP;
        match self.seen.as_mut().filter(same) {
            Some(seen) => {
                seen.last = now;
                now - seen.since
            }
            None => {
                self.seen = Some(Seen { holder, since: now, last: now });
                Duration::ZERO
            }
        }
    }

    async fn end(&mut self, session: &Session, holder: &Holder, target: &Target) -> Result<(), OutboxError> {
        let (pid, slot) = (holder.pid, &target.slot);
        // Only if it is still as silent as it was.
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE pid = {pid} \
             AND state IS NOT NULL AND backend_start::text = {} AND coalesce(reply_time::text, '') = {}",
            quote_literal(&holder.started),
            quote_literal(&holder.status_at)
        );
        match session.client().query_opt(&sql, &[]).await {
            Ok(_) => {
                let seconds = SILENT_AFTER.as_secs();
                tracing::warn!(
                    slot,
                    pid,
                    "ended the session of a relay that has sent no status for {seconds} s"
                );
                self.seen = None;
                Ok(())
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                self.refused = true;
                let advice = "let both relays log in as one role, or GRANT pg_signal_backend to this one";
                tracing::warn!(
                    slot,
                    pid,
                    advice,
                    "the relay that holds the slot seems dead, and this role may not end its session: waiting until the \
                     server does"
                );
                Ok(())
            }
            Err(error) => Err(sql_error("ending the session of a silent relay", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_that_was_watched_and_waited_for_counts() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let holder = |status: &str| Holder { pid: 1, started: "s".to_owned(), status_at: status.to_owned() };
        let mut at = |millis: u64, status: &str, waits: bool| {
            patience.silent_for(holder(status), waits, start + Duration::from_millis(millis)).as_millis()
        };
        assert_eq!(at(0, "a", true), 0);
        assert_eq!(at(3000, "a", true), 3000);
        assert_eq!(at(6000, "b", true), 0, "it has said something");
        assert_eq!(at(9000, "b", true), 3000);
        assert_eq!(at(10_000, "b", false), 0, "it is busy");
        assert_eq!(at(13_000, "b", true), 3000);
        assert_eq!(at(20_000, "b", true), 0, "nobody watched");
    }
}
