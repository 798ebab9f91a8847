//! Set-up and teardown, and what a person is told when something is missing.

use std::process::Output;

use crate::publication::send_what_is_missing;
use crate::support::{Database, KafkaBroker, PATIENCE, PostgresServer, Walpost, check, unique};
use crate::world::{World, stop};

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub(crate) async fn bare(prefix: &str) -> World {
    World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, prefix, 1).await
}

/// The command fails with this code, and its output names all of these.
pub(crate) async fn fails(world: &World, args: &[&str], code: i32, words: &[&str]) {
    let output = world.command([]).args(args).output().await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{args:?} should say {word:?}:\n{text}");
    }
}

pub(crate) async fn succeeds(world: &World, args: &[&str]) -> String {
    let output = world.command([]).args(args).output().await;
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output));
    text(&output)
}

#[tokio::test]
async fn setup_and_teardown_may_be_run_twice() {
    let world = bare("twice").await;
    // What was made, and no more than that.
    let said = succeeds(&world, &["setup"]).await;
    for made in ["table        outbox.messages", "publication  walpost", "function     outbox.publish"] {
        assert!(said.contains(&format!("made  {made}")), "{said}");
    }
    assert!(said.contains(&format!("made  slot         {}", world.slot)) && !said.contains("ok "), "{said}");
    let said = succeeds(&world, &["setup"]).await;
    assert!(said.contains("outbox.messages") && !said.contains("made ") && !said.contains("FAIL"), "{said}");
    assert!(said.contains("all of it is there already"), "{said}");
    let said = succeeds(&world, &["check"]).await;
    assert!(!said.contains("FAIL") && said.contains("slot"), "{said}");
    for _ in 0..2 {
        succeeds(&world, &["teardown"]).await;
    }
    let client = world.database.client().await;
    let left = "SELECT (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1), \
                to_regclass('outbox.messages') IS NOT NULL";
    let row = client.query_one(left, &[&world.slot]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, bool>(2)), (0, 0, true));
    for _ in 0..2 {
        succeeds(&world, &["teardown", "--drop-table"]).await;
    }
    let row = client.query_one("SELECT to_regnamespace('outbox') IS NULL", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
}

#[tokio::test]
async fn psql_and_the_binary_set_up_the_same() {
    let (by_binary, by_psql) = (bare("bybinary").await, bare("bypsql").await);
    succeeds(&by_binary, &["setup"]).await;
    let printed = by_psql.command(["setup", "--print"]).output().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &printed.stdout).unwrap();
    for _ in 0..2 {
        let mut psql = tokio::process::Command::new("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &by_psql.database.url, "-f"]).arg(file.path());
        let output = psql.output().await.expect("psql is installed with the server");
        assert!(output.status.success(), "{}", text(&output));
    }
    assert_eq!(catalog(&by_binary).await, catalog(&by_psql).await);
    // With the names that it ships with, what is printed are the files themselves.
    let plain = Walpost::run_to_end(["setup", "--print"]).await;
    let files = [include_str!("../../sql/setup.sql"), include_str!("../../sql/retain.sql")];
    assert_eq!(String::from_utf8_lossy(&plain.stdout), files.join("\n"));
}

/// What the catalog holds of the outbox, without names that a test chose.
async fn catalog(world: &World) -> Vec<String> {
    let sql = "WITH found (line) AS (SELECT format('%s %s %s %s', attname, format_type(atttypid, atttypmod), attnotnull, \
                 pg_get_expr(adbin, adrelid)) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
                 WHERE attrelid = 'outbox.messages'::regclass AND attnum > 0 \
               UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'outbox.messages'::regclass \
               UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace \
               UNION ALL SELECT format('%s %s %s %s %s', pubname, pubinsert, pubupdate, pubdelete, pubviaroot) FROM pg_publication \
               UNION ALL SELECT format('%s.%s', schemaname, tablename) FROM pg_publication_tables \
               UNION ALL SELECT relacl::text FROM pg_class WHERE oid = 'outbox.messages'::regclass \
               UNION ALL SELECT format('slot %s %s', plugin, slot_type) FROM pg_replication_slots WHERE database = current_database() \
               UNION ALL SELECT nspacl::text FROM pg_namespace WHERE nspname = 'outbox') \
               SELECT line FROM found ORDER BY line";
    let client = world.database.client().await;
    let rows = client.query(sql, &[]).await.unwrap();
    let lines = rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default());
    lines.map(|line| line.replace(&world.slot, "the slot")).collect()
}

#[tokio::test]
async fn the_function_publishes() {
    let world = World::new("function", 1).await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    let sql = "SELECT outbox.publish($1, '{\"order\": 17}', key => 'customer-4', event_type => 'Placed', \
               headers => '{\"traceparent\": \"00-ab\"}', correlation_id => 'c')";
    let id: uuid::Uuid = client.query_one(sql, &[&world.topic]).await.unwrap().get(0);
    let records = world.consume(1).await;
    assert_eq!(records[0].header("id"), Some(id.to_string().as_str()));
    assert_eq!(records[0].payload.as_deref(), Some(&b"{\"order\": 17}"[..]));
    let refused = client.execute("SELECT outbox.publish('no topic!', '1')", &[]).await.unwrap_err();
    assert!(
        refused.to_string().contains("db error") || refused.to_string().contains("messages_topic_is_valid")
    );
    stop(relay).await;
}

#[tokio::test]
async fn what_is_missing_is_named_with_its_mend() {
    let world = bare("missing").await;
    fails(&world, &["run"], 1, &["outbox.messages", "does not exist", "walpost setup"]).await;
    fails(&world, &["check"], 1, &["FAIL", "outbox.messages", "walpost setup"]).await;
    fails(&world, &["status"], 1, &[&world.slot, "does not exist", "walpost setup"]).await;
    succeeds(&world, &["setup"]).await;
    let client = world.database.client().await;

    client.batch_execute("DROP PUBLICATION walpost").await.unwrap();
    fails(&world, &["run"], 1, &["publication walpost does not exist", "CREATE PUBLICATION walpost"]).await;
    client.batch_execute("CREATE PUBLICATION walpost WITH (publish = 'insert')").await.unwrap();
    fails(&world, &["run"], 1, &["does not publish outbox.messages", "ADD TABLE outbox.messages"]).await;
    let sql = "ALTER PUBLICATION walpost ADD TABLE outbox.messages; ALTER PUBLICATION walpost SET (publish = 'delete')";
    client.batch_execute(sql).await.unwrap();
    fails(&world, &["run"], 1, &["does not publish inserts", "publish = 'insert'"]).await;
    client.batch_execute("ALTER PUBLICATION walpost SET (publish = 'insert')").await.unwrap();

    client.batch_execute("ALTER TABLE outbox.messages RENAME payload TO body").await.unwrap();
    fails(&world, &["run"], 1, &["no column payload", "ALTER TABLE outbox.messages"]).await;
    client.batch_execute("ALTER TABLE outbox.messages RENAME body TO payload").await.unwrap();
    succeeds(&world, &["check"]).await;
    let elsewhere = ["run", "--table", "outbox.other"];
    fails(&world, &elsewhere, 1, &["outbox.other", "--table"]).await;
}

#[tokio::test]
async fn wal_level_replica_is_named_with_its_mend() {
    let server = PostgresServer::start(&[("wal_level", "replica")]).await;
    let world = World::bare(&server, KafkaBroker::shared().await, "replica", 1).await;
    let words = ["wal_level is replica", "ALTER SYSTEM SET wal_level", "restart"];
    fails(&world, &["check"], 1, &words).await;
    fails(&world, &["run"], 1, &words).await;
    fails(&world, &["setup"], 1, &["wal_level"]).await;
}

/// A role's way in: which of the server's methods it has to answer.
#[tokio::test]
async fn every_way_to_log_in_and_a_wrong_password() {
    let folder = tempfile::tempdir().unwrap();
    let hba = folder.path().join("hba.conf");
    let lines = "local all all trust\nhost all postgres all trust\nhost all by_cleartext all password\n\
                 host all by_md5 all md5\nhost all by_scram all scram-sha-256\nhost all nobody_special all trust\n";
    std::fs::write(&hba, lines).unwrap();
    open_to_all(folder.path(), &hba);
    let server = PostgresServer::start(&[("hba_file", hba.to_str().unwrap())]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "login", 1).await;
    let client = world.database.client().await;
    for (role, encryption) in
        [("by_cleartext", "scram-sha-256"), ("by_md5", "md5"), ("by_scram", "scram-sha-256")]
    {
        let sql = format!(
            "SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'p ä:ss'; GRANT walpost TO {role}"
        );
        client.batch_execute(&sql).await.unwrap();
        let url = as_role(&world.database, role);
        let relay =
            world.command(["run"]).env("WALPOST_DATABASE_URL", &url).env("PGPASSWORD", "p ä:ss").spawn();
        relay.wait_for_log("streaming", PATIENCE).await;
        stop(relay).await;
        let wrong = world
            .command(["run"])
            .env("WALPOST_DATABASE_URL", &url)
            .env("PGPASSWORD", "Wrong1")
            .output()
            .await;
        let said = text(&wrong);
        assert_eq!(wrong.status.code(), Some(1), "{said}");
        let place = format!("the password came from PGPASSWORD: put the one there that role {role} has now");
        assert!(said.contains(&place) && !said.contains("Wrong1"), "{said}");
        let none = world
            .command(["run"])
            .env("WALPOST_DATABASE_URL", &url)
            .env("HOME", "/nonexistent")
            .output()
            .await;
        assert_eq!(none.status.code(), Some(1), "{}", text(&none));
    }
    // May replicate, and may not create.
    let elsewhere = World::bare(&server, KafkaBroker::shared().await, "grant", 1).await;
    let url = as_role(&elsewhere.database, "by_scram");
    let setup = elsewhere.command(["setup"]).env("WALPOST_DATABASE_URL", &url).env("PGPASSWORD", "p ä:ss");
    let said = setup.output().await;
    assert_eq!(said.status.code(), Some(1), "{}", text(&said));
    assert!(text(&said).contains("permission denied for database"), "{}", text(&said));
    assert!(
        text(&said).contains("run it as the owner: ") && !text(&said).contains("walpost check"),
        "{}",
        text(&said)
    );
    assert!(text(&said).contains("role by_scram may not"), "{}", text(&said));
    client.batch_execute("CREATE ROLE nobody_special LOGIN").await.unwrap();
    let url = as_role(&world.database, "nobody_special");
    let refused = world.command(["run"]).env("WALPOST_DATABASE_URL", &url).output().await;
    assert!(text(&refused).contains("ALTER ROLE nobody_special REPLICATION"), "{}", text(&refused));
    assert_eq!(refused.status.code(), Some(1));
}

fn open_to_all(folder: &std::path::Path, file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
}

fn as_role(database: &Database, role: &str) -> String {
    let (scheme, rest) = database.url.split_once("://").unwrap();
    let host = rest.split_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{role}@{host}")
}

/// The role that set-up makes can run the relay with nothing but what set-up grants, and can't write.
#[tokio::test]
async fn the_role_of_the_setup_is_enough() {
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "role", 1).await;
    let url = as_role(&world.database, "walpost");
    let relay = world.command(["run"]).env("WALPOST_DATABASE_URL", &url).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    world.insert(&client, 3).await;
    assert_eq!(world.consume(3).await.len(), 3);
    for command in ["check", "status"] {
        let output = world.command([command]).env("WALPOST_DATABASE_URL", &url).output().await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    stop(relay).await;
    let setup = world.command(["setup"]).env("WALPOST_DATABASE_URL", &url).output().await;
    let said = text(&setup);
    assert_eq!(setup.status.code(), Some(1), "{said}");
    assert!(said.contains("walpost is the relay's own role") && !said.contains("walpost check"), "{said}");
    let relay_role = crate::support::postgres::connect(&url).await.unwrap();
    for forbidden in [
        "INSERT INTO outbox.messages (topic) VALUES ('t')",
        "DELETE FROM outbox.messages",
        "DROP PUBLICATION walpost",
        "CREATE TABLE public.mine ()",
    ] {
        let done = relay_role.batch_execute(forbidden).await;
        assert!(done.is_err() || forbidden.starts_with("CREATE TABLE"), "{forbidden}");
    }
}

/// Whether the relay's role needs a password is said if it has none, and by whoever may see it.
#[tokio::test]
async fn a_password_is_asked_for_only_where_there_is_none() {
    let server = PostgresServer::start(&[]).await;
    let world = World::bare(&server, KafkaBroker::shared().await, "nopassword", 1).await;
    let client = world.database.client().await;
    let said = succeeds(&world, &["setup"]).await;
    assert!(
        said.contains("Role walpost has no password") && said.contains("ALTER ROLE walpost PASSWORD"),
        "{said}"
    );
    // Whoever is logged in needs none.
    let relay_role = crate::support::postgres::connect(&as_role(&world.database, "walpost")).await.unwrap();
    let said = succeeds(&world, &["setup"]).await;
    assert!(!said.contains("PASSWORD"), "{said}");
    drop(relay_role);
    client.batch_execute("ALTER ROLE walpost PASSWORD 'secret'").await.unwrap();
    let said = succeeds(&world, &["setup"]).await;
    assert!(!said.contains("PASSWORD"), "{said}");

    let elsewhere = World::bare(&server, KafkaBroker::shared().await, "byowner", 1).await;
    let database = &elsewhere.database.name;
    let sql = format!("CREATE ROLE owner LOGIN REPLICATION; GRANT CREATE ON DATABASE {database} TO owner");
    client.batch_execute(&sql).await.unwrap();
    crate::support::eventually("the relay's role to be gone", PATIENCE, async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'walpost'";
        (client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    let url = as_role(&elsewhere.database, "owner");
    let setup = elsewhere.command(["setup"]).env("WALPOST_DATABASE_URL", &url).output().await;
    let said = text(&setup);
    assert_eq!(setup.status.code(), Some(0), "{said}");
    assert!(said.contains("Whether role walpost has a password can't be seen from here"), "{said}");
}

#[tokio::test]
async fn status_tells_where_the_slot_stands() {
    let world = World::new("status", 1).await;
    let said = succeeds(&world, &["status"]).await;
    assert!(said.contains("no relay is running") && said.contains("retained"), "{said}");
    assert!(said.starts_with("NOBODY      nobody reads the slot") && said.contains("\nflow  "), "{said}");
    fails(&world, &["status", "--check"], 1, &["NOBODY: nobody reads the slot", "walpost run"]).await;
    let relay = world.relay().await;
    let output = world.command(["status", "--json"]).output().await;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["slot"], &status["active"]), (&world.slot.clone().into(), &true.into()));
    assert!(status["lag_bytes"].is_i64() && status["retained_bytes"].is_i64(), "{status}");
    assert_eq!(status["held_by"], "walpost");
    assert_eq!((&status["verdict"], &status["max_kept"]), (&"OK".into(), &"-1".into()), "{status}");
    assert!(status["wal_bytes_per_second"].is_f64() && status["lost_in_seconds"].is_null(), "{status}");
    succeeds(&world, &["status", "--check"]).await;
    let teardown = world.command(["teardown"]).output().await;
    assert_eq!(teardown.status.code(), Some(1));
    assert!(text(&teardown).contains("stop the relay"), "{}", text(&teardown));
    stop(relay).await;
}

#[tokio::test]
async fn names_with_quotes_and_spaces_are_set_up() {
    let world = bare("names").await;
    let names = ["--table", "\"It's; \"\"odd\"\"\".\"Out Box\"", "--publication", "pub \"x\" 'y'"];
    for _ in 0..2 {
        let said = world.command(["setup"]).args(names).output().await;
        assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    }
    let relay = world.command(["run"]).args(names).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    let sql = format!(
        "INSERT INTO \"It's; \"\"odd\"\"\".\"Out Box\" (topic, payload) VALUES ('{}', '1')",
        world.topic
    );
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(world.consume(1).await.len(), 1);
    stop(relay).await;
    let said = world.command(["teardown", "--drop-table"]).args(names).output().await;
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    assert_eq!(unique("x").len(), 14);
}

/// Two at the same moment do not get in each other's way.
#[tokio::test]
async fn set_ups_at_the_same_moment_agree() {
    let world = bare("race").await;
    let set_up = || async { world.command(["setup"]).output().await };
    let (a, b, c) = tokio::join!(set_up(), set_up(), set_up());
    for output in [a, b, c] {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
}

/// A slot that is gone is not made anew in silence: what it would have sent is in the table.
#[tokio::test]
async fn a_dropped_slot_is_named_and_not_replaced() {
    let world = World::new("dropped", 1).await;
    let client = world.database.client().await;
    let mut relay = world.relay().await;
    world.insert(&client, 3).await;
    assert_eq!(world.consume(3).await.len(), 3);
    relay.kill().await;
    let drop_it = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NULL";
    crate::support::eventually("the slot to be free", PATIENCE, async || {
        (client.execute(drop_it, &[&world.slot]).await.unwrap() == 1).then_some(())
    })
    .await;
    world.insert(&client, 1).await;
    fails(&world, &["run"], 1, &["does not exist", "has rows", "walpost setup"]).await;
    client.batch_execute("TRUNCATE outbox.messages").await.unwrap();
    let relay = world.relay().await;
    world.insert(&client, 1).await;
    assert_eq!(world.consume(4).await.len(), 4, "an empty table is a first start");
    stop(relay).await;
}

/// Each command that is asked says what is missing with it, and how that is found and sent.
#[tokio::test]
async fn rows_of_a_dropped_slot_are_found_and_sent() {
    let world = World::new("droppedrows", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let mut committed = world.insert(&client, 3).await;
    world.caught_up().await;
    stop(relay).await;
    committed.extend(world.insert(&client, 2).await);
    client.execute("SELECT pg_drop_replication_slot($1::text::name)", &[&world.slot]).await.unwrap();

    let missing =
        format!("slot {} does not exist, and outbox.messages has rows that it would not send", world.slot);
    let mend = "`walpost setup` makes it anew, at once";
    fails(&world, &["run"], 1, &[&missing, mend, "walpost audit"]).await;
    fails(&world, &["check"], 1, &[&format!("FAIL  slot         {missing}"), mend]).await;
    fails(&world, &["status"], 1, &[&format!("LOST        {missing}"), mend]).await;
    let output = world.command(["status", "--json"]).output().await;
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&seen["verdict"], &seen["reason"]), (&"LOST".into(), &missing.into()), "{seen}");
    fails(&world, &["audit"], 1, &[&world.slot, "does not exist", "`walpost setup` makes it anew"]).await;

    let said = text(&world.command(["setup"]).output().await);
    let older = format!("Slot {} does not bring rows that were committed before it was made.", world.slot);
    assert!(said.contains(&older) && said.contains("`walpost audit`"), "{said}");
    let said = text(&world.command(["setup"]).output().await);
    assert!(!said.contains(&older), "it was there already: {said}");
    send_what_is_missing(&world, &[]).await;
    let relay = world.relay().await;
    check(&committed, &world.consume(5).await).assert_exact();
    stop(relay).await;
}
