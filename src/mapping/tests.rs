use super::*;

fn walpost(over: &[(&str, &'static str)]) -> Result<Mapping, WrongEntry> {
    let preset = Preset::named("walpost").expect("the preset");
    preset.mapping(|entry| over.iter().find(|(name, _)| *name == entry).map(|(_, text)| *text))
}

fn template(text: &str) -> Template {
    Template::parse(text).expect(text)
}

#[test]
fn every_preset_can_be_read() {
    assert!(Preset::names().contains(&"walpost"));
    for file in PRESETS.files() {
        let text = file.contents_utf8().expect("UTF-8");
        let preset =
            Preset::parse("x", text).unwrap_or_else(|why| panic!("{}: {why}", file.path().display()));
        preset.mapping(|_| None).unwrap_or_else(|wrong| panic!("{}: {wrong:?}", file.path().display()));
        assert!(preset.table().is_some() || text.contains("--table"), "{}", file.path().display());
    }
}

#[test]
fn the_default_is_the_table_that_setup_makes() {
    let mapping = Mapping::walpost();
    assert_eq!(mapping.topic, template("{topic}"));
    assert!(mapping.own_headers && mapping.only.is_empty() && mapping.partition.is_none());
    assert_eq!(mapping.timestamp, Timestamp::Column(template("{created_at?}"), Unit::Millis));
}

#[test]
fn what_is_set_goes_over_the_preset_entry_by_entry() {
    let mapping = walpost(&[
        ("topic", "orders"),
        ("key", "none"),
        ("timestamp", "commit"),
        ("value", "object(type={event_type}, data={payload})"),
        ("headers", "id={id}, trace?={headers.traceparent}, {headers}, {keys}={values}, v=1"),
        ("only", "status=PENDING|FAILED, sent_at="),
        ("due", "{at} us"),
        ("own_headers", "no"),
    ])
    .expect("a mapping");
    assert_eq!(
        (mapping.topic, mapping.key, mapping.timestamp),
        (template("orders"), None, Timestamp::Commit)
    );
    let members = [("type", "{event_type}"), ("data", "{payload}")];
    let members = members.map(|(name, text)| (name.to_owned(), template(text)));
    assert_eq!(mapping.value, Some(Value::Object(members.into())));
    let column = |name: &str| Source { column: name.to_owned(), optional: false, members: vec![] };
    let named = |name: &str, omitted, text| HeaderRule::Named {
        name: name.to_owned(),
        omitted,
        value: template(text),
    };
    let headers = [
        named("id", false, "{id}"),
        named("trace", true, "{headers.traceparent}"),
        HeaderRule::Object(column("headers")),
        HeaderRule::Pairs { names: column("keys"), values: column("values") },
        named("v", false, "1"),
    ];
    assert_eq!(mapping.headers, headers);
    let only =
        [("status", vec![Some("PENDING".to_owned()), Some("FAILED".to_owned())]), ("sent_at", vec![None])];
    assert_eq!(
        mapping.only,
        only.map(|(column, is)| Condition { column: column.to_owned(), optional: false, is })
    );
    assert_eq!(mapping.due, Some((column("at"), Unit::Micros)));
    assert!(!mapping.own_headers && mapping.event_type == Some(template("{event_type?}")));
}

#[test]
fn a_value_may_be_compact_json() {
    let mapping = walpost(&[("value", "compact({payload})")]).expect("a mapping");
    assert_eq!(mapping.value, Some(Value::Compact(template("{payload}"))));
}

#[test]
fn units_of_time_are_known() {
    for (text, unit) in [
        ("{t} s", Unit::Seconds),
        ("{t}", Unit::Millis),
        ("{t} ms", Unit::Millis),
        ("{t} us", Unit::Micros),
        ("{t} ns", Unit::Nanos),
    ] {
        let mapping = walpost(&[("timestamp", text)]).expect(text);
        assert_eq!(mapping.timestamp, Timestamp::Column(template("{t}"), unit), "{text}");
    }
}

#[test]
fn a_wrong_entry_is_named_with_the_reason() {
    for (entry, text, reason) in [
        ("topic", "none", "a record without a topic"),
        ("topic", "{", "a column's name is missing"),
        ("topic", "my orders", "no topic's name has the character ' '"),
        ("topic", "{a}/x", "no topic's name has the character '/'"),
        ("topic", "..", "no topic has that name"),
        ("timestamp", "{t} min", "`min` is no unit of time"),
        ("headers", "a-{b}", "is not one column"),
        ("headers", "={b}", "has no name"),
        ("headers", "{a}={b}{c}", "is not one column"),
        ("value", "object(a)", "is not of the form name={column}"),
        ("only", "status", "is not of the form column=text|text"),
        ("only", "=x", "is not of the form column=text|text"),
        ("only", "a?=x", "a column that may be missing is null"),
        ("due", "commit", "not one column"),
        ("due", "{a}{b}", "not one column"),
        ("due", "{a.b}", "not one column"),
        ("own_headers", "true", "neither yes nor no"),
    ] {
        let text: &'static str = text;
        let wrong = walpost(&[(entry, text)]).expect_err(text);
        assert!(wrong.entry == entry && wrong.why.contains(reason), "{entry} {text}: {wrong:?}");
    }
}
