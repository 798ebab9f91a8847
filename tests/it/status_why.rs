//! `walpost status`: what it foresees, why nobody reads, and what it says when it can't see.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::walpost::told;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually, free_port};
use crate::world::{World, stop};

/// The JSON, whatever the exit code is.
async fn status(world: &World, args: &[&str]) -> Value {
    let output = world.command(["status", "--json"]).args(args).output().await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(&output)))
}

#[tokio::test]
async fn a_calm_second_does_not_hide_what_was_written_before() {
    let server = PostgresServer::start(&[("max_slot_wal_keep_size", "1GB"), ("max_wal_size", "4GB")]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "calm", 1).await;
    let client = world.database.client().await;
    world.insert(&client, 1).await;
    for _ in 0..10 {
        let sql = "SELECT pg_logical_emit_message(true, 'filler', repeat('x', 4000000))";
        client.batch_execute(sql).await.unwrap();
    }
    let told = eventually("a long term to be known", PATIENCE, async || {
        let told = status(&world, &[]).await;
        told["long_term"].is_object().then_some(told)
    })
    .await;
    let number = |value: &Value| value.as_f64().unwrap();
    let long = number(&told["long_term"]["bytes_per_second"]);
    assert!(number(&told["wal_bytes_per_second"]) < long && long > 100_000.0, "{told}");
    assert_eq!(number(&told["growth_bytes_per_second"]), long, "{told}");
    assert!(number(&told["long_term"]["seconds"]) >= 10.0, "{told}");
    let left = number(&told["safe_bytes"]) / long;
    assert!((number(&told["lost_in_seconds"]) - left).abs() < 1.0, "{told}");
    assert_eq!(told["verdict"], "FILLING", "{told}");
    let reason = told["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the slot is lost in ") && reason.contains(" at the rate of the last "),
        "{told}"
    );
    let said = String::from_utf8(world.command(["status"]).output().await.stdout).unwrap();
    assert!(said.contains("/s written in the last ") && !said.contains("nothing piles up"), "{said}");
}

#[tokio::test]
async fn nobody_comes_with_what_is_in_a_relays_way() {
    let world = World::new("obstacle", 1).await;
    let client = world.database.client().await;
    let well = status(&world, &[]).await;
    assert_eq!((&well["verdict"], &well["obstacle"]), (&"NOBODY".into(), &Value::Null), "{well}");
    assert!(well["advice"].as_str().unwrap().starts_with("start `walpost run`"), "{well}");
    let of_table = status(&world, &["--table", "outbox.nothing"]).await;
    let reason = of_table["reason"].as_str().unwrap();
    assert!(
        reason.contains("a relay with these settings can't start: table outbox.nothing does not exist"),
        "{reason}"
    );

    client.batch_execute("ALTER PUBLICATION walpost DROP TABLE outbox.messages").await.unwrap();
    let outside = status(&world, &[]).await;
    let reason = outside["obstacle"]["reason"].as_str().unwrap();
    assert!(reason.contains("publication walpost"), "{outside}");
    client.batch_execute("DROP PUBLICATION walpost").await.unwrap();
    let gone = status(&world, &[]).await;
    assert_eq!(gone["verdict"], "NOBODY", "{gone}");
    let reason = gone["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("nobody reads the slot") && reason.contains("publication walpost does not exist"),
        "{gone}"
    );
    assert!(gone["advice"].as_str().unwrap().contains("CREATE PUBLICATION walpost"), "{gone}");
}

#[tokio::test]
async fn a_database_that_cannot_be_asked_is_a_verdict_and_the_relay_is_asked_all_the_same() {
    let world = World::new("unreached", 1).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let relay = world.command(["run"]).env("WALPOST_LISTEN", &listen).streaming().await;
    let url = &world.database.url;
    let stranger = format!("postgresql://stranger{}", &url[url.find('@').unwrap()..]);
    let nowhere = format!("postgresql://walpost@127.0.0.1:{}/shop", free_port());
    for (url, why) in [(&stranger, "\"stranger\""), (&nowhere, "refused")] {
        let command = |args: &'static [&'static str]| {
            world
                .command(["status"])
                .env("WALPOST_DATABASE_URL", url)
                .args(["--listen", &listen])
                .args(args)
                .output()
        };
        let output = command(&[]).await;
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("UNREACHABLE the database can't be asked: ") && said.contains(why),
            "{said}"
        );
        assert!(
            said.contains("\n            -> ") && said.contains("\nrelay       streaming for "),
            "{said}"
        );
        assert!(error.starts_with("error: ") && error.contains(why), "{error}");
        let output = command(&["--json"]).await;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&told["verdict"], output.status.code()), (&"UNREACHABLE".into(), Some(1)), "{told}");
        assert_eq!(
            (&told["relay"]["state"], &told["slot"]),
            (&"streaming".into(), &world.slot.clone().into())
        );
        assert!(told["reason"].is_string() && told["advice"].is_string(), "{told}");
    }
    stop(relay).await;
}

/// Answers `/readyz` as a relay of this slot would that streams at first, and then does not.
async fn changing_its_mind(listener: TcpListener, slot: String) {
    for count in 0_u32.. {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (status, state, reason) = if count == 0 {
            ("200 OK", "streaming", "null")
        } else {
            ("503 Service Unavailable", "retrying", "\"the server is away\"")
        };
        let body = format!(
            "{{\"state\":\"{state}\",\"since_seconds\":1.0,\"stage\":null,\"reason\":{reason},\"advice\":null,\"in_flight\":0,\
             \"published\":0,\"slot\":\"{slot}\",\"system\":null,\"pid\":null}}"
        );
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_relay_and_a_slot_of_two_moments_are_asked_again() {
    let world = World::new("moments", 1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = listener.local_addr().unwrap().to_string();
    let relay = tokio::spawn(changing_its_mind(listener, world.slot.clone()));
    // It streams, and nobody reads the slot: that can't be.
    let told = status(&world, &["--listen", &listen]).await;
    assert_eq!(told["verdict"], "STALLED", "{told}");
    assert_eq!(told["reason"], "the relay is retrying: the server is away", "{told}");
    relay.abort();
}

#[tokio::test]
async fn the_command_knows_the_mapping_and_worries_about_no_other_table() {
    let world = World::new("mapped", 1).await;
    let client = world.database.client().await;
    let sql = "ALTER TABLE outbox.messages ADD status text; CREATE TABLE other (a int PRIMARY KEY); \
               ALTER PUBLICATION walpost ADD TABLE other; INSERT INTO other VALUES (1)";
    client.batch_execute(sql).await.unwrap();
    let sql = "INSERT INTO outbox.messages (topic, payload, status) VALUES ($1, '1', $2)";
    client.execute(sql, &[&world.topic, &"DRAFT"]).await.unwrap();
    let output = world.command(["status", "--json", "--map-only", "status=READY"]).output().await;
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["oldest_unpublished"], Value::Null, "{}", told(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing is logged");
    assert!(status(&world, &[]).await["oldest_unpublished"].is_object());
}

#[tokio::test]
async fn a_replay_says_whether_somebody_sends_it() {
    let world = World::new("replayed", 1).await;
    let client = world.database.client().await;
    let said = async || {
        let output = world.command(["replay", "--where", "true"]).output().await;
        assert!(output.status.success(), "{}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let relay = world.relay().await;
    world.insert(&client, 2).await;
    world.caught_up().await;
    let slot = &world.slot;
    assert!(
        said()
            .await
            .starts_with(&format!("2 rows of outbox.messages are sent again: slot {slot} is read by "))
    );
    stop(relay).await;
    world.slot_is_free().await;
    let expected =
        format!("2 rows of outbox.messages are sent again once a relay reads slot {slot}: nobody does now\n");
    assert_eq!(said().await, expected);
}
