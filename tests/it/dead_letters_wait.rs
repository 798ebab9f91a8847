//! What the relay waits for at the table of dead letters costs nothing else, and who may write to it.

use std::time::Duration;

use tokio_postgres::Client;
use uuid::Uuid;
use walpost::dead_letters::{DeadLetter, DeadLetterStore, Reach, Replay};
use walpost::{Batch, Lsn, OutboxMessage, OutboxStore, Position};

use crate::dead_letters::{ids, insert, large, letters, parking, quick, too_large_world};
use crate::identity::{ends_saying, statement};
use crate::life::{get, lives};
use crate::stall::falls;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually, major};
use crate::world::{World, stop};

/// Parks a message of key b, and locks the table of letters.
async fn locked(world: &World, client: &Client) -> (Vec<Uuid>, Client) {
    let waits = vec![insert(client, &world.topic, Some("b"), &large()).await];
    world.caught_up().await;
    let locker = world.database.client().await;
    locker.batch_execute("BEGIN; LOCK TABLE outbox.dead_letters IN EXCLUSIVE MODE").await.unwrap();
    (waits, locker)
}

/// Longer than any patience: the kernel's with a loop that stands still, a standby's, the server's.
#[tokio::test]
async fn a_locked_table_of_letters_costs_neither_slot_nor_process() {
    let (world, client) = too_large_world("locked").await;
    let relay = parking(&world).await;
    let address = relay.listen_address().await;
    let (mut waits, locker) = locked(&world, &client).await;
    let second = world.command(["run", "--on-refusal", "dead-letter"]).spawn();
    second.wait_for_log("standing by", PATIENCE).await;
    let began = lives(address).await;
    let mut flows = Vec::new();
    client.batch_execute("BEGIN").await.unwrap();
    for n in 0..100 {
        flows.push(insert(&client, &world.topic, Some("a"), &n.to_string()).await);
        waits.push(insert(&client, &world.topic, Some("b"), &n.to_string()).await);
    }
    client.batch_execute("COMMIT").await.unwrap();
    let answer = falls(address, "the table of dead letters is locked").await;
    assert_eq!((&answer["state"], &answer["stage"]), (&"stalled".into(), &"dead letters".into()), "{answer}");
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(get(address, "/healthz").await.0, 200);
    assert!(!second.log().contains("\"streaming\""), "{}", second.log());
    assert!(relay.log().contains("waiting: the table of dead letters has not answered"), "{}", relay.log());
    locker.batch_execute("COMMIT").await.unwrap();
    world.caught_up().await;
    assert_eq!(lives(address).await, began, "{}", relay.log());
    let parked: Vec<_> = letters(&client).await.iter().map(|letter| letter.0.unwrap()).collect();
    assert_eq!(parked, waits);
    assert_eq!(ids(&world.consume(flows.len()).await), flows, "each once");
    stop(second).await;
    stop(relay).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_locked_table_of_letters() {
    let (world, client) = too_large_world("lockedstop").await;
    let command = world.command(["run", "--on-refusal", "dead-letter", "--drain-timeout", "3s"]);
    let mut relay = quick(command).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    let (mut waits, locker) = locked(&world, &client).await;
    waits.push(insert(&client, &world.topic, Some("b"), "2").await);
    relay.wait_for_log("waiting: the table of dead letters", PATIENCE).await;
    relay.terminate();
    assert_eq!(relay.wait(Duration::from_secs(10)).await.code(), Some(0), "{}", relay.log());
    assert!(relay.log().contains("they will be sent again"), "{}", relay.log());
    locker.batch_execute("COMMIT").await.unwrap();
    let relay = parking(&world).await;
    world.caught_up().await;
    let parked: Vec<_> = letters(&client).await.iter().map(|letter| letter.0.unwrap()).collect();
    assert_eq!(parked, waits);
    stop(relay).await;
}

/// A stream that fails for good is not heard while a letter waits. What only a person can mend must come out all the
/// same, and not be hidden for ever behind the slot that was lost by it.
#[tokio::test]
async fn what_the_stream_said_last_is_told_although_a_letter_was_waited_for() {
    let (world, client) = too_large_world("lastwords").await;
    // From 18 on the server goes on without the publication, and says so.
    let words = if major(&client).await < 18 {
        ["SQLSTATE 42704", "the publication was missing"]
    } else {
        ["SQLSTATE 55000", "skipped loading publication"]
    };
    let mut relay = parking(&world).await;
    let (_, locker) = locked(&world, &client).await;
    insert(&client, &world.topic, Some("b"), "2").await;
    relay.wait_for_log("waiting: the table of dead letters", PATIENCE).await;
    client.batch_execute("DROP PUBLICATION walpost").await.unwrap();
    insert(&client, &world.topic, Some("a"), "3").await;
    ends_saying(&mut relay, PATIENCE, &words).await;
    locker.batch_execute("COMMIT").await.unwrap();

    // Nor behind a letter that comes with it in one piece.
    let setup = world.command(["setup"]).output().await;
    // Before 18 no relay can read past that row, and set-up says so.
    assert_eq!(setup.status.success(), major(&client).await >= 18, "{setup:?}");
    let mut relay = quick(world.command(["run", "--on-refusal", "dead-letter"])).spawn();
    ends_saying(&mut relay, PATIENCE, &words).await;
}

/// What was dropped in search of a reason must not be a hole in what is published.
#[tokio::test]
async fn a_stream_that_was_left_hands_out_nothing_more() {
    let world = World::new("left", 1).await;
    let mut store = world.source().open().await.unwrap();
    world.insert(&world.database.client().await, 3).await;
    assert!(store.last_words().await.is_none());
    let error = store.fetch_pending(&mut Batch::new()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

/// The log brings a request before its COMMIT has returned, and others can't see it yet: here it waits for a standby
/// that is not there. It is met all the same.
#[tokio::test]
async fn a_request_that_nobody_sees_yet_is_waited_for() {
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "unseen", 1).await;
    world.set_message_size("200000").await;
    let client = world.database.client().await;
    let name = client.query_one("SELECT current_database()::text", &[]).await.unwrap().get::<_, String>(0);
    client.batch_execute(&format!("ALTER DATABASE {name} SET synchronous_commit = 'local'")).await.unwrap();
    let client = world.database.client().await;
    let relay = parking(&world).await;
    let letter = insert(&client, &world.topic, Some("a"), &large()).await;
    world.caught_up().await;
    assert_eq!(letters(&client).await.len(), 1);
    world.set_message_size("5000000").await;
    let standby = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";
    client.batch_execute(standby).await.unwrap();
    client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    eventually("the standby to be waited for", PATIENCE, async || {
        let name = client.query_one("SHOW synchronous_standby_names", &[]).await.unwrap();
        (name.get::<_, &str>(0) == "nobody").then_some(())
    })
    .await;
    let asking =
        world.command(["dead-letters", "replay", "--all"]).env("PGOPTIONS", "-c synchronous_commit=on");
    let asking = tokio::spawn(async move { asking.output().await });
    // Waits for a COMMIT that is not seen yet.
    relay.wait_for_log("waiting: the table of dead letters has not answered", PATIENCE).await;
    assert_eq!(letters(&client).await.len(), 1);
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    assert!(asking.await.unwrap().status.success());
    eventually("the letter to be sent", PATIENCE, async || letters(&client).await.is_empty().then_some(()))
        .await;
    assert_eq!(ids(&world.consume(1).await), [letter]);
    stop(relay).await;
}

fn letter(commit_lsn: Lsn, key: &'static str) -> DeadLetter {
    let message = OutboxMessage::new("t", "1").with_key(key);
    let position = Position { commit_lsn, index: 0 };
    DeadLetter { position, message, unfit: None, error: "too large".to_owned(), attempts: 1 }
}

/// Everything in the table, whatever became of it.
async fn all_letters(client: &Client) -> Vec<String> {
    let rows = client.query("SELECT d::text FROM outbox.dead_letters d ORDER BY 1", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// A relay that stood still may be continued in the midst of a statement on letters, which are no longer its own.
#[tokio::test]
async fn who_has_lost_the_slot_writes_no_letter() {
    let world = World::new("fenced", 1).await;
    let client = world.database.client().await;
    let source = || world.source().with_dead_letters();
    let (one, two) = (letter(Lsn(100), "a"), letter(Lsn(200), "b"));

    let first = source().open().await.unwrap();
    let mut of_first = first.dead_letters();
    of_first.park(std::slice::from_ref(&one)).await.unwrap();
    client
        .execute("UPDATE outbox.dead_letters SET requested_at = now(), replay_lsn = '0/1'", &[])
        .await
        .unwrap();
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1";
    client.execute(end, &[&world.slot]).await.unwrap();
    world.slot_is_free().await;
    let second = source().open().await.unwrap();
    let mut of_second = second.dead_letters();
    let before = all_letters(&client).await;

    let replay = Replay { send_as: Position { commit_lsn: Lsn(300), index: 0 }, letter: one.clone() };
    let errors = [
        of_first.park(std::slice::from_ref(&two)).await.unwrap_err(),
        of_first.to_replay(Lsn(300), 10).await.unwrap_err(),
        of_first.replayed(&[one.position]).await.unwrap_err(),
        of_first.refused_again(&replay, "no", Reach::Topic).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_transient() && error.to_string().contains("no longer held"), "{error}");
    }
    assert_eq!(all_letters(&client).await, before, "nothing was written");

    of_second.park(std::slice::from_ref(&two)).await.unwrap();
    assert_eq!(of_second.to_replay(Lsn(300), 10).await.unwrap().len(), 1);
    of_second.refused_again(&replay, "no", Reach::Key).await.unwrap();
    of_second.replayed(&[two.position]).await.unwrap();
    let open = letters(&client).await;
    assert_eq!(open, [(Some(one.message.id()), "no".to_owned(), 2)]);
}

/// In a restored database the log comes to positions that it has had before.
#[tokio::test]
async fn a_letter_whose_place_is_taken_by_another_message_is_not_dropped() {
    let world = World::new("taken", 1).await;
    let client = world.database.client().await;
    let store = world.source().with_dead_letters().open().await.unwrap();
    let mut desk = store.dead_letters();
    let (old, new) = (letter(Lsn(0x100), "a"), letter(Lsn(0x100), "a"));
    desk.park(std::slice::from_ref(&old)).await.unwrap();
    desk.park(std::slice::from_ref(&old)).await.unwrap();
    let error = desk.park(std::slice::from_ref(&new)).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("0/100"), "{error}");
    client.batch_execute(&statement(error.advice().unwrap(), "UPDATE", ";")).await.unwrap();
    desk.park(std::slice::from_ref(&new)).await.unwrap();
    assert_eq!(letters(&client).await.len(), 2, "both are kept");
}
