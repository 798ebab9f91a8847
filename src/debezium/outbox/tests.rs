use super::*;
use crate::debezium::convert::Converter;

fn contract(files: &[&str]) -> Result<Contract, WrongOption> {
    let mut options = Options::default();
    for file in files {
        options.read(file)?;
    }
    Contract::of(options, "run")
}

const CONVERTERS: &str = "key.converter=org.apache.kafka.connect.storage.StringConverter\n\
                          value.converter=org.apache.kafka.connect.storage.StringConverter\n";
const CONNECTOR: &str = "connector.class=io.debezium.connector.postgresql.PostgresConnector\ntopic.prefix=shop\n\
                         transforms=outbox\ntransforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n";
const SERVER: &str = "debezium.sink.type=kafka\ndebezium.source.topic.prefix=shop\ndebezium.transforms=outbox\n\
                      debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n";

/// Connect's options with some more.
fn connect(more: &str) -> Result<Contract, WrongOption> {
    contract(&[&format!("{CONVERTERS}{CONNECTOR}{more}")])
}

/// The server's options with some more.
fn server(more: &str) -> Result<Contract, WrongOption> {
    contract(&[&format!("{SERVER}{more}")])
}

#[test]
fn defaults_are_those_of_the_router() {
    let contract = connect("").expect("a contract");
    let shown = "as Kafka Connect: topic outbox.event.${routedByValue} of aggregatetype, key aggregateid as text, \
                 value payload as text, headers __debezium.context.*, id as text";
    assert_eq!(contract.to_string(), shown);
    assert_eq!(
        (contract.slot(), contract.publication(), contract.tables()),
        ("debezium", "dbz_publication", None)
    );
    let contract = server("").expect("a contract");
    let shown = "as Debezium Server: topic outbox.event.${routedByValue} of aggregatetype, key aggregateid as JSON with \
                 schemas, value payload as JSON with schemas, headers __debezium.context.*, id as JSON with schemas";
    assert_eq!(contract.to_string(), shown);
}

#[test]
fn one_configuration_may_be_written_in_many_ways() {
    let json = r#"{"name": "x", "config": {"connector.class": "PostgresConnector", "topic.prefix": "shop", "tasks.max": 1,
        "transforms": "outbox", "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter", "database.password": "sesame",
        "value.converter": "org.apache.kafka.connect.storage.StringConverter"}}"#;
    let wrapped = contract(&[json]).expect("a contract");
    let bare = json.trim_start_matches(r#"{"name": "x", "config": "#).trim_end_matches('}');
    assert_eq!(contract(&[&format!("{bare}}}")]).expect("a contract"), wrapped);
    assert_eq!(connect("").expect("a contract"), wrapped);
    // The worker's converters hold unless the connector brings its own, with their options.
    let worker = "bootstrap.servers=a:1\noffset.storage.file.filename=/x\n\
                  key.converter=org.apache.kafka.connect.storage.StringConverter\n\
                  value.converter=org.apache.kafka.connect.json.JsonConverter\nvalue.converter.schemas.enable=false\n";
    assert_eq!(
        contract(&[worker, CONNECTOR]).expect("a contract").converters.value,
        Converter::Json { schemas: false, numeric: false }
    );
    let own = format!("{CONNECTOR}value.converter=org.apache.kafka.connect.json.JsonConverter\n");
    assert_eq!(
        contract(&[worker, &own]).expect("a contract").converters.value,
        Converter::Json { schemas: true, numeric: false }
    );
    // Variables of the server's environment are names as well.
    let variables = SERVER.replace("debezium.source.topic.prefix", "DEBEZIUM_SOURCE_TOPIC_PREFIX");
    assert_eq!(contract(&[&variables]).expect("a contract"), server("").expect("a contract"));
}

#[test]
fn every_reproduced_option_is_seen() {
    let router = |option: &str| connect(&format!("transforms.outbox.{option}\n")).expect(option);
    assert_eq!(router("table.field.event.id=a").id, "a");
    assert_eq!(router("table.field.event.key=a").key, "a");
    assert_eq!(router("table.field.event.payload=a").payload, "a");
    assert_eq!(router("table.field.event.timestamp=a").timestamp.as_deref(), Some("a"));
    assert_eq!(router("table.field.event.schema.version=a").version.as_deref(), Some("a"));
    assert_eq!(router("route.by.field=a").routed_by, "a");
    assert_eq!(router("route.topic.replacement=x.$1").route.topic("a"), "x.a");
    assert_eq!(router("route.topic.regex=b(?<routedByValue>.*)").route.topic("ba"), "outbox.event.a");
    assert!(router("route.tombstone.on.empty.payload=true").tombstones);
    assert!(router("table.field.additional.missing=ignore").may_miss);
    assert_eq!(router("table.expand.json.payload=TRUE").expand, Some(Expand { keeps_nulls: false }));
    let source = |option: &str| connect(&format!("{option}\n")).expect(option);
    assert_eq!(source("event.converting.failure.handling.mode=skip").modes.failures, Failures::PassedOver);
    assert_eq!(source("event.converting.failure.handling.mode=fail").modes.failures, Failures::Stop);
    assert_eq!(source("producer.override.max.request.size=5000000").largest(), Some(5_000_000));
    let tables =
        source("table.include.list=public.a,Shop.b\nschema.include.list=PUBLIC, shop\nslot.stream.params=");
    assert_eq!(tables.tables(), Some("\"public\".\"a\", \"Shop\".\"b\""));
    assert_eq!(source("extended.headers.enabled=false").run_id, None);
    assert_eq!(source("slot.name=a").slot(), "a");
    assert_eq!(source("publication.name=a").publication(), "a");
    assert_eq!(source("table.include.list=public\\\\.outbox").tables(), Some("\"public\".\"outbox\""));
    let tables = source("table.include.list=public.a, Shop.b");
    assert_eq!(tables.tables(), Some("\"public\".\"a\", \"Shop\".\"b\""));
    assert_eq!(source("decimal.handling.mode=string").modes.decimals, Decimals::Text);
    assert_eq!(source("time.precision.mode=connect").modes.precision, Precision::Connect);
    assert_eq!(source("binary.handling.mode=base64-url-safe").modes.binary, Binary::Base64UrlSafe);
}

#[test]
fn converters_are_those_of_the_formats() {
    let json = |schemas| Converter::Json { schemas, numeric: false };
    let converters = server(
        "debezium.format.key=simplestring\ndebezium.format.schemas.enable=false\n\
                             debezium.format.header.schemas.enable=true\n",
    )
    .expect("a contract")
    .converters;
    assert_eq!(
        (converters.key, converters.value, converters.header),
        (Converter::Text, json(false), json(true))
    );
    let converters = server("debezium.format.header=clientprovided\n\
         debezium.format.header.class=org.apache.kafka.connect.storage.StringConverter\ndebezium.format.value=binary\n\
         debezium.format.value.delegate.converter.type=org.apache.kafka.connect.json.JsonConverter\n\
         debezium.format.value.delegate.converter.type.schemas.enable=false\n").expect("a contract").converters;
    assert_eq!(converters.header, Converter::Text);
    assert_eq!(converters.value, Converter::Bytes(Some(Box::new(json(false)))));
}

/// Columns that go somewhere besides, with their aliases.
#[test]
fn placements_are_split_as_in_java() {
    let router = |option: &str| connect(&format!("transforms.outbox.{option}\n")).expect(option);
    let placed = router("table.fields.additional.placement=type:header, no:envelope:number ,lane:partition")
        .placements;
    let placement = |column: &str, place, alias: &str| Placement {
        column: column.to_owned(),
        place,
        alias: alias.to_owned(),
    };
    let expected = [
        placement("type", Place::Header, "type"),
        placement("no", Place::Envelope, "number"),
        placement("lane", Place::Partition, "lane"),
    ];
    assert_eq!(placed, expected);
    // Where Java splits, nothing follows the last mark.
    let placed =
        router("table.fields.additional.placement=no:envelope:,type:header,payload:header,type:header,")
            .placements;
    let expected = [
        ("no", Place::Envelope),
        ("type", Place::Header),
        ("payload", Place::Header),
        ("type", Place::Header),
    ];
    assert_eq!(placed, expected.map(|(column, place)| placement(column, place, column)));
}

#[test]
fn the_server_escapes_its_expressions() {
    for written in ["$\\{routedByValue}", "\\\\${routedByValue}", "$${routedByValue}"] {
        let contract = server(&format!("debezium.transforms.outbox.route.topic.replacement=t.{written}\n"));
        assert_eq!(contract.expect(written).route.topic("a"), "t.a", "{written}");
    }
}

/// An option, its name, and a part of the reason.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "transforms.outbox.table.op.invalid.behavior=fatal",
        "transforms.outbox.table.op.invalid.behavior",
        "warn or error",
    ),
    ("transforms.outbox.predicate=p", "transforms.outbox.predicate", "predicates"),
    (
        "transforms.outbox.tracing.span.context.field=a",
        "transforms.outbox.tracing.span.context.field",
        "spans",
    ),
    ("transforms.outbox.route.topic.regex=(?i)a", "transforms.outbox.route.topic.regex", "flags"),
    (
        "transforms.outbox.route.topic.replacement=${a}",
        "transforms.outbox.route.topic.replacement",
        "no group `a`",
    ),
    (
        "transforms.outbox.table.fields.additional.placement=a",
        "transforms.outbox.table.fields.additional.placement",
        "form",
    ),
    (
        "transforms.outbox.table.fields.additional.placement=a:body",
        "transforms.outbox.table.fields.additional.placement",
        "`body`",
    ),
    (
        "transforms.outbox.table.expand.json.payload=yes",
        "transforms.outbox.table.expand.json.payload",
        "neither true nor false",
    ),
    ("transforms.outbox.new.option=1", "transforms.outbox.new.option", "does not know"),
    ("transforms=outbox,other", "transforms", "several"),
    ("converters=a", "converters", "values"),
    ("column.mask.hash.a=b", "column.mask.hash.a", "values"),
    ("predicates=p", "predicates", "none is needed"),
    ("post.processors=p", "post.processors", "values"),
    ("topic.naming.strategy=x.Y", "topic.naming.strategy", "schemas"),
    ("field.name.adjustment.mode=avro", "field.name.adjustment.mode", "renames"),
    ("schema.name.adjustment.mode=avro", "schema.name.adjustment.mode", "renames"),
    ("include.unknown.datatypes=true", "include.unknown.datatypes", "unknown types"),
    ("provide.transaction.metadata=true", "provide.transaction.metadata", "topic"),
    ("plugin.name=decoderbufs", "plugin.name", "pgoutput"),
    ("connector.class=io.debezium.connector.mysql.MySqlConnector", "connector.class", "PostgreSQL"),
    ("errors.tolerance=all", "errors.tolerance", "silence"),
    ("exactly.once.support=required", "exactly.once.support", "transactions"),
    ("exactly.once.source.support=enabled", "exactly.once.source.support", "transactions"),
    ("slot.stream.params=origin=none", "slot.stream.params", "other rows"),
    ("producer.override.max.request.size=big", "producer.override.max.request.size", "number"),
    ("schema.include.list=shop", "schema.include.list", "--table"),
    ("table.include.list=public.a\nschema.include.list=shop", "schema.include.list", "--table"),
    ("schema.exclude.list=shop", "schema.exclude.list", "--table"),
    ("table.exclude.list=public.a", "table.exclude.list", "--table"),
    ("event.converting.failure.handling.mode=drop", "event.converting.failure.handling.mode", "warn or skip"),
    (
        "transforms.outbox.table.fields.additional.placement=a:envelope,b:envelope:a",
        "transforms.outbox.table.fields.additional.placement",
        "two fields `a`",
    ),
    (
        "transforms.outbox.table.fields.additional.placement=payload:envelope",
        "transforms.outbox.table.fields.additional.placement",
        "two fields `payload`",
    ),
    (
        "transforms.outbox.table.fields.additional.placement=a:header,,b:header",
        "transforms.outbox.table.fields.additional.placement",
        "not of the form",
    ),
    ("skipped.operations=c,t", "skipped.operations", "inserts"),
    ("producer.override.partitioner.class=x.Y", "producer.override.partitioner.class", "partitions"),
    ("time.precision.mode=fortnights", "time.precision.mode", "adaptive"),
    ("table.include.list=public.*", "table.include.list", "plain name"),
    (
        "value.converter=io.confluent.connect.avro.AvroConverter",
        "value.converter",
        "AvroConverter is not reproduced",
    ),
    (
        "header.converter=org.apache.kafka.connect.converters.ByteArrayConverter",
        "header.converter",
        "not reproduced",
    ),
    ("key.converter.converter.encoding=ISO-8859-1", "key.converter.converter.encoding", "UTF-8"),
    (
        "value.converter=io.debezium.converters.BinaryDataConverter
value.converter.delegate.converter.type=x",
        "value.converter.delegate.converter.type",
        "x is not reproduced",
    ),
    ("topic.prefix=${file:/a:b}", "topic.prefix", "provider"),
    ("made.up.option=1", "made.up.option", "does not know"),
];

#[test]
fn what_is_not_reproduced_is_refused_by_name() {
    for (more, option, why) in REFUSED {
        let more = (*more).to_owned();
        let wrong = connect(&format!("{more}\n")).expect_err(&more);
        assert_eq!(wrong.option, *option, "{wrong}");
        assert!(wrong.why.contains(why), "{wrong}");
    }
}

#[test]
fn what_the_server_would_do_otherwise_is_refused_by_name() {
    for (more, option) in [
        ("debezium.sink.type=http", "debezium.sink.type"),
        ("debezium.format.value=avro", "debezium.format.value"),
        ("debezium.format.header=simplestring", "debezium.format.header"),
        ("debezium.format.key=clientprovided", "debezium.format.key"),
        ("debezium.source.converters=a", "debezium.source.converters"),
        (
            "debezium.sink.kafka.producer.partitioner.class=x.Y",
            "debezium.sink.kafka.producer.partitioner.class",
        ),
        ("debezium.source.topic.prefix=${PREFIX}", "debezium.source.topic.prefix"),
        ("debezium.new.option=1", "debezium.new.option"),
    ] {
        assert_eq!(server(&format!("{more}\n")).expect_err(more).option, option);
    }
}

#[test]
fn converters_must_be_told() {
    let wrong = contract(&[CONNECTOR]).expect_err("no converters");
    assert!(wrong.option == "key.converter" && wrong.why.contains("worker"), "{wrong}");
    let alone = format!("{CONNECTOR}key.converter.schemas.enable=false\n");
    assert_eq!(contract(&[CONVERTERS, &alone]).expect_err("alone").option, "key.converter.schemas.enable");
    assert_eq!(
        contract(&[&CONNECTOR.replace("EventRouter", "ByLogicalTableRouter"), CONVERTERS])
            .expect_err("another")
            .option,
        "transforms.outbox.type"
    );
    assert!(contract(&["{\"a\": \"sesame"]).is_err_and(|wrong| !wrong.to_string().contains("sesame")));
}

#[test]
fn what_has_no_influence_is_let_through() {
    let more = "name=a\ntasks.max=1\ndatabase.hostname=a\ndatabase.password=${file:/a:b}\nsnapshot.mode=never\n\
                heartbeat.interval.ms=1000\nslot.max.retries=3\nmax.batch.size=1\npoll.interval.ms=5\n\
                publication.autocreate.mode=filtered\ntombstones.on.delete=false\nproducer.override.linger.ms=5\n\
                topic.creation.default.partitions=6\nerrors.log.enable=true\nkey.converter.schemas.enable=false\n\
                value.converter.replace.null.with.default=false\nplugin.path=/x\nprovide.transaction.metadata=false\n";
    connect(more).expect("a contract");
    let more = "quarkus.http.port=0\ndebezium.source.offset.storage.file.filename=/x\ndebezium.source.database.password=${P}\n\
                debezium.sink.kafka.producer.bootstrap.servers=a:1\n\
                debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer\n\
                debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector\n";
    server(more).expect("a contract");
}
