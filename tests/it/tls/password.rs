//! Passwords that change while a relay runs, from files and commands.

use std::fs;

use super::lab::{Lab, PASSWORD};
use crate::support::{PATIENCE, PostgresServer};
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
