//! The publication: whether it carries every row of every outbox table.

use super::{Finding, Preflight, rows};
use crate::error::OutboxError;
use crate::postgres::names::{Outbox, Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session};
use crate::postgres::table::Layout;

const SUBJECT: &str = "publication";

/// Looks at it.
pub(super) async fn inspect(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    membership(session, target, report).await?;
    for (outbox, index) in target.outboxes().zip(0..) {
        published_part(session, &target.publication, outbox, index, report).await?;
    }
    Ok(())
}

/// What the publication says of one table.
struct Member<'a> {
    outbox: &'a Outbox,
    kind: String,
    published: bool,
}

async fn membership(session: &Session, target: &Target, report: &mut Preflight) -> Result<(), OutboxError> {
    let (name, shown) = (quote_literal(&target.publication), quote_identifier(&target.publication));
    let oids = report.oids().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "WITH kin AS (SELECT o.oid AS root, o.oid, o.number FROM unnest(ARRAY[{oids}]::oid[]) WITH ORDINALITY o (oid, number) \
           UNION SELECT o.oid, t.relid, o.number FROM unnest(ARRAY[{oids}]::oid[]) WITH ORDINALITY o (oid, number), \
             pg_partition_tree(o.oid) t), \
         listed AS (SELECT r.oid, t.schemaname, t.tablename FROM pg_publication_tables t \
           JOIN pg_namespace n ON n.nspname = t.schemaname \
           JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = t.tablename WHERE t.pubname = {name}) \
         SELECT p.puballtables, p.pubinsert, p.pubviaroot, \
         (SELECT string_agg(format('%I.%I', l.schemaname, l.tablename), ', ') FROM listed l \
           WHERE l.oid NOT IN (SELECT oid FROM kin)), \
         ARRAY(SELECT coalesce(c.relkind::text, '') FROM kin k LEFT JOIN pg_class c ON c.oid = k.oid \
           WHERE k.oid = k.root ORDER BY k.number), \
         ARRAY(SELECT bool_or((k.oid = k.root OR NOT p.pubviaroot) AND k.oid IN (SELECT oid FROM listed)) \
           FROM kin k GROUP BY k.number ORDER BY k.number) \
         FROM pg_publication p WHERE p.pubname = {name}"
    );
    let Some(row) = rows(session, &sql).await?.pop() else {
        let mend = format!(
            "CREATE PUBLICATION {shown} FOR TABLE {} WITH (publish = 'insert', publish_via_partition_root = true);",
            target.tables()
        );
        let advice = format!(
            "run `walpost setup`, or: {mend} then run `walpost check` again: rows that were committed without it may keep a \
             slot that is older from being read"
        );
        let text = format!("publication {shown} does not exist");
        report.findings.push(Finding::fail(SUBJECT, text, advice).with_sql(mend));
        return Ok(());
    };
    let (all, insert, via_root): (bool, bool, bool) = (row.cell(0)?, row.cell(1)?, row.cell(2)?);
    let (others, kinds, published): (Option<String>, Vec<String>, Vec<bool>) =
        (row.cell(3)?, row.cell(4)?, row.cell(5)?);
    // Without a table there is nothing to compare the publication with.
    let members =
        target.outboxes().zip(kinds.into_iter().zip(published)).filter(|(_, (kind, _))| !kind.is_empty());
    let members: Vec<_> =
        members.map(|(outbox, (kind, published))| Member { outbox, kind, published }).collect();
    if members.is_empty() {
        return Ok(());
    }
    if !insert {
        let mend = format!("ALTER PUBLICATION {shown} SET (publish = 'insert');");
        report.fail_by_sql(SUBJECT, format!("publication {shown} does not publish inserts"), mend);
        return Ok(());
    }
    judge(&members, &shown, via_root, report);
    told_of_others(others, all, &shown, report);
    Ok(())
}

fn judge(members: &[Member<'_>], shown: &str, via_root: bool, report: &mut Preflight) {
    let mut good = Vec::new();
    for Member { outbox: Outbox { table, .. }, kind, published } in members {
        if !published {
            let mend = format!("ALTER PUBLICATION {shown} ADD TABLE {table};");
            let advice = format!(
                "{mend} -- what was committed before that is not sent: compare its rows with the topics, and insert \
                 again those that are missing"
            );
            let text = format!("publication {shown} does not publish {table}");
            report.findings.push(Finding::fail(SUBJECT, text, advice).with_sql(mend));
        } else if kind == "p" && !via_root {
            // Partitions would come under their own names, new ones under names that nobody knows yet.
            let mend = format!("ALTER PUBLICATION {shown} SET (publish_via_partition_root = true);");
            let text = format!("{table} is partitioned, and publication {shown} publishes its partitions");
            report.fail_by_sql(SUBJECT, text, mend);
        } else {
            good.push(table.to_string());
        }
    }
    if !good.is_empty() {
        report.good(SUBJECT, format!("{shown} publishes inserts into {}", good.join(", ")));
    }
}

fn told_of_others(others: Option<String>, all: bool, shown: &str, report: &mut Preflight) {
    match others {
        Some(_) if all => report.warn(
            SUBJECT,
            format!("publication {shown} is for all tables: the server sends rows that are not used"),
            "make one for the outbox tables alone with `walpost setup`",
        ),
        Some(others) => {
            let mend = format!("ALTER PUBLICATION {shown} DROP TABLE {others};");
            let text = format!("publication {shown} also publishes {others}, whose rows are ignored");
            let advice = format!(
                "if they are outboxes, name them with --table as well; else: {mend} -- or, if it names their schema, \
                 make one for the outbox tables alone with `walpost setup`"
            );
            report.findings.push(Finding::warn(SUBJECT, text, advice).with_sql(mend));
        }
        None => {}
    }
}

/// Rows and columns that the publication holds back (15 and later).
async fn published_part(
    session: &Session,
    publication: &str,
    outbox: &Outbox,
    index: usize,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let (table, shown) = (&outbox.table, quote_identifier(publication));
    let sql = format!(
        "SELECT to_jsonb(t) ->> 'rowfilter', \
         ARRAY(SELECT jsonb_array_elements_text(coalesce(to_jsonb(t) -> 'attnames', '[]'))) \
         FROM pg_publication_tables t WHERE pubname = {} AND schemaname = {} AND tablename = {}",
        quote_literal(publication),
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    let Some(row) = rows(session, &sql).await?.pop() else { return Ok(()) };
    let mend = if report.tables.len() == 1 {
        format!("ALTER PUBLICATION {shown} SET TABLE {table};")
    } else {
        // SET would leave out the other tables.
        format!(
            "BEGIN; ALTER PUBLICATION {shown} DROP TABLE {table}; ALTER PUBLICATION {shown} ADD TABLE {table}; COMMIT;"
        )
    };
    if let Some(filter) = row.cell::<Option<String>, _>(0)? {
        let text = format!("publication {shown} sends only rows of {table} for which {filter}");
        let advice = format!("if no row shall be left out: {mend} rows that were left out do not come again");
        report.findings.push(Finding::warn(SUBJECT, text, advice).with_sql(mend.clone()));
    }
    let listed: Vec<String> = row.cell(1)?;
    let Some(survey) = report.tables.get_mut(index) else { return Ok(()) };
    if listed.is_empty() || survey.columns.is_empty() {
        return Ok(());
    }
    let sent = survey.columns.iter().filter(|column| listed.contains(&column.name));
    let sent = sent.map(|column| (column.name.as_str(), column.type_oid));
    match Layout::new(outbox, sent, &report.column_types) {
        Err(error) => {
            let error = error.in_table(table);
            let text = format!("publication {shown} holds back a column that is needed: {error}");
            report.fail_by_sql(SUBJECT, text, mend);
        }
        Ok(layout) => {
            let absent = layout.absent();
            let hidden: Vec<_> =
                absent.iter().filter(|name| !survey.absent_columns.contains(name)).cloned().collect();
            survey.absent_columns = absent;
            if !hidden.is_empty() {
                let text = format!(
                    "publication {shown} holds back {}: messages go on without it",
                    hidden.join(", ")
                );
                report.findings.push(Finding::warn(SUBJECT, text, mend).all_sql());
            }
        }
    }
    Ok(())
}
