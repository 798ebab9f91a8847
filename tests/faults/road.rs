//! A database with an outbox, a topic, the relays between them one after the other, and the truth beside it.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::checker::{Checker, Verdict};
use crate::ledger::{Ledger, Truth};
use crate::scenario::{Outcome, Run};
use crate::support::consume::TopicReader;
use crate::support::kafka::config;
use crate::support::postgres::connect;
use crate::support::walpost::Builder;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Walpost};
use crate::world::World;

/// How long a relay may take after a fault until it has caught up. Longer than the longest silence after which
/// a dead connection is given up, and than the work that piled up meanwhile takes a busy machine.
const RECOVERY: Duration = Duration::from_secs(180);
/// Requests that a producer may have on their way when it dies: each may still land behind its successor's first.
const REQUESTS: usize = 5;

pub(crate) struct Road {
    pub(crate) world: World,
    truth: Truth,
    partitions: i32,
    log: PathBuf,
    trials: Cell<usize>,
    longest: Cell<Duration>,
    /// Where the relay finds its database and its broker, if not where the test does, and what else it is told.
    pub(crate) database_url: Option<String>,
    pub(crate) brokers: Option<String>,
    pub(crate) arguments: Vec<String>,
}

impl Road {
    pub(crate) async fn new(
        run: &Run,
        server: &PostgresServer,
        broker: &KafkaBroker,
        name: &str,
        partitions: i32,
    ) -> Road {
        let world = World::on(server, broker, name, partitions).await;
        Road {
            truth: Truth::begin(&world.database).await,
            world,
            partitions,
            log: run.file(&format!("relay-{name}.log")),
            trials: Cell::new(0),
            longest: Cell::new(Duration::ZERO),
            database_url: None,
            brokers: None,
            arguments: Vec::new(),
        }
    }

    fn command(&self) -> Builder {
        let mut command = self.world.command(["run"]).args(&self.arguments);
        if let Some(url) = &self.database_url {
            command = command.env("WALPOST_DATABASE_URL", url);
        }
        if let Some(brokers) = &self.brokers {
            command = command.env("WALPOST_BROKERS", brokers);
        }
        command
    }

    /// A relay that has just begun.
    pub(crate) fn spawn(&self) -> Relay {
        Relay { walpost: self.command().spawn(), log: self.log.clone() }
    }

    /// A relay that is told more.
    pub(crate) fn spawn_with(&self, arguments: &[String]) -> Relay {
        Relay { walpost: self.command().args(arguments).spawn(), log: self.log.clone() }
    }

    /// A relay that is on its way.
    pub(crate) async fn relay(&self) -> Relay {
        let relay = self.spawn();
        relay.wait_for_log("streaming", PATIENCE).await;
        relay
    }

    /// Counts a trial.
    pub(crate) fn tried(&self) {
        self.trials.set(self.trials.get() + 1);
    }

    /// Waits until the slot has confirmed all that is committed by now; the fault ended `since`.
    pub(crate) async fn recovered(&self, since: Instant) {
        let deadline = Instant::now() + RECOVERY;
        let mut goal: Option<String> = None;
        loop {
            match self.confirmed(&mut goal).await {
                Ok(true) => break,
                // The server may be on its way up.
                Ok(false) | Err(_) => assert!(
                    Instant::now() < deadline,
                    "{:?} after the fault the slot has not confirmed {goal:?}",
                    since.elapsed()
                ),
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.longest.set(self.longest.get().max(since.elapsed()));
    }

    async fn confirmed(&self, goal: &mut Option<String>) -> Result<bool, tokio_postgres::Error> {
        let client = connect(&self.world.database.url).await?;
        if goal.is_none() {
            *goal = Some(client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0));
        }
        let sql =
            "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
        Ok(client.query_one(sql, &[goal, &self.world.slot]).await?.get(0))
    }

    /// Waits until everything is confirmed, stops the relay in order, and judges what the topic holds.
    pub(crate) async fn judge(&self, relay: Relay) -> Outcome {
        self.recovered(Instant::now()).await;
        relay.stop().await;
        let ledger = self.truth.read(&self.world.database).await;
        let verdict = self.check(ledger).await;
        self.remove_topic().await;
        Outcome { trials: self.trials.get(), verdict, longest: self.longest.get() }
    }

    /// Hours of this would fill a disk.
    async fn remove_topic(&self) {
        let admin: AdminClient<DefaultClientContext> = config(&self.world.brokers).create().unwrap();
        let results = admin.delete_topics(&[&self.world.topic], &AdminOptions::new()).await.unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    async fn check(&self, ledger: Ledger) -> Verdict {
        // Each life of a producer may replay once in each partition, and so may each request that outlived it.
        let log = std::fs::read_to_string(&self.log).unwrap();
        let lives = log.lines().filter(|line| line.contains("\"streaming\"")).count();
        let most_replays = lives * (1 + REQUESTS) * usize::try_from(self.partitions).unwrap();
        let (brokers, topic) = (self.world.brokers.clone(), self.world.topic.clone());
        let read = move || {
            let (mut reader, mut checker) = (TopicReader::new(&brokers, &topic), Checker::new(ledger));
            let mut heard = std::time::Instant::now();
            loop {
                let records = reader.poll(Duration::from_millis(200));
                records.iter().for_each(|record| checker.take(record));
                if !records.is_empty() {
                    heard = std::time::Instant::now();
                } else if reader.at_end() {
                    return checker.finish(most_replays);
                }
                assert!(heard.elapsed() < PATIENCE, "the topic can't be read to its end");
            }
        };
        spawn_blocking(read).await.unwrap()
    }
}

/// A relay whose log is kept.
pub(crate) struct Relay {
    walpost: Walpost,
    log: PathBuf,
}

impl Relay {
    /// Records that were acknowledged in this life, as `/readyz` tells; 0 while it does not answer.
    pub(crate) async fn published(&self, address: SocketAddr) -> u64 {
        let answer = async {
            let mut stream = TcpStream::connect(address).await.ok()?;
            stream
                .write_all(b"GET /readyz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n")
                .await
                .ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            let (_, rest) = text.split_once("\"published\":")?;
            rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
        };
        answer.await.unwrap_or(0)
    }

    /// SIGTERM, and exit code 0 within the time that a stop may take.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        let status = self.wait(Duration::from_secs(40)).await;
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

impl Deref for Relay {
    type Target = Walpost;

    fn deref(&self) -> &Walpost {
        &self.walpost
    }
}

impl DerefMut for Relay {
    fn deref_mut(&mut self) -> &mut Walpost {
        &mut self.walpost
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let _ = write!(log, "--- relay {}\n{}", self.walpost.id(), self.walpost.log());
    }
}
