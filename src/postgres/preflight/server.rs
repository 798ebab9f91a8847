//! The server and the role: whether they do logical replication at all.

use super::{Finding, Preflight, rows};
use crate::error::OutboxError;
use crate::postgres::names::quote_identifier;
use crate::postgres::session::{Cells, Session};

/// Whose administrators are no superusers, known by a role that only their servers have, and where such a server's
/// `wal_level` is set.
const MANAGED: [(&str, &str); 3] = [
    (
        "rds_superuser",
        "set rds.logical_replication = 1 in the parameter group of the instance or cluster; then restart it",
    ),
    ("cloudsqlsuperuser", "set the flag cloudsql.logical_decoding = on; the instance restarts"),
    ("azure_pg_admin", "set the server parameter wal_level = logical; then restart the server"),
];

pub(super) async fn inspect(session: &Session, report: &mut Preflight) -> Result<(), OutboxError> {
    let sql = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
               current_setting('wal_level'), pg_is_in_recovery(), ARRAY(SELECT rolname::text FROM pg_roles \
               WHERE rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin'))";
    if let Some(row) = rows(session, sql).await?.pop() {
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
            report.findings.push(Finding::error("primary", error));
        }
        wal_level(&row.cell::<String, _>(2)?, &row.cell::<Vec<String>, _>(4)?, report);
    }
    role(session, report).await
}

fn wal_level(level: &str, roles: &[String], report: &mut Preflight) {
    if level == "logical" {
        return report.good("wal_level", "logical");
    }
    let text = format!("wal_level is {level}, and must be logical");
    let managed = MANAGED.iter().find(|(role, _)| roles.iter().any(|there| there == role));
    report.findings.push(match managed {
        Some((_, advice)) => Finding::fail("wal_level", text, *advice),
        None => {
            let mend = "ALTER SYSTEM SET wal_level = 'logical';";
            Finding::fail("wal_level", text, format!("{mend} then restart the server")).with_sql(mend)
        }
    });
}

async fn role(session: &Session, report: &mut Preflight) -> Result<(), OutboxError> {
    // Amazon lends the attribute through a role that one is a member of; the others' administrators may give it.
    let sql = "SELECT rolname::text, rolreplication OR rolsuper OR EXISTS (SELECT FROM pg_roles m \
               WHERE m.rolname IN ('rds_replication') AND pg_has_role(r.oid, m.oid, 'member')), \
               EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') \
               FROM pg_roles r WHERE rolname = current_user";
    let Some(row) = rows(session, sql).await?.pop() else { return Ok(()) };
    let (name, replication, lent): (String, bool, bool) = (row.cell(0)?, row.cell(1)?, row.cell(2)?);
    let role = quote_identifier(&name);
    if replication {
        report.good("role", format!("{name} may replicate"));
    } else {
        let mend = if lent {
            format!("GRANT rds_replication TO {role};")
        } else {
            format!("ALTER ROLE {role} REPLICATION;")
        };
        report.fail_by_sql("role", format!("role {name} may not replicate"), mend);
    }
    Ok(())
}
