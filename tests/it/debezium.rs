//! Real Debezium and Walpost on two slots over the same rows, with the same file of settings: their topics must hold the
//! same, record by record.

mod configurations;
mod corpus;

use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio_postgres::Client;

use crate::support::debezium::{Connect, Server};
use crate::support::kafka::config;
use crate::support::{Database, KafkaBroker, PATIENCE, PostgresServer};
use configurations::{Configuration, Form, Place};

/// Of each topic but those of keyless records.
const PARTITIONS: i32 = 4;

/// The servers of these tests: two brokers, because both write to topics of the same names.
struct Lab {
    server: PostgresServer,
    theirs: KafkaBroker,
    ours: KafkaBroker,
    connect: Connect,
}

impl Lab {
    async fn shared() -> &'static Lab {
        static SHARED: OnceCell<Lab> = OnceCell::const_new();
        SHARED.get_or_init(Lab::start).await
    }

    async fn start() -> Lab {
        let many = [("max_replication_slots", "100"), ("max_wal_senders", "100")];
        let behind = async || {
            let theirs = KafkaBroker::start().await;
            let connect = Connect::start(theirs.brokers()).await;
            (theirs, connect)
        };
        let (server, (theirs, connect), ours) =
            tokio::join!(PostgresServer::start(&many), behind(), KafkaBroker::start());
        Lab { server, theirs, ours, connect }
    }

    fn place<'a>(&'a self, database: &'a Database) -> Place<'a> {
        let (_, port) = self.server.address().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
        Place { port: port.parse().unwrap(), database: &database.name, brokers: self.theirs.brokers() }
    }
}

/// One configuration on its way.
struct Run {
    configuration: Configuration,
    slots: [String; 2],
    rows: i64,
    server: Option<Server>,
}

impl Run {
    /// With how many partitions each.
    fn topics(&self) -> Vec<(String, i32)> {
        let alone = |topic: &str| topic.ends_with("keyless") && self.configuration.loses_null_keys();
        let topics = self.configuration.topics().into_iter();
        topics.map(|topic| (if alone(&topic) { 1 } else { PARTITIONS }, topic)).map(|(count, topic)| (topic, count)).collect()
    }

    /// Starts Debezium.
    async fn start(&mut self, lab: &Lab, database: &Database) {
        let text = self.configuration.text(&lab.place(database), &self.slots[0]);
        match self.configuration.form {
            Form::Connect => lab.connect.add(&text).await,
            Form::Server => self.server = Some(Server::start(&text)),
        }
    }

    /// Waits until Debezium has sent as many records as there were rows.
    async fn arrived(&self, lab: &Lab) {
        let (name, started) = (self.configuration.name, Instant::now());
        loop {
            let count = held(lab.theirs.brokers(), self.configuration.topics()).await;
            if count >= self.rows {
                return;
            }
            let log = match &self.server {
                Some(server) => {
                    server.assert_running();
                    server.log()
                }
                None => {
                    let failure = lab.connect.failure(name).await;
                    assert!(failure.is_none(), "{name} after {count} of {}: {}", self.rows, failure.unwrap());
                    lab.connect.log()
                }
            };
            assert!(started.elapsed() < PATIENCE, "{name}: {count} of {} records\n{log}", self.rows);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

/// How many rows were inserted into a table, those that are gone again among them.
async fn committed(client: &Client, table: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_logical_slot_peek_changes('truth', NULL, NULL) WHERE starts_with(data, $1)";
    client.query_one(sql, &[&format!("table public.{table}: INSERT:")]).await.unwrap().get(0)
}

/// How many records the topics hold.
async fn held(brokers: &str, topics: Vec<String>) -> i64 {
    let brokers = brokers.to_owned();
    let count = move || {
        let reader: BaseConsumer = config(&brokers).create().unwrap();
        let ends = |topic: &String| {
            let metadata = reader.fetch_metadata(Some(topic), PATIENCE).unwrap();
            let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|it| it.id()).collect();
            partitions.into_iter().map(|it| reader.fetch_watermarks(topic, it, PATIENCE).unwrap().1).sum::<i64>()
        };
        topics.iter().map(ends).sum()
    };
    spawn_blocking(count).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_the_same_record_by_record() {
    let begin = Instant::now();
    let lab = Lab::shared().await;
    eprintln!("lab {:?}", begin.elapsed());
    let database = lab.server.create_database("debezium").await;
    corpus::create(&database).await;
    let client = database.client().await;
    // As Debezium makes them: one of all tables by itself, and one of each table that it reads.
    let mut sql = "CREATE PUBLICATION dbz_publication FOR ALL TABLES;".to_owned();
    let mut runs = Vec::new();
    for configuration in configurations::all() {
        let slots = ["debezium", "walpost"].map(|it| format!("{it}_{}", configuration.name));
        runs.push(Run { configuration, slots, rows: 0, server: None });
    }
    let mut tables: Vec<&str> = runs.iter().map(|run| run.configuration.table()).collect();
    tables.sort_unstable();
    tables.dedup();
    for table in &tables {
        sql.push_str(&format!("CREATE PUBLICATION dbz_of_{table} FOR TABLE {table};"));
    }
    client.batch_execute(&sql).await.unwrap();
    client.execute("SELECT pg_create_logical_replication_slot('truth', 'test_decoding')", &[]).await.unwrap();
    for run in &runs {
        let sql = "SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')";
        for slot in &run.slots {
            client.execute(sql, &[slot]).await.unwrap();
        }
    }
    corpus::fill(&database).await;
    eprintln!("filled {:?}", begin.elapsed());
    let topics: Vec<(String, i32)> = runs.iter().flat_map(Run::topics).collect();
    let topics: Vec<(&str, i32)> = topics.iter().map(|(topic, count)| (topic.as_str(), *count)).collect();
    tokio::join!(lab.theirs.create_topics(&topics), lab.ours.create_topics(&topics));
    eprintln!("topics {:?}", begin.elapsed());
    for run in &mut runs {
        run.rows = committed(&client, run.configuration.table()).await;
        run.start(lab, &database).await;
    }
    eprintln!("started {:?}", begin.elapsed());
    for run in &runs {
        run.arrived(lab).await;
        eprintln!("{} {} {:?}", run.configuration.name, run.rows, begin.elapsed());
    }
    if let Ok(to) = std::env::var("DUMP") {
        for run in &runs {
            let mut text = String::new();
            for topic in run.configuration.topics() {
                let mut all = crate::support::consume(lab.theirs.brokers(), &topic, 0, PATIENCE).await;
                all.sort_by_key(|it| (it.partition, it.offset));
                for it in all {
                    let show = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or("NULL".to_owned(), |it| it.escape_ascii().to_string());
                    text += &format!("{topic} {} {} t={:?} key={} ", it.partition, it.offset, it.timestamp, show(&it.key));
                    let h: Vec<String> = it.headers.iter().map(|(n, v)| format!("{n}:{}", show(v))).collect();
                    let v = show(&it.payload);
                    text += &format!("{} => {}\n", h.join(" | "), &v[..v.len().min(1500)]);
                }
            }
            std::fs::write(format!("{to}/{}.txt", run.configuration.name), text).unwrap();
        }
        eprintln!("dumped {:?}", begin.elapsed());
    }
}
