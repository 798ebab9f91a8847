//! Restarts between two commits whose records touch, the first confirmed and the second not: confirming one
//! byte too much of the first would lose the second, one too little would repeat the first.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use walpost::Lsn;

use crate::road::Road;
use crate::scenario::scenario;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually, unique};

/// Bytes by which the second row grows from attempt to attempt: more than its key and framing.
const STEP: usize = 1000;
/// At this size all is sent, and it starts again with small rows. Well below what the broker takes.
const LARGE: usize = 300_000;

#[tokio::test]
async fn adjacent_commits_lose_nothing_at_a_restart() {
    scenario("adjacent-commits", async |run| {
        // A server of its own, so that nobody else's commits come between.
        let server = PostgresServer::start(&[]).await;
        let _log = run.keep("postgres", server.host());
        let road = Road::new(run, &server, KafkaBroker::shared().await, "adjacent", 1).await;
        let mut random = run.random(0);
        let mut pairs = Pairs::new(&road).await;
        for _ in 0..run.count(200) {
            if pairs.size > LARGE {
                let relay = road.relay().await;
                road.recovered(Instant::now()).await;
                relay.stop().await;
                pairs.size = STEP;
            }
            let between = pairs.commit_adjacent().await;
            // Lets all pass but the second row of this pair: the line stands right behind the first.
            let limit = format!("message.max.bytes={}", pairs.size - STEP / 2);
            let mut relay = road.spawn_with(&["-X".to_owned(), limit]);
            relay.wait_for_log("larger than allowed", PATIENCE).await;
            assert_eq!(pairs.confirmed_at_least(between).await, between, "confirmed past the first commit");
            if random.bool() {
                relay.kill().await;
            } else {
                relay.stop().await;
            }
            road.tried();
        }
        println!("{} pairs of commits, {} of them adjacent", pairs.attempts, run.count(200));
        let relay = road.spawn();
        road.recovered(Instant::now()).await;
        let outcome = road.judge(relay).await;
        // A restart after a confirmed commit repeats nothing of it.
        assert_eq!(outcome.verdict.repeated, 0, "{:?}", outcome.verdict);
        outcome
    })
    .await;
}

/// Two writers that commit at the same moment.
struct Pairs<'a> {
    road: &'a Road,
    writers: [Client; 2],
    /// Another slot of the same kind, which tells where the records lie.
    witness: String,
    /// Bytes of the last pair's second row.
    size: usize,
    attempts: usize,
}

impl<'a> Pairs<'a> {
    async fn new(road: &'a Road) -> Pairs<'a> {
        let database = &road.world.database;
        let (writers, witness) = ([database.client().await, database.client().await], unique("witness"));
        let make = "SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')";
        writers[0].execute(make, &[&witness]).await.unwrap();
        Pairs { road, writers, witness, size: STEP, attempts: 0 }
    }

    /// Commits pairs until the second commit record begins where the first ends; returns that position.
    async fn commit_adjacent(&mut self) -> Lsn {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "commits don't come out adjacent");
            self.attempts += 1;
            self.size += STEP;
            let (topic, [one, two]) = (&self.road.world.topic, &self.writers);
            for (client, text) in [(one, "1".to_owned()), (two, format!("\"{}\"", "x".repeat(self.size)))] {
                let sql = format!(
                    "BEGIN; INSERT INTO outbox.messages (topic, payload) VALUES ('{topic}', '{text}')"
                );
                client.batch_execute(&sql).await.unwrap();
            }
            tokio::join!(async { one.batch_execute("COMMIT").await.unwrap() }, async {
                two.batch_execute("COMMIT").await.unwrap()
            });
            if let Some(between) = self.between().await {
                return between;
            }
        }
    }

    /// Where the first transaction of the last pair ends and the second's commit record begins, if that is one
    /// place and the small row came first.
    async fn between(&self) -> Option<Lsn> {
        let sql = "SELECT data FROM pg_logical_slot_get_binary_changes($1::text::name, NULL, NULL, \
                   'proto_version', '1', 'publication_names', 'walpost')";
        let messages: Vec<Vec<u8>> = self.writers[0]
            .query(sql, &[&self.witness])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let number = |bytes: &[u8]| Lsn(u64::from_be_bytes(bytes.try_into().unwrap()));
        let of = |tag| messages.iter().filter(move |message| message[0] == tag);
        // Commit: flags, where the record begins, where it ends. Begin: where the record of its commit begins.
        let ends: Vec<Lsn> = of(b'C').map(|message| number(&message[10..18])).collect();
        let begins: Vec<Lsn> = of(b'B').map(|message| number(&message[1..9])).collect();
        let first_is_small = of(b'I').next().is_some_and(|message| message.len() < STEP);
        (first_is_small && ends.len() == 2 && ends[0] == begins[1]).then_some(ends[0])
    }

    async fn confirmed_at_least(&self, position: Lsn) -> Lsn {
        let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
        eventually("the first commit to be confirmed", Duration::from_secs(30), async || {
            let row = self.writers[0].query_one(sql, &[&self.road.world.slot]).await.unwrap();
            let confirmed: Lsn = row.get::<_, &str>(0).parse().unwrap();
            (confirmed >= position).then_some(confirmed)
        })
        .await
    }
}
