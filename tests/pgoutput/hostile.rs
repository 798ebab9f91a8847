//! Bytes that no server sends: an error every time, never a panic, never a large allocation.

use std::collections::HashSet;

use bytes::Bytes;
use walpost::postgres::DecodeError;
use walpost::postgres::pgoutput::{LogicalMessage, OldRow, Tuple};

use crate::captures::{FILES, VERSIONS, bodies};

/// Every captured message once: the files overlap.
fn all_bodies() -> HashSet<Bytes> {
    VERSIONS.iter().flat_map(|version| FILES.map(|file| bodies(version, file))).flatten().collect()
}

/// Decodes, and reads the values of what could be decoded: all that were announced are there.
fn exercise(body: Bytes) -> Result<(), DecodeError> {
    let walk = |tuple: &Tuple| assert_eq!(tuple.columns().count(), tuple.len());
    let walk_old = |old: &OldRow| match old {
        OldRow::Key(tuple) | OldRow::Full(tuple) => walk(tuple),
    };
    match LogicalMessage::decode(body)? {
        LogicalMessage::Insert(insert) => walk(&insert.new),
        LogicalMessage::Update(update) => {
            update.old.iter().for_each(walk_old);
            walk(&update.new);
        }
        LogicalMessage::Delete(delete) => walk_old(&delete.old),
        _ => {}
    }
    Ok(())
}

#[test]
fn every_prefix_is_refused() {
    for body in all_bodies() {
        assert_eq!(exercise(body.clone()), Ok(()));
        for end in 0..body.len() {
            let error = exercise(body.slice(..end));
            assert!(matches!(error, Err(DecodeError::Short { .. })), "{end} bytes of {body:?}: {error:?}");
        }
        let longer = Bytes::from([&body, b"\0".as_slice()].concat());
        assert!(matches!(exercise(longer), Err(DecodeError::LeftOver { bytes: 1, .. })), "{body:?}");
    }
}

#[test]
fn every_changed_byte_gives_a_value_or_an_error() {
    let single_bits = (0..8).map(|bit| 1_u8 << bit);
    let masks = single_bits.chain([0xFF]).collect::<Vec<_>>();
    for body in all_bodies() {
        let mut bytes = Vec::from(body);
        // Nearly all of a long message is one value, whose content means nothing here.
        let masks = if bytes.len() < 1000 { masks.as_slice() } else { &[0x01, 0xFF] };
        for at in 0..bytes.len() {
            for mask in masks {
                bytes[at] ^= mask;
                let shared = Bytes::from(bytes);
                let _ = exercise(shared.clone());
                bytes = Vec::from(shared);
                bytes[at] ^= mask;
            }
        }
    }
}

const fn short(message: &'static str, field: &'static str) -> DecodeError {
    DecodeError::Short { message, field }
}

const fn invalid(message: &'static str, field: &'static str, value: u8) -> DecodeError {
    DecodeError::Invalid { message, field, value }
}

const fn negative(message: &'static str, field: &'static str, value: i32) -> DecodeError {
    DecodeError::Negative { message, field, value }
}

const fn too_many(message: &'static str, field: &'static str, count: usize, limit: usize) -> DecodeError {
    DecodeError::TooMany { message, field, count, limit }
}

fn refused(cases: &[(&'static [u8], DecodeError)]) {
    for (body, error) in cases {
        let shown = body.escape_ascii();
        assert_eq!(LogicalMessage::decode(Bytes::from_static(body)), Err(error.clone()), "{shown}");
    }
}

#[test]
fn relations_of_impossible_shape_are_refused() {
    refused(&[
        (b"R\0\0\0\x01s\0t\0x\0\0", invalid("Relation", "replica identity", b'x')),
        (b"R\0\0\0\x01\xFF\0t\0d\0\0", DecodeError::NotUtf8 { message: "Relation", field: "namespace" }),
        (b"R\0\0\0\x01s\0unending", short("Relation", "relation name")),
        (b"R\0\0\0\x01s\0t\0d\xFF\xFF", negative("Relation", "column count", -1)),
        (b"R\0\0\0\x01s\0t\0d\x80\0", negative("Relation", "column count", -32768)),
        (b"R\0\0\0\x01s\0t\0d\x06\x81", too_many("Relation", "column count", 1665, 1664)),
        (b"R\0\0\0\x01s\0t\0d\x06\x80", short("Relation", "columns")),
        (b"R\0\0\0\x01s\0t\0d\0\x01\x02c\0\0\0\0\x19\0\0\0\0", invalid("Relation", "column flags", 2)),
        (b"R\0\0\0\x01s\0t\0d\0\x01\0ccccccccc", short("Relation", "column name")),
    ]);
}

#[test]
fn rows_of_impossible_shape_are_refused() {
    refused(&[
        (b"I\0\0\0\x01K\0\0", invalid("Insert", "row tag", b'K')),
        (b"I\0\0\0\x01N\xFF\xFF", negative("Insert", "column count", -1)),
        (b"I\0\0\0\x01N\x06\x81", too_many("Insert", "column count", 1665, 1664)),
        (b"I\0\0\0\x01N\x7F\xFF", too_many("Insert", "column count", 32767, 1664)),
        (b"I\0\0\0\x01N\x06\x80nn", short("Insert", "column kind")),
        (b"I\0\0\0\x01N\0\x01x", invalid("Insert", "column kind", b'x')),
        (b"I\0\0\0\x01N\0\x01u", invalid("Insert", "column kind", b'u')),
        (b"I\0\0\0\x01N\0\x01t\xFF\xFF\xFF\xFF", negative("Insert", "column length", -1)),
        (b"I\0\0\0\x01N\0\x01b\x80\0\0\0", negative("Insert", "column length", i32::MIN)),
        (b"I\0\0\0\x01N\0\x01t\x7F\xFF\xFF\xFFabc", short("Insert", "column value")),
        (b"I\0\0\0\x01N\0\x01t\0\0\0\x04abc", short("Insert", "column value")),
        (b"I\0\0\0\x01N\0\x01nn", DecodeError::LeftOver { message: "Insert", bytes: 1 }),
        (b"U\0\0\0\x01X\0\0", invalid("Update", "row tag", b'X')),
        (b"U\0\0\0\x01K\0\x01nK\0\x01n", invalid("Update", "row tag", b'K')),
        (b"U\0\0\0\x01O\0\x01n", short("Update", "row tag")),
        (b"D\0\0\0\x01N\0\x01n", invalid("Delete", "row tag", b'N')),
        (b"D\0\0\0\x01K\0\x02n", short("Delete", "column kind")),
    ]);
    // What an insert may not leave out, an update may.
    assert_eq!(exercise(Bytes::from_static(b"U\0\0\0\x01N\0\x01u")), Ok(()));
}

#[test]
fn other_messages_of_impossible_shape_are_refused() {
    refused(&[
        (b"B\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0", short("Begin", "transaction id")),
        (b"C\x01", invalid("Commit", "flags", 1)),
        (b"O\0\0\0\0\0\0\0\x01\xC3\0", DecodeError::NotUtf8 { message: "Origin", field: "name" }),
        (b"Y\0\0\0\x01s\0t\0\0", DecodeError::LeftOver { message: "Type", bytes: 1 }),
        (b"T\xFF\xFF\xFF\xFF\0", negative("Truncate", "relation count", -1)),
        (b"T\0\0\0\x01\x04\0\0\0\x01", invalid("Truncate", "options", 4)),
        (b"T\0\0\0\x02\0\0\0\0\x01\0\0\0", short("Truncate", "relation oids")),
        (b"M\x02", invalid("Message", "flags", 2)),
        (b"M\0\0\0\0\0\0\0\0\x01unending", short("Message", "prefix")),
        (b"M\0\0\0\0\0\0\0\0\x01p\0\xFF\xFF\xFF\xFE", negative("Message", "content length", -2)),
        (b"M\0\0\0\0\0\0\0\0\x01p\0\x7F\xFF\xFF\xFFabc", short("Message", "content")),
    ]);
    // Anybody may write a message; its prefix is no name, and may be long and in any encoding.
    let prefix = [b"M\0\0\0\0\0\0\0\0\x01".as_slice(), &[0xC3; 100_000], b"\0\0\0\0\0"].concat();
    assert_eq!(exercise(Bytes::from(prefix)), Ok(()));
}

/// Reserved memory, even where nothing was ever written to it.
#[cfg(target_os = "linux")]
#[test]
fn announced_counts_reserve_nothing() {
    fn peak_kilobytes() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
    let before = peak_kilobytes();
    refused(&[
        // 8 GB of oids.
        (b"T\x7F\xFF\xFF\xFF\0\0\0\0\x01", short("Truncate", "relation oids")),
        (b"M\0\0\0\0\0\0\0\0\x01p\0\x7F\xFF\xFF\xFF", short("Message", "content")),
        (b"I\0\0\0\x01N\0\x01t\x7F\xFF\xFF\xFF", short("Insert", "column value")),
    ]);
    // The allocator keeps up to 128 MB of addresses for each of the tests' threads.
    assert!(peak_kilobytes() - before < 1_500_000);
}
