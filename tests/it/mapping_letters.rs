//! Rows of tables that others have made, parked and sent again: as they would have been sent.

use crate::dead_letters::{ids, insert, large, letters, parking_with, quick, replay_all_of, too_large_world};
use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer};
use crate::world::{World, stop};

const TABLE: &str = "CREATE TABLE events (number bigserial PRIMARY KEY, topic text, who text, what text, lane int, at bigint)";

const MAPPING: [&str; 22] = [
    "--table",
    "events",
    "--map-id",
    "{number}",
    "--map-topic",
    "{topic}",
    "--map-key",
    "{who}",
    "--map-partition",
    "{lane}",
    "--map-value",
    "{what}",
    "--map-timestamp",
    "{at} s",
    "--map-event-type",
    "none",
    "--map-headers",
    "from={who}.{lane}",
    "--map-correlation-id",
    "none",
    "--map-own-headers",
    "no",
];

type Seen = (i32, Option<String>, usize, Option<i64>, Vec<(String, Option<Vec<u8>>)>);

fn seen(record: &Consumed) -> Seen {
    (
        record.partition,
        record.key.clone().map(|key| String::from_utf8(key).unwrap()),
        record.payload.as_ref().map_or(0, Vec::len),
        record.timestamp,
        record.headers.clone(),
    )
}

fn sent(lane: i32, who: &str, length: usize, at: i64) -> Seen {
    let from = ("from".to_owned(), Some(format!("{who}.{lane}").into_bytes()));
    (lane, Some(who.to_owned()), length, Some(at * 1000), vec![from])
}

#[tokio::test]
async fn a_parked_row_of_a_mapped_table_is_replayed_into_its_own_partition() {
    let world = World::bare(PostgresServer::shared().await, KafkaBroker::shared().await, "lanes", 4).await;
    let client = world.database.client().await;
    client.batch_execute(TABLE).await.unwrap();
    world.set_message_size("200000").await;
    let with = |command| world.command([command]).args(MAPPING);
    let setup = with("setup").output().await;
    assert!(setup.status.success(), "{setup:?}");
    let relay = quick(with("run").args(["--on-refusal", "dead-letter"])).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let insert = "INSERT INTO events (topic, who, what, lane, at) VALUES ($1, $2, $3, $4, 1700000000)";
    let large = large();
    for (who, what, lane) in [("b", large.as_str(), 3), ("a", "1", 0), ("b", "22", 3), ("b", "333", 1)] {
        client.execute(insert, &[&world.topic, &who, &what, &lane]).await.unwrap();
    }
    world.caught_up().await;
    let flown: Vec<_> = world.consume(1).await.iter().map(seen).collect();
    assert_eq!(flown, [sent(0, "a", 1, 1_700_000_000)]);

    world.set_message_size("5000000").await;
    replay_all_of(&world, "events").await;
    let mut all: Vec<_> = world.consume(4).await.iter().map(seen).collect();
    all.sort_by_key(|seen| (seen.0, std::cmp::Reverse(seen.2)));
    let at = 1_700_000_000;
    let expected =
        [sent(0, "a", 1, at), sent(1, "b", 3, at), sent(3, "b", large.len(), at), sent(3, "b", 2, at)];
    assert_eq!(all, expected);
    world.caught_up().await;
    stop(relay).await;
}

/// A refused row is known by its place in its transaction, in which rows that are not sent have theirs.
#[tokio::test]
async fn rows_that_are_passed_over_put_no_blame_on_others() {
    let (world, client) = too_large_world("passed_over").await;
    client.batch_execute("ALTER TABLE outbox.messages ADD COLUMN draft bool").await.unwrap();
    let relay = parking_with(&world, &["--map-only", "draft="]).await;
    let (topic, mut sent) = (&world.topic, Vec::new());
    client.batch_execute("BEGIN").await.unwrap();
    let draft = "INSERT INTO outbox.messages (topic, key, payload, draft) VALUES ($1, 'a', '0', true)";
    for key in ["a", "b", "c"] {
        client.execute(draft, &[topic]).await.unwrap();
        sent.push(insert(&client, topic, Some(key), "1").await);
        client.execute(draft, &[topic]).await.unwrap();
    }
    let refused = insert(&client, topic, Some("d"), &large()).await;
    sent.push(insert(&client, topic, Some("e"), "1").await);
    client.batch_execute("COMMIT").await.unwrap();
    world.caught_up().await;
    let parked: Vec<_> = letters(&client).await.into_iter().map(|letter| letter.0).collect();
    assert_eq!(parked, [Some(refused)]);
    let mut arrived = ids(&world.consume(sent.len()).await);
    let mut seen = std::collections::HashSet::new();
    arrived.retain(|id| seen.insert(*id));
    assert_eq!(arrived, sent);
    stop(relay).await;
}
