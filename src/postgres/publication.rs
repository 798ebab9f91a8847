//! What the publication lets through, looked at again and again: a server that skips rows does not say so.
//!
//! The object ids tell more than the contents: a table that was dropped from a publication and added again has a
//! new one. Only catalog rows are read, and no lock on the table is taken, so that looking never waits for DDL.
//!
//! Source: PostgreSQL documentation, "System Catalogs": pg_publication, pg_publication_rel,
//! pg_publication_namespace.

use serde::Deserialize;
use tokio_postgres::{Client, Row};

use super::identity::{Place, Trail};
use super::names::{Outbox, TableName, Target, quote_identifier, quote_literal};
use super::session::{Cells, sql_error};
use super::slot::{SEND_WHAT_IS_MISSING, move_past_them};
use crate::error::OutboxError;
use crate::lsn::Lsn;

/// What one look has found.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) published: Option<Published>,
    /// Where the log ended.
    pub(super) place: Place,
}

/// The publication as far as the outboxes are concerned.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Published {
    oid: u32,
    /// The transaction that changed the publication's own row last.
    changed_by: String,
    owner: u32,
    all_tables: bool,
    inserts: bool,
    via_root: bool,
    /// In the target's order.
    tables: Vec<PublishedTable>,
    /// How many tables and schemas it lists.
    listed: i64,
}

/// What it says of one outbox.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct PublishedTable {
    /// Nobody has dropped it.
    exists: bool,
    partitioned: bool,
    /// The outbox's name is that of another table by now, which is not published.
    replaced: bool,
    members: Vec<Member>,
}

/// A membership that carries an outbox: of the table, of one that it is a partition of, or of its schema.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Member {
    oid: u32,
    of: u32,
    kind: String,
    filter: Option<String>,
    columns: Option<String>,
}

/// What the difference between two looks means.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    None,
    /// No row can have been skipped.
    Harmless(String),
    /// It looks as before, and was written in between.
    Doubtful(String),
    /// Rows of these tables may have been skipped.
    Broken(String, Vec<TableName>),
}

/// Looks once.
pub(super) async fn look(
    client: &Client,
    target: &Target,
    table_oids: &[u32],
    server_version: i32,
) -> Result<Look, OutboxError> {
    // New in 15.
    let listed = if server_version >= 150_000 {
        " + (SELECT count(*) FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)"
    } else {
        ""
    };
    let tables = target.outboxes().zip(table_oids);
    let tables: Vec<_> = tables.map(|(outbox, oid)| table_sql(&outbox.table, *oid, server_version)).collect();
    let sql = format!(
        "SELECT pg_current_wal_lsn()::text, pg_snapshot_xmin(pg_current_snapshot())::xid::text, \
         p.oid, p.xmin::text, p.pubowner, p.puballtables, p.pubinsert, p.pubviaroot, \
         (SELECT count(*) FROM pg_publication_rel r WHERE r.prpubid = p.oid){listed}, \
         ARRAY[{tables}] \
         FROM (SELECT) one LEFT JOIN pg_publication p ON p.pubname = {publication}",
        tables = tables.join(", "),
        publication = quote_literal(&target.publication),
    );
    let row =
        client.query_one(&sql, &[]).await.map_err(|error| sql_error("looking at the publication", error))?;
    let lsn = row.cell::<String, _>(0)?.parse().unwrap_or(Lsn::ZERO);
    let oid: Option<u32> = row.cell(2)?;
    Ok(Look {
        place: Place { lsn, xid: row.cell(1)? },
        published: oid.map(|oid| published(oid, &row)).transpose()?,
    })
}

/// What the publication `p` says of one table, as JSON.
fn table_sql(table: &TableName, oid: u32, server_version: i32) -> String {
    // New in 15.
    let (schemas, schema_of_other) = if server_version >= 150_000 {
        (
            "UNION ALL SELECT s.oid, s.pnnspid, 'schema', NULL, NULL FROM pg_publication_namespace s, pg_class c \
             WHERE s.pnpubid = p.oid AND c.relnamespace = s.pnnspid AND c.oid IN (SELECT oid FROM kin)",
            "AND NOT EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = o.relnamespace)",
        )
    } else {
        ("", "")
    };
    format!(
        "jsonb_build_object('exists', EXISTS (SELECT FROM pg_class WHERE oid = {oid}), \
         'partitioned', EXISTS (SELECT FROM pg_class WHERE oid = {oid} AND relkind = 'p'), \
         'members', (WITH RECURSIVE kin AS (SELECT {oid}::oid AS oid UNION \
             SELECT i.inhparent FROM kin JOIN pg_inherits i ON i.inhrelid = kin.oid) \
           SELECT coalesce(jsonb_agg(jsonb_build_object('oid', m.oid::bigint, 'of', m.of::bigint, 'kind', m.kind, \
             'filter', m.filter, 'columns', m.columns) ORDER BY m.oid), '[]') \
           FROM (SELECT r.oid, r.prrelid AS of, 'table' AS kind, to_jsonb(r) ->> 'prqual' AS filter, \
               to_jsonb(r) ->> 'prattrs' AS columns FROM pg_publication_rel r \
               WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM kin) {schemas}) m), \
         'replaced', EXISTS (SELECT FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace \
           WHERE n.nspname = {schema} AND o.relname = {name} AND o.oid <> {oid} AND NOT p.puballtables \
           AND NOT EXISTS (WITH RECURSIVE kin AS (SELECT o.oid AS oid UNION \
               SELECT i.inhparent FROM kin JOIN pg_inherits i ON i.inhrelid = kin.oid) \
             SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM kin)) \
           {schema_of_other}))::text",
        schema = quote_literal(&table.schema),
        name = quote_literal(&table.name),
    )
}

fn published(oid: u32, row: &Row) -> Result<Published, OutboxError> {
    let tables: Vec<String> = row.cell(9)?;
    let table = |json: &String| {
        serde_json::from_str(json)
            .map_err(|error| OutboxError::protocol("the server's answer can't be read", error))
    };
    Ok(Published {
        oid,
        changed_by: row.cell(3)?,
        owner: row.cell(4)?,
        all_tables: row.cell(5)?,
        inserts: row.cell(6)?,
        via_root: row.cell(7)?,
        listed: row.cell(8)?,
        tables: tables.iter().map(table).collect::<Result<_, _>>()?,
    })
}

impl Published {
    /// What has happened since this was seen, judged by what is seen now.
    pub(super) fn compare(&self, now: Option<&Published>, target: &Target) -> Change {
        let shown = quote_identifier(&target.publication);
        let broken = |what: &str| {
            let tables = target.outboxes().map(|outbox| outbox.table.clone());
            Change::Broken(format!("publication {shown} {what}"), tables.collect())
        };
        let Some(now) = now else { return broken("is gone") };
        if now.oid != self.oid {
            return broken("was dropped and made anew");
        }
        if !now.inserts {
            return broken("no longer publishes inserts");
        }
        let mut pairs = target.outboxes().zip(self.tables.iter().zip(&now.tables));
        let broken = pairs.find_map(|(outbox, (before, after))| {
            let what = self.broken(now, before, after, &outbox.table, &shown)?;
            Some(Change::Broken(what, vec![outbox.table.clone()]))
        });
        broken.unwrap_or_else(|| self.harmless(now, target, &shown))
    }

    /// What may have skipped rows of one table.
    fn broken(
        &self,
        now: &Published,
        before: &PublishedTable,
        after: &PublishedTable,
        table: &TableName,
        shown: &str,
    ) -> Option<String> {
        // Its rows are in the log all the same.
        if !after.exists && !after.replaced && now.tables.iter().any(|table| table.exists) {
            return None;
        }
        if self.via_root && !now.via_root && after.partitioned {
            return Some(format!(
                "publication {shown} now publishes the partitions of {table} under their own names"
            ));
        }
        if after.replaced && !before.replaced {
            return Some(format!(
                "{table} is another table than before, which publication {shown} does not publish"
            ));
        }
        let lost = before.members.iter().find(|member| !after.members.contains(member));
        let kept =
            before.members.iter().any(|member| member.filter.is_none() && after.members.contains(member));
        let lost = lost.filter(|_| !kept && !self.all_tables)?;
        let heir = after.members.iter().find(|member| (&member.kind, member.of) == (&lost.kind, lost.of));
        let what = match heir {
            None if after.members.is_empty() => format!("no longer publishes {table}"),
            None => format!("publishes {table} in another way than before"),
            Some(heir) if heir.filter != lost.filter => format!("has another row filter for {table}"),
            Some(heir) if heir.columns != lost.columns => format!("has another column list for {table}"),
            Some(_) => format!("had {table} dropped and added again"),
        };
        Some(format!("publication {shown} {what}"))
    }

    fn harmless(&self, now: &Published, target: &Target, shown: &str) -> Change {
        let mut pairs = target.outboxes().zip(self.tables.iter().zip(&now.tables));
        if let Some((Outbox { table, .. }, _)) =
            pairs.find(|(_, (before, after))| before.exists && !after.exists)
        {
            return Change::Harmless(format!(
                "{table} was dropped: take it out of --table before the next start"
            ));
        }
        let members = |published: &Published| {
            published.tables.iter().map(|table| table.members.clone()).collect::<Vec<_>>()
        };
        if now.listed != self.listed || members(now) != members(self) {
            return Change::Harmless(format!("publication {shown} lists other tables than before"));
        }
        if now.owner != self.owner {
            return Change::Harmless(format!("publication {shown} has another owner"));
        }
        if now.via_root != self.via_root {
            return Change::Harmless(format!("publication {shown} has another publish_via_partition_root"));
        }
        if now.changed_by != self.changed_by {
            return Change::Doubtful(format!("publication {shown} was altered and looks as before"));
        }
        Change::None
    }
}

/// The error for rows of these tables that were skipped somewhere between two places.
pub(super) fn skipped(what: &str, tables: &[TableName], since: Option<&Place>, until: Lsn) -> OutboxError {
    let Some(since) = since else {
        let text = format!("{what}: rows committed before {until} may have been skipped");
        let names = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let advice = format!("run `walpost check`; compare the rows of {names} with the topics");
        return OutboxError::definite(text, advice);
    };
    let text = format!(
        "{what}, after {} and before {until}: rows committed since then may have been skipped, and the log does not \
         bring them again",
        since.lsn
    );
    OutboxError::definite(text, mend(since, tables))
}

/// How to find what was skipped of these tables, send it, and go on.
pub(super) fn mend(since: &Place, tables: &[TableName]) -> String {
    let rows: Vec<_> = tables.iter().map(|table| since.rows_since(table)).collect();
    format!(
        "mend the publication (`walpost check` says how) and start again; then {SEND_WHAT_IS_MISSING}. Rows that may be \
         missing, without those that were deleted, are among these: {}",
        rows.join("; ")
    )
}

/// The stream's error, with what to do. A server before 18 can't decode a row of a time at which there was no publication,
/// not even when it is back.
pub(super) fn explained(error: OutboxError, trail: &Trail, target: &Target) -> OutboxError {
    if error.sqlstate() != Some("42704") {
        return error;
    }
    error.with_advice(format!(
        "the publication was missing while rows were committed; make it again (`walpost setup`). {}; {}",
        move_past_them(&target.slot),
        trail.finding(target)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(oid: u32, filter: Option<&str>) -> Member {
        Member { oid, of: 7, kind: "table".to_owned(), filter: filter.map(str::to_owned), columns: None }
    }

    fn table(members: Vec<Member>) -> PublishedTable {
        PublishedTable { exists: true, partitioned: true, replaced: false, members }
    }

    fn seen() -> Published {
        Published {
            oid: 1,
            changed_by: "700".to_owned(),
            owner: 10,
            all_tables: false,
            inserts: true,
            via_root: true,
            tables: vec![table(vec![member(2, None)])],
            listed: 1,
        }
    }

    fn with(members: Vec<Member>) -> Published {
        Published { tables: vec![table(members)], ..seen() }
    }

    fn broken(now: Published, words: &str) {
        match seen().compare(Some(&now), &Target::default()) {
            Change::Broken(text, tables) => {
                assert!(text.contains(words) && tables == [TableName::default()], "{text}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn what_may_skip_rows_is_broken_and_named() {
        let gone = seen().compare(None, &Target::default());
        assert_eq!(
            gone,
            Change::Broken("publication walpost is gone".to_owned(), vec![TableName::default()])
        );
        broken(Published { oid: 5, ..seen() }, "made anew");
        broken(Published { inserts: false, ..seen() }, "no longer publishes inserts");
        broken(Published { via_root: false, ..seen() }, "partitions");
        broken(Published { listed: 0, ..with(vec![]) }, "no longer publishes outbox.messages");
        broken(with(vec![member(3, None)]), "dropped and added again");
        broken(with(vec![member(3, Some("x"))]), "another row filter");
        let narrow = Member { columns: Some("1 2".to_owned()), ..member(3, None) };
        broken(with(vec![narrow]), "another column list");
    }

    /// Of several tables, the one that is concerned is named, and the rows of no other are sent again.
    #[test]
    fn one_of_several_tables_is_named() {
        let other = TableName { schema: "shop".to_owned(), name: "events".to_owned() };
        let others = vec![Outbox { table: other.clone(), ..Outbox::default() }];
        let target = Target { others, ..Target::default() };
        let of = |second| Published { tables: vec![table(vec![member(2, None)]), table(second)], ..seen() };
        let before = of(vec![member(4, None)]);
        let text = "publication walpost had shop.events dropped and added again".to_owned();
        let after = of(vec![member(5, None)]);
        assert_eq!(before.compare(Some(&after), &target), Change::Broken(text, vec![other.clone()]));
        let place = Place { lsn: Lsn(1), xid: "7".to_owned() };
        let advice = mend(&place, std::slice::from_ref(&other));
        assert!(advice.contains("FROM shop.events") && !advice.contains("outbox.messages"), "{advice}");
        assert!(advice.contains("walpost audit") && !advice.contains("DELETE"), "{advice}");
        let dropped = Published {
            tables: vec![table(vec![member(2, None)]), PublishedTable { exists: false, ..table(vec![]) }],
            ..seen()
        };
        let change = before.compare(Some(&dropped), &target);
        assert!(
            matches!(&change, Change::Harmless(text) if text.contains("shop.events was dropped")),
            "{change:?}"
        );
        let gone = before.compare(None, &target);
        assert!(matches!(gone, Change::Broken(_, tables) if tables == [TableName::default(), other]));
    }

    #[test]
    fn what_skips_nothing_is_harmless() {
        let harmless = |now: Published| seen().compare(Some(&now), &Target::default());
        assert_eq!(harmless(seen()), Change::None);
        assert!(matches!(harmless(Published { listed: 2, ..seen() }), Change::Harmless(_)));
        let owned = Published { owner: 11, changed_by: "800".to_owned(), ..seen() };
        assert!(matches!(harmless(owned), Change::Harmless(_)));
        let altered = Published { changed_by: "800".to_owned(), ..seen() };
        assert!(matches!(harmless(altered), Change::Doubtful(_)));
        // One way remains open while another is closed.
        let (both, one) = (with(vec![member(2, None), member(9, None)]), with(vec![member(9, None)]));
        assert!(matches!(both.compare(Some(&one), &Target::default()), Change::Harmless(_)));
        let all = Published { all_tables: true, ..with(vec![]) };
        assert_eq!(all.compare(Some(&all), &Target::default()), Change::None);
    }
}
