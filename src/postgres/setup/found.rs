//! What is there of all that the SQL files make, and which tables are of their making.

use std::sync::Arc;

use crate::error::OutboxError;
use crate::mapping::Mapping;
use crate::postgres::names::{Outbox, Target, quote_literal};
use crate::postgres::session::Session;
use crate::postgres::table::{is_own, own_columns};

/// The target with each table that is there and made up in another way than that of `walpost setup` as somebody else's, for
/// whose rows the functions would be of no use.
///
/// # Errors
/// The session broke, or the catalog can't be read.
pub(crate) async fn as_found(session: &Session, target: &Target) -> Result<Target, OutboxError> {
    let mut found = target.clone();
    for outbox in std::iter::once(&mut found.main).chain(&mut found.others) {
        if outbox.mapping.made_by_setup && is_own(session, &outbox.table).await? == Some(false) {
            leave_to_its_makers(outbox);
        }
    }
    Ok(found)
}

/// The same where there is no server to be asked: by the columns that the mapping needs.
pub(crate) fn as_told(target: &Target) -> Target {
    let mut told = target.clone();
    for outbox in std::iter::once(&mut told.main).chain(&mut told.others) {
        if !outbox.mapping.needs_no_more_than(&own_columns()) {
            leave_to_its_makers(outbox);
        }
    }
    told
}

fn leave_to_its_makers(outbox: &mut Outbox) {
    outbox.mapping = Arc::new(Mapping { made_by_setup: false, ..Mapping::clone(&outbox.mapping) });
}

/// A query for what a teardown leaves besides the tables of the target: what each is, and its name as SQL writes it.
pub(crate) fn staying_sql(target: &Target) -> String {
    let schemas: Vec<_> = target.outboxes().map(|outbox| quote_literal(&outbox.table.schema)).collect();
    format!(
        "SELECT 'TABLE', format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
           WHERE n.nspname = {main} AND c.relkind = 'r' AND (c.relname = 'walpost_seal' OR c.relname IN ('dead_letters', \
             'scheduled') AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'commit_lsn' \
               AND a.atttypid = 'pg_lsn'::regtype)) \
         UNION ALL SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure::text \
           FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ({schemas}) \
             AND (p.proname IN ('publish', 'emit') AND oidvectortypes(p.proargtypes) = 'text, json, text, text, jsonb, text' \
               OR p.proname = 'retain' AND oidvectortypes(p.proargtypes) = 'interval, integer') \
         UNION ALL SELECT CASE WHEN EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass \
             AND refobjid = r.oid AND deptype = 'o') THEN 'OWNER' ELSE 'ROLE' END, quote_ident(r.rolname) \
           FROM pg_roles r WHERE r.rolname = 'walpost' ORDER BY 1, 2",
        main = quote_literal(&target.main.table.schema),
        schemas = schemas.join(", "),
    )
}

/// A query for what is there of all that the files make: kind and name of each.
pub(crate) fn made_sql(target: &Target) -> String {
    let schemas: Vec<_> = target.outboxes().map(|outbox| quote_literal(&outbox.table.schema)).collect();
    let schemas = schemas.join(", ");
    let tables: Vec<_> = target.outboxes().map(|outbox| quote_literal(&outbox.table.name)).collect();
    format!(
        "SELECT 'table', format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
           WHERE n.nspname IN ({schemas}) AND c.relkind IN ('r', 'p') AND c.relname IN ('dead_letters', 'scheduled', \
             'walpost_seal', {}) \
         UNION ALL SELECT CASE prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, format('%I.%I', n.nspname, proname) \
           FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace WHERE n.nspname IN ({schemas}) \
             AND proname IN ('publish', 'emit', 'retain') \
         UNION ALL SELECT 'publication', quote_ident(pubname) FROM pg_publication WHERE pubname = {} \
         UNION ALL SELECT 'role', rolname::text FROM pg_roles WHERE rolname = 'walpost' \
         UNION ALL SELECT 'slot', slot_name::text FROM pg_replication_slots WHERE slot_name = {}",
        tables.join(", "),
        quote_literal(&target.publication),
        quote_literal(&target.slot)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Preset;

    #[test]
    fn a_mapping_of_other_columns_is_that_of_a_table_of_others() {
        let walpost = Preset::named("walpost").expect("a preset");
        for (entry, text, own) in [
            ("key", "{id}", true),
            ("headers", "{headers?}, kind={kind?}", true),
            ("topic", "shop.{kind}", false),
            ("value", "object(a={body})", false),
            ("only", "sent_at=", true),
        ] {
            let mapping = walpost.mapping(|asked| (asked == entry).then_some(text)).expect("a mapping");
            let main = Outbox { mapping: mapping.into(), ..Outbox::default() };
            let told = as_told(&Target { main, ..Target::default() });
            assert_eq!(told.main.mapping.made_by_setup, own, "{entry} = {text}");
        }
    }
}
