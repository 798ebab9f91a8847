//! Who waits for whom at a commit, and how much memory decoding has.

use super::{STREAMS, Subject, size};
use crate::error::OutboxError;
use crate::finding::Finding;
use crate::postgres::names::quote_literal;
use crate::postgres::session::Cells;

/// Synchronous standbys. The relay's connection is one like theirs: if its name is among those that are named, commits
/// wait until Kafka has the rows (PostgreSQL documentation, `synchronous_standby_names`).
fn synchronous(slot: &str) -> String {
    let slot = quote_literal(slot);
    format!(
        "SELECT current_setting('synchronous_standby_names'), \
         (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')), \
         ARRAY(SELECT DISTINCT quote_ident(r.application_name) FROM pg_stat_replication r WHERE {STREAMS} \
           AND r.application_name <> ''), \
         current_setting('logical_decoding_work_mem'), \
         (SELECT spill_txns FROM pg_stat_replication_slots WHERE slot_name = {slot}), \
         (SELECT spill_bytes FROM pg_stat_replication_slots WHERE slot_name = {slot})"
    )
}

pub(super) async fn look(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let row = subject.row(&synchronous(&subject.target.slot)).await?;
    let (names, synchronous): (String, i64) = (row.cell(0)?, row.cell(1)?);
    let standbys: Vec<String> = row.cell(2)?;
    let mut found = Vec::new();
    let relay = subject.endpoint.config.get_application_name().unwrap_or("walpost");
    if named(&names, relay) {
        let mend = format!(
            "ALTER SYSTEM SET synchronous_standby_names = {}; SELECT pg_reload_conf();",
            quote_literal(&standbys.join(", ")).trim_start()
        );
        let text = format!(
            "every commit of every service may wait until Kafka has acknowledged: the relay's name, {relay}, is among the \
             synchronous standbys ({names})"
        );
        let advice = format!("name the real standbys alone: {mend}");
        found.push(Finding::warn("commits", text, advice).with_sql(mend));
    } else if !names.is_empty() && synchronous == 0 {
        let mend = "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();";
        let text = format!("every commit waits: none of the synchronous standbys ({names}) is connected");
        let advice = format!("start one of them; or do not wait for any: {mend}");
        found.push(Finding::warn("commits", text, advice).with_sql(mend));
    } else if !names.is_empty() {
        let text = format!("commits wait for standbys ({names}); the relay sends what is committed here");
        found.push(Finding::good("commits", text));
    }
    found.push(decoding(&row.cell::<String, _>(3)?, row.cell(4)?, row.cell(5)?));
    Ok(found)
}

/// Whether a name is among `synchronous_standby_names`, where `*` is every one.
fn named(names: &str, relay: &str) -> bool {
    let words = names.split([',', '(', ')']);
    words
        .map(|word| word.trim().trim_matches('"'))
        .any(|word| word == "*" || word.eq_ignore_ascii_case(relay))
}

/// A transaction that does not fit into memory is decoded from a file, which takes disk and time.
fn decoding(memory: &str, spilled: Option<i64>, bytes: Option<i64>) -> Finding {
    let spilled = match (spilled, bytes) {
        (Some(count), Some(bytes)) if count > 0 => {
            format!("; {count} larger transactions took {} of disk", size(bytes))
        }
        _ => String::new(),
    };
    Finding::good("decoding", format!("logical_decoding_work_mem is {memory}{spilled}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_among_those_of_standbys() {
        for (names, expected) in [
            ("", false),
            ("*", true),
            ("FIRST 1 (a, \"Walpost\")", true),
            ("ANY 2 (a, b)", false),
            ("walpost2", false),
        ] {
            assert_eq!(named(names, "walpost"), expected, "{names}");
        }
    }
}
