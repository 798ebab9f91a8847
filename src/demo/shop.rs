//! A small shop: takes orders, and tells of them in the same transaction.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::Transaction;
use uuid::Uuid;

use crate::error::OutboxError;
use crate::message::OutboxMessage;
use crate::postgres::{Session, save};

/// What the shop has done, and what of it has arrived: the demo's whole truth.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Committed events that have not arrived, with the moment just before their COMMIT.
    pub(super) waiting: HashMap<Uuid, Instant>,
    pub(super) transactions: u64,
    pub(super) committed: u64,
    pub(super) rolled_back: u64,
    pub(super) arrived: u64,
    pub(super) repeated: u64,
    pub(super) out_of_order: u64,
    pub(super) invented: u64,
    pub(super) latencies: Vec<Duration>,
    pub(super) last: Vec<String>,
}

/// Shared by the shop, the consumer and the display.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    pub(super) fn open(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One event of an order, numbered in the order in which the shop commits.
struct Event {
    number: u64,
    message: OutboxMessage,
}

/// The shop's counter: one client, so that the order of its events is the order of its commits.
pub(super) struct Shop {
    session: Session,
    topic: String,
    ledger: SharedLedger,
    random: fastrand::Rng,
    number: u64,
}

impl Shop {
    /// Opens the shop: makes its table.
    pub(super) async fn open(
        session: Session,
        topic: &str,
        ledger: SharedLedger,
    ) -> Result<Shop, OutboxError> {
        let sql = "CREATE TABLE public.orders (number bigserial PRIMARY KEY, customer text, cents bigint, \
                   status text NOT NULL DEFAULT 'placed')";
        session.client().batch_execute(sql).await.map_err(failed)?;
        Ok(Shop { session, topic: topic.to_owned(), ledger, random: fastrand::Rng::new(), number: 0 })
    }

    /// Sells, `rate` transactions a second, until `end` resolves; never stops inside a transaction, whose
    /// outcome nobody would know.
    pub(super) async fn sell(&mut self, rate: u32, end: impl Future<Output = ()>) -> Result<(), OutboxError> {
        let mut end = pin!(end);
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return Ok(()),
                _ = ticks.tick() => {}
            }
            self.one_transaction().await?;
        }
    }

    /// An order and its events in one transaction; one in eight customers changes their mind.
    async fn one_transaction(&mut self) -> Result<(), OutboxError> {
        let Shop { session, topic, ledger, random, number } = self;
        let transaction = session.client_mut().transaction().await.map_err(failed)?;
        let events = place_order(&transaction, topic, random, number).await?;
        if random.u8(0..8) == 0 {
            transaction.rollback().await.map_err(failed)?;
            ledger.open().rolled_back += 1;
            return Ok(());
        }
        {
            // Entered before the COMMIT: an event may arrive before its COMMIT has returned.
            let mut ledger = ledger.open();
            let now = Instant::now();
            ledger.waiting.extend(events.iter().map(|event| (event.message.id(), now)));
            ledger.transactions += 1;
            ledger.committed += events.len() as u64;
        }
        transaction.commit().await.map_err(failed)
    }
}

async fn place_order(
    transaction: &Transaction<'_>,
    topic: &str,
    random: &mut fastrand::Rng,
    number: &mut u64,
) -> Result<Vec<Event>, OutboxError> {
    let customer = format!("customer-{}", random.u8(1..20));
    let cents = random.i64(199..20_000);
    let insert = "INSERT INTO public.orders (customer, cents) VALUES ($1, $2) RETURNING number";
    let order: i64 = transaction.query_one(insert, &[&customer, &cents]).await.map_err(failed)?.get(0);
    let kinds: &[&str] = if random.bool() { &["OrderPlaced"] } else { &["OrderPlaced", "OrderPaid"] };
    let mut events = Vec::new();
    for kind in kinds {
        *number += 1;
        let payload = json!({ "event": *number, "order": order, "customer": customer, "cents": cents });
        let message = OutboxMessage::new(topic, payload).with_key(customer.clone()).with_event_type(*kind);
        save(transaction, &message).await?;
        events.push(Event { number: *number, message });
    }
    debug_assert!(events.windows(2).all(|pair| matches!(pair, [a, b] if a.number < b.number)));
    Ok(events)
}

fn failed(error: tokio_postgres::Error) -> OutboxError {
    OutboxError::connection("the demo's shop can't sell", error)
}
