//! Which of the publication's tables are outboxes, and what their rows look like at this place of the log.
//!
//! The server describes a table before its first row, and anew after every change of it. An outbox is
//! followed by its object id, so that a rename changes nothing, and by its name, so that rows of a table
//! that was dropped and made again are not passed over.

use std::collections::HashMap;
use std::sync::Arc;

use super::names::{Outbox, Target};
use super::pgoutput::Relation;
use super::preflight::{Preflight, Survey};
use super::table::{ColumnTypes, Layout, LayoutError};
use crate::error::OutboxError;

/// A server that describes more tables than this is not describing its own.
const MAX_RELATIONS: usize = 1_000_000;
/// The same of tables that bear an outbox's name, each of which was dropped for the next one: their layouts are kept.
const MAX_OUTBOXES: usize = 1_000;

/// What the server has described on this connection.
#[derive(Debug)]
pub(super) struct Relations {
    slot: String,
    /// Nothing is logged: a command that only looks has no relay's worries.
    quiet: bool,
    followed: Vec<Followed>,
    types: ColumnTypes,
    known: HashMap<u32, Known>,
    /// How many of them are outboxes.
    outboxes: usize,
}

/// An outbox, and how it was last seen.
#[derive(Debug)]
struct Followed {
    outbox: Outbox,
    oid: Option<u32>,
    absent: Vec<String>,
    /// The columns by which rows are written back.
    key: Vec<String>,
    /// Which of the target's outboxes it is.
    index: usize,
    /// The newest layout; before the first description, that of the catalog.
    newest: Option<Arc<Layout>>,
}

/// What a described table is to us.
#[derive(Debug)]
enum Known {
    Outbox(Arc<Layout>),
    /// Partitions of an outbox among them, which are described beside their root and have no rows of their own.
    Other {
        named: bool,
    },
}

impl Relations {
    pub(super) fn new(target: &Target, preflight: &Preflight) -> Self {
        let mut surveys = preflight.tables.iter();
        let followed = target.outboxes().zip(0..).map(|(outbox, index)| {
            let survey = surveys.next();
            Followed {
                outbox: outbox.clone(),
                oid: survey.and_then(|survey| survey.oid),
                absent: survey.map(|survey| survey.absent_columns.clone()).unwrap_or_default(),
                key: survey.map(Survey::row_key).unwrap_or_default(),
                index,
                newest: survey.and_then(|survey| survey.layout.clone()),
            }
        });
        Relations {
            slot: target.slot.clone(),
            quiet: false,
            followed: followed.collect(),
            types: preflight.column_types.clone(),
            known: HashMap::new(),
            outboxes: 0,
        }
    }

    /// The same, for a command that only looks.
    #[cfg(feature = "cli")]
    pub(super) fn quiet(target: &Target, preflight: &Preflight) -> Self {
        Relations { quiet: true, ..Relations::new(target, preflight) }
    }

    /// Takes in a description.
    ///
    /// # Errors
    /// An outbox lacks a column that a message needs.
    pub(super) fn learn(&mut self, relation: &Relation) -> Result<(), OutboxError> {
        let known = match self.which(relation) {
            Some(index) => {
                let followed = &mut self.followed[index];
                Known::Outbox(followed.describe(relation, &self.types, &self.slot, self.quiet)?)
            }
            None => Known::Other {
                named: matches!(self.known.get(&relation.oid), Some(Known::Other { named: true })),
            },
        };
        self.outboxes += usize::from(matches!(known, Known::Outbox(_)));
        if let Some(Known::Outbox(_)) = self.known.insert(relation.oid, known) {
            self.outboxes -= 1;
        }
        if self.known.len() > MAX_RELATIONS || self.outboxes > MAX_OUTBOXES {
            let why = "it describes tables without end";
            return Err(OutboxError::protocol("the server broke the protocol", why));
        }
        Ok(())
    }

    /// Which outbox the table is. Its object id says more than its name, which may have been another's before.
    fn which(&self, relation: &Relation) -> Option<usize> {
        let by_oid = self.followed.iter().position(|followed| followed.oid == Some(relation.oid));
        by_oid.or_else(|| {
            self.followed.iter().position(|Followed { outbox: Outbox { table, .. }, .. }| {
                relation.namespace == table.schema && relation.name == table.name
            })
        })
    }

    /// The layout of rows of an outbox that are not in the log as such; `index` counts the target's outboxes.
    pub(super) fn outbox(&self, index: usize) -> Option<Arc<Layout>> {
        self.followed.get(index)?.newest.clone()
    }

    /// The layout of an outbox's rows; `None` for a row of another table.
    ///
    /// # Errors
    /// The server has not described the table.
    pub(super) fn layout(&mut self, oid: u32) -> Result<Option<&Arc<Layout>>, OutboxError> {
        match self.known.get_mut(&oid) {
            Some(Known::Outbox(layout)) => Ok(Some(layout)),
            Some(Known::Other { named }) => {
                if !std::mem::replace(named, true) && !self.quiet {
                    tracing::warn!(oid, "rows of a table that is no outbox are ignored");
                }
                Ok(None)
            }
            None => {
                let why = format!("a row of table {oid}, which was not described");
                Err(OutboxError::protocol("the server broke the protocol", why))
            }
        }
    }
}

impl Followed {
    fn describe(
        &mut self,
        relation: &Relation,
        types: &ColumnTypes,
        slot: &str,
        quiet: bool,
    ) -> Result<Arc<Layout>, OutboxError> {
        let columns = relation.columns.iter().map(|column| (&*column.name, column.type_oid));
        // Nobody else asks what narrows a type.
        let as_of = self.outbox.mapping.contract.is_some().then(|| types.as_of(&self.outbox.table, relation));
        let types = as_of.as_ref().unwrap_or(types);
        let kinds = |column: usize| types.kind(relation.columns[column].type_oid);
        let layout = Layout::new(&self.outbox, columns, types)
            .and_then(|layout| layout.keyed(self.index, &self.key, &kinds))
            .map_err(|error| self.changed(&error, slot))?;
        let absent = layout.absent();
        for column in absent.iter().filter(|column| !quiet && !self.absent.contains(column)) {
            tracing::warn!(column, table = %self.outbox.table, "the column is gone: messages go on without it");
        }
        self.absent = absent;
        let layout = Arc::new(layout);
        self.newest = Some(Arc::clone(&layout));
        Ok(layout)
    }

    /// The log holds rows of a time at which the table was no outbox.
    fn changed(&self, error: &LayoutError, slot: &str) -> OutboxError {
        let table = &self.outbox.table;
        error.in_table(table).with_advice(format!(
            "undo the change of {table}, for the rows to come; rows written since the change stay in the log as \
             they are: `walpost teardown` and `walpost setup` make slot {slot} anew behind them, then insert them again"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debezium::{ColumnFacts, Contract, Options};
    use crate::mapping::Mapping;
    use crate::postgres::names::TableName;
    use crate::postgres::pgoutput::{RelationColumn, ReplicaIdentity, Tuple};
    use crate::postgres::preflight::Survey;

    /// `numeric(12,2)`, and a domain over it.
    const PRICE: i32 = ((12 << 16) | 2) + 4;
    const DOMAIN: u32 = 90_001;

    fn outbox(oid: u32) -> Relation {
        let column = |(name, type_oid): (&'static str, u32)| RelationColumn {
            is_key: false,
            name: name.into(),
            type_oid,
            type_modifier: -1,
        };
        Relation {
            oid,
            namespace: "outbox".into(),
            name: "messages".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: [("id", 2950), ("topic", 25), ("payload", 114)].map(column).into(),
        }
    }

    /// Two outboxes that swap their names keep their mappings.
    #[test]
    fn an_object_id_says_more_than_a_name() {
        let named = |name: &str| Outbox {
            table: TableName { schema: "outbox".to_owned(), name: name.to_owned() },
            ..Outbox::default()
        };
        let target = Target { main: named("messages"), others: vec![named("other")], ..Target::default() };
        let survey = |oid| Survey { oid: Some(oid), ..Survey::default() };
        let preflight = Preflight { tables: vec![survey(1), survey(2)], ..Preflight::default() };
        let relations = Relations::new(&target, &preflight);
        let of = |oid, name: &str| relations.which(&Relation { name: name.into(), ..outbox(oid) });
        assert_eq!([of(1, "other"), of(2, "messages"), of(1, "x")], [Some(0), Some(1), Some(0)]);
        assert_eq!([of(3, "messages"), of(3, "other"), of(3, "x")], [Some(0), Some(1), None], "made anew");
    }

    /// An outbox of a connector, whose headers are a price, one of a domain, and a time, as the catalog has them.
    fn of_connector() -> (Target, Preflight) {
        let mut options = Options::default();
        options
            .read(
                "topic.prefix=p\ntransforms=o\ntransforms.o.type=EventRouter\nextended.headers.enabled=false\n\
                 key.converter=StringConverter\nvalue.converter=StringConverter\nheader.converter=JsonConverter\n\
                 transforms.o.table.fields.additional.placement=price:header,own:header,at:header\n",
            )
            .expect("options");
        let contract = Contract::of(options, "run").expect("a contract");
        let mapping = Mapping { contract: Some(contract.into()), ..Mapping::clone(&Mapping::walpost()) };
        let main = Outbox { mapping: mapping.into(), ..Outbox::default() };
        let facts = |type_oid, modifier| ColumnFacts {
            type_oid,
            type_name: String::new(),
            declared: String::new(),
            modifier,
            nullable: true,
            default: None,
            labels: Vec::new(),
        };
        let known = [("price", facts(1700, PRICE)), ("own", facts(1700, PRICE)), ("at", facts(1114, 3))];
        let known = known.map(|(name, facts)| (name.to_owned(), facts));
        let column_types =
            ColumnTypes::new([(DOMAIN, 1700)].into(), vec![(main.table.clone(), known.into())]);
        (Target { main, ..Target::default() }, Preflight { column_types, ..Preflight::default() })
    }

    /// The table with these modifiers.
    fn priced(price: i32, at: i32) -> Relation {
        let column = |(name, type_oid, type_modifier): (&'static str, u32, i32)| RelationColumn {
            is_key: false,
            name: name.into(),
            type_oid,
            type_modifier,
        };
        let columns =
            [("id", 2950, -1), ("aggregatetype", 25, -1), ("aggregateid", 25, -1), ("payload", 25, -1)];
        // Of a domain's own modifier the log says nothing.
        let headers = [("price", 1700, price), ("own", DOMAIN, -1), ("at", 1114, at)];
        Relation { columns: columns.into_iter().chain(headers).map(column).collect(), ..outbox(1) }
    }

    /// Schema, scale and value of the headers of a row of it.
    fn headers(relations: &mut Relations, relation: &Relation) -> [String; 3] {
        let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("JSON");
        relations.learn(relation).expect("an outbox");
        let texts = [
            "1cf5ba32-0000-4000-8000-000000000001",
            "a",
            "b",
            "c",
            "6.25",
            "6.25",
            "2024-03-01 05:00:04.128",
        ];
        let layout = relations.layout(1).expect("described").expect("an outbox");
        let message = layout.message(&Tuple::of_texts(texts.map(Some).into_iter()));
        let headers = json(&message.expect("a message").expect("one that is sent").headers);
        ["price", "own", "at"].map(|name| {
            let header = json(headers[name].as_str().expect("text").as_bytes());
            let schema = &header["schema"];
            format!("{} {} {}", schema["name"], schema["parameters"]["scale"], header["payload"])
        })
    }

    /// Rows that were written before and after an ALTER.
    #[test]
    fn a_column_is_as_wide_as_the_log_says() {
        let (target, preflight) = of_connector();
        let mut relations = Relations::new(&target, &preflight);
        let own = r#""org.apache.kafka.connect.data.Decimal" "2" "AnE=""#.to_owned();
        let wider = r#""org.apache.kafka.connect.data.Decimal" "3" "GGo=""#.to_owned();
        let free = r#""io.debezium.data.VariableScaleDecimal" null {"scale":2,"value":"AnE="}"#.to_owned();
        let short = r#""io.debezium.time.Timestamp" null 1709269204128"#.to_owned();
        let long = r#""io.debezium.time.MicroTimestamp" null 1709269204128000"#.to_owned();
        for (price, at, expected) in [
            (PRICE, 3, [&own, &own, &short]),
            (PRICE + 1, -1, [&wider, &own, &long]),
            (-1, 6, [&free, &own, &long]),
        ] {
            assert_eq!(headers(&mut relations, &priced(price, at)).each_ref(), expected);
        }
    }

    #[test]
    fn an_outbox_may_be_altered_for_ever_but_not_be_another_each_time() {
        let mut relations = Relations::new(&Target::default(), &Preflight::default());
        for _ in 0..3 * MAX_OUTBOXES {
            relations.learn(&outbox(1)).expect("the same table again");
        }
        let refused = (2..).find(|oid| relations.learn(&outbox(*oid)).is_err());
        assert_eq!(refused, u32::try_from(MAX_OUTBOXES + 1).ok());
    }
}
