//! An outbox with dead letters, and the commands that an operator gives.

use std::process::Output;

use tokio_postgres::Client;

use crate::support::walpost::testers_own;
use crate::world::World;

/// Everything that a command could change, of every letter of every slot.
pub(crate) const STATE: &str = "SELECT slot || ' ' || commit_lsn::text || '+' || index || ' ' || attempts \
                     || CASE WHEN requested_at IS NOT NULL THEN ' requested' ELSE '' END \
                     || coalesce(' ' || outcome, '') \
                     || CASE WHEN done_at IS NOT NULL THEN ' done' ELSE '' END \
                     || ' ' || coalesce(replay_lsn::text, '') || md5(topic || coalesce(key::text, '') || error) \
                     FROM outbox.dead_letters ORDER BY 1";

/// An outbox with letters, and a second slot that sees the markers.
pub(crate) struct Desk {
    pub(crate) world: World,
    pub(crate) client: Client,
    pub(crate) witness: String,
}

impl Desk {
    pub(crate) async fn new(prefix: &str) -> Desk {
        let world = World::new(prefix, 1).await;
        let client = world.database.client().await;
        let witness = crate::support::unique("witness");
        let sql = "SELECT pg_create_logical_replication_slot($1, 'test_decoding')";
        client.execute(sql, &[&witness]).await.unwrap();
        Desk { world, client, witness }
    }

    /// A letter of this world's slot.
    pub(crate) async fn park(&self, at: &str, topic: &str, key: Option<&[u8]>, attempts: i32) {
        self.park_for(&self.world.slot, at, topic, key, attempts).await;
    }

    pub(crate) async fn park_for(
        &self,
        slot: &str,
        at: &str,
        topic: &str,
        key: Option<&[u8]>,
        attempts: i32,
    ) {
        let (lsn, index) = at.split_once('+').unwrap();
        let sql = "INSERT INTO outbox.dead_letters (slot, commit_lsn, index, id, topic, key, payload, headers, error, attempts) \
                   VALUES ($1::text, $2::text::pg_lsn, $3::text::bigint, gen_random_uuid(), $4, $5, '{\"n\": 1}', \
                   '{\"h\": \"v\"}', 'the record is too large', $6)";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&slot, &lsn, &index, &topic, &key, &attempts];
        assert_eq!(self.client.execute(sql, &values).await.unwrap(), 1);
    }

    pub(crate) async fn state(&self) -> Vec<String> {
        self.client.query(STATE, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The positions of the letters of all slots that are asked to be replayed, or have that outcome.
    pub(crate) async fn those(&self, condition: &str) -> Vec<String> {
        let sql = format!(
            "SELECT commit_lsn::text || '+' || index FROM outbox.dead_letters WHERE {condition} ORDER BY commit_lsn, index"
        );
        self.client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// What the log holds since the last look: markers of dead letters, and changes of the table, transaction by
    /// transaction.
    pub(crate) async fn log(&self) -> Vec<String> {
        let sql = "SELECT data FROM pg_logical_slot_get_changes($1, NULL, NULL, 'skip-empty-xacts', '1', 'include-xids', '0')";
        let rows = self.client.query(sql, &[&self.witness]).await.unwrap();
        let short = |line: String| match line.split_once(": ") {
            Some(("table outbox.dead_letters", change)) => change.split(':').next().unwrap().to_owned(),
            _ => line,
        };
        rows.iter().map(|row| short(row.get(0))).collect()
    }

    pub(crate) fn marker(&self) -> String {
        let (slot, size) = (&self.world.slot, self.world.slot.len());
        format!("message: transactional: 1 prefix: walpost.dead_letters, sz: {size} content:{slot}")
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Output {
        self.world.command(["dead-letters"]).args(args).output().await
    }

    /// What `show --payload` writes. The support reads lines; bytes are read here.
    pub(crate) async fn payload(&self, at: &str) -> Vec<u8> {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_walpost"));
        command.args(["dead-letters", "show", at, "--payload"]);
        for name in testers_own() {
            command.env_remove(name);
        }
        command.env("WALPOST_DATABASE_URL", &self.world.database.url).env("WALPOST_SLOT", &self.world.slot);
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    pub(crate) async fn succeeds(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args).await;
        let (stdout, stderr) = both(&output);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stdout}{stderr}");
        (stdout, stderr)
    }

    /// The command fails, says these words, and has changed nothing.
    pub(crate) async fn fails(&self, args: &[&str], words: &[&str]) {
        let before = self.state().await;
        self.log().await;
        let output = self.run(args).await;
        let (stdout, stderr) = both(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stdout}{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{args:?} should say {word:?}: {stderr}");
        }
        assert_eq!(self.state().await, before, "{args:?}");
        assert_eq!(self.log().await, Vec::<String>::new(), "{args:?}");
    }

    /// The request stands, so something has changed.
    pub(crate) async fn fails_waiting(&self, args: &[&str], words: &[&str]) {
        let output = self.run(args).await;
        let (stdout, stderr) = both(&output);
        assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{word:?}: {stderr}");
        }
    }
}

pub(crate) fn both(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// Two keys, one letter without a key, and a second topic with the same key.
pub(crate) async fn usual(prefix: &str) -> Desk {
    let desk = Desk::new(prefix).await;
    desk.park("0/A0+0", "orders", Some(b"ada"), 6).await;
    desk.park("0/A0+1", "orders", None, 6).await;
    desk.park("0/B0+0", "orders", Some(b"ada"), 0).await;
    desk.park("0/B0+1", "orders", Some(b"bob"), 6).await;
    desk.park("0/C0+0", "mails", Some(b"ada"), 6).await;
    desk.park("1/0+12", "orders", None, 6).await;
    desk.park_for("another", "0/A0+0", "orders", Some(b"ada"), 6).await;
    desk.log().await;
    desk
}
