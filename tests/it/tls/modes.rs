//! What each mode makes of a server, and libpq beside it.

use std::process::Command;

use super::lab::{Lab, Made, PASSWORD};
use crate::support::certificates::{Authority, Wish};
use crate::support::{PostgresServer, major};

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Plain,
    Tls,
    No,
}

use End::{No, Plain, Tls};

/// In the order disable, allow, prefer, require, verify-ca, verify-full.
const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// The same connection by psql, which is libpq; nothing where it is not installed.
pub(super) fn libpq(text: &str) -> Option<End> {
    let mut command = Command::new("psql");
    command.args(["-XAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", text]);
    // No file of the tester's, and no password asked for.
    let output = command.env("HOME", "/nowhere").env("PGPASSWORD", PASSWORD).arg("-w").output().ok()?;
    Some(match String::from_utf8_lossy(&output.stdout).trim() {
        "t" => Tls,
        "f" => Plain,
        _ => No,
    })
}

async fn ours(lab: &Lab, role: &str, more: &str) -> End {
    match lab.connect(role, more).await {
        Ok(Made::Plain) => Plain,
        Ok(Made::Tls(version)) => {
            assert_eq!(version, "TLSv1.3");
            Tls
        }
        Err(_) => No,
    }
}

async fn holds(lab: &Lab, role: &str, roots: &str, expected: [End; 6]) {
    let mut compared = 0;
    for (mode, expected) in MODES.iter().zip(expected) {
        let more = format!("sslmode={mode} {roots} password='{PASSWORD}'");
        let (made, libpq) = (ours(lab, role, &more).await, libpq(&lab.text(role, &more)));
        assert_eq!(made, expected, "{role}, {more}");
        compared += libpq.iter().filter(|made| **made == expected).count();
        assert!(libpq.is_none_or(|made| made == expected), "libpq, {role}, {more}: {libpq:?}");
    }
    println!("{role} {roots}: {compared} of {} compared with libpq", MODES.len());
}

#[tokio::test]
async fn each_mode_ends_as_with_libpq() {
    let lab = Lab::new(PostgresServer::start(&[]).await, "modes").await;
    let stranger = Authority::new("A Stranger");
    let roots = |authority: &Authority| format!("sslrootcert={}", authority.root().display());
    let (known, unknown) = (roots(&lab.authority), roots(&stranger));
    // A server without TLS.
    holds(&lab, "anyhow", "", [Plain, Plain, Plain, No, No, No]).await;
    holds(&lab, "only_tls", "", [No, No, No, No, No, No]).await;
    lab.refuses("anyhow", "sslmode=require", &["the server does not offer TLS", "ssl = on"]).await;
    lab.refuses("only_tls", "sslmode=disable", &["no encryption", "sslmode=verify-full"]).await;
    lab.refuses("only_tls", "sslmode=allow", &["no encryption", "with TLS: ", "does not offer TLS"]).await;

    let pair = lab.authority.sign("server", &Wish::default());
    lab.present(&pair).await;
    holds(&lab, "anyhow", "", [Plain, Plain, Tls, Tls, No, No]).await;
    holds(&lab, "anyhow", &known, [Plain, Plain, Tls, Tls, Tls, Tls]).await;
    // A file of authorities is used whatever the mode is; what then fails may go on without TLS.
    holds(&lab, "anyhow", &unknown, [Plain, Plain, Plain, No, No, No]).await;
    holds(&lab, "only_tls", &known, [No, Tls, Tls, Tls, Tls, Tls]).await;
    holds(&lab, "only_tls", &unknown, [No, No, No, No, No, No]).await;
    holds(&lab, "only_plain", &known, [Plain, Plain, Plain, No, No, No]).await;
    holds(&lab, "by_scram", &known, [Plain, Plain, Tls, Tls, Tls, Tls]).await;
    lab.refuses("only_tls", &format!("sslmode=prefer {unknown}"), &["is signed by nobody", "without TLS: "])
        .await;
    lab.refuses("only_tls", "sslmode=verify-ca", &["no file of authorities", "sslrootcert=FILE"]).await;

    // Without a word it is as if `prefer` was said.
    assert_eq!(ours(&lab, "anyhow", "").await, Tls);
    let other = "sslmode=verify-full sslrootcert=/nowhere/root.crt";
    lab.refuses("anyhow", other, &["the file of sslrootcert, /nowhere/root.crt", "No such file"]).await;
}

#[tokio::test]
async fn a_unix_socket_has_no_tls_whatever_is_asked_for() {
    let lab = Lab::encrypted("socket").await;
    let url = lab.server.socket_url(&lab.world.database.name);
    let text = format!("{url}?sslmode=verify-full");
    assert_eq!(lab.connect_from(&text, None).await.unwrap(), Made::Plain);
    let text = format!("{url}?channel_binding=require");
    lab.refuses_text(&text, &["channel_binding=require", "SCRAM-SHA-256-PLUS"]).await;
}

#[tokio::test]
async fn a_version_can_be_asked_for() {
    let lab = Lab::encrypted("version").await;
    let made = |version: &str| Made::Tls(version.to_owned());
    let verified = lab.verified();
    for (more, expected) in [
        ("", "TLSv1.3"),
        ("ssl_max_protocol_version=TLSv1.2", "TLSv1.2"),
        ("ssl_min_protocol_version=TLSv1.3", "TLSv1.3"),
        ("ssl_min_protocol_version=TLSv1 sslsni=0", "TLSv1.3"),
    ] {
        assert_eq!(
            lab.connect("anyhow", &format!("{verified} {more}")).await.unwrap(),
            made(expected),
            "{more}"
        );
    }
    lab.client.batch_execute("ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'").await.unwrap();
    lab.reload().await;
    let more = format!("{verified} ssl_min_protocol_version=TLSv1.3");
    lab.refuses("anyhow", &more, &["cannot connect", "ssl_min_protocol_version"]).await;
}

#[tokio::test]
async fn tls_without_a_question_before_it_is_for_17_and_later() {
    let old = Lab::encrypted("question").await;
    let direct = |lab: &Lab| format!("{} sslnegotiation=direct", lab.verified());
    if major(&old.client).await < 17 {
        old.refuses("anyhow", &direct(&old), &["cannot connect", "needs PostgreSQL 17"]).await;
    }
    let new = Lab::new(PostgresServer::start_version("18", &[]).await, "direct").await;
    new.refuses("anyhow", "sslmode=require sslnegotiation=direct", &["cannot connect", "PostgreSQL 17"])
        .await;
    let pair = new.authority.sign("server", &Wish::default());
    new.present(&pair).await;
    assert_eq!(
        ours(&new, "by_scram", &format!("{} password='{PASSWORD}' channel_binding=require", direct(&new)))
            .await,
        Tls
    );
    assert_eq!(ours(&new, "only_tls", &new.verified()).await, Tls);
}
