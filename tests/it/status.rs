//! `walpost status`: what waits, what the relay itself says, how much room is left, who stands by.

use serde_json::Value;
use tokio_postgres::Client;

use crate::identity::statement;
use crate::support::walpost::told;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, check, eventually, free_port};
use crate::world::{World, stop};

async fn status(world: &World, args: &[&str]) -> Value {
    let output = world.command(["status", "--json"]).args(args).output().await;
    assert!(output.status.success(), "{}", told(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn text(world: &World, args: &[&str]) -> String {
    let output = world.command(["status"]).args(args).output().await;
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Asks until the word is this one.
async fn becomes(world: &World, args: &[&str], word: &str) -> Value {
    eventually(&format!("status to say {word}"), PATIENCE, async || {
        let told = status(world, args).await;
        (told["verdict"] == word).then_some(told)
    })
    .await
}

/// It is found in the log: nobody has read the table.
#[tokio::test]
async fn the_oldest_row_that_waits_is_told_without_reading_the_table() {
    let world = World::new("oldest", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    world.insert(&client, 2).await;
    world.caught_up().await;
    stop(relay).await;
    world.slot_is_free().await;
    // Rows of others lie between what is confirmed and the first that waits.
    client.batch_execute("CREATE TABLE other (a int); INSERT INTO other VALUES (1)").await.unwrap();
    let idle = status(&world, &[]).await;
    assert_eq!(
        (&idle["oldest_unpublished"], &idle["oldest_unpublished_unknown"]),
        (&Value::Null, &Value::Null)
    );
    assert!(text(&world, &[]).await.contains("oldest row  none: all that is committed is confirmed"));

    let scanned = "SELECT coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::bigint FROM pg_stat_user_tables \
                   WHERE schemaname = 'outbox' AND relname = 'messages'";
    let scans = async || client.query_one(scanned, &[]).await.unwrap().get::<_, i64>(0);
    let before = scans().await;

    for count in [3, 2] {
        world.insert(&client, count).await;
    }
    let first = status(&world, &[]).await;
    let oldest = &first["oldest_unpublished"];
    assert_eq!(oldest["table"], "outbox.messages", "{first}");
    let later = status(&world, &[]).await;
    assert_eq!(later["oldest_unpublished"]["lsn"], oldest["lsn"]);
    let age = |told: &Value| told["oldest_unpublished"]["seconds"].as_f64().unwrap();
    assert!(age(&later) > age(&first) && age(&first) > 0.0 && age(&later) < 60.0, "{first} {later}");
    assert!(
        text(&world, &[])
            .await
            .contains(&format!(" at {}, of outbox.messages\n", oldest["lsn"].as_str().unwrap()))
    );

    let relay = world.relay().await;
    let records = world.consume(7).await;
    assert_eq!(records[2].header("walpost.lsn"), oldest["lsn"].as_str());
    world.caught_up().await;
    assert_eq!(status(&world, &[]).await["oldest_unpublished"], Value::Null);
    stop(relay).await;
    assert_eq!(scans().await, before);
    let left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walpost_status_%' \
                AND database = current_database()";
    eventually("the copies to be gone", PATIENCE, async || {
        (client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
}

/// Events that are beside the table count, and rows that the mapping passes over do not.
#[tokio::test]
async fn what_is_no_row_to_be_sent_is_not_the_oldest() {
    let world = World::new("oldestof", 1).await;
    let client = world.database.client().await;
    client.batch_execute("ALTER TABLE outbox.messages ADD status text").await.unwrap();
    let sql = "INSERT INTO outbox.messages (topic, payload, status) VALUES ($1, '1', $2)";
    client.execute(sql, &[&world.topic, &"DRAFT"]).await.unwrap();
    let only = |told: Value| told["oldest_unpublished"].clone();
    let environment = |args: &'static [&'static str]| {
        let command = world.command(["status", "--json"]).env("WALPOST_MAP_ONLY", "status=READY").args(args);
        async { serde_json::from_slice::<Value>(&command.output().await.stdout).unwrap() }
    };
    assert_eq!(only(environment(&[]).await), Value::Null);
    assert!(only(status(&world, &[]).await).is_object());
    client.execute(sql, &[&world.topic, &"READY"]).await.unwrap();
    assert_eq!(only(environment(&[]).await)["table"], "outbox.messages");
}

#[tokio::test]
async fn a_row_that_cannot_be_searched_is_unknown_and_all_else_is_told() {
    let server = PostgresServer::start(&[("max_replication_slots", "1")]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "noroom", 1).await;
    world.insert(&world.database.client().await, 1).await;
    let told = status(&world, &[]).await;
    let why = told["oldest_unpublished_unknown"].as_str().unwrap();
    assert!(why.contains("all replication slots are in use"), "{told}");
    assert_eq!((&told["verdict"], &told["oldest_unpublished"]), (&"NOBODY".into(), &Value::Null));
    assert!(text(&world, &[]).await.contains("oldest row  unknown: keeping the position of slot"));
}

/// The relay knows within seconds, whoever else would see nothing but a small lag.
#[tokio::test]
async fn a_broker_that_is_away_is_named_by_the_relays_own_word() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(PostgresServer::shared().await, &broker, "stalled", 1).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let relay = world.command(["run"]).env("WALPOST_LISTEN", &listen).streaming().await;
    let client = world.database.client().await;
    world.insert(&client, 3).await;
    world.caught_up().await;
    let at = ["--listen", listen.as_str()];
    let well = becomes(&world, &at, "OK").await;
    assert_eq!(
        (&well["relay"]["state"], &well["relay"]["ready"]),
        (&"streaming".into(), &true.into()),
        "{well}"
    );
    assert_eq!((&well["relay"]["published"], &well["relay"]["address"]), (&3.into(), &listen.clone().into()));
    assert!(text(&world, &at).await.contains(&format!(", says the relay at {listen}\n")));

    broker.proxy.cut();
    world.insert(&client, 1).await;
    let told = becomes(&world, &at, "STALLED").await;
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("Kafka") && reason.contains(&broker.brokers), "{told}");
    assert!(told["advice"].as_str().unwrap().contains("brokers"), "{told}");
    assert!(told["lag_bytes"].as_i64().unwrap() < 64 << 20, "the lag would not have told it: {told}");
    let checked = world.command(["status", "--check"]).args(at).output().await;
    assert_eq!(checked.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&checked.stderr).starts_with("error: STALLED: the relay "),
        "{checked:?}"
    );

    // Nobody can be asked: a row waits, and the slot does not move.
    let told = becomes(&world, &["--listen", "off"], "STALLED").await;
    assert!(
        told["reason"].as_str().unwrap().contains("confirms nothing, and a row has waited for 1"),
        "{told}"
    );
    assert!(told["advice"].as_str().unwrap().contains(&broker.brokers), "{told}");
    assert_eq!(told["relay"]["unknown"], "its listener is off (--listen)");
    let nobody = format!("127.0.0.1:{}", free_port());
    let told = status(&world, &["--listen", &nobody]).await;
    let why = told["relay"]["unknown"].as_str().unwrap();
    assert!(why.starts_with(&nobody) && why.contains("refused"), "{why}");

    broker.proxy.heal();
    becomes(&world, &at, "OK").await;
    stop(relay).await;
    assert_eq!(world.consume(4).await.len(), 4);
}

#[tokio::test]
async fn another_relays_word_is_not_taken() {
    let (one, two) = (World::new("word", 1).await, World::new("word", 1).await);
    let listen = format!("127.0.0.1:{}", free_port());
    let relay = one.command(["run"]).env("WALPOST_LISTEN", &listen).streaming().await;
    let told = status(&two, &["--listen", &listen]).await;
    assert_eq!(told["verdict"], "NOBODY", "{told}");
    let why = told["relay"]["unknown"].as_str().unwrap();
    assert!(why.contains(&format!("answers the relay of slot {}", one.slot)), "{why}");
    assert!(text(&two, &["--listen", &listen]).await.contains("relay       could not be asked: at "));
    stop(relay).await;
}

/// Log beside the outbox, so many times four megabytes.
async fn write_log(client: &Client, times: usize) {
    let sql = "SELECT pg_logical_emit_message(true, 'filler', repeat('x', 4000000))";
    for _ in 0..times {
        client.batch_execute(sql).await.unwrap();
    }
}

async fn fills(world: &World, client: &Client) -> Value {
    write_log(client, 9).await;
    eventually("little room to be told", PATIENCE, async || {
        write_log(client, 1).await;
        let told = status(world, &[]).await;
        assert_ne!(told["verdict"], "LOST", "{told}");
        (told["verdict"] == "FILLING").then_some(told)
    })
    .await
}

#[tokio::test]
async fn little_room_is_told_whether_somebody_reads_or_not() {
    let options = [("max_slot_wal_keep_size", "64MB"), ("max_wal_size", "4GB"), ("checkpoint_timeout", "1h")];
    let server = PostgresServer::start(&options).await;
    let world = World::on(&server, KafkaBroker::shared().await, "room", 1).await;
    let client = world.database.client().await;
    let told = fills(&world, &client).await;
    assert_eq!(
        (told["others"][0]["verdict"].as_str(), told["others"][1].as_object()),
        (Some("NOBODY"), None)
    );
    let said = text(&world, &[]).await;
    assert!(
        said.starts_with("FILLING     ") && said.contains("\nNOBODY      nobody reads the slot"),
        "{said}"
    );
    let checked = world.command(["status", "--check"]).output().await;
    assert!(String::from_utf8_lossy(&checked.stderr).contains("FILLING: "), "{checked:?}");
    let checked = world.command(["check"]).output().await;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("FAIL  retention    the slot is lost once another"), "{said}");

    // With a reader the slot comes along, and with it the room; a transaction that stays open holds it.
    let relay = world.relay().await;
    world.caught_up().await;
    eventually("the room to be back", PATIENCE, async || {
        client.batch_execute("CHECKPOINT").await.unwrap();
        (status(&world, &[]).await["verdict"] == "OK").then_some(())
    })
    .await;
    let mut other = world.database.client().await;
    let open = other.transaction().await.unwrap();
    // One that has written nothing would hold nothing.
    open.batch_execute("CREATE TABLE other (a int)").await.unwrap();
    let told = fills(&world, &client).await;
    assert!(told["advice"].as_str().unwrap().contains("open for longest"), "{told}");
    assert_eq!(told["others"], serde_json::json!([]), "the relay keeps up");
    let line = relay.wait_for_log("the slot is lost, and rows with it", PATIENCE).await;
    assert!(line.contains("ALTER SYSTEM SET max_slot_wal_keep_size = '"), "{line}");
    open.rollback().await.unwrap();
    stop(relay).await;
}

#[tokio::test]
async fn relays_that_stand_by_are_told() {
    let world = World::new("waits", 1).await;
    let first = world.relay().await;
    assert_eq!(status(&world, &[]).await["standing_by"], serde_json::json!([]));
    let second = world.command(["run"]).spawn();
    second.wait_for_log("standing by", PATIENCE).await;
    let told = eventually("the second one to be seen", PATIENCE, async || {
        let told = status(&world, &[]).await;
        (told["standing_by"].as_array().unwrap().len() == 1).then_some(told)
    })
    .await;
    let waits = &told["standing_by"][0];
    assert_eq!(waits["name"], "walpost", "{told}");
    assert!(waits["pid"] != told["pid"] && waits["since"].is_string(), "{told}");
    let said = text(&world, &[]).await;
    assert!(said.contains(&format!("standing by walpost (PID {}", waits["pid"])), "{said}");
    // It is of this slot alone.
    let other = World::new("waitsnot", 1).await;
    assert_eq!(status(&other, &[]).await["standing_by"], serde_json::json!([]));

    let mark = second.mark();
    stop(first).await;
    second.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    let told = status(&world, &[]).await;
    assert_eq!((&told["active"], &told["standing_by"]), (&true.into(), &serde_json::json!([])), "{told}");
    stop(second).await;
}

#[tokio::test]
async fn a_watch_tells_each_look_in_a_line_and_outlives_the_server() {
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "watch", 1).await;
    let lines = world.command(["status", "--watch", "1"]).spawn();
    let objects = world.command(["status", "--watch=1", "--json"]).spawn();
    let line = lines.wait_for_log(" NOBODY: nobody reads the slot", PATIENCE).await;
    assert!(line.starts_with("20") && line.contains(" | confirmed ") && !line.contains('\u{1b}'), "{line}");
    let object = objects.wait_for_log("\"NOBODY\"", PATIENCE).await;
    assert_eq!(serde_json::from_str::<Value>(&object).unwrap()["slot"], world.slot);
    let relay = world.relay().await;
    lines.wait_for_log(" OK: the relay keeps up", PATIENCE).await;
    objects.wait_for_log("\"OK\"", PATIENCE).await;
    server.kill().await;
    lines.wait_for_log(" UNKNOWN: ", PATIENCE).await;
    let object = objects.wait_for_log("\"UNKNOWN\"", PATIENCE).await;
    assert!(serde_json::from_str::<Value>(&object).unwrap()["reason"].is_string());
    let mark = lines.mark();
    server.start_again().await;
    lines.wait_for_log_since(mark, " OK: the relay keeps up", PATIENCE).await;
    stop(relay).await;
    let refused = world.command(["status", "--watch", "--check"]).output().await;
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    // What is wrong from the beginning on is not watched.
    let nothing = world.command(["status", "--watch", "--slot", "nobody"]).output().await;
    assert_eq!(nothing.status.code(), Some(1), "{}", told(&nothing));
}

#[tokio::test]
async fn a_watch_on_a_terminal_is_drawn_anew() {
    let world = World::new("screen", 1).await;
    let binary = env!("CARGO_BIN_EXE_walpost");
    let typed = format!("timeout 6 {binary} status --watch 1");
    let mut command = tokio::process::Command::new("script");
    command.args(["-qec", &typed, "/dev/null"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("WALPOST_DATABASE_URL", &world.database.url).env("WALPOST_SLOT", &world.slot);
    command.env("WALPOST_LISTEN", "off").env("TERM", "xterm").stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.matches("\u{1b}[HNOBODY").count() >= 2, "{said:?}");
    assert!(said.contains("every 1 s; Ctrl-C ends\u{1b}[K"), "{said:?}");
}

/// Status and relay say the same, and what they say brings every row.
#[tokio::test]
async fn the_advice_behind_a_lost_slot_is_one_and_mends_it() {
    let server = PostgresServer::start(&[("max_slot_wal_keep_size", "1MB")]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "lostslot", 1).await;
    let client = world.database.client().await;
    let lost = world.insert(&client, 3).await;
    for _ in 0..6 {
        let switch = "CREATE TABLE IF NOT EXISTS filler (a int); INSERT INTO filler VALUES (1); SELECT pg_switch_wal()";
        client.batch_execute(switch).await.unwrap();
    }
    client.batch_execute("CHECKPOINT").await.unwrap();
    let told = becomes(&world, &[], "LOST").await;
    let advice = told["advice"].as_str().unwrap();
    let relay = world.command(["run"]).output().await;
    let said = String::from_utf8_lossy(&relay.stderr).into_owned();
    assert!(relay.status.code() == Some(1) && said.contains(advice), "{advice}\n{said}");

    client.batch_execute(&statement(advice, "SELECT pg_drop_replication_slot(", ")")).await.unwrap();
    world.set_up(&[]).await;
    let relay = world.relay().await;
    let sent = world.insert(&client, 2).await;
    world.caught_up().await;
    let audit = world.command(["audit", "--json"]).output().await;
    let found: Value = serde_json::from_slice(&audit.stdout).unwrap();
    assert_eq!((&found["lost"], audit.status.code()), (&3.into(), Some(1)), "{found}");
    let condition = found["replay"][0].as_str().unwrap();
    let replay = world.command(["replay", "--where", condition]).output().await;
    assert!(replay.status.success(), "{}", self::told(&replay));
    let all: Vec<_> = sent.into_iter().chain(lost).collect();
    check(&all, &world.consume(5).await).assert_nothing_lost();
    world.caught_up().await;
    assert!(world.command(["audit"]).output().await.status.success());
    stop(relay).await;
}
