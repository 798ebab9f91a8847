//! Everything the database must have before a relay can run, looked up over an ordinary SQL session.
//!
//! `walpost check` shows every finding; a starting relay stops at the first failure. Only catalogs are
//! read, so that a missing grant is a finding and not an accident.

mod later;
mod publication;
mod seal;
mod slot;
mod survey;
mod write_back;

use tokio_postgres::Row;

pub use later::inspect_waiting;
pub(crate) use seal::{Seal, read_again as read_seal};
pub(crate) use survey::{Survey, TableColumn};
pub use write_back::inspect as inspect_write_back;

use super::names::Target;
use super::session::{Cells, Session, sql_error};
use super::table::{self, ColumnTypes, DeadLetterOffice};
use crate::error::OutboxError;
use crate::refusal::OnRefusal;

/// The result of one look.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// What was seen.
    pub outcome: Outcome,
}

/// Good, doubtful, or in the way.
#[derive(Debug)]
pub enum Outcome {
    /// As it should be.
    Good(String),
    /// It works, but not as somebody may expect: what, and the mend.
    Warning(String, String),
    /// A relay can't run; the error's advice is the mend.
    Failure(OutboxError),
}

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
}

impl Preflight {
    fn good(&mut self, subject: &'static str, text: impl Into<String>) {
        self.findings.push(Finding { subject, outcome: Outcome::Good(text.into()) });
    }

    fn warn(&mut self, subject: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding { subject, outcome: Outcome::Warning(text.into(), advice.into()) });
    }

    fn fail(&mut self, subject: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        let outcome = Outcome::Failure(OutboxError::definite(text, advice));
        self.findings.push(Finding { subject, outcome });
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
        let failure = self.findings.iter().find(|found| matches!(found.outcome, Outcome::Failure(_)));
        failure.is_some_and(|found| subjects.contains(&found.subject))
    }

    /// The first failure, if there is one.
    ///
    /// # Errors
    /// That failure.
    pub(crate) fn passed(self) -> Result<Self, OutboxError> {
        let failure = self.findings.iter().position(|found| matches!(found.outcome, Outcome::Failure(_)));
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
    server(session, &mut report).await?;
    role(session, &mut report).await?;
    survey::inspect(session, target, &mut report).await?;
    publication::inspect(session, target, &mut report).await?;
    slot::inspect(session, target, &mut report).await?;
    seal::inspect(session, target, &mut report).await?;
    later::inspect(session, target, &mut report).await?;
    Ok(report)
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
    let outcome = match (office.require(rights.as_ref(), &table::RELAY_RIGHTS), on_refusal) {
        (Err(error), OnRefusal::DeadLetter) => Outcome::Failure(error),
        (Err(_), OnRefusal::Halt) if rights.is_none() => {
            Outcome::Good(format!("no table {}; none is needed to halt at a refusal", office.table()))
        }
        (Err(error), OnRefusal::Halt) => {
            let advice = error.advice().unwrap_or_default().to_owned();
            Outcome::Warning(error.to_string(), advice)
        }
        (Ok(()), _) => match office.count_open(session).await? {
            0 => Outcome::Good(format!("{}: none waits", office.table())),
            1 => Outcome::Warning("1 message waits as a dead letter".to_owned(), LIST.to_owned()),
            count => Outcome::Warning(format!("{count} messages wait as dead letters"), LIST.to_owned()),
        },
    };
    Ok(Finding { subject: "dead letters", outcome })
}

/// How to see the open letters.
const LIST: &str = "walpost dead-letters list";

async fn rows(session: &Session, sql: &str) -> Result<Vec<Row>, OutboxError> {
    session.client().query(sql, &[]).await.map_err(|error| sql_error("reading the catalog", error))
}

async fn server(session: &Session, report: &mut Preflight) -> Result<(), OutboxError> {
    let sql = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
               current_setting('wal_level'), pg_is_in_recovery()";
    let Some(row) = rows(session, sql).await?.pop() else { return Ok(()) };
    report.server_version = row.cell(0)?;
    let version: String = row.cell(1)?;
    if report.server_version < 140_000 {
        let text = format!("the server is PostgreSQL {version}");
        report.fail("server", text, "upgrade to PostgreSQL 14 or later");
    } else {
        report.good("server", format!("PostgreSQL {version}"));
    }
    if row.cell(3)? {
        // A standby may be promoted at any moment; the relay waits for it.
        let error = OutboxError::transient("the server is a standby").with_advice(
            "connect to the primary; with several hosts in the database URL, add target_session_attrs=read-write",
        );
        report.findings.push(Finding { subject: "primary", outcome: Outcome::Failure(error) });
    }
    match row.cell::<String, _>(2)?.as_str() {
        "logical" => report.good("wal_level", "logical"),
        other => report.fail(
            "wal_level",
            format!("wal_level is {other}, and must be logical"),
            "ALTER SYSTEM SET wal_level = 'logical'; then restart the server",
        ),
    }
    Ok(())
}

async fn role(session: &Session, report: &mut Preflight) -> Result<(), OutboxError> {
    // Managed services lend the attribute through a role that one is a member of.
    let sql = "SELECT rolname::text, rolreplication OR rolsuper OR EXISTS (SELECT FROM pg_roles m \
               WHERE m.rolname IN ('rds_replication') AND pg_has_role(r.oid, m.oid, 'member')), \
               has_database_privilege(current_database(), 'CONNECT') \
               FROM pg_roles r WHERE rolname = current_user";
    let Some(row) = rows(session, sql).await?.pop() else { return Ok(()) };
    let (name, replication): (String, bool) = (row.cell(0)?, row.cell(1)?);
    if replication {
        report.good("role", format!("{name} may replicate"));
    } else {
        let advice = format!("ALTER ROLE {} REPLICATION;", super::names::quote_identifier(&name));
        report.fail("role", format!("role {name} may not replicate"), advice);
    }
    Ok(())
}
