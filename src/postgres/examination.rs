//! What a relay lives among, for `walpost check`: all that it needs to start is looked at by `preflight`; here is what
//! hinders it later, or hinders others because of it.
//!
//! Each look stands by itself: one that can't be done is told as such, and the others go on.

mod access;
mod capacity;
mod commits;
mod login;
mod recent;
mod retention;
mod standby;
mod writers;

use std::future::Future;
use std::time::Duration;

use tokio_postgres::Row;

use super::names::Target;
use super::preflight::{
    self, Finding, Preflight, inspect_dead_letters, inspect_readable, inspect_waiting, inspect_write_back,
};
use super::session::{Session, sql_error};
use super::settings::{Endpoint, Settings};
use super::slot;
use crate::error::OutboxError;
use crate::refusal::OnRefusal;
use crate::vitals::size;
use crate::write_back::WriteBackMode;

pub(crate) use recent::TopicInUse;

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the server may work on one statement, in milliseconds; less, so that it says so itself.
const STATEMENT: Duration = Duration::from_secs(4);

/// Of `pg_stat_replication r`: a standby, or whoever reads as one. Who has logged in and reads nothing is none, as was our
/// own login a moment ago.
const STREAMS: &str = "r.state IN ('catchup', 'streaming') AND NOT EXISTS (SELECT FROM pg_replication_slots s \
    WHERE s.active_pid = r.pid AND s.slot_type = 'logical')";

/// What was found, and what is sent to Kafka by it.
#[derive(Debug, Default)]
pub(crate) struct Examination {
    pub(crate) findings: Vec<Finding>,
    /// The topics that the mappings name, and those of recent rows.
    pub(crate) topics: Vec<TopicInUse>,
}

/// What is looked at, and by which session.
struct Subject<'a> {
    session: &'a Session,
    /// The server that the session was opened to.
    endpoint: &'a Endpoint,
    target: &'a Target,
    report: &'a Preflight,
    /// The role lacks the right to replicate, which is told already.
    no_right: bool,
}

/// Looks at everything in the database, and never fails: what can't be looked at is a finding.
pub(crate) async fn examine(settings: &Settings, target: &Target, on_refusal: OnRefusal) -> Examination {
    let opened = async {
        let (session, endpoint) = Session::open_first(settings).await?;
        Ok((session, endpoint.with_password().await?))
    };
    let (session, endpoint) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return unreachable(settings, target, error),
    };
    let bounded = format!("SET statement_timeout = {}", STATEMENT.as_millis());
    if let Err(error) = session.client().batch_execute(&bounded).await {
        return unreachable(settings, target, sql_error("asking the server", error));
    }
    let mut report = Preflight::default();
    // Bounded as a whole: a server that has stopped answering would be waited for look by look.
    let needed = async {
        preflight::look(&session, target, &mut report).await?;
        inspect_waiting(&session, target, &mut report).await?;
        inspect_write_back(&session, target, &mut report).await?;
        inspect_unsent(&session, target, &mut report).await;
        let unreadable = inspect_readable(settings, target, &mut report).await;
        report.findings.extend(unreadable);
        inspect_dead_letters(&session, target, on_refusal).await
    };
    let (needed, silent) = match tokio::time::timeout(2 * PATIENCE, needed).await {
        Ok(Ok(letters)) => (letters, false),
        Ok(Err(error)) => (Finding::error("database", error), false),
        Err(_) => (Finding::error("database", silent()), true),
    };
    let mut findings = std::mem::take(&mut report.findings);
    findings.push(needed);
    let no_right = findings.iter().any(|found| found.subject == "role" && found.is_failure());
    let subject = Subject { session: &session, endpoint: &endpoint, target, report: &report, no_right };
    let topics = surroundings(&subject, Looks { findings: &mut findings, silent }).await;
    Examination { findings, topics }
}

/// A missing slot is in the way where rows are there that it would not send, as `walpost run` says.
async fn inspect_unsent(session: &Session, target: &Target, report: &mut Preflight) {
    if report.slot_exists {
        return;
    }
    let told = report.findings.iter_mut().find(|found| found.subject == "slot");
    // A table that is not there, or may not be read, is a finding of its own.
    if let (Some(told), Ok(Some(error))) = (told, slot::unsent(session, target).await) {
        *told = Finding::error("slot", error);
    }
}

/// Looks that need nothing of each other.
async fn surroundings(subject: &Subject<'_>, mut looks: Looks<'_>) -> Vec<TopicInUse> {
    looks.take("login", login::look(subject)).await;
    looks.take("pooler", login::pooler(subject)).await;
    looks.take("clock", login::clock(subject)).await;
    looks.take("capacity", capacity::look(subject)).await;
    looks.take("access", access::look(subject)).await;
    looks.take("writers", writers::look(subject)).await;
    looks.take("retention", retention::look(subject)).await;
    looks.take("other slots", retention::others(subject)).await;
    looks.take("open", retention::open(subject)).await;
    looks.take("standby", standby::look(subject)).await;
    looks.take("commits", commits::look(subject)).await;
    let mut topics = recent::named(subject.target);
    looks.take("recent rows", recent::look(subject, &mut topics)).await;
    topics
}

struct Looks<'a> {
    findings: &'a mut Vec<Finding>,
    /// The server has not answered in time; it would not answer the next question either.
    silent: bool,
}

impl Looks<'_> {
    async fn take(
        &mut self,
        subject: &'static str,
        look: impl Future<Output = Result<Vec<Finding>, OutboxError>>,
    ) {
        if self.silent {
            return self.findings.push(Finding::unknown(subject, &silent()));
        }
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(Ok(found)) => self.findings.extend(found),
            Ok(Err(error)) => self.findings.push(Finding::unknown(subject, &error)),
            Err(_) => {
                self.silent = true;
                self.findings.push(Finding::unknown(subject, &silent()));
            }
        }
    }
}

fn silent() -> OutboxError {
    OutboxError::transient("the server does not answer in time")
        .with_advice("see what it is busy with, or whether the network lets its answers pass")
}

/// Without a session there is nothing but what the settings say.
fn unreachable(settings: &Settings, target: &Target, error: OutboxError) -> Examination {
    let role = settings
        .candidates()
        .first()
        .and_then(|server| server.endpoint().config.get_user().map(str::to_owned));
    let missed = "not looked at, since there is no connection: server, role, tables, publication, slot and all else in it";
    let findings = vec![
        login::refused(error, role.as_deref()),
        Finding::warn("database", missed, "mend the connection, then run this again"),
    ];
    Examination { findings, topics: recent::named(target) }
}

impl Subject<'_> {
    async fn rows(&self, sql: &str) -> Result<Vec<Row>, OutboxError> {
        let rows = self.session.client().query(sql, &[]).await;
        rows.map_err(|error| sql_error("asking the server", error))
    }

    /// The first row; there is always one.
    async fn row(&self, sql: &str) -> Result<Row, OutboxError> {
        let rows = self.rows(sql).await?;
        rows.into_iter().next().ok_or_else(|| OutboxError::transient("the server's answer is empty"))
    }

    /// How many sessions a relay opens, besides the one that reads the log.
    fn sessions(&self) -> i64 {
        let write_back = self.target.write_back != WriteBackMode::None;
        2 + i64::from(write_back) + i64::from(self.report.delivers_later)
    }
}

/// A span in the unit that keeps it short.
pub(crate) fn span(seconds: f64) -> String {
    let units = [(86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")];
    match units.iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", seconds / unit),
        None => format!("{seconds:.0} seconds"),
    }
}
