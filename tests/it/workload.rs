//! What services do to an outbox: many at once, in transactions of any size, some given up half-way.

use fastrand::Rng;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;
use walpost::OutboxMessage;

use crate::world::World;

/// A message whose parts can be told from its id alone, so that what arrives can be checked.
pub(crate) fn message(topic: &str, random: &mut Rng) -> OutboxMessage {
    let id = Uuid::from_u128(random.u128(..));
    let mut message = OutboxMessage::new(topic.to_owned(), payload(id)).with_id(id);
    if !id.as_u128().is_multiple_of(5) {
        message = message.with_key(key(id));
    }
    message.with_event_type("Tested").with_header("of", id.to_string())
}

pub(crate) fn payload(id: Uuid) -> String {
    format!("{{\"id\":  \"{id}\", \"text\": \"größe 🦀 \\\\ \\\"\"}}")
}

pub(crate) fn key(id: Uuid) -> String {
    format!("key-{}", id.as_u128() % 16)
}

/// Four writers at once, each `transactions` transactions.
pub(crate) async fn run(world: &World, seed: u64, transactions: usize) {
    println!("workload seed {seed}");
    let writers = (0..4).map(|writer| async move {
        let mut client = world.database.client().await;
        let mut random = Rng::with_seed(seed + writer);
        for _ in 0..transactions {
            one_transaction(&mut client, &world.topic, &mut random).await;
        }
    });
    futures_join(writers).await;
}

async fn futures_join(futures: impl IntoIterator<Item = impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(move |context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn one_transaction(client: &mut Client, topic: &str, random: &mut Rng) {
    let mut transaction = client.transaction().await.unwrap();
    match random.u8(0..20) {
        // A large one, in one statement.
        0 => insert_many(&transaction, topic, random.i64(1000..5001)).await,
        1 => insert_many(&transaction, topic, random.i64(100..1000)).await,
        _ => {
            for _ in 0..random.u8(1..6) {
                save(&transaction, topic, random).await;
            }
        }
    }
    if random.u8(0..4) == 0 {
        let savepoint = transaction.savepoint("half_way").await.unwrap();
        save(&savepoint, topic, random).await;
        insert_many(&savepoint, topic, 20).await;
        if random.bool() {
            savepoint.rollback().await.unwrap()
        } else {
            savepoint.commit().await.unwrap()
        }
        save(&transaction, topic, random).await;
    }
    if random.u8(0..6) == 0 {
        // What is updated or deleted was inserted all the same.
        let sql = "UPDATE outbox.messages SET event_type = 'Changed' WHERE id IN (SELECT id FROM outbox.messages LIMIT 3 FOR UPDATE SKIP LOCKED)";
        transaction.batch_execute(sql).await.unwrap();
        let sql = "DELETE FROM outbox.messages WHERE id IN (SELECT id FROM outbox.messages LIMIT 5 FOR UPDATE SKIP LOCKED)";
        transaction.batch_execute(sql).await.unwrap();
    }
    if random.u8(0..5) == 0 {
        transaction.rollback().await.unwrap()
    } else {
        transaction.commit().await.unwrap()
    }
}

async fn save(transaction: &Transaction<'_>, topic: &str, random: &mut Rng) {
    walpost::postgres::save(transaction, &message(topic, random)).await.unwrap();
}

/// Rows of which the payload and the key are made by the server.
async fn insert_many(transaction: &Transaction<'_>, topic: &str, count: i64) {
    let sql = "INSERT INTO outbox.messages (topic, key, payload) \
               SELECT $1, (n % 50)::text, json_build_object('n', n) FROM generate_series(1, $2::bigint) n";
    transaction.execute(sql, &[&topic, &count]).await.unwrap();
}
