//! One database per test, gone with the test.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::postgres::connect;

pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) url: String,
    /// Where it can be dropped from.
    neighbour: String,
}

impl Database {
    pub(crate) fn new(name: String, url: String, neighbour: String) -> Database {
        Database { name, url, neighbour }
    }

    /// An ordinary session; its connection runs until the client is dropped.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.url).await.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    async fn remove(name: String, neighbour: String) -> Result<(), tokio_postgres::Error> {
        let client = connect(&neighbour).await?;
        client
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", &[&name])
            .await?;
        // A slot whose walsender was told to go may still be held for a moment.
        for _ in 0..100 {
            client
                .execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                     WHERE database = $1 AND NOT active",
                    &[&name],
                )
                .await?;
            let left = "SELECT count(*) FROM pg_replication_slots WHERE database = $1";
            if client.query_one(left, &[&name]).await?.get::<_, i64>(0) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
    }
}

impl Drop for Database {
    /// Slots are few and hold back the log of the whole server, so they must not pile up while the tests go on.
    fn drop(&mut self) {
        let (name, neighbour) = (self.name.clone(), self.neighbour.clone());
        // A thread, because a destructor cannot wait inside the test's own runtime.
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { timeout(Duration::from_secs(10), Self::remove(name, neighbour)).await })
        });
        match removal.join() {
            Ok(Ok(Ok(()))) => {}
            // The test may have stopped the server: it goes as a whole then.
            other => eprintln!("database {} stays: {other:?}", self.name),
        }
    }
}
