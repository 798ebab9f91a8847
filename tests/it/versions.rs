//! The oldest and the newest server that are supported, and the one that was chosen (`make test-versions`) or is installed.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::later::COLUMN;
use crate::support::{KafkaBroker, PostgresServer, check, chosen, major};
use crate::workload;
use crate::world::{World, stop};

async fn everything_arrives_on(server: &PostgresServer) {
    let world = World::on(server, KafkaBroker::shared().await, "version", 3).await;
    let oracle = world.oracle().await;
    for round in 0..2 {
        let relay = world.relay().await;
        workload::run(&world, 10_000 * round + fastrand::u64(..1 << 40), 15).await;
        stop(relay).await;
    }
    let relay = world.relay().await;
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_exact();
    // Everything that is looked up at the start is there in this version's catalog.
    for command in ["check", "status"] {
        let output = world.command([command]).output().await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    stop(relay).await;
    // The slot made anew, so that what is in the table comes first; and an event without a table.
    for args in [&["teardown"][..], &["setup", "--backfill", "all"]] {
        let output = world.command([]).args(args).output().await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let client = world.database.client().await;
    let rows: i64 = client.query_one("SELECT count(*) FROM outbox.messages", &[]).await.unwrap().get(0);
    client.execute("SELECT outbox.emit($1, '\"last\"')", &[&world.topic]).await.unwrap();
    let relay = world.relay().await;
    let count = committed.len() + usize::try_from(rows).unwrap() + 1;
    let records = world.consume(count).await;
    assert_eq!(records.len(), count);
    assert_eq!(records.iter().filter(|record| record.payload.as_deref() == Some(b"\"last\"")).count(), 1);
    client.batch_execute(COLUMN).await.unwrap();
    let sql = "INSERT INTO outbox.messages (topic, payload, scheduled_at) VALUES ($1, '\"later\"', now() + interval '1 s')";
    client.execute(sql, &[&world.topic]).await.unwrap();
    let later = world.consume(count + 1).await;
    assert_eq!(later.iter().filter(|record| record.payload.as_deref() == Some(b"\"later\"")).count(), 1);
    let failover = "SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE slot_name = $1";
    let failover: Option<String> = client.query_one(failover, &[&world.slot]).await.unwrap().get(0);
    let meant = if major(&client).await >= 17 { Some("true") } else { None };
    assert_eq!(failover.as_deref(), meant);
    stop(relay).await;
}

#[tokio::test]
async fn everything_arrives_on_14() {
    everything_arrives_on(&PostgresServer::start_version("14", &[]).await).await;
}

#[tokio::test]
async fn everything_arrives_on_18() {
    everything_arrives_on(&PostgresServer::start_version("18", &[]).await).await;
}

#[tokio::test]
async fn everything_arrives() {
    everything_arrives_on(&PostgresServer::start(&[]).await).await;
}

/// A run over versions proves nothing if it does not meet them.
#[tokio::test]
async fn the_servers_are_those_that_were_chosen() {
    if let Some(version) = chosen::postgres() {
        for server in [PostgresServer::shared().await, &PostgresServer::start(&[]).await] {
            let told = server.version().await;
            assert!(told.starts_with(&format!("{version}.")), "PostgreSQL {told} is not {version}");
        }
    }
    if std::env::var_os("WALPOST_TEST_BROKERS").is_none() {
        // Kafka 4 no longer knows the oldest ways to fetch.
        let oldest = oldest_fetch(KafkaBroker::shared().await.brokers()).await;
        assert_eq!(oldest == 0, chosen::kafka().starts_with("3."), "Fetch {oldest} is the oldest");
    }
}

/// Kafka protocol guide, ApiVersions, version 0: the oldest version of Fetch that the broker answers.
async fn oldest_fetch(broker: &str) -> i16 {
    let mut stream = TcpStream::connect(broker).await.unwrap();
    // Length, 18 for ApiVersions, its version, a number to find the answer by, and nobody's name.
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255]).await.unwrap();
    let mut answer = vec![0; usize::try_from(stream.read_i32().await.unwrap()).unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    let number = |at: usize| i16::from_be_bytes([answer[at], answer[at + 1]]);
    assert_eq!(number(4), 0, "an answer without an error");
    let known = (10..answer.len()).step_by(6).find(|at| number(*at) == 1);
    number(known.unwrap() + 2)
}
