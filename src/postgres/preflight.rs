//! Everything the database must have before a relay can run, looked up over an ordinary SQL session.
//!
//! `walpost check` shows every finding; a starting relay stops at the first failure. Only catalogs are
//! read, so that a missing grant is a finding and not an accident.

mod later;
mod seal;
mod slot;

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Row;

pub(crate) use seal::Seal;

use super::names::{Target, quote_literal};
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
    /// The table's object id, by which it is followed through a rename.
    pub(crate) table_oid: Option<u32>,
    pub(crate) column_types: ColumnTypes,
    /// Names and types of the table's columns.
    pub(super) columns: Vec<(String, u32)>,
    /// How a row becomes a message.
    pub(crate) layout: Option<Arc<table::Layout>>,
    /// Optional columns that the table doesn't have.
    pub(crate) absent_columns: Vec<String>,
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
    table(session, target, &mut report).await?;
    publication(session, target, &mut report).await?;
    published_part(session, target, &mut report).await?;
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

async fn table(session: &Session, target: &Target, report: &mut Preflight) -> Result<(), OutboxError> {
    let sql = format!(
        "SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relispartition FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
        quote_literal(&target.table.schema),
        quote_literal(&target.table.name)
    );
    let Some(row) = rows(session, &sql).await?.pop() else {
        let text = format!("table {} does not exist", target.table);
        let advice = if target.mapping.made_by_setup {
            "run `walpost setup`, or name the table with --table"
        } else {
            "name the table with --table; --preset tells how it is made up"
        };
        report.fail("table", text, advice);
        return Ok(());
    };
    let oid: u32 = row.cell(0)?;
    report.table_oid = Some(oid);
    let (kind, persistence): (String, String) = (row.cell(1)?, row.cell(2)?);
    if !matches!(kind.as_str(), "r" | "p") {
        report.fail("table", format!("{} is no table", target.table), "name a table with --table");
        return Ok(());
    }
    if persistence != "p" {
        let advice = format!("ALTER TABLE {} SET LOGGED;", target.table);
        report.fail("table", format!("{} is not in the write-ahead log", target.table), advice);
        return Ok(());
    }
    columns(session, target, oid, report).await
}

async fn columns(
    session: &Session,
    target: &Target,
    oid: u32,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let sql = format!(
        "WITH RECURSIVE base AS (SELECT oid, oid AS base, typbasetype FROM pg_type UNION ALL \
         SELECT b.oid, t.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typbasetype) \
         SELECT a.attname::text, a.atttypid, b.base, format_type(a.atttypid, a.atttypmod) \
         FROM pg_attribute a JOIN base b ON b.oid = a.atttypid AND b.typbasetype = 0 \
         WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
    );
    let rows = rows(session, &sql).await?;
    let (mut bases, mut columns) = (HashMap::new(), Vec::new());
    for row in &rows {
        let (name, type_oid): (String, u32) = (row.cell(0)?, row.cell(1)?);
        bases.insert(type_oid, row.cell::<u32, _>(2)?);
        columns.push((name, type_oid));
    }
    report.column_types = ColumnTypes::new(bases);
    let names = columns.iter().map(|(name, type_oid)| (name.as_str(), *type_oid));
    let layout = table::Layout::new(&target.mapping, names, &report.column_types);
    report.columns.clone_from(&columns);
    match layout {
        Ok(layout) => {
            let text = format!("{}: {}", target.table, layout.describe());
            report.absent_columns = layout.absent();
            report.layout = Some(Arc::new(layout));
            report.good("table", text);
        }
        Err(error) => {
            let outcome = Outcome::Failure(error.in_table(&target.table));
            report.findings.push(Finding { subject: "table", outcome });
        }
    }
    Ok(())
}

async fn publication(session: &Session, target: &Target, report: &mut Preflight) -> Result<(), OutboxError> {
    let (name, shown) =
        (quote_literal(&target.publication), super::names::quote_identifier(&target.publication));
    let sql = format!(
        "SELECT p.puballtables, p.pubinsert, p.pubviaroot, c.relkind::text, \
         EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname = p.pubname AND EXISTS ( \
           SELECT FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace \
           WHERE n.nspname = t.schemaname AND r.relname = t.tablename \
           AND (r.oid = c.oid OR NOT p.pubviaroot AND r.oid IN (SELECT relid FROM pg_partition_tree(c.oid))))), \
         (SELECT string_agg(format('%I.%I', t.schemaname, t.tablename), ', ') FROM pg_publication_tables t \
           WHERE t.pubname = p.pubname AND NOT EXISTS (SELECT FROM pg_class r \
             JOIN pg_namespace n ON n.oid = r.relnamespace WHERE n.nspname = t.schemaname \
             AND r.relname = t.tablename AND (r.oid = c.oid OR r.oid IN \
               (SELECT relid FROM pg_partition_tree(c.oid))))) \
         FROM pg_publication p LEFT JOIN pg_class c ON c.oid = {} WHERE p.pubname = {name}",
        report.table_oid.unwrap_or_default()
    );
    let Some(row) = rows(session, &sql).await?.pop() else {
        let advice = format!(
            "run `walpost setup`, or: CREATE PUBLICATION {shown} FOR TABLE {} WITH (publish = 'insert', \
             publish_via_partition_root = true); a slot that is older than the publication must be made anew",
            target.table
        );
        report.fail("publication", format!("publication {shown} does not exist"), advice);
        return Ok(());
    };
    let (all, insert, via_root): (bool, bool, bool) = (row.cell(0)?, row.cell(1)?, row.cell(2)?);
    let (kind, has_table, others): (Option<String>, bool, Option<String>) =
        (row.cell(3)?, row.cell(4)?, row.cell(5)?);
    if report.table_oid.is_none() {
        // Without the table there is nothing to compare it with.
        return Ok(());
    }
    if !insert {
        let advice = format!("ALTER PUBLICATION {shown} SET (publish = 'insert');");
        report.fail("publication", format!("publication {shown} does not publish inserts"), advice);
    } else if !has_table {
        let advice = format!(
            "ALTER PUBLICATION {shown} ADD TABLE {}; -- what was committed before that is not sent: compare its rows with \
             the topics, and insert again those that are missing",
            target.table
        );
        report.fail("publication", format!("publication {shown} does not publish {}", target.table), advice);
    } else if kind.as_deref() == Some("p") && !via_root {
        // Partitions would come under their own names, new ones under names that nobody knows yet.
        let advice = format!("ALTER PUBLICATION {shown} SET (publish_via_partition_root = true);");
        let text =
            format!("{} is partitioned, and publication {shown} publishes its partitions", target.table);
        report.fail("publication", text, advice);
    } else {
        report.good("publication", format!("{shown} publishes inserts into {}", target.table));
    }
    match others {
        Some(_) if all => report.warn(
            "publication",
            format!("publication {shown} is for all tables: the server sends rows that are not used"),
            "make one for the outbox table alone with `walpost setup`",
        ),
        Some(others) => report.warn(
            "publication",
            format!("publication {shown} also publishes {others}, whose rows are ignored"),
            format!(
                "ALTER PUBLICATION {shown} DROP TABLE {others}; -- or, if it names their schema, make one for the outbox \
                 table alone with `walpost setup`"
            ),
        ),
        None => {}
    }
    Ok(())
}

/// Rows and columns that the publication holds back (15 and later).
async fn published_part(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let (table, shown) = (&target.table, super::names::quote_identifier(&target.publication));
    let sql = format!(
        "SELECT to_jsonb(t) ->> 'rowfilter', \
         ARRAY(SELECT jsonb_array_elements_text(coalesce(to_jsonb(t) -> 'attnames', '[]'))) \
         FROM pg_publication_tables t WHERE pubname = {} AND schemaname = {} AND tablename = {}",
        quote_literal(&target.publication),
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    let Some(row) = rows(session, &sql).await?.pop() else { return Ok(()) };
    if let Some(filter) = row.cell::<Option<String>, _>(0)? {
        report.warn(
            "publication",
            format!("publication {shown} sends only rows of {table} for which {filter}"),
            format!(
                "if no row shall be left out: ALTER PUBLICATION {shown} SET TABLE {table}; rows that were left out do not \
                 come again"
            ),
        );
    }
    let listed: Vec<String> = row.cell(1)?;
    if listed.is_empty() || report.columns.is_empty() {
        return Ok(());
    }
    let sent = report.columns.iter().filter(|(name, _)| listed.contains(name));
    let sent = sent.map(|(name, type_oid)| (name.as_str(), *type_oid));
    let mend = format!("ALTER PUBLICATION {shown} SET TABLE {table};");
    match table::Layout::new(&target.mapping, sent, &report.column_types) {
        Err(error) => {
            let error = error.in_table(table);
            let text = format!("publication {shown} holds back a column that is needed: {error}");
            report.fail("publication", text, mend);
        }
        Ok(layout) => {
            let absent = layout.absent();
            let hidden: Vec<_> =
                absent.iter().filter(|name| !report.absent_columns.contains(name)).cloned().collect();
            if !hidden.is_empty() {
                let text = format!(
                    "publication {shown} holds back {}: messages go on without it",
                    hidden.join(", ")
                );
                report.warn("publication", text, mend);
            }
            report.absent_columns = absent;
        }
    }
    Ok(())
}
