//! The order service.

use serde::Serialize;
use tokio_postgres::Client;
use uuid::Uuid;
use walpost::OutboxMessage;

#[derive(Serialize)]
pub struct Order {
    #[serde(rename = "order")]
    pub number: i64,
    pub customer: String,
    pub item: String,
    pub quantity: i32,
}

/// What came with the request and goes on with the event.
pub struct Request {
    pub correlation_id: String,
    pub traceparent: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not enough of {0}")]
    OutOfStock(String),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Outbox(#[from] walpost::OutboxError),
}

/// The order and its event, or neither. Returns the id of the event.
pub async fn place_order(
    client: &mut Client,
    topic: &str,
    order: &Order,
    request: &Request,
) -> Result<Uuid, Error> {
    // Dropped without a commit, it rolls back.
    let transaction = client.transaction().await?;
    transaction
        .execute(
            "INSERT INTO orders (number, customer, item, quantity) VALUES ($1, $2, $3, $4)",
            &[&order.number, &order.customer, &order.item, &order.quantity],
        )
        .await?;

    let message = OutboxMessage::new(topic, serde_json::to_string(order)?)
        .with_key(order.customer.clone())
        .with_event_type("OrderPlaced")
        .with_correlation_id(request.correlation_id.as_str())
        .with_header("traceparent", request.traceparent.as_str());
    walpost::postgres::save(&transaction, &message).await?;

    let taken = transaction
        .execute(
            "UPDATE stock SET available = available - $1 WHERE item = $2 AND available >= $1",
            &[&order.quantity, &order.item],
        )
        .await?;
    if taken == 0 {
        return Err(Error::OutOfStock(order.item.clone()));
    }
    transaction.commit().await?;
    Ok(message.id())
}
