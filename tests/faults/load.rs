//! What services do to an outbox, all at once and fast: transactions of 1 to 5,000 rows, some given up as a
//! whole or back to a savepoint, some that begin early and commit late, with a counter in each key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::{Client, Error};

use crate::support::postgres::connect;
use crate::support::{PATIENCE, eventually};
use crate::world::World;

/// The largest transaction.
const MOST_ROWS: u32 = 5000;
/// How many write at once.
const WRITERS: u16 = 5;
/// Keys in which all writers count together.
const SHARED_KEYS: u16 = 8;

/// Writers that insert as many rows as they were told to, and wait.
pub(crate) struct Load {
    shared: Arc<Shared>,
    writers: JoinSet<()>,
    asked: AtomicUsize,
}

struct Shared {
    url: String,
    topic: String,
    /// Rows that may still be written.
    rows: Semaphore,
    written: AtomicUsize,
}

impl Load {
    pub(crate) async fn start(world: &World, random: &mut Rng) -> Load {
        let sql = format!(
            "CREATE TABLE counters (key text PRIMARY KEY, n bigint NOT NULL);
             INSERT INTO counters SELECT 'shared-' || n, 0 FROM generate_series(0, {SHARED_KEYS} - 1) n"
        );
        world.database.client().await.batch_execute(&sql).await.unwrap();
        let shared = Arc::new(Shared {
            url: world.database.url.clone(),
            topic: world.topic.clone(),
            rows: Semaphore::new(0),
            written: AtomicUsize::new(0),
        });
        let mut writers = JoinSet::new();
        for number in 0..WRITERS {
            writers.spawn(write(shared.clone(), number, random.fork()));
        }
        Load { shared, writers, asked: AtomicUsize::new(0) }
    }

    /// Lets so many more rows be committed.
    pub(crate) fn add(&self, rows: usize) {
        self.asked.fetch_add(rows, Relaxed);
        self.shared.rows.add_permits(rows);
    }

    /// Waits until all that was asked for is committed, and ends the writers.
    pub(crate) async fn finish(mut self) {
        // A transaction waits until all its rows are allowed: this is enough for each writer's next one.
        self.shared.rows.add_permits(2 * usize::from(WRITERS) * MOST_ROWS as usize);
        let asked = self.asked.load(Relaxed);
        let mut last = 0;
        // A slow machine may take its time, as long as it gets on.
        while self.shared.written.load(Relaxed) < asked {
            last = eventually("a writer to get on", PATIENCE, async || {
                let written = self.shared.written.load(Relaxed);
                (written > last || written >= asked).then_some(written)
            })
            .await;
        }
        self.shared.rows.close();
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
    }
}

async fn write(shared: Arc<Shared>, number: u16, mut random: Rng) {
    let mut rows = Rows { topic: shared.topic.clone(), run: random.u32(..), next: 1 };
    while !shared.rows.is_closed() {
        let (Ok(one), Ok(two)) = (connect(&shared.url).await, connect(&shared.url).await) else {
            // The server is away on purpose.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        loop {
            let plan = Plan::make(&mut rows, number, &mut random);
            let Ok(permit) = shared.rows.acquire_many(plan.rows).await else { return };
            match plan.run(&one, &two).await {
                Ok(true) => {
                    permit.forget();
                    shared.written.fetch_add(plan.rows as usize, Relaxed);
                }
                Ok(false) => {}
                Err(error) => {
                    // Whether it was committed, the truth knows.
                    assert!(is_absence(&error), "{error}: {:?}", error.as_db_error());
                    break;
                }
            }
        }
    }
}

fn is_absence(error: &Error) -> bool {
    error.code().is_none_or(|code| code.code().starts_with("57P") || code.code().starts_with("08"))
}

/// Rows of one writer, each with a number that only it has.
struct Rows {
    topic: String,
    run: u32,
    next: u64,
}

impl Rows {
    /// One statement for so many rows. What lane 7 writes is in keys of lane 7.
    fn insert(&mut self, lane: u16, count: u32) -> String {
        let (from, to) = (self.next, self.next + u64::from(count) - 1);
        self.next = to + 1;
        let (run, topic) = (self.run, &self.topic);
        format!(
            "INSERT INTO outbox.messages (id, topic, key, payload, event_type, headers, correlation_id)
             SELECT ('{run:08x}-{lane:04x}-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{topic}',
                 CASE WHEN n % 11 <> 0 THEN 'lane-{lane}-' || n % 5 END,
                 format('{{\"lane\":  {lane}, \"counter\": %s, \"text\": \"größe ''🦀'' %s\"}}', n, repeat(md5(n::text), (n % 5)::int))::json,
                 CASE WHEN n % 3 = 0 THEN 'Tested' END,
                 CASE WHEN n % 2 = 0 THEN jsonb_build_object('of', n::text, 'weiß', n) ELSE '{{}}' END,
                 CASE WHEN n % 7 = 0 THEN 'correlation ' || n END
             FROM generate_series({from}::bigint, {to}::bigint) n;\n"
        )
    }

    /// One row in a key of all writers: the lock on its counter makes the order of counting that of commits.
    fn insert_shared(&mut self, lane: u16, key: u16) -> String {
        let (run, topic, n) = (self.run, &self.topic, self.next);
        self.next += 1;
        format!(
            "WITH counted AS (UPDATE counters SET n = n + 1 WHERE key = 'shared-{key}' RETURNING key, n)
             INSERT INTO outbox.messages (id, topic, key, payload)
             SELECT '{run:08x}-{lane:04x}-4000-8000-{n:012x}', '{topic}', key,
                 format('{{\"lane\": {lane}, \"counter\": %s}}', n)::json FROM counted;\n"
        )
    }
}

/// What one transaction does, or two that are entangled.
struct Plan {
    /// How many rows will be committed.
    rows: u32,
    /// Begins before `text`, and commits after it.
    around: Option<String>,
    text: String,
    commits: bool,
}

impl Plan {
    fn make(rows: &mut Rows, writer: u16, random: &mut Rng) -> Plan {
        let mut plan = Plan { rows: 0, around: None, text: "BEGIN;\n".into(), commits: random.u8(0..10) > 0 };
        if random.u8(0..6) == 0 {
            let count = random.u32(1..=50);
            // In keys of its own: within a key a service would not let two transactions overtake each other.
            plan.around = Some(format!("BEGIN;\n{}", rows.insert(writer + 100, count)));
            plan.rows += count;
        }
        let count = match random.u8(0..20) {
            0 => random.u32(2000..=MOST_ROWS - 1000),
            1..=4 => random.u32(300..2000),
            5..=9 => random.u32(20..300),
            _ => random.u32(1..20),
        };
        plan.insert(rows, writer, count);
        if random.u8(0..4) == 0 {
            plan.text.push_str("SAVEPOINT half_way;\n");
            let count = random.u32(1..200);
            if random.bool() {
                plan.text.push_str(&rows.insert(writer, count));
                plan.text.push_str("ROLLBACK TO half_way;\n");
            } else {
                plan.insert(rows, writer, count);
                plan.text.push_str("RELEASE half_way;\n");
            }
            plan.insert(rows, writer, 2);
        }
        if random.u8(0..3) == 0 {
            plan.text.push_str(&rows.insert_shared(writer, random.u16(0..SHARED_KEYS)));
            plan.rows += 1;
        }
        if random.u8(0..8) == 0 {
            // What is updated or deleted was inserted all the same.
            let some = "(SELECT id FROM outbox.messages LIMIT 5 FOR UPDATE SKIP LOCKED)";
            plan.text.push_str(&format!(
                "UPDATE outbox.messages SET event_type = 'Changed' WHERE id IN {some};
                 DELETE FROM outbox.messages WHERE id IN {some};\n"
            ));
        }
        plan.text.push_str(if plan.commits { "COMMIT" } else { "ROLLBACK" });
        plan
    }

    fn insert(&mut self, rows: &mut Rows, lane: u16, count: u32) {
        self.text.push_str(&rows.insert(lane, count));
        self.rows += count;
    }

    /// Whether it committed.
    async fn run(&self, one: &Client, two: &Client) -> Result<bool, Error> {
        if let Some(around) = &self.around {
            two.batch_execute(around).await?;
        }
        one.batch_execute(&self.text).await?;
        if self.around.is_some() {
            two.batch_execute(if self.commits { "COMMIT" } else { "ROLLBACK" }).await?;
        }
        Ok(self.commits)
    }
}
