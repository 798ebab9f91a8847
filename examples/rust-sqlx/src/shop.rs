//! The order service.

use std::collections::BTreeMap;

use chrono::Utc;
use serde::Serialize;
use sqlx::{PgPool, query};
use uuid::Uuid;

use crate::outbox::OutboxMessage;

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
    Database(#[from] sqlx::Error),
}

/// The order and its event, or neither. Returns the id of the event.
pub async fn place_order(
    pool: &PgPool,
    topic: &str,
    order: &Order,
    request: &Request,
) -> Result<Uuid, Error> {
    // Dropped without a commit, it rolls back.
    let mut transaction = pool.begin().await?;
    query("INSERT INTO orders (number, customer, item, quantity) VALUES ($1, $2, $3, $4)")
        .bind(order.number)
        .bind(&order.customer)
        .bind(&order.item)
        .bind(order.quantity)
        .execute(&mut *transaction)
        .await?;

    let message = OutboxMessage {
        id: Uuid::new_v4(),
        topic: topic.to_owned(),
        key: Some(order.customer.clone()),
        payload: serde_json::to_string(order)?,
        event_type: "OrderPlaced".to_owned(),
        headers: BTreeMap::from([("traceparent".to_owned(), request.traceparent.clone())]),
        correlation_id: Some(request.correlation_id.clone()),
        created_at: Utc::now(),
    };
    message.save(&mut transaction).await?;

    let taken = query("UPDATE stock SET available = available - $1 WHERE item = $2 AND available >= $1")
        .bind(order.quantity)
        .bind(&order.item)
        .execute(&mut *transaction)
        .await?;
    if taken.rows_affected() == 0 {
        return Err(Error::OutOfStock(order.item.clone()));
    }
    transaction.commit().await?;
    Ok(message.id)
}
