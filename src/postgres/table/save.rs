//! Saving a message: one INSERT in the caller's transaction.

use std::error::Error;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use tokio_postgres::Transaction;
use tokio_postgres::types::{IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::error::OutboxError;
use crate::message::OutboxMessage;
use crate::postgres::names::TableName;
use crate::postgres::session::sql_error;

/// Saves a message in `outbox.messages`; it is published if and when the transaction commits.
///
/// ```no_run
/// use walpost::OutboxMessage;
///
/// # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let transaction = client.transaction().await?;
/// transaction.execute("INSERT INTO orders (number) VALUES ($1)", &[&17_i64]).await?;
/// let message = OutboxMessage::new("orders", r#"{"order":17}"#).with_key("customer-4");
/// walpost::postgres::save(&transaction, &message).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The server refused the row: the table is missing, the payload is not JSON, the INSERT is not granted.
pub async fn save(transaction: &Transaction<'_>, message: &OutboxMessage) -> Result<(), OutboxError> {
    OutboxTable::default().save(transaction, message).await
}

/// An outbox table of another name.
#[derive(Clone, Debug, Default)]
pub struct OutboxTable {
    name: TableName,
}

impl OutboxTable {
    /// The table of that name, such as `"sales.outbox"`.
    ///
    /// # Errors
    /// The text is not the name of a table.
    pub fn new(name: &str) -> Result<Self, OutboxError> {
        Ok(OutboxTable { name: name.parse()? })
    }

    pub(crate) fn of(name: TableName) -> Self {
        OutboxTable { name }
    }

    /// Saves a message in this table. Columns of parts that are not set are not named, so that a table
    /// without them will do, and its defaults hold.
    ///
    /// # Errors
    /// The server refused the row.
    pub async fn save(
        &self,
        transaction: &Transaction<'_>,
        message: &OutboxMessage,
    ) -> Result<(), OutboxError> {
        let text = |text: Option<&str>| text.map(|text| Raw(text.as_bytes().to_vec()));
        let bytes = |bytes: Option<&[u8]>| bytes.map(|bytes| Raw(bytes.to_vec()));
        let headers = Some(message.headers_json()).filter(|headers| !headers.is_empty());
        let created_at = message.created_at.and_then(|micros| u64::try_from(micros).ok());
        let created_at = created_at.map(|micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
        let parts: [(&str, Option<Box<dyn ToSql + Sync + Send>>); 8] = [
            ("id", Some(Box::new(message.id))),
            ("topic", boxed(text(Some(&message.topic)))),
            ("key", boxed(bytes(message.key()))),
            ("payload", boxed(bytes(message.payload()))),
            ("event_type", boxed(text(message.event_type()))),
            ("headers", boxed(bytes(headers))),
            ("correlation_id", boxed(text(message.correlation_id()))),
            ("created_at", created_at.map(|at| Box::new(at) as Box<dyn ToSql + Sync + Send>)),
        ];
        let set: Vec<_> =
            parts.iter().filter_map(|(name, value)| value.as_ref().map(|value| (*name, value))).collect();
        let names: Vec<_> = set.iter().map(|(name, _)| *name).collect();
        let numbers: Vec<_> = (1..=set.len()).map(|number| format!("${number}")).collect();
        let sql = format!("INSERT INTO {} ({}) VALUES ({})", self.name, names.join(", "), numbers.join(", "));
        let values: Vec<&(dyn ToSql + Sync)> =
            set.iter().map(|(_, value)| &***value as &(dyn ToSql + Sync)).collect();
        match transaction.execute(&sql, &values).await {
            Ok(_) => Ok(()),
            Err(error) => Err(sql_error("saving a message", error)),
        }
    }
}

fn boxed(value: Option<Raw>) -> Option<Box<dyn ToSql + Sync + Send>> {
    value.map(|value| Box::new(value) as Box<dyn ToSql + Sync + Send>)
}

/// The type that a domain is, in the end, made of.
fn base(ty: &Type) -> &Type {
    match ty.kind() {
        Kind::Domain(inner) => base(inner),
        _ => ty,
    }
}

/// Bytes for a column of any type whose value is its bytes.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl ToSql for Raw {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        if base(ty) == &Type::JSONB {
            // The version of the binary form.
            out.put_u8(1);
        }
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        let known =
            [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME, Type::JSON, Type::JSONB, Type::BYTEA];
        known.contains(base(ty)) || base(ty).name() == "citext"
    }

    to_sql_checked!();
}
