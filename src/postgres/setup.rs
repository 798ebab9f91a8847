//! The SQL files, with the names that were configured in place of their own.

#[cfg(feature = "cli")]
mod found;

use super::names::{Outbox, Target, quote_identifier, quote_literal};
use super::table;
use crate::error::OutboxError;
use crate::mapping::Mark;
use crate::write_back::WriteBackMode;
#[cfg(feature = "cli")]
pub(crate) use found::{as_found, as_told, made_sql, staying_sql};

const SETUP: &str = include_str!("../../sql/setup.sql");
const RETAIN: &str = include_str!("../../sql/retain.sql");
const TEARDOWN: &str = include_str!("../../sql/teardown.sql");
const LAG: &str = include_str!("../../sql/lag.sql");

/// `sql/setup.sql` for these names, and `sql/retain.sql` behind it.
///
/// # Errors
/// A name contains a dollar sign, which the file's quoted blocks can't hold.
pub fn setup_sql(target: &Target) -> Result<String, OutboxError> {
    let slot = from("-- Slot --", SETUP);
    Ok(format!("{}{}{}", tables_sql(target)?, render(slot, target)?, retain_sql(target)?))
}

/// The same without the part that makes the slot.
///
/// # Errors
/// The same.
pub fn setup_sql_without_slot(target: &Target) -> Result<String, OutboxError> {
    Ok(format!("{}{}", tables_sql(target)?, retain_sql(target)?))
}

/// What makes the tables, and all that has to be there before the slot.
fn tables_sql(target: &Target) -> Result<String, OutboxError> {
    let before_slot = &what_is_needed(until("-- Slot --", SETUP), target);
    let main = if target.main.mapping.made_by_setup {
        render(before_slot, target)?
    } else {
        render(&without_table(before_slot), target)?
    };
    let mut sql = vec![main];
    let mut made: Vec<_> = Some(&target.main).filter(|main| main.mapping.made_by_setup).into_iter().collect();
    for outbox in &target.others {
        let mut table = String::new();
        if outbox.mapping.made_by_setup {
            let of_schema = made.iter().find(|made| made.table.schema == outbox.table.schema);
            table = match of_schema {
                // The functions bear no table's name, and are those of the first one.
                Some(Outbox { table: first, .. }) => {
                    format!("CREATE TABLE IF NOT EXISTS {} (LIKE {first} INCLUDING ALL);\n\n", outbox.table)
                }
                None => {
                    made.push(outbox);
                    let table = until("-- Dead letters --", from("-- Table --", before_slot));
                    render_for(table, target, outbox)?
                }
            };
        }
        let begin = from("BEGIN;", until("-- Table --", before_slot));
        let rest = from("-- Publication --", before_slot);
        sql.push(format!(
            "{}{table}{}",
            render_for(begin, target, outbox)?,
            render_for(rest, target, outbox)?
        ));
    }
    Ok(sql.concat())
}

/// The file without what keeps rows for later, if no row can be due later: a schema of others may have such a table.
fn what_is_needed(sql: &str, target: &Target) -> String {
    if target.outboxes().any(|outbox| outbox.mapping.due.is_some()) {
        return sql.to_owned();
    }
    let after = from("-- Seal --", sql).split_inclusive('\n');
    let after: Vec<_> = after.filter(|line| !line.contains("outbox.scheduled")).collect();
    format!("{}{}", until("-- Scheduled --", sql), after.concat())
}

/// `sql/retain.sql` for each table that set-up makes, one in a schema.
fn retain_sql(target: &Target) -> Result<String, OutboxError> {
    let mut schemas = Vec::new();
    let mut sql = String::new();
    for outbox in target.outboxes().filter(|outbox| outbox.mapping.made_by_setup) {
        if !schemas.contains(&&outbox.table.schema) {
            schemas.push(&outbox.table.schema);
            sql.push_str(&render_for(&format!("\n{RETAIN}"), target, outbox)?);
        }
    }
    Ok(sql)
}

/// The file without what makes the table and the function: somebody else's table stays as it is.
fn without_table(sql: &str) -> String {
    format!("{}{}", until("-- Table --", sql), from("-- Dead letters --", sql))
}

/// The text before a phrase that is in it.
fn until<'a>(phrase: &str, sql: &'a str) -> &'a str {
    sql.split_once(phrase).map_or(sql, |(before, _)| before)
}

/// The text from a phrase on.
fn from<'a>(phrase: &str, sql: &'a str) -> &'a str {
    sql.find(phrase).and_then(|at| sql.get(at..)).unwrap_or_default()
}

/// `sql/teardown.sql` for these names; of it, if the publication is somebody else's, what drops the slot.
///
/// # Errors
/// A name contains a dollar sign, which the file's quoted blocks can't hold.
pub fn teardown_sql(target: &Target, slot_alone: bool) -> Result<String, OutboxError> {
    let slot = until("-- Publication --", from("-- Slot --", TEARDOWN));
    render(if slot_alone { slot } else { TEARDOWN }, target)
}

/// A query after the same: whether the publication is still there, and the slots that may be read with it.
#[must_use]
pub fn left_sql(target: &Target) -> String {
    format!(
        "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = {}), \
         (SELECT string_agg(quote_ident(slot_name), ', ' ORDER BY slot_name) FROM pg_replication_slots \
           WHERE plugin = 'pgoutput' AND database = current_database())",
        quote_literal(&target.publication)
    )
}

/// What `walpost teardown --drop-table` runs besides. A schema goes too unless it is `public` or holds
/// something else.
#[must_use]
pub fn drop_table_sql(target: &Target) -> String {
    let mut sql = String::new();
    for Outbox { table, .. } in target.outboxes().filter(|outbox| outbox.mapping.made_by_setup) {
        let schema = quote_identifier(&table.schema);
        sql.push_str(&format!(
            "DROP PROCEDURE IF EXISTS {schema}.retain(interval, integer); DROP FUNCTION IF EXISTS {schema}.emit(text, json, text, text, jsonb, text); DROP FUNCTION IF EXISTS {schema}.publish(text, json, text, text, jsonb, text); DROP TABLE IF EXISTS {table}; "
        ));
        if *table == target.main.table {
            sql.push_str(&format!(
                "DROP TABLE IF EXISTS {schema}.dead_letters, {schema}.scheduled; DROP TABLE IF EXISTS {schema}.walpost_seal; "
            ));
        }
        if schema != "public" {
            let literal = quote_literal(&table.schema);
            let empty = format!(
                "EXISTS (SELECT FROM pg_namespace n WHERE nspname = {literal} AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid) AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid))"
            );
            sql.push_str(&format!(
                "DO $drop$ BEGIN IF {empty} THEN DROP SCHEMA {schema}; END IF; END $drop$; "
            ));
        }
    }
    sql
}

/// `sql/lag.sql` for these names.
///
/// # Errors
/// A name contains a dollar sign, which the file's quoted blocks can't hold.
pub fn lag_sql(target: &Target) -> Result<String, OutboxError> {
    render(LAG, target)
}

/// A file with the main table's name.
fn render(sql: &str, target: &Target) -> Result<String, OutboxError> {
    render_for(sql, target, &target.main)
}

/// The files run as they are with the default names. Each place where a name stands is one of these
/// phrases, so that other names can take it.
fn render_for(sql: &str, target: &Target, outbox: &Outbox) -> Result<String, OutboxError> {
    let table = outbox.table.to_string();
    let schema = quote_identifier(&outbox.table.schema);
    // What serves all tables is beside the first one.
    let main = quote_identifier(&target.main.table.schema);
    let publication = quote_identifier(&target.publication);
    let marks = outbox.mapping.mark.iter().map(|mark| &mark.column);
    if [&table, &main, &publication].into_iter().chain(marks).any(|name| name.contains('$')) {
        return Err(OutboxError::usage(
            "a name with a dollar sign can't be set up",
            "run the statements of `walpost setup --print` by hand with your names",
        ));
    }
    let slot = quote_literal(&target.slot);
    let granted =
        format!("GRANT SELECT ON {table} TO walpost;{}", write_back_grants(target.write_back, outbox));
    let phrases = [
        ("GRANT SELECT ON outbox.messages TO walpost;", granted),
        ("'outbox.messages'", quote_literal(&table)),
        ("'walpost.emit:outbox.messages'", quote_literal(&table::emitted::prefix(&outbox.table))),
        ("outbox.messages", table),
        ("outbox.emit", format!("{schema}.emit")),
        ("outbox.publish", format!("{schema}.publish")),
        ("outbox.retain", format!("{schema}.retain")),
        ("outbox.walpost_seal", format!("{main}.walpost_seal")),
        ("'outbox.dead_letters'", quote_literal(&format!("{main}.dead_letters"))),
        ("outbox.dead_letters", format!("{main}.dead_letters")),
        ("outbox.scheduled", format!("{main}.scheduled")),
        ("SCHEMA IF NOT EXISTS outbox", format!("SCHEMA IF NOT EXISTS {schema}")),
        ("SCHEMA outbox", format!("SCHEMA {schema}")),
        ("PUBLICATION walpost", format!("PUBLICATION {publication}")),
        ("PUBLICATION IF EXISTS walpost", format!("PUBLICATION IF EXISTS {publication}")),
        ("pubname = 'walpost'", format!("pubname = {}", quote_literal(&target.publication))),
        ("slot_name = 'walpost'", format!("slot_name = {slot}")),
        ("slot_name <> 'walpost'", format!("slot_name <> {slot}")),
        ("relay_slot  CONSTANT text := 'walpost'", format!("relay_slot  CONSTANT text := {slot}")),
        ("replication_slot('walpost'", format!("replication_slot({slot}")),
    ];
    Ok(replace_all(sql, &phrases))
}

/// The rights that writing back needs besides, each in a line behind the right to read. A column of a mark may still be
/// missing, or never be there.
fn write_back_grants(mode: WriteBackMode, Outbox { table, mapping }: &Outbox) -> String {
    match mode {
        WriteBackMode::None => String::new(),
        WriteBackMode::Delete => format!("\n    GRANT DELETE ON {table} TO walpost;  -- --write-back delete"),
        WriteBackMode::Mark => {
            let name = quote_literal(&table.to_string());
            let grant = |mark: &Mark| {
                format!(
                    "\n    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = {name}::regclass AND attname = {} AND attnum > 0) THEN\
                     \n        GRANT UPDATE ({}) ON {table} TO walpost;  -- --write-back mark\
                     \n    END IF;",
                    quote_literal(&mark.column),
                    quote_identifier(&mark.column)
                )
            };
            mapping.mark.iter().map(grant).collect()
        }
    }
}

/// Replaces every phrase in one pass, so that what was put in is not read again.
fn replace_all(text: &str, phrases: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let next = phrases
            .iter()
            .filter_map(|(phrase, by)| rest.find(phrase).map(|at| (at, phrase.len(), by)))
            .min_by_key(|(at, length, _)| (*at, usize::MAX - length));
        let Some((at, length, by)) = next else { break };
        out.push_str(rest.get(..at).unwrap_or_default());
        out.push_str(by);
        rest = rest.get(at + length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mapping::{Mapping, MarkValue, Preset};

    #[test]
    fn the_default_names_leave_the_files_as_they_are() {
        let target = Target::default();
        assert_eq!(setup_sql(&target).expect("rendered"), format!("{SETUP}\n{RETAIN}"));
        assert_eq!(teardown_sql(&target, false).expect("rendered"), TEARDOWN);
        let slot = teardown_sql(&target, true).expect("rendered");
        assert!(
            slot.contains("pg_drop_replication_slot") && !slot.to_lowercase().contains("publication"),
            "{slot}"
        );
        assert_eq!(lag_sql(&target).expect("rendered"), LAG);
    }

    #[test]
    fn a_table_of_others_is_not_made() {
        let sql = without_table(SETUP);
        assert!(
            !sql.contains("outbox.publish")
                && !sql.contains("outbox.emit")
                && !sql.contains("TABLE IF NOT EXISTS outbox.messages")
        );
        assert!(
            sql.contains("TABLE IF NOT EXISTS outbox.dead_letters")
                && sql.contains("PUBLICATION walpost FOR TABLE")
        );
        assert!(sql.contains("ON outbox.scheduled TO walpost"));
        let mut debezium = Target::default();
        let preset = crate::mapping::Preset::named("debezium").expect("the preset");
        debezium.main.mapping = std::sync::Arc::new(preset.mapping(|_| None).expect("a mapping"));
        let sql = what_is_needed(&sql, &debezium);
        assert!(
            !sql.contains("scheduled") && sql.contains("TABLE IF NOT EXISTS outbox.walpost_seal"),
            "{sql}"
        );
        assert!(!sql.contains("CREATE SCHEMA") && sql.contains("\nBEGIN;\n") && sql.contains("\nCOMMIT;\n"));
    }

    /// Every table is in the publication before the slot is made; what serves them all is made once.
    #[test]
    fn several_tables_are_set_up_together() {
        let outbox = |name: &str, mapping: &Arc<Mapping>| Outbox {
            table: name.parse().expect("a name"),
            mapping: Arc::clone(mapping),
        };
        let (own, foreign) =
            (Mapping::walpost(), Preset::named("spakky").expect("a preset").mapping(|_| None));
        let foreign = Arc::new(foreign.expect("a mapping"));
        let others =
            vec![outbox("shop.events", &foreign), outbox("b.messages", &own), outbox("b.more", &own)];
        let target = Target { others, ..Target::default() };
        let sql = setup_sql(&target).expect("rendered");
        let code: Vec<_> = sql.lines().filter(|line| !line.starts_with("--")).collect();
        let code = code.join("\n");
        let count = |text: &str| code.matches(text).count();
        for table in ["outbox.messages", "shop.events", "b.messages", "b.more"] {
            assert_eq!(count(&format!("ALTER PUBLICATION walpost ADD TABLE {table};")), 1, "{table}");
            assert_eq!(count(&format!("GRANT SELECT ON {table} TO walpost;")), 1, "{table}");
        }
        for (text, times) in [
            ("CREATE TABLE IF NOT EXISTS outbox.dead_letters (", 1),
            ("INSERT INTO outbox.walpost_seal", 1),
            ("FROM outbox.walpost_seal;", 2),
            ("TABLE IF NOT EXISTS b.messages (\n", 1),
            ("TABLE IF NOT EXISTS b.more (LIKE b.messages INCLUDING ALL)", 1),
            ("TABLE IF NOT EXISTS shop.events", 0),
            ("FUNCTION b.emit(\n", 1),
            ("'walpost.emit:b.messages'", 1),
            ("PROCEDURE b.retain(", 1),
            ("pg_create_logical_replication_slot('walpost', 'pgoutput')", 1),
        ] {
            assert_eq!(count(text), times, "{text}");
        }
        let tables = tables_sql(&target).expect("rendered");
        assert_eq!([tables.matches("\nBEGIN;\n").count(), tables.matches("\nCOMMIT;\n").count()], [4, 4]);
        let slot = sql.find("pg_create_logical").expect("a slot");
        assert!(sql.rfind("ADD TABLE").is_some_and(|last| last < slot));
        assert!(!setup_sql_without_slot(&target).expect("rendered").contains("pg_create_logical"));
        let drop = drop_table_sql(&target);
        assert!(drop.contains("TABLE IF EXISTS b.more;") && !drop.contains("shop.events"));
    }

    #[test]
    fn a_mode_of_writing_back_grants_what_it_needs_and_no_more() {
        let mut target = Target::default();
        let mark = |column: &str| Mark { column: column.to_owned(), optional: false, value: MarkValue::Now };
        let mark = vec![mark("sent_at"), mark("outbox.emit")];
        target.main.mapping = Arc::new(Mapping { mark, ..Mapping::clone(&Mapping::walpost()) });
        let plain = setup_sql(&target).expect("rendered");
        assert_eq!(plain, setup_sql(&Target::default()).expect("rendered"));
        for (mode, expected) in [
            (WriteBackMode::Delete, vec!["GRANT DELETE ON outbox.messages TO walpost;"]),
            (
                WriteBackMode::Mark,
                vec![
                    "attrelid = 'outbox.messages'::regclass AND attname = 'sent_at'",
                    "GRANT UPDATE (sent_at) ON outbox.messages TO walpost;",
                    "GRANT UPDATE (\"outbox.emit\") ON outbox.messages TO walpost;",
                ],
            ),
        ] {
            target.write_back = mode;
            let sql = setup_sql(&target).expect("rendered");
            let more: Vec<_> = sql.lines().filter(|line| !plain.contains(line)).collect();
            let more = more.join("\n");
            assert!(expected.iter().all(|text| more.contains(text)), "{more}");
            assert_eq!(
                more.matches("GRANT").count(),
                if mode == WriteBackMode::Delete { 1 } else { 2 },
                "{more}"
            );
        }
        target.main.mapping = Arc::new(Mapping {
            mark: vec![Mark { column: "$grants$".to_owned(), optional: true, value: MarkValue::Now }],
            ..Mapping::clone(&Mapping::walpost())
        });
        assert!(setup_sql(&target).is_err());
    }

    #[test]
    fn other_names_take_every_place() {
        let table = "\"My Shop\".outbox".parse().expect("a name");
        let target = Target {
            main: Outbox { table, ..Outbox::default() },
            publication: "it's".to_owned(),
            slot: "shop".to_owned(),
            ..Target::default()
        };
        for sql in [setup_sql(&target), teardown_sql(&target, false), lag_sql(&target)] {
            let sql = sql.expect("rendered");
            let statements = sql.lines().filter_map(|line| line.split("--").next());
            for line in statements {
                let rest = line
                    .replace("TO walpost", "")
                    .replace("ROLE walpost", "")
                    .replace("rolname = 'walpost'", "");
                let rest = rest
                    .replace("role walpost", "")
                    .replace("'walpost.emit:", "")
                    .replace("`walpost setup`", "")
                    .replace("walpost_seal", "");
                assert!(!rest.contains("walpost") && !rest.contains("outbox."), "{line}");
            }
        }
        let setup = setup_sql(&target).expect("rendered");
        assert!(
            setup.contains("'walpost.emit:\"My Shop\".outbox'")
                && setup.contains("FUNCTION \"My Shop\".emit(")
        );
        assert!(setup.contains("'\"My Shop\".outbox'::regclass") && setup.contains("PUBLICATION \"it's\""));
        assert!(setup.contains("PROCEDURE \"My Shop\".retain(") && setup.contains("CONSTANT text := 'shop'"));
        assert!(setup.contains("pubname = 'it''s'") && setup.contains("slot('shop', 'pgoutput'"));
    }
}
