//! Rows that are sent later, while relays and servers die.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::bytes::memory;
use crate::later::{dues, held, id, insert, none_early, values, world_on};
use crate::life::get;
use crate::support::{Consumed, PATIENCE, PostgresServer, eventually};
use crate::world::{World, stop};

/// Every row of the table came, at one position, and none before its time. Returns how many came again.
async fn judge(client: &Client, records: &[Consumed]) -> usize {
    let dues = dues(client).await;
    none_early(records, &dues);
    let mut positions: HashMap<Uuid, HashSet<(String, String)>> = HashMap::new();
    for record in records {
        let header = |name| record.header(name).unwrap().to_owned();
        positions.entry(id(record)).or_default().insert((header("walpost.lsn"), header("walpost.index")));
    }
    let twice: Vec<_> = positions.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(
        twice.is_empty(),
        "{} of {} under two positions: {:?}",
        twice.len(),
        positions.len(),
        twice.first()
    );
    let ids = client.query("SELECT id FROM outbox.messages", &[]).await.unwrap();
    let lost: Vec<Uuid> =
        ids.iter().map(|row| row.get(0)).filter(|id: &Uuid| !positions.contains_key(id)).collect();
    assert!(lost.is_empty(), "{} of {} lost: {:?}", lost.len(), ids.len(), &lost[..lost.len().min(3)]);
    assert_eq!(ids.len(), positions.len(), "nothing invented");
    records.len() - positions.len()
}

/// Inserts rows of all kinds until told to stop.
async fn load(world: &World, client: &Client, seed: u64, rounds: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut next = 0;
    for _ in 0..rounds {
        let count = random.i64(1..40);
        let values: Vec<i64> = (next..next + count).collect();
        next += count;
        let due = "CASE v % 4 WHEN 0 THEN NULL WHEN 1 THEN now() - interval '1 ms' ELSE now() + (v * 7919 % 2000) * interval '1 ms' END";
        insert(world, client, &values, due).await;
        sleep(Duration::from_millis(random.u64(5..40))).await;
    }
}

/// All that was released and all that was not is in the topic, and the slot is behind it.
async fn all(world: &World, client: &Client) -> Vec<Consumed> {
    eventually("no row to wait", PATIENCE, async || (held(client).await == 0).then_some(())).await;
    world.caught_up().await;
    let count: i64 = client.query_one("SELECT count(*) FROM outbox.messages", &[]).await.unwrap().get(0);
    world.consume(usize::try_from(count).unwrap()).await
}

#[tokio::test]
async fn a_relay_that_is_killed_again_and_again_loses_none_and_sends_none_early() {
    let (world, client) = world_on(PostgresServer::shared().await, "killed").await;
    let seed = fastrand::u64(..1 << 40);
    let writer = world.database.client().await;
    let kills = async {
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..15 {
            let mut relay = world.relay().await;
            sleep(Duration::from_millis(random.u64(0..700))).await;
            relay.kill().await;
        }
    };
    tokio::join!(kills, load(&world, &writer, seed, 300));
    let relay = world.relay().await;
    let records = all(&world, &client).await;
    let repeats = judge(&client, &records).await;
    println!("seed {seed}: {} records, {repeats} repeats", records.len());
    stop(relay).await;
}

#[tokio::test]
async fn a_server_that_crashes_loses_none_and_repeats_under_one_position() {
    let server = PostgresServer::start(&[]).await;
    let (world, client) = world_on(&server, "crashed").await;
    drop(client);
    let seed = fastrand::u64(..1 << 40);
    let mut random = fastrand::Rng::with_seed(seed);
    let relay = world.relay().await;
    for round in 0..5 {
        let writer = world.database.client().await;
        load(&world, &writer, seed + round, 30).await;
        sleep(Duration::from_millis(random.u64(0..500))).await;
        drop(writer);
        let mark = relay.mark();
        server.kill_all().await;
        server.start_again().await;
        relay.wait_for_log_since(mark, "streaming", PATIENCE).await;
    }
    let client = world.database.client().await;
    let records = all(&world, &client).await;
    let repeats = judge(&client, &records).await;
    println!("seed {seed}: {} records, {repeats} repeats", records.len());
    stop(relay).await;
}

/// Somebody locks the table: what follows a row that can't be stored waits, the slot is kept, and it is told.
#[tokio::test]
async fn a_locked_table_stops_the_line_and_is_told() {
    let (world, client) = world_on(PostgresServer::shared().await, "locked").await;
    let relay = world.relay().await;
    insert(&world, &client, &[1], "now() + interval '1 s'").await;
    insert(&world, &client, &[2], "NULL").await;
    assert_eq!(values(&world.consume(2).await), [2, 1]);
    let locker = world.database.client().await;
    locker.batch_execute("BEGIN; LOCK TABLE outbox.scheduled IN ACCESS EXCLUSIVE MODE").await.unwrap();
    insert(&world, &client, &[3], "now() + interval '1 s'").await;
    insert(&world, &client, &[4], "NULL").await;
    relay.wait_for_log("waiting: outbox.scheduled has not answered for 5 s", PATIENCE).await;
    let address = relay.listen_address().await;
    eventually("it to be seen from outside", PATIENCE, async || {
        let (code, body) = get(address, "/readyz").await;
        (code == 503 && body.contains("later delivery")).then_some(())
    })
    .await;
    // Longer than another relay would wait, and than the lease lasts.
    sleep(Duration::from_secs(10)).await;
    assert_eq!(values(&world.consume(2).await), [2, 1]);
    assert!(!relay.log().contains("\"retrying\""), "{}", relay.log());
    locker.batch_execute("COMMIT").await.unwrap();
    assert_eq!(values(&world.consume(4).await)[2..], [4, 3]);
    stop(relay).await;
}

/// One transaction of 100,000 rows of a kilobyte.
#[tokio::test]
async fn many_held_rows_need_no_memory() {
    let (world, client) = world_on(PostgresServer::shared().await, "many").await;
    let relay = world.relay().await;
    world.insert(&client, 10_000).await;
    assert_eq!(world.consume(10_000).await.len(), 10_000);
    let before = memory(relay.id(), "VmHWM") >> 10;
    let sql = "INSERT INTO outbox.messages (topic, key, payload, scheduled_at) SELECT $1, 'k', to_json(repeat('x', 1000)), \
               now() + interval '5 s' FROM generate_series(1, 100000)";
    client.execute(sql, &[&world.topic]).await.unwrap();
    world.caught_up().await;
    println!("stored at {} MiB", memory(relay.id(), "VmHWM") >> 10);
    assert_eq!(world.consume(110_000).await.len(), 110_000);
    let after = memory(relay.id(), "VmHWM") >> 10;
    println!("{before} MiB before, {after} MiB after 100 MB held back and released");
    assert!(after < before + 64, "{before} MiB, then {after} MiB");
    stop(relay).await;
}
