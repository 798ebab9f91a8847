//! spakky: a service writes through its API into its table, with its relay off, and Walpost publishes the rows. Then
//! the same service's relay publishes the same rows, by each of its two Kafka transports.

use std::path::Path;

use super::{other, tell, the_same};
use crate::support::host::cached;
use crate::support::walpost::Builder;
use crate::support::{Database, KafkaBroker, PATIENCE, PostgresServer, Walpost, eventually, unique};
use crate::world::{World, stop};

/// What the corpus of `tests/peers/spakky/shop.py` comes to: kinds of events, and whether a key of 8.0 on tells their
/// partitions.
const EVENTS: [(&str, bool, i64); 4] =
    [("OrderPlaced", false, 101), ("StockMoved", true, 183), ("Recounted", false, 10), ("Ping", false, 13)];

/// A version of spakky as `scripts/install spakky` keeps it.
struct Spakky {
    version: &'static str,
    keys: bool,
}

impl Spakky {
    /// The service with these arguments, for that database and broker.
    fn service(&self, database: &Database, brokers: &str, prefix: &str, args: &[&str]) -> Builder {
        let main = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/spakky/main.py");
        Walpost::of(cached("python"), ["-B"])
            .args([main])
            .args(args)
            .env("PYTHONPATH", cached(&format!("spakky-{}", self.version)))
            .env("DATABASE_URL", database.url.replacen("postgresql:", "postgresql+psycopg:", 1))
            .env("BROKERS", brokers)
            .env("PREFIX", prefix)
    }

    /// Both roads of one corpus; returns how many records were compared.
    async fn compare(&self, transport: &str, partitioner: &str) -> u64 {
        let (shared, other) = (KafkaBroker::shared().await, other().await);
        let world = World::bare(PostgresServer::shared().await, shared, "spakky", 1).await;
        let prefix = format!("{}.", unique("spakky"));
        for broker in [shared, other] {
            for (name, keyed, _) in EVENTS {
                // Without a key, all that can be compared beyond a bag is the order in one partition.
                broker.create_topic(&format!("{prefix}{name}"), if keyed && self.keys { 6 } else { 1 }).await;
            }
        }
        let service = |args: &[&str]| self.service(&world.database, other.brokers(), &prefix, args);
        for (program, what) in [
            (service(&["tables"]), "makes its table"),
            (world.command(["setup", "--preset", "spakky"]), "sets up"),
        ] {
            let output = program.output().await;
            assert!(output.status.success(), "{what}: {output:?}");
        }

        let run = world.command(["run", "--preset", "spakky", "-X", partitioner]).spawn();
        run.wait_for_log("streaming", PATIENCE).await;
        let output = service(&["write"]).output().await;
        assert!(output.status.success(), "writes: {output:?}");
        world.caught_up().await;
        stop(run).await;

        let client = world.database.client().await;
        let all = "SELECT count(*), count(published_at) FROM spakky_event_outbox";
        let written: i64 = EVENTS.iter().map(|(_, _, count)| count).sum();
        let row = client.query_one(all, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (written, 0_i64), "rows, and those that spakky has published");
        let relay = service(&["relay", transport]).spawn();
        eventually("spakky's relay to publish all", PATIENCE, async || {
            let row = client.query_one(all, &[]).await.unwrap();
            (row.get::<_, i64>(1) == written).then_some(())
        })
        .await;
        drop(relay);
        let compared = the_same(&prefix).await;
        assert_eq!(compared, u64::try_from(written).unwrap());
        compared
    }

    async fn publishes_the_same(&self) {
        let installed = cached(&format!("spakky-{}", self.version));
        assert!(installed.exists(), "no spakky in {}: scripts/install spakky", installed.display());
        for (transport, partitioner) in
            [("sync", "partitioner=consistent_random"), ("async", "partitioner=murmur2_random")]
        {
            let count = self.compare(transport, partitioner).await;
            tell(&format!("spakky {}, its {transport} transport", self.version), count);
        }
    }
}

#[tokio::test]
async fn spakky_before_keys() {
    Spakky { version: "6.5.0", keys: false }.publishes_the_same().await;
}

#[tokio::test]
async fn spakky_with_keys() {
    Spakky { version: "8.5.0", keys: true }.publishes_the_same().await;
}
