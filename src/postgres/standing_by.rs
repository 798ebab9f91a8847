//! Relays that stand by, as others can see them: each keeps a session with a lock that tells of which slot. Anybody who may log
//! in can see locks; who they are is hidden from roles that may not read statistics.
//!
//! Source: PostgreSQL documentation, "pg_locks": `classid`, `objid` and `objsubid` of advisory locks with two keys.

use super::names::quote_literal;
use super::session::{Cells, Session};
use crate::error::OutboxError;

/// The first key: `walp`. The second is the slot's.
const CLASS: i32 = 0x7761_6C70;

/// A session that says that a relay stands by.
#[derive(Debug)]
pub(super) struct Sign(Session);

impl Sign {
    /// Puts it up; `None` if somebody else's lock is in the way.
    pub(super) async fn put_up(session: Session, slot: &str) -> Result<Option<Sign>, OutboxError> {
        let sql = format!("SELECT pg_try_advisory_lock_shared({CLASS}, hashtext({}))", quote_literal(slot));
        let row = session.query_one_row("saying that this relay stands by", &sql).await?;
        let is_up: bool = row.map_or(Ok(false), |row| row.cell(0))?;
        Ok(is_up.then_some(Sign(session)))
    }

    pub(super) fn is_down(&self) -> bool {
        self.0.client().is_closed()
    }
}

/// A relay that stands by.
#[cfg(feature = "cli")]
#[derive(Debug, serde::Serialize)]
pub(crate) struct StandingBy {
    pub(crate) pid: i32,
    pub(crate) name: Option<String>,
    /// None over a local socket.
    pub(crate) from: Option<String>,
    pub(crate) since: Option<String>,
}

/// Those of a slot, the longest first.
///
/// # Errors
/// The session broke.
#[cfg(feature = "cli")]
pub(crate) async fn standing_by(session: &Session, slot: &str) -> Result<Vec<StandingBy>, OutboxError> {
    let sql = format!(
        "SELECT l.pid, a.application_name::text, a.client_addr::text, a.backend_start::text FROM pg_locks l \
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.classid = {CLASS}::oid \
         AND l.objid = hashtext({})::oid ORDER BY a.backend_start LIMIT 100",
        quote_literal(slot)
    );
    let rows = session.client().query(&sql, &[]).await;
    let rows = rows.map_err(|error| super::session::sql_error("looking who stands by", error))?;
    let one = |row: &tokio_postgres::Row| {
        Ok(StandingBy { pid: row.cell(0)?, name: row.cell(1)?, from: row.cell(2)?, since: row.cell(3)? })
    };
    rows.iter().map(one).collect()
}
