//! Rows in the log, behind a slot that is copied for each run, so that all runs read the very same bytes.

use std::process::Command;

use tokio_postgres::Client;

use crate::lab::Lab;
use crate::support::walpost::Builder;
use crate::support::{Database, unique};
use crate::topic::Topic;
use crate::workloads::{Kind, Workload};

pub(crate) struct Backlog<'a> {
    lab: &'a Lab,
    pub(crate) database: Database,
    pub(crate) client: Client,
    pub(crate) topic: Topic,
    base: String,
    binary: bool,
    /// Beyond what brokers and librdkafka take unless told otherwise.
    large: bool,
    /// Where the last commit ends.
    end: String,
}

impl<'a> Backlog<'a> {
    /// An outbox with a slot and without a row.
    pub(crate) async fn empty(lab: &'a Lab, workload: &Workload) -> Backlog<'a> {
        let database = lab.server.create_database("bench").await;
        let (client, base) = (database.client().await, unique("base"));
        let output = lab.walpost(&database.url, &unique("setup"), ["setup"]).output().await;
        assert!(output.status.success(), "{output:?}");
        if workload.text {
            // A type that is not built in has no binary form that a relay could know; then all columns come as text.
            let sql = "CREATE TYPE kind AS ENUM ('placed');
                       ALTER TABLE outbox.messages ALTER COLUMN event_type TYPE kind USING NULL";
            client.batch_execute(sql).await.unwrap();
        }
        if matches!(workload.kind, Kind::Slots) {
            // Before the first row: a reader finds a publication only if it is older than what is read.
            for (name, half) in [("even", 0), ("odd", 1)] {
                let filter = format!("abs(hashtext(key)) % 2 = {half}");
                let sql = format!(
                    "CREATE PUBLICATION walpost_{name} FOR TABLE outbox.messages WHERE ({filter}) WITH (publish = 'insert')"
                );
                client.batch_execute(&sql).await.unwrap();
            }
        }
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();
             SELECT pg_create_logical_replication_slot('{base}', 'pgoutput')"
        );
        client.batch_execute(&sql).await.unwrap();
        let topic = Topic::create(lab, workload.partitions).await;
        let large = workload.payload > LARGE;
        if large {
            topic.set_largest(LARGEST).await;
        }
        Backlog { lab, database, client, topic, base, binary: !workload.text, large, end: String::new() }
    }

    pub(crate) async fn full(lab: &'a Lab, workload: &Workload) -> Backlog<'a> {
        let mut backlog = Self::empty(lab, workload).await;
        backlog.client.batch_execute(&fill(workload, &backlog.topic.name)).await.unwrap();
        let end = "SELECT pg_current_wal_insert_lsn()::text";
        backlog.end = backlog.client.query_one(end, &[]).await.unwrap().get(0);
        // The log is on disk, and no page is left that somebody would write while a run is measured.
        backlog.client.batch_execute("CHECKPOINT").await.unwrap();
        backlog
    }

    /// A copy of the slot as it was before the first row.
    pub(crate) async fn slot(&self) -> String {
        let slot = unique("run");
        let sql = format!("SELECT pg_copy_logical_replication_slot('{}', '{slot}')", self.base);
        self.client.batch_execute(&sql).await.unwrap();
        slot
    }

    /// Whose reader has gone or is about to.
    pub(crate) async fn drop_slot(&self, slot: &str) {
        crate::support::eventually("the slot to be free", crate::support::PATIENCE, async || {
            let sql = format!("SELECT pg_drop_replication_slot('{slot}')");
            self.client.batch_execute(&sql).await.ok()
        })
        .await;
    }

    pub(crate) fn relay(&self, slot: &str) -> Builder {
        let largest = format!("message.max.bytes={LARGEST}");
        let more: &[&str] = if self.large { &["-X", &largest] } else { &[] };
        self.lab.walpost(&self.database.url, slot, ["run"]).args(more)
    }

    /// The same stream as the relay asks for, up to the last commit.
    pub(crate) fn reader(&self, slot: &str) -> Command {
        let mut command = Command::new(&self.lab.pg_recvlogical);
        command.args(["--start", "--no-loop", "--file=/dev/null", "--plugin=pgoutput"]);
        command.args(["--dbname", &self.database.url, "--slot", slot, "--endpos", &self.end]);
        let mut options = vec!["proto_version=1", "publication_names=walpost", "messages=true"];
        options.extend(self.binary.then_some("binary=true"));
        for option in options {
            command.args(["--option", option]);
        }
        command
    }

    /// The server's process that serves the slot.
    pub(crate) async fn walsender(&self, slot: &str) -> Option<u32> {
        let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
        let row = self.client.query_opt(sql, &[&slot]).await.unwrap();
        row.and_then(|row| row.get::<_, Option<i32>>(0)).map(i32::unsigned_abs)
    }

    /// Whether the slot has confirmed every row.
    pub(crate) async fn confirmed(&self, slot: &str) -> bool {
        let sql =
            "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
        self.client.query_one(sql, &[&self.end, &slot]).await.unwrap().get(0)
    }
}

impl Backlog<'_> {
    /// One more transaction, of the rows from `first` on.
    pub(crate) async fn insert(&self, workload: &Workload, first: u32, rows: u32) {
        let pad = workload.payload - EMPTY_PAYLOAD;
        let sql = format!(
            "INSERT INTO outbox.messages (id, topic, key, payload)
             SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{}', 'customer-' || n % 10000,
                 ('{{\"number\":\"' || lpad(n::text, 10, '0') || '\",\"text\":\"' || repeat('x', {pad}) || '\"}}')::json
             FROM generate_series({first}::bigint, {first} + {rows} - 1) n",
            self.topic.name
        );
        self.client.batch_execute(&sql).await.unwrap();
    }
}

/// Payloads from here on need a larger limit, of this many bytes.
const LARGE: u32 = 900_000;
const LARGEST: u32 = 20_000_000;

/// Transactions by one writer. The text within a payload is random, so that the server can't store it smaller.
fn fill(workload: &Workload, topic: &str) -> String {
    let (rows, together) = (workload.rows, workload.together.min(workload.rows));
    let key = if workload.hot { "'customer-1'" } else { "'customer-' || n * 7919 % 10000" };
    let pad = workload.payload - EMPTY_PAYLOAD;
    let texts = if workload.payload > LARGE { 1 } else { 64 };
    format!(
        "DO $fill$
         DECLARE
             first bigint := 0;
             pads text[] := ARRAY(SELECT left(string_agg(md5(i || ' ' || j), ''), {pad})
                 FROM generate_series(1, {texts}) i, generate_series(0, {pad} / 32) j GROUP BY i);
         BEGIN
             WHILE first < {rows} LOOP
                 INSERT INTO outbox.messages (id, topic, key, payload)
                 SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{topic}', {key},
                     ('{{\"number\":\"' || lpad(n::text, 10, '0') || '\",\"text\":\"' || pads[1 + n % {texts}] || '\"}}')::json
                 FROM generate_series(first, least(first + {together}, {rows}) - 1) n;
                 COMMIT;
                 first := first + {together};
             END LOOP;
         END $fill$"
    )
}

/// By which a payload can be told from all others.
pub(crate) fn payload_start(number: usize) -> String {
    format!(r#"{{"number":"{number:010}","text":""#)
}

/// Length of a payload whose text is empty.
pub(crate) const EMPTY_PAYLOAD: u32 = r#"{"number":"0000000000","text":""}"#.len() as u32;
