//! The SQL files, with the names that were configured in place of their own.

use super::names::{Target, quote_identifier, quote_literal};
use super::table;
use crate::error::OutboxError;

const SETUP: &str = include_str!("../../sql/setup.sql");
const RETAIN: &str = include_str!("../../sql/retain.sql");
const TEARDOWN: &str = include_str!("../../sql/teardown.sql");
const LAG: &str = include_str!("../../sql/lag.sql");

/// `sql/setup.sql` for these names, and `sql/retain.sql` behind it.
///
/// # Errors
/// A name contains a dollar sign, which the file's quoted blocks can't hold.
pub fn setup_sql(target: &Target) -> Result<String, OutboxError> {
    render(&what_is_needed(SETUP, target), target)
}

/// The same without the part that makes the slot.
///
/// # Errors
/// The same.
pub fn setup_sql_without_slot(target: &Target) -> Result<String, OutboxError> {
    let before = SETUP.split_once("-- Slot --").map_or(SETUP, |(before, _)| before);
    render(&what_is_needed(before, target), target)
}

fn what_is_needed(setup: &str, target: &Target) -> String {
    let sql = if target.mapping.made_by_setup { format!("{setup}\n{RETAIN}") } else { without_table(setup) };
    if target.mapping.due.is_some() { sql } else { without_scheduled(&sql) }
}

/// The file without what keeps rows for later: a schema of others may have a table of that name.
fn without_scheduled(sql: &str) -> String {
    let (before, rest) = sql.split_once("-- Scheduled --").unwrap_or((sql, ""));
    let (_, after) = rest.split_once("-- Seal --").unwrap_or(("", rest));
    let after: Vec<_> =
        after.split_inclusive('\n').filter(|line| !line.contains("outbox.scheduled")).collect();
    format!("{before}-- Seal --{}", after.concat())
}

/// The file without what makes the table and the function: somebody else's table stays as it is.
fn without_table(sql: &str) -> String {
    let (before, rest) = sql.split_once("-- Table --").unwrap_or((sql, ""));
    let (_, after) = rest.split_once("-- Dead letters --").unwrap_or(("", rest));
    format!("{before}-- Dead letters --{after}")
}

/// `sql/teardown.sql` for these names.
///
/// # Errors
/// A name contains a dollar sign, which the file's quoted blocks can't hold.
pub fn teardown_sql(target: &Target) -> Result<String, OutboxError> {
    render(TEARDOWN, target)
}

/// What `walpost teardown --drop-table` runs besides. The schema goes too unless it is `public` or holds
/// something else.
#[must_use]
pub fn drop_table_sql(target: &Target) -> String {
    let (table, schema) = (&target.table, quote_identifier(&target.table.schema));
    let mut sql = format!(
        "DROP PROCEDURE IF EXISTS {schema}.retain(interval, integer); DROP FUNCTION IF EXISTS {schema}.emit(text, json, text, text, jsonb, text); DROP FUNCTION IF EXISTS {schema}.publish(text, json, text, text, jsonb, text); DROP TABLE IF EXISTS {table}; \
         DROP TABLE IF EXISTS {schema}.dead_letters, {schema}.scheduled; DROP TABLE IF EXISTS {schema}.walpost_seal;"
    );
    if schema != "public" {
        let literal = quote_literal(&target.table.schema);
        let empty = format!(
            "EXISTS (SELECT FROM pg_namespace n WHERE nspname = {literal} AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid) AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid))"
        );
        sql.push_str(&format!(" DO $drop$ BEGIN IF {empty} THEN DROP SCHEMA {schema}; END IF; END $drop$;"));
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

/// The files run as they are with the default names. Each place where a name stands is one of these
/// phrases, so that other names can take it.
fn render(sql: &str, target: &Target) -> Result<String, OutboxError> {
    let table = target.table.to_string();
    let schema = quote_identifier(&target.table.schema);
    let publication = quote_identifier(&target.publication);
    if [&table, &publication].iter().any(|name| name.contains('$')) {
        return Err(OutboxError::usage(
            "a name with a dollar sign can't be set up",
            "run the statements of `walpost setup --print` by hand with your names",
        ));
    }
    let slot = quote_literal(&target.slot);
    let phrases = [
        ("'outbox.messages'", quote_literal(&table)),
        ("'walpost.emit:outbox.messages'", quote_literal(&table::emitted::prefix(&target.table))),
        ("outbox.messages", table),
        ("outbox.emit", format!("{schema}.emit")),
        ("outbox.publish", format!("{schema}.publish")),
        ("outbox.retain", format!("{schema}.retain")),
        ("outbox.walpost_seal", format!("{schema}.walpost_seal")),
        ("'outbox.dead_letters'", quote_literal(&format!("{schema}.dead_letters"))),
        ("outbox.dead_letters", format!("{schema}.dead_letters")),
        ("outbox.scheduled", format!("{schema}.scheduled")),
        ("SCHEMA IF NOT EXISTS outbox", format!("SCHEMA IF NOT EXISTS {schema}")),
        ("SCHEMA outbox", format!("SCHEMA {schema}")),
        ("PUBLICATION walpost", format!("PUBLICATION {publication}")),
        ("PUBLICATION IF EXISTS walpost", format!("PUBLICATION IF EXISTS {publication}")),
        ("pubname = 'walpost'", format!("pubname = {}", quote_literal(&target.publication))),
        ("slot_name = 'walpost'", format!("slot_name = {slot}")),
        ("relay_slot  CONSTANT text := 'walpost'", format!("relay_slot  CONSTANT text := {slot}")),
        ("replication_slot('walpost'", format!("replication_slot({slot}")),
    ];
    Ok(replace_all(sql, &phrases))
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
    use super::*;

    #[test]
    fn the_default_names_leave_the_files_as_they_are() {
        let target = Target::default();
        assert_eq!(setup_sql(&target).expect("rendered"), format!("{SETUP}\n{RETAIN}"));
        assert_eq!(teardown_sql(&target).expect("rendered"), TEARDOWN);
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
        let sql = without_scheduled(&sql);
        assert!(
            !sql.contains("scheduled") && sql.contains("TABLE IF NOT EXISTS outbox.walpost_seal"),
            "{sql}"
        );
        assert!(!sql.contains("CREATE SCHEMA") && sql.contains("\nBEGIN;\n") && sql.contains("\nCOMMIT;\n"));
    }

    #[test]
    fn other_names_take_every_place() {
        let target = Target {
            table: "\"My Shop\".outbox".parse().expect("a name"),
            publication: "it's".to_owned(),
            slot: "shop".to_owned(),
            ..Target::default()
        };
        for sql in [setup_sql(&target), teardown_sql(&target), lag_sql(&target)] {
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
