//! Tells decoded messages in words, without what differs from run to run.
//!
//! Positions, transaction ids and times are left out (`content` looks at them), tables and types go by
//! name. So one story is true for all server versions.

use std::collections::HashMap;
use std::fmt::Write as _;

use walpost::postgres::pgoutput::{Column, LogicalMessage, OldRow, Relation, Truncate, Tuple};

use crate::captures::{FILES, VERSIONS, messages, path};

/// Oids from here on are given by the server as it goes.
const FIRST_OWN_OID: u32 = 16384;

#[test]
fn every_version_tells_the_same_story() {
    for file in FILES {
        // The older protocol says the same.
        let story = if file == "all-proto1" { "all-text" } else { file };
        let expected = std::fs::read_to_string(path(&format!("{story}.story"))).unwrap();
        for version in VERSIONS {
            let told = Teller::default().tell(&messages(version, file));
            for (line, (told, expected)) in told.lines().zip(expected.lines()).enumerate() {
                assert_eq!(told, expected, "{version}/{file}, line {} of {story}.story", line + 1);
            }
            assert_eq!(told.lines().count(), expected.lines().count(), "{version}/{file}");
        }
    }
}

#[derive(Default)]
struct Teller {
    relations: HashMap<u32, String>,
    types: HashMap<u32, String>,
}

impl Teller {
    fn tell(mut self, messages: &[LogicalMessage]) -> String {
        let mut story = String::new();
        for (index, message) in messages.iter().enumerate() {
            let next = messages.get(index + 1);
            let before = index.checked_sub(1).and_then(|index| messages.get(index));
            match (before, message, next) {
                // Version 14 sends empty transactions, later ones leave them out.
                (_, LogicalMessage::Begin(_), Some(LogicalMessage::Commit(_))) => {}
                (Some(LogicalMessage::Begin(_)), LogicalMessage::Commit(_), _) => {}
                _ => writeln!(story, "{}", self.line(message)).unwrap(),
            }
        }
        story
    }

    fn line(&mut self, message: &LogicalMessage) -> String {
        match message {
            LogicalMessage::Begin(_) => "begin".into(),
            LogicalMessage::Commit(_) => "commit".into(),
            LogicalMessage::Origin(origin) => format!("  origin {} {}", origin.name, origin.commit_lsn),
            LogicalMessage::Type(named) => {
                let name = format!("{}.{}", named.namespace, named.name);
                self.types.insert(named.oid, name.clone());
                format!("  type {name}")
            }
            LogicalMessage::Relation(relation) => self.relation(relation),
            LogicalMessage::Insert(insert) => {
                format!("  insert {}: {}", self.relations[&insert.relation], row(&insert.new))
            }
            LogicalMessage::Update(update) => {
                let old = update.old.as_ref().map_or_else(String::new, |old| format!(" {} =>", old_row(old)));
                format!("  update {}:{old} {}", self.relations[&update.relation], row(&update.new))
            }
            LogicalMessage::Delete(delete) => {
                format!("  delete {}: {}", self.relations[&delete.relation], old_row(&delete.old))
            }
            LogicalMessage::Truncate(truncate) => self.truncate(truncate),
            LogicalMessage::Message(message) => {
                let place = if message.transactional { "  message" } else { "message on its own" };
                format!("{place} to {}: {}", value(&message.prefix), value(&message.content))
            }
        }
    }

    fn relation(&mut self, relation: &Relation) -> String {
        let name = format!("{}.{}", relation.namespace, relation.name);
        self.relations.insert(relation.oid, name.clone());
        let columns = relation.columns.iter().map(|column| {
            let kind = match self.types.get(&column.type_oid) {
                Some(name) if column.type_oid >= FIRST_OWN_OID => name.clone(),
                _ => column.type_oid.to_string(),
            };
            let narrow = match column.type_modifier {
                -1 => String::new(),
                modifier => format!("({modifier})"),
            };
            format!("{}{} {kind}{narrow}", if column.is_key { "*" } else { "" }, column.name)
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        format!("  relation {name}, identity {:?}: {columns}", relation.replica_identity)
    }

    fn truncate(&self, truncate: &Truncate) -> String {
        let names = truncate.relations.iter().map(|oid| self.relations[oid].as_str()).collect::<Vec<_>>();
        let cascade = if truncate.cascade { ", cascade" } else { "" };
        let restart = if truncate.restart_identity { ", restart identity" } else { "" };
        format!("  truncate {}{cascade}{restart}", names.join(" and "))
    }
}

fn old_row(old: &OldRow) -> String {
    match old {
        OldRow::Key(tuple) => format!("key {}", row(tuple)),
        OldRow::Full(tuple) => format!("full {}", row(tuple)),
    }
}

fn row(tuple: &Tuple) -> String {
    assert_eq!(tuple.columns().count(), tuple.len());
    let columns = tuple.columns().map(|column| match column {
        Column::Null => "null".into(),
        Column::UnchangedToast => "unchanged".into(),
        Column::Text(text) => format!("t {}", value(&text)),
        Column::Binary(bytes) => format!("b {}", value(&bytes)),
    });
    columns.collect::<Vec<_>>().join(" | ")
}

/// Text in quotes, other bytes in hexadecimal, and of a long value its length and ends.
fn value(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() > 1000 => {
            format!("{}…{} ({} bytes)", &text[..4], &text[text.len() - 4..], text.len())
        }
        Ok(text) if !text.chars().any(char::is_control) => format!("'{text}'"),
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
