//! A database with an outbox, a topic, and the relay between them.

use std::time::Duration;

use tokio_postgres::Client;
use uuid::Uuid;
use walpost::postgres::settings::{Os, Settings};
use walpost::postgres::{ReplicationSource, Target};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use crate::support::kafka::{BehindProxy, config};
use crate::support::walpost::{Builder, told};
use crate::support::{
    Consumed, Database, KafkaBroker, Oracle, PATIENCE, PostgresServer, Proxy, Walpost, consume, eventually,
    unique,
};

pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) slot: String,
    /// Where the relay reaches the broker, if not as the tests do.
    pub(crate) for_relay: Option<String>,
}

impl World {
    /// On the shared servers, set up by the binary, with a topic of that many partitions.
    pub(crate) async fn new(prefix: &str, partitions: i32) -> World {
        World::on(PostgresServer::shared().await, KafkaBroker::shared().await, prefix, partitions).await
    }

    pub(crate) async fn on(
        server: &PostgresServer,
        broker: &KafkaBroker,
        prefix: &str,
        partitions: i32,
    ) -> World {
        let world = World::bare(server, broker, prefix, partitions).await;
        world.set_up(&[]).await;
        world
    }

    /// With a breakable wire between the relay and the broker; the test's own reading goes around it.
    pub(crate) async fn behind(
        server: &PostgresServer,
        broker: &BehindProxy,
        prefix: &str,
        partitions: i32,
    ) -> World {
        let mut world = World::on(server, &broker.kafka, prefix, partitions).await;
        world.for_relay = Some(broker.brokers.clone());
        world
    }

    /// Without an outbox.
    pub(crate) async fn bare(
        server: &PostgresServer,
        broker: &KafkaBroker,
        prefix: &str,
        partitions: i32,
    ) -> World {
        World::bare_in(server.create_database(prefix).await, broker, prefix, partitions).await
    }

    /// Without an outbox, in a database that is there.
    pub(crate) async fn bare_in(
        database: Database,
        broker: &KafkaBroker,
        prefix: &str,
        partitions: i32,
    ) -> World {
        let topic = unique(prefix);
        broker.create_topic(&topic, partitions).await;
        World { database, brokers: broker.brokers().to_owned(), topic, slot: unique("slot"), for_relay: None }
    }

    /// A command of the binary with this world's settings.
    pub(crate) fn command<const N: usize>(&self, args: [&str; N]) -> Builder {
        Walpost::with(args)
            .env("WALPOST_DATABASE_URL", &self.database.url)
            .env("WALPOST_BROKERS", self.for_relay.as_ref().unwrap_or(&self.brokers))
            .env("WALPOST_SLOT", &self.slot)
            .env("WALPOST_LISTEN", "127.0.0.1:0")
    }

    /// Makes in the database what a relay needs.
    pub(crate) async fn set_up(&self, args: &[&str]) {
        let output = self.command(["setup"]).args(args).output().await;
        assert!(output.status.success(), "{}", told(&output));
    }

    /// The relay's way into the log, without the relay.
    pub(crate) fn source(&self) -> ReplicationSource {
        let target = Target { slot: self.slot.clone(), ..Target::default() };
        let settings = Settings::resolve(Some(&self.database.url), |_| None, &Os::detect()).unwrap();
        ReplicationSource::new(settings, target)
    }

    /// A relay that is on its way.
    pub(crate) async fn relay(&self) -> Walpost {
        self.command(["run"]).streaming().await
    }

    /// A breakable wire to the database, and the URL that leads over it.
    pub(crate) async fn wire(&self) -> (Proxy, String) {
        let url = &self.database.url;
        let start = url.find('@').map_or_else(|| url.find("://").unwrap() + 3, |at| at + 1);
        let end = start + url[start..].find('/').unwrap();
        let proxy = Proxy::start(&url[start..end]).await;
        let over = format!("{}{}{}", &url[..start], proxy.address(), &url[end..]);
        (proxy, over)
    }

    /// A relay whose way to the database can be broken.
    pub(crate) async fn wired_relay(&self) -> (Proxy, Walpost) {
        let (proxy, url) = self.wire().await;
        (proxy, self.command(["run"]).env("WALPOST_DATABASE_URL", url).streaming().await)
    }

    /// Waits until nobody reads the slot.
    pub(crate) async fn slot_is_free(&self) {
        let client = self.database.client().await;
        let sql = "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NULL";
        eventually("the slot to be free", PATIENCE, async || {
            client.query_opt(sql, &[&self.slot]).await.unwrap().map(drop)
        })
        .await;
    }

    /// The ids that a statement of some advice finds.
    pub(crate) async fn found_by(&self, sql: &str) -> Vec<Uuid> {
        let client = self.database.client().await;
        let rows = client.query(&format!("SELECT id FROM ({sql}) found"), &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub(crate) async fn oracle(&self) -> Oracle<'_> {
        Oracle::create(&self.database, "outbox.messages").await
    }

    pub(crate) async fn consume(&self, expected: usize) -> Vec<Consumed> {
        consume(&self.brokers, &self.topic, expected, PATIENCE).await
    }

    /// Inserts messages in one transaction; returns their ids.
    pub(crate) async fn insert(&self, client: &Client, count: i64) -> Vec<Uuid> {
        let sql = "INSERT INTO outbox.messages (topic, key, payload) \
                   SELECT $1, (n % 7)::text, json_build_object('n', n) FROM generate_series(1, $2::bigint) n RETURNING id";
        let rows = client.query(sql, &[&self.topic, &count]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Sets the largest batch of records that the topic takes.
    pub(crate) async fn set_message_size(&self, bytes: &str) {
        self.set_topic("max.message.bytes", bytes).await;
    }

    /// Changes a setting of the topic.
    pub(crate) async fn set_topic(&self, name: &str, value: &str) {
        let admin: AdminClient<DefaultClientContext> = config(&self.brokers).create().unwrap();
        // All settings at once: what is not named here is the default again.
        let resource = AlterConfig::new(ResourceSpecifier::Topic(&self.topic))
            .set(name, value)
            .set("retention.ms", "-1");
        let results = admin.alter_configs([&resource], &AdminOptions::new()).await.unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    /// Waits until the slot has confirmed all that is in the log now.
    pub(crate) async fn caught_up(&self) {
        let client = self.database.client().await;
        let now: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
        let sql =
            "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
        eventually("the slot to catch up", PATIENCE, async || {
            client.query_one(sql, &[&now, &self.slot]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
    }
}

/// Stops a relay and checks that it ended as it should.
pub(crate) async fn stop(mut relay: Walpost) {
    relay.terminate();
    let status = relay.wait(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(0), "{}", relay.log());
}
