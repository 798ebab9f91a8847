use super::*;
use crate::debezium::Options;

const CONNECT: &str = "transforms=o\ntransforms.o.type=EventRouter\ntopic.prefix=shop\n\
    key.converter=org.apache.kafka.connect.storage.StringConverter\n\
    value.converter=org.apache.kafka.connect.storage.StringConverter\n";
const SERVER: &str =
    "debezium.transforms=o\ndebezium.transforms.o.type=EventRouter\ndebezium.source.topic.prefix=shop\n";
const BARE: &str = "extended.headers.enabled=false\n";
const JSON: &str = "value.converter=org.apache.kafka.connect.json.JsonConverter\n";
const PLAIN: &str =
    "value.converter=org.apache.kafka.connect.json.JsonConverter\nvalue.converter.schemas.enable=false\n";

fn contract(text: &str) -> Arc<Contract> {
    let mut options = Options::default();
    options.read(text).expect("options");
    Arc::new(Contract::of(options, "run-1").expect("a contract"))
}

/// The table of the recordings: name, type, its name, `atttypmod`, default, and the text of a row.
type Listed = (&'static str, u32, &'static str, i32, Option<&'static str>, Option<&'static str>);
const TABLE: [Listed; 15] = [
    ("id", 2950, "uuid", -1, None, Some("1cf5ba32-0000-4000-8000-000000000001")),
    ("aggregatetype", 1043, "varchar", 259, None, Some("Order")),
    ("aggregateid", 1043, "varchar", 259, None, Some("k-1")),
    ("type", 1043, "varchar", 259, None, Some("OrderPaid")),
    ("payload", 3802, "jsonb", -1, None, Some("{\"a\": 1, \"b\": null}")),
    ("no", 23, "int4", -1, Some("7"), None),
    ("note", 25, "text", -1, Some("'none'::text"), None),
    ("price", 1700, "numeric", ((12 << 16) | 2) + 4, None, Some("6.25")),
    ("at", 1114, "timestamp", -1, None, Some("2024-03-01 05:00:04.128451")),
    ("atz", 1184, "timestamptz", -1, None, Some("2024-03-01 05:00:04.128451+00")),
    ("day", 1082, "date", -1, None, Some("2024-03-01")),
    ("tags", 1009, "_text", -1, None, Some("{a,NULL}")),
    ("number", 20, "int8", -1, None, Some("190")),
    ("raw", 17, "bytea", -1, None, Some("\\x00ff")),
    ("lane", 23, "int4", -1, None, Some("2")),
];

fn plan(text: &str) -> Result<Plan, PlanError> {
    plan_of(&contract(text), "outboxevent", None)
}

/// The plan of a table whose column has this default.
fn plan_of(contract: &Arc<Contract>, table: &str, over: Option<(&str, &str)>) -> Result<Plan, PlanError> {
    let names: Vec<Arc<str>> = TABLE.iter().map(|column| Arc::from(column.0)).collect();
    let facts = |place: usize| {
        let (name, type_oid, type_name, modifier, default, _) = TABLE[place];
        let type_name = type_name.to_owned();
        let nullable = !matches!(name, "id" | "aggregatetype");
        let default = over.filter(|(column, _)| *column == name).map(|(_, default)| default).or(default);
        let default = default.map(str::to_owned);
        ColumnFacts {
            type_oid,
            declared: type_name.clone(),
            type_name,
            modifier,
            nullable,
            default,
            labels: Vec::new(),
        }
    };
    Plan::new(contract, ("public", table), &names, facts)
}

/// The record of the row, with these values in the place of its own.
fn event(text: &str, over: &[(&str, Option<&'static str>)]) -> Event {
    event_of(&plan(text).expect(text), over)
}

fn event_of(plan: &Plan, over: &[(&str, Option<&'static str>)]) -> Event {
    let value = |place: usize| {
        let (name, .., own) = TABLE[place];
        over.iter().find(|(over, _)| *over == name).map_or(own, |(_, text)| *text)
    };
    plan.event(value).expect("an event")
}

fn text(bytes: Option<&Vec<u8>>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).expect("text"))
}

fn value(options: &str, over: &[(&str, Option<&'static str>)]) -> Option<String> {
    let event = event(options, over);
    text(event.value.as_ref()).map(str::to_owned)
}

fn key(options: &str, over: &[(&str, Option<&'static str>)]) -> Option<String> {
    text(event(options, over).key.as_ref()).map(str::to_owned)
}

#[test]
fn connect_sends_text_by_default() {
    let event = event(
        &format!(
            "{CONNECT}transforms.o.table.fields.additional.placement=type:header,no:header:n,atz:header\n"
        ),
        &[],
    );
    assert_eq!(event.topic, "outbox.event.Order");
    assert_eq!(text(event.key.as_ref()), Some("k-1"));
    assert_eq!(text(event.value.as_ref()), Some("{\"a\": 1, \"b\": null}"));
    let headers = concat!(
        r#"{"__debezium.context.connectorLogicalName":"shop","__debezium.context.taskId":"0","__debezium.contex"#,
        r#"t.connectorName":"postgresql","__debezium.context.runId":"run-1","id":"1cf5ba32-0000-4000-8000-00000"#,
        r#"0000001","type":"OrderPaid","n":"7","atz":"2024-03-01T05:00:04.128451Z"}"#,
    );
    assert_eq!(event.headers, headers);
    assert_eq!((event.partition, event.timestamp), (None, None));
}

#[test]
fn the_server_sends_json_with_schemas_by_default() {
    let event = event(
        &format!(
            "{SERVER}debezium.transforms.o.table.fields.additional.placement=type:header,price:header\n"
        ),
        &[("type", None)],
    );
    let key = r#"{"schema":{"type":"string","optional":true},"payload":"k-1"}"#;
    assert_eq!(text(event.key.as_ref()), Some(key));
    let payload = concat!(
        r#"{"schema":{"type":"string","optional":true,"name":"io.debezium.data.Json","version":1},"payload":"{\"#,
        r#""a\": 1, \"b\": null}"}"#,
    );
    assert_eq!(text(event.value.as_ref()), Some(payload));
    let headers: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&event.headers).expect("an object");
    let header = |name: &str| headers.get(name).and_then(serde_json::Value::as_str).unwrap_or("none");
    let id = concat!(
        r#"{"schema":{"type":"string","optional":false,"name":"io.debezium.data.Uuid","version":1},"payload":"1"#,
        r#"cf5ba32-0000-4000-8000-000000000001"}"#,
    );
    assert_eq!(header("id"), id);
    assert_eq!(header("type"), r#"{"schema":{"type":"string","optional":true},"payload":null}"#);
    let task = r#"{"schema":{"type":"string","optional":false},"payload":"0"}"#;
    assert_eq!(header("__debezium.context.taskId"), task);
}

#[test]
fn headers_are_null_or_gone_as_with_the_runner() {
    let placed = "transforms.o.table.fields.additional.placement=type:header\n";
    let id = "\"id\":\"1cf5ba32-0000-4000-8000-000000000001\"";
    let headers = |options: &str| event(options, &[("type", None)]).headers;
    assert_eq!(headers(&format!("{CONNECT}{BARE}{placed}")), format!("{{{id},\"type\":null}}"));
    let server = format!("{SERVER}debezium.source.{BARE}debezium.{placed}");
    let json = headers(&format!("{server}debezium.format.schemas.enable=false\n"));
    assert_eq!(json, r#"{"id":"\"1cf5ba32-0000-4000-8000-000000000001\"","type":"null"}"#);
    let class = "debezium.format.header=clientprovided\ndebezium.format.header.class=StringConverter\n";
    assert_eq!(headers(&format!("{server}{class}")), format!("{{{id}}}"));
}

#[test]
fn keys_are_converted() {
    let by = |name: &str| format!("{CONNECT}transforms.o.table.field.event.key={name}\n");
    assert_eq!(key(&by("number"), &[]).as_deref(), Some("190"));
    assert_eq!(key(CONNECT, &[("aggregateid", None)]), None);
    assert_eq!(key(CONNECT, &[("aggregateid", Some(""))]).as_deref(), Some(""));
    let json = format!("{CONNECT}key.converter=org.apache.kafka.connect.json.JsonConverter\n");
    let null = r#"{"schema":{"type":"string","optional":true},"payload":null}"#;
    assert_eq!(key(&json, &[("aggregateid", None)]).as_deref(), Some(null));
    let plain = format!("{json}key.converter.schemas.enable=false\n");
    assert_eq!(key(&plain, &[("aggregateid", None)]).as_deref(), Some("null"));
    assert_eq!(key(&plain, &[]).as_deref(), Some("\"k-1\""));
}

#[test]
fn payloads_that_are_null_or_blank() {
    let tombstones = "transforms.o.route.tombstone.on.empty.payload=true\n";
    for (options, payload, expected) in [
        (CONNECT.to_owned(), None, None),
        (CONNECT.to_owned(), Some(""), Some("")),
        (format!("{CONNECT}{PLAIN}"), None, Some("null")),
        (
            format!("{CONNECT}{JSON}"),
            None,
            Some(
                r#"{"schema":{"type":"string","optional":true,"name":"io.debezium.data.Json","version":1},"payload":null}"#,
            ),
        ),
        (format!("{CONNECT}{PLAIN}{tombstones}"), None, None),
        (format!("{CONNECT}{PLAIN}{tombstones}"), Some(" \t\u{1}"), None),
        (format!("{CONNECT}{PLAIN}{tombstones}"), Some("\u{a0}"), Some("\"\u{a0}\"")),
    ] {
        assert_eq!(value(&options, &[("payload", payload)]).as_deref(), expected, "{options} {payload:?}");
    }
    let raw = format!(
        "{CONNECT}value.converter=io.debezium.converters.BinaryDataConverter\ntransforms.o.table.field.event.payload=raw\n{tombstones}"
    );
    assert_eq!(event(&raw, &[]).value.as_deref(), Some(&[0, 255][..]));
    assert_eq!(event(&raw, &[("raw", Some("\\x"))]).value.as_deref(), Some(&[][..]), "empty is not null");
    assert_eq!(event(&raw, &[("raw", None)]).value, None);
}

#[test]
fn envelopes_have_the_columns_in_order() {
    let placed = "transforms.o.table.fields.additional.placement=price:envelope,at:envelope:when,atz:envelope,day:envelope,\
                  tags:envelope,note:envelope,type:envelope\n";
    let plain = concat!(
        r#"{"payload":"{\"a\": 1, \"b\": null}","price":"AnE=","when":1709269204128451,"atz":"2024-03-01T05:00:"#,
        r#"04.128451Z","day":19783,"tags":["a",null],"note":"none","type":null}"#,
    );
    assert_eq!(value(&format!("{CONNECT}{PLAIN}{placed}"), &[("type", None)]).as_deref(), Some(plain));
    let placed = "transforms.o.table.fields.additional.placement=note:envelope\n\
                  transforms.o.table.field.event.schema.version=lane\n";
    let schema = concat!(
        r#"{"schema":{"type":"struct","fields":[{"type":"string","optional":true,"name":"io.debezium.data.Json","version":1,"#,
        r#""field":"payload"},{"type":"string","optional":true,"default":"none","field":"note"}],"optional":false,"#,
        r#""name":"shop.public.outboxevent.Order.Value","version":2},"payload":{"payload":"{\"a\": 1, \"b\": null}","#,
        r#""note":"none"}}"#
    );
    assert_eq!(value(&format!("{CONNECT}{JSON}{placed}"), &[]).as_deref(), Some(schema));
    // NULL is no version, whatever the default; in the envelope it is the default.
    let by_default = placed.replace("version=lane", "version=no").replace("note:envelope", "no:envelope");
    let none = concat!(
        r#"{"schema":{"type":"struct","fields":[{"type":"string","optional":true,"name":"io.debezium.data.Json","version":1,"#,
        r#""field":"payload"},{"type":"int32","optional":true,"default":7,"field":"no"}],"optional":false,"#,
        r#""name":"shop.public.outboxevent.Order.Value"},"payload":{"payload":"{\"a\": 1, \"b\": null}","no":7}}"#
    );
    assert_eq!(value(&format!("{CONNECT}{JSON}{by_default}"), &[]).as_deref(), Some(none));
    let text = "Struct{payload={\"a\": 1, \"b\": null},note=none}";
    assert_eq!(value(&format!("{CONNECT}{placed}"), &[]).as_deref(), Some(text));
}

#[test]
fn the_first_type_names_the_schema_of_all() {
    let placed = "transforms.o.table.fields.additional.placement=type:envelope\n";
    let plan = plan(&format!("{CONNECT}{JSON}{placed}")).expect("a plan");
    let name = |routed_by: &'static str| {
        let text =
            |place: usize| if TABLE[place].0 == "aggregatetype" { Some(routed_by) } else { TABLE[place].5 };
        let event = plan.event(text).expect("an event");
        let value: serde_json::Value = serde_json::from_slice(&event.value.expect("a value")).expect("JSON");
        value["schema"]["name"].as_str().map(str::to_owned)
    };
    for routed_by in ["Customer", "Order"] {
        assert_eq!(name(routed_by).as_deref(), Some("shop.public.outboxevent.Customer.Value"), "{routed_by}");
    }
}

#[test]
fn json_is_expanded_or_left_alone() {
    let expand = "transforms.o.table.expand.json.payload=true\n";
    let plain = format!("{CONNECT}{PLAIN}{expand}");
    for (payload, expected) in [
        ("{\"a\": 1, \"b\": null}", r#"{"a":1}"#),
        ("42", r#""42""#),
        ("[]", r#""[]""#),
        ("{\"n\": 12345678901234567890, \"x\": null}", r#"{"n":12345678901234567890,"x":null}"#),
        ("[1, 2]", "[1,2]"),
    ] {
        assert_eq!(value(&plain, &[("payload", Some(payload))]).as_deref(), Some(expected));
    }
    let schemas = format!("{CONNECT}{JSON}{expand}");
    for (payload, expected) in [
        (
            "{\"a\": 1}",
            concat!(
                r#"{"schema":{"type":"struct","fields":[{"type":"int32","optional":true,"field":"a"}],"optional":true,""#,
                r#"name":"payload"},"payload":{"a":1}}"#,
            ),
        ),
        ("[]", r#"{"schema":null,"payload":"[]"}"#),
        ("[1, 2]", r#"{"schema":null,"payload":[1,2]}"#),
    ] {
        assert_eq!(value(&schemas, &[("payload", Some(payload))]).as_deref(), Some(expected));
    }
    let text = format!("{CONNECT}{expand}");
    assert_eq!(value(&text, &[]).as_deref(), Some("Struct{a=1}"));
    assert_eq!(value(&text, &[("payload", Some("[1, 2]"))]).as_deref(), Some("[1, 2]"));
    let envelope = format!("{plain}transforms.o.table.fields.additional.placement=type:envelope\n");
    assert_eq!(value(&envelope, &[]).as_deref(), Some(r#"{"payload":{"a":1},"type":"OrderPaid"}"#));
}

#[test]
fn only_connect_honours_partition_and_time() {
    let options = "transforms.o.table.fields.additional.placement=lane:partition\ntransforms.o.table.field.event.timestamp=at\n";
    let connect = event(&format!("{CONNECT}{options}"), &[]);
    assert_eq!((connect.partition, connect.timestamp), (Some(2), Some(1_709_269_204_128)));
    let null = event(&format!("{CONNECT}{options}"), &[("lane", None), ("at", None)]);
    assert_eq!((null.partition, null.timestamp), (None, None));
    let options = options.replace("transforms.o", "debezium.transforms.o");
    let server = event(&format!("{SERVER}{options}"), &[]);
    assert_eq!((server.partition, server.timestamp), (None, None));
}

#[test]
fn columns_that_no_row_could_pass_are_refused_at_start() {
    for (options, column) in [
        ("transforms.o.table.field.event.timestamp=atz\n", "atz"),
        ("transforms.o.route.by.field=number\n", "number"),
        ("transforms.o.table.fields.additional.placement=number:partition\n", "number"),
        ("transforms.o.table.field.event.payload=raw\n", "raw"),
        ("value.converter=org.apache.kafka.connect.converters.ByteArrayConverter\n", "payload"),
        ("time.precision.mode=connect\ntransforms.o.table.fields.additional.placement=at:header\n", "at"),
        (
            "header.converter=io.debezium.converters.BinaryDataConverter\n\
             header.converter.delegate.converter.type=org.apache.kafka.connect.storage.StringConverter\n\
             transforms.o.table.fields.additional.placement=raw:header\n",
            "raw",
        ),
    ] {
        match plan(&format!("{CONNECT}{options}")) {
            Err(PlanError::Unfit { column: refused, .. }) => assert_eq!(refused, column, "{options}"),
            other => panic!("{options}: {other:?}"),
        }
    }
    let missing = plan(&format!("{CONNECT}transforms.o.table.fields.additional.placement=gone:header\n"));
    assert_eq!(missing, Err(PlanError::Missing(vec!["gone".to_owned()])));
    let ignored = "transforms.o.table.fields.additional.placement=gone:header\n\
                   transforms.o.table.field.additional.missing=ignore\n";
    assert!(plan(&format!("{CONNECT}{ignored}")).is_ok());
}

#[test]
fn the_envelopes_of_several_tables_have_one_schema() {
    let placed = "transforms.o.table.fields.additional.placement=no:envelope:n,type:header\n";
    let shown = contract(&format!("{CONNECT}{JSON}{placed}"));
    let [one, two] = ["one", "two"].map(|table| plan_of(&shown, table, None).expect(table));
    for plan in [two, one] {
        let event = event_of(&plan, &[]);
        let value = text(event.value.as_ref()).expect("a value");
        assert!(value.contains(r#""name":"shop.public.two.Order.Value""#), "{value}");
    }
    for (converter, over, refused) in [
        (JSON, ("no", "8"), true),
        (PLAIN, ("no", "8"), true),
        // In a header each has its own.
        (JSON, ("type", "'x'::text"), false),
    ] {
        let contract = contract(&format!("{CONNECT}{converter}{placed}"));
        assert!(plan_of(&contract, "one", None).is_ok());
        match plan_of(&contract, "two", Some(over)) {
            Err(PlanError::Unfit { column, why }) if refused => {
                assert!(column == "n" && why.contains("public.one"), "{column} {why}");
            }
            other => assert!(other.is_ok() && !refused, "{other:?}"),
        }
        assert!(plan_of(&contract, "one", Some(over)).is_ok(), "changed while it runs");
    }
}
