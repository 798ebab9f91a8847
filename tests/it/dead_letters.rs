//! Messages that Kafka will not take: named, retried, then halted at or parked, and sent again on request.

use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaRespErr;
use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{Consumed, KafkaBroker, PATIENCE, PostgresServer, Walpost, consume, eventually, unique};
use crate::world::{World, stop};

/// How the log begins to tell of a letter that was asked for in vain.
const REFUSED_AGAIN: &str = r#""message":"a dead letter was refused again""#;

/// A relay that parks after one quick retry.
pub(crate) async fn parking(world: &World) -> Walpost {
    parking_with(world, &[]).await
}

pub(crate) async fn parking_with(world: &World, args: &[&str]) -> Walpost {
    let relay = quick(world.command(["run", "--on-refusal", "dead-letter"])).args(args).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    relay
}

pub(crate) fn quick(command: crate::support::walpost::Builder) -> crate::support::walpost::Builder {
    command
        .env("WALPOST_MAX_RETRIES", "1")
        .env("WALPOST_BASE_DELAY", "100ms")
        .env("WALPOST_KAFKA_TOPIC_METADATA_PROPAGATION_MAX_MS", "1000")
}

pub(crate) async fn insert(client: &Client, topic: &str, key: Option<&str>, payload: &str) -> Uuid {
    let sql =
        "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, $2, $3::text::json) RETURNING id";
    client.query_one(sql, &[&topic, &key, &payload]).await.unwrap().get(0)
}

/// Open letters: id, error, attempts, in order.
pub(crate) async fn letters(client: &Client) -> Vec<(Option<Uuid>, String, i32)> {
    let sql = "SELECT id, error, attempts FROM outbox.dead_letters WHERE done_at IS NULL ORDER BY commit_lsn, index";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Asks for a replay of all that is open.
pub(crate) async fn replay_all(world: &World) {
    replay_all_of(world, "outbox.messages").await;
}

/// The same of another table.
pub(crate) async fn replay_all_of(world: &World, table: &str) {
    let output = world.command(["dead-letters", "replay", "--all", "--table", table]).output().await;
    assert!(output.status.success(), "{output:?}");
}

pub(crate) fn ids(records: &[Consumed]) -> Vec<Uuid> {
    records.iter().map(|record| record.header("id").unwrap().parse().unwrap()).collect()
}

/// A payload that the topic takes only after it was widened.
pub(crate) fn large() -> String {
    format!("\"{}\"", "x".repeat(500_000))
}

pub(crate) async fn too_large_world(prefix: &str) -> (World, Client) {
    let world = World::new(prefix, 1).await;
    world.set_message_size("200000").await;
    let client = world.database.client().await;
    (world, client)
}

#[tokio::test]
async fn a_message_too_large_is_parked_with_those_of_its_key_and_replayed_in_order() {
    let (world, client) = too_large_world("parked").await;
    let topic = &world.topic;
    let mut flows = vec![insert(&client, topic, Some("a"), "1").await];
    let mut waits = vec![insert(&client, topic, Some("b"), &large()).await];
    for n in 0..50 {
        waits.push(insert(&client, topic, Some("b"), &n.to_string()).await);
        flows.push(insert(&client, topic, Some("a"), &n.to_string()).await);
        flows.push(insert(&client, topic, None, &n.to_string()).await);
    }
    let relay = parking(&world).await;
    world.caught_up().await;
    let mut arrived = ids(&world.consume(flows.len()).await);
    let mut seen = std::collections::HashSet::new();
    arrived.retain(|id| seen.insert(*id));
    assert_eq!(arrived, flows, "all others flow, in order");
    let parked = letters(&client).await;
    assert_eq!(parked.iter().map(|letter| letter.0.unwrap()).collect::<Vec<_>>(), waits);
    assert_eq!((parked[0].2, parked[1].2), (2, 0));
    assert!(parked[0].1.contains("too large"), "{}", parked[0].1);
    assert!(relay.log().contains("parked as dead letters"), "{}", relay.log());
    assert!(!relay.log().contains("xxxxxxxx"), "payloads are never logged");
    let sql = "SELECT payload = convert_to($1, 'UTF8') FROM outbox.dead_letters WHERE id = $2";
    let exact: bool = client.query_one(sql, &[&large(), &waits[0]]).await.unwrap().get(0);
    assert!(exact, "never truncated");

    // Parked keys outlive the process that parked them.
    stop(relay).await;
    let relay = parking(&world).await;
    waits.push(insert(&client, topic, Some("b"), "\"later\"").await);
    world.caught_up().await;
    assert_eq!(letters(&client).await.len(), waits.len());

    world.set_message_size("5000000").await;
    replay_all(&world).await;
    waits.push(insert(&client, topic, Some("b"), "\"last\"").await);
    world.caught_up().await;
    let records = world.consume(flows.len() + waits.len()).await;
    let of_key: Vec<_> =
        records.iter().filter(|record| record.key.as_deref() == Some(b"b")).cloned().collect();
    assert_eq!(ids(&of_key), waits, "the order within the key is kept");
    let place = |record: &Consumed| {
        let lsn: walpost::Lsn = record.header("walpost.lsn").unwrap().parse().unwrap();
        (lsn, record.header("walpost.index").unwrap().parse::<u64>().unwrap())
    };
    let places: Vec<_> = of_key.iter().map(place).collect();
    assert!(
        places.is_sorted_by(|a, b| a < b),
        "a consumer that drops what is not greater drops none: {places:?}"
    );
    assert!(places[0] > place(&records[flows.len() - 1]), "nor by what came before");
    assert_eq!(of_key[0].payload.as_deref(), Some(large().as_bytes()));
    assert_eq!(letters(&client).await, []);
    stop(relay).await;
}

#[tokio::test]
async fn by_default_the_line_halts_after_its_retries() {
    let (world, client) = too_large_world("halted").await;
    let before = insert(&client, &world.topic, Some("a"), "1").await;
    insert(&client, &world.topic, Some("b"), &large()).await;
    insert(&client, &world.topic, Some("a"), "2").await;
    let mut relay = quick(world.command(["run"])).spawn();
    let status = relay.wait(PATIENCE).await;
    assert_eq!(status.code(), Some(1), "{}", relay.log());
    let log = relay.log();
    assert!(log.contains("larger than allowed") && log.contains("message at "), "{log}");
    assert_eq!(ids(&world.consume(1).await), [before]);
    assert_eq!(letters(&client).await, []);
}

/// Killed in the middle of parking and of replaying, again and again: nothing is lost, nothing changes places.
#[tokio::test]
async fn parking_and_replaying_survive_kills() {
    let (world, client) = too_large_world("kills").await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut expected: Vec<Vec<Uuid>> = vec![Vec::new(); 4];
    for round in 0..6 {
        for n in 0..60 {
            let key = if (round, n) == (3, 0) { 0 } else { random.usize(0..4) };
            // Two of the four keys are poisoned now and then, and one of them once for certain.
            let is_poison = key < 2 && (random.u8(0..12) == 0 || (round, n) == (3, 0));
            let payload = if is_poison { large() } else { format!("[{round}, {n}]") };
            expected[key].push(insert(&client, &world.topic, Some(&key.to_string()), &payload).await);
        }
        if round == 4 {
            world.set_message_size("5000000").await;
        }
        let mut relay = parking(&world).await;
        if round == 5 {
            replay_all(&world).await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(50..1500))).await;
        if round == 3 {
            // From the next round on nothing is too large, and there must be something to be replayed.
            eventually("a letter", PATIENCE, async || (!letters(&client).await.is_empty()).then_some(()))
                .await;
        }
        relay.kill().await;
    }
    let relay = parking(&world).await;
    world.caught_up().await;
    let open = letters(&client).await.len();
    if open > 0 {
        // Parked by the last life, behind a letter that was asked for before.
        replay_all(&world).await;
        world.caught_up().await;
    }
    assert_eq!(letters(&client).await, []);
    let records = world.consume(expected.iter().map(Vec::len).sum()).await;
    for (key, wanted) in expected.iter().enumerate() {
        let key = key.to_string();
        let of_key: Vec<_> =
            records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes())).cloned().collect();
        let mut seen = std::collections::HashSet::new();
        let mut first = ids(&of_key);
        first.retain(|id| seen.insert(*id));
        assert_eq!(&first, wanted, "key {key}");
    }
    stop(relay).await;
}

/// A row that is no message, a header that is no object, a name that is no topic's: the table's constraints are
/// gone, as in tables of others.
#[tokio::test]
async fn rows_that_are_no_messages_are_parked_and_named() {
    let world = World::new("unfit", 1).await;
    let client = world.database.client().await;
    client
        .batch_execute(
            "ALTER TABLE outbox.messages DROP CONSTRAINT messages_topic_is_valid; \
             ALTER TABLE outbox.messages DROP CONSTRAINT messages_headers_is_an_object; \
             ALTER TABLE outbox.messages ALTER topic DROP NOT NULL; \
             ALTER TABLE outbox.messages ALTER headers TYPE text;",
        )
        .await
        .unwrap();
    let good = insert(&client, &world.topic, Some("k"), "1").await;
    let sql =
        "INSERT INTO outbox.messages (topic, key, payload, headers) VALUES ($1, NULL, '2', $2) RETURNING id";
    let mut bad = Vec::new();
    for (topic, headers) in [
        (Some("no such name!"), "{}"),
        (None, "{}"),
        (Some(""), "{}"),
        (Some(world.topic.as_str()), "[1]"),
        (Some(world.topic.as_str()), "not json"),
    ] {
        bad.push(client.query_one(sql, &[&topic, &headers]).await.unwrap().get::<_, Uuid>(0));
    }
    // Null is nothing unusual where it is allowed.
    let tombstone =
        "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, 'gone', NULL) RETURNING id";
    let tombstone: Uuid = client.query_one(tombstone, &[&world.topic]).await.unwrap().get(0);
    let keyless = insert(&client, &world.topic, None, "3").await;
    let relay = parking(&world).await;
    world.caught_up().await;
    assert_eq!(ids(&world.consume(3).await), [good, tombstone, keyless]);
    let parked = letters(&client).await;
    assert_eq!(parked.iter().map(|letter| letter.0.unwrap()).collect::<Vec<_>>(), bad);
    for (letter, text) in parked.iter().zip([
        "InvalidTopic",
        "column topic is null or empty",
        "column topic is null or empty",
        "the headers are not a JSON object",
        "the headers are not a JSON object",
    ]) {
        assert!(letter.1.contains(text), "{letter:?}");
    }
    // As if all of a row could be read but its time, and one from behind the request that comes next.
    let insert = format!(
        "INSERT INTO outbox.dead_letters (slot, commit_lsn, index, id, topic, payload, unfit_column, error, attempts) \
         SELECT '{}', at, 0, gen_random_uuid(), '{}', '4', unfit, 'put here', 1 \
         FROM (VALUES ('0/1'::pg_lsn, 'created_at'), ('FFFF/0', NULL)) AS letters (at, unfit)",
        world.slot, world.topic
    );
    client.batch_execute(&insert).await.unwrap();
    let parked: Vec<_> = letters(&client).await.into_iter().map(|letter| (letter.0, letter.2)).collect();
    replay_all(&world).await;
    world.caught_up().await;
    let again: Vec<_> = letters(&client).await.into_iter().map(|letter| (letter.0, letter.2)).collect();
    let ahead = parked.len() - 1;
    let refused =
        parked.iter().enumerate().map(|(nth, letter)| (letter.0, letter.1 + i32::from(nth < ahead)));
    assert_eq!(again, refused.collect::<Vec<_>>());
    assert_eq!(ids(&world.consume(3).await), [good, tombstone, keyless]);
    stop(relay).await;
}

/// A topic that is missing, or closed to us, takes no message; all others flow, quickly.
#[tokio::test]
async fn a_topic_that_takes_nothing_holds_nobody_up() {
    let world = World::new("closed", 1).await;
    let client = world.database.client().await;
    let mock: MockCluster<'static, DefaultProducerContext> = MockCluster::new(1).unwrap();
    mock.create_topic("open", 1, 1).unwrap();
    mock.topic_error("secret", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    mock.topic_error("missing", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let mut flows = Vec::new();
    for n in 0..200 {
        insert(&client, "secret", None, &n.to_string()).await;
        insert(&client, "missing", Some(&n.to_string()), &n.to_string()).await;
        flows.push(insert(&client, "open", None, &n.to_string()).await);
    }
    let relay = quick(world.command(["run", "--on-refusal", "dead-letter"]))
        .env("WALPOST_BROKERS", mock.bootstrap_servers())
        .spawn();
    world.caught_up().await;
    let arrived = ids(&consume(&mock.bootstrap_servers(), "open", flows.len(), PATIENCE).await);
    let mut seen = std::collections::HashSet::new();
    let first: Vec<_> = arrived.into_iter().filter(|id| seen.insert(*id)).collect();
    assert_eq!(first, flows);
    let parked = letters(&client).await;
    assert_eq!(parked.len(), 400);
    for text in ["authorization", "nknown topic"] {
        assert!(parked.iter().any(|letter| letter.1.contains(text)), "{text}: {:?}", &parked[..2]);
    }

    // Asked for before anything is mended: one answer of each topic speaks for all its letters.
    let asked = Instant::now();
    replay_all(&world).await;
    flows.push(insert(&client, "open", None, "\"behind\"").await);
    world.caught_up().await;
    println!("400 letters of two closed topics held up the line for {:.1?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert_eq!(relay.log().matches(REFUSED_AGAIN).count(), 2);
    assert_eq!(letters(&client).await.len(), 400);
    let arrived = ids(&consume(&mock.bootstrap_servers(), "open", flows.len(), PATIENCE).await);
    assert_eq!(arrived.last(), flows.last());
    stop(relay).await;
}

/// Asked for before the topic takes them: none that is as large as one that was refused is tried in vain, and what is
/// small enough is sent in its order.
#[tokio::test]
async fn a_replay_of_what_is_still_too_large_costs_few_answers() {
    let (world, client) = too_large_world("stilllarge").await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut wanted: Vec<Vec<Uuid>> = Vec::new();
    for key in 0..40 {
        let payload = format!("\"{}\"", "x".repeat(random.usize(250_000..900_000)));
        let (key, mut of_key) = (key.to_string(), Vec::new());
        for payload in [payload.as_str(), "1", "2"] {
            of_key.push(insert(&client, &world.topic, Some(&key), payload).await);
        }
        wanted.push(of_key);
    }
    let relay = parking(&world).await;
    world.caught_up().await;
    assert_eq!(letters(&client).await.len(), 120);
    let asked = Instant::now();
    replay_all(&world).await;
    let behind = insert(&client, &world.topic, Some("other"), "3").await;
    world.caught_up().await;
    let answers = relay.log().matches(REFUSED_AGAIN).count();
    println!("40 letters that are too large held up the line for {:.1?}, {answers} answers", asked.elapsed());
    // One for each that is smaller than all before it: on the average the 40th harmonic number, 4.3.
    assert!((1..=15).contains(&answers), "{answers}");
    assert_eq!(ids(&world.consume(1).await), [behind]);
    assert_eq!(letters(&client).await.len(), 120);

    world.set_message_size("5000000").await;
    replay_all(&world).await;
    world.caught_up().await;
    let records = world.consume(121).await;
    for (key, wanted) in wanted.iter().enumerate() {
        let key = key.to_string();
        let of_key = records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
        let mut seen = std::collections::HashSet::new();
        let mut first = ids(&of_key.cloned().collect::<Vec<_>>());
        first.retain(|id| seen.insert(*id));
        assert_eq!(&first, wanted, "key {key}");
    }
    assert_eq!(letters(&client).await, []);
    stop(relay).await;
}

/// Deleted while the relay runs: the message is named, and goes on once the topic is there again.
/// What is large is read piece by piece, whichever column it is in: no answer of the server's may be that large.
#[tokio::test]
async fn letters_whose_text_is_large_are_read_and_stay() {
    let (world, client) = too_large_world("largetext").await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload, event_type, correlation_id) VALUES ($1, 'b', '1', \
               repeat($2, 9000000), repeat($3, 5000000))";
    for (event_type, correlation_id) in [("e", "c"), ("é", "ç")] {
        client.execute(sql, &[&world.topic, &event_type, &correlation_id]).await.unwrap();
    }
    let relay = parking(&world).await;
    world.caught_up().await;
    assert_eq!(letters(&client).await.len(), 2);
    replay_all(&world).await;
    let behind = insert(&client, &world.topic, Some("other"), "3").await;
    world.caught_up().await;
    assert_eq!(ids(&world.consume(1).await), [behind]);
    assert_eq!(letters(&client).await.len(), 2);
    assert!(
        relay.log().contains(REFUSED_AGAIN) && !relay.log().contains("talks without end"),
        "{}",
        relay.log()
    );
    // A topic of that length is none, but other tables than ours let it in.
    let sql = "UPDATE outbox.dead_letters SET topic = repeat('t', 9000000)";
    client.execute(sql, &[]).await.unwrap();
    stop(relay).await;
    let relay = parking(&world).await;
    replay_all(&world).await;
    let last = insert(&client, &world.topic, Some("other"), "4").await;
    world.caught_up().await;
    assert_eq!(ids(&world.consume(2).await), [behind, last]);
    assert_eq!(letters(&client).await.len(), 2);
    stop(relay).await;
}

#[tokio::test]
async fn a_topic_deleted_while_running_is_named() {
    let broker = KafkaBroker::start().await;
    let world = World::on(PostgresServer::shared().await, &broker, "deleted", 1).await;
    let client = world.database.client().await;
    let (kept, doomed) = (world.topic.clone(), unique("doomed"));
    broker.create_topic(&doomed, 1).await;
    let relay = parking(&world).await;
    insert(&client, &doomed, Some("k"), "1").await;
    insert(&client, &kept, Some("k"), "1").await;
    world.caught_up().await;
    broker.delete_topic(&doomed).await;
    let orphan = insert(&client, &doomed, Some("k"), "2").await;
    let flows = insert(&client, &kept, Some("k"), "2").await;
    eventually("the orphan to be parked", PATIENCE, async || {
        letters(&client).await.iter().any(|letter| letter.0 == Some(orphan)).then_some(())
    })
    .await;
    world.caught_up().await;
    assert_eq!(ids(&world.consume(2).await).last(), Some(&flows));
    broker.create_topic(&doomed, 1).await;
    replay_all(&world).await;
    eventually("the orphan to be sent", PATIENCE, async || letters(&client).await.is_empty().then_some(()))
        .await;
    assert_eq!(ids(&consume(broker.brokers(), &doomed, 1, PATIENCE).await), [orphan]);
    stop(relay).await;
}

/// The letters have to be durable, or the slot must not move.
#[tokio::test]
async fn without_the_table_a_relay_that_parks_does_not_start() {
    let world = World::new("tableless", 1).await;
    let client = world.database.client().await;
    client.batch_execute("DROP TABLE outbox.dead_letters").await.unwrap();
    let mut relay = world.command(["run", "--on-refusal", "dead-letter"]).spawn();
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(1));
    assert!(
        relay.log().contains("outbox.dead_letters") && relay.log().contains("walpost setup"),
        "{}",
        relay.log()
    );
    // One that halts needs none.
    let relay = world.relay().await;
    let sql = format!("SELECT pg_logical_emit_message(true, 'walpost.dead_letters', '{}')", world.slot);
    client.batch_execute(&sql).await.unwrap();
    let id = insert(&client, &world.topic, None, "1").await;
    assert_eq!(ids(&world.consume(1).await), [id]);
    world.caught_up().await;
    stop(relay).await;
}

/// Whoever may log in may write into the log; that must not stop a relay that has no right to the letters and needs none.
#[tokio::test]
async fn a_request_stops_no_relay_that_may_not_see_the_letters() {
    let world = World::new("denied", 1).await;
    let client = world.database.client().await;
    let role = unique("relay");
    let sql = format!(
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'secret'; GRANT USAGE ON SCHEMA outbox TO {role}; \
         GRANT SELECT ON outbox.messages TO {role}; GRANT SELECT ON outbox.dead_letters TO {role}"
    );
    client.batch_execute(&sql).await.unwrap();
    let url = &world.database.url;
    let start = url.find("://").unwrap() + 3;
    let end = url[start..].find('@').map_or(start, |at| start + at + 1);
    let theirs = format!("{}{role}:secret@{}", &url[..start], &url[end..]);
    let relay = world.command(["run"]).env("WALPOST_DATABASE_URL", theirs).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let sql = format!("SELECT pg_logical_emit_message(true, 'walpost.dead_letters', '{}')", world.slot);
    client.batch_execute(&sql).await.unwrap();
    let id = insert(&client, &world.topic, None, "1").await;
    assert_eq!(ids(&world.consume(1).await), [id]);
    assert!(relay.log().contains("a request to replay dead letters can't be met"), "{}", relay.log());
    stop(relay).await;
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}
