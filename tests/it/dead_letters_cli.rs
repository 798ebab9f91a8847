//! `walpost dead-letters` against a real server; the letters are put there by SQL, and no relay runs unless
//! a test plays its part.

use crate::desk::{Desk, both, usual};
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually};
use crate::world::World;

#[tokio::test]
async fn letters_are_listed_in_the_order_of_the_log() {
    let desk = usual("letterlist").await;
    desk.client
        .batch_execute(
            "UPDATE outbox.dead_letters SET requested_at = now() WHERE commit_lsn = '0/C0'; \
             UPDATE outbox.dead_letters SET done_at = now(), outcome = 'sent' WHERE (commit_lsn, index) = ('0/A0', 1); \
             UPDATE outbox.dead_letters SET done_at = now() - interval '25 hours', outcome = 'discarded' WHERE commit_lsn = '1/0'",
        )
        .await
        .unwrap();
    let before = desk.state().await;
    let (stdout, stderr) = desk.succeeds(&["list"]).await;
    let rows: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["POSITION", "PARKED", "AT", "TOPIC", "KEY", "TRIES", "STATE", "ERROR"]);
    let cells: Vec<_> = rows[1..].iter().map(|row| (row[0], row[3], row[4], row[5], row[6])).collect();
    assert_eq!(
        cells,
        [
            ("0/A0+0", "orders", "ada", "6", "parked"),
            ("0/B0+0", "orders", "ada", "0", "follows"),
            ("0/B0+1", "orders", "bob", "6", "parked"),
            ("0/C0+0", "mails", "ada", "6", "replay"),
        ]
    );
    assert!(stdout.lines().skip(1).all(|line| line.ends_with("the record is too large")), "{stdout}");
    assert!(stderr.contains(&format!("4 dead letters of slot {}", desk.world.slot)), "{stderr}");

    let (stdout, stderr) = desk.succeeds(&["list", "--all", "--json"]).await;
    let letters: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let states: Vec<_> = letters.iter().map(|letter| letter["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["parked", "sent", "follows", "parked", "replay requested"]);
    assert_eq!(letters[0]["headers"]["h"], "v");
    assert_eq!((&letters[0]["payload_bytes"], &letters[1]["key"]), (&8.into(), &serde_json::Value::Null));
    assert!(letters[1]["done_at"].is_string() && letters[4]["requested_at"].is_string(), "{stdout}");
    assert!(letters.iter().all(|letter| letter.get("payload").is_none()));
    assert!(stderr.contains("4 open, 1 done"), "{stderr}");

    let (stdout, stderr) = desk.succeeds(&["list", "--topic", "mails"]).await;
    assert_eq!(
        (stdout.lines().count(), stderr.contains("1 dead letter of slot")),
        (2, true),
        "{stdout}{stderr}"
    );
    let (stdout, stderr) = desk.succeeds(&["list", "--topic", "none"]).await;
    assert_eq!(stdout, "");
    assert!(stderr.contains("no open dead letters"), "{stderr}");
    assert_eq!(desk.state().await, before, "a list changes nothing");
}

/// Values that are long together are read in smaller pages; one that is long by itself is cut.
#[tokio::test]
async fn long_values_are_listed_in_small_pages() {
    let desk = Desk::new("letterlong").await;
    let sql = "INSERT INTO outbox.dead_letters (slot, commit_lsn, index, topic, key, error, attempts) \
               SELECT $1::text, '0/10', n, 'orders', convert_to(repeat('k', 200000 + n), 'UTF8'), repeat('e', 3000000), 1 \
               FROM generate_series(0, 40) n";
    desk.client.execute(sql, &[&desk.world.slot]).await.unwrap();
    let (stdout, _) = desk.succeeds(&["list", "--json"]).await;
    let letters: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), 41);
    for (n, letter) in letters.iter().enumerate() {
        assert_eq!(letter["position"], format!("0/10+{n}"));
        assert_eq!(letter["key"].as_str().unwrap().len(), 200_000 + n);
        assert_eq!(letter["error"].as_str().unwrap().len(), 1 << 18);
    }
}

/// Read page by page, none is missing and none comes twice; whoever stops reading stops the list.
#[tokio::test]
async fn many_letters_are_listed_page_by_page() {
    let desk = Desk::new("letterpages").await;
    let sql = "INSERT INTO outbox.dead_letters (slot, commit_lsn, index, topic, payload, error, attempts) \
               SELECT $1::text, '0/10'::pg_lsn + n / 7, n % 7, 'orders', '1', 'why', 1 FROM generate_series(0, 1000) n";
    desk.client.execute(sql, &[&desk.world.slot]).await.unwrap();
    let (stdout, stderr) = desk.succeeds(&["list", "--json"]).await;
    let listed: Vec<_> = stdout
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["position"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(listed, desk.those("true").await);
    assert!(stderr.contains("1001 dead letters"), "{stderr}");
    let (stdout, _) = desk.succeeds(&["list"]).await;
    let listed: Vec<_> = stdout.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(listed, desk.those("true").await);
    let (stdout, _) = desk.succeeds(&["replay", "--all"]).await;
    assert!(stdout.contains("1001 letters without a key"), "{stdout}");
    let status = desk.world.command(["status", "--json"]).output().await;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["dead_letters"], 1001);
}

#[tokio::test]
async fn a_letter_is_shown_byte_for_byte() {
    let desk = Desk::new("lettershow").await;
    let slot = &desk.world.slot;
    desk.park("0/A0+0", "orders", Some(b"k\x1b"), 6).await;
    desk.park("0/A0+1", "orders", Some(b"\x00\xff"), 6).await;
    let sql = "UPDATE outbox.dead_letters SET payload = $1, unfit_column = 'created_at', unfit_value = 'soon', \
               error = E'first line\nsecond \\x1b[2J' WHERE index = 1";
    let bytes: &[u8] = b"\x00\x01\r\n\xff\n";
    desk.client.execute(sql, &[&bytes]).await.unwrap();
    desk.client
        .batch_execute("UPDATE outbox.dead_letters SET payload = NULL, headers = 'no json' WHERE index = 0")
        .await
        .unwrap();
    let (stdout, _) = desk.succeeds(&["show", "0/A0+0"]).await;
    for text in ["position    0/A0+0", "key         k\\u{1b}", "value       null", "headers     no json"] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
    let (stdout, _) = desk.succeeds(&["show", "0/A0+1"]).await;
    for text in [
        "key         \\x00ff",
        "error       first line\nsecond \\u{1b}[2J",
        "unreadable  column created_at: soon",
        "value       6 bytes",
        "\n\\x00010d0aff0a\n",
    ] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
    assert_eq!(desk.payload("0/A0+1").await, bytes);
    let (stdout, stderr) = desk.succeeds(&["show", "0/A0+0", "--payload"]).await;
    assert_eq!((stdout.as_str(), stderr.trim()), ("", "the payload is null"));
    desk.fails(&["show", "0/A0+2"], &[slot, "no dead letter at 0/A0+2", "list --all"]).await;
    let (stdout, _) = desk.succeeds(&["list", "--json"]).await;
    let letter: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&letter["key"], &letter["key_hex"]), (&serde_json::Value::Null, &"00ff".into()));
    assert_eq!((&letter["unfit_column"], &letter["unfit_value"]), (&"created_at".into(), &"soon".into()));
    // Larger than what is read at a time: one byte more than a part, and several parts.
    for size in [(1 << 20) + 1, 20_000_000_usize] {
        let large: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let sql = "UPDATE outbox.dead_letters SET payload = $1 WHERE index = 1";
        desk.client.execute(sql, &[&large]).await.unwrap();
        assert!(desk.payload("0/A0+1").await == large, "{size} bytes");
        let (stdout, _) = desk.succeeds(&["show", "0/A0+1"]).await;
        assert!(
            stdout.contains(&format!("value       {size} bytes, too many to show: use --payload")),
            "{stdout}"
        );
    }
    // A key that is no text is a key: its letters go together.
    desk.park("0/B0+0", "orders", Some(b"\x00\xff"), 0).await;
    desk.succeeds(&["replay", "0/B0+0"]).await;
    assert_eq!(desk.those("requested_at IS NOT NULL").await, ["0/A0+1", "0/B0+0"]);
}

#[tokio::test]
async fn a_replay_asks_for_whole_keys_and_tells_the_log() {
    let desk = usual("letterreplay").await;
    let (stdout, _) = desk.succeeds(&["replay", "0/B0+0", "1/0+12", "0/B0+0"]).await;
    assert!(stdout.contains("replay requested: 3 letters of 1 key, 1 of them without one"), "{stdout}");
    assert!(stdout.contains(&format!("nobody holds slot {} now", desk.world.slot)), "{stdout}");
    assert!(stdout.contains("`walpost run`"), "{stdout}");
    let requested = ["0/A0+0", "0/B0+0", "1/0+12"];
    assert_eq!(desk.those("requested_at IS NOT NULL").await, requested);
    // One transaction: the changes and the marker, or neither.
    assert_eq!(desk.log().await, ["BEGIN", "UPDATE", "UPDATE", "UPDATE", &desk.marker(), "COMMIT"]);
    let untouched = "attempts NOT IN (0, 6) OR done_at IS NOT NULL OR replay_index IS NOT NULL \
                     OR (replay_lsn IS NULL) <> (requested_at IS NULL)";
    assert_eq!(desk.those(untouched).await, Vec::<String>::new());

    // Asked again, the time of the first request stays, and the relay is told again.
    let since = "SELECT requested_at FROM outbox.dead_letters WHERE commit_lsn = '0/A0' AND index = 0 AND slot <> 'another'";
    let before: std::time::SystemTime = desk.client.query_one(since, &[]).await.unwrap().get(0);
    let (stdout, _) = desk.succeeds(&["replay", "--topic", "orders"]).await;
    assert!(stdout.contains("5 letters of 2 keys, 2 of them without one"), "{stdout}");
    assert!(stdout.contains("3 of them were requested before"), "{stdout}");
    let after: std::time::SystemTime = desk.client.query_one(since, &[]).await.unwrap().get(0);
    assert_eq!(before, after);
    assert_eq!(desk.those("requested_at IS NULL AND slot <> 'another'").await, ["0/C0+0"]);
    assert!(desk.log().await.contains(&desk.marker()));
    desk.succeeds(&["replay", "--all"]).await;
    assert_eq!(desk.those("requested_at IS NULL").await, ["0/A0+0"], "another slot's letter stays");
}

#[tokio::test]
async fn a_discard_gives_up_the_named_letters_alone() {
    let desk = usual("letterdiscard").await;
    desk.succeeds(&["replay", "1/0+12"]).await;
    desk.log().await;
    let (stdout, _) = desk.succeeds(&["discard", "0/A0+0", "1/0+12"]).await;
    assert!(stdout.contains("discarded: 2 letters"), "{stdout}");
    assert!(stdout.contains("1 replay had been requested"), "{stdout}");
    assert!(stdout.contains("1 letter of the same key stays"), "{stdout}");
    assert_eq!(desk.those("outcome = 'discarded' AND done_at IS NOT NULL").await, ["0/A0+0", "1/0+12"]);
    assert_eq!(desk.log().await, ["BEGIN", "UPDATE", "UPDATE", &desk.marker(), "COMMIT"]);
    // What is done is done: neither again nor after all.
    desk.fails(&["discard", "0/A0+0"], &["0/A0+0 was discarded already"]).await;
    desk.fails(&["replay", "0/B0+0", "0/A0+0"], &["0/A0+0 was discarded already", "nothing was changed"])
        .await;
    // A replay of the key leaves it out.
    desk.succeeds(&["replay", "0/B0+0"]).await;
    assert_eq!(desk.those("requested_at IS NOT NULL AND done_at IS NULL").await, ["0/B0+0"]);
    let (stdout, _) = desk.succeeds(&["discard", "--topic", "mails", "--yes"]).await;
    assert_eq!(stdout, "discarded: 1 letter\n");
    desk.succeeds(&["discard", "--all", "--yes"]).await;
    assert_eq!(desk.those("done_at IS NULL").await, ["0/A0+0"], "another slot's letter stays");
    let (_, stderr) = desk.succeeds(&["list"]).await;
    assert!(stderr.contains("no open dead letters"), "{stderr}");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let desk = usual("letternone").await;
    desk.fails(&["replay", "0/A0+0", "0/FF+0"], &["no dead letter at 0/FF+0"]).await;
    desk.fails(&["discard", "0/A0+0", "0/FF+0"], &["no dead letter at 0/FF+0"]).await;
    desk.fails(&["replay", "--topic", "none"], &["no open dead letter for topic \"none\""]).await;
    desk.fails(&["discard", "--topic", "none", "--yes"], &["no open dead letter for topic \"none\""]).await;
    desk.fails(&["replay", "--all", "--slot", "nobody"], &["slot nobody does not exist", "walpost setup"])
        .await;
    desk.fails(&["discard", "--all", "--yes", "--slot", "nobody"], &["no open dead letter"]).await;
    // Without its slot a letter can still be given up.
    let (stdout, _) = desk.succeeds(&["discard", "--all", "--yes", "--slot", "another"]).await;
    assert_eq!(stdout, "discarded: 1 letter\n");
}

#[tokio::test]
async fn waiting_ends_when_each_is_sent_or_refused_again() {
    let desk = usual("letterwait").await;
    let slot = &desk.world.slot;
    desk.fails_waiting(
        &["replay", "0/A0+0", "--wait", "300ms"],
        &["2 letters were not sent within 300ms", "walpost run"],
    )
    .await;
    // The part of the relay: one of the three is sent, the next is refused, and what is behind it stays.
    desk.park("0/D0+0", "orders", Some(b"ada"), 0).await;
    let relay = async {
        let asked =
            "SELECT count(*) FROM outbox.dead_letters WHERE requested_at IS NOT NULL AND slot = $1::text";
        eventually("three requests", PATIENCE, async || {
            (desk.client.query_one(asked, &[slot]).await.unwrap().get::<_, i64>(0) == 3).then_some(())
        })
        .await;
        let sql = format!(
            "UPDATE outbox.dead_letters SET done_at = now(), outcome = 'sent' WHERE commit_lsn = '0/A0' AND index = 0 AND slot = '{slot}'; \
             UPDATE outbox.dead_letters SET requested_at = NULL, attempts = attempts + 1, error = 'still too large' \
             WHERE commit_lsn = '0/B0' AND index = 0; \
             UPDATE outbox.dead_letters SET requested_at = NULL WHERE commit_lsn = '0/D0'"
        );
        desk.client.batch_execute(&sql).await.unwrap();
    };
    let (output, ()) = tokio::join!(desk.run(&["replay", "0/A0+0", "--wait", "60s"]), relay);
    let (stdout, stderr) = both(&output);
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("sent: 1 letter"), "{stdout}");
    assert!(
        stderr.contains("2 letters were refused again") && stderr.contains("0/B0+0: still too large"),
        "{stderr}"
    );

    let relay = async {
        let sql = "UPDATE outbox.dead_letters SET done_at = now(), outcome = 'sent' \
                   WHERE requested_at IS NOT NULL AND done_at IS NULL AND slot = $1::text";
        let mut sent = 0;
        eventually("two more requests", PATIENCE, async || {
            sent += desk.client.execute(sql, &[slot]).await.unwrap();
            (sent >= 2).then_some(())
        })
        .await;
    };
    let (output, ()) = tokio::join!(desk.run(&["replay", "0/D0+0", "--wait", "60s"]), relay);
    let (stdout, stderr) = both(&output);
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("sent: 2 letters"), "{stdout}");
}

#[tokio::test]
async fn a_relay_that_holds_the_slot_is_named() {
    let desk = usual("letterholder").await;
    desk.park("0/D0+0", &desk.world.topic, None, 6).await;
    let relay = desk.world.relay().await;
    let (stdout, _) = desk.succeeds(&["replay", "0/D0+0"]).await;
    assert!(stdout.contains("the relay that holds slot") && stdout.contains("(PID "), "{stdout}");
    crate::world::stop(relay).await;
}

#[tokio::test]
async fn quoted_names_are_found() {
    let world =
        World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "letternames", 1).await;
    let table = "\"It's; \"\"odd\"\"\".\"Out Box\"";
    let args = ["--table", table];
    let setup = world.command(["setup"]).args(args).output().await;
    assert_eq!(setup.status.code(), Some(0), "{setup:?}");
    let client = world.database.client().await;
    let sql = "INSERT INTO \"It's; \"\"odd\"\"\".dead_letters (slot, commit_lsn, index, topic, key, error, attempts) \
               VALUES ($1::text, '0/A0', 0, 'it''s', '\\x00', 'why', 1), ($1::text, '0/A0', 1, 'it''s', '\\x00', 'why', 0)";
    client.execute(sql, &[&world.slot]).await.unwrap();
    for (command, expected) in [
        (&["list"][..], "0/A0+1"),
        (&["show", "0/A0+1"], "follows"),
        (&["replay", "--topic", "it's"], "2 letters of 1 key"),
        (&["discard", "0/A0+0"], "1 letter of the same key stays"),
    ] {
        let output = world.command(["dead-letters"]).args(command).args(args).output().await;
        let (stdout, stderr) = both(&output);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {stdout}{stderr}");
        assert!(stdout.contains(expected), "{command:?}: {stdout}");
    }
}

#[tokio::test]
async fn a_missing_table_or_grant_is_named_with_its_mend() {
    // Roles are the server's, and this one must not meddle with the other tests' role.
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "lettergrant", 1).await;
    let client = world.database.client().await;
    let sql =
        "CREATE ROLE \"Desk Clerk\" LOGIN REPLICATION; GRANT SELECT ON outbox.dead_letters TO \"Desk Clerk\"";
    client.batch_execute(sql).await.unwrap();
    let (scheme, rest) = world.database.url.split_once("://").unwrap();
    let host = rest.split_once('@').map_or(rest, |(_, host)| host);
    let clerk = format!("{scheme}://Desk%20Clerk@{host}");
    let says = async |args: &[&str], code: i32, words: &[&str]| {
        let output = world.command([]).args(args).env("WALPOST_DATABASE_URL", &clerk).output().await;
        let (stdout, stderr) = both(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stdout}{stderr}");
        for word in words {
            assert!(
                (stdout.clone() + &stderr).contains(word),
                "{args:?} should say {word:?}: {stdout}{stderr}"
            );
        }
    };
    let usage = "GRANT USAGE ON SCHEMA outbox TO \"Desk Clerk\";";
    says(&["dead-letters", "list"], 1, &[usage]).await;
    client.batch_execute(usage).await.unwrap();
    says(&["dead-letters", "list"], 0, &["no open dead letters"]).await;
    let update = "GRANT UPDATE ON outbox.dead_letters TO \"Desk Clerk\";";
    says(&["dead-letters", "replay", "--all"], 1, &[update]).await;
    says(&["dead-letters", "discard", "--all", "--yes"], 1, &[update]).await;
    let rest = "GRANT INSERT, UPDATE, DELETE ON outbox.dead_letters TO \"Desk Clerk\";";
    says(&["check"], 0, &["warn  dead letters", rest]).await;
    says(&["check", "--on-refusal", "dead-letter"], 1, &["FAIL  dead letters", rest]).await;
    client.batch_execute(rest).await.unwrap();
    says(&["check", "--on-refusal", "dead-letter"], 0, &["ok    dead letters", "none waits"]).await;
    // With both rights the request itself is looked at: there is nothing to replay.
    says(&["dead-letters", "replay", "--all"], 1, &["no open dead letter"]).await;
    let letter = "INSERT INTO outbox.dead_letters (slot, commit_lsn, index, error, attempts) VALUES ($1::text, '0/A0', 0, 'why', 1)";
    client.execute(letter, &[&world.slot]).await.unwrap();
    says(&["check"], 0, &["warn  dead letters 1 message waits", "walpost dead-letters list"]).await;
    says(&["status"], 0, &["1 dead letter: `walpost dead-letters list`"]).await;
    // Neither topic nor key could be read: it stands alone, and can be replayed.
    says(&["dead-letters", "replay", "0/A0+0"], 0, &["1 letter without a key"]).await;

    client.batch_execute("REVOKE SELECT ON outbox.dead_letters FROM \"Desk Clerk\"").await.unwrap();
    says(&["status"], 0, &["parked      unknown"]).await;
    client.batch_execute("DROP TABLE outbox.dead_letters").await.unwrap();
    for command in [&["list"][..], &["show", "0/A0+0"], &["replay", "--all"], &["discard", "--all", "--yes"]]
    {
        let args = [&["dead-letters"], command].concat();
        says(&args, 1, &["table outbox.dead_letters does not exist", "walpost setup"]).await;
    }
    says(&["check"], 0, &["ok    dead letters no table outbox.dead_letters"]).await;
    says(&["check", "--on-refusal", "dead-letter"], 1, &["FAIL  dead letters", "walpost setup"]).await;
    says(&["status", "--json"], 0, &["\"dead_letters\":null"]).await;
}

/// Restored into another database system, letters bear positions of a log that is not there.
#[tokio::test]
async fn letters_of_another_system_are_told_with_what_inserts_them_again() {
    let desk = Desk::new("letterforeign").await;
    desk.park("0/A0+0", "orders", Some(b"ada"), 6).await;
    desk.park("FFFF/A0+0", "orders", Some(b"bob"), 6).await;
    desk.park("FFFF/A0+1", "orders", None, 6).await;
    let (stdout, _) = desk.succeeds(&["replay", "--all"]).await;
    assert!(stdout.contains("2 of them lie beyond the end of the log"), "{stdout}");
    let sql = stdout.split("then discard them: ").nth(1).unwrap();
    desk.client.batch_execute(sql).await.unwrap();
    let sql = "SELECT topic, key, payload::text FROM outbox.messages ORDER BY created_at, key NULLS LAST";
    let rows = desk.client.query(sql, &[]).await.unwrap();
    let rows: Vec<(String, Option<String>, Option<String>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let keys: Vec<_> = rows.iter().map(|row| row.1.as_deref()).collect();
    assert_eq!(keys, [Some("bob"), None], "{rows:?}");
    let (stdout, _) = desk.succeeds(&["replay", "0/A0+0"]).await;
    assert!(!stdout.contains("beyond"), "{stdout}");
}
