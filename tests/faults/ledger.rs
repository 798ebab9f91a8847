//! The truth: what was committed, in which order, and what its records must hold. Read from a second slot
//! with `test_decoding`, so that nothing of Walpost's is believed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;
use uuid::Uuid;
use walpost::Lsn;

use crate::support::{Consumed, Database, unique};

/// The slot that keeps the truth until it is read.
pub(crate) struct Truth {
    slot: String,
}

/// All that was committed, in memory as numbers only.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) places: HashMap<Uuid, u32>,
    /// By place, which is the row's number in the order of commits.
    pub(crate) rows: Vec<Row>,
    pub(crate) transactions: Vec<Transaction>,
}

pub(crate) struct Row {
    /// Hash of key, value, timestamp and headers.
    pub(crate) content: u64,
    /// Its transaction's number.
    pub(crate) transaction: u32,
}

pub(crate) struct Transaction {
    /// Where its commit record ends.
    pub(crate) end: Lsn,
    /// The place of its first row.
    pub(crate) first: u32,
}

impl Truth {
    /// Knows every row that is committed from now on.
    pub(crate) async fn begin(database: &Database) -> Truth {
        let slot = unique("truth");
        let make = "SELECT pg_create_logical_replication_slot($1::text::name, 'test_decoding')";
        database.client().await.execute(make, &[&slot]).await.unwrap();
        Truth { slot }
    }

    /// Reads it all, some thousand rows at a time, and leaves the slot as it is.
    pub(crate) async fn read(&self, database: &Database) -> Ledger {
        let client = database.client().await;
        let sql = format!(
            "SET timezone = 'UTC'; BEGIN; DECLARE log NO SCROLL CURSOR FOR
             SELECT lsn::text, data FROM pg_logical_slot_peek_changes('{}', NULL, NULL, 'skip-empty-xacts', '1')
             WHERE starts_with(data, 'COMMIT') OR starts_with(data, 'table outbox.messages: INSERT: ')",
            self.slot
        );
        client.batch_execute(&sql).await.unwrap();
        let mut ledger = Ledger::default();
        loop {
            let rows = client.query("FETCH 20000 FROM log", &[]).await.unwrap();
            if rows.is_empty() {
                return ledger;
            }
            for row in rows {
                let (lsn, data): (&str, &str) = (row.get(0), row.get(1));
                match data.strip_prefix("table outbox.messages: INSERT: ") {
                    Some(columns) => ledger.insert(columns),
                    None => ledger.commit(lsn.parse().unwrap()),
                }
            }
        }
    }
}

impl Ledger {
    fn insert(&mut self, columns: &str) {
        let columns: HashMap<&str, Option<String>> = columns_of(columns).into_iter().collect();
        let get = |name: &str| columns.get(name).and_then(Option::as_deref);
        let id = get("id").unwrap();
        let mut headers = vec![("id".to_owned(), Some(id.as_bytes().to_vec()))];
        for name in ["event_type", "correlation_id"] {
            headers.extend(get(name).map(|text| (name.to_owned(), Some(text.as_bytes().to_vec()))));
        }
        let own: serde_json::Map<String, Value> = serde_json::from_str(get("headers").unwrap()).unwrap();
        headers.extend(own.into_iter().map(|(name, value)| {
            let text = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            (name, Some(text.into_bytes()))
        }));
        let created_at: jiff::Timestamp = get("created_at").unwrap().parse().unwrap();
        let (key, value) = (get("key").map(str::as_bytes), get("payload").map(str::as_bytes));
        let content = content(key, value, Some(created_at.as_millisecond()), &headers);
        self.push(id.parse().unwrap(), content);
    }

    pub(crate) fn push(&mut self, id: Uuid, content: u64) {
        let place = u32::try_from(self.rows.len()).expect("a run has fewer rows than this");
        let known = self.places.insert(id, place);
        assert_eq!(known, None, "{id} was inserted twice: the checker could not tell them apart");
        let transaction = u32::try_from(self.transactions.len()).unwrap();
        self.rows.push(Row { content, transaction });
    }

    /// Closes the transaction of the rows that were pushed since the last one.
    pub(crate) fn commit(&mut self, end: Lsn) {
        let open = self.transactions.len();
        let first = self.rows.partition_point(|row| (row.transaction as usize) < open);
        // One without rows of ours has no part in this.
        if first < self.rows.len() {
            self.transactions.push(Transaction { end, first: u32::try_from(first).unwrap() });
        }
    }
}

/// A number for all that a consumer sees of a record, except the position.
pub(crate) fn content(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    timestamp: Option<i64>,
    headers: &[(String, Option<Vec<u8>>)],
) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, value, timestamp, headers).hash(&mut hasher);
    hasher.finish()
}

/// The same of a record that arrived, whose last two headers are the position.
pub(crate) fn content_of(record: &Consumed) -> u64 {
    let own = &record.headers[..record.headers.len().saturating_sub(2)];
    content(record.key.as_deref(), record.payload.as_deref(), record.timestamp, own)
}

/// Takes `name[type]:'text' other[type]:null` apart; an apostrophe within is doubled.
fn columns_of(mut line: &str) -> Vec<(&str, Option<String>)> {
    let mut columns = Vec::new();
    while let Some((name, rest)) = line.split_once('[') {
        let (_, rest) = rest.split_once("]:").unwrap();
        let Some(quoted) = rest.strip_prefix('\'') else {
            let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            columns.push((name, (word != "null").then(|| word.to_owned())));
            line = rest;
            continue;
        };
        let mut end = 0;
        loop {
            end += quoted[end..].find('\'').unwrap();
            if !quoted[end + 1..].starts_with('\'') {
                break;
            }
            end += 2;
        }
        columns.push((name, Some(quoted[..end].replace("''", "'"))));
        line = quoted[end + 1..].trim_start();
    }
    columns
}

#[test]
fn a_line_of_test_decoding_is_taken_apart() {
    let line = "id[uuid]:'a' key[text]:null payload[json]:'{\"it''s\": \"[x]:''''\"}' n[integer]:7 \
                created_at[timestamp with time zone]:'2026-01-02 03:04:05.678901+00'";
    let columns = columns_of(line);
    let expected = [
        ("id", Some("a")),
        ("key", None),
        ("payload", Some("{\"it's\": \"[x]:''\"}")),
        ("n", Some("7")),
        ("created_at", Some("2026-01-02 03:04:05.678901+00")),
    ];
    assert_eq!(columns, expected.map(|(name, value)| (name, value.map(str::to_owned))));
    let time: jiff::Timestamp = expected[4].1.unwrap().parse().unwrap();
    assert_eq!(time.as_microsecond() % 1_000_000, 678_901);
}
