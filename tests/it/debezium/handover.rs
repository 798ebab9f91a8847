//! Debezium's slot and publication, made by itself, are taken over at their confirmed position and given back.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use tokio_postgres::Client;
use uuid::Uuid;

use super::configurations::each;
use super::lab::{LONGEST, Lab, read};
use crate::support::debezium::Server;
use crate::support::{Consumed, Database, PATIENCE, Walpost, check, eventually};

const TABLE: &str = "CREATE TABLE outboxevent (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), \
    aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb); \
    CREATE TABLE another (n int PRIMARY KEY)";

/// One outbox, and who reads it by turns.
struct Relay<'a> {
    lab: &'a Lab,
    database: &'a Database,
    client: Client,
    name: String,
    topics: [(String, i32); 1],
    ids: Vec<Uuid>,
    /// Debezium Server, while it has its turn.
    server: Option<Server>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_and_a_publication_of_one_table_are_taken_over_and_given_back() {
    hand_over("filtered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_and_a_publication_of_all_tables_are_taken_over_and_given_back() {
    hand_over("all_tables").await;
}

async fn hand_over(mode: &str) {
    let lab = Lab::shared().await;
    let database = lab.server.create_database("handover").await;
    let mut relay = Relay::new(lab, &database, format!("handover_{mode}")).await;

    lab.connect.add(&relay.text(mode)).await;
    relay.wait_until_read(true).await;
    relay.insert(30).await;
    relay.arrived().await;
    relay.is_stored(async || lab.connect.place(&relay.name).await).await;
    lab.connect.stop(&relay.name).await;
    relay.wait_until_read(false).await;
    let text = relay.text(mode);
    let sent = relay.ids.len();
    relay.walpost_has_its_turn(&text).await;

    lab.connect.resume(&relay.name).await;
    if mode == "filtered" {
        // Its own stored position lies before the slot's, which it takes for a loss unless it was told to trust the slot.
        let refusal = async || lab.connect.failure(&relay.name).await;
        let failure = eventually("Debezium to refuse", LONGEST, refusal).await;
        assert!(failure.contains("no longer available on the server"), "{failure}");
        lab.connect.stop(&relay.name).await;
        lab.connect.forget(&relay.name).await;
        lab.connect.resume(&relay.name).await;
    }
    relay.arrived().await;
    relay.insert(30).await;
    relay.arrived().await;
    lab.connect.stop(&relay.name).await;
    relay.judge(mode, sent).await;
}

/// The same with Debezium Server, whose place is in a file of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_and_a_publication_of_the_server_are_taken_over_and_given_back() {
    let lab = Lab::shared().await;
    let database = lab.server.create_database("handover").await;
    let mut relay = Relay::new(lab, &database, "handover_server".to_owned()).await;
    let folder = tempfile::tempdir().unwrap();
    let offsets = folder.path().join("offsets.dat");
    let text = relay.server_text(&offsets);

    relay.server = Some(Server::start(&text));
    relay.wait_until_read(true).await;
    relay.insert(30).await;
    relay.arrived().await;
    let place = || std::fs::read(&offsets).unwrap_or_default();
    relay.is_stored(async || String::from_utf8_lossy(&place()).into_owned()).await;
    relay.server.take().unwrap().stop().await;
    relay.wait_until_read(false).await;
    let sent = relay.ids.len();
    relay.walpost_has_its_turn(&text).await;

    // Its own place lies before the slot's, as with Connect.
    let refused = Server::start(&text);
    eventually("Debezium to refuse", LONGEST, async || refused.ended()).await;
    assert!(refused.has_said("no longer available on the server"), "{:?}", refused.ended());
    std::fs::remove_file(&offsets).unwrap();
    relay.server = Some(Server::start(&text));
    relay.arrived().await;
    relay.insert(30).await;
    relay.arrived().await;
    relay.server.take().unwrap().stop().await;
    relay.judge("server", sent).await;
}

impl<'a> Relay<'a> {
    async fn new(lab: &'a Lab, database: &'a Database, name: String) -> Relay<'a> {
        let client = database.client().await;
        client.batch_execute(TABLE).await.unwrap();
        let topics = [(format!("{name}.order"), 3)];
        lab.theirs.create_topics(&[(&topics[0].0, 3)]).await;
        Relay { lab, database, client, name, topics, ids: Vec::new(), server: None }
    }

    fn text(&self, mode: &str) -> String {
        let name = &self.name;
        let trust = if mode == "all_tables" { "offset.mismatch.strategy=trust_slot\n" } else { "" };
        format!(
            "name={name}\n{}tasks.max=1\npublication.name={name}_of\npublication.autocreate.mode={mode}\n\
             table.include.list=public.outboxevent\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\n\
             value.converter=org.apache.kafka.connect.storage.StringConverter\n\
             transforms=outbox\n\
             transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
             transforms.outbox.route.topic.replacement={name}.${{routedByValue}}\n{trust}",
            self.lab.place(self.database).source(name, name)
        )
    }

    /// For Debezium Server, which keeps its place in that file.
    fn server_text(&self, offsets: &Path) -> String {
        let (name, place) = (&self.name, self.lab.place(self.database));
        let source = format!(
            "{}publication.name={name}_of\npublication.autocreate.mode=filtered\n\
             table.include.list=public.outboxevent\noffset.storage.file.filename={}\noffset.flush.interval.ms=1000\n",
            place.source(name, name),
            offsets.display()
        );
        let own = format!(
            "format.key=simplestring\nformat.value=simplestring\nformat.header.schemas.enable=false\ntransforms=outbox\n\
             transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
             transforms.outbox.route.topic.replacement={name}.\\\\${{routedByValue}}\n"
        );
        format!(
            "{}{}{}",
            place.sink("StringSerializer"),
            each("debezium.source.", &source),
            each("debezium.", &own)
        )
    }

    /// With nothing of its own but where the servers are.
    fn walpost(&self, text: &str) -> Walpost {
        Walpost::with(["run", "--preset", "debezium", "--debezium-config", "connector.properties"])
            .file("connector.properties", text)
            .env("WALPOST_DATABASE_URL", &self.database.url)
            .env("WALPOST_BROKERS", self.lab.theirs.brokers())
            .env("WALPOST_LISTEN", "127.0.0.1:0")
            .spawn()
    }

    /// Reads what was written before, meanwhile and during its turn, and not what is written after it.
    async fn walpost_has_its_turn(&mut self, text: &str) {
        let end = self.end_of_log().await;
        self.insert(30).await;
        let walpost = self.walpost(text);
        walpost.wait_for_log("\"streaming\"", PATIENCE).await;
        self.arrived().await;
        self.insert(30).await;
        self.arrived().await;
        self.leaves_behind(&end).await;
        crate::world::stop(walpost).await;
        self.insert(30).await;
    }

    /// All rows came, and only the first ones, of Debezium's own turn, more than once.
    async fn judge(&self, what: &str, sent: usize) {
        let records = self.records().await;
        let tally = check(&self.ids, &records);
        println!("{what}: {} rows, {} repeated", self.ids.len(), tally.repeated);
        tally.assert_nothing_lost();
        // Debezium confirms behind what it sends, so that its last rows may come again. All others come once.
        let of_debezium: HashSet<String> = self.ids[..sent].iter().map(Uuid::to_string).collect();
        let later = records.into_iter().filter(|it| !of_debezium.contains(it.header("id").unwrap()));
        check(&self.ids[sent..], &later.collect::<Vec<_>>()).assert_exact();
    }

    /// All that the topic holds now.
    async fn records(&self) -> Vec<Consumed> {
        let mut all = read(self.lab.theirs.brokers(), self.topics.to_vec()).await;
        let mut records = all.remove(&self.topics[0].0).unwrap_or_default();
        for (_, value) in records.iter_mut().flat_map(|record| &mut record.headers) {
            // The server's headers are JSON.
            value.iter_mut().for_each(|bytes| bytes.retain(|byte| *byte != b'"'));
        }
        records
    }

    async fn insert(&mut self, count: i64) {
        let sql = "INSERT INTO outboxevent (aggregatetype, aggregateid, type, payload) \
                   VALUES ('order', $1::text, 'OrderPaid', '{}') RETURNING id";
        for number in 0..count {
            // Of a table that no relay is to publish; in the publication of all it is there all the same.
            self.client.execute("INSERT INTO another SELECT count(*) FROM another", &[]).await.unwrap();
            self.ids.push(self.client.query_one(sql, &[&(number % 7).to_string()]).await.unwrap().get(0));
        }
    }

    /// Each row at least once: a count would take what Debezium repeats for what has not come yet.
    async fn arrived(&self) {
        eventually("all rows to arrive", LONGEST, async || {
            let failure = self.lab.connect.failure(&self.name).await;
            let failure = failure.or_else(|| self.server.as_ref()?.ended());
            assert!(failure.is_none(), "{}", failure.unwrap());
            (check(&self.ids, &self.records().await).lost == 0).then_some(())
        })
        .await;
    }

    /// Waits until Debezium has stored a place of its own, which it refuses to go on from later.
    async fn is_stored(&self, place: impl AsyncFn() -> String) {
        eventually("Debezium to store its place", LONGEST, async || {
            place().await.contains("\"lsn\"").then_some(())
        })
        .await;
    }

    async fn end_of_log(&self) -> String {
        self.client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0)
    }

    /// Waits until the slot needs nothing before that place any more, as it will after a while.
    async fn leaves_behind(&self, place: &str) {
        let sql = "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND restart_lsn > $2::text::pg_lsn";
        eventually("the slot to move on", PATIENCE, async || {
            self.client.batch_execute("CHECKPOINT").await.unwrap();
            self.client.query_opt(sql, &[&self.name, &place]).await.unwrap().map(drop)
        })
        .await;
    }

    async fn wait_until_read(&self, read: bool) {
        let sql = "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active = $2";
        eventually("the slot to be taken or left", PATIENCE + Duration::from_secs(60), async || {
            self.client.query_opt(sql, &[&self.name, &read]).await.unwrap().map(drop)
        })
        .await;
    }
}
