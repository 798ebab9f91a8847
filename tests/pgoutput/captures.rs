//! Reads the captured messages.

use std::path::PathBuf;

use bytes::Bytes;
use walpost::postgres::pgoutput::LogicalMessage;

/// Server versions that were captured.
pub(crate) const VERSIONS: [&str; 3] = ["14", "15", "18"];

/// What was captured from each.
pub(crate) const FILES: [&str; 5] = ["outbox-text", "outbox-binary", "all-text", "all-binary", "all-proto1"];

pub(crate) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/data/pgoutput", name].iter().collect()
}

/// The messages of one file, as they came.
pub(crate) fn bodies(version: &str, file: &str) -> Vec<Bytes> {
    let path = path(&format!("{version}/{file}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(unhex).collect()
}

/// The messages of one file, decoded.
pub(crate) fn messages(version: &str, file: &str) -> Vec<LogicalMessage> {
    let decode = |(line, body)| {
        LogicalMessage::decode(body).unwrap_or_else(|error| panic!("{version}/{file}:{}: {error}", line + 1))
    };
    bodies(version, file).into_iter().enumerate().map(decode).collect()
}

fn unhex(line: &str) -> Bytes {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
    assert_eq!(line.len() % 2, 0, "half a byte");
    line.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
