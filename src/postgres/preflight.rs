//! Everything the database must have before a relay can run, looked up over an ordinary SQL session.
//!
//! `walpost check` shows every finding; a starting relay stops at the first failure. Only catalogs are
//! read, so that a missing grant is a finding and not an accident.

mod conditions;
mod later;
mod publication;
#[cfg(feature = "cli")]
mod readable;
mod seal;
mod server;
mod slot;
mod survey;
mod write_back;

use tokio_postgres::Row;

pub use later::inspect_waiting;
#[cfg(feature = "cli")]
pub(crate) use readable::inspect as inspect_readable;
#[cfg(feature = "cli")]
pub(in crate::postgres) use readable::stuck;
pub(crate) use seal::{Seal, read_again as read_seal};
pub(crate) use survey::{Survey, TableColumn};
pub use write_back::inspect as inspect_write_back;

use super::names::Target;
use super::session::{Session, sql_error};
use super::table::{self, ColumnTypes, DeadLetterOffice};
use super::wire::{Reach, Security, Verified};
use crate::error::OutboxError;
pub use crate::finding::{Finding, Outcome};
use crate::refusal::OnRefusal;

/// What the looks have found, and what a relay needs to know of it.
#[derive(Debug, Default)]
pub struct Preflight {
    /// In the order in which one depends on the other.
    pub findings: Vec<Finding>,
    /// `server_version_num`, such as 150018.
    pub(crate) server_version: i32,
    /// The outbox tables, in the target's order.
    pub(crate) tables: Vec<Survey>,
    pub(crate) column_types: ColumnTypes,
    pub(crate) slot_exists: bool,
    /// Rows may be due later, or some wait.
    pub(crate) delivers_later: bool,
    /// By which events in the log are known.
    pub(crate) seal: Seal,
    /// The server process that somebody reads the slot through.
    pub(crate) slot_holder: Option<i32>,
    /// The publication is younger than the place at which the slot stands, and nobody reads the slot.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only `check` and `setup` read the log"))]
    pub(crate) younger: Option<Younger>,
}

/// What may have been committed before the publication was made or changed.
#[derive(Debug)]
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only `check` and `setup` read the log"))]
pub(crate) struct Younger {
    /// The SQL that finds it.
    pub(crate) rows: String,
    /// Which finding warns of it.
    pub(crate) told: Option<usize>,
}

impl Preflight {
    fn good(&mut self, subject: &'static str, text: impl Into<String>) {
        self.findings.push(Finding::good(subject, text));
    }

    fn warn(&mut self, subject: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding::warn(subject, text, advice));
    }

    fn fail(&mut self, subject: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding::fail(subject, text, advice));
    }

    /// A failure that is mended by nothing but these statements.
    fn fail_by_sql(&mut self, subject: &'static str, text: impl Into<String>, sql: impl Into<String>) {
        self.findings.push(Finding::fail(subject, text, sql).all_sql());
    }

    /// Whether the slot is there.
    #[must_use]
    pub fn slot_exists(&self) -> bool {
        self.slot_exists
    }

    /// The object ids of the tables that are there, and 0 for each that isn't.
    pub(crate) fn oids(&self) -> Vec<u32> {
        self.tables.iter().map(|table| table.oid.unwrap_or_default()).collect()
    }

    /// Whether every column that is used has a binary form that we can read.
    pub(crate) fn is_binary(&self) -> bool {
        self.tables.iter().all(|table| table.layout.as_ref().is_some_and(|layout| layout.is_binary()))
    }

    /// Whether the first failure is of one of these.
    pub(crate) fn fails_at(&self, subjects: &[&str]) -> bool {
        let failure = self.findings.iter().find(|found| found.is_failure());
        failure.is_some_and(|found| subjects.contains(&found.subject))
    }

    /// The first failure, if there is one.
    ///
    /// # Errors
    /// That failure.
    pub(crate) fn passed(self) -> Result<Self, OutboxError> {
        let failure = self.findings.iter().position(Finding::is_failure);
        let mut findings = self.findings;
        match failure.map(|index| findings.swap_remove(index).outcome) {
            Some(Outcome::Failure(error)) => Err(error),
            _ => Ok(Preflight { findings, ..self }),
        }
    }
}

/// Looks at everything. What can't even be looked up is an error of its own.
///
/// # Errors
/// The session broke, or a catalog can't be read.
pub async fn inspect(session: &Session, target: &Target) -> Result<Preflight, OutboxError> {
    let mut report = Preflight::default();
    look(session, target, &mut report).await?;
    Ok(report)
}

/// The same, keeping what was found before something could not be looked up.
pub(crate) async fn look(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    connection(session, report);
    server::inspect(session, report).await?;
    survey::inspect(session, target, report).await?;
    publication::inspect(session, target, report).await?;
    slot::inspect(session, target, report).await?;
    seal::inspect(session, target, report).await?;
    later::inspect(session, target, report).await
}

/// Looks at the table of dead letters: what is missing is in the way only when messages shall be parked there.
///
/// # Errors
/// The session broke, or a catalog can't be read.
pub async fn inspect_dead_letters(
    session: &Session,
    target: &Target,
    on_refusal: OnRefusal,
) -> Result<Finding, OutboxError> {
    let office = DeadLetterOffice::of(target);
    let rights = office.rights(session).await?;
    let found = match (office.require(rights.as_ref(), &table::RELAY_RIGHTS), on_refusal) {
        (Err(error), OnRefusal::DeadLetter) => Finding::error(LETTERS, error),
        (Err(_), OnRefusal::Halt) if rights.is_none() => Finding::good(
            LETTERS,
            format!("no table {}; none is needed to halt at a refusal", office.table()),
        ),
        (Err(error), OnRefusal::Halt) => {
            Finding::warn(LETTERS, error.to_string(), error.advice().unwrap_or_default())
        }
        (Ok(()), _) => {
            return Ok(match office.count_open(session).await? {
                0 => Finding::good(LETTERS, format!("{}: none waits", office.table())),
                1 => Finding::warn(LETTERS, "1 message waits as a dead letter", LIST),
                count => Finding::warn(LETTERS, format!("{count} messages wait as dead letters"), LIST),
            });
        }
    };
    // Of a table that is there, what is missing are rights.
    Ok(if rights.is_some() { found.all_sql() } else { found })
}

const LETTERS: &str = "dead letters";

/// How to see the open letters.
const LIST: &str = "walpost dead-letters list";

async fn rows(session: &Session, sql: &str) -> Result<Vec<Row>, OutboxError> {
    session.client().query(sql, &[]).await.map_err(|error| sql_error("reading the catalog", error))
}

/// How the connection is protected.
fn connection(session: &Session, report: &mut Preflight) {
    let (security, reach) = (session.security(), session.reach());
    match exposure(security, reach) {
        None => report.good("connection", security.to_string()),
        Some(advice) => report.warn("connection", format!("the connection: {security}"), advice),
    }
}

/// What can be done about a connection that somebody on the way can listen to, or end himself. As with libpq, one is
/// encrypted if the server can, and verified only if that was asked for.
fn exposure(security: Security, reach: Reach) -> Option<&'static str> {
    match (security, reach) {
        (Security::UnixSocket | Security::Tls { verified: Verified::Authority | Verified::Name, .. }, _)
        | (_, Reach::Local)
        | (Security::Plain, Reach::FarByChoice) => None,
        (Security::Tls { .. }, _) => Some(
            "anybody on the way can pose as the server: add sslmode=verify-full&sslrootcert=FILE (or =system) to the \
             database URL",
        ),
        (Security::Plain, Reach::Far) => Some(
            "passwords and rows can be read on the way: let the server have TLS (ssl = on), and add \
             sslmode=verify-full&sslrootcert=FILE to the database URL; or sslmode=disable, if the network is to be trusted",
        ),
    }
}
