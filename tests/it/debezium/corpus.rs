//! Outbox tables and odd rows for them: what both relays read.

use std::fmt::Write;

use crate::support::Database;

/// A table of the router: its name, its payload's type, and the payloads that come into it.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    payload: &'static str,
    payloads: &'static [&'static [&'static str]],
}

/// The columns beside the router's own, with the values that they take in turn. The numbers of values have no factor in
/// common with each other where it matters, so that many pairs come about.
const COLUMNS: [(&str, &str, &[&str]); 17] = [
    ("aggregatetype", "varchar(255) NOT NULL", &["'order'", "'Customer'", "'invoice.line'"]),
    ("aggregateid", "varchar(255)", KEYS),
    ("type", "varchar(255)", &["'OrderPaid'", "''", "NULL", "'Zürich 🎉'", "'true'", "'42'", "'null'"]),
    ("flag", "boolean", &["true", "false", "NULL"]),
    ("small", "int2", &["0", "-32768", "32767", "NULL"]),
    ("medium", "int4", &["-2147483648", "2147483647", "NULL", "5", "0"]),
    ("big", "int8", &["-9223372036854775808", "9223372036854775807", "NULL", "0", "1709686920244"]),
    (
        "amount",
        "numeric(12,2)",
        // The converter has nothing for NaN, and the row goes on without it.
        &["3.69", "-1", "0", "NULL", "9999999999.99", "-9999999999.99", "1.28", "-1.28", "'NaN'"],
    ),
    ("happened", "timestamp", TIMES),
    (
        "seen",
        "timestamptz",
        &["'2024-03-01 05:00:04.128451+00'", "NULL", "'1969-12-31 23:59:59+02'", "'2024-06-30T12:00Z'"],
    ),
    ("day", "date", &["'2024-02-29'", "'1969-12-31'", "NULL", "'1970-01-01'", "'2200-01-01'"]),
    ("tags", "text[]", &["'{}'", "'{a,NULL,b}'", "NULL", r#"'{"x y","q\"q","ü🎉",""}'"#, "'[0:1]={a,b}'"]),
    ("mood", "mood", &["'glad'", "'sad'", "NULL", "'so so'"]),
    // A NULL here comes out as the default.
    ("note", "text DEFAULT 'none'", &["'n'", "NULL", "''", "'two\nlines'"]),
    ("level", "int4 DEFAULT 7", &["1", "NULL", "0"]),
    // The time of a record may be neither before 1970 nor in the future; librdkafka takes 0 for none.
    (
        "written",
        "timestamp NOT NULL",
        &["'2024-03-01 05:00:04.128951'", "'1970-01-01 00:00:00.001'", "'2001-09-09 01:46:39.999999'"],
    ),
    ("place", "int4 NOT NULL", &["0", "3", "1", "2", "1"]),
];

const KEYS: &[&str] = &[
    "'a'",
    "'42'",
    "'customer-7'",
    "''",
    "' '",
    "'ü'",
    "'🎉'",
    r#"'quote " back \ slash / <b> & '''"#,
    "E'\\u0001\\t\\n\\u007f'",
    "'null'",
    "'00000000-0000-4000-8000-000000000001'",
];

const TIMES: &[&str] = &[
    "'2024-03-01 05:00:04.128451'",
    "'1969-12-31 23:59:59.999999'",
    "NULL",
    "'1970-01-01'",
    "'2038-01-19 03:14:08.5'",
    "'infinity'",
];

/// JSON whose text is the same whether it is expanded or not, and more.
const DOCUMENTS: &[&str] = &[
    r#"{"a": 1}"#,
    r#"{"b":2,"a":1,"bb":[1,2,3],"aa":{"x":null}}"#,
    r#"{"n":[0,-1,2147483648,9223372036854775807,-9223372036854775808]}"#,
    r#"{"n":1.10,"e":1e-7,"f":0.0001,"g":12345678.9,"z":-0.0,"h":100000000000000000000.5}"#,
    r#"{"nested":{"a":[],"b":{},"c":null,"d":[{"x":1},{"x":2}]}}"#,
    r#"{"empty":"","blank":" ","t":true,"f":false,"nothing":null}"#,
    r#"{"text":"ü ß – 漢字 🎉 𝄞","u":"\u00e9\ud83c\udf89"}"#,
    r#"{"control":"\u0001\u001f\u007f\b\f\n\r\t","slash":"/ <b> & ' \" \\"}"#,
    r#"{"separators":"\u2028\u2029\ufeff\u00a0\u200b","": "empty name"}"#,
    r#"{"key with space":1,"ключ":2,"🎉":3,"a.b":4,"a-b":5,"$":6,"1":7}"#,
    r#"{"deep":{"a":{"b":{"c":{"d":{"e":[[1],[2]]}}}}}}"#,
    r#"{"mixed":[1,"x",null,true]}"#,
    r#"{"same":1,"same":2}"#,
    "  { \"spaces\" :\t1 ,\n\"lines\":[ 1 , 2 ] }  ",
    "{}",
    "42",
    r#""text""#,
    "true",
    "null",
];
/// What JSON without a schema takes, and what stops the router where it expands.
const UNEXPANDED: &[&str] = &[
    "[]",
    "[1,2]",
    r#"[{"x":1},{"y":"s"}]"#,
    "12345678901234567890",
    r#"{"big":123456789012345678901234567890,"e":1e22,"huge":1e400}"#,
];
const TEXTS: &[&str] = &[
    "plain",
    "",
    " ",
    " \t\r\n",
    "\u{a0}",
    "not {json",
    "\"quoted\"",
    "ü ß – 漢字 🎉 𝄞 \u{10ffff}",
    "\u{1}\u{1f}\u{7f}\u{80}\u{2028}\u{2029}\u{feff}\u{fffd}",
    "/ <b> & ' \" \\ \\n %20 ${x} {a}",
];
/// What the router makes a structure of.
const EXPANDED: &[&str] = &[
    r#"{"a":null}"#,
    r#"{"b":{"c":null,"d":[]}}"#,
    r#"{"l":[null,1],"m":[{"x":null},{"x":1}],"n":[null]}"#,
    r#"{"int":2147483647,"long":2147483648,"less":-2147483649,"double":1.5,"whole":2.0}"#,
    r#"{"d":[1e3,0.001,1e7,1.0e7,9999999.5,123456789.125,1e-3,4.9e-324,1.7976931348623157e308]}"#,
    r#"{"mixed":[1,2.5],"kept":1}"#,
    r#"{"arrays":[[],[1]]}"#,
    r#"{"o":[{"a":1,"b":"x"},{"a":2,"b":"y"}]}"#,
    r#"{"bools":[true,false],"strings":["","x"],"objects":[{},{}]}"#,
    r#"{"long list":[2147483648,1]}"#,
    r#"{"list":[1,2147483648]}"#,
];

pub(crate) const TABLES: [Table; 7] = [
    Table { name: "outboxevent", payload: "jsonb", payloads: &[DOCUMENTS, UNEXPANDED] },
    Table { name: "outbox_json", payload: "json", payloads: &[DOCUMENTS, UNEXPANDED] },
    Table { name: "outbox_text", payload: "text", payloads: &[TEXTS, DOCUMENTS] },
    Table { name: "outbox_varchar", payload: "varchar(4000)", payloads: &[TEXTS] },
    Table { name: "outbox_bytes", payload: "bytea", payloads: &[TEXTS, DOCUMENTS] },
    Table { name: "outbox_expanded", payload: "jsonb", payloads: &[DOCUMENTS, EXPANDED] },
    Table { name: "outbox_json_expanded", payload: "json", payloads: &[DOCUMENTS, EXPANDED] },
];

/// Each payload comes so often, with other neighbours.
const ROUNDS: usize = 3;

/// Another outbox, whose columns have other names and types, and become wider between its rows.
pub(crate) const RENAMED: &str = "CREATE TABLE journal (event_id uuid PRIMARY KEY, entity text NOT NULL, entity_key bigint, \
    kind text, body uuid, stamp timestamp(3) NOT NULL, generation int4 DEFAULT 7, worth numeric(6,2), \
    happened timestamp)";

const WIDER: &str = "ALTER TABLE journal ALTER stamp TYPE timestamp, ALTER worth TYPE numeric(9,4)";

const RENAMED_ROWS: &str = "INSERT INTO journal SELECT \
    overlay('00000000-0000-4000-8000-000000000000' PLACING to_char(n, 'FM0000') FROM 33)::uuid, \
    (ARRAY['shop.order', 'shop.customer', 'connect_routed.rest'])[n % 3 + 1], \
    (ARRAY[n, -n, 9223372036854775807, -9223372036854775808, 0])[n % 5 + 1], 'kind ' || n, \
    CASE WHEN n % 7 > 0 THEN md5(n::text)::uuid END, '2024-03-01 05:00:04.128451'::timestamp + n * '1.7 s'::interval, \
    CASE WHEN n % 5 > 0 THEN n % 4 END, n / 8.0, \
    (ARRAY['infinity', '2024-03-01 05:00:04.128451', '2262-04-12', '-infinity', NULL]::timestamp[])[n % 5 + 1] FROM generate_series($1::int, $2::int) n";

/// Makes the tables; publications and slots come after it and before the rows.
pub(crate) async fn create(database: &Database) {
    let client = database.client().await;
    let mut sql = format!("CREATE TYPE mood AS ENUM ('glad', 'sad', 'so so'); {RENAMED};");
    for table in &TABLES {
        let columns: String = COLUMNS.iter().map(|(name, kind, _)| format!(", {name} {kind}")).collect();
        write!(sql, "CREATE TABLE {} (id uuid PRIMARY KEY{columns}, payload {});", table.name, table.payload)
            .unwrap();
    }
    client.batch_execute(&sql).await.unwrap();
}

/// Writes the rows, and what must give none.
pub(crate) async fn fill(database: &Database) {
    let client = database.client().await;
    client.execute(RENAMED_ROWS, &[&1, &30]).await.unwrap();
    client.batch_execute(WIDER).await.unwrap();
    client.execute(RENAMED_ROWS, &[&31, &60]).await.unwrap();
    for table in &TABLES {
        // One by one and a few in one transaction: both are commits that relays see.
        for (number, rows) in table.rows().chunks(5).enumerate() {
            let sql = rows.join(";");
            let sql = if number % 2 == 0 { format!("BEGIN; {sql}; COMMIT") } else { sql };
            client
                .batch_execute(&sql)
                .await
                .unwrap_or_else(|error| panic!("{}: {error:?}\n{sql}", table.name));
        }
        client.batch_execute(&table.silence()).await.unwrap();
    }
    // Of several tables, in turn, in one transaction and in several.
    for number in 7000..7030 {
        let rows: Vec<String> = TABLES.iter().map(|table| table.row(number, Some("{}"), &[])).collect();
        let sql = rows.join(";");
        let sql = if number % 2 == 0 { format!("BEGIN; {sql}; COMMIT") } else { sql };
        client.batch_execute(&sql).await.unwrap();
    }
}

impl Table {
    fn rows(&self) -> Vec<String> {
        let payloads: Vec<&str> = self.payloads.iter().copied().flatten().copied().collect();
        let mut rows: Vec<String> = (0..payloads.len() * ROUNDS)
            // The rounds are shifted against the other columns.
            .map(|number| {
                self.row(number, Some(payloads[(number + number / payloads.len() * 4) % payloads.len()]), &[])
            })
            .collect();
        let more = rows.len();
        rows.extend((0..6).map(|number| self.row(more + number, None, &[])));
        let keyless = [("aggregatetype", "'keyless'"), ("aggregateid", "NULL"), ("place", "0")];
        rows.extend((6..16).map(|number| {
            self.row(
                more + number,
                Some(payloads[number % payloads.len()]).filter(|_| number % 4 > 0),
                &keyless,
            )
        }));
        // Compressed and stored elsewhere, yet whole in the log.
        let long = format!("{{\"long\": \"{}\"}}", "0123456789 ü🎉".repeat(12_000));
        if !self.payload.starts_with("varchar") {
            rows.push(self.row(more + 16, Some(&long), &[]));
        }
        rows
    }

    /// An INSERT of the row of that number; what is in `fixed` stays out of the turn.
    fn row(&self, number: usize, payload: Option<&str>, fixed: &[(&str, &str)]) -> String {
        let values: String = COLUMNS
            .iter()
            .map(|(name, _, values)| {
                let given = fixed.iter().find(|(it, _)| it == name).map(|(_, value)| *value);
                format!(", {}", given.unwrap_or(values[number % values.len()]))
            })
            .collect();
        let payload = payload.map_or_else(|| "NULL".to_owned(), |text| self.literal(text, number));
        format!("INSERT INTO {} VALUES ('{}'{values}, {payload})", self.name, id(number))
    }

    fn literal(&self, text: &str, number: usize) -> String {
        let quoted = text.replace('\'', "''");
        match self.payload {
            // Each third is no text at all.
            "bytea" if number % 3 == 1 => {
                format!("decode('00ff80c3fe', 'hex') || convert_to('{quoted}', 'UTF8')")
            }
            "bytea" => format!("convert_to('{quoted}', 'UTF8')"),
            _ => format!("'{quoted}'"),
        }
    }

    /// Updates, deletes, and what is rolled back; the last row of all is one that counts.
    fn silence(&self) -> String {
        let (name, payload) = (self.name, Some("{}"));
        let row = |number| self.row(number, payload, &[]);
        format!(
            "UPDATE {name} SET type = 'changed', note = NULL WHERE id = '{}'; DELETE FROM {name} WHERE id = '{}'; \
             BEGIN; {}; ROLLBACK; BEGIN; {}; SAVEPOINT one; {}; ROLLBACK TO one; {}; SAVEPOINT two; {}; RELEASE two; COMMIT; \
             BEGIN; {}; UPDATE {name} SET level = 9 WHERE id = '{}'; DELETE FROM {name} WHERE id = '{}'; COMMIT; \
             TRUNCATE {name}; {}",
            id(0),
            id(1),
            row(9000),
            row(9001),
            row(9002),
            row(9003),
            row(9004),
            row(9005),
            id(9005),
            id(9005),
            row(9999),
        )
    }
}

fn id(number: usize) -> String {
    format!("00000000-0000-4000-8000-00000000{number:04}")
}
