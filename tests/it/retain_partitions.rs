//! Retention of a table that is partitioned by time, as docs/retention.md makes it.

use tokio_postgres::Client;

use crate::retain::{OLD, bare, insert_at, left, passed, removed, retain, retain_in, sorted};
use crate::support::{PATIENCE, check, eventually};
use crate::world::{World, stop};

/// The statements of docs/retention.md that make the table and its partitions.
fn documented() -> [&'static str; 2] {
    let page = include_str!("../../docs/retention.md");
    let (_, page) = page.split_once("## Drop whole partitions").unwrap();
    let mut blocks = page.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap());
    [blocks.next().unwrap(), blocks.next().unwrap()]
}

/// The documented table, and a partition for each of some days of 2020.
async fn world(prefix: &str, days: &[u32]) -> (World, Client) {
    let world = bare(prefix).await;
    let client = world.database.client().await;
    client.batch_execute(documented()[0]).await.unwrap();
    for day in days {
        client.batch_execute(&partition(*day)).await.unwrap();
    }
    let output = world.command(["setup"]).output().await;
    assert!(output.status.success(), "{output:?}");
    (world, client)
}

fn partition(day: u32) -> String {
    format!(
        "CREATE TABLE outbox.day_{day} PARTITION OF outbox.messages FOR VALUES FROM ('2020-01-{day:02} 00:00+00') TO ('2020-01-{:02} 00:00+00')",
        day + 1
    )
}

fn at(day: u32) -> String {
    format!("timestamptz '2020-01-{day:02} 12:00+00'")
}

async fn partitions(client: &Client) -> Vec<String> {
    let sql = "SELECT relid::text FROM pg_partition_tree('outbox.messages') WHERE isleaf ORDER BY 1";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_documented_table_is_served_and_its_partitions_go_whole() {
    let (world, client) = world("days", &[1, 2, 3]).await;
    for _ in 0..2 {
        client.batch_execute(documented()[1]).await.unwrap();
    }
    assert_eq!(partitions(&client).await.len(), 1 + 3 + 8);
    let relay = world.relay().await;
    let mut all = insert_at(&world, &client, &at(1), 5).await;
    all.extend(insert_at(&world, &client, &at(2), 5).await);
    all.extend(insert_at(&world, &client, "now()", 5).await);
    // In the default partition: some old, and, all but an hour of the day, some young.
    all.extend(insert_at(&world, &client, OLD, 5).await);
    all.extend(insert_at(&world, &client, "now() - interval '23 hours'", 5).await);
    client.execute("SELECT outbox.publish($1, '1')", &[&world.topic]).await.unwrap();
    assert_eq!(world.consume(26).await.len(), 26);
    passed(&world).await;
    removed(&retain(&world, "1 day").await, 5, 3);
    assert_eq!(partitions(&client).await.len(), 1 + 8);
    assert_eq!(left(&world).await.len(), 11);
    // The relay goes on, also with partitions that are made anew under the same name.
    client.batch_execute(&partition(2)).await.unwrap();
    let more = insert_at(&world, &client, &at(2), 5).await;
    world.consume(31).await;
    passed(&world).await;
    // A session that writes times so that they can be read wrongly: IST is Israel's to the server. It ended an hour before.
    let hour = "CREATE TABLE outbox.hour PARTITION OF outbox.messages FOR VALUES FROM ('2019-05-01 10:00+00') TO ('2019-05-01 11:00+00')";
    let odd = "SET TIME ZONE 'Asia/Kolkata'; SET DateStyle = 'SQL, DMY'; SET default_transaction_isolation = 'serializable'";
    client.batch_execute(&format!("{hour}; {odd}")).await.unwrap();
    let keep = "SELECT extract(epoch FROM now() - '2019-05-01 12:00+00'::timestamptz)::bigint::text || ' s'";
    let keep: String = client.query_one(keep, &[]).await.unwrap().get(0);
    client.batch_execute(&format!("CALL outbox.retain('{keep}')")).await.unwrap();
    assert_eq!(partitions(&client).await.len(), 1 + 8 + 1, "the one of 2020 is younger");
    client.batch_execute("CALL outbox.retain('1 day')").await.unwrap();
    assert_eq!(partitions(&client).await.len(), 1 + 8);
    let records = world.consume(31).await;
    let ours: Vec<_> = records.into_iter().filter(|record| record.payload.as_deref() == Some(b"1")).collect();
    assert_eq!(ours.len(), 31);
    let seen: Vec<uuid::Uuid> =
        ours.iter().map(|record| record.header("id").unwrap().parse().unwrap()).collect();
    assert!(all.iter().chain(&more).all(|id| seen.contains(id)));
    stop(relay).await;
}

#[tokio::test]
async fn a_partition_waits_for_its_last_confirmation() {
    let (world, client) = world("waits", &[1, 2]).await;
    let relay = world.relay().await;
    let mut all = insert_at(&world, &client, &at(1), 5).await;
    all.extend(insert_at(&world, &client, &at(2), 5).await);
    assert_eq!(world.consume(10).await.len(), 10);
    passed(&world).await;
    stop(relay).await;
    world.slot_is_free().await;
    all.extend(insert_at(&world, &client, &at(2), 1).await);
    let said = retain(&world, "1 day").await;
    removed(&said, 0, 1);
    assert!(said.contains("outbox.day_2 stays") && said.contains(&world.slot), "{said}");
    assert_eq!(left(&world).await.len(), 6, "it goes as a whole");
    let relay = world.relay().await;
    check(&all, &world.consume(11).await).assert_exact();
    passed(&world).await;
    removed(&retain(&world, "1 day").await, 0, 1);
    stop(relay).await;
}

/// Whoever is in the way is not waited for; nothing that is being inserted is dropped.
#[tokio::test]
async fn a_partition_in_use_stays_until_the_next_call() {
    let (world, client) = world("inuse", &[1, 2, 3]).await;
    let relay = world.relay().await;
    passed(&world).await;
    let writer = world.database.client().await;
    writer.batch_execute("BEGIN").await.unwrap();
    let late = insert_at(&world, &writer, &at(1), 1).await;
    let said = retain(&world, "1 day").await;
    // The first by its own lock; then the table itself is in use, and is not asked for once more.
    removed(&said, 0, 0);
    for day in 1..=3 {
        assert!(said.contains(&format!("outbox.day_{day} stays until the next call")), "{said}");
    }
    writer.batch_execute("COMMIT").await.unwrap();
    check(&late, &world.consume(1).await).assert_exact();
    passed(&world).await;
    let reader = world.database.client().await;
    reader.batch_execute("BEGIN; SELECT FROM outbox.day_1").await.unwrap();
    let said = retain(&world, "1 day").await;
    removed(&said, 0, 2);
    assert!(said.contains("outbox.day_1 stays until the next call: it is in use"), "{said}");
    reader.batch_execute("COMMIT").await.unwrap();
    removed(&retain(&world, "1 day").await, 0, 1);
    assert_eq!(partitions(&client).await, ["outbox.messages_default"]);
    stop(relay).await;
}

/// An insert that arrives between the look and the lock is seen: retention is made to wait there.
#[tokio::test]
async fn no_insert_slips_in_before_the_drop() {
    let (world, client) = world("slips", &[1]).await;
    let relay = world.relay().await;
    passed(&world).await;
    stop(relay).await;
    world.slot_is_free().await;
    // Holds the lock on the partition for less than retention waits, and commits a row before it goes.
    let writer = world.database.client().await;
    for _ in 0..5 {
        writer.batch_execute("BEGIN").await.unwrap();
        let late = insert_at(&world, &writer, &at(1), 1).await;
        let waiting = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'outbox.day_1'::regclass";
        let commit = async {
            eventually("retention to wait", PATIENCE, async || {
                client.query_opt(waiting, &[]).await.unwrap().map(drop)
            })
            .await;
            writer.batch_execute("COMMIT").await.unwrap();
        };
        let isolation = "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'";
        client.batch_execute(&isolation.replace("{}", &world.database.name)).await.unwrap();
        let (said, ()) = tokio::join!(retain(&world, "1 day"), commit);
        removed(&said, 0, 0);
        assert!(left(&world).await.contains(&late[0]), "{said}");
        if said.contains("has not confirmed") {
            return;
        }
        // A slow machine: the lock was given up before the row was committed. Once more with an empty partition.
        let relay = world.relay().await;
        passed(&world).await;
        stop(relay).await;
        world.slot_is_free().await;
        client.batch_execute("DELETE FROM outbox.day_1").await.unwrap();
    }
    panic!("retention never had the lock");
}

/// Bounds that are no times, partitions of partitions, longer ones, and those that others depend on: rows go, one by one.
#[tokio::test]
async fn what_can_not_go_whole_is_swept() {
    let (world, client) = world("swept", &[1, 2]).await;
    let sql = "CREATE TABLE outbox.first PARTITION OF outbox.messages FOR VALUES FROM (MINVALUE) TO ('2019-01-01'); \
         CREATE TABLE outbox.last PARTITION OF outbox.messages FOR VALUES FROM ('2100-01-01') TO (MAXVALUE); \
         CREATE TABLE outbox.years PARTITION OF outbox.messages FOR VALUES FROM ('2021-01-01') TO ('2100-01-01'); \
         CREATE TABLE outbox.nested PARTITION OF outbox.messages FOR VALUES FROM ('2019-01-01') TO ('2020-01-01') \
             PARTITION BY HASH (id); \
         CREATE TABLE outbox.nested_0 PARTITION OF outbox.nested FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE outbox.nested_1 PARTITION OF outbox.nested FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
         CREATE VIEW leaning AS SELECT id FROM outbox.day_1";
    client.batch_execute(sql).await.unwrap();
    let relay = world.relay().await;
    let young = insert_at(&world, &client, "now()", 3).await;
    let mut all = young.clone();
    for at in [OLD, "timestamp '2018-05-05'", "timestamp '2019-05-05'", &at(1), "timestamp '2020-06-06'"] {
        all.extend(insert_at(&world, &client, at, 10).await);
    }
    check(&all, &world.consume(53).await).assert_exact();
    passed(&world).await;
    let said = retain_in(&world, "CALL outbox.retain('1 day', 7)").await.unwrap();
    // `first` and day 2 are dropped with 10 and no rows; those of the others are deleted.
    removed(&said, 40, 2);
    assert!(said.contains("outbox.day_1 can't be dropped"), "{said}");
    assert_eq!(sorted(left(&world).await), sorted(young));
    let names = ["day_1", "last", "messages_default", "nested_0", "nested_1", "years"];
    assert_eq!(partitions(&client).await, names.map(|name| format!("outbox.{name}")));
    stop(relay).await;
}

/// Rows from before the slot, and a replay, find the rows in their partitions.
#[tokio::test]
async fn backfill_and_replay_read_all_partitions() {
    let world = bare("partfill").await;
    let client = world.database.client().await;
    for sql in documented() {
        client.batch_execute(sql).await.unwrap();
    }
    client.batch_execute(&partition(1)).await.unwrap();
    let mut all = insert_at(&world, &client, &at(1), 5).await;
    all.extend(insert_at(&world, &client, "now() - interval '1 year'", 5).await);
    all.extend(insert_at(&world, &client, "now()", 5).await);
    let output = world.command(["setup", "--backfill", "all"]).output().await;
    assert!(output.status.success(), "{output:?}");
    let relay = world.relay().await;
    check(&all, &world.consume(15).await).assert_exact();
    let output = world.command(["replay", "--where", "created_at < '2020-02-01'"]).output().await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(world.consume(20).await.len(), 20);
    passed(&world).await;
    removed(&retain(&world, "1 day").await, 5, 1);
    stop(relay).await;
}
