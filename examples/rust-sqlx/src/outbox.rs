//! The row that becomes a record.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, query};
use uuid::Uuid;

pub struct OutboxMessage {
    pub id: Uuid,
    pub topic: String,
    pub key: Option<String>,
    /// JSON text; sent as these very bytes.
    pub payload: String,
    pub event_type: String,
    pub headers: BTreeMap<String, String>,
    pub correlation_id: Option<String>,
    pub created_at: DateTime<Utc>,
}

impl OutboxMessage {
    /// To be called inside of the transaction that changes the data.
    pub async fn save(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        query(
            "INSERT INTO outbox.messages
                 (id, topic, key, payload, event_type, headers, correlation_id, created_at)
             VALUES ($1, $2, $3, $4::json, $5, $6, $7, $8)",
        )
        .bind(self.id)
        .bind(&self.topic)
        .bind(&self.key)
        .bind(&self.payload)
        .bind(&self.event_type)
        .bind(Json(&self.headers))
        .bind(&self.correlation_id)
        .bind(self.created_at)
        .execute(connection)
        .await?;
        Ok(())
    }
}
