//! The session of its own in which rows are written back.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::aside::Aside;
use super::session::{Cells, sql_error};
use super::settings::Endpoint;
use super::table::WriteBackTable;
use crate::error::OutboxError;
use crate::message::RowKey;
use crate::write_back::{WriteBack, Written};

/// A statement that waits longer for a lock is given up, and with it the locks that it holds itself: nobody shall wait
/// behind it for a row of somebody else. It gives way well before `deadlock_timeout` (1 s), at which the server would end one
/// of two that wait for each other, and that might be the service. Times come without a zone, as UTC. Rows are found one by
/// one by their key: a batch that reads the whole table may look cheaper to the server, and is read again for the next batch.
/// The table's triggers find what they name where the role's other sessions do; the statement itself names schemas.
const SETTINGS: &str = "SET lock_timeout = '500ms'; SET TimeZone = 'UTC'; SET enable_seqscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; RESET search_path";
/// Where no policy hides rows from us now, one that will is an error.
const NO_POLICIES: &str = "; SET row_security = off";
/// Before it is given up, somebody looks who is in the way.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// How long that look may take.
const LOOK: Duration = Duration::from_millis(200);

/// Writes back the rows of one stream.
#[derive(Debug)]
pub(super) struct RowSession {
    /// Those of the target's outboxes whose rows are written back.
    tables: Vec<WriteBackTable>,
    aside: Aside,
    prepared: Option<Prepared>,
}

/// The statements in a session, one for each table.
#[derive(Debug)]
struct Prepared {
    session: u64,
    statements: Vec<Statement>,
    pid: i32,
}

impl RowSession {
    pub(super) fn new(endpoint: Endpoint, tables: Vec<WriteBackTable>, beside: Arc<Client>) -> Self {
        let sees_all = tables.iter().all(|table| table.sees_all);
        let settings = SETTINGS.to_owned() + if sees_all { NO_POLICIES } else { "" };
        RowSession { aside: Aside::new(endpoint, beside).beginning_with(settings), tables, prepared: None }
    }

    async fn write(&mut self, rows: &[Arc<RowKey>]) -> Result<Vec<usize>, OutboxError> {
        self.aside.open().await?;
        let Some((client, session)) = self.aside.session() else {
            return Err(OutboxError::transient("no session"));
        };
        let prepared = match self.prepared.take() {
            Some(prepared) if prepared.session == session => prepared,
            _ => prepare(&self.tables, client, session).await?,
        };
        let Prepared { statements, pid, .. } = self.prepared.insert(prepared);
        let mut unseen = Vec::new();
        // What one table has taken it takes once more if another one fails.
        for (table, statement) in self.tables.iter().zip(statements.iter()) {
            let own = |(index, row): (usize, &Arc<RowKey>)| {
                (row.table == table.index).then(|| (index, Arc::clone(row)))
            };
            let (indexes, rows): (Vec<_>, Vec<_>) = rows.iter().enumerate().filter_map(own).unzip();
            if rows.is_empty() {
                continue;
            }
            let mut write = pin!(table.write(client, statement, &rows));
            let written = match timeout(LOOK_AFTER, &mut write).await {
                Ok(written) => written,
                Err(_) => {
                    let blocker = timeout(LOOK, blocker(self.aside.beside(), *pid)).await.ok().flatten();
                    write.await.map_err(|error| blocked(table, error, blocker))
                }
            };
            unseen.extend(written?.into_iter().filter_map(|index| indexes.get(index).copied()));
        }
        unseen.sort_unstable();
        Ok(unseen)
    }
}

/// The error of a statement that had to wait, with who was in the way.
fn blocked(table: &WriteBackTable, error: OutboxError, blocker: Option<String>) -> OutboxError {
    if error.sqlstate() != Some(SqlState::LOCK_NOT_AVAILABLE.code()) {
        return error;
    }
    let who = blocker.unwrap_or_else(|| "another session".to_owned());
    OutboxError::transient(format!("rows of {} are locked by {who}", table.table))
        .with_advice("wait for that transaction, or end it: SELECT pg_terminate_backend(<PID>)")
}

async fn prepare(tables: &[WriteBackTable], client: &Client, session: u64) -> Result<Prepared, OutboxError> {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
    let pid = row.map_err(|error| sql_error("opening a session", error))?.cell(0)?;
    let mut statements = Vec::with_capacity(tables.len());
    for table in tables {
        statements.push(table.prepare(client).await.map_err(|error| table.failed(error))?);
    }
    Ok(Prepared { session, statements, pid })
}

/// Who keeps that session waiting.
async fn blocker(client: &Client, pid: i32) -> Option<String> {
    let sql = "SELECT string_agg(format('PID %s of role %s', pid, coalesce(usename, '?')), ', ') FROM pg_stat_activity \
               WHERE pid = ANY (pg_blocking_pids($1))";
    client.query_one(sql, &[&pid]).await.ok()?.cell(0).ok()?
}

impl WriteBack for RowSession {
    fn write_back<'a>(&'a mut self, rows: &'a [Arc<RowKey>]) -> Written<'a> {
        Box::pin(self.write(rows))
    }

    fn is_known_by_id(&self) -> bool {
        // A letter does not know its table.
        matches!(self.tables.as_slice(), [one] if one.is_known_by_id())
    }
}
