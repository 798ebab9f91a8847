//! The truth about what was committed: a second slot, read with `test_decoding` instead of by Walpost.

use std::collections::HashSet;

use uuid::Uuid;

use super::{Database, unique};

pub(crate) struct Oracle<'a> {
    database: &'a Database,
    slot: String,
    table: String,
}

impl<'a> Oracle<'a> {
    /// Knows every insert into `table` (as `schema.name`) that is committed from now on.
    pub(crate) async fn create(database: &'a Database, table: &str) -> Oracle<'a> {
        let slot = unique("oracle");
        let make = "SELECT pg_create_logical_replication_slot($1::text::name, 'test_decoding')";
        database.client().await.execute(make, &[&slot]).await.unwrap();
        Oracle { database, slot, table: table.to_owned() }
    }

    /// The ids of all inserted rows in commit order. Peeks, so it may be asked again, and keeps nothing of its own
    /// that a crash of the server could contradict.
    pub(crate) async fn committed_ids(&self) -> Vec<Uuid> {
        // A session of its own each time: the test may have restarted the server in between.
        let client = self.database.client().await;
        let rows = client
            .query(
                "SELECT substring(data FROM ' id\\[uuid\\]:''([0-9a-f-]{36})''')
                 FROM pg_logical_slot_peek_changes($1::text::name, NULL, NULL, 'skip-empty-xacts', '1')
                 WHERE starts_with(data, $2)",
                &[&self.slot, &format!("table {}: INSERT:", self.table)],
            )
            .await
            .unwrap();
        let ids: Vec<Uuid> = rows.iter().map(|row| row.get::<_, &str>(0).parse().unwrap()).collect();
        let distinct: HashSet<&Uuid> = ids.iter().collect();
        assert_eq!(
            distinct.len(),
            ids.len(),
            "an id was inserted twice: the checker could not tell them apart"
        );
        ids
    }
}
