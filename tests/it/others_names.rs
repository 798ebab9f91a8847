//! Somebody may make functions and operators in a schema of the search_path. None is ever called in another's name.

use std::fmt::Write;

use crate::later::held;
use crate::retain::{OLD, bare, insert_at, passed, removed, retain};
use crate::support::{PATIENCE, eventually};
use crate::world::{World, stop};

/// Each fits better than the server's own one, as an unqualified call in the SQL files and in the program would make it.
fn hostile() -> String {
    let mut sql = "CREATE TYPE mood AS ENUM ('new', 'sent');".to_owned();
    let raise = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'somebody else was called'; END $$;";
    for (name, arguments, result) in [
        ("format", "text, text", "text"),
        ("format", "text, text, text", "text"),
        ("format", "text, text, regrole", "text"),
        ("format", "text, name, regrole", "text"),
        ("format", "text, regclass", "text"),
        ("format", "text, bigint", "text"),
        ("format", "text, name", "text"),
        ("format", "text, name, name", "text"),
        ("format", "text, interval, integer", "text"),
        ("format", "text, integer, name", "text"),
        ("format", "text, integer, name, timestamptz", "text"),
        ("count", "pg_lsn", "bigint"),
        ("to_json", "text", "json"),
        ("to_json", "uuid", "json"),
        ("to_jsonb", "uuid", "jsonb"),
        ("unnest", "text[]", "SETOF text"),
        ("unnest", "oid[]", "SETOF oid"),
        ("unnest", "pg_lsn[]", "SETOF pg_lsn"),
        ("convert_to", "text, text", "bytea"),
        ("lower", "varchar", "text"),
        ("pg_create_logical_replication_slot", "text, text", "text"),
        ("pg_create_logical_replication_slot", "text, text, boolean, boolean, boolean", "text"),
        ("concat", "text[], text", "text[]"),
        ("concat", "text, json", "text"),
        ("equals", "mood, mood", "boolean"),
        ("equals", "varchar, varchar", "boolean"),
    ] {
        writeln!(sql, "CREATE FUNCTION public.{name}({arguments}) RETURNS {result} {raise}").unwrap();
    }
    for (operator, left, right, function) in [
        ("||", "text[]", "text", "concat"),
        ("||", "text", "json", "concat"),
        ("=", "mood", "mood", "equals"),
        ("=", "varchar", "varchar", "equals"),
    ] {
        let of = format!("LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.{function}");
        writeln!(sql, "CREATE OPERATOR public.{operator} ({of});").unwrap();
    }
    sql
}

async fn run(world: &World, args: &[&str]) -> String {
    let output = world.command([]).args(args).output().await;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{args:?}: {text}");
    text
}

#[tokio::test]
async fn the_servers_own_functions_are_called_whoever_else_has_some() {
    let world = bare("names").await;
    let client = world.database.client().await;
    client.batch_execute(&hostile()).await.unwrap();
    let name: String = client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    run(&world, &["setup"]).await;
    client.batch_execute(crate::later::COLUMN).await.unwrap();
    // What the operator writes finds what he has made.
    client
        .batch_execute("CREATE FUNCTION is_mine(json) RETURNS boolean LANGUAGE sql AS 'SELECT true'")
        .await
        .unwrap();
    client.batch_execute(&format!("ALTER DATABASE {name} SET search_path = public")).await.unwrap();
    insert_at(&world, &client, OLD, 3).await;
    let relay = world.command(["run", "--on-refusal", "dead-letter"]).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let later =
        "INSERT INTO outbox.messages (topic, payload, scheduled_at) VALUES ($1, '1', now() + interval '1 s')";
    client.execute(later, &[&world.topic]).await.unwrap();
    assert!(run(&world, &["replay", "--where", "is_mine(payload)"]).await.contains("4 rows"));
    eventually("no row to wait", PATIENCE, async || (held(&client).await == 0).then_some(())).await;
    assert!(world.consume(8).await.len() >= 8);
    for command in ["check", "status", "setup"] {
        run(&world, &[command]).await;
    }
    passed(&world).await;
    removed(&retain(&world, "1 day").await, 3, 0);
    assert!(!relay.log().contains("\"retrying\""), "{}", relay.log());
    stop(relay).await;
    run(&world, &["teardown"]).await;
    run(&world, &["setup", "--backfill", "all"]).await;
}

/// A key of a type of somebody's own, and a trigger that finds what it names by the role's search_path.
#[tokio::test]
async fn rows_are_written_back_by_the_servers_own_operators_and_triggers_find_what_they_name() {
    let world = bare("names").await;
    let client = world.database.client().await;
    let schema = "CREATE TABLE marked (id text); \
         CREATE TABLE events (feeling mood, id varchar(20), topic text, payload text, status varchar(9) DEFAULT 'new', PRIMARY KEY (feeling, id)); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO marked VALUES (NEW.id); RETURN NEW; END $$; \
         CREATE TRIGGER note AFTER UPDATE ON events FOR EACH ROW EXECUTE FUNCTION note()";
    client.batch_execute(&(hostile() + schema)).await.unwrap();
    let topic = world.topic.clone();
    let args = [
        "--table",
        "events",
        "--map-topic",
        &topic,
        "--map-key",
        "none",
        "--map-value",
        "{payload}",
        "--map-timestamp",
        "commit",
        "--map-own-headers",
        "no",
        "--map-mark",
        "status=SENT",
    ];
    run(&world, &[&["setup"][..], &args].concat()).await;
    let relay = world.command(["run", "--write-back", "mark"]).args(args).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    client
        .batch_execute(
            "INSERT INTO events (feeling, id, payload) VALUES ('new', 'a', '1'), ('sent', 'a', '2')",
        )
        .await
        .unwrap();
    assert_eq!(world.consume(2).await.len(), 2);
    world.caught_up().await;
    let marked = "SELECT count(*) FROM events e JOIN marked m ON m.id OPERATOR(pg_catalog.=) e.id::text WHERE lower(e.status::text) LIKE 'sent'";
    let count: i64 = client.query_one(marked, &[]).await.unwrap().get(0);
    assert_eq!(count, 4, "two rows, each of which was noted twice by one id");
    stop(relay).await;
}
