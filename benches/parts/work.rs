//! What each row goes through between two sockets, part by part, for a hundred rows that came in one read.

use std::hint::black_box;
use std::time::SystemTime;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use walpost::fuzzing::{Stream, Table};
use walpost::postgres::pgoutput::{LogicalMessage, Tuple};
use walpost::postgres::wal::Envelope;
use walpost::progress::Progress;
use walpost::router::Router;
use walpost::store::Batch;
use walpost::{Lsn, OutboxMessage, Position};

/// Rows that a part takes at once: those of one transaction.
pub(crate) const ROWS: usize = 100;

type Part = fn(&Material);

/// Every part by its name.
pub(crate) const PARTS: [(&str, Part); 6] = [
    ("decode", decode),
    ("row", row),
    ("route", route),
    ("route-headers", route_headers),
    ("progress", progress),
    ("intake", intake),
];

/// The rows in each of their forms.
pub(crate) struct Material {
    /// CopyData messages as they lie in the buffer: Relation, Begin, the rows, Commit.
    read: Bytes,
    table: Table,
    rows: Vec<Tuple>,
    messages: Vec<OutboxMessage>,
    /// The same with a header of their own.
    traced: Vec<OutboxMessage>,
}

impl Material {
    pub(crate) fn new() -> Material {
        let mut read = BytesMut::new();
        put_frame(&mut read, &relation());
        put_frame(&mut read, &begin());
        (0..ROWS).for_each(|number| put_frame(&mut read, &insert(number)));
        put_frame(&mut read, &commit());
        let read = read.freeze();
        let (mut table, mut rows) = (None, Vec::new());
        for body in frames(&read) {
            match message(body) {
                LogicalMessage::Relation(relation) => table = Table::of(&relation),
                LogicalMessage::Insert(insert) => rows.push(insert.new),
                _ => {}
            }
        }
        let table = table.expect("an outbox");
        let messages: Vec<_> = rows.iter().map(|row| table.message(row).expect("a message")).collect();
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = messages.iter().map(|it| it.clone().with_header("traceparent", trace)).collect();
        Material { read, table, rows, messages, traced }
    }
}

/// From the bytes of one read to messages of the protocol.
fn decode(material: &Material) {
    for body in frames(&material.read) {
        black_box(message(body));
    }
}

/// From a row of the table to a message.
fn row(material: &Material) {
    for row in &material.rows {
        black_box(material.table.message(row));
    }
}

/// From a message to a record.
fn route(material: &Material) {
    to_records(&material.messages);
}

/// The same with a header of the row's own.
fn route_headers(material: &Material) {
    to_records(&material.traced);
}

fn to_records(messages: &[OutboxMessage]) {
    let mut router = Router::default();
    for (index, message) in (0..).zip(messages) {
        let position = Position { commit_lsn: COMMIT, index };
        black_box(router.route(message, position).expect("a record"));
    }
}

/// From a record that was taken to a position that may be confirmed.
fn progress(_: &Material) {
    let mut progress = Progress::default();
    progress.begin(COMMIT, SystemTime::UNIX_EPOCH);
    let tickets: [_; ROWS] = std::array::from_fn(|_| {
        let ticket = progress.next_ticket();
        progress.taken();
        ticket
    });
    progress.commit(END);
    for ticket in black_box(tickets) {
        progress.acknowledged(ticket);
    }
    assert_eq!(black_box(progress.confirmed()), END);
}

/// From the bytes of one read to changes of the outbox: decode, order and row, as they are strung together.
fn intake(material: &Material) {
    let (mut stream, mut batch) = (Stream::default(), Batch::new());
    for body in frames(&material.read) {
        stream.take(body, &mut batch).expect("a stream");
    }
    assert_eq!(black_box(batch).len(), ROWS + 2);
}

/// The bodies of the CopyData messages in a buffer.
fn frames(read: &Bytes) -> impl Iterator<Item = Bytes> {
    const TAG: usize = 1;
    const LENGTH: usize = 4;
    let mut rest = read.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        rest.advance(TAG);
        let length = rest.get_u32() as usize - LENGTH;
        Some(rest.split_to(length))
    })
}

fn message(body: Bytes) -> LogicalMessage {
    let Ok(Envelope::XLogData(data)) = Envelope::parse(body) else { panic!("no XLogData") };
    LogicalMessage::decode(data.body).expect("a message")
}

const COMMIT: Lsn = Lsn(0x1_0000_0000);
const END: Lsn = Lsn(0x1_0000_0030);
const TABLE: u32 = 16_406;

fn put_frame(into: &mut BytesMut, message: &[u8]) {
    const ENVELOPE: usize = 25;
    into.put_u8(b'd');
    into.put_u32(u32::try_from(4 + ENVELOPE + message.len()).expect("a short message"));
    into.put_u8(b'w');
    into.put_bytes(0, ENVELOPE - 1);
    into.put_slice(message);
}

/// The table of `sql/setup.sql`.
fn relation() -> Vec<u8> {
    let columns: [(&str, u32); 8] = [
        ("id", 2950),
        ("topic", 25),
        ("key", 25),
        ("payload", 114),
        ("event_type", 25),
        ("headers", 3802),
        ("correlation_id", 25),
        ("created_at", 1184),
    ];
    let mut message = b"R".to_vec();
    message.put_u32(TABLE);
    message.put_slice(b"outbox\0messages\0d");
    message.put_u16(8);
    for (name, type_oid) in columns {
        message.put_u8(0);
        message.put_slice(name.as_bytes());
        message.put_u8(0);
        message.put_u32(type_oid);
        message.put_i32(-1);
    }
    message
}

fn begin() -> Vec<u8> {
    let mut message = b"B".to_vec();
    message.put_u64(COMMIT.0);
    message.put_u64(0);
    message.put_u32(742);
    message
}

fn commit() -> Vec<u8> {
    let mut message = b"C\0".to_vec();
    message.put_u64(COMMIT.0);
    message.put_u64(END.0);
    message.put_u64(0);
    message
}

/// A row in binary form, with 300 bytes of payload.
fn insert(number: usize) -> Vec<u8> {
    let id = (number as u128).to_be_bytes();
    let payload = format!(r#"{{"number":"{number:010}","text":"{}"}}"#, "x".repeat(267));
    let key = format!("customer-{}", number * 7919 % 10_000);
    let created_at = 800_000_000_000_000_i64.to_be_bytes();
    let values: [Option<&[u8]>; 8] = [
        Some(&id),
        Some(b"orders"),
        Some(key.as_bytes()),
        Some(payload.as_bytes()),
        Some(b"OrderPlaced"),
        Some(b"\x01{}"),
        None,
        Some(&created_at),
    ];
    let mut message = b"I".to_vec();
    message.put_u32(TABLE);
    message.put_u8(b'N');
    message.put_u16(8);
    for value in values {
        match value {
            None => message.put_u8(b'n'),
            Some(bytes) => {
                message.put_u8(b'b');
                message.put_u32(u32::try_from(bytes.len()).expect("a short value"));
                message.put_slice(bytes);
            }
        }
    }
    message
}
