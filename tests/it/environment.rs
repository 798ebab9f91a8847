//! What goes on around the relay: transactions that stay open, clocks that jump, disks that fill, names that move.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::life::get;
use crate::support::clock::Clock;
use crate::support::room::Room;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Proxy, Walpost, check, eventually};
use crate::world::{World, stop};

async fn status(world: &World) -> Value {
    let output = world.command(["status", "--json"]).output().await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn status_text(world: &World) -> String {
    let output = world.command(["status"]).output().await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Commits rows of the outbox, and log beside them, until the slot has confirmed it and the server has looked at
/// what it still needs.
async fn much_is_committed(world: &World, client: &Client) -> Vec<uuid::Uuid> {
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.extend(world.insert(client, 5).await);
        let filler = "INSERT INTO filler SELECT repeat(md5(n::text), 32) FROM generate_series(1, 5000) n";
        client.batch_execute(filler).await.unwrap();
        // The server notes at a checkpoint which transactions are running, and goes by that.
        client.batch_execute("CHECKPOINT").await.unwrap();
    }
    world.caught_up().await;
    sent
}

/// Waits until the slot lets go of the log but for a little.
async fn the_log_is_let_go(world: &World, client: &Client) {
    eventually("the log to be let go", PATIENCE, async || {
        client.batch_execute("CHECKPOINT").await.unwrap();
        (status(world).await["retained_bytes"].as_i64().unwrap() < 1 << 20).then_some(())
    })
    .await;
}

/// What others commit meanwhile arrives and is confirmed; the log is held back, and `status` says by whom.
#[tokio::test]
async fn a_transaction_that_stays_open_is_named_and_holds_back_only_the_log() {
    let server = PostgresServer::start(&[("max_prepared_transactions", "2")]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "open", 1).await;
    let oracle = world.oracle().await;
    let relay = world.relay().await;
    let client = world.database.client().await;
    client.batch_execute("CREATE TABLE filler (text text); CREATE TABLE other (a int)").await.unwrap();
    world.caught_up().await;
    the_log_is_let_go(&world, &client).await;
    assert_eq!(status(&world).await["oldest_transaction"], Value::Null);

    let mut first = world.database.client().await;
    first.batch_execute("SET application_name = 'month end'").await.unwrap();
    let open = first.transaction().await.unwrap();
    open.batch_execute("INSERT INTO other VALUES (1)").await.unwrap();
    let sql = "SELECT pg_backend_pid(), pg_current_xact_id()::xid::text";
    let row = open.query_one(sql, &[]).await.unwrap();
    let (pid, xid): (i32, String) = (row.get(0), row.get(1));
    let insert = "INSERT INTO outbox.messages (topic, key, payload) SELECT $1, 'late', to_json(n) \
                  FROM generate_series(1, 3) n RETURNING id";
    let rows = open.query(insert, &[&world.topic]).await.unwrap();
    let mut late: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let mut sent = much_is_committed(&world, &client).await;
    check(&sent, &world.consume(sent.len()).await).assert_exact();

    let told = status(&world).await;
    assert!(told["retained_bytes"].as_i64().unwrap() > 20 << 20, "{told}");
    assert!(told["lag_bytes"].as_i64().unwrap() < 1 << 20, "{told}");
    let culprit = &told["oldest_transaction"];
    assert_eq!((&culprit["pid"], &culprit["xid"]), (&pid.into(), &xid.into()), "{told}");
    assert_eq!(culprit["application"], "month end");
    assert_eq!((&culprit["user"], &culprit["state"]), (&"postgres".into(), &"idle in transaction".into()));
    assert_eq!(culprit["database"], world.database.name);
    assert!(culprit["since"].is_string() && culprit["seconds"].as_f64().unwrap() > 0.0, "{told}");
    let text = status_text(&world).await;
    for part in ["oldest open", "month end", &format!("pg_terminate_backend({pid})")] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }

    open.commit().await.unwrap();
    sent.append(&mut late);
    let arrived = world.consume(sent.len()).await;
    check(&sent, &arrived).assert_exact();
    assert_eq!(oracle.committed_ids().await, sent, "the late ones are last in the order of commits as well");
    world.caught_up().await;
    the_log_is_let_go(&world, &client).await;

    a_prepared_one_is_named(&world, &client).await;
    stop(relay).await;
}

/// The worst of them, since no session shows it.
async fn a_prepared_one_is_named(world: &World, client: &Client) {
    let prepare = "BEGIN; INSERT INTO other VALUES (2); PREPARE TRANSACTION 'it''s forgotten'";
    client.batch_execute(prepare).await.unwrap();
    let told = status(world).await;
    let culprit = &told["oldest_transaction"];
    assert_eq!((&culprit["prepared"], &culprit["pid"]), (&"it's forgotten".into(), &Value::Null), "{told}");
    let text = status_text(world).await;
    assert!(text.contains("ROLLBACK PREPARED 'it''s forgotten'"), "{text}");
    client.batch_execute("ROLLBACK PREPARED 'it''s forgotten'").await.unwrap();
    assert_eq!(status(world).await["oldest_transaction"], Value::Null);
}

/// How many days ahead of ours the clock was that stamped a line of the log.
fn days_ahead(line: &str) -> i64 {
    let line: Value = serde_json::from_str(line).unwrap();
    let stamp = line["timestamp"].as_str().unwrap();
    let date = |text: &str| -> i64 {
        let output = std::process::Command::new("date").args(["-u", "-d", text, "+%s"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    // A test may wait for a minute, not for half a day.
    (date(stamp) - date("now") + 43_200).div_euclid(86_400)
}

/// Rows flow until `done` ends.
async fn while_rows_flow<T>(world: &World, client: &Client, done: impl Future<Output = T>) -> T {
    let flow = async {
        loop {
            world.insert(client, 20).await;
        }
    };
    let result = tokio::select! {
        result = done => result,
        () = flow => unreachable!("it never ends"),
    };
    // The last transaction is committed all the same: behind it on the wire, this waits for it.
    client.batch_execute("").await.unwrap();
    result
}

/// Forward it looks like a sleep of the machine, in which another relay may have taken the slot: the lease is given
/// up. Back it would keep librdkafka's threads waiting: the producer is given up. Both are taken anew at once.
#[tokio::test]
async fn a_clock_that_jumps_loses_nothing() {
    let world = World::new("clock", 1).await;
    let oracle = world.oracle().await;
    let client = world.database.client().await;
    let clock = Clock::new();
    let relay = clock.of(world.command(["run"])).spawn();
    let line = relay.wait_for_log("\"streaming\"", PATIENCE).await;
    assert_eq!(days_ahead(&line), 0, "{line}");
    for (day, says) in [(1, "stopped publishing"), (-1, "the clock was put back")] {
        let took = while_rows_flow(&world, &client, async {
            world.caught_up().await;
            let (mark, jumped) = (relay.mark(), Instant::now());
            clock.set_days(day);
            let line = relay.wait_for_log_since(mark, says, PATIENCE).await;
            assert_eq!(days_ahead(&line), day, "{line}");
            relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
            let took = jumped.elapsed();
            world.caught_up().await;
            took
        })
        .await;
        world.caught_up().await;
        let committed = oracle.committed_ids().await;
        let tally = check(&committed, &world.consume(committed.len()).await);
        println!(
            "to day {day}: streaming again after {took:.2?}, {} of {} repeated",
            tally.repeated,
            committed.len()
        );
        tally.assert_nothing_lost();
        // As long as a relay needs that finds the session of its former self still there.
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    assert_eq!(relay.log().matches("\"retrying\"").count(), 2, "{}", relay.log());
    stop(relay).await;
}

/// librdkafka's threads wait for moments of the wall clock: put back, such a wait could last for days.
#[tokio::test]
async fn a_clock_put_back_during_an_outage_delays_nothing() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(PostgresServer::shared().await, &broker, "putback", 1).await;
    let client = world.database.client().await;
    let clock = Clock::new();
    let relay = clock.of(world.command(["run"])).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    let mut sent = world.insert(&client, 5).await;
    world.caught_up().await;
    broker.proxy.cut();
    sent.extend(world.insert(&client, 5).await);
    let address = relay.listen_address().await;
    eventually("the broker to be missed", PATIENCE, async || {
        (get(address, "/readyz").await.0 == 503).then_some(())
    })
    .await;
    clock.set_days(-2);
    sent.extend(world.insert(&client, 5).await);
    let healed = Instant::now();
    broker.proxy.heal();
    world.caught_up().await;
    println!("two days back in an outage: caught up after {:.2?}", healed.elapsed());
    check(&sent, &world.consume(sent.len()).await).assert_nothing_lost();
    eventually("the broker's fault to be over", PATIENCE, async || {
        (get(address, "/readyz").await.0 == 200).then_some(())
    })
    .await;
    assert!(healed.elapsed() < Duration::from_secs(20), "{:?}", healed.elapsed());
    stop(relay).await;
}

/// How long a relay takes to go on, counted from now, and by which way it then reaches the server.
async fn goes_on_by(relay: &Walpost, mark: usize, way: &Proxy) -> Duration {
    let moved = Instant::now();
    relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    assert!(way.connections() > 0);
    moved.elapsed()
}

/// The name of the database leads to another address, and for a while to none.
#[tokio::test]
async fn a_name_that_moves_is_followed() {
    let world = World::new("moves", 1).await;
    let oracle = world.oracle().await;
    let client = world.database.client().await;
    let (old, url) = world.wire().await;
    let mut elsewhere = old.address();
    elsewhere.set_ip([127, 0, 0, 2].into());
    let new = Proxy::start_at(elsewhere, old.target()).await;
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let lead_to = |lines: &str| std::fs::write(hosts.path(), lines).unwrap();
    let room = Room::new(&format!("mount --bind '{}' /etc/hosts", hosts.path().display())).await;
    lead_to("127.0.0.1 database.walpost.test\n");
    let url = url.replace("127.0.0.1", "database.walpost.test");
    let relay = world.command(["run"]).env("WALPOST_DATABASE_URL", url).inside(&room).spawn();
    goes_on_by(&relay, 0, &old).await;
    world.insert(&client, 5).await;
    world.caught_up().await;

    let mark = relay.mark();
    lead_to("127.0.0.2 database.walpost.test\n");
    old.cut();
    world.insert(&client, 5).await;
    println!("moved: streaming again after {:.2?}", goes_on_by(&relay, mark, &new).await);
    world.caught_up().await;

    let mark = relay.mark();
    lead_to("");
    new.cut();
    world.insert(&client, 5).await;
    relay.wait_for_log_since(mark, "\"retrying\"", PATIENCE).await;
    let address = relay.listen_address().await;
    eventually("the name to be missed", PATIENCE, async || {
        let (code, body) = get(address, "/readyz").await;
        (code == 503 && body.contains("database.walpost.test")).then_some(())
    })
    .await;
    old.heal();
    let mark = relay.mark();
    lead_to("127.0.0.1 database.walpost.test\n");
    let took = goes_on_by(&relay, mark, &old).await;
    println!("known again: streaming again after {took:.2?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    world.insert(&client, 5).await;
    world.caught_up().await;
    let committed = oracle.committed_ids().await;
    let records = world.consume(committed.len()).await;
    assert_eq!(committed.len(), 20);
    check(&committed, &records).assert_nothing_lost();
    stop(relay).await;
}
