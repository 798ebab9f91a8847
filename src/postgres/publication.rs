//! What the publication lets through, looked at again and again: a server that skips rows does not say so.
//!
//! The object ids tell more than the contents: a table that was dropped from a publication and added again has a
//! new one. Only catalog rows are read, and no lock on the table is taken, so that looking never waits for DDL.
//!
//! Source: PostgreSQL documentation, "System Catalogs": pg_publication, pg_publication_rel,
//! pg_publication_namespace.

use serde::Deserialize;
use tokio_postgres::{Client, Row};

use super::identity::Place;
use super::names::{Target, quote_identifier, quote_literal};
use super::session::{Cells, sql_error};
use crate::error::OutboxError;
use crate::lsn::Lsn;

/// What one look has found.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) published: Option<Published>,
    /// Where the log ended.
    pub(super) place: Place,
    /// The slot's `wal_status`, and how many bytes it may still keep.
    pub(super) wal_status: String,
    pub(super) safe_bytes: Option<i64>,
}

/// The publication as far as the outbox is concerned.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Published {
    oid: u32,
    /// The transaction that changed the publication's own row last.
    changed_by: String,
    owner: u32,
    all_tables: bool,
    inserts: bool,
    via_root: bool,
    partitioned: bool,
    /// The outbox's name is that of another table by now, which is not published.
    replaced: bool,
    members: Vec<Member>,
    /// How many tables and schemas it lists.
    listed: i64,
}

/// A membership that carries the outbox: of the table, of one that it is a partition of, or of its schema.
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
    /// Rows may have been skipped.
    Broken(String),
}

/// Looks once.
pub(super) async fn look(
    client: &Client,
    target: &Target,
    table_oid: u32,
    server_version: i32,
) -> Result<Look, OutboxError> {
    // New in 15.
    let schemas = if server_version >= 150_000 {
        "UNION ALL SELECT s.oid, s.pnnspid, 'schema', NULL, NULL FROM pg_publication_namespace s, pg_class c \
         WHERE s.pnpubid = p.oid AND c.relnamespace = s.pnnspid AND c.oid IN (SELECT oid FROM kin)"
    } else {
        ""
    };
    let schema_of_other = if server_version >= 150_000 {
        "AND NOT EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = o.relnamespace)"
    } else {
        ""
    };
    let listed = if server_version >= 150_000 {
        " + (SELECT count(*) FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)"
    } else {
        ""
    };
    let sql = format!(
        "SELECT pg_current_wal_lsn()::text, pg_snapshot_xmin(pg_current_snapshot())::xid::text, \
         (SELECT wal_status::text FROM pg_replication_slots WHERE slot_name = {slot}), \
         (SELECT safe_wal_size FROM pg_replication_slots WHERE slot_name = {slot}), \
         p.oid, p.xmin::text, p.pubowner, p.puballtables, p.pubinsert, p.pubviaroot, \
         (SELECT relkind = 'p' FROM pg_class WHERE oid = {table_oid}), \
         (SELECT count(*) FROM pg_publication_rel r WHERE r.prpubid = p.oid){listed}, \
         ARRAY(WITH RECURSIVE kin AS (SELECT {table_oid}::oid AS oid UNION \
             SELECT i.inhparent FROM kin JOIN pg_inherits i ON i.inhrelid = kin.oid) \
           SELECT jsonb_build_object('oid', m.oid::bigint, 'of', m.of::bigint, 'kind', m.kind, \
             'filter', m.filter, 'columns', m.columns)::text \
           FROM (SELECT r.oid, r.prrelid AS of, 'table' AS kind, to_jsonb(r) ->> 'prqual' AS filter, \
               to_jsonb(r) ->> 'prattrs' AS columns FROM pg_publication_rel r \
               WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM kin) {schemas}) m ORDER BY m.oid), \
         EXISTS (SELECT FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace \
           WHERE n.nspname = {schema} AND o.relname = {name} AND o.oid <> {table_oid} AND NOT p.puballtables \
           AND NOT EXISTS (WITH RECURSIVE kin AS (SELECT o.oid AS oid UNION \
               SELECT i.inhparent FROM kin JOIN pg_inherits i ON i.inhrelid = kin.oid) \
             SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM kin)) \
           {schema_of_other}) \
         FROM (SELECT) one LEFT JOIN pg_publication p ON p.pubname = {publication}",
        slot = quote_literal(&target.slot),
        schema = quote_literal(&target.table.schema),
        name = quote_literal(&target.table.name),
        publication = quote_literal(&target.publication),
    );
    let row =
        client.query_one(&sql, &[]).await.map_err(|error| sql_error("looking at the publication", error))?;
    let lsn = row.cell::<String, _>(0)?.parse().unwrap_or(Lsn::ZERO);
    let oid: Option<u32> = row.cell(4)?;
    Ok(Look {
        place: Place { lsn, xid: row.cell(1)? },
        wal_status: row.cell::<Option<String>, _>(2)?.unwrap_or_default(),
        safe_bytes: row.cell(3)?,
        published: oid.map(|oid| published(oid, &row)).transpose()?,
    })
}

fn published(oid: u32, row: &Row) -> Result<Published, OutboxError> {
    let members: Vec<String> = row.cell(12)?;
    Ok(Published {
        oid,
        changed_by: row.cell(5)?,
        owner: row.cell(6)?,
        all_tables: row.cell(7)?,
        inserts: row.cell(8)?,
        via_root: row.cell(9)?,
        partitioned: row.cell::<Option<bool>, _>(10)?.unwrap_or_default(),
        listed: row.cell(11)?,
        replaced: row.cell(13)?,
        members: members.iter().filter_map(|member| serde_json::from_str(member).ok()).collect(),
    })
}

impl Published {
    /// What has happened since this was seen, judged by what is seen now.
    pub(super) fn compare(&self, now: Option<&Published>, target: &Target) -> Change {
        let (table, shown) = (&target.table, quote_identifier(&target.publication));
        let broken = |what: &str| Change::Broken(format!("publication {shown} {what}"));
        let Some(now) = now else { return broken("is gone") };
        if now.oid != self.oid {
            return broken("was dropped and made anew");
        }
        if !now.inserts {
            return broken("no longer publishes inserts");
        }
        if self.via_root && !now.via_root && now.partitioned {
            return broken(&format!("now publishes the partitions of {table} under their own names"));
        }
        if now.replaced && !self.replaced {
            return Change::Broken(format!(
                "{table} is another table than before, which publication {shown} does not publish"
            ));
        }
        let lost = self.members.iter().find(|member| !now.members.contains(member));
        let kept = self.members.iter().any(|member| member.filter.is_none() && now.members.contains(member));
        if let Some(lost) = lost.filter(|_| !kept && !self.all_tables) {
            let heir = now.members.iter().find(|member| (&member.kind, member.of) == (&lost.kind, lost.of));
            return broken(&match heir {
                None if now.members.is_empty() => format!("no longer publishes {table}"),
                None => format!("publishes {table} in another way than before"),
                Some(heir) if heir.filter != lost.filter => format!("has another row filter for {table}"),
                Some(heir) if heir.columns != lost.columns => format!("has another column list for {table}"),
                Some(_) => format!("had {table} dropped and added again"),
            });
        }
        if now.listed != self.listed || now.members != self.members {
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

/// The error for rows that were skipped somewhere between two places.
pub(super) fn skipped(what: &str, since: Option<&Place>, until: Lsn, target: &Target) -> OutboxError {
    let Some(since) = since else {
        let text = format!("{what}: rows committed before {until} may have been skipped");
        let advice = format!("run `walpost check`; compare the rows of {} with the topics", target.table);
        return OutboxError::definite(text, advice);
    };
    let text = format!(
        "{what}, after {} and before {until}: rows committed since then may have been skipped, and the log does not \
         bring them again",
        since.lsn
    );
    OutboxError::definite(text, mend(since, target))
}

/// How to find what was skipped, send it, and go on.
pub(super) fn mend(since: &Place, target: &Target) -> String {
    let rows = since.rows_since(target);
    format!(
        "mend the publication (`walpost check` says how). Rows that may be missing in the topics, without those that were \
         deleted: {rows}; to send them all again, after the mend: {}; then start again",
        send_again(since, target)
    )
}

fn send_again(since: &Place, target: &Target) -> String {
    let table = &target.table;
    format!(
        "WITH again AS (DELETE FROM {table} WHERE age(xmin) <= age('{}'::xid) RETURNING *) \
         INSERT INTO {table} SELECT * FROM again",
        since.xid
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(oid: u32, filter: Option<&str>) -> Member {
        Member { oid, of: 7, kind: "table".to_owned(), filter: filter.map(str::to_owned), columns: None }
    }

    fn seen() -> Published {
        Published {
            oid: 1,
            changed_by: "700".to_owned(),
            owner: 10,
            all_tables: false,
            inserts: true,
            via_root: true,
            partitioned: true,
            replaced: false,
            members: vec![member(2, None)],
            listed: 1,
        }
    }

    fn broken(now: Published, words: &str) {
        match seen().compare(Some(&now), &Target::default()) {
            Change::Broken(text) => assert!(text.contains(words), "{text}"),
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn what_may_skip_rows_is_broken_and_named() {
        let gone = seen().compare(None, &Target::default());
        assert_eq!(gone, Change::Broken("publication walpost is gone".to_owned()));
        broken(Published { oid: 5, ..seen() }, "made anew");
        broken(Published { inserts: false, ..seen() }, "no longer publishes inserts");
        broken(Published { via_root: false, ..seen() }, "partitions");
        broken(Published { members: vec![], listed: 0, ..seen() }, "no longer publishes outbox.messages");
        broken(Published { members: vec![member(3, None)], ..seen() }, "dropped and added again");
        broken(Published { members: vec![member(3, Some("x"))], ..seen() }, "another row filter");
        let narrow = Member { columns: Some("1 2".to_owned()), ..member(3, None) };
        broken(Published { members: vec![narrow], ..seen() }, "another column list");
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
        let both = Published { members: vec![member(2, None), member(9, None)], ..seen() };
        let one = Published { members: vec![member(9, None)], ..seen() };
        assert!(matches!(both.compare(Some(&one), &Target::default()), Change::Harmless(_)));
        let all = Published { all_tables: true, members: vec![], ..seen() };
        assert_eq!(all.compare(Some(&all), &Target::default()), Change::None);
    }
}
