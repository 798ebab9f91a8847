//! Retention: what is old and published goes, and nothing else.

use tokio_postgres::{AsyncMessage, Client, NoTls};
use uuid::Uuid;

use crate::support::{KafkaBroker, PATIENCE, PostgresServer, check, eventually, major};
use crate::world::{World, stop};

/// A server of these tests: on the shared one others hold transactions open, which holds retention back.
async fn server() -> &'static PostgresServer {
    static SERVER: tokio::sync::OnceCell<PostgresServer> = tokio::sync::OnceCell::const_new();
    SERVER.get_or_init(|| PostgresServer::start(&[("max_prepared_transactions", "5")])).await
}

pub(crate) async fn bare(prefix: &str) -> World {
    World::bare(server().await, KafkaBroker::shared().await, prefix, 1).await
}

async fn set_up(prefix: &str) -> World {
    World::on(server().await, KafkaBroker::shared().await, prefix, 1).await
}

/// Calls the procedure as cron would; what it says.
pub(crate) async fn retain_in(world: &World, call: &str) -> Result<String, String> {
    let (client, mut connection) = tokio_postgres::connect(&world.database.url, NoTls).await.unwrap();
    let notices = tokio::spawn(async move {
        let mut said = Vec::new();
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => said.push(notice.message().to_owned()),
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
        said.join("\n")
    });
    let done = client.batch_execute(call).await;
    drop(client);
    let said = notices.await.unwrap();
    match done {
        Ok(()) => Ok(said),
        Err(error) => {
            let error = error.as_db_error().unwrap();
            Err(format!("{} {}", error.message(), error.hint().unwrap_or_default()))
        }
    }
}

pub(crate) async fn retain(world: &World, keep: &str) -> String {
    retain_in(world, &format!("CALL outbox.retain('{keep}')")).await.unwrap()
}

pub(crate) fn removed(said: &str, rows: u32, partitions: u32) {
    assert!(said.contains(&format!("{rows} rows removed, {partitions} partitions dropped")), "{said}");
}

/// Waits until the slot tells of all transactions until now that it does not need them.
pub(crate) async fn passed(world: &World) {
    let client = world.database.client().await;
    let now: i64 = client.query_one("SELECT txid_current()", &[]).await.unwrap().get(0);
    passed_transaction(&client, &world.slot, now).await;
}

async fn passed_transaction(client: &Client, slot: &str, transaction: i64) {
    let sql =
        "SELECT catalog_xmin::text::bigint > $2 FROM pg_replication_slots WHERE slot_name = $1::text::name";
    eventually("the slot to pass the transaction", PATIENCE, async || {
        record_the_running(client).await;
        client.query_one(sql, &[&slot, &transaction]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
}

/// Has the server write down which transactions are running, which it does by itself every 15 s.
async fn record_the_running(client: &Client) {
    let sql = if major(client).await >= 16 { "SELECT pg_log_standby_snapshot()" } else { "CHECKPOINT" };
    client.batch_execute(sql).await.unwrap();
}

pub(crate) async fn left(world: &World) -> Vec<Uuid> {
    let client = world.database.client().await;
    let sql = "SELECT id FROM outbox.messages ORDER BY created_at, id";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Inserts rows as if so long ago; returns their ids.
pub(crate) async fn insert_at(world: &World, client: &Client, at: &str, count: i64) -> Vec<Uuid> {
    let sql = format!(
        "INSERT INTO outbox.messages (topic, payload, created_at) SELECT $1, '1', {at} \
         FROM generate_series(1, $2::bigint) RETURNING id"
    );
    let rows = client.query(&sql, &[&world.topic, &count]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

pub(crate) const OLD: &str = "now() - interval '2 days'";

#[tokio::test]
async fn what_is_old_and_confirmed_goes() {
    let world = set_up("retain").await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let mut all = insert_at(&world, &client, OLD, 20).await;
    let young = insert_at(&world, &client, "now()", 5).await;
    all.extend(&young);
    assert_eq!(world.consume(25).await.len(), 25);
    passed(&world).await;
    removed(&retain(&world, "3 days").await, 0, 0);
    removed(&retain(&world, "1 day").await, 20, 0);
    assert_eq!(sorted(left(&world).await), sorted(young.clone()));

    // Without a relay nothing is confirmed, and nothing goes, however long the server goes on.
    stop(relay).await;
    world.slot_is_free().await;
    let waiting = insert_at(&world, &client, OLD, 10).await;
    all.extend(&waiting);
    for _ in 0..3 {
        client.query_one("SELECT txid_current()", &[]).await.unwrap();
        record_the_running(&client).await;
    }
    retain(&world, "0 s").await;
    let kept = left(&world).await;
    assert!(waiting.iter().all(|id| kept.contains(id)), "{kept:?}");
    let relay = world.relay().await;
    check(&all, &world.consume(35).await).assert_exact();
    passed(&world).await;
    retain(&world, "0 s").await;
    assert!(left(&world).await.is_empty());
    stop(relay).await;
}

pub(crate) fn sorted(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort();
    ids
}

/// What a broker has not acknowledged is not confirmed, though a relay runs and has read it.
#[tokio::test]
async fn what_kafka_has_not_acknowledged_stays() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(server().await, &broker, "refused", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let first = insert_at(&world, &client, OLD, 5).await;
    assert_eq!(world.consume(5).await.len(), 5);
    passed(&world).await;
    broker.proxy.cut();
    let second = insert_at(&world, &client, OLD, 5).await;
    for _ in 0..3 {
        client.query_one("SELECT txid_current()", &[]).await.unwrap();
        record_the_running(&client).await;
    }
    removed(&retain(&world, "1 day").await, 5, 0);
    assert_eq!(sorted(left(&world).await), sorted(second.clone()));
    broker.proxy.heal();
    check(&[first, second].concat(), &world.consume(10).await).assert_exact();
    passed(&world).await;
    removed(&retain(&world, "1 day").await, 5, 0);
    stop(relay).await;
}

/// Transactions that end late, by every way of ending: their rows wait for their own confirmation.
#[tokio::test]
async fn late_transactions_keep_their_rows() {
    let world = set_up("late").await;
    let (client, other, prepared) =
        (world.database.client().await, world.database.client().await, world.database.client().await);
    let relay = world.relay().await;
    let early = insert_at(&world, &client, OLD, 3).await;
    passed(&world).await;

    other.batch_execute("BEGIN").await.unwrap();
    let mut late = insert_at(&world, &other, OLD, 2).await;
    other.batch_execute("SAVEPOINT s").await.unwrap();
    late.extend(insert_at(&world, &other, OLD, 2).await);
    other.batch_execute("RELEASE s; SAVEPOINT gone").await.unwrap();
    insert_at(&world, &other, OLD, 2).await;
    other.batch_execute("ROLLBACK TO gone").await.unwrap();
    prepared.batch_execute("BEGIN").await.unwrap();
    late.extend(insert_at(&world, &prepared, OLD, 2).await);
    let name = crate::support::unique("p");
    prepared.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await.unwrap();

    // What is committed meanwhile is younger than they are, and waits with them.
    let between = insert_at(&world, &client, OLD, 3).await;
    assert_eq!(world.consume(6).await.len(), 6);
    world.caught_up().await;
    record_the_running(&client).await;
    world.caught_up().await;
    removed(&retain(&world, "1 day").await, 3, 0);
    assert_eq!(sorted(left(&world).await), sorted(between.clone()));

    // They end while nobody confirms.
    stop(relay).await;
    world.slot_is_free().await;
    other.batch_execute("COMMIT").await.unwrap();
    prepared.batch_execute(&format!("COMMIT PREPARED '{name}'")).await.unwrap();
    record_the_running(&client).await;
    client.query_one("SELECT txid_current()", &[]).await.unwrap();
    removed(&retain(&world, "1 day").await, 0, 0);
    let relay = world.relay().await;
    check(&[early, between, late].concat(), &world.consume(12).await).assert_exact();
    passed(&world).await;
    removed(&retain(&world, "1 day").await, 9, 0);
    assert!(left(&world).await.is_empty());
    stop(relay).await;
}

#[tokio::test]
async fn the_slowest_slot_holds_rows_back() {
    let world = set_up("slots").await;
    let client = world.database.client().await;
    let other = crate::support::unique("slow");
    for slot in [&other, &world.slot] {
        let output = world.command(["setup"]).env("WALPOST_SLOT", slot).output().await;
        assert!(output.status.success(), "{output:?}");
    }
    let relay = world.relay().await;
    insert_at(&world, &client, OLD, 5).await;
    assert_eq!(world.consume(5).await.len(), 5);
    passed(&world).await;
    let said = retain(&world, "1 day").await;
    removed(&said, 0, 0);
    assert!(said.contains(&other), "{said}");
    stop(relay).await;
    let second = world.command(["run"]).env("WALPOST_SLOT", &other).spawn();
    second.wait_for_log("streaming", PATIENCE).await;
    assert_eq!(world.consume(10).await.len(), 10);
    let now: i64 = client.query_one("SELECT txid_current()", &[]).await.unwrap().get(0);
    passed_transaction(&client, &other, now).await;
    removed(&retain(&world, "1 day").await, 5, 0);
    stop(second).await;
}

#[tokio::test]
async fn without_a_slot_nothing_is_removed() {
    let world = set_up("noslot").await;
    let client = world.database.client().await;
    insert_at(&world, &client, OLD, 5).await;
    // A slot of somebody else does not stand for the relay's.
    let oracle = world.oracle().await;
    let drop_it = "SELECT pg_drop_replication_slot($1::text::name)";
    client.execute(drop_it, &[&world.slot]).await.unwrap();
    let said = retain_in(&world, "CALL outbox.retain('0 s')").await.unwrap_err();
    let words = [&*world.slot, "does not exist", "none is removed", "walpost setup"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert_eq!(left(&world).await.len(), 5);
    drop(oracle);
}

#[tokio::test]
async fn a_lost_slot_is_named_and_nothing_is_removed() {
    let server = PostgresServer::start(&[
        ("max_slot_wal_keep_size", "1MB"),
        ("min_wal_size", "32MB"),
        ("max_wal_size", "32MB"),
    ])
    .await;
    let world = World::on(&server, KafkaBroker::shared().await, "lost", 1).await;
    let client = world.database.client().await;
    insert_at(&world, &client, OLD, 5).await;
    let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
    eventually("the slot to be lost", PATIENCE, async || {
        client
            .batch_execute(
                "SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS t (); DROP TABLE t; CHECKPOINT",
            )
            .await
            .unwrap();
        client.query_one(lost, &[&world.slot]).await.unwrap().get::<_, Option<bool>>(0)?.then_some(())
    })
    .await;
    let said = retain_in(&world, "CALL outbox.retain('0 s')").await.unwrap_err();
    assert!(said.contains(&world.slot) && said.contains("is lost"), "{said}");
    assert_eq!(left(&world).await.len(), 5);
}

/// Small batches, each a transaction of its own; who inserts or holds a row is not in the way, nor in anybody's.
#[tokio::test]
async fn batches_are_small_and_pass_over_what_is_locked() {
    let world = set_up("batches").await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let old = insert_at(&world, &client, OLD, 95).await;
    assert_eq!(world.consume(95).await.len(), 95);
    passed(&world).await;
    // The largest number of rows that one transaction deletes.
    let count = "CREATE TABLE deletions (transaction bigint); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO deletions VALUES (txid_current()); RETURN NULL; END $$; \
         CREATE TRIGGER note AFTER DELETE ON outbox.messages FOR EACH ROW EXECUTE FUNCTION note()";
    client.batch_execute(count).await.unwrap();
    let (holder, writer) = (world.database.client().await, world.database.client().await);
    let lock = "BEGIN; SELECT FROM outbox.messages WHERE id = ANY ($1) FOR UPDATE";
    let (begin, lock) = lock.split_once("; ").unwrap();
    holder.batch_execute(begin).await.unwrap();
    holder.execute(lock, &[&&old[..2]]).await.unwrap();
    writer.batch_execute("BEGIN").await.unwrap();
    let young = insert_at(&world, &writer, "now()", 7).await;
    removed(&retain_in(&world, "CALL outbox.retain('1 day', 10)").await.unwrap(), 93, 0);
    writer.batch_execute("COMMIT").await.unwrap();
    holder.batch_execute("COMMIT").await.unwrap();
    removed(&retain_in(&world, "CALL outbox.retain('1 day', batch => 1)").await.unwrap(), 2, 0);
    assert_eq!(sorted(left(&world).await), sorted(young.clone()));
    let sizes = "SELECT max(n), count(*) FROM (SELECT count(*) AS n FROM deletions GROUP BY transaction) s";
    let sizes = client.query_one(sizes, &[]).await.unwrap();
    assert_eq!((sizes.get::<_, i64>(0), sizes.get::<_, i64>(1)), (10, 12));
    check(&[old, young].concat(), &world.consume(102).await).assert_exact();
    stop(relay).await;
}

#[tokio::test]
async fn what_can_not_be_meant_is_refused() {
    let world = set_up("refuses").await;
    for call in ["'-1 s'", "NULL", "'1 day', 0", "'1 day', NULL"] {
        let said = retain_in(&world, &format!("CALL outbox.retain({call})")).await.unwrap_err();
        assert!(said.contains("can't keep"), "{said}");
    }
    let said = retain_in(&world, "BEGIN; CALL outbox.retain('1 day')").await.unwrap_err();
    assert!(said.contains("transaction"), "{said}");
    let client = world.database.client().await;
    client.batch_execute("ALTER TABLE outbox.messages DROP created_at").await.unwrap();
    let output = world.command(["setup"]).output().await;
    assert!(output.status.success(), "{output:?}");
    let said = retain_in(&world, "CALL outbox.retain('1 day')").await.unwrap_err();
    assert!(said.contains("outbox.messages has no column created_at"), "{said}");
}

#[tokio::test]
async fn a_row_deleted_by_its_own_transaction_is_published() {
    let world = set_up("both").await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    for value in 1..=3 {
        let sql = format!(
            "BEGIN; INSERT INTO outbox.messages (topic, key, payload) VALUES ('{}', 'k', '{value}'); \
             DELETE FROM outbox.messages; COMMIT",
            world.topic
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let values: Vec<_> = world.consume(3).await.into_iter().map(|record| record.payload.unwrap()).collect();
    assert_eq!(values, [b"1", b"2", b"3"]);
    assert!(left(&world).await.is_empty());
    stop(relay).await;
}

#[tokio::test]
async fn other_names_and_what_drops_the_procedure() {
    let world = bare("othernames").await;
    let names = ["--table", "\"My Shop\".outbox", "--publication", "it's"];
    for _ in 0..2 {
        let output = world.command(["setup"]).args(names).output().await;
        assert!(output.status.success(), "{output:?}");
    }
    let relay = world.command(["run"]).args(names).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let client = world.database.client().await;
    let sql = format!(
        "INSERT INTO \"My Shop\".outbox (topic, created_at) VALUES ('{}', '2020-01-01'), ('{0}', now())",
        world.topic
    );
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(world.consume(2).await.len(), 2);
    passed(&world).await;
    removed(&retain_in(&world, "CALL \"My Shop\".retain('1 day')").await.unwrap(), 1, 0);
    stop(relay).await;
    world.slot_is_free().await;
    let output = world.command(["teardown", "--drop-table"]).args(names).output().await;
    assert!(output.status.success(), "{output:?}");
    let gone = "SELECT to_regnamespace('\"My Shop\"') IS NULL";
    assert!(client.query_one(gone, &[]).await.unwrap().get::<_, bool>(0));
}
