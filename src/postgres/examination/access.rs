//! What the role may read beyond the log: rows that are there before the slot, and those that are replayed, are read from the
//! table itself.

use tokio_postgres::Row;

use super::Subject;
use crate::error::OutboxError;
use crate::finding::Finding;
use crate::postgres::names::{TableName, quote_identifier, quote_literal};
use crate::postgres::session::Cells;

const SUBJECT: &str = "access";

pub(super) async fn look(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let mut found = Vec::new();
    let mut readable = Vec::new();
    for (outbox, survey) in subject.target.outboxes().zip(&subject.report.tables) {
        let Some(oid) = survey.oid else { continue };
        match of_table(subject, &outbox.table, oid).await? {
            Some(problem) => found.push(problem),
            None => readable.push(outbox.table.to_string()),
        }
    }
    if !readable.is_empty() {
        found.push(Finding::good(SUBJECT, format!("rows of {} can be read", readable.join(", "))));
    }
    for table in ["dead_letters", "scheduled", "walpost_seal"] {
        found.extend(beside(subject, table).await?);
    }
    found.extend(emits(subject).await?);
    Ok(found)
}

async fn of_table(
    subject: &Subject<'_>,
    table: &TableName,
    oid: u32,
) -> Result<Option<Finding>, OutboxError> {
    let sql = format!(
        "SELECT has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), current_user::text, \
         row_security_active(c.oid), {ALL_ROWS} FROM pg_class c WHERE c.oid = {oid}"
    );
    let row = subject.row(&sql).await?;
    let (usage, select): (bool, bool) = (row.cell(0)?, row.cell(1)?);
    let role = quote_identifier(&row.cell::<String, _>(2)?);
    let mut grants = Vec::new();
    if !usage {
        grants.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", quote_identifier(&table.schema)));
    }
    if !select {
        grants.push(format!("GRANT SELECT ON {table} TO {role};"));
    }
    if !grants.is_empty() {
        let (text, mend) = (format!("role {role} may not read rows of {table}"), grants.join(" "));
        return Ok(Some(if subject.report.slot_exists {
            let text = format!("{text}: `replay` can't, nor can this command look at recent ones");
            Finding::warn(SUBJECT, text, mend).all_sql()
        } else {
            let text =
                format!("{text}, and the slot is still to be made: nobody can tell whether it is empty");
            Finding::fail(SUBJECT, text, mend).all_sql()
        }));
    }
    let (active, all): (bool, bool) = (row.cell(3)?, row.cell(4)?);
    Ok((active && !all).then(|| {
        let text = format!(
            "row level security may hide rows of {table} from role {role}: the log has them all, but `replay` and \
             `--backfill` would leave them out"
        );
        let mend = format!("CREATE POLICY walpost_reads ON {table} FOR SELECT TO {role} USING (true);");
        let advice =
            format!("{mend} where a policy restricts what others permit: ALTER ROLE {role} BYPASSRLS;");
        Finding::warn(SUBJECT, text, advice).with_sql(mend)
    }))
}

/// Whether a policy lets the role read every row, and none restricts it.
const ALL_ROWS: &str = "EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND polpermissive AND polcmd IN ('*', 'r') \
       AND pg_get_expr(polqual, polrelid) = 'true' AND (polroles = '{0}' OR EXISTS (SELECT FROM unnest(polroles) r \
       WHERE r <> 0 AND pg_has_role(r, 'USAGE')))) \
     AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND NOT polpermissive AND polcmd IN ('*', 'r') \
       AND (polroles = '{0}' OR EXISTS (SELECT FROM unnest(polroles) r WHERE r <> 0 AND pg_has_role(r, 'USAGE'))))";

/// Our own tables hide nothing from the relay, unless somebody has switched that on.
async fn beside(subject: &Subject<'_>, name: &str) -> Result<Option<Finding>, OutboxError> {
    let table = TableName { schema: subject.target.main.table.schema.clone(), name: name.to_owned() };
    let sql = format!(
        "SELECT current_user::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} \
         AND c.relname = {} AND row_security_active(c.oid) AND NOT ({ALL_ROWS})",
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    let Some(row) = subject.rows(&sql).await?.into_iter().next() else { return Ok(None) };
    let role = quote_identifier(&row.cell::<String, _>(0)?);
    let text =
        format!("row level security may hide rows of {table} from role {role}, and keep it from writing");
    let mend = format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;");
    Ok(Some(Finding::fail(SUBJECT, text, mend).all_sql()))
}

/// Rows go through the log once more by a function that everybody may call, unless that was taken away.
async fn emits(subject: &Subject<'_>) -> Result<Option<Finding>, OutboxError> {
    let sql = "SELECT array_agg(p.oid::regprocedure::text), current_user::text FROM pg_proc p \
               WHERE p.proname = 'pg_logical_emit_message' AND p.pronamespace = 'pg_catalog'::regnamespace \
               AND NOT has_function_privilege(p.oid, 'EXECUTE') HAVING count(*) > 0";
    let found = |row: &Row| {
        let (functions, role): (Vec<String>, String) = (row.cell(0)?, row.cell(1)?);
        let role = quote_identifier(&role);
        let text = format!(
            "role {role} may not call pg_logical_emit_message, by which dead letters, rows for later and replayed rows are sent"
        );
        let grant = |function: &String| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role};");
        let mend: Vec<_> = functions.iter().map(grant).collect();
        Ok(Finding::fail(SUBJECT, text, mend.join(" ")).all_sql())
    };
    subject.rows(sql).await?.first().map(found).transpose()
}
