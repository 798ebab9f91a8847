//! Text of others in the log: a server that speaks in control characters, and rows that do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::lines;
use crate::dead_letters::{insert, quick};
use crate::support::{PATIENCE, Walpost};
use crate::world::{World, stop};

/// Ends the line, begins one, clears the screen by both kinds of control, renames the window, turns the text around.
const HOSTILE: &str = "x\n{\"level\":\"ERROR\",\"message\":\"forged\"}\r\n2026-01-01T00:00:00Z ERROR forged\x1b[2J\u{9b}2J\x1b]0;t\x07\u{202e}\u{7f}";

/// A server that answers each login with this error; it is given back where it listens.
async fn server(sqlstate: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(complain(client, sqlstate));
        }
    });
    address
}

/// PostgreSQL documentation, "Message Formats": ErrorResponse.
async fn complain(mut client: TcpStream, sqlstate: &str) -> Option<()> {
    let length = client.read_u32().await.ok()?;
    client.read_exact(&mut vec![0; length as usize - 4]).await.ok()?;
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{HOSTILE}\0\0");
    client.write_u8(b'E').await.ok()?;
    client.write_u32(u32::try_from(fields.len() + 4).unwrap()).await.ok()?;
    client.write_all(fields.as_bytes()).await.ok()
}

fn at(world: &World, address: &str, format: &str) -> crate::support::walpost::Builder {
    let url = format!("postgresql://u@{address}/d?sslmode=disable");
    world.command(["run", "--log-format", format]).env("WALPOST_DATABASE_URL", url)
}

/// Nothing but text and ends of lines.
fn is_plain(text: &str) {
    let odd = |letter: &char| *letter != '\n' && (letter.is_control() || *letter == '\u{202e}');
    assert_eq!(text.chars().find(odd), None, "{text:?}");
}

async fn told(relay: &Walpost) -> String {
    relay.wait_for_log("forged", PATIENCE).await;
    relay.log()
}

#[tokio::test]
async fn what_a_server_says_neither_forges_a_line_nor_drives_a_terminal() {
    let world = World::bare(
        crate::support::PostgresServer::shared().await,
        crate::support::KafkaBroker::shared().await,
        "loghostile",
        1,
    )
    .await;
    let passing = server("57P03").await;
    let relay = at(&world, &passing, "json").spawn();
    relay.wait_for_log("retrying", PATIENCE).await;
    let log = told(&relay).await;
    is_plain(&log);
    let forged = lines(&log, 0);
    let [line] = &forged.iter().filter(|line| line.to_string().contains("forged")).collect::<Vec<_>>()[..]
    else {
        panic!("{log}")
    };
    assert!(
        line["level"] == "WARN" && line["error"].as_str().unwrap().contains(HOSTILE),
        "whole for a machine: {line}"
    );

    let relay = at(&world, &passing, "text").spawn();
    relay.wait_for_log("retrying", PATIENCE).await;
    let log = told(&relay).await;
    is_plain(&log);
    assert_eq!(log.lines().filter(|line| line.contains("forged")).count(), 1, "{log}");

    // An error that ends it, in both forms, and of a command.
    let definite = server("3D000").await;
    for (format, level) in [("json", "\"ERROR\""), ("text", "error: ")] {
        let mut relay = at(&world, &definite, format).spawn();
        assert_eq!(relay.wait(PATIENCE).await.code(), Some(1));
        let log = told(&relay).await;
        is_plain(&log);
        let found: Vec<_> = log.lines().filter(|line| line.contains("forged")).collect();
        assert!(found.len() == 1 && found[0].contains(level), "{log}");
        if format == "json" {
            lines(&log, 0);
        }
    }
}

#[tokio::test]
async fn what_a_row_says_neither_forges_a_line_nor_drives_a_terminal() {
    let world = World::new("loghostilerow", 1).await;
    let client = world.database.client().await;
    // Tables of others have no such rule.
    let any = "ALTER TABLE outbox.messages DROP CONSTRAINT messages_topic_is_valid";
    client.batch_execute(any).await.unwrap();
    for format in ["json", "text"] {
        let relay =
            quick(world.command(["run", "--on-refusal", "dead-letter", "--log-format", format])).spawn();
        relay.wait_for_log("streaming", PATIENCE).await;
        // Behind a letter of its own key it would not be refused itself.
        insert(&client, HOSTILE, Some(&format!("{HOSTILE}{format}")), "1").await;
        relay.wait_for_log("parked as dead letters", PATIENCE).await;
        world.caught_up().await;
        let log = relay.log();
        is_plain(&log);
        if format == "json" {
            lines(&log, 0);
        }
        let begins = |line: &&str| line.starts_with("2026-01-01") || line.contains("{\"level\":\"ERROR\"");
        assert_eq!(log.lines().find(begins), None, "{log}");
        stop(relay).await;
    }
}
