//! What rows need so that they can be written back: a key, the columns of the mark, the rights, and nobody who hides them.

use super::{Finding, Preflight, Survey, rows};
use crate::error::OutboxError;
use crate::mapping::{Mapping, Mark, MarkValue};
use crate::postgres::names::{Outbox, Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session};
use crate::postgres::table::{KeyColumn, Layout, WriteBackTable, clauses};
use crate::write_back::WriteBackMode;

/// A column as the catalog describes it.
struct Described {
    name: String,
    /// Its type as SQL writes it, without a length: a text that is too long shall be told, and not be cut.
    type_name: String,
    /// The operator by which its unique index finds a value.
    equal: String,
    generated: bool,
    /// Its place in the primary key, from 1.
    in_key: Option<i64>,
    /// A unique index has it alone.
    unique: bool,
    /// The role may read it, and set it.
    read: bool,
    set: bool,
    /// The publication sends it.
    sent: bool,
}

/// Looks whether rows can be written back as the target says, and notes how. Finds nothing if they shall not be.
///
/// # Errors
/// The session broke, or a catalog can't be read.
pub async fn inspect(session: &Session, target: &Target, report: &mut Preflight) -> Result<(), OutboxError> {
    if target.write_back == WriteBackMode::None {
        return Ok(());
    }
    for (outbox, index) in target.outboxes().zip(0..) {
        let Some(Survey { oid: Some(oid), layout: Some(layout), is_partitioned, .. }) =
            report.tables.get(index)
        else {
            continue;
        };
        let (oid, layout, is_partitioned) = (*oid, Layout::clone(layout), *is_partitioned);
        let of = Subject { target, outbox, oid, is_partitioned };
        let Some(mut table) = table(session, &of, report).await? else { continue };
        table.index = index;
        let names: Vec<_> = table.key().iter().map(|column| column.name.clone()).collect();
        let Some(survey) = report.tables.get_mut(index) else { continue };
        let kinds = |column: usize| {
            let type_oid = survey.columns.get(column).map_or(0, |column| column.type_oid);
            report.column_types.kind(type_oid)
        };
        let layout = layout.keyed(index, &names, &kinds).map_err(|error| error.in_table(&outbox.table))?;
        (survey.layout, survey.write_back) = (Some(layout.into()), Some(table));
    }
    Ok(())
}

/// A table that is looked at.
struct Subject<'a> {
    target: &'a Target,
    outbox: &'a Outbox,
    oid: u32,
    is_partitioned: bool,
}

/// How the rows of a table are written back; `None` if something is in the way.
async fn table(
    session: &Session,
    of: &Subject<'_>,
    report: &mut Preflight,
) -> Result<Option<WriteBackTable>, OutboxError> {
    let (table, mode) = (&of.outbox.table, of.target.write_back);
    let columns = describe(session, of).await?;
    let Some((key, is_id)) = key(&columns, &of.outbox.mapping) else {
        let id = "<columns that tell a row from all others>";
        report.fail(
            "write-back",
            format!("{table} has no primary key, by which a published row is found again"),
            format!("ALTER TABLE {table} ADD PRIMARY KEY ({id}); or use --write-back none"),
        );
        return Ok(None);
    };
    let Some(marks) = marks(&columns, of, report) else { return Ok(None) };
    let lacking = lacking(&columns, &key, &marks);
    let Some(sees_all) = rights(session, of, &lacking, report).await? else { return Ok(None) };
    let typed: Vec<_> = marks.iter().map(|(mark, column)| (*mark, column.type_name.as_str())).collect();
    let of_key = |Described { name, type_name, equal, .. }: &&Described| KeyColumn {
        name: name.clone(),
        type_name: type_name.clone(),
        equal: equal.clone(),
    };
    let key: Vec<_> = key.iter().map(of_key).collect();
    let mut found = WriteBackTable::new(table.clone(), key, mode, &clauses(&typed), is_id, of.is_partitioned);
    found.sees_all = sees_all;
    if let Err(error) = found.prepare(session.client()).await {
        report.findings.push(Finding::error("write-back", found.failed(error)));
        return Ok(None);
    }
    let quoted =
        |names: &mut dyn Iterator<Item = &str>| names.map(quote_identifier).collect::<Vec<_>>().join(", ");
    let by = quoted(&mut found.key().iter().map(|column| column.name.as_str()));
    let set = quoted(&mut marks.iter().map(|(mark, _)| mark.column.as_str()));
    report.good(
        "write-back",
        match mode {
            WriteBackMode::Delete => format!("published rows of {table} are deleted, found by {by}"),
            _ => format!("{set} is set in published rows of {table}, found by {by}"),
        },
    );
    Ok(Some(found))
}

async fn describe(session: &Session, of: &Subject<'_>) -> Result<Vec<Described>, OutboxError> {
    let Subject { target, outbox, oid, .. } = of;
    let sql = format!(
        "SELECT a.attname::text, format_type(a.atttypid, -1), a.attgenerated <> '', \
         (SELECT k.place FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (attnum, place) WHERE i.indrelid = a.attrelid \
           AND i.indisprimary AND k.attnum = a.attnum AND k.place <= i.indnkeyatts), \
         EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid \
           AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum), \
         has_column_privilege(a.attrelid, a.attnum, 'SELECT'), has_column_privilege(a.attrelid, a.attnum, 'UPDATE'), \
         NOT EXISTS (SELECT FROM pg_publication_tables p WHERE p.pubname = {} AND p.schemaname = {} AND p.tablename = {} \
           AND to_jsonb(p) ? 'attnames' AND NOT (to_jsonb(p) -> 'attnames') ? a.attname), \
         coalesce((SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_index i, \
           unnest(i.indkey, i.indclass) AS k (attnum, class) JOIN pg_opclass c ON c.oid = k.class \
           JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3 AND m.amoplefttype = c.opcintype \
             AND m.amoprighttype = c.opcintype \
           JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace \
           WHERE i.indrelid = a.attrelid AND i.indisunique AND k.attnum = a.attnum ORDER BY i.indisprimary DESC LIMIT 1), \
           'OPERATOR(pg_catalog.=)') \
         FROM pg_attribute a WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        quote_literal(&target.publication),
        quote_literal(&outbox.table.schema),
        quote_literal(&outbox.table.name),
    );
    let described = |row: &tokio_postgres::Row| {
        Ok(Described {
            name: row.cell(0)?,
            type_name: row.cell(1)?,
            equal: row.cell(8)?,
            generated: row.cell(2)?,
            in_key: row.cell(3)?,
            unique: row.cell(4)?,
            read: row.cell(5)?,
            set: row.cell(6)?,
            sent: row.cell(7)?,
        })
    };
    rows(session, &sql).await?.iter().map(described).collect()
}

/// The columns that tell rows from each other, and whether a message's id says as much: the primary key, or the column of
/// the ids if it is unique.
fn key<'a>(columns: &'a [Described], mapping: &Mapping) -> Option<(Vec<&'a Described>, bool)> {
    let id = mapping.id_column();
    let mut key: Vec<_> = columns.iter().filter(|column| column.in_key.is_some()).collect();
    key.sort_by_key(|column| column.in_key);
    if key.is_empty() {
        key = columns.iter().filter(|column| column.unique && Some(column.name.as_str()) == id).collect();
    }
    let is_id = matches!(key.as_slice(), [one] if Some(one.name.as_str()) == id && one.type_name == "uuid");
    (!key.is_empty()).then_some((key, is_id))
}

/// What is set, with the columns as they are; none if one can't be.
fn marks<'a>(
    columns: &'a [Described],
    of: &Subject<'a>,
    report: &mut Preflight,
) -> Option<Vec<(&'a Mark, &'a Described)>> {
    let mut marks = Vec::new();
    if of.target.write_back == WriteBackMode::Delete {
        return Some(marks);
    }
    let table = &of.outbox.table;
    for mark in &of.outbox.mapping.mark {
        let name = quote_identifier(&mark.column);
        match columns.iter().find(|column| column.name == mark.column) {
            Some(column) if column.generated => {
                report.fail(
                    "write-back",
                    format!("column {name} of {table} is generated, and can't be set"),
                    "name another one with --map-mark",
                );
                return None;
            }
            Some(column) => marks.push((mark, column)),
            None if mark.optional => {}
            None => {
                report.fail(
                    "write-back",
                    format!("{table} has no column {name}, which would mark a row as published"),
                    "say with --map-mark what the table has, or use --write-back delete or none",
                );
                return None;
            }
        }
    }
    if marks.is_empty() {
        report.fail(
            "write-back",
            format!("{table} has none of the columns that would mark a row as published"),
            "say with --map-mark what the table has, or use --write-back delete or none",
        );
        return None;
    }
    Some(marks)
}

/// What is in the way besides the rights on the table as a whole.
struct Lacking {
    /// Rights that would have to be granted, as a GRANT writes them.
    grants: Vec<String>,
    /// Columns of the key that the publication holds back.
    unsent: Vec<String>,
}

fn lacking(columns: &[Described], key: &[&Described], marks: &[(&Mark, &Described)]) -> Lacking {
    // A text in the case of the column's own needs that one.
    let read = |column: &&Described| {
        let as_it_is = |(mark, of): &(&Mark, &Described)| {
            of.name == column.name && matches!(mark.value, MarkValue::AsItIs(_))
        };
        !column.read && (column.is_in(key) || marks.iter().any(as_it_is))
    };
    let names = |columns: &mut dyn Iterator<Item = &Described>| -> Vec<String> {
        columns.map(|column| quote_identifier(&column.name)).collect()
    };
    let mut grants = Vec::new();
    for (right, names) in [
        ("SELECT", names(&mut columns.iter().filter(read))),
        ("UPDATE", names(&mut marks.iter().map(|(_, column)| *column).filter(|column| !column.set))),
    ] {
        if !names.is_empty() {
            grants.push(format!("{right} ({})", names.join(", ")));
        }
    }
    Lacking { grants, unsent: names(&mut key.iter().copied().filter(|column| !column.sent)) }
}

impl Described {
    fn is_in(&self, key: &[&Described]) -> bool {
        key.iter().any(|column| column.name == self.name)
    }
}

/// Looks at the rights and at the policies; `None` if something is in the way, else whether no policy hides anything.
async fn rights(
    session: &Session,
    of: &Subject<'_>,
    lacking: &Lacking,
    report: &mut Preflight,
) -> Result<Option<bool>, OutboxError> {
    let Subject { target, outbox, oid, .. } = of;
    let command = if target.write_back == WriteBackMode::Delete { "d" } else { "w" };
    // Rows are hidden unless a policy lets all of them pass, and none restricts it.
    let policies = "pg_policy WHERE polrelid = c.oid AND (polroles = '{0}' OR EXISTS (SELECT FROM unnest(polroles) r \
                    WHERE r <> 0 AND pg_has_role(r, 'USAGE')))";
    let all = "pg_get_expr(polqual, polrelid) = 'true' AND coalesce(pg_get_expr(polwithcheck, polrelid), 'true') = 'true'";
    let sql = format!(
        "SELECT current_user::text, has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'DELETE'), \
         row_security_active(c.oid), \
         EXISTS (SELECT FROM {policies} AND polpermissive AND polcmd IN ('*', 'r') AND {all}) \
         AND EXISTS (SELECT FROM {policies} AND polpermissive AND polcmd IN ('*', '{command}') AND {all}) \
         AND NOT EXISTS (SELECT FROM {policies} AND NOT polpermissive AND polcmd IN ('*', 'r', '{command}')) \
         FROM pg_class c WHERE c.oid = {oid}"
    );
    let Some(row) = rows(session, &sql).await?.pop() else { return Ok(None) };
    let (role, usage, delete): (String, bool, bool) = (row.cell(0)?, row.cell(1)?, row.cell(2)?);
    let (active, passes): (bool, bool) = (row.cell(3)?, row.cell(4)?);
    let (table, role) = (&outbox.table, quote_identifier(&role));
    let mut grants = lacking.grants.clone();
    if target.write_back == WriteBackMode::Delete && !delete {
        grants.push("DELETE".to_owned());
    }
    if !usage || !grants.is_empty() {
        let schema = quote_identifier(&table.schema);
        let mut mend =
            if usage { String::new() } else { format!("GRANT USAGE ON SCHEMA {schema} TO {role}; ") };
        if !grants.is_empty() {
            mend.push_str(&format!("GRANT {} ON {table} TO {role};", grants.join(", ")));
        }
        let text = format!("role {role} may not write rows of {table} back");
        report.fail_by_sql("write-back", text, mend.trim_end());
    } else if !lacking.unsent.is_empty() {
        report.fail_by_sql(
            "write-back",
            format!(
                "the publication holds back {}, by which rows are found again",
                lacking.unsent.join(", ")
            ),
            format!("ALTER PUBLICATION {} SET TABLE {table};", quote_identifier(&target.publication)),
        );
    } else if active && !passes {
        let text = format!(
            "row level security may hide rows of {table} from role {role}: they would never be written back"
        );
        let mend = format!("CREATE POLICY walpost ON {table} TO {role} USING (true);");
        let advice =
            format!("{mend} where a policy restricts what others permit: ALTER ROLE {role} BYPASSRLS;");
        report.findings.push(Finding::fail("write-back", text, advice).with_sql(mend));
    } else {
        return Ok(Some(!active));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debezium::{Contract, Options};

    fn column(name: &str, in_key: Option<i64>) -> Described {
        let (name, type_name) = (name.to_owned(), "uuid".to_owned());
        let unique = in_key.is_none();
        let equal = "OPERATOR(pg_catalog.=)".to_owned();
        Described {
            name,
            type_name,
            equal,
            generated: false,
            in_key,
            unique,
            read: true,
            set: true,
            sent: true,
        }
    }

    /// A message bears the id that the connector names, whatever the preset calls it.
    #[test]
    fn the_id_is_the_connectors() {
        let mut options = Options::default();
        let text = "topic.prefix=p\ntransforms=o\ntransforms.o.type=EventRouter\ntransforms.o.table.field.event.id=event_id\n\
                    key.converter=StringConverter\nvalue.converter=StringConverter\n";
        options.read(text).expect("options");
        let contract = Contract::of(options, "run").expect("a contract");
        let plain = Mapping::clone(&Mapping::walpost());
        let of_connector = Mapping { contract: Some(contract.into()), ..plain.clone() };
        let (id, event_id) = (column("id", Some(1)), column("event_id", None));
        let columns = [id, event_id];
        let found = |mapping: &Mapping, columns: &[Described]| {
            key(columns, mapping).map(|(key, is_id)| (key[0].name.clone(), is_id))
        };
        assert_eq!(found(&plain, &columns), Some(("id".to_owned(), true)));
        assert_eq!(found(&of_connector, &columns), Some(("id".to_owned(), false)));
        assert_eq!(found(&of_connector, &columns[1..]), Some(("event_id".to_owned(), true)));
        assert_eq!(found(&plain, &columns[1..]), None);
    }
}
