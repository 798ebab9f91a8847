//! The tests' own tools: servers really start, stop and come back, and what is written can be read.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use uuid::Uuid;

use crate::support::kafka::config;
use crate::support::postgres::connect;
use crate::support::{
    Database, KafkaBroker, Oracle, PATIENCE, PostgresServer, Proxy, Walpost, check, consume, eventually,
    unique,
};

async fn insert(database: &Database, payloads: &[&str]) {
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), payload text)",
        )
        .await
        .unwrap();
    for payload in payloads {
        client.execute("INSERT INTO t (payload) VALUES ($1)", &[payload]).await.unwrap();
    }
}

async fn produce(brokers: &str, topic: &str, ids: &[Uuid]) {
    let producer: BaseProducer = config(brokers).set("enable.idempotence", "true").create().unwrap();
    for id in ids {
        let text = id.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(&text) });
        let record = BaseRecord::to(topic).key("k").payload(&text).headers(headers).timestamp(1234);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    tokio::task::spawn_blocking(move || producer.flush(PATIENCE).unwrap()).await.unwrap();
}

fn ids(count: usize) -> Vec<Uuid> {
    (0..count).map(|_| Uuid::new_v4()).collect()
}

#[tokio::test]
async fn postgres_is_shared_and_each_test_has_its_database() {
    let server = PostgresServer::shared().await;
    let (one, two) = (server.create_database("one").await, server.create_database("two").await);
    assert_ne!(one.name, two.name);
    let oracle = Oracle::create(&one, "public.t").await;
    insert(&one, &["a", "b", "", "table public.t: INSERT: id[uuid]:'x'"]).await;
    insert(&two, &["elsewhere"]).await;
    let client = one.client().await;
    client.batch_execute("BEGIN; INSERT INTO t (payload) VALUES ('rolled back'); ROLLBACK").await.unwrap();
    client
        .batch_execute("UPDATE t SET payload = 'c' WHERE payload = 'a'; DELETE FROM t WHERE payload = ''")
        .await
        .unwrap();
    assert_eq!(oracle.committed_ids().await.len(), 4);
    assert_eq!(oracle.committed_ids().await.len(), 4, "asking changes nothing");
}

#[tokio::test]
async fn a_database_goes_with_its_slots() {
    let server = PostgresServer::shared().await;
    let database = server.create_database("gone").await;
    let name = database.name.clone();
    Oracle::create(&database, "public.t").await;
    drop(database);
    let left = "SELECT (SELECT count(*) FROM pg_database WHERE datname = $1)
                     + (SELECT count(*) FROM pg_replication_slots WHERE database = $1)";
    let client = server.client("postgres").await;
    assert_eq!(client.query_one(left, &[&name]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn postgres_of_ones_own_comes_back_with_its_data() {
    let server = PostgresServer::start(&[("max_wal_senders", "7")]).await;
    let database = server.create_database("back").await;
    let oracle = Oracle::create(&database, "public.t").await;
    for (round, payload) in ["fast", "immediate", "killed"].into_iter().enumerate() {
        insert(&database, &[payload]).await;
        match payload {
            "fast" => server.stop_fast().await,
            "immediate" => server.stop_immediate().await,
            _ => server.kill().await,
        }
        assert!(!server.running());
        server.start_again().await;
        assert_eq!(oracle.committed_ids().await.len(), round + 1, "after {payload}");
    }
    let senders = server.client("postgres").await.query_one("SHOW max_wal_senders", &[]).await.unwrap();
    assert_eq!(senders.get::<_, &str>(0), "7");
    let over_socket = tokio_postgres::connect(&server.socket_url("postgres"), tokio_postgres::NoTls).await;
    assert!(over_socket.is_ok(), "{:?}", over_socket.err());
}

#[tokio::test]
async fn kafka_keeps_partitions_headers_and_order() {
    let brokers = KafkaBroker::shared().await.brokers();
    let topic = unique("kept");
    KafkaBroker::shared().await.create_topic(&topic, 3).await;
    let sent = ids(20);
    produce(brokers, &topic, &sent).await;
    let records = consume(brokers, &topic, 20, PATIENCE).await;
    check(&sent, &records).assert_exact();
    assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(records[0].payload.as_deref(), records[0].header("id").map(str::as_bytes));
    assert_eq!(records[0].timestamp, Some(1234));
    // Fewer than expected: what is there, and the judge says what is not.
    let short = consume(brokers, &topic, 21, Duration::from_secs(5)).await;
    assert_eq!(short.len(), 20);
}

#[tokio::test]
async fn kafka_of_ones_own_comes_back_with_its_data() {
    let broker = KafkaBroker::start().await;
    let (topic, sent) = (unique("back"), ids(4));
    broker.create_topic(&topic, 1).await;
    produce(broker.brokers(), &topic, &sent[..1]).await;
    broker.stop().await;
    broker.start_again().await;
    produce(broker.brokers(), &topic, &sent[1..2]).await;
    broker.kill().await;
    broker.start_again().await;
    produce(broker.brokers(), &topic, &sent[2..3]).await;
    broker.pause();
    let unanswered = consume(broker.brokers(), &topic, 1, Duration::from_secs(1)).await;
    assert_eq!(unanswered.len(), 0, "it is paused");
    broker.resume();
    produce(broker.brokers(), &topic, &sent[3..]).await;
    check(&sent, &consume(broker.brokers(), &topic, 4, PATIENCE).await).assert_exact();
}

#[tokio::test]
async fn the_wire_breaks_freezes_and_heals() {
    let server = PostgresServer::shared().await;
    let proxy = Proxy::start(server.address()).await;
    let url = server.url_at(proxy.address(), "postgres");
    let client = connect(&url).await.unwrap();
    assert_eq!(proxy.connections(), 1);

    proxy.freeze();
    let query = client.query_one("SELECT 1", &[]);
    tokio::pin!(query);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut query).await.is_err(), "frozen");
    proxy.heal();
    assert!(query.await.is_ok(), "what was kept back goes on");

    proxy.cut();
    eventually("the connection to break", PATIENCE, async || client.is_closed().then_some(())).await;
    assert!(connect(&url).await.is_err(), "cut");
    eventually("nothing to be forwarded", PATIENCE, async || (proxy.connections() == 0).then_some(())).await;
    proxy.heal();
    assert!(connect(&url).await.is_ok(), "healed");
}

#[tokio::test]
async fn the_binary_is_ours_to_run() {
    let output = Walpost::run_to_end(["--version"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.starts_with(concat!("walpost ", env!("CARGO_PKG_VERSION")).as_bytes()));
}

#[tokio::test]
async fn the_oldest_and_the_newest_version_start_too() {
    for version in ["14", "18"] {
        let server = PostgresServer::start_version(version, &[]).await;
        let row = server.client("postgres").await.query_one("SHOW server_version", &[]).await.unwrap();
        assert!(row.get::<_, &str>(0).starts_with(version));
    }
}
