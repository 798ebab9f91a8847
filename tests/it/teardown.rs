//! What a set-up leaves to others, what a teardown takes back, and what it names.

use crate::setup::{bare, fails, succeeds, text};
use crate::support::{KafkaBroker, PostgresServer, unique};
use crate::world::{World, stop};

/// A table that somebody else has made gets no functions that could not use it, and nothing of it is dropped.
#[tokio::test]
async fn a_table_of_your_own_gets_no_functions() {
    let world = bare("ofyourown").await;
    let client = world.database.client().await;
    let earlier = "CREATE FUNCTION publish(topic text, payload json, key text DEFAULT NULL, event_type text DEFAULT NULL, \
                   headers jsonb DEFAULT '{}', correlation_id text DEFAULT NULL) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'";
    let table = "CREATE TABLE events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), kind text, body json)";
    client.batch_execute(table).await.unwrap();
    let mapping = ["--map-topic", "{kind}", "--map-key", "{id}", "--map-value", "{body}"];
    let args = [&["setup", "--table", "events"], &mapping[..]].concat();
    let functions = async || {
        let sql = "SELECT coalesce(string_agg(proname || md5(prosrc), ' ' ORDER BY proname), '') FROM pg_proc \
                   WHERE pronamespace = 'public'::regnamespace";
        client.query_one(sql, &[]).await.unwrap().get::<_, String>(0)
    };
    let printed = succeeds(&world, &[&args[..], &["--print"]].concat()).await;
    assert!(!printed.contains("public.publish") && printed.contains("public.dead_letters"), "{printed}");
    let said = succeeds(&world, &args).await;
    assert!(!said.contains("publish ") && functions().await.is_empty(), "{said}");
    // That of an earlier set-up stays as it is.
    client.batch_execute(earlier).await.unwrap();
    let before = functions().await;
    succeeds(&world, &args).await;
    assert_eq!(functions().await, before);
    let relay = world.command(["run", "--table", "events"]).args(mapping).streaming().await;
    client.execute("INSERT INTO events (kind, body) VALUES ($1, '1')", &[&world.topic]).await.unwrap();
    assert_eq!(world.consume(1).await.len(), 1);
    stop(relay).await;

    fails(
        &world,
        &["teardown", "--table", "events", "--drop-table"],
        2,
        &["has not made table public.events"],
    )
    .await;
    let said = succeeds(&world, &["teardown", "--table", "events"]).await;
    assert!(said.contains("table public.events stays (its makers' to drop)"), "{said}");
    let drops = [
        "DROP TABLE public.dead_letters;",
        "DROP TABLE public.scheduled;",
        "DROP TABLE public.walpost_seal;",
        "DROP FUNCTION public.publish(text,json,text,text,jsonb,text);",
    ];
    for drop in drops {
        assert!(said.contains(drop), "{drop}: {said}");
        client.batch_execute(drop).await.unwrap();
    }
    assert!(said.contains("role walpost stays") && said.contains("DROP ROLE walpost;"), "{said}");
    let said = succeeds(&world, &["teardown", "--table", "events"]).await;
    assert!(!said.contains("these stay as well"), "{said}");
}

/// What set-up made is named by a teardown that leaves it, and gone after one that drops the table.
#[tokio::test]
async fn a_teardown_names_what_stays() {
    let server = PostgresServer::start(&[]).await;
    let world = World::on(&server, KafkaBroker::shared().await, "stays", 1).await;
    let client = world.database.client().await;
    let said = succeeds(&world, &["teardown"]).await;
    for name in [
        "table outbox.dead_letters",
        "table outbox.scheduled",
        "table outbox.walpost_seal",
        "function outbox.emit(text,json,text,text,jsonb,text)",
        "procedure outbox.retain(interval,integer)",
        "table outbox.messages stays (--drop-table drops it with its rows)",
    ] {
        assert!(said.contains(name), "{name}: {said}");
    }
    let said = succeeds(&world, &["teardown", "--drop-table"]).await;
    assert!(!said.contains("these stay as well"), "{said}");
    assert!(said.contains("DROP OWNED BY walpost; in each database"), "{said}");
    client.batch_execute("DROP OWNED BY walpost; DROP ROLE walpost;").await.unwrap();
    let said = succeeds(&world, &["teardown", "--drop-table"]).await;
    assert!(!said.contains("role walpost"), "{said}");
}

/// A slot does not tell with which publication it is read: as long as there is another one, the publication stays.
#[tokio::test]
async fn a_publication_that_others_may_need_stays() {
    let world = World::new("shared", 1).await;
    let relay = world.relay().await;
    let (trial, client) = (unique("trial"), world.database.client().await);
    let publications = async || {
        let sql = "SELECT coalesce(string_agg(pubname, ' ' ORDER BY pubname), '') FROM pg_publication";
        client.query_one(sql, &[]).await.unwrap().get::<_, String>(0)
    };
    succeeds(&world, &["setup", "--slot", &trial]).await;
    let said = succeeds(&world, &["teardown", "--slot", &trial]).await;
    assert!(said.contains(&format!("slot {trial} is gone")), "{said}");
    let words =
        format!("publication walpost stays (slot {} of this database may be read with it)", world.slot);
    assert!(said.contains(&words) && said.contains("DROP PUBLICATION walpost;"), "{said}");
    assert_eq!(publications().await, "walpost");
    world.insert(&client, 2).await;
    assert_eq!(world.consume(2).await.len(), 2, "the other relay goes on");
    stop(relay).await;
    let said = succeeds(&world, &["teardown"]).await;
    assert!(said.contains("and publication walpost are gone") && publications().await.is_empty(), "{said}");
}

/// What a connector has made is the connector's, also while it is idle.
#[tokio::test]
async fn the_end_of_a_trial_leaves_the_connector_what_it_needs() {
    let world = bare("trial").await;
    let (trial, theirs, client) = (unique("trial"), unique("theirs"), world.database.client().await);
    let sql = "CREATE TABLE outboxevent (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb); \
               CREATE PUBLICATION of_debezium FOR TABLE outboxevent";
    client.batch_execute(sql).await.unwrap();
    client
        .execute("SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')", &[&theirs])
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.properties");
    let options = format!(
        "connector.class=io.debezium.connector.postgresql.PostgresConnector\ntopic.prefix=shop\nslot.name={theirs}\n\
         publication.name=of_debezium\ntransforms=outbox\ntransforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\nvalue.converter=org.apache.kafka.connect.storage.StringConverter\n"
    );
    std::fs::write(&file, options).unwrap();
    let of_trial = |command| {
        let file = file.to_str().unwrap();
        world.command([command, "--preset", "debezium", "--debezium-config", file]).env("WALPOST_SLOT", "")
    };
    let left = async || {
        let sql = "SELECT (SELECT count(*) FROM pg_publication), (SELECT coalesce(string_agg(slot_name, ' '), '') \
                   FROM pg_replication_slots WHERE database = current_database())";
        let row = client.query_one(sql, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, String>(1))
    };
    let output = of_trial("setup").args(["--slot", &trial]).output().await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = of_trial("teardown").output().await;
    let said = text(&output);
    assert!(
        output.status.code() == Some(2) && said.contains(&format!("slot {theirs} is the connector's own")),
        "{said}"
    );
    let output = of_trial("teardown").args(["--slot", &trial]).output().await;
    let said = text(&output);
    assert!(
        output.status.success() && said.contains("publication of_debezium stays (it is the connector's"),
        "{said}"
    );
    assert_eq!(left().await, (1, theirs.clone()));
    // Said by name, the slot goes; the publication only if that is said as well.
    for (more, expected) in
        [(vec![], (1, String::new())), (vec!["--publication", "of_debezium"], (0, String::new()))]
    {
        let output = of_trial("teardown").args(["--slot", &theirs]).args(more).output().await;
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(left().await, expected);
    }
}
