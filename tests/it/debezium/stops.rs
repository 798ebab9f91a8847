//! What real Debezium stops at: such rows are in no comparison, and docs/migrate.md says what Walpost does with them.

use super::lab::{LONGEST, Lab, create_slot};
use crate::support::eventually;

struct Stop {
    name: &'static str,
    /// Lines of the file beside the usual ones.
    lines: &'static str,
    /// Of one row: the routing column, the payload.
    row: (&'static str, &'static str),
    /// In what the task says when it fails.
    says: &'static str,
}

const EXPANDED: &str = "transforms.outbox.table.expand.json.payload=true\n";

const STOPS: [Stop; 8] = [
    Stop {
        name: "beyond_int64",
        lines: EXPANDED,
        row: ("'order'", r#"{"n":12345678901234567890}"#),
        says: "Invalid type for STRUCT",
    },
    Stop { name: "array_on_top", lines: EXPANDED, row: ("'order'", "[1]"), says: "Invalid type for ARRAY" },
    Stop {
        name: "two_types",
        lines: EXPANDED,
        row: ("'order'", r#"[{"x":1},{"x":"s"}]"#),
        says: "Invalid type for ARRAY",
    },
    Stop { name: "no_route", lines: "", row: ("NULL", "{}"), says: "NullPointerException" },
    Stop {
        name: "no_such_key",
        lines: "transforms.outbox.table.field.event.key=nothing\n",
        row: ("'order'", "{}"),
        says: "nothing is not a valid field name",
    },
    Stop {
        name: "zoned_time",
        lines: "transforms.outbox.table.field.event.timestamp=zoned\n",
        row: ("'order'", "{}"),
        says: "is not of type INT64",
    },
    Stop {
        name: "no_number",
        lines: "event.converting.failure.handling.mode=fail\n",
        row: ("'order'", "{}"),
        says: "Failed to properly convert data value",
    },
    Stop {
        name: "never_null",
        lines: "",
        row: ("'order'", "{}"),
        says: "null used for required field: \"sure\"",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn debezium_stops_at_these_rows() {
    let lab = Lab::shared().await;
    let database = lab.server.create_database("stops").await;
    let client = database.client().await;
    for Stop { name, row: (route, payload), .. } in &STOPS {
        let sql = format!(
            "CREATE TABLE {name} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text, \
             type text, zoned timestamptz DEFAULT now(), payload jsonb, sure numeric(12,2) NOT NULL, \
             odd numeric(12,2)); CREATE PUBLICATION of_{name} FOR TABLE {name}"
        );
        client.batch_execute(&sql).await.unwrap();
        create_slot(&client, &format!("stop_{name}"), "pgoutput").await;
        let sure = if *name == "never_null" { "'NaN'" } else { "1" };
        let sql = format!(
            "INSERT INTO {name} (aggregatetype, aggregateid, type, payload, sure, odd) VALUES ({route}, '1', 't', '{payload}', \
             {sure}, 'NaN')"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let place = lab.place(&database);
    for Stop { name, lines, .. } in &STOPS {
        let connector = format!("stop_{name}");
        let text = format!(
            "name={connector}\n{}publication.name=of_{name}\npublication.autocreate.mode=disabled\n\
             table.include.list=public.{name}\ntransforms=outbox\n\
             transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
             transforms.outbox.route.topic.replacement=stop.${{routedByValue}}\n{lines}",
            place.source(&connector, &connector)
        );
        lab.connect.add(&text).await;
    }
    for Stop { name, says, .. } in &STOPS {
        let connector = format!("stop_{name}");
        let failure = eventually(&format!("{name} to stop Debezium"), LONGEST, async || {
            lab.connect.failure(&connector).await
        })
        .await;
        assert!(failure.contains(says), "{name}: {failure}");
        lab.connect.stop(&connector).await;
    }
}
