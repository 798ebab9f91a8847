//! Whether what is published hinders those who write.

use tokio_postgres::Row;

use super::Subject;
use crate::error::OutboxError;
use crate::finding::Finding;
use crate::postgres::names::{quote_identifier, quote_literal};
use crate::postgres::session::Cells;

const SUBJECT: &str = "writers";

/// A publication that publishes updates or deletes of a table by which its rows can't be told apart makes the server
/// refuse them (PostgreSQL documentation, "Replica Identity").
pub(super) async fn look(subject: &Subject<'_>) -> Result<Vec<Finding>, OutboxError> {
    let ours = quote_literal(&subject.target.publication);
    let oids = subject.report.oids().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT p.pubname::text, format('%I.%I', n.nspname, c.relname), concat_ws(' and ', CASE WHEN p.pubupdate THEN 'UPDATE' \
           END, CASE WHEN p.pubdelete THEN 'DELETE' END), p.pubname = {ours} \
         FROM pg_publication p JOIN pg_publication_tables t USING (pubname) JOIN pg_namespace n ON n.nspname = t.schemaname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
         WHERE (p.pubupdate OR p.pubdelete) AND (p.pubname = {ours} OR c.oid IN ({oids})) AND (c.relreplident = 'n' \
           OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) \
           OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)) \
         ORDER BY 4, 2 LIMIT 20"
    );
    let refused = |row: &Row| {
        let (publication, table): (String, String) = (row.cell(0)?, row.cell(1)?);
        let (commands, is_ours): (String, bool) = (row.cell(2)?, row.cell(3)?);
        let shown = quote_identifier(&publication);
        let text = format!(
            "the server refuses {commands} of rows of {table}: publication {shown} publishes it, and the table has no \
             replica identity"
        );
        let mend = if is_ours {
            format!("ALTER PUBLICATION {shown} SET (publish = 'insert');")
        } else {
            format!("ALTER TABLE {table} REPLICA IDENTITY FULL;")
        };
        Ok(Finding::fail(SUBJECT, text, mend).all_sql())
    };
    let mut found = subject.rows(&sql).await?.iter().map(refused).collect::<Result<Vec<_>, OutboxError>>()?;
    if !found.iter().any(|found| found.sql.as_ref().is_some_and(|sql| sql.starts_with("ALTER PUBLICATION"))) {
        found.extend(unused(subject, &ours).await?);
    }
    Ok(found)
}

/// What the publication sends, and the relay passes over.
async fn unused(subject: &Subject<'_>, ours: &str) -> Result<Option<Finding>, OutboxError> {
    let sql = format!(
        "SELECT concat_ws(', ', CASE WHEN pubupdate THEN 'updates' END, CASE WHEN pubdelete THEN 'deletes' END, \
           CASE WHEN pubtruncate THEN 'truncates' END) FROM pg_publication WHERE pubname = {ours}"
    );
    let Some(row) = subject.rows(&sql).await?.into_iter().next() else { return Ok(None) };
    let sent: String = row.cell(0)?;
    if sent.is_empty() {
        return Ok(None);
    }
    let shown = quote_identifier(&subject.target.publication);
    let mend = format!("ALTER PUBLICATION {shown} SET (publish = 'insert');");
    let text = format!("publication {shown} also publishes {sent}, which are sent for nothing");
    let advice = format!("unless another subscriber needs them: {mend}");
    Ok(Some(Finding::warn(SUBJECT, text, advice).with_sql(mend)))
}
