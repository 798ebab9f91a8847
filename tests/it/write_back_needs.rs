//! What rows need so that they can be written back, and who keeps them from it.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::dead_letters::{insert, large, letters, quick, replay_all};
use crate::support::walpost::told;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, eventually, unique};
use crate::world::{World, stop};
use crate::write_back::{SPAKKY, count, insert_spakky, spakky, world};

/// A role that may do what a relay needs, and no more; and the URL by which it logs in.
async fn poor_role(world: &World, client: &Client, table: &str) -> (String, String) {
    let role = unique("relay");
    let sql = format!(
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'secret'; GRANT SELECT (id, event_name) ON {table} TO {role}; \
         GRANT SELECT ON walpost_seal, dead_letters TO {role}"
    );
    client.batch_execute(&sql).await.unwrap();
    let url = &world.database.url;
    let start = url.find("://").unwrap() + 3;
    let end = url[start..].find('@').map_or(start, |at| start + at + 1);
    (format!("{}{role}:secret@{}", &url[..start], &url[end..]), role)
}

async fn forget(client: &Client, role: &str) {
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

/// The advice is the very statement that mends it.
#[tokio::test]
async fn a_missing_right_is_named_with_its_grant() {
    for (mode, expected) in [("mark", "GRANT UPDATE (published_at) ON"), ("delete", "GRANT DELETE ON")] {
        let (world, client) = world(SPAKKY, 1).await;
        world.set_up(&["--preset", "spakky"]).await;
        let (url, role) = poor_role(&world, &client, "spakky_event_outbox").await;
        let output = spakky(&world, mode).env("WALPOST_DATABASE_URL", &url).output().await;
        let run = told(&output);
        assert_eq!(output.status.code(), Some(1), "{run}");
        let check = world
            .command(["check", "--preset", "spakky", "--write-back", mode])
            .env("WALPOST_DATABASE_URL", &url);
        let check = told(&check.output().await);
        assert!(run.contains(expected) && check.contains(expected) && check.contains("FAIL"), "{run}{check}");
        let grant = format!("{expected} public.spakky_event_outbox TO {role};");
        assert!(check.contains(&grant), "{check}");
        client.batch_execute(&grant).await.unwrap();
        let check = world
            .command(["check", "--preset", "spakky", "--write-back", mode])
            .env("WALPOST_DATABASE_URL", &url);
        let check = told(&check.output().await);
        assert!(!check.contains("FAIL"), "{check}");
        let mut relay = spakky(&world, mode).env("WALPOST_DATABASE_URL", &url).streaming().await;
        insert_spakky(&client, &world.topic, 10).await;
        world.consume(10).await;
        world.caught_up().await;
        assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 0);

        // Taken away while it runs, it ends the run; what was published comes again, and is written back then.
        client.batch_execute(&grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM ")).await.unwrap();
        insert_spakky(&client, &world.topic, 1).await;
        let status = relay.wait(PATIENCE).await;
        assert_eq!(status.code(), Some(1), "{}", relay.log());
        assert!(relay.log().contains("`walpost check` names the GRANT"), "{}", relay.log());
        assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 1);
        client.batch_execute(&grant).await.unwrap();
        let relay = spakky(&world, mode).env("WALPOST_DATABASE_URL", &url).streaming().await;
        world.caught_up().await;
        assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 0);
        stop(relay).await;
        forget(&client, &role).await;
    }
}

/// The role that set-up makes can write back what set-up was told of, and nothing else.
#[tokio::test]
async fn the_set_up_grants_what_its_mode_needs() {
    let server = PostgresServer::start(&[]).await;
    for mode in ["mark", "delete"] {
        let world = World::bare(&server, KafkaBroker::shared().await, "grants", 1).await;
        let client = world.database.client().await;
        client.batch_execute(SPAKKY).await.unwrap();
        let said = told(&world.command(["setup", "--preset", "spakky", "--write-back", mode]).output().await);
        assert!(!said.contains("FAIL"), "{said}");
        let url = world.database.url.replace("postgres@", "walpost@");
        assert_ne!(url, world.database.url);
        let relay = spakky(&world, mode).env("WALPOST_DATABASE_URL", &url).streaming().await;
        insert_spakky(&client, &world.topic, 10).await;
        world.consume(10).await;
        world.caught_up().await;
        assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 0);
        stop(relay).await;

        let role = crate::support::postgres::connect(&url).await.unwrap();
        let statements = [
            ("UPDATE spakky_event_outbox SET published_at = now()", mode == "mark"),
            ("DELETE FROM spakky_event_outbox", mode == "delete"),
            ("UPDATE spakky_event_outbox SET event_name = 'x'", false),
            ("INSERT INTO spakky_event_outbox (event_name) VALUES ('x')", false),
            ("TRUNCATE spakky_event_outbox", false),
        ];
        for (statement, may) in statements {
            let done = role.batch_execute(statement).await;
            let code = done.as_ref().err().and_then(|error| error.code());
            assert_eq!(code, (!may).then_some(&SqlState::INSUFFICIENT_PRIVILEGE), "{mode}: {statement}");
        }
    }
    // What the table lacks is told.
    let world = World::bare(&server, KafkaBroker::shared().await, "nokey", 1).await;
    let output = world.command(["setup", "--write-back", "mark", "--map-mark", "sent_at=now"]).output().await;
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("outbox.messages has no column sent_at"), "{said}");
    let client = world.database.client().await;
    client.batch_execute("ALTER TABLE outbox.messages ADD COLUMN sent_at timestamptz").await.unwrap();
    world.set_up(&["--write-back", "mark", "--map-mark", "sent_at=now"]).await;
    let sql = "SELECT has_column_privilege('walpost', 'outbox.messages', 'sent_at', 'UPDATE'), \
               has_column_privilege('walpost', 'outbox.messages', 'topic', 'UPDATE')";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (true, false));
}

/// Rows that a policy hides would stay unmarked in silence.
#[tokio::test]
async fn row_level_security_that_hides_rows_is_found() {
    let (world, client) = world(SPAKKY, 1).await;
    world.set_up(&["--preset", "spakky"]).await;
    let (url, role) = poor_role(&world, &client, "spakky_event_outbox").await;
    let sql = format!(
        "GRANT UPDATE (published_at) ON spakky_event_outbox TO {role}; ALTER TABLE spakky_event_outbox ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY tenant ON spakky_event_outbox USING (event_name = current_setting('app.tenant', true))"
    );
    client.batch_execute(&sql).await.unwrap();
    let output = spakky(&world, "mark").env("WALPOST_DATABASE_URL", &url).output().await;
    let run = told(&output);
    let mend = format!("CREATE POLICY walpost ON public.spakky_event_outbox TO {role} USING (true);");
    assert!(output.status.code() == Some(1) && run.contains("may hide rows") && run.contains(&mend), "{run}");
    client.batch_execute(&mend).await.unwrap();
    let relay = spakky(&world, "mark").env("WALPOST_DATABASE_URL", &url).streaming().await;
    insert_spakky(&client, &world.topic, 10).await;
    world.consume(10).await;
    world.caught_up().await;
    assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 0);
    stop(relay).await;

    // Switched on while a relay runs that has not met it.
    client.batch_execute("ALTER TABLE spakky_event_outbox DISABLE ROW LEVEL SECURITY; DROP POLICY walpost ON spakky_event_outbox").await.unwrap();
    let mut relay = spakky(&world, "mark").env("WALPOST_DATABASE_URL", &url).streaming().await;
    client.batch_execute("ALTER TABLE spakky_event_outbox ENABLE ROW LEVEL SECURITY").await.unwrap();
    insert_spakky(&client, &world.topic, 1).await;
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(1), "{}", relay.log());
    assert!(relay.log().contains("a policy hides some"), "{}", relay.log());
    forget(&client, &role).await;
}

#[tokio::test]
async fn a_table_that_can_not_be_written_back_to_is_refused_with_the_mend() {
    let columns = "id uuid, topic text, payload json, status text, at timestamptz, short varchar(3), made text GENERATED ALWAYS AS (status) STORED";
    for (schema, mark, code, expected) in [
        (format!("CREATE TABLE events ({columns})"), "status=SENT", 1, "ADD PRIMARY KEY"),
        (format!("CREATE TABLE events ({columns}, PRIMARY KEY (id))"), "sent=now", 1, "has no column sent"),
        (
            format!("CREATE TABLE events ({columns}, PRIMARY KEY (id))"),
            "made=x",
            1,
            "made of public.events is generated",
        ),
        (
            format!("CREATE TABLE events ({columns}, PRIMARY KEY (id))"),
            "topic?=x, id=now",
            1,
            "of type uuid but expression is of type",
        ),
        (
            format!("CREATE TABLE events ({columns}, PRIMARY KEY (id))"),
            "none",
            2,
            "does not say what marks a row",
        ),
        (format!("CREATE TABLE events ({columns}, PRIMARY KEY (id))"), "status=A|b", 2, "lower case"),
    ] {
        let (world, _client) = world(&schema, 1).await;
        world.set_up(&["--table", "events"]).await;
        for command in ["run", "check"] {
            let output = world
                .command([command, "--table", "events", "--write-back", "mark", "--map-mark", mark])
                .output()
                .await;
            let told = told(&output);
            assert_eq!(output.status.code(), Some(code), "{command} {mark}: {told}");
            assert!(told.contains(expected), "{command} {mark}: {told}");
        }
    }
    // A unique id does as well as a primary key; a text that is too long ends it with advice, and is not cut.
    let (world, client) = world(&format!("CREATE TABLE events ({columns}, UNIQUE (id))"), 1).await;
    world.set_up(&["--table", "events"]).await;
    let args = ["run", "--table", "events", "--write-back", "mark", "--map-mark", "short=SENT"];
    let mut relay = world.command(args).streaming().await;
    let insert = format!("INSERT INTO events VALUES (gen_random_uuid(), '{}', '1', 'NEW')", world.topic);
    client.batch_execute(&insert).await.unwrap();
    assert_eq!(relay.wait(PATIENCE).await.code(), Some(1), "{}", relay.log());
    assert!(relay.log().contains("does not take the mark"), "{}", relay.log());
    let args = ["run", "--table", "events", "--write-back", "mark", "--map-mark", "short=OK, status='now'"];
    let relay = world.command(args).streaming().await;
    world.caught_up().await;
    assert_eq!(count(&client, "events WHERE short = 'OK' AND status = 'now'").await, 1);
    stop(relay).await;
}

/// The key of a partitioned table holds the column by which it is partitioned, here a time.
#[tokio::test]
async fn rows_in_partitions_are_found() {
    let schema = "CREATE SCHEMA outbox; CREATE TABLE outbox.messages (id uuid NOT NULL DEFAULT gen_random_uuid(), topic text NOT NULL, \
        key text, payload json, headers jsonb NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL DEFAULT now(), sent timestamptz, \
        PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at); \
        CREATE TABLE outbox.old PARTITION OF outbox.messages FOR VALUES FROM (MINVALUE) TO ('2020-01-01'); \
        CREATE TABLE outbox.rest PARTITION OF outbox.messages DEFAULT";
    for mode in ["mark", "delete"] {
        let (world, client) = world(schema, 1).await;
        world.set_up(&[]).await;
        let relay = world.command(["run", "--write-back", mode, "--map-mark", "sent=now"]).streaming().await;
        let sql = "INSERT INTO outbox.messages (topic, payload, created_at) SELECT $1, '1', time FROM unnest(ARRAY['2019-06-01 \
                   12:00:00.123456+02', '2026-03-29 02:30:00.000001 Europe/Berlin', '2026-07-01']::timestamptz[]) AS t (time)";
        client.execute(sql, &[&world.topic]).await.unwrap();
        world.consume(3).await;
        world.caught_up().await;
        let left = if mode == "mark" { 3 } else { 0 };
        assert_eq!(count(&client, "outbox.messages WHERE sent IS NOT NULL").await, left, "{mode}");
        assert_eq!(count(&client, "outbox.messages WHERE sent IS NULL").await, 0, "{mode}");
        stop(relay).await;
    }
}

/// A parked row is not published; it is marked when its letter is sent after all.
#[tokio::test]
async fn a_parked_row_is_marked_when_its_letter_is_sent() {
    let world = World::new("back", 1).await;
    world.set_message_size("200000").await;
    let client = world.database.client().await;
    let columns = "ALTER TABLE outbox.messages ADD COLUMN sent timestamptz";
    client.batch_execute(columns).await.unwrap();
    let args = ["run", "--on-refusal", "dead-letter", "--write-back", "mark", "--map-mark", "sent=now"];
    let relay = quick(world.command(args)).streaming().await;
    let first = insert(&client, &world.topic, Some("a"), "1").await;
    let parked = insert(&client, &world.topic, Some("b"), &large()).await;
    let discarded = insert(&client, &world.topic, Some("c"), &large()).await;
    let last = insert(&client, &world.topic, Some("a"), "2").await;
    world.caught_up().await;
    let unsent = async || {
        let sql = "SELECT id FROM outbox.messages WHERE sent IS NULL ORDER BY created_at";
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect::<Vec<uuid::Uuid>>()
    };
    assert_eq!(
        (unsent().await, letters(&client).await.len()),
        (vec![parked, discarded], 2),
        "{first} {last}"
    );
    let sql = "SELECT commit_lsn::text || '+' || index FROM outbox.dead_letters WHERE id = $1";
    let position: String = client.query_one(sql, &[&discarded]).await.unwrap().get(0);
    let output = world.command(["dead-letters", "discard", &position, "--yes"]).output().await;
    assert!(output.status.success(), "{output:?}");
    world.set_message_size("5000000").await;
    replay_all(&world).await;
    eventually("the letter to be sent", PATIENCE, async || letters(&client).await.is_empty().then_some(()))
        .await;
    world.caught_up().await;
    assert_eq!(unsent().await, [discarded]);
    stop(relay).await;
}

/// Lets every COMMIT wait for a standby of that name, except those with `synchronous_commit = local`; or for none.
pub(crate) async fn wait_for_standby(client: &Client, name: &str) {
    client.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'")).await.unwrap();
    client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    eventually("the standby to be waited for", PATIENCE, async || {
        let set = client.query_one("SHOW synchronous_standby_names", &[]).await.unwrap();
        (set.get::<_, &str>(0) == name).then_some(())
    })
    .await;
}

/// A server of its own with that table, set up, whose COMMITs wait for a standby that never comes; all sessions but those that
/// ask for it do not.
pub(crate) async fn without_its_standby(schema: &str, preset: &str) -> (PostgresServer, World, Client) {
    let server = PostgresServer::start(&[]).await;
    let world = World::bare(&server, KafkaBroker::shared().await, "unseen", 1).await;
    let client = world.database.client().await;
    let name = &world.database.name;
    let local = format!("{schema}; ALTER DATABASE {name} SET synchronous_commit = 'local'");
    client.batch_execute(&local).await.unwrap();
    let client = world.database.client().await;
    world.set_up(&["--preset", preset]).await;
    wait_for_standby(&client, "nobody").await;
    (server, world, client)
}

/// The log tells of a transaction before others can see it. Its rows are not gone: they are marked when they are seen.
#[tokio::test]
async fn a_row_that_nobody_sees_yet_is_marked_later() {
    let (_server, world, client) = without_its_standby(SPAKKY, "spakky").await;
    let relay = spakky(&world, "mark").streaming().await;
    let (patient, topic) = (world.database.client().await, world.topic.clone());
    patient.batch_execute("SET synchronous_commit = on").await.unwrap();
    let inserting = tokio::spawn(async move { insert_spakky(&patient, &topic, 5).await });
    assert_eq!(world.consume(5).await.len(), 5);
    assert_eq!(count(&client, "spakky_event_outbox").await, 0, "nobody sees it");
    // Others are written back meanwhile.
    insert_spakky(&client, &world.topic, 3).await;
    eventually("the others to be marked", PATIENCE, async || {
        (count(&client, "spakky_event_outbox WHERE published_at IS NOT NULL").await == 3).then_some(())
    })
    .await;
    relay.wait_for_log("can't be seen yet", PATIENCE).await;
    wait_for_standby(&client, "").await;
    inserting.await.unwrap();
    world.caught_up().await;
    assert_eq!(count(&client, "spakky_event_outbox WHERE published_at IS NULL").await, 0);
    stop(relay).await;
    assert_eq!(world.consume(8).await.len(), 8, "nothing was sent twice");
}
