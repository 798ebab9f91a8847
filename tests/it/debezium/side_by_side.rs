//! Every configuration, over the same rows.

use std::collections::HashMap;
use std::fmt::Write;
use std::process::Output;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::configurations::{self, Configuration, Form, Written};
use super::corpus;
use super::lab::{LONGEST, Lab, create_slot, held, read};
use crate::support::debezium::{Server, posted};
use crate::support::{Consumed, Database, PATIENCE, Walpost, eventually};

/// The header that no two runs have in common.
const RUN: &str = "__debezium.context.runId";

type Topics = HashMap<String, Vec<Consumed>>;

/// One configuration on its way.
struct Run {
    configuration: Configuration,
    topics: Vec<(String, i32)>,
    slots: [String; 2],
    /// How many records there must be.
    rows: i64,
    server: Option<Server>,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topics_are_the_same_record_by_record() {
    let lab = Lab::shared().await;
    let database = lab.server.create_database("debezium").await;
    let mut runs = prepare(lab, &database).await;
    for run in &mut runs {
        run.start_debezium(lab, &database).await;
    }
    for run in &runs {
        run.wait_for_debezium(lab).await;
    }
    publish(lab, &database, &runs).await;
    let topics: Vec<(String, i32)> = runs.iter().flat_map(|run| run.topics.clone()).collect();
    let (theirs, ours) =
        tokio::join!(read(lab.theirs.brokers(), topics.clone()), read(lab.ours.brokers(), topics));
    let (mut table, mut faults) = (String::new(), String::new());
    for run in &runs {
        let mut differences = run.differences(&theirs, &ours);
        differences.extend(run.verify(lab).await);
        let verdict = if differences.is_empty() { "the same" } else { "DIFFERENT" };
        writeln!(table, "{:28} {:>6} records  {verdict}", run.configuration.name, run.rows).unwrap();
        differences.iter().for_each(|it| writeln!(faults, "{}: {it}", run.configuration.name).unwrap());
    }
    println!("{table}{:28} {:>6} records", "all", runs.iter().map(|run| run.rows).sum::<i64>());
    assert!(faults.is_empty(), "{faults}");
}

/// Tables, publications, slots, rows and topics, in this order.
async fn prepare(lab: &Lab, database: &Database) -> Vec<Run> {
    let client = database.client().await;
    corpus::create(database).await;
    let mut runs: Vec<Run> = configurations::all().into_iter().map(Run::new).collect();
    // As Debezium makes them: by default one of all tables, else one of those that it reads.
    let mut sets: Vec<Vec<&str>> = runs.iter().map(|run| run.configuration.tables()).collect();
    sets.sort_unstable();
    sets.dedup();
    let publish = |tables: &Vec<&str>| {
        format!("; CREATE PUBLICATION dbz_of_{} FOR TABLE {}", tables.join("_"), tables.join(", "))
    };
    let each: String = sets.iter().map(publish).collect();
    client.batch_execute(&format!("CREATE PUBLICATION dbz_publication FOR ALL TABLES{each}")).await.unwrap();
    for slot in runs.iter().flat_map(|run| &run.slots) {
        create_slot(&client, slot, "pgoutput").await;
    }
    create_slot(&client, "truth", "test_decoding").await;
    corpus::fill(database).await;
    for run in &mut runs {
        for table in run.configuration.tables() {
            run.rows += committed(&client, table).await;
        }
    }
    let topics = runs.iter().flat_map(|run| &run.topics).map(|(topic, count)| (topic.as_str(), *count));
    let topics: Vec<(&str, i32)> = topics.collect();
    tokio::join!(lab.theirs.create_topics(&topics), lab.ours.create_topics(&topics));
    runs
}

/// How many rows were inserted into a table, those that are gone again among them.
async fn committed(client: &Client, table: &str) -> i64 {
    let sql =
        "SELECT count(*) FROM pg_logical_slot_peek_changes('truth', NULL, NULL) WHERE starts_with(data, $1)";
    client.query_one(sql, &[&format!("table public.{table}: INSERT:")]).await.unwrap().get(0)
}

/// Walpost over its own slots, each until all is confirmed.
async fn publish(lab: &Lab, database: &Database, runs: &[Run]) {
    let client = database.client().await;
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let mut relays: Vec<(&Run, Walpost)> = runs.iter().map(|run| (run, run.walpost(lab, database))).collect();
    for (run, relay) in &mut relays {
        let what = format!("all of {} to be confirmed", run.configuration.name);
        let sql =
            "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
        eventually(&what, PATIENCE, async || {
            if relay.exited().is_some() {
                // What it says is compared in its place.
                return Some(());
            }
            client.query_one(sql, &[&end, &run.slots[1]]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
    }
    for (run, mut relay) in relays {
        if relay.exited().is_none() {
            relay.terminate();
            assert!(relay.wait(PATIENCE).await.success(), "{}", relay.log());
        } else {
            println!("{} has ended:\n{}", run.configuration.name, relay.log());
        }
    }
}

impl Run {
    fn new(configuration: Configuration) -> Run {
        let slots = ["debezium", "walpost"].map(|it| format!("{it}_{}", configuration.name));
        Run { topics: configuration.topics(), configuration, slots, rows: 0, server: None }
    }

    async fn start_debezium(&mut self, lab: &Lab, database: &Database) {
        let text = self.configuration.text(&lab.place(database), &self.slots[0]);
        match self.configuration.form {
            Form::Connect => lab.connect.add(&text).await,
            Form::Server => self.server = Some(Server::start(&text)),
        }
    }

    async fn wait_for_debezium(&self, lab: &Lab) {
        let name = self.configuration.name;
        let deadline = Instant::now() + LONGEST;
        loop {
            let count = held(lab.theirs.brokers(), &self.topics).await;
            if count >= self.rows {
                break;
            }
            let failure = match &self.server {
                Some(server) => server.ended(),
                None => lab.connect.failure(name).await,
            };
            assert!(failure.is_none(), "{name} after {count} of {} records: {}", self.rows, failure.unwrap());
            assert!(Instant::now() < deadline, "{name} has sent {count} of {} records", self.rows);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        match &self.server {
            Some(server) => server.stop().await,
            None => lab.connect.stop(name).await,
        }
    }

    fn walpost(&self, lab: &Lab, database: &Database) -> Walpost {
        let text = self.configuration.text(&lab.place(database), &self.slots[0]);
        let (files, text) = match self.configuration.written() {
            Written::Lines => ("connector", text),
            Written::Posted => ("connector", posted(&text).to_string()),
            Written::Flat => ("connector", posted(&text)["config"].to_string()),
            Written::BesideWorker => ("worker,connector", text),
        };
        Walpost::with(["run", "--preset", "debezium", "--debezium-config", files])
            .file("worker", &lab.connect.worker())
            .file("connector", &text)
            .env("WALPOST_DATABASE_URL", &database.url)
            .env("WALPOST_BROKERS", lab.ours.brokers())
            .env("WALPOST_SLOT", &self.slots[1])
            .env("WALPOST_LISTEN", "127.0.0.1:0")
            .spawn()
    }

    /// What differs, record by record.
    fn differences(&self, theirs: &Topics, ours: &Topics) -> Vec<String> {
        let mut differences = Vec::new();
        let mut count = 0;
        for (topic, _) in &self.topics {
            let [theirs, ours] = [theirs, ours].map(|side| side.get(topic).map_or(&[][..], Vec::as_slice));
            count += theirs.len();
            if theirs.len() != ours.len() {
                differences.push(format!(
                    "{topic}: {} records of theirs, {} of ours",
                    theirs.len(),
                    ours.len()
                ));
            }
            let timestamps = self.configuration.has_timestamps();
            for (theirs, ours) in theirs.iter().zip(ours) {
                if plain(theirs, timestamps) != plain(ours, timestamps) {
                    differences.push(format!(
                        "{topic}:\n  theirs {}\n  ours   {}",
                        shown(theirs),
                        shown(ours)
                    ));
                }
            }
        }
        if count as i64 != self.rows {
            differences.push(format!("{count} records of {} rows", self.rows));
        }
        differences
    }

    /// The same by the command that users have; what it says, unless that all is equal.
    async fn verify(&self, lab: &Lab) -> Option<String> {
        let topics = format!("{}.*", self.configuration.prefix());
        let mut command = Walpost::with(["verify", &topics, &topics, "--brokers", lab.theirs.brokers()]);
        command = command.args(["--right-brokers", lab.ours.brokers(), "--ignore-header", RUN, "--show"]);
        command = command.args(self.configuration.has_timestamps().then_some("--timestamps"));
        let Output { status, stdout, stderr } = command.output().await;
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        let equal = status.success() && said.starts_with(&format!("equal: {} records", self.rows));
        (!equal).then(|| format!("verify: {said}"))
    }
}

/// A record without what may differ: the run's name, which must be one, and the time where it is the producer's.
fn plain(record: &Consumed, timestamps: bool) -> Consumed {
    let mut record = record.clone();
    if !timestamps {
        record.timestamp = None;
    }
    for (name, value) in &mut record.headers {
        if name == RUN {
            *value = masked(value.as_deref().unwrap_or_default());
        }
    }
    record
}

/// The bytes with the one UUID of version 7 in them taken out.
fn masked(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut ids =
        (0..text.len()).filter_map(|at| Some((at, text.get(at..at + 36)?.parse::<uuid::Uuid>().ok()?)));
    let (at, id) = ids.next()?;
    assert_eq!(id.get_version_num(), 7, "{text}");
    Some(format!("{}RUN{}", &text[..at], &text[at + 36..]).into_bytes())
}

fn shown(record: &Consumed) -> String {
    let bytes = |bytes: Option<&Vec<u8>>| bytes.map_or("NULL".to_owned(), |it| it.escape_ascii().to_string());
    let headers = record.headers.iter().map(|(name, value)| format!("{name}: {}", bytes(value.as_ref())));
    let headers: Vec<String> = headers.collect();
    let value: String = bytes(record.payload.as_ref()).chars().take(2000).collect();
    format!(
        "partition {} offset {} time {:?} key {} headers {} value {value}",
        record.partition,
        record.offset,
        record.timestamp,
        bytes(record.key.as_ref()),
        headers.join(", "),
    )
}
