//! A log that nobody takes, as behind a terminal held with Ctrl-S or a collector that hangs, holds up nothing.

use std::io::{BufRead, BufReader, PipeReader, Read, pipe};

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_postgres::Client;
use uuid::Uuid;

use super::lines;
use crate::life::get;
use crate::support::{PATIENCE, Walpost, check, free_port};
use crate::world::World;

const TOLD: &str = "nobody took the log";

struct Unread {
    world: World,
    client: Client,
    ids: Vec<Uuid>,
    address: String,
}

impl Unread {
    async fn new() -> Unread {
        let world = World::new("logunread", 3).await;
        let client = world.database.client().await;
        Unread { world, client, ids: Vec::new(), address: format!("127.0.0.1:{}", free_port()) }
    }

    /// A relay that says far more than a pipe and the relay itself have room for.
    fn relay(&self) -> (Walpost, PipeReader) {
        let (log, theirs) = pipe().unwrap();
        let command = self.world.command(["run"]).env("WALPOST_LISTEN", &self.address);
        (command.env("WALPOST_LOG", "trace").env("WALPOST_KAFKA_DEBUG", "all").spawn_saying(theirs), log)
    }

    /// Rows come all the same, and whoever asks is answered. Of each transaction there is more to say than a kilobyte.
    async fn goes_on(&mut self, transactions: usize) {
        for _ in 0..transactions {
            self.ids.extend(self.world.insert(&self.client, 10).await);
            self.world.caught_up().await;
        }
        let (code, body) = get(self.address.parse().unwrap(), "/readyz").await;
        assert_eq!(code, 200, "{body}");
        check(&self.ids, &self.world.consume(self.ids.len()).await).assert_exact();
    }
}

/// Up to where it says that lines are missing.
fn read(mut log: BufReader<PipeReader>) -> (BufReader<PipeReader>, String) {
    let (mut text, mut last) = (String::new(), 0);
    while !text[last..].contains(TOLD) {
        last = text.len();
        assert_ne!(log.read_line(&mut text).unwrap(), 0, "it ended without saying {TOLD:?} in {last} bytes");
    }
    (log, text)
}

/// What is left of a log whose writer has ended.
fn rest(mut log: impl Read) -> String {
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_take_the_log_holds_up_nothing() {
    let mut unread = Unread::new().await;
    let (mut relay, log) = unread.relay();
    unread.goes_on(200).await;

    let read = timeout(PATIENCE, spawn_blocking(|| read(BufReader::new(log)))).await;
    let (log, text) = read.expect("it says that lines are missing").unwrap();
    let told = lines(&text, 0);
    let (last, before) = told.split_last().unwrap();
    assert_eq!(last["level"], "WARN", "{last}");
    assert!(
        last["lasted_ms"].as_u64().is_some_and(|lasted| lasted > 0) && last["advice"].is_string(),
        "{last}"
    );
    assert!(
        before.iter().any(|line| line["message"] == "streaming"),
        "the oldest lines are those that are kept"
    );

    // An orderly stop needs no reader either, nor does an end that would have to be told.
    unread.goes_on(40).await;
    relay.terminate();
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(0));
    assert!(!rest(log).contains("\"message\":\"stopped\""), "that was not for want of a reader");
    let (mut relay, log) = unread.relay();
    unread.goes_on(40).await;
    unread.client.batch_execute("DROP PUBLICATION walpost").await.unwrap();
    unread.world.insert(&unread.client, 1).await;
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(1));
    assert!(!rest(log).contains("\"message\":\"stopped\""), "that was not for want of a reader");
}
