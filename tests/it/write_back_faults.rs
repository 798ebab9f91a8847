//! Rows are written back while relays and servers die, rows that are held back until later among them: what is marked or
//! gone is in the topic, at any moment, and in the end that is all of it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use crate::dead_letters::ids;
use crate::later::COLUMN;
use crate::support::walpost::Builder;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually};
use crate::world::{World, stop};
use crate::write_back::{SPAKKY, count, ids_where};
use crate::write_back_later::K1S0;

/// A table and what becomes of its rows.
struct Kind {
    /// SQL before `walpost setup`, and after it.
    schema: [&'static str; 2],
    table: &'static str,
    preset: &'static str,
    mode: &'static str,
    /// Of a row that is not written back yet.
    open: &'static str,
    /// Inserts rows of a topic, with these ids.
    insert: &'static str,
    /// Whether some are due later.
    later: bool,
}

const MARKED: Kind = Kind {
    schema: [SPAKKY, ""],
    table: "spakky_event_outbox",
    preset: "spakky",
    mode: "mark",
    open: "published_at IS NULL",
    insert: "INSERT INTO spakky_event_outbox (id, event_name, payload, headers, created_at, retry_count, partition_key) \
        SELECT id, $1, convert_to(n::text, 'UTF8'), '{}', now(), 0, (n % 7)::text FROM unnest($2::uuid[]) WITH ORDINALITY u (id, n)",
    later: false,
};

const MARKED_LATER: Kind = Kind {
    schema: [K1S0, ""],
    table: "outbox.outbox_messages",
    preset: "k1s0",
    mode: "mark",
    open: "status = 'PENDING'",
    insert: "INSERT INTO outbox.outbox_messages (id, topic, partition_key, payload, process_after) \
        SELECT id, $1, n % 7, to_jsonb(n), now() + (n % 3) * (n * 7919 % 500) * interval '1 ms' \
        FROM unnest($2::uuid[]) WITH ORDINALITY u (id, n)",
    later: true,
};

const DELETED_LATER: Kind = Kind {
    schema: ["", COLUMN],
    table: "outbox.messages",
    preset: "walpost",
    mode: "delete",
    open: "true",
    insert: "INSERT INTO outbox.messages (id, topic, key, payload, scheduled_at) \
        SELECT id, $1, n % 7, to_json(n), now() + (n % 3) * (n * 7919 % 500) * interval '1 ms' \
        FROM unnest($2::uuid[]) WITH ORDINALITY u (id, n)",
    later: true,
};

/// An outbox under test, and what is known of its rows.
struct Outbox {
    kind: Kind,
    world: World,
    /// Whose COMMIT has returned.
    sure: RefCell<HashSet<Uuid>>,
    /// Those, and others that may be there.
    tried: RefCell<HashSet<Uuid>>,
}

impl Outbox {
    async fn on(server: &PostgresServer, kind: Kind) -> Outbox {
        let world = World::bare(server, KafkaBroker::shared().await, "back", 3).await;
        let client = world.database.client().await;
        client.batch_execute(kind.schema[0]).await.unwrap();
        world.set_up(&["--preset", kind.preset]).await;
        client.batch_execute(kind.schema[1]).await.unwrap();
        Outbox { kind, world, sure: RefCell::default(), tried: RefCell::default() }
    }

    fn relay(&self) -> Builder {
        let Kind { preset, mode, .. } = self.kind;
        let args = ["run", "--preset", preset, "--map-own-headers", "yes", "--write-back", mode];
        self.world.command(args)
    }

    async fn insert(&self, client: &Client, rows: usize) -> Result<(), Error> {
        let ids: Vec<Uuid> = (0..rows).map(|_| Uuid::new_v4()).collect();
        self.tried.borrow_mut().extend(&ids);
        client.execute(self.kind.insert, &[&self.world.topic, &ids]).await?;
        self.sure.borrow_mut().extend(&ids);
        Ok(())
    }

    /// Inserts rows until it is told to stop, or the server is gone.
    async fn load(&self, done: &Cell<bool>) {
        let client = self.world.database.client().await;
        while !done.get() && self.insert(&client, [1, 3, 30, 150][fastrand::usize(..4)]).await.is_ok() {
            sleep(Duration::from_millis(fastrand::u64(20..80))).await;
        }
    }

    async fn arrived(&self, expected: usize) -> HashSet<Uuid> {
        ids(&self.world.consume(expected).await).into_iter().collect()
    }

    /// None is marked, and none of those that were certainly there is gone, whose record has not arrived.
    async fn none_early(&self, seed: u64) {
        let client = self.world.database.client().await;
        let Kind { table, open, mode, .. } = &self.kind;
        let sure = self.sure.borrow().clone();
        let written = if *mode == "mark" {
            ids_where(&client, table, &format!("NOT ({open})")).await
        } else {
            &sure - &ids_where(&client, table, "true").await
        };
        let early = &written - &self.arrived(written.len()).await;
        assert!(
            early.is_empty(),
            "seed {seed}: {} of {} written back and not published",
            early.len(),
            written.len()
        );
    }

    /// All has come, and all of it is written back.
    async fn all_done(&self, seed: u64) {
        let client = self.world.database.client().await;
        self.insert(&client, 30).await.unwrap();
        self.world.caught_up().await;
        if self.kind.later {
            let held = "outbox.scheduled WHERE released_at IS NULL";
            eventually("no row to wait", PATIENCE, async || (count(&client, held).await == 0).then_some(()))
                .await;
        }
        self.world.caught_up().await;
        let Kind { table, open, mode, .. } = &self.kind;
        let left = count(&client, &format!("{table} WHERE {open}")).await;
        let (sure, tried) = (self.sure.borrow().clone(), self.tried.borrow().clone());
        let arrived = self.arrived(sure.len()).await;
        println!("seed {seed}, {mode} {table}: {} rows, {left} not written back", arrived.len());
        assert_eq!(left, 0, "seed {seed}: not written back");
        assert_eq!(
            (sure.difference(&arrived).count(), arrived.difference(&tried).count()),
            (0, 0),
            "lost, invented"
        );
    }
}

/// Killed at any moment, under load.
async fn killed(kind: Kind) {
    let outbox = Outbox::on(PostgresServer::shared().await, kind).await;
    let seed = fastrand::u64(..1 << 40);
    let mut random = fastrand::Rng::with_seed(seed);
    let done = Cell::new(false);
    let kills = async {
        for _ in 0..8 {
            let mut relay = outbox.relay().streaming().await;
            sleep(Duration::from_millis(random.u64(0..500))).await;
            relay.kill().await;
            // A statement that was under way may end after its relay.
            outbox.world.slot_is_free().await;
            outbox.none_early(seed).await;
        }
        done.set(true);
    };
    tokio::join!(kills, outbox.load(&done));
    let relay = outbox.relay().streaming().await;
    outbox.all_done(seed).await;
    stop(relay).await;
}

#[tokio::test]
async fn kills_under_load_leave_no_published_row_unmarked_and_mark_no_other() {
    killed(MARKED).await;
}

#[tokio::test]
async fn kills_leave_no_row_unmarked_that_was_held_back_and_mark_none_that_is() {
    killed(MARKED_LATER).await;
}

#[tokio::test]
async fn kills_leave_no_row_that_was_held_back_and_delete_none_that_is() {
    killed(DELETED_LATER).await;
}

/// The server is killed with all its processes, or shut down at once, under load; both relays live through it.
#[tokio::test]
async fn a_server_that_crashes_leaves_no_published_row_as_it_was_and_writes_back_no_other() {
    let server = PostgresServer::start(&[]).await;
    let outboxes = [Outbox::on(&server, MARKED).await, Outbox::on(&server, DELETED_LATER).await];
    let relays = [outboxes[0].relay().streaming().await, outboxes[1].relay().streaming().await];
    let seed = fastrand::u64(..1 << 40);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..5 {
        let done = Cell::new(false);
        let crash = async {
            sleep(Duration::from_millis(random.u64(300..900))).await;
            if round % 2 == 0 {
                server.kill_all().await;
            } else {
                server.stop_immediate().await;
            }
            done.set(true);
        };
        tokio::join!(crash, outboxes[0].load(&done), outboxes[1].load(&done));
        let marks = [relays[0].mark(), relays[1].mark()];
        server.start_again().await;
        for ((relay, mark), outbox) in relays.iter().zip(marks).zip(&outboxes) {
            relay.wait_for_log_since(mark, "streaming", PATIENCE).await;
            outbox.none_early(seed).await;
        }
    }
    for (relay, outbox) in relays.into_iter().zip(&outboxes) {
        outbox.all_done(seed).await;
        stop(relay).await;
    }
}
