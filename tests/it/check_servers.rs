//! `walpost check` where the server itself stands in the way: its files, its standbys, and who answers in its place.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::check::{Checked, as_role, paste, standby};
use crate::support::clock::Clock;
use crate::support::guard::{Process, Scratch};
use crate::support::host::cached;
use crate::support::postgres::connect;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually, free_port, local_postgres, major};
use crate::world::World;

/// Settings that take a restart are mended by their statements and one.
#[tokio::test]
async fn a_server_without_room_is_told_with_the_settings_that_make_some() {
    let server = PostgresServer::start_with_file(
        "wal_level = replica\nmax_replication_slots = 1\nmax_wal_senders = 0\nmax_connections = 7",
    )
    .await;
    let world = World::bare(&server, KafkaBroker::shared().await, "room", 1).await;
    let url = &world.database.url;
    let sql = "CREATE ROLE relay LOGIN; CREATE ROLE rds_superuser; SELECT pg_create_physical_replication_slot('last')";
    paste(url, &format!("{sql};")).await;
    let relay = as_role(url, "relay");
    let check = || Checked::of(world.command(["check"]).env("WALPOST_DATABASE_URL", &relay));

    let checked = check().await;
    assert_eq!(checked.code, Some(1));
    let advice = checked.advice("wal_level", "fail", "wal_level is replica");
    assert!(advice.contains("rds.logical_replication = 1"), "{advice}");
    // Amazon's servers lend the right by a role.
    paste(url, "DROP ROLE rds_superuser; CREATE ROLE rds_replication;").await;
    let checked = check().await;
    let grant = checked.sql("role", "fail", "role relay may not replicate");
    assert_eq!(grant, "GRANT rds_replication TO relay;");
    paste(url, "DROP ROLE rds_replication;").await;

    let held = [connect(&relay).await, connect(&relay).await, connect(&relay).await].map(Result::unwrap);
    let checked = check().await;
    for (subject, outcome, words) in [
        ("role", "fail", "role relay may not replicate"),
        ("wal_level", "fail", "wal_level is replica"),
        (
            "slots",
            "fail",
            "1 of 1 replication slots are used (max_replication_slots): there is none for the relay",
        ),
        ("senders", "fail", "0 of 0 senders are used"),
        ("sessions", "warn", "of 4 sessions are free (max_connections), and the relay needs 2"),
    ] {
        paste(url, &checked.sql(subject, outcome, words)).await;
    }
    let advice = checked.advice("slots", "fail", "there is none");
    assert!(advice.contains("SELECT pg_drop_replication_slot('last');"), "{advice}");
    checked.advice("table", "fail", "does not exist");
    drop(held);
    server.stop_fast().await;
    server.start_again().await;
    let output = world.command(["setup"]).output().await;
    assert!(output.status.success(), "{output:?}");
    paste(url, "GRANT walpost TO relay;").await;
    let checked = check().await;
    assert_eq!(checked.code, Some(0), "{:#?}", checked.findings);
    checked.assert_well(&["role", "wal_level", "slots", "senders", "sessions", "login"]);
}

/// A login that is refused comes with the line, or the statement, that lets it in; and a clock that is wrong is told.
#[tokio::test]
async fn a_login_that_is_refused_is_told_with_what_lets_it_in() {
    let folder = tempfile::tempdir().unwrap();
    let hba = folder.path().join("hba.conf");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let lines = "local all all trust\nhost all postgres all trust\n";
    std::fs::write(&hba, lines).unwrap();
    std::fs::set_permissions(&hba, std::fs::Permissions::from_mode(0o644)).unwrap();
    let server = PostgresServer::start(&[("hba_file", hba.to_str().unwrap())]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "refused", 1).await;
    let url = &world.database.url;
    paste(url, "CREATE ROLE relay REPLICATION PASSWORD 'sesame'; GRANT walpost TO relay;").await;
    let relay = as_role(url, "relay");
    let check = || {
        Checked::of(world.command(["check"]).env("WALPOST_DATABASE_URL", &relay).env("PGPASSWORD", "sesame"))
    };

    let checked = check().await;
    assert_eq!(checked.code, Some(1));
    let advice = checked.advice("connection", "fail", "no pg_hba.conf entry");
    let line = format!("host {} relay 127.0.0.1/32 scram-sha-256", world.database.name);
    assert!(advice.contains(&line), "{advice}");
    assert!(checked.find("database", "warn", "not looked at").is_some(), "what was left out is told");
    assert!(checked.find("kafka", "ok", "answers").is_some(), "Kafka is looked at all the same");
    std::fs::write(&hba, format!("{line}\n{lines}")).unwrap();
    paste(url, "SELECT pg_reload_conf();").await;
    let checked = eventually("the line to count", PATIENCE, async || {
        let checked = check().await;
        checked.find("connection", "fail", "no pg_hba.conf entry").is_none().then_some(checked)
    })
    .await;
    paste(url, &checked.sql("connection", "fail", "is not permitted to log in")).await;
    let checked = check().await;
    assert_eq!(checked.code, Some(0), "{:#?}", checked.findings);
    assert!(!format!("{:?}", checked.findings).contains("sesame"));

    // Only a superuser sees it.
    std::fs::write(&hba, format!("{line}\n{lines}host all all\n")).unwrap();
    let checked = Checked::of(world.command(["check"])).await;
    let advice = checked.advice("login", "warn", "line 4 can't be read");
    assert!(advice.contains("correct the line"), "{advice}");

    let clock = Clock::new();
    for (days, way) in [(3, "3.0 days behind ours"), (-2, "2.0 days ahead of ours")] {
        clock.set_days(days);
        let checked = Checked::of(clock.of(world.command(["check"]))).await;
        assert!(checked.advice("clock", "warn", way).contains("NTP"));
    }

    // An end that does not answer is not waited for without end.
    let (proxy, over) = world.wire().await;
    proxy.freeze();
    let since = Instant::now();
    let command = world.command(["check"]).env("WALPOST_DATABASE_URL", format!("{over}?connect_timeout=2"));
    let checked = Checked::of(command).await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    checked.advice("connection", "fail", "no answer in time");
}

/// A real PgBouncer, which does not let replication through.
#[tokio::test]
async fn a_pooler_in_between_is_told_with_the_way_past_it() {
    let server = PostgresServer::shared().await;
    let world = World::on(server, KafkaBroker::shared().await, "pooled", 1).await;
    let (folder, port) = (Scratch::new("pgbouncer"), free_port());
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (host, server_port) =
        server.address().rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let ini = folder.path().join("pgbouncer.ini");
    let text = format!(
        "[databases]\n* = host={host} port={server_port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nauth_type = any\npool_mode = session\nunix_socket_dir =\n"
    );
    std::fs::write(&ini, text).unwrap();
    std::fs::set_permissions(&ini, std::fs::Permissions::from_mode(0o644)).unwrap();
    let binary = if std::path::Path::new("/usr/sbin/pgbouncer").exists() {
        "/usr/sbin/pgbouncer"
    } else {
        "pgbouncer"
    };
    let mut command = Command::new(binary);
    // As root it wants to be somebody else.
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.args(["-u", "nobody"]);
    }
    command.arg("-q").arg(&ini).stdout(Stdio::null()).stderr(Stdio::null());
    let _pooler = Process::spawn(&mut command, "KILL");
    let pooled = server.url_at(format!("127.0.0.1:{port}"), &world.database.name);
    eventually("the pooler", PATIENCE, async || connect(&pooled).await.ok().map(drop)).await;

    let checked = Checked::of(world.command(["check"]).env("WALPOST_DATABASE_URL", &pooled)).await;
    assert_eq!(checked.code, Some(1));
    let way = format!("127.0.0.1, port {server_port}");
    let advice = checked.advice("login", "fail", "a login for replication is refused");
    assert!(advice.contains(&way) && advice.contains("connect to the server itself"), "{advice}");
    let advice = checked.advice("pooler", "warn", "a pooler stands between");
    assert!(advice.contains(&way), "{advice}");
    // By that way, all is well.
    let checked = Checked::of(world.command(["check"])).await;
    checked.assert_well(&["login", "pooler"]);
}

/// A slot that standbys keep, from none to one that waits for a standby that is away.
#[tokio::test]
async fn what_a_failover_would_lose_is_told_on_18() {
    what_a_failover_would_lose(&cached("postgres-18")).await;
}

#[tokio::test]
async fn what_a_failover_would_lose_is_told() {
    what_a_failover_would_lose(&local_postgres::binaries().unwrap()).await;
}

async fn what_a_failover_would_lose(bin: &Path) {
    let primary = PostgresServer::start_with_bin(bin, &[("wal_keep_size", "128MB")]).await;
    let world = World::on(&primary, KafkaBroker::shared().await, "kept", 1).await;
    let url = &world.database.url;
    let slot = &world.slot;
    paste(
        url,
        &format!(
            "SELECT pg_create_physical_replication_slot('standby', true); SELECT pg_drop_replication_slot('{slot}'); \
             SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput');"
        ),
    )
    .await;
    let version = major(&world.database.client().await).await;
    if version >= 18 {
        let idle = "ALTER SYSTEM SET idle_replication_slot_timeout = '10min'; SELECT pg_reload_conf();";
        paste(url, idle).await;
    }
    let port = primary.address().rsplit(':').next().unwrap().to_owned();
    let standby = standby(&primary, bin, &[]).await;
    let check = || Checked::of(world.command(["check"]));

    let checked = check().await;
    if version < 17 {
        assert!(checked.advice("standby", "warn", "before 17 none keeps it").contains("PostgreSQL 17"));
        assert!(checked.find("idle timeout", "warn", "").is_none());
        return;
    }
    if version >= 18 {
        paste(url, &checked.sql("idle timeout", "warn", "away for 10.0 minutes loses its slot")).await;
    }
    let advice = checked.advice("standby", "warn", "it is no failover slot");
    // The very command of the advice, by psql on a replication connection.
    let command = advice.split_once("-c '").unwrap().1.trim_end_matches('\'').to_owned();
    let output = tokio::process::Command::new("psql")
        .args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-c", &command])
        .args(["-d", &format!("dbname={} replication=database", world.database.name)])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");

    let checked = check().await;
    paste(url, &checked.sql("standby", "warn", "Kafka may have rows that a promoted standby has not")).await;
    let feedback = checked.sql("standby", "warn", "sends no hot_standby_feedback");
    paste(&standby.url("postgres"), &feedback).await;
    let well = eventually("the standby to keep the slot", PATIENCE, async || {
        let checked = check().await;
        checked.find("standby", "ok", "fails over, and waits for standby").is_some().then_some(checked)
    })
    .await;
    well.assert_well(if version >= 18 { &["standby", "idle timeout"] } else { &["standby"] });
    // On the standby itself all can be looked at, and that it is one is in the way.
    let there = standby.url(&world.database.name);
    let checked = Checked::of(world.command(["check"]).env("WALPOST_DATABASE_URL", there)).await;
    assert!(checked.advice("primary", "fail", "the server is a standby").contains("target_session_attrs"));
    let missed = |found: &serde_json::Value| found["text"].as_str().unwrap().contains("not looked at");
    assert!(!checked.findings.iter().any(missed), "{:#?}", checked.findings);

    standby.stop_fast().await;
    let checked = check().await;
    assert_eq!(checked.code, Some(1));
    paste(url, &checked.sql("standby", "fail", "waits for what nobody reads: standby")).await;
    eventually("nobody to be waited for", PATIENCE, async || {
        check().await.find("standby", "fail", "waits").is_none().then_some(())
    })
    .await;
}

/// Whoever has logged in for replication and reads nothing, as `check` itself has a moment before.
#[tokio::test]
async fn a_login_for_replication_that_reads_nothing_is_no_standby() {
    let server = PostgresServer::start(&[("synchronous_commit", "local")]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "idle", 1).await;
    let port = server.address().rsplit(':').next().unwrap().to_owned();
    let mut idle = tokio::process::Command::new("psql");
    idle.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "postgres"]);
    idle.args(["-d", "dbname=postgres replication=database application_name=idle"]);
    let idle = idle.stdin(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let client = server.client("postgres").await;
    let read = "SELECT FROM pg_stat_replication WHERE application_name = 'idle'";
    eventually("psql", PATIENCE, async || client.query_opt(read, &[]).await.unwrap().map(drop)).await;
    let all = "ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf();";
    paste(&world.database.url, all).await;
    let checked = eventually("the setting", PATIENCE, async || {
        let checked = Checked::of(world.command(["check"])).await;
        checked.find("commits", "warn", "is among the synchronous standbys (*)").is_some().then_some(checked)
    })
    .await;
    checked.assert_well(&["standby"]);
    let mend = checked.sql("commits", "warn", "is among the synchronous standbys (*)");
    assert!(mend.contains("synchronous_standby_names = ''"), "{mend}");
    drop(idle);
}
