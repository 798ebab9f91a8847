//! `walpost check` on the database's side: each failure and warning, what it says, and that the statements it gives mend it.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::walpost::Builder;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually, local_postgres, major};
use crate::world::World;

/// What `walpost check --json` says.
pub(crate) struct Checked {
    pub(crate) code: Option<i32>,
    pub(crate) findings: Vec<Value>,
}

impl Checked {
    pub(crate) async fn of(command: Builder) -> Checked {
        let output = command.args(["--json"]).output().await;
        let findings = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        Checked { code: output.status.code(), findings }
    }

    /// Those of a subject and outcome whose text holds this.
    pub(crate) fn find(&self, subject: &str, outcome: &str, words: &str) -> Option<&Value> {
        let mut found = self.findings.iter();
        found.find(|found| {
            found["subject"] == subject
                && found["outcome"] == outcome
                && found["text"].as_str().unwrap().contains(words)
        })
    }

    /// The advice of one that is there.
    #[track_caller]
    pub(crate) fn advice(&self, subject: &str, outcome: &str, words: &str) -> String {
        let found = self.find(subject, outcome, words);
        let found = found.unwrap_or_else(|| panic!("no {outcome} {subject} {words:?}: {:#?}", self.findings));
        found["advice"].as_str().unwrap_or_default().to_owned()
    }

    /// The statements that mend it; the advice holds them too.
    #[track_caller]
    pub(crate) fn sql(&self, subject: &str, outcome: &str, words: &str) -> String {
        let advice = self.advice(subject, outcome, words);
        let found = self.find(subject, outcome, words).unwrap();
        let sql = found["sql"].as_str().unwrap_or_else(|| panic!("no statement: {found}"));
        assert!(advice.contains(sql), "{found}");
        sql.to_owned()
    }

    /// No failure and no warning of these subjects is left.
    #[track_caller]
    pub(crate) fn assert_well(&self, subjects: &[&str]) {
        for found in &self.findings {
            let of_them = subjects.iter().any(|subject| found["subject"] == *subject);
            assert!(!of_them || found["outcome"] == "ok", "{found}");
        }
    }
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Pastes statements into psql, as an administrator would.
pub(crate) async fn paste(url: &str, sql: &str) {
    use tokio::io::AsyncWriteExt;
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url]);
    let pipe = std::process::Stdio::piped;
    let mut child = psql.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().expect("psql is installed");
    child.stdin.take().unwrap().write_all(format!("{sql}\n").as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{sql}: {}", text(&output));
}

/// The same database as another role.
pub(crate) fn as_role(url: &str, role: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let host = rest.split_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{role}@{host}")
}

/// What is broken at once: subject, outcome and words by which it is told.
type Expected = [(&'static str, &'static str, &'static str)];

/// Each is told, and its statements make it go away.
async fn told_and_mended(world: &World, role: &str, expected: &Expected) {
    let command = || world.command(["check"]).env("WALPOST_DATABASE_URL", as_role(&world.database.url, role));
    let before = Checked::of(command()).await;
    let failures = expected.iter().any(|(_, outcome, _)| *outcome == "fail");
    assert_eq!(before.code, Some(i32::from(failures)), "{:#?}", before.findings);
    for (subject, outcome, words) in expected {
        let sql = before.sql(subject, outcome, words);
        println!("{outcome} {subject}: {sql}");
        paste(&world.database.url, &sql).await;
    }
    // A reload takes a moment.
    eventually("all to be mended", PATIENCE, async || {
        let after = Checked::of(command()).await;
        let left =
            expected.iter().any(|(subject, outcome, words)| after.find(subject, outcome, words).is_some());
        if left || after.code != Some(0) {
            eprintln!("{:#?}", after.findings);
        }
        (!left && after.code == Some(0)).then_some(())
    })
    .await;
}

/// Log that holds up nothing is dear to write for the tests' sake.
const CHEAP_LOG: [(&str, &str); 3] =
    [("wal_init_zero", "off"), ("wal_recycle", "off"), ("synchronous_commit", "local")];

/// A standby that reads the slot of its name.
pub(crate) async fn standby(
    primary: &PostgresServer,
    bin: &Path,
    options: &[(&str, &str)],
) -> PostgresServer {
    let port = primary.address().rsplit(':').next().unwrap().to_owned();
    let conninfo =
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres application_name=standby");
    let standby = primary
        .standby(
            bin,
            &[options, &[("primary_conninfo", &conninfo), ("primary_slot_name", "standby")]].concat(),
        )
        .await;
    let client = primary.client("postgres").await;
    let read = "SELECT FROM pg_replication_slots WHERE slot_name = 'standby' AND active";
    eventually("the standby", PATIENCE, async || client.query_opt(read, &[]).await.unwrap().map(drop)).await;
    standby
}

#[tokio::test]
async fn what_is_wrong_in_the_database_is_told_with_the_statement_that_mends_it() {
    let options = [&CHEAP_LOG[..], &[("max_prepared_transactions", "5")]].concat();
    let bin = local_postgres::binaries().unwrap();
    let server = PostgresServer::start_with_bin(&bin, &options).await;
    let world = World::on(&server, KafkaBroker::shared().await, "doctor", 1).await;
    let url = &world.database.url;
    paste(url, "CREATE ROLE \"The Relay\" LOGIN REPLICATION; GRANT walpost TO \"The Relay\";").await;
    let role = "The%20Relay";

    // All is well but for what every new server has.
    let clean = Checked::of(world.command(["check"]).env("WALPOST_DATABASE_URL", as_role(url, role))).await;
    assert_eq!(clean.code, Some(0));
    clean.assert_well(&[
        "server",
        "role",
        "table",
        "publication",
        "slot",
        "login",
        "pooler",
        "clock",
        "slots",
        "senders",
    ]);
    clean.assert_well(&[
        "sessions",
        "access",
        "writers",
        "other slots",
        "open",
        "standby",
        "commits",
        "dead letters",
        "seal",
    ]);
    for found in &clean.findings {
        let names: Vec<_> = found.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["advice", "outcome", "sql", "subject", "text"]);
    }
    assert!(clean.find("database", "warn", "").is_none() && clean.find("login", "ok", "let in").is_some());

    let mut breaking = String::from(
        "REVOKE SELECT ON outbox.messages, outbox.walpost_seal, outbox.dead_letters FROM walpost; \
         ALTER ROLE \"The Relay\" CONNECTION LIMIT 2; \
         CREATE TABLE nokey (a int); ALTER PUBLICATION walpost ADD TABLE nokey; \
         ALTER PUBLICATION walpost SET (publish = 'insert, update, delete'); \
         ALTER TABLE outbox.scheduled ENABLE ROW LEVEL SECURITY; \
         SELECT pg_create_physical_replication_slot('left_behind', true); \
         BEGIN; CREATE TABLE half (); PREPARE TRANSACTION 'it''s prepared'; \
         DO $$ BEGIN FOR i IN 1..100010 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$; ",
    );
    let client = world.database.client().await;
    let (flush, left) = if major(&client).await < 17 {
        ("", "slot left_behind (physical) is read by nobody and holds 2")
    } else {
        (", bool", "slot left_behind (physical) is read by nobody since 2")
    };
    for payload in ["text", "bytea"] {
        let function = format!("pg_logical_emit_message(bool, text, {payload}{flush})");
        breaking.push_str(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC; "));
    }
    for _ in 0..18 {
        breaking.push_str("SELECT pg_logical_emit_message(false, 'x', 'x'); SELECT pg_switch_wal(); ");
    }
    paste(url, &breaking).await;
    told_and_mended(
        &world,
        role,
        &[
            ("access", "warn", "\"The Relay\" may not read rows of outbox.messages"),
            ("seal", "warn", "outbox.walpost_seal can't be read"),
            ("dead letters", "warn", "lacks rights on table outbox.dead_letters"),
            ("sessions", "fail", "role The Relay may have 2 connections, and the relay needs 3"),
            ("writers", "fail", "refuses UPDATE and DELETE of rows of public.nokey"),
            ("publication", "warn", "also publishes public.nokey"),
            ("access", "fail", "row level security may hide rows of outbox.scheduled"),
            ("access", "fail", "may not call pg_logical_emit_message"),
            ("other slots", "warn", left),
            ("open", "warn", "prepared transaction 'it''s prepared' of database"),
            ("retention", "warn", "kept without bound"),
        ],
    )
    .await;

    // Before there is a limit to what the slot keeps: to copy a server's files is to make a checkpoint.
    paste(url, "SELECT pg_create_physical_replication_slot('standby', true);").await;
    let reader = standby(&server, &bin, &options).await;
    // The other half, which would hide the first.
    paste(
        url,
        "ALTER TABLE outbox.messages ENABLE ROW LEVEL SECURITY; \
         ALTER PUBLICATION walpost SET (publish = 'insert, truncate'); \
         CREATE PUBLICATION other FOR TABLE outbox.messages; ALTER TABLE outbox.messages REPLICA IDENTITY NOTHING; \
         ALTER SYSTEM SET synchronous_standby_names = '*'; \
         ALTER SYSTEM SET max_slot_wal_keep_size = '512MB'; SELECT pg_reload_conf();",
    )
    .await;
    let policy = ("access", "warn", "row level security may hide rows of outbox.messages");
    told_and_mended(
        &world,
        role,
        &[
            policy,
            ("writers", "warn", "also publishes truncates"),
            ("writers", "fail", "refuses UPDATE and DELETE of rows of outbox.messages: publication other"),
            ("commits", "warn", "the relay's name, walpost, is among the synchronous standbys (*)"),
            ("retention", "warn", "loses its slot after 512.0 MiB of log (max_slot_wal_keep_size; how long"),
        ],
    )
    .await;
    let checked = Checked::of(world.command(["check"])).await;
    if major(&client).await < 17 {
        assert!(checked.advice("standby", "warn", "before 17 none keeps it").contains("PostgreSQL 17"));
    } else {
        let lags = checked.sql("standby", "warn", "Kafka may have rows that a promoted standby has not");
        assert!(lags.contains("synchronized_standby_slots = 'standby'"), "{lags}");
    }
    drop(reader);

    // None of the synchronous standbys is there; and the slot is about to be given up.
    paste(
        url,
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'; \
         ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'; SELECT pg_reload_conf();",
    )
    .await;
    told_and_mended(
        &world,
        role,
        &[
            ("commits", "warn", "none of the synchronous standbys (nobody) is connected"),
            ("retention", "fail", "beyond max_slot_wal_keep_size: the next checkpoint gives it up"),
        ],
    )
    .await;
}

/// The newest rows tell what a mapping makes of them, whatever the table's size.
#[tokio::test]
async fn recent_rows_that_are_no_message_are_counted() {
    let world = World::new("recent", 1).await;
    let client = world.database.client().await;
    world.insert(&client, 5).await;
    let checked = Checked::of(world.command(["check"])).await;
    assert_eq!(checked.code, Some(0), "{:#?}", checked.findings);
    assert!(
        checked.find("recent rows", "ok", "the last 5 rows go to 1 topic").is_some(),
        "{:#?}",
        checked.findings
    );
    assert!(checked.find("topic", "warn", &world.topic).is_some(), "one broker keeps one copy");
    client
        .batch_execute(
            "CREATE TABLE odd (id text, topic text, payload text, PRIMARY KEY (id)); \
             INSERT INTO odd VALUES ('no uuid', 't', '1'), (gen_random_uuid()::text, 't', '1'); \
             ALTER PUBLICATION walpost SET TABLE odd",
        )
        .await
        .unwrap();
    let checked = Checked::of(world.command(["check", "--table", "odd"])).await;
    let advice = checked.advice("recent rows", "warn", "1 of the last 2 rows can't become a message");
    assert!(advice.contains("CHECK"), "{advice}");
    assert!(!format!("{:?}", checked.findings).contains("no uuid"), "no content of a row is shown");
}
