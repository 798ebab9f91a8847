//! The way in: why a login was refused, whether one for replication is let in, whether it is the server itself that
//! answers, and whether its clock is ours.

use std::time::{Duration, Instant, SystemTime};

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::{PATIENCE, Subject};
use crate::error::OutboxError;
use crate::finding::Finding;
use crate::postgres::auth::{self, Binding};
use crate::postgres::connection::{Connection, Wire, cannot_encode, fields_error};
use crate::postgres::names::quote_identifier;
use crate::postgres::session::{Cells, open_replication, startup};
use crate::postgres::settings::Endpoint;
use crate::postgres::wire::{self, Opened};

/// How far the clocks may be apart before it is told.
const APART: Duration = Duration::from_secs(5);

/// What to do about an ordinary session that was refused: by SQL where SQL mends it.
pub(super) fn refused(error: OutboxError, role: Option<&str>) -> Finding {
    let text = error.to_string();
    match mend(&text, error.sqlstate().unwrap_or_default(), role) {
        Some(Mend::Line(line)) => {
            let advice = format!(
                "put this line into pg_hba.conf (SHOW hba_file tells where), above lines that reject: {line} -- then: \
                 SELECT pg_reload_conf();"
            );
            Finding::error("connection", error.with_advice(advice))
        }
        Some(Mend::Sql(sql)) => Finding::error("connection", error.with_advice(sql)).all_sql(),
        None => Finding::error("connection", error),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Mend {
    /// A line of pg_hba.conf.
    Line(String),
    Sql(String),
}

/// By the server's words, since a code stands for several causes. Words in another language are left as they are.
fn mend(text: &str, sqlstate: &str, role: Option<&str>) -> Option<Mend> {
    let quoted = |before: &str| {
        let (_, rest) = text.split_once(before)?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    match sqlstate {
        "28000" if text.contains("no pg_hba.conf entry for") => hba_line(text).map(Mend::Line),
        "28000" if text.contains("pg_hba.conf rejects") => hba_line(text).map(Mend::Line),
        "28000" if text.contains("is not permitted to log in") => {
            quoted("role \"").map(|role| Mend::Sql(format!("ALTER ROLE {} LOGIN;", quote_identifier(&role))))
        }
        "28000" if text.contains("does not exist") => quoted("role \"").map(|role| {
            Mend::Sql(format!("CREATE ROLE {} LOGIN REPLICATION PASSWORD '...';", quote_identifier(&role)))
        }),
        "53300" if text.contains("too many connections for role") => quoted("role \"")
            .map(|role| Mend::Sql(format!("ALTER ROLE {} CONNECTION LIMIT -1;", quote_identifier(&role)))),
        "53300" if text.contains("too many connections for database") => quoted("database \"").map(|name| {
            Mend::Sql(format!("ALTER DATABASE {} CONNECTION LIMIT -1;", quote_identifier(&name)))
        }),
        "42501" if text.contains("permission denied for database") => {
            let (name, role) = (quote_identifier(&quoted("for database \"")?), quote_identifier(role?));
            Some(Mend::Sql(format!("GRANT CONNECT ON DATABASE {name} TO {role};")))
        }
        _ => None,
    }
}

/// The line that lets in whom the server names: `host "…", user "…", database "…", no encryption`.
fn hba_line(text: &str) -> Option<String> {
    let after = |word: &str| {
        let (_, rest) = text.split_once(&format!("{word} \""))?;
        Some(rest.split_once('"')?.0)
    };
    let (host, user, database) = (after("host")?, after("user")?, after("database")?);
    let in_quotes = |name: &str| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if plain { name.to_owned() } else { format!("\"{name}\"") }
    };
    let (user, database) = (in_quotes(user), in_quotes(database));
    if host == "[local]" {
        return Some(format!("local {database} {user} scram-sha-256"));
    }
    let kind = if text.contains("SSL encryption") { "hostssl" } else { "host" };
    let mask = if host.contains(':') { 128 } else { 32 };
    Some(format!("{kind} {database} {user} {host}/{mask} scram-sha-256"))
}

/// Logs in for replication, as the relay will.
pub(super) async fn look(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let opened = async {
        let mut connection = open_replication(subject.endpoint).await?;
        connection.first_row("asking the server who it is", "IDENTIFY_SYSTEM").await
    };
    let found = match tokio::time::timeout(PATIENCE, opened).await {
        Ok(Ok(_)) => Finding::good("login", "a login for replication is let in"),
        Ok(Err(error)) if subject.no_right && error.sqlstate() == Some("42501") => return Ok(Vec::new()),
        Ok(Err(error)) => not_let_in(subject, error).await?,
        Err(_) => {
            let text = "a login for replication gets no answer";
            Finding::fail("login", text, "see whether the network or a pooler in between keeps it back")
        }
    };
    let mut found = vec![found];
    found.extend(wrong_lines(subject).await?);
    Ok(found)
}

/// What an ordinary session gets and one for replication does not.
async fn not_let_in(subject: &Subject<'_>, error: OutboxError) -> Result<Finding, OutboxError> {
    let text = format!("a login for replication is refused: {}", error.chain());
    // The server itself knows the parameter, and the command.
    if matches!(error.sqlstate(), Some("08P01" | "42601")) || text.contains("startup parameter") {
        let place = itself(subject).await?;
        let advice = format!(
            "a pooler answers, and replication does not go through it: connect to the server itself, which says of \
             itself that it is {place}"
        );
        return Ok(Finding::fail("login", text, advice));
    }
    let mend = (error.sqlstate() == Some("53300")).then_some("ALTER SYSTEM SET max_wal_senders = 20;");
    let found = match (mend, error.advice()) {
        (Some(mend), _) => {
            Finding::fail("login", text, format!("{mend} then restart the server")).with_sql(mend)
        }
        (None, advice) => {
            Finding::fail("login", text.clone(), advice.unwrap_or("see the server's log").to_owned())
        }
    };
    Ok(found)
}

/// Where the server of the session listens, by its own word.
async fn itself(subject: &Subject<'_>) -> Result<String, OutboxError> {
    let sql = "SELECT coalesce(host(inet_server_addr()) || ', port ' || inet_server_port(), \
               'on its own machine at a socket in ' || coalesce(current_setting('unix_socket_directories', true), '?') \
               || ', port ' || current_setting('port'))";
    subject.row(sql).await?.cell(0)
}

/// Lines of pg_hba.conf that the server can't read: it would keep the old ones, and not start again. Only a superuser, and
/// whom one lets, may see them.
async fn wrong_lines(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let allowed = "SELECT has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT') \
                   AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')";
    if !subject.row(allowed).await?.cell::<bool, _>(0)? {
        return Ok(Vec::new());
    }
    let sql = "SELECT line_number, error, current_setting('hba_file') FROM pg_hba_file_rules WHERE error IS NOT NULL";
    let wrong = |row: &tokio_postgres::Row| {
        let (line, error, file): (Option<i32>, String, String) = (row.cell(0)?, row.cell(1)?, row.cell(2)?);
        let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
        let text = format!("{file}{line} can't be read: {error}; the server would not start with it");
        Ok(Finding::warn("login", text, "correct the line, then: SELECT pg_reload_conf();"))
    };
    subject.rows(sql).await?.iter().map(wrong).collect()
}

/// Whether something stands between: a pooler makes up the number of the process that it says serves the connection.
pub(super) async fn pooler(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let (told, serves) = processes(subject.endpoint).await?;
    if told.is_none_or(|told| told == serves) {
        return Ok(vec![Finding::good("pooler", "none stands between")]);
    }
    let place = itself(subject).await?;
    let text =
        "a pooler stands between: sessions may change hands between statements, and it may cut the stream";
    let advice = format!(
        "connect the relay to the server itself, which says of itself that it is {place}; or let the pooler give it \
         sessions of its own: pool_mode = session"
    );
    Ok(vec![Finding::warn("pooler", text, advice)])
}

/// The process that is said to serve a session, and the one that does.
async fn processes(endpoint: &Endpoint) -> Result<(Option<i32>, i32), OutboxError> {
    let startup = &startup(&endpoint.config)?;
    let log_in = wire::log_in(endpoint, |opened: Opened| async move {
        let binding = Binding::of(&endpoint.config, &opened);
        let mut connection = Connection::over(opened.wire);
        let parameters = [("user", startup.user.as_str()), ("database", &startup.database)];
        frontend::startup_message(parameters, connection.output()).map_err(cannot_encode)?;
        connection.flush().await?;
        auth::authenticate(&mut connection, startup, &binding).await?;
        Ok(connection)
    });
    let mut connection = log_in.await?;
    let told = key_data(&mut connection).await?;
    let row = connection.first_row("asking which process serves", "SELECT pg_backend_pid()").await?;
    let serves = row.first().and_then(Option::as_ref).and_then(|text| std::str::from_utf8(text).ok());
    let serves = serves.and_then(|text| text.parse().ok());
    serves.map(|serves| (told, serves)).ok_or_else(|| OutboxError::transient("the server's answer is empty"))
}

async fn key_data<S: Wire>(connection: &mut Connection<S>) -> Result<Option<i32>, OutboxError> {
    let mut told = None;
    loop {
        match connection.message().await? {
            Message::BackendKeyData(body) => told = Some(body.process_id()),
            Message::ReadyForQuery(_) => return Ok(told),
            Message::ErrorResponse(body) => return Err(fields_error("starting the session", body.fields())),
            _ => {}
        }
    }
}

/// Whether the server's clock goes as ours does: times of rows are its, times of retries and of the log ours.
pub(super) async fn clock(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let (asked, since) = (SystemTime::now(), Instant::now());
    let row = subject.row("SELECT extract(epoch FROM clock_timestamp())::float8").await?;
    let (took, theirs): (f64, f64) = (since.elapsed().as_secs_f64(), row.cell(0)?);
    let ours = asked.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    // It may have looked at its clock at any moment in between.
    let ahead = if theirs > ours + took { theirs - ours - took } else { (theirs - ours).min(0.0) };
    if ahead.abs() < APART.as_secs_f64() {
        return Ok(vec![Finding::good("clock", "the server's clock goes as ours does")]);
    }
    let way = if ahead > 0.0 { "ahead of" } else { "behind" };
    let text = format!(
        "the server's clock is {} {way} ours: records bear its times, and the age of what waits is measured wrong",
        super::span(ahead.abs())
    );
    Ok(vec![Finding::warn(
        "clock",
        text,
        "let both machines take their time from NTP (chrony, systemd-timesyncd)",
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_s_words_become_what_mends_it() {
        let hba =
            "no pg_hba.conf entry for host \"10.1.2.3\", user \"relay\", database \"my shop\", no encryption";
        for (sqlstate, text, expected) in [
            ("28000", hba, Mend::Line("host \"my shop\" relay 10.1.2.3/32 scram-sha-256".to_owned())),
            (
                "28000",
                "no pg_hba.conf entry for host \"::1\", user \"relay\", database \"shop\", SSL encryption",
                Mend::Line("hostssl shop relay ::1/128 scram-sha-256".to_owned()),
            ),
            (
                "28000",
                "pg_hba.conf rejects connection for host \"[local]\", user \"relay\", database \"shop\", no encryption",
                Mend::Line("local shop relay scram-sha-256".to_owned()),
            ),
            (
                "28000",
                "role \"My\" is not permitted to log in",
                Mend::Sql("ALTER ROLE \"My\" LOGIN;".to_owned()),
            ),
            (
                "53300",
                "too many connections for role \"relay\"",
                Mend::Sql("ALTER ROLE relay CONNECTION LIMIT -1;".to_owned()),
            ),
            (
                "42501",
                "permission denied for database \"my shop\"",
                Mend::Sql("GRANT CONNECT ON DATABASE \"my shop\" TO relay;".to_owned()),
            ),
        ] {
            assert_eq!(mend(text, sqlstate, Some("relay")), Some(expected), "{text}");
        }
        assert_eq!(mend("nichts zu machen", "28000", None), None);
    }
}
