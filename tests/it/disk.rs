//! The disk of PostgreSQL is full, and then it is not.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::life::get;
use crate::support::postgres::connect;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, check, eventually};
use crate::world::{World, stop};

/// Takes all that is left, to the last byte.
fn fill(server: &PostgresServer) {
    let mut ballast = File::create(server.beside_its_files("ballast")).unwrap();
    let mut piece = vec![0; 1 << 20];
    while !piece.is_empty() {
        if ballast.write_all(&piece).is_err() {
            piece.truncate(piece.len() / 2);
        }
    }
}

/// Rows until the server has no place for one more; gives the reason.
async fn insert_until_it_fails(world: &World, client: &Client) -> tokio_postgres::Error {
    let sql =
        "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, 'k', to_json(repeat('x', 2000)))";
    loop {
        if let Err(error) = client.execute(sql, &[&world.topic]).await {
            return error;
        }
    }
}

/// Log, which has its place until a segment of it ends.
async fn write_log_until_it_fails(client: &Client) {
    let sql = "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 100000))";
    while client.batch_execute(sql).await.is_ok() {}
}

/// First no table can grow, which is the writers' trouble alone. Then the log can't, and the server goes down.
#[tokio::test]
async fn a_full_disk_of_postgres_loses_nothing() {
    let server = PostgresServer::start_on_disk(160).await;
    let world = World::on(&server, KafkaBroker::shared().await, "disk", 1).await;
    let oracle = world.oracle().await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    world.insert(&client, 100).await;
    world.caught_up().await;

    fill(&server);
    let error = insert_until_it_fails(&world, &client).await;
    assert_eq!(error.code().map(|code| code.code()), Some("53100"), "{error:?}");
    let so_far = oracle.committed_ids().await;
    check(&so_far, &world.consume(so_far.len()).await).assert_exact();

    let mark = relay.mark();
    write_log_until_it_fails(&client).await;
    relay.wait_for_log_since(mark, "\"retrying\"", PATIENCE).await;
    let address = relay.listen_address().await;
    eventually("the relay to be unready", PATIENCE, async || {
        (get(address, "/readyz").await.0 == 503).then_some(())
    })
    .await;
    assert_eq!(get(address, "/healthz").await.0, 200, "waiting is no reason for a restart");
    eventually("the server to give up", PATIENCE, async || (!server.running()).then_some(())).await;

    std::fs::remove_file(server.beside_its_files("ballast")).unwrap();
    let (mark, room_again) = (relay.mark(), Instant::now());
    server.start_again().await;
    relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    println!("streaming again after {:.2?}", room_again.elapsed());
    let client = connect(&world.database.url).await.unwrap();
    world.insert(&client, 100).await;
    world.caught_up().await;
    let committed = oracle.committed_ids().await;
    assert_eq!(committed[..so_far.len()], so_far);
    let tally = check(&committed, &world.consume(committed.len()).await);
    println!("{} rows, {} repeated", committed.len(), tally.repeated);
    tally.assert_nothing_lost();
    assert!(room_again.elapsed() < Duration::from_secs(40), "{:?}", room_again.elapsed());
    stop(relay).await;
}
