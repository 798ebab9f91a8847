//! What an operator sees of a running relay: health, logs, signals.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::walpost::testers_own;
use crate::support::{PATIENCE, eventually};
use crate::world::{World, stop};

/// Status code and body of an HTTP request.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    (code, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// What a relay has counted, or what is so now; zero before there is any.
pub(crate) async fn figure(address: SocketAddr, name: &str) -> f64 {
    let (_, text) = get(address, "/metrics").await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// How often both ends were open, and records could flow.
pub(crate) async fn lives(address: SocketAddr) -> f64 {
    figure(address, "walpost_streams_started_total").await
}

#[tokio::test]
async fn health_and_readiness_tell_the_state() {
    let world = World::new("health", 1).await;
    let relay = world.relay().await;
    let address = relay.listen_address().await;
    let (code, body) = get(address, "/healthz").await;
    assert_eq!(code, 200, "{body}");
    let (code, body) = get(address, "/readyz").await;
    assert_eq!(code, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["state"], "streaming", "{body}");
    let client = world.database.client().await;
    world.insert(&client, 5).await;
    world.caught_up().await;
    eventually("five to be counted", PATIENCE, async || {
        let (_, body) = get(address, "/readyz").await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        (answer["published"] == 5 && answer["in_flight"] == 0).then_some(())
    })
    .await;
    assert_eq!(get(address, "/nothing").await.0, 404);
    stop(relay).await;
}

#[tokio::test]
async fn the_log_is_json_where_nobody_watches_and_holds_no_payload() {
    let world = World::new("log", 1).await;
    let relay = world.command(["run", "--log-level", "trace"]).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload, headers) VALUES ($1, 'secret-key', '\"secret-payload\"', '{\"h\":\"secret-header\"}')";
    client.execute(sql, &[&world.topic]).await.unwrap();
    assert_eq!(world.consume(1).await.len(), 1);
    world.caught_up().await;
    relay.terminate();
    let log = {
        let mut relay = relay;
        assert_eq!(relay.wait(PATIENCE).await.code(), Some(0));
        relay.log()
    };
    for line in log.lines() {
        let entry: Result<Value, _> = serde_json::from_str(line);
        assert!(entry.is_ok_and(|entry| entry["level"].is_string()), "{line}");
    }
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn an_interrupt_is_an_orderly_stop() {
    let world = World::new("interrupt", 1).await;
    let mut relay = world.relay().await;
    relay.interrupt();
    assert_eq!(relay.wait(Duration::from_secs(10)).await.code(), Some(0), "{}", relay.log());
}

#[tokio::test]
async fn an_unreachable_broker_is_named_and_waited_for() {
    let world = World::new("nobroker", 1).await;
    let relay = world.command(["run"]).env("WALPOST_BROKERS", "127.0.0.1:1").spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    world.insert(&client, 1).await;
    relay.wait_for_log("127.0.0.1:1", PATIENCE).await;
    let address = relay.listen_address().await;
    eventually("readiness to fall", PATIENCE, async || {
        let (code, body) = get(address, "/readyz").await;
        (code == 503 && body.contains("127.0.0.1:1")).then_some(())
    })
    .await;
    assert_eq!(get(address, "/healthz").await.0, 200, "waiting is no reason for a restart");

    let check = world.command(["check"]).env("WALPOST_BROKERS", "127.0.0.1:1").output().await;
    assert_eq!(check.status.code(), Some(1));
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(text.contains("FAIL") && text.contains("127.0.0.1:1") && text.contains("--brokers"), "{text}");
}

/// On a terminal one line tells how it goes; `script` lends it one.
#[tokio::test]
async fn a_terminal_gets_a_progress_line() {
    let world = World::new("terminal", 1).await;
    let run = format!("exec {} run", env!("CARGO_BIN_EXE_walpost"));
    let mut script = tokio::process::Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &run, "/dev/null"]).kill_on_drop(true);
    for name in testers_own() {
        script.env_remove(name);
    }
    script.env("WALPOST_DATABASE_URL", &world.database.url).env("WALPOST_BROKERS", &world.brokers);
    script.env("WALPOST_SLOT", &world.slot).env("WALPOST_LISTEN", "off").env("TERM", "xterm");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let client = world.database.client().await;
    world.insert(&client, 3).await;
    let mut screen = String::new();
    let mut output = child.stdout.take().unwrap();
    let reading = async {
        let mut bytes = [0; 4096];
        while !screen.contains("3 published") {
            let count = output.read(&mut bytes).await.unwrap();
            assert!(count > 0, "it ended: {screen}");
            screen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    assert!(read.is_ok(), "no line: {screen}");
    for part in ["streaming", "/s", "lag ", "confirmed "] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    // Ctrl-C, as a person would.
    child.stdin.take().unwrap().write_all(b"\x03").await.unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}
