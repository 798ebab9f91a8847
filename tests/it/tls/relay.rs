//! The relay itself over TLS: records, faults, and certificates that change while it runs.

use std::fs;
use std::time::Duration;

use super::lab::{Lab, port};
use crate::support::certificates::{Authority, Wish};
use crate::support::proxy::Way;
use crate::support::{PATIENCE, Proxy, Walpost, check};
use crate::world::stop;

async fn reading(lab: &Lab, text: String) -> Walpost {
    let relay = lab.world.command(["run"]).env("WALPOST_DATABASE_URL", text).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    relay
}

/// How many connections of a role there are, and how many of them without TLS.
async fn connections(lab: &Lab, role: &str) -> (i64, i64) {
    let sql = "SELECT count(*), count(*) FILTER (WHERE NOT ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE usename = $1::text::name";
    let row = lab.client.query_one(sql, &[&role]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn records_flow_through_tls_whatever_happens_to_the_wire() {
    let lab = Lab::encrypted("flow").await;
    let oracle = lab.world.oracle().await;
    let proxy = Proxy::start(lab.server.address()).await;
    let (from, to) = (port(&lab.server.address()), proxy.address().port());
    let text = lab.text("anyhow", &lab.verified()).replace(&format!("port={from}"), &format!("port={to}"));
    let relay = reading(&lab, text).await;
    relay.wait_for_log("certificate and name verified", PATIENCE).await;
    let (all, plain) = connections(&lab, "anyhow").await;
    assert!(all >= 2 && plain == 0, "{all} connections, {plain} without TLS");

    lab.world.insert(&lab.client, 20_000).await;
    let large = "INSERT INTO outbox.messages (topic, payload) SELECT $1, to_json(repeat(md5(n::text), 12000)) \
                 FROM generate_series(1, 3) n";
    lab.client.execute(large, &[&lab.world.topic]).await.unwrap();
    lab.world.caught_up().await;
    // Torn in the middle of a record of TLS, at several places, then ended by the server.
    for bytes in [1, 5_000, 200_000] {
        let mark = relay.mark();
        proxy.reset_after(Way::Down, bytes);
        lab.world.insert(&lab.client, 3_000).await;
        relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
        lab.world.caught_up().await;
    }
    let mark = relay.mark();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'anyhow'";
    lab.client.batch_execute(end).await.unwrap();
    relay.wait_for_log_since(mark, "\"streaming\"", PATIENCE).await;
    lab.world.insert(&lab.client, 100).await;
    lab.world.caught_up().await;
    let committed = oracle.committed_ids().await;
    let records = lab.world.consume(committed.len()).await;
    assert_eq!(committed.len(), 29_103);
    check(&committed, &records).assert_nothing_lost();
    stop(relay).await;
}

#[tokio::test]
async fn certificates_are_changed_while_it_runs() {
    let lab = Lab::encrypted("rotated").await;
    let oracle = lab.world.oracle().await;
    let folder = tempfile::tempdir().unwrap();
    let (roots, certificate, key) =
        (folder.path().join("root.crt"), folder.path().join("our.crt"), folder.path().join("our.key"));
    let ours = || lab.authority.sign("ours", &Wish { common_name: "by_certificate", ..Wish::default() });
    let show = |pair: &crate::support::certificates::Pair| {
        fs::copy(&pair.certificate, &certificate).unwrap();
        fs::copy(&pair.key, &key).unwrap();
    };
    fs::copy(lab.authority.root(), &roots).unwrap();
    show(&ours());
    let [trusted, shown, with] = [&roots, &certificate, &key].map(|path| path.display());
    let more = format!("sslmode=verify-full sslrootcert={trusted} sslcert={shown} sslkey={with}");
    let relay = reading(&lab, lab.text("by_certificate", &more)).await;
    lab.world.insert(&lab.client, 10).await;
    lab.world.caught_up().await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'by_certificate'";

    // The server gets one from elsewhere before we know of it: that is no reason to give up, and is said.
    let next = Authority::new("The Next Authority");
    lab.present(&next.sign("server", &Wish::default())).await;
    let mark = relay.mark();
    lab.client.batch_execute(end).await.unwrap();
    let line = relay.wait_for_log_since(mark, "is signed by nobody that", PATIENCE).await;
    assert!(line.contains("root.crt") && line.contains("sslrootcert must hold"), "{line}");
    lab.world.insert(&lab.client, 10).await;
    fs::write(&roots, [fs::read(&roots).unwrap(), fs::read(next.root()).unwrap()].concat()).unwrap();
    relay.wait_for_log_since(mark, "\"streaming\"", Duration::from_secs(30)).await;
    lab.world.caught_up().await;

    // Half of our own is new: the key is not of the certificate.
    let pair = ours();
    fs::copy(&pair.certificate, &certificate).unwrap();
    let mark = relay.mark();
    lab.client.batch_execute(end).await.unwrap();
    relay.wait_for_log_since(mark, "it is not the key of", PATIENCE).await;
    fs::copy(&pair.key, &key).unwrap();
    relay.wait_for_log_since(mark, "\"streaming\"", Duration::from_secs(30)).await;
    lab.world.insert(&lab.client, 10).await;
    lab.world.caught_up().await;

    let committed = oracle.committed_ids().await;
    assert_eq!(committed.len(), 30);
    check(&committed, &lab.world.consume(30).await).assert_nothing_lost();
    stop(relay).await;
}
