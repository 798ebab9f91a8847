//! What the stories leave out: positions, times, and the exact bytes of a row.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use walpost::Position;
use walpost::postgres::pgoutput::{Column, Insert, LogicalMessage, Relation, ReplicaIdentity};
use walpost::postgres::transaction::TransactionTracker;
use walpost::postgres::wal::wire_time;

use crate::captures::{FILES, VERSIONS, messages};

/// 2024-02-29 12:34:56.789012, in microseconds since 2000-01-01.
const CREATED_AT: i64 = 762_525_296_789_012;

fn relations(messages: &[LogicalMessage]) -> Vec<&Relation> {
    let mut found = Vec::new();
    for message in messages {
        if let LogicalMessage::Relation(relation) = message {
            found.push(relation);
        }
    }
    found
}

fn inserts(messages: &[LogicalMessage]) -> Vec<&Insert> {
    let mut found = Vec::new();
    for message in messages {
        if let LogicalMessage::Insert(insert) = message {
            found.push(insert);
        }
    }
    found
}

#[test]
fn the_outbox_table_has_its_columns_key_and_types() {
    for version in VERSIONS {
        let messages = messages(version, "outbox-text");
        let first = relations(&messages)[0];
        assert_eq!((&*first.namespace, &*first.name), ("outbox", "messages"));
        assert_eq!(first.replica_identity, ReplicaIdentity::Default);
        let columns = first.columns.iter().map(|column| (&*column.name, column.type_oid, column.is_key));
        // uuid, text, json, jsonb and timestamptz; pg_type lists these numbers.
        let expected = [
            ("id", 2950, true),
            ("topic", 25, false),
            ("key", 25, false),
            ("payload", 114, false),
            ("event_type", 25, false),
            ("headers", 3802, false),
            ("correlation_id", 25, false),
            ("created_at", 1184, false),
        ];
        assert_eq!(columns.collect::<Vec<_>>(), expected);
        assert!(inserts(&messages).iter().all(|insert| insert.relation == first.oid));
    }
}

#[test]
fn a_row_has_the_bytes_that_were_inserted_in_either_form() {
    let id = [0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1];
    let payload = r#"{"total": 12.50, "name": "Łódź 🚲"}"#;
    let headers = r#"{"traceparent": "00-abc-def-01"}"#;
    // The binary form of jsonb begins with its version.
    let jsonb = [b"\x01", headers.as_bytes()].concat();
    for version in VERSIONS {
        let text = |text: &'static str| Column::Text(Bytes::from_static(text.as_bytes()));
        let expected = [
            text("00000000-0000-4000-8000-000000000001"),
            text("orders"),
            text("order-1"),
            text(payload),
            text("order.placed"),
            text(headers),
            text("corr-1"),
            text("2024-02-29 12:34:56.789012+00"),
        ];
        let rows = messages(version, "outbox-text");
        assert!(inserts(&rows)[0].new.columns().eq(expected), "{version}");

        let binary = |bytes: &[u8]| Column::Binary(Bytes::copy_from_slice(bytes));
        let expected = [
            binary(&id),
            binary(b"orders"),
            binary(b"order-1"),
            binary(payload.as_bytes()),
            binary(b"order.placed"),
            binary(&jsonb),
            binary(b"corr-1"),
            binary(&CREATED_AT.to_be_bytes()),
        ];
        let rows = messages(version, "outbox-binary");
        assert!(inserts(&rows)[0].new.columns().eq(expected), "{version}");
    }
}

#[test]
fn a_large_payload_is_whole() {
    let expected = format!("\"{}\"", "0123456789".repeat(2000));
    for (version, file) in VERSIONS.iter().flat_map(|version| FILES.map(|file| (version, file))) {
        let messages = messages(version, file);
        let found = inserts(&messages).into_iter().filter_map(|insert| insert.new.columns().nth(3));
        let whole = found.filter(|column| match column {
            Column::Text(bytes) | Column::Binary(bytes) => bytes == expected.as_bytes(),
            _ => false,
        });
        assert_eq!(whole.count(), 1, "{version}/{file}");
    }
}

#[test]
fn transactions_come_whole_and_in_commit_order() {
    for (version, file) in VERSIONS.iter().flat_map(|version| FILES.map(|file| (version, file))) {
        let mut tracker = TransactionTracker::new();
        let mut begun = None;
        let mut last = None;
        for message in messages(version, file) {
            match message {
                LogicalMessage::Begin(begin) => {
                    tracker.begin(begin.commit_lsn).unwrap();
                    assert!(begin.xid > 2, "the first ids are reserved");
                    begun = Some(begin);
                }
                LogicalMessage::Insert(_) => {
                    let position: Position = tracker.row().unwrap();
                    assert!(last < Some(position), "{version}/{file}: {position} again");
                    last = Some(position);
                }
                LogicalMessage::Commit(commit) => {
                    let end = tracker.commit(commit.commit_lsn, commit.end_lsn).unwrap();
                    let begin = begun.take().unwrap();
                    assert_eq!(
                        (begin.commit_lsn, begin.committed_at),
                        (commit.commit_lsn, commit.committed_at)
                    );
                    // A commit record is small.
                    assert!((1..10_000).contains(&end.distance(commit.commit_lsn)));
                }
                LogicalMessage::Message(message) => {
                    assert_eq!(message.transactional, tracker.is_open(), "{version}/{file}");
                    assert!(begun.is_none_or(|begin| message.lsn <= begin.commit_lsn));
                }
                _ => assert!(tracker.is_open(), "{version}/{file}: {message:?}"),
            }
        }
        assert!(!tracker.is_open());
    }
}

#[test]
fn a_commit_has_the_time_of_the_server_that_it_was_made_on() {
    // The last transaction was given the time 2024-05-06 07:08:09.101112 at its origin.
    let elsewhere = SystemTime::UNIX_EPOCH + Duration::from_micros(1_714_979_289_101_112);
    for version in VERSIONS {
        let times = messages(version, "all-text").into_iter().filter_map(|message| match message {
            LogicalMessage::Begin(begin) => Some(begin.committed_at),
            _ => None,
        });
        let times = times.collect::<Vec<_>>();
        let (last, others) = times.split_last().unwrap();
        assert_eq!(*last, elsewhere);
        // All others when the capture was made, within a minute.
        assert!(others.is_sorted() && others[0] > elsewhere);
        assert!(wire_time(others[others.len() - 1]) - wire_time(others[0]) < 60_000_000);
    }
}
