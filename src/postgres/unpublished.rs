//! The oldest row that is committed behind what the slot has confirmed, out of the log itself: the table knows neither its
//! position nor when it was committed, and may have a hundred million rows that are published.
//!
//! A temporary copy of the slot is read from where the relay is, up to the first transaction that brings a row, and for no
//! longer than a moment; nothing of the slot is moved.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::names::{Target, quote_literal};
use super::pgoutput::{Begin, LogicalMessage, Message};
use super::preflight::{inspect, stuck};
use super::relations::Relations;
use super::session::{Cells, Session, sql_error};
use super::settings::Settings;
use super::slot::{self, publication_names};
use super::table::emitted;
use crate::error::OutboxError;
use crate::finding::{Finding, Outcome};
use crate::lsn::Lsn;

const READING: &str = "reading the log behind the slot";
/// So many changes are asked for at first, and then if none of them was a row. The server ends with the transaction that
/// brings the last of them; before 15 it tells of transactions in which there is nothing.
const CHANGES: [&str; 3] = ["1", "10000", "NULL"];

/// There was no publication when a row was committed (42704, undefined object), and the server is one before 18.
const SKIPPED: &str = "42704";

/// A row that the relay has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unpublished {
    /// Its transaction's position, as in the header `walpost.lsn`.
    pub(crate) commit_lsn: Lsn,
    /// By the server's clock.
    pub(crate) committed_at: SystemTime,
    pub(crate) table: String,
}

/// What no relay with these settings could begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Obstacle {
    pub(crate) reason: String,
    pub(crate) advice: Option<String>,
}

/// What is known of what lies behind the slot's position.
#[derive(Debug)]
pub(crate) struct Behind {
    /// The first thing that is in a relay's way, as far as the catalogue shows it.
    pub(crate) obstacle: Option<Obstacle>,
    /// `None` if all that is committed is confirmed. An error if it can't be told: a right or a free slot is missing, or it takes
    /// longer than was allowed.
    pub(crate) oldest: Result<Option<Unpublished>, OutboxError>,
}

/// Looks for it, for so long.
pub(crate) async fn look_behind(settings: &Settings, target: &Target, patience: Duration) -> Behind {
    let mut obstacle = None;
    // The server ends the statement by itself; a server that does not answer is left alone.
    let found = timeout(2 * patience, look(settings, target, patience, &mut obstacle)).await;
    Behind { obstacle, oldest: found.unwrap_or_else(|_| Err(late(patience))) }
}

/// The first failure among these.
fn first_failure(findings: &[Finding]) -> Option<Obstacle> {
    findings.iter().find_map(|found| match &found.outcome {
        Outcome::Failure(error) => {
            Some(Obstacle { reason: error.chain(), advice: error.advice().map(str::to_owned) })
        }
        _ => None,
    })
}

fn late(patience: Duration) -> OutboxError {
    OutboxError::transient(format!("{READING} takes longer than {} s", patience.as_secs()))
}

async fn look(
    settings: &Settings,
    target: &Target,
    patience: Duration,
    obstacle: &mut Option<Obstacle>,
) -> Result<Option<Unpublished>, OutboxError> {
    let session = Session::open_any(settings).await?;
    let bounded = format!("SET statement_timeout = {}", patience.as_millis());
    session.client().batch_execute(&bounded).await.map_err(|error| sql_error(READING, error))?;
    let preflight = inspect(&session, target).await?;
    *obstacle = first_failure(&preflight.findings);
    let broken = |found: &&Finding| found.is_failure() && matches!(found.subject, "slot" | "publication");
    if let Some(found) = preflight.findings.iter().find(broken) {
        // The server would say so too, as an error in its log, at each look.
        let what = format!("the {} is not in order: `walpost check` says what mends it", found.subject);
        return Err(OutboxError::transient(what));
    }
    let copy = format!("walpost_status_{:016x}", fastrand::u64(..));
    slot::copy_temporary(&session, &target.slot, &copy).await?;
    session.expect_rows();
    for most in CHANGES {
        let mut search = Search { relations: Relations::quiet(target, &preflight), target, begun: None };
        match search.first(&session, &copy, most).await {
            Ok(Found::Row(found)) => return Ok(Some(found)),
            Ok(Found::Nothing) => return Ok(None),
            Ok(Found::Others) => {}
            Err(error) if error.sqlstate() == Some(SqlState::QUERY_CANCELED.code()) => {
                return Err(late(patience));
            }
            Err(error) => {
                let younger = preflight.younger.as_ref();
                if let (Some(SKIPPED), Some(younger), None) = (error.sqlstate(), younger, &obstacle) {
                    *obstacle = first_failure(&[stuck(target, &younger.rows, &error)]);
                }
                return Err(error);
            }
        }
    }
    Ok(None)
}

enum Found {
    Row(Unpublished),
    /// There is nothing more in the log.
    Nothing,
    /// What was read is nobody's row.
    Others,
}

struct Search<'a> {
    relations: Relations,
    target: &'a Target,
    begun: Option<Begin>,
}

impl Search<'_> {
    async fn first(&mut self, session: &Session, copy: &str, most: &str) -> Result<Found, OutboxError> {
        let failed = |error| sql_error(READING, error);
        let client = session.client();
        let sql = format!(
            "BEGIN; DECLARE unpublished NO SCROLL CURSOR FOR SELECT data FROM \
             pg_logical_slot_peek_binary_changes({}, NULL, {most}, 'proto_version', '1', 'publication_names', '{}', \
             'messages', 'true')",
            quote_literal(copy),
            publication_names(self.target)
        );
        client.batch_execute(&sql).await.map_err(failed)?;
        let (mut found, mut any) = (None, false);
        while found.is_none() {
            // The server has all of them by now; rows may be large.
            let rows = client.query("FETCH 20 FROM unpublished", &[]).await.map_err(failed)?;
            if rows.is_empty() {
                break;
            }
            any = true;
            for row in &rows {
                found = found.or(self.take(row.cell(0)?)?);
            }
        }
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        Ok(match found {
            Some(found) => Found::Row(found),
            None if any && most != "NULL" => Found::Others,
            None => Found::Nothing,
        })
    }

    /// The row, if the change is one that the relay would send.
    fn take(&mut self, data: &[u8]) -> Result<Option<Unpublished>, OutboxError> {
        let broken = |error| OutboxError::protocol("the server broke the protocol", error);
        let table = match LogicalMessage::decode(Bytes::copy_from_slice(data)).map_err(broken)? {
            LogicalMessage::Begin(begin) => {
                self.begun = Some(begin);
                None
            }
            LogicalMessage::Relation(relation) => {
                self.relations.learn(&relation)?;
                None
            }
            LogicalMessage::Insert(insert) => match self.relations.layout(insert.relation)? {
                // One that can't be read stops the relay, and is what it waits at.
                Some(layout) if !matches!(layout.message(&insert.new), Ok(None)) => {
                    Some(layout.table().to_string())
                }
                _ => None,
            },
            LogicalMessage::Message(Message { transactional: true, prefix, .. }) => {
                emitted::table_of(&prefix).map(std::borrow::Cow::into_owned)
            }
            _ => None,
        };
        let found = |(begin, table): (Begin, String)| Unpublished {
            commit_lsn: begin.commit_lsn,
            committed_at: begin.committed_at,
            table,
        };
        Ok(self.begun.zip(table).map(found))
    }
}
