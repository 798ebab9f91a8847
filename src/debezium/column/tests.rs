use super::*;

fn facts(type_oid: u32, declared: &str) -> ColumnFacts {
    let name = declared.to_owned();
    let (modifier, nullable, default, labels) = (-1, true, None, Vec::new());
    ColumnFacts { type_oid, type_name: name.clone(), declared: name, modifier, nullable, default, labels }
}

fn json(datum: &Datum) -> String {
    let mut out = String::new();
    datum.push_json(&mut out, false);
    out
}

/// The value of a text as JSON, and the name of its schema without `io.debezium.`.
fn seen(facts: &ColumnFacts, modes: Modes, text: &str) -> (String, String) {
    let column = Column::of(facts, &modes).expect("a column");
    let name = column.schema.name.clone().unwrap_or_default();
    let name = name.strip_prefix("io.debezium.").unwrap_or(&name).to_owned();
    (column.read(Some(text)).as_ref().map_or_else(|| "none".to_owned(), json), name)
}

#[test]
fn values_of_all_types_are_those_of_the_connector() {
    let numeric = |modifier| ColumnFacts { modifier, ..facts(1700, "numeric") };
    let mood = ColumnFacts { labels: vec!["sad".to_owned(), "glad".to_owned()], ..facts(90_001, "mood") };
    for (facts, text, value, name) in [
        (facts(16, "bool"), "t", "true", ""),
        (facts(21, "int2"), "-3", "-3", ""),
        (facts(23, "int4"), "x", "none", ""),
        (facts(20, "int8"), "190", "190", ""),
        (facts(700, "float4"), "1.1", "1.1", ""),
        (facts(701, "float8"), "1e-07", "1.0E-7", ""),
        (facts(701, "float8"), "-Infinity", "\"-Infinity\"", ""),
        (numeric(((12 << 16) | 2) + 4), "6.25", "\"AnE=\"", "org.apache.kafka.connect.data.Decimal"),
        (numeric(-1), "6.250", "{\"scale\":2,\"value\":\"AnE=\"}", "data.VariableScaleDecimal"),
        (numeric(-1), "NaN", "null", "data.VariableScaleDecimal"),
        (numeric(((12 << 16) | 2) + 4), "-Infinity", "null", "org.apache.kafka.connect.data.Decimal"),
        (facts(1231, "_numeric"), "{1,NaN}", "null", ""),
        (facts(1009, "_text"), "[-1:0]={a,b}", "[\"a\",\"b\"]", ""),
        (facts(1009, "_text"), "{{a},{b}}", "none", ""),
        (facts(25, "text"), "é", "\"é\"", ""),
        (facts(2950, "uuid"), "1cf5", "\"1cf5\"", "data.Uuid"),
        (facts(3802, "jsonb"), "{\"a\": 1}", r#""{\"a\": 1}""#, "data.Json"),
        (facts(17, "bytea"), "\\x00ff", "\"AP8=\"", ""),
        (facts(1082, "date"), "2024-03-01", "19783", "time.Date"),
        (facts(1082, "date"), "infinity", "-2147472692", "time.Date"),
        (facts(1083, "time"), "05:00:04.5", "18004500000", "time.MicroTime"),
        (facts(1266, "timetz"), "07:00:04.5+02", "\"05:00:04.5Z\"", "time.ZonedTime"),
        (facts(1114, "timestamp"), "2024-03-01 05:00:04.128451", "1709269204128451", "time.MicroTimestamp"),
        (
            facts(1184, "timestamptz"),
            "2024-03-01 05:00:04.128451+00",
            "\"2024-03-01T05:00:04.128451Z\"",
            "time.ZonedTimestamp",
        ),
        (
            facts(1184, "timestamptz"),
            "2024-03-01 05:00:04+00",
            "\"2024-03-01T05:00:04.000000Z\"",
            "time.ZonedTimestamp",
        ),
        (facts(1184, "timestamptz"), "infinity", "\"infinity\"", "time.ZonedTimestamp"),
        (facts(1009, "_text"), "{a,NULL,\"b c\"}", "[\"a\",null,\"b c\"]", ""),
        (facts(1007, "_int4"), "{1,2}", "[1,2]", ""),
        (facts(869, "inet"), "10.0.0.1", "\"10.0.0.1\"", ""),
        (facts(90_002, "citext"), "A", "\"A\"", ""),
        (mood, "glad", "\"glad\"", "data.Enum"),
    ] {
        assert_eq!(seen(&facts, Modes::default(), text), (value.to_owned(), name.to_owned()), "{facts:?}");
    }
    for refused in
        [(1186, "interval"), (600, "point"), (19, "name"), (1560, "bit"), (790, "money"), (1183, "_time")]
    {
        assert_eq!(Column::of(&facts(refused.0, refused.1), &Modes::default()), Err(refused.1.to_owned()));
    }
}

#[test]
fn modes_choose_the_form() {
    let of = |decimals, precision, binary| Modes { decimals, precision, binary, ..Modes::default() };
    let (time, stamp) = (facts(1083, "time"), facts(1114, "timestamp"));
    let (short, price) = (ColumnFacts { modifier: 3, ..stamp.clone() }, facts(1700, "numeric"));
    let (default, at) = (Modes::default(), "2024-03-01 05:00:04.128");
    for (facts, modes, text, value, name) in [
        (&price, of(Decimals::Text, default.precision, default.binary), "6.250", "\"6.250\"", ""),
        (&price, of(Decimals::Text, default.precision, default.binary), "NaN", "\"NAN\"", ""),
        (&price, of(Decimals::Double, default.precision, default.binary), "6.250", "6.25", ""),
        (&short, default, at, "1709269204128", "time.Timestamp"),
        (
            &time,
            of(default.decimals, Precision::Nanoseconds, default.binary),
            "00:00:01",
            "1000000000",
            "time.NanoTime",
        ),
        (
            &stamp,
            of(default.decimals, Precision::Connect, default.binary),
            at,
            "1709269204128",
            "org.apache.kafka.connect.data.Timestamp",
        ),
        (
            &stamp,
            of(default.decimals, Precision::IsoString, default.binary),
            at,
            "\"2024-03-01T05:00:04.128Z\"",
            "time.IsoTimestamp",
        ),
        (
            &facts(1082, "date"),
            of(default.decimals, Precision::IsoString, default.binary),
            "2024-03-01",
            "\"2024-03-01Z\"",
            "time.IsoDate",
        ),
        (
            &facts(17, "bytea"),
            of(default.decimals, default.precision, Binary::Hex),
            "\\x0aff",
            "\"0aff\"",
            "",
        ),
        (
            &facts(17, "bytea"),
            of(default.decimals, default.precision, Binary::Base64UrlSafe),
            "\\xfbfffe",
            "\"-__-\"",
            "",
        ),
    ] {
        assert_eq!(seen(facts, modes, text), (value.to_owned(), name.to_owned()), "{facts:?} {modes:?}");
    }
}

/// A value that the connector's converter does not take is null, or the default, unless it stops.
#[test]
fn what_can_not_be_converted_is_absent_or_stops() {
    let price = ColumnFacts { modifier: ((12 << 16) | 2) + 4, ..facts(1700, "numeric") };
    let (sure, stamp) = (ColumnFacts { nullable: false, ..price.clone() }, facts(1114, "timestamp"));
    let by_default =
        |facts: &ColumnFacts, text: &str| ColumnFacts { default: Some(text.to_owned()), ..facts.clone() };
    let stop = Modes { failures: Failures::Stop, ..Modes::default() };
    let nanos = Modes { precision: Precision::Nanoseconds, ..Modes::default() };
    let stop_nanos = Modes { failures: Failures::Stop, ..nanos };
    for (facts, modes, text, expected) in [
        (price.clone(), Modes::default(), "NaN", "null"),
        (by_default(&price, "1.5"), Modes::default(), "Infinity", "\"AJY=\""),
        (by_default(&sure, "1.5"), Modes::default(), "NaN", "\"AJY=\""),
        (sure.clone(), Modes::default(), "NaN", "none"),
        (price, stop, "NaN", "none"),
        (by_default(&sure, "1.5"), stop, "NaN", "none"),
        (stamp.clone(), nanos, "infinity", "9223372036854775807"),
        (stamp.clone(), nanos, "-infinity", "-9223372036854775808"),
        (stamp.clone(), nanos, "2262-04-12 00:00:00", "null"),
        (stamp.clone(), nanos, "2262-04-11 23:00:00", "9223369200000000000"),
        // There the converter gives null by itself.
        (stamp.clone(), stop_nanos, "1677-01-01 00:00:00", "null"),
        (ColumnFacts { nullable: false, ..stamp.clone() }, nanos, "2262-04-12 00:00:00", "none"),
        (facts(1115, "_timestamp"), nanos, "{\"2262-04-12 00:00:00\",NULL}", "[null,null]"),
        (stamp, nanos, "yesterday", "none"),
    ] {
        assert_eq!(seen(&facts, modes, text).0, expected, "{text} {modes:?} {facts:?}");
    }
}

#[test]
fn defaults_are_those_that_the_connector_understands() {
    let mood = ColumnFacts { labels: vec!["sad".to_owned()], ..facts(90_001, "mood") };
    for (facts, expression, expected) in [
        (facts(25, "text"), "'none'::text", Some("\"none\"")),
        (facts(25, "text"), "'it''s'::text", Some("\"it\"")),
        (facts(25, "text"), "lower('X'::text)", Some("\"\"")),
        (facts(25, "text"), "CURRENT_USER", Some("\"CURRENT_USER\"")),
        (facts(25, "text"), "NULL::text", None),
        (facts(23, "int4"), "7", Some("7")),
        (facts(23, "int4"), "'-1'::integer", Some("-1")),
        (facts(23, "int4"), "(1 + 1)", None),
        (facts(20, "int8"), "nextval('a_seq'::regclass)", Some("0")),
        (facts(16, "bool"), "true", Some("true")),
        (facts(2950, "uuid"), "gen_random_uuid()", Some("\"00000000-0000-0000-0000-000000000000\"")),
        (facts(3802, "jsonb"), "'{}'::jsonb", Some("\"{}\"")),
        (facts(1184, "timestamptz"), "now()", Some("\"1970-01-01T00:00:00.000000Z\"")),
        (facts(1184, "timestamptz"), "CURRENT_TIMESTAMP", Some("\"1970-01-01T00:00:00.000000Z\"")),
        (facts(1114, "timestamp"), "(now() AT TIME ZONE 'utc'::text)", Some("0")),
        (facts(1082, "date"), "CURRENT_DATE", Some("0")),
        (facts(1083, "time"), "LOCALTIME", Some("0")),
        (ColumnFacts { modifier: ((12 << 16) | 2) + 4, ..facts(1700, "numeric") }, "1.5", Some("\"AJY=\"")),
        (facts(1700, "numeric"), "1.5", None),
        (facts(17, "bytea"), "'\\x00'::bytea", None),
        (facts(1009, "_text"), "'{}'::text[]", None),
        (mood.clone(), "'sad'::mood", Some("\"sad\"")),
        (mood.clone(), "'sad'::public.mood", Some("\"sad\"")),
        (mood, "f()", None),
    ] {
        let facts = ColumnFacts { default: Some(expression.to_owned()), ..facts };
        let column = Column::of(&facts, &Modes::default()).expect("a column");
        assert_eq!(column.schema.default.as_ref().map(json).as_deref(), expected, "{expression}");
    }
}
