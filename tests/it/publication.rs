//! A publication that changes under a running relay: what it skips can't be known from the log, so it is named.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use crate::audit_live::{commands, paste};
use crate::identity::{ends_saying, finding, statement};
use crate::support::walpost::told;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, check, eventually, major};
use crate::world::{World, stop};

/// From the change to the end of the relay.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// What is done to the publication before and after rows are inserted, and what the relay then says.
struct Case {
    name: &'static str,
    made: &'static str,
    change: &'static str,
    undo: &'static str,
    says: &'static str,
}

const PLAIN: &str = "SELECT";

/// Row filters and whole schemas came with 15.
const FROM_15: [&str; 2] = ["filter", "schema"];

const CASES: &[Case] = &[
    Case {
        name: "readd",
        made: PLAIN,
        change: "ALTER PUBLICATION walpost DROP TABLE outbox.messages",
        undo: "ALTER PUBLICATION walpost ADD TABLE outbox.messages",
        says: "publication walpost had outbox.messages dropped and added again",
    },
    Case {
        name: "swapped",
        made: PLAIN,
        change: "ALTER TABLE outbox.messages RENAME TO messages_old; \
                 CREATE TABLE outbox.messages (LIKE outbox.messages_old INCLUDING ALL)",
        undo: "SELECT",
        says: "outbox.messages is another table than before, which publication walpost does not publish",
    },
    Case {
        name: "partitioned",
        made: PLAIN,
        change: "ALTER TABLE outbox.messages RENAME TO messages_old; \
                 CREATE TABLE outbox.messages (LIKE outbox.messages_old INCLUDING DEFAULTS) PARTITION BY LIST (topic); \
                 CREATE TABLE outbox.messages_new PARTITION OF outbox.messages DEFAULT",
        undo: "SELECT",
        says: "outbox.messages is another table than before, which publication walpost does not publish",
    },
    Case {
        name: "noinsert",
        made: PLAIN,
        change: "ALTER PUBLICATION walpost SET (publish = 'delete')",
        undo: "SELECT",
        says: "publication walpost no longer publishes inserts",
    },
    Case {
        name: "removed",
        made: PLAIN,
        change: "ALTER PUBLICATION walpost DROP TABLE outbox.messages",
        undo: "SELECT",
        says: "publication walpost no longer publishes outbox.messages",
    },
    Case {
        name: "filter",
        made: PLAIN,
        change: "ALTER PUBLICATION walpost SET TABLE outbox.messages WHERE (topic = 'none')",
        undo: "SELECT",
        says: "publication walpost has another row filter for outbox.messages",
    },
    Case {
        name: "all",
        made: "DROP PUBLICATION walpost; CREATE PUBLICATION walpost FOR ALL TABLES WITH (publish = 'insert')",
        change: "ALTER PUBLICATION walpost SET (publish = 'update')",
        undo: "SELECT",
        says: "publication walpost no longer publishes inserts",
    },
    Case {
        name: "schema",
        made: "DROP PUBLICATION walpost; CREATE PUBLICATION walpost FOR TABLES IN SCHEMA outbox WITH (publish = 'insert')",
        change: "ALTER PUBLICATION walpost DROP TABLES IN SCHEMA outbox",
        undo: "ALTER PUBLICATION walpost ADD TABLES IN SCHEMA outbox",
        says: "publication walpost had outbox.messages dropped and added again",
    },
];

/// A world whose publication and slot are made in this order.
async fn world(server: &PostgresServer, prefix: &str, made: &str) -> World {
    let world = World::bare(server, KafkaBroker::shared().await, prefix, 1).await;
    let setup = world.command(["setup"]).output().await;
    assert!(setup.status.success(), "{setup:?}");
    if made != PLAIN {
        let client = world.database.client().await;
        client.execute("SELECT pg_drop_replication_slot($1::text::name)", &[&world.slot]).await.unwrap();
        client.batch_execute(made).await.unwrap();
        let make = "SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')";
        client.execute(make, &[&world.slot]).await.unwrap();
    }
    world
}

async fn is_noticed(server: &PostgresServer, case: &Case) -> Duration {
    let world = world(server, case.name, case.made).await;
    let client = world.database.client().await;
    let mut relay = world.relay().await;
    let mut committed = world.insert(&client, 2).await;
    world.caught_up().await;
    client.batch_execute(case.change).await.unwrap();
    let changed = Instant::now();
    let skipped = world.insert(&client, 3).await;
    client.batch_execute(case.undo).await.unwrap();
    ends_saying(
        &mut relay,
        NOTICED_WITHIN,
        &[case.says, ", after ", " and before ", "may have been skipped"],
    )
    .await;
    let took = changed.elapsed();
    let log = relay.log();
    let found = world.found_by(&finding(&log)).await;
    assert!(
        skipped.iter().all(|id| found.contains(id)),
        "{}: {found:?} lacks some of {skipped:?}",
        case.name
    );

    // The advice, taken word for word, brings what was skipped.
    let mend = if case.made == PLAIN {
        "ALTER PUBLICATION walpost SET (publish = 'insert'); ALTER PUBLICATION walpost SET TABLE outbox.messages"
    } else {
        "ALTER PUBLICATION walpost SET (publish = 'insert')"
    };
    client.batch_execute(mend).await.unwrap();
    assert!(log.contains("then `walpost audit`") && !log.contains("DELETE"), "{log}");
    let relay = world.relay().await;
    world.caught_up().await;
    send_what_is_missing(&world, &[]).await;
    committed.extend(skipped);
    let records = world.consume(committed.len()).await;
    check(&committed, &records).assert_exact();
    stop(relay).await;
    println!("{}: noticed after {took:.1?}", case.name);
    took
}

/// Does what an audit says: nothing else comes again.
pub(crate) async fn send_what_is_missing(world: &World, args: &[&str]) {
    let output = world.command(["audit", "--slot", &world.slot]).args(args).output().await;
    let said = String::from_utf8(output.stderr).unwrap();
    let [line] = commands(&said)[..] else { panic!("{said}") };
    paste(world, line).await;
}

async fn all_are_noticed(server: &PostgresServer) {
    let old = major(&server.client("postgres").await).await < 15;
    let cases: Vec<_> = CASES.iter().filter(|case| !(old && FROM_15.contains(&case.name))).collect();
    assert_eq!(cases.len(), if old { 6 } else { 8 });
    for some in cases.chunks(3) {
        let one = async |index: usize| match some.get(index) {
            Some(case) => is_noticed(server, case).await,
            None => Duration::ZERO,
        };
        tokio::join!(one(0), one(1), one(2));
    }
}

#[tokio::test]
async fn what_skips_rows_is_noticed() {
    all_are_noticed(&PostgresServer::start(&[]).await).await;
}

#[tokio::test]
async fn what_skips_rows_is_noticed_on_18() {
    all_are_noticed(&PostgresServer::start_version("18", &[]).await).await;
}

#[tokio::test]
async fn a_publication_made_anew_is_named() {
    let server = PostgresServer::start(&[]).await;
    if major(&server.client("postgres").await).await < 18 {
        one_made_anew_ends_the_stream(&server).await;
    } else {
        one_made_anew_skips_rows(&server).await;
    }
}

/// Servers before 18 end the stream at the first row of that time, and can't be read past it.
async fn one_made_anew_ends_the_stream(server: &PostgresServer) {
    let world = World::on(server, KafkaBroker::shared().await, "pubanew", 1).await;
    let client = world.database.client().await;
    let mut relay = world.relay().await;
    let mut committed = world.insert(&client, 2).await;
    world.caught_up().await;
    client.batch_execute("DROP PUBLICATION walpost").await.unwrap();
    committed.extend(world.insert(&client, 3).await);
    let words = ["SQLSTATE 42704", "the publication was missing", "pg_replication_slot_advance"];
    ends_saying(&mut relay, NOTICED_WITHIN, &words).await;
    let mend = format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn());", world.slot);
    let setup = world.command(["setup"]).output().await;
    let said = told(&setup);
    assert_eq!(setup.status.code(), Some(1), "{said}");
    let (_, at_its_end) = said.split_once("A relay will not start before slot").expect(&said);
    assert!(at_its_end.contains(&mend) && at_its_end.contains("`walpost replay`"), "{said}");
    assert!(!said.contains("`walpost run` publishes"), "{said}");
    let failed = fails_to_be_read(&world).await;
    assert_eq!(failed["sql"], mend.as_str(), "{failed}");
    let seen = told(&world.command(["status"]).output().await);
    let why =
        "a relay with these settings can't start: publication walpost was missing while rows were committed";
    assert!(seen.starts_with("NOBODY") && seen.contains(why) && seen.contains(&mend), "{seen}");
    // Also where dead letters are asked about before the stream is heard.
    for policy in ["halt", "dead-letter"] {
        let mut wedged = world.command(["run", "--on-refusal", policy]).spawn();
        ends_saying(&mut wedged, NOTICED_WITHIN, &words[..2]).await;
    }
    let log = relay.log();
    let advance = statement(&log, "SELECT pg_replication_slot_advance", "pg_current_wal_lsn())");
    client.batch_execute(&advance).await.unwrap();
    let found = world.found_by(&finding(&log)).await;
    assert!(committed[2..].iter().all(|id| found.contains(id)));
    let again = finding(&log).replace("SELECT *", "DELETE");
    let again =
        format!("WITH again AS ({again} RETURNING *) INSERT INTO outbox.messages SELECT * FROM again");
    client.batch_execute(&again).await.unwrap();
    let said = told(&world.command(["check"]).output().await);
    assert!(!said.contains("FAIL") && !said.contains("a relay ends there"), "{said}");
    let relay = world.relay().await;
    check(&committed, &world.consume(5).await).assert_nothing_lost();
    stop(relay).await;
    assert_eq!(copies(&client).await, 0);
}

/// What `check` fails at, and nothing else.
async fn fails_to_be_read(world: &World) -> serde_json::Value {
    let output = world.command(["check", "--json"]).output().await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<_> = found.as_array().unwrap().iter().filter(|one| one["outcome"] == "fail").collect();
    let [failed] = failed[..] else { panic!("{failed:?}") };
    let text = failed["text"].as_str().unwrap();
    assert_eq!(failed["subject"], "publication");
    assert!(
        text.contains("was missing while rows were committed") && text.contains("a relay ends there"),
        "{text}"
    );
    assert!(!found.to_string().contains("may never be sent"), "it is known by now: {found}");
    failed.clone()
}

/// Copies of slots that a look at the log has left behind.
async fn copies(client: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walpost_check%'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// The rows of that time may stand behind others that can be read, and the slot may never have been read.
#[tokio::test]
async fn a_slot_that_can_not_be_read_to_its_end_is_a_failure() {
    is_read_to_its_end(&PostgresServer::start(&[]).await).await;
}

#[tokio::test]
async fn a_slot_that_can_not_be_read_to_its_end_is_a_failure_on_14() {
    is_read_to_its_end(&PostgresServer::start_version("14", &[]).await).await;
}

#[tokio::test]
async fn a_slot_that_skips_rows_is_no_failure_on_18() {
    is_read_to_its_end(&PostgresServer::start_version("18", &[]).await).await;
}

async fn is_read_to_its_end(server: &PostgresServer) {
    let skips = major(&server.client("postgres").await).await >= 18;
    for was_read in [true, false] {
        let world = World::on(server, KafkaBroker::shared().await, "toitsend", 1).await;
        let client = world.database.client().await;
        if was_read {
            let relay = world.relay().await;
            world.insert(&client, 2).await;
            world.caught_up().await;
            stop(relay).await;
            // Before 15 the server counts it a moment later.
            let sql =
                "SELECT count(*) FROM pg_stat_replication_slots WHERE slot_name = $1 AND total_txns > 0";
            eventually("the server to count what was read", PATIENCE, async || {
                (client.query_one(sql, &[&world.slot]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
            })
            .await;
        }
        // Altered only: the server reads on, so that nothing is said of moving the slot.
        client.batch_execute("ALTER PUBLICATION walpost SET (publish = 'insert')").await.unwrap();
        world.insert(&client, 3).await;
        let output = world.command(["check"]).output().await;
        let said = told(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("rows committed before that change may never be sent"), was_read, "{said}");
        assert!(!said.contains("pg_replication_slot_advance"), "{said}");
        assert_eq!(copies(&client).await, 0);

        client.batch_execute("DROP PUBLICATION walpost").await.unwrap();
        let said = told(&world.command(["check"]).output().await);
        assert!(said.contains("publication walpost does not exist"), "{said}");
        world.insert(&client, 1).await;
        let setup = world.command(["setup"]).output().await;
        assert_eq!(setup.status.success(), skips, "{}", told(&setup));
        world.insert(&client, 2).await;
        if skips {
            let output = world.command(["check"]).output().await;
            assert_eq!(output.status.code(), Some(0), "{}", told(&output));
            assert!(!told(&setup).contains("will not start"), "{}", told(&setup));
            assert_eq!(told(&output).contains("may never be sent"), was_read, "{}", told(&output));
        } else {
            assert!(told(&setup).contains("A relay will not start before slot"), "{}", told(&setup));
            fails_to_be_read(&world).await;
        }
        assert_eq!(copies(&client).await, 0);
    }
}

#[tokio::test]
async fn a_publication_made_anew_is_named_on_18() {
    one_made_anew_skips_rows(&PostgresServer::start_version("18", &[]).await).await;
}

async fn one_made_anew_skips_rows(server: &PostgresServer) {
    let make = "CREATE PUBLICATION walpost FOR TABLE outbox.messages WITH (publish = 'insert', publish_via_partition_root = true)";
    for (prefix, rows, words) in [
        ("anewrows", 3, "the server skips rows"),
        ("anewnone", 0, "publication walpost was dropped and made anew"),
    ] {
        let world = World::on(server, KafkaBroker::shared().await, prefix, 1).await;
        let client = world.database.client().await;
        let mut relay = world.relay().await;
        world.insert(&client, 2).await;
        world.caught_up().await;
        client.batch_execute("DROP PUBLICATION walpost").await.unwrap();
        world.insert(&client, rows).await;
        client.batch_execute(make).await.unwrap();
        ends_saying(&mut relay, NOTICED_WITHIN, &[words]).await;
    }
}

/// While the relay could not look: at the next connect.
#[tokio::test]
async fn a_change_while_cut_off_is_noticed_at_the_next_connect() {
    let world = World::new("pubaway", 1).await;
    let client = world.database.client().await;
    let (proxy, mut relay) = world.wired_relay().await;
    world.insert(&client, 2).await;
    world.caught_up().await;
    proxy.cut();
    client.batch_execute("ALTER PUBLICATION walpost DROP TABLE outbox.messages").await.unwrap();
    let skipped = world.insert(&client, 3).await;
    client.batch_execute("ALTER PUBLICATION walpost ADD TABLE outbox.messages").await.unwrap();
    proxy.heal();
    ends_saying(&mut relay, Duration::from_secs(15), &["had outbox.messages dropped and added again"]).await;
    let found = world.found_by(&finding(&relay.log())).await;
    assert!(skipped.iter().all(|id| found.contains(id)));
}

/// Between two processes nothing is remembered, but the slot's own catalog horizon tells.
#[tokio::test]
async fn a_change_between_two_processes_is_warned_of() {
    let world = World::new("pubbetween", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    world.insert(&client, 2).await;
    world.caught_up().await;
    stop(relay).await;
    client.batch_execute("ALTER PUBLICATION walpost DROP TABLE outbox.messages").await.unwrap();
    let skipped = world.insert(&client, 3).await;
    client.batch_execute("ALTER PUBLICATION walpost ADD TABLE outbox.messages").await.unwrap();
    let relay = world.relay().await;
    relay.wait_for_log("was made or changed after the place at which slot", PATIENCE).await;
    let found = world.found_by(&finding(&relay.log())).await;
    assert!(skipped.iter().all(|id| found.contains(id)));
    stop(relay).await;
}

#[tokio::test]
async fn what_skips_nothing_is_warned_of_and_goes_on() {
    let world = World::new("harmless", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let owner = crate::support::unique("owner");
    client.batch_execute(&format!("CREATE ROLE {owner} SUPERUSER")).await.unwrap();
    for (sql, words) in [
        (
            "CREATE TABLE other (a int); ALTER PUBLICATION walpost ADD TABLE other".to_owned(),
            "lists other tables",
        ),
        (format!("ALTER PUBLICATION walpost OWNER TO {owner}"), "another owner"),
        ("ALTER PUBLICATION walpost SET (publish = 'insert')".to_owned(), "was altered and looks as before"),
    ] {
        client.batch_execute(&sql).await.unwrap();
        relay.wait_for_log(words, NOTICED_WITHIN).await;
    }
    let sent = world.insert(&client, 3).await;
    check(&sent, &world.consume(3).await).assert_exact();
    assert!(!relay.log().contains("\"retrying\""), "{}", relay.log());
    stop(relay).await;
    client.batch_execute(&format!("REASSIGN OWNED BY {owner} TO postgres; DROP ROLE {owner}")).await.unwrap();
}

#[tokio::test]
async fn a_filter_and_a_column_list_are_told_before_the_start() {
    let world = World::new("partly", 1).await;
    let client = world.database.client().await;
    for (list, code, words) in [
        (" WHERE (topic <> 'none')", 0, "sends only rows of outbox.messages for which"),
        (" (id, topic, payload, key, headers, created_at, correlation_id)", 0, "holds back event_type"),
        (" (id, topic, key)", 1, "holds back a column that is needed"),
    ] {
        let sql = format!("ALTER PUBLICATION walpost SET TABLE outbox.messages{list}");
        if major(&client).await < 15 {
            // There is nothing to tell.
            let refused = client.batch_execute(&sql).await.unwrap_err();
            assert_eq!(refused.code(), Some(&SqlState::SYNTAX_ERROR), "{refused}");
            continue;
        }
        client.batch_execute(&sql).await.unwrap();
        let output = world.command(["check"]).output().await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && said.contains("ALTER PUBLICATION walpost SET TABLE"), "{said}");
    }
    if major(&client).await >= 15 {
        let mut relay = world.command(["run"]).spawn();
        ends_saying(&mut relay, PATIENCE, &["holds back a column that is needed"]).await;
    }
}
