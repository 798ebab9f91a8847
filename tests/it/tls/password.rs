//! Passwords that change while a relay runs, from files and commands.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::lab::{Lab, PASSWORD};
use crate::life::{figure, get};
use crate::support::{PATIENCE, PostgresServer, eventually};
use crate::world::stop;

#[tokio::test]
async fn a_password_that_is_rotated_is_found_without_a_restart() {
    let lab = Lab::new(PostgresServer::start(&[]).await, "rotated").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    fs::write(&path, format!("{PASSWORD}\n")).unwrap();
    let command = |args: [&str; 1]| {
        let command = lab.world.command(args).env("WALPOST_DATABASE_URL", lab.text("by_scram", ""));
        // It goes over what else there is.
        command.env("PGPASSWORD", "stale-marker")
    };
    let relay = command(["run"]).env("WALPOST_PASSWORD_FILE", &path).env("WALPOST_LOG", "trace").spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    lab.world.insert(&lab.client, 10).await;
    lab.world.caught_up().await;

    let (mark, renewed) = (relay.mark(), "renewed-marker");
    let sql = format!(
        "SET password_encryption = 'scram-sha-256'; ALTER ROLE by_scram PASSWORD '{renewed}'; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'by_scram'"
    );
    lab.client.batch_execute(&sql).await.unwrap();
    let told = relay.wait_for_log_since(mark, "password authentication failed", PATIENCE).await;
    assert!(told.contains("retrying") && told.contains("the password is read again for each try"), "{told}");
    let failing = command(["status"]).env("WALPOST_PASSWORD_COMMAND", "echo no ticket >&2; exit 4");
    let output = failing.output().await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("exit status: 4: no ticket"), "{said}");

    let mark = relay.mark();
    fs::write(&path, renewed).unwrap();
    relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    lab.world.insert(&lab.client, 10).await;
    lab.world.caught_up().await;
    assert!(lab.world.consume(20).await.len() >= 20);
    // As a command gives it, which an examination runs for each of its connections.
    let print = format!("cat {}", path.display());
    let output = command(["check"]).env("WALPOST_PASSWORD_COMMAND", &print).output().await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("a login for replication is let in"), "{said}");
    let log = relay.log();
    for secret in [PASSWORD, renewed, "stale-marker"] {
        assert!(!log.contains(secret) && !said.contains(secret), "{secret} is told");
    }
    stop(relay).await;
}

/// libpq reads it for each connection, and so does the relay: a refused login is no end as long as the file may change. A
/// password that was given once and for all is.
#[tokio::test]
async fn a_password_of_the_password_file_is_waited_for_and_a_given_one_is_not() {
    let lab = Lab::new(PostgresServer::start(&[]).await, "passfile").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pgpass");
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(&format!("*:*:*:*:{PASSWORD}\n"));
    let command = || lab.world.command(["run"]).env("WALPOST_DATABASE_URL", lab.text("by_scram", ""));
    let relay = command().env("PGPASSFILE", &path).streaming().await;
    lab.world.insert(&lab.client, 3).await;
    lab.world.caught_up().await;
    let rotate = async |password: &str| {
        let sql = format!(
            "SET password_encryption = 'scram-sha-256'; ALTER ROLE by_scram PASSWORD '{password}'; \
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'by_scram'"
        );
        lab.client.batch_execute(&sql).await.unwrap();
    };

    let mark = relay.mark();
    rotate("renewed-marker").await;
    let told = relay.wait_for_log_since(mark, "password authentication failed", PATIENCE).await;
    assert!(
        told.contains("\"retrying\"") && told.contains("the password is read again for each try"),
        "{told}"
    );
    let address = relay.listen_address().await;
    let failures = async || figure(address, "walpost_stream_failures_total{kind=\"transient\"}").await;
    eventually("six refusals", PATIENCE, async || (failures().await >= 6.0).then_some(())).await;
    let (code, body) = get(address, "/readyz").await;
    assert!(code == 503 && body.contains("password authentication failed"), "{body}");
    let log = relay.log();
    assert_eq!(
        log.lines().skip(mark).filter(|line| line.contains("authentication failed")).count(),
        1,
        "{log}"
    );
    // While it is written anew, there is no line for the login.
    write("");
    let lacks = relay.wait_for_log_since(mark, "there is none", PATIENCE).await;
    assert!(lacks.contains("\"retrying\"") && lacks.contains("no line for this login any more"), "{lacks}");
    let mark = relay.mark();
    write("*:*:*:*:renewed-marker\n");
    relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    lab.world.insert(&lab.client, 3).await;
    lab.world.caught_up().await;
    assert!(!relay.log().contains("renewed-marker") && !relay.log().contains(PASSWORD));
    stop(relay).await;

    // Nobody can change what a variable has given.
    let mut relay = command().env("PGPASSWORD", "renewed-marker").streaming().await;
    rotate("other-marker").await;
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(1), "{}", relay.log());
    let log = relay.log();
    assert!(log.contains("password authentication failed") && !log.contains("-marker"), "{log}");
    // Nor is a file waited for that never had a line for this login.
    write("");
    let output = command().env("PGPASSFILE", &path).output().await;
    assert_eq!(output.status.code(), Some(1));
}
