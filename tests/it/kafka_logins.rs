//! Logging in to Kafka: every way that this build knows, what is said of one that is refused, and passwords that change.

use std::fs;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::check::Checked;
use crate::support::certificates::Authority;
use crate::support::walpost::Builder;
use crate::support::{PATIENCE, PostgresServer, SecureKafka, Walpost, unique};
use crate::world::{World, stop};

const PASSWORD: &str = "first-marker";
const RENEWED: &str = "second-marker";

/// The setting of a property, as a variable.
fn property(command: Builder, (name, value): (&str, &str)) -> Builder {
    command.env(&format!("WALPOST_KAFKA_{}", name.to_uppercase().replace('.', "_")), value)
}

/// `check` of a broker with these properties, beside the others of the test.
fn check(world: &World, brokers: &str, properties: &[(&str, &str)]) -> tokio::task::JoinHandle<Checked> {
    let command = world.command(["check"]).env("WALPOST_BROKERS", brokers);
    let command = properties.iter().fold(command, |command, given| property(command, *given));
    tokio::spawn(Checked::of(command))
}

/// A token that nobody has signed, for this long.
fn token_command(seconds: u32) -> String {
    let encode = "openssl base64 -A | tr '+/' '-_' | tr -d '='";
    format!(
        "now=$(date +%s); claims=$(printf '{{\"sub\":\"relay\",\"iat\":%s,\"exp\":%s}}' $now $((now + {seconds})) | {encode}); \
         printf '%s.%s.\\n' $(printf '{{\"alg\":\"none\"}}' | {encode}) $claims"
    )
}

#[tokio::test]
async fn each_way_to_log_in_works_and_what_is_wrong_is_named() {
    let secure = SecureKafka::start(PASSWORD).await;
    secure.set_password("relay", PASSWORD).await;
    let world = World::on(PostgresServer::shared().await, &secure.kafka, "logins", 1).await;
    let root = secure.authority.root().display().to_string();
    let somebody = Authority::new("Somebody");
    let stranger = somebody.root().display().to_string();
    let (certificate, key) =
        (secure.pair.certificate.display().to_string(), secure.pair.key.display().to_string());
    let (ssl, sasl) = (("security.protocol", "ssl"), ("security.protocol", "sasl_ssl"));
    let (trusted, token) = (("ssl.ca.location", root.as_str()), token_command(600));
    let mechanism = |name: &'static str| ("sasl.mechanism", name);
    let (user, password) = (("sasl.username", "relay"), ("sasl.password", PASSWORD));
    let wrong = ("sasl.password", "wrong-marker");
    let own = [("ssl.certificate.location", certificate.as_str()), ("ssl.key.location", key.as_str())];
    let [plain, small, large, bearer] =
        ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"].map(mechanism);
    let by_token = ("sasl.oauthbearer.token.command", token.as_str());

    let topic = unique("logins");
    secure.kafka.create_topic(&topic, 1).await;
    let insert = "INSERT INTO outbox.messages (topic, key, payload) VALUES ($1, 'k', '1')";
    world.database.client().await.execute(insert, &[&topic]).await.unwrap();

    let mut good = Vec::new();
    for (brokers, told, properties) in [
        (
            &secure.secure,
            "encrypted, logged in as relay by PLAIN",
            vec![sasl, trusted, plain, user, password],
        ),
        (&secure.secure, "as relay by SCRAM-SHA-256", vec![sasl, trusted, small, user, password]),
        (&secure.secure, "as relay by SCRAM-SHA-512", vec![sasl, trusted, large, user, password]),
        (&secure.secure, "logged in by OAUTHBEARER", vec![sasl, trusted, bearer, by_token]),
        (&secure.mutual, "encrypted, logged in by certificate", [vec![ssl, trusted], own.to_vec()].concat()),
    ] {
        good.push((told, check(&world, brokers, &properties)));
    }
    for (told, checked) in good {
        let checked = checked.await.unwrap();
        assert!(checked.find("kafka", "ok", told).is_some(), "{told}");
        checked.assert_well(&["producer", "write"]);
        assert!(checked.find("topic", "warn", &topic).is_some(), "{told}: it keeps one copy");
        assert!(checked.find("write", "ok", &topic).is_some(), "{told}");
    }

    let mut bad = Vec::new();
    let failing = ("sasl.oauthbearer.token.command", "echo no-ticket >&2; exit 4");
    for (brokers, told, properties) in [
        (&secure.secure, "uthentication failed", vec![sasl, trusted, plain, user, wrong]),
        (&secure.secure, "uthentication failed", vec![sasl, trusted, large, user, wrong]),
        (&secure.secure, "exit status: 4: no-ticket", vec![sasl, trusted, bearer, failing]),
        (
            &secure.secure,
            "verify failed",
            vec![sasl, ("ssl.ca.location", stranger.as_str()), plain, user, password],
        ),
        (&secure.strange, "verify failed", vec![ssl, trusted]),
        (&secure.expired, "verify failed", vec![ssl, trusted]),
        (&secure.mutual, "alert bad certificate", vec![ssl, trusted]),
    ] {
        bad.push((told, check(&world, brokers, &properties)));
    }
    for (told, checked) in bad {
        let checked = checked.await.unwrap();
        checked.advice("kafka", "fail", told);
        assert_eq!(checked.code, Some(1), "{told}");
    }
    // Whoever does not care about the name says so, and is told.
    let careless = [ssl, trusted, ("ssl.endpoint.identification.algorithm", "none")];
    let checked = check(&world, &secure.strange, &careless).await.unwrap();
    assert!(checked.find("kafka", "ok", "the brokers not verified").is_some());
}

/// What the listener answers.
async fn ask(relay: &Walpost, path: &str) -> String {
    let mut stream = TcpStream::connect(relay.listen_address().await).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_password_of_kafka_that_is_rotated_is_found_without_a_restart_and_told_nowhere() {
    let secure = SecureKafka::start("unused").await;
    secure.set_password("relay", PASSWORD).await;
    let mut world = World::on(PostgresServer::shared().await, &secure.kafka, "rotated", 1).await;
    world.for_relay = Some(secure.secure.clone());
    let client = world.database.client().await;
    let (folder, root) = (tempfile::tempdir().unwrap(), secure.authority.root().display().to_string());
    let path = folder.path().join("password");
    fs::write(&path, PASSWORD).unwrap();
    let from = format!("sasl.password@file={}", path.display());
    let relay = [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "relay"),
        ("ssl.ca.location", &root),
        ("debug", "all"),
    ]
    .into_iter()
    .fold(world.command(["run", "-X", &from]).env("WALPOST_LOG", "trace"), property)
    .spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    world.insert(&client, 10).await;
    world.caught_up().await;

    secure.set_password("relay", RENEWED).await;
    let mark = relay.mark();
    secure.proxy.reset();
    world.insert(&client, 10).await;
    relay.wait_for_log_since(mark, "Kafka can't be reached, trying on", PATIENCE).await;
    relay.wait_for_log_since(mark, "uthentication failed", PATIENCE).await;
    let ready = ask(&relay, "/readyz").await;
    fs::write(&path, format!("{RENEWED}\n")).unwrap();
    relay.wait_for_log_since(mark, "there is another password by now", PATIENCE).await;
    world.caught_up().await;
    assert!(world.consume(20).await.len() >= 20);

    let line = fs::read_to_string(format!("/proc/{}/cmdline", relay.id())).unwrap();
    let told = [line, ready, ask(&relay, "/metrics").await, ask(&relay, "/api/state").await, relay.log()];
    assert!(told[4].contains("SASL"), "librdkafka's own words are among them");
    for (text, secret) in told.iter().flat_map(|text| [PASSWORD, RENEWED].map(|secret| (text, secret))) {
        assert!(!text.contains(secret), "{secret} is told");
    }
    stop(relay).await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let secure = SecureKafka::start("unused").await;
    let mut world = World::on(PostgresServer::shared().await, &secure.kafka, "token", 1).await;
    world.for_relay = Some(secure.secure.clone());
    let client = world.database.client().await;
    let (folder, root) = (tempfile::tempdir().unwrap(), secure.authority.root().display().to_string());
    let count = folder.path().join("count");
    let command = format!("echo x >> {}; {}", count.display(), token_command(6));
    let relay = [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.token.command", &command),
        ("ssl.ca.location", &root),
        ("debug", "security"),
    ]
    .into_iter()
    .fold(world.command(["run"]).env("WALPOST_LOG", "trace"), property)
    .spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    world.insert(&client, 10).await;
    world.caught_up().await;
    crate::support::eventually("another token", PATIENCE, async || {
        (fs::read_to_string(&count).unwrap().lines().count() >= 3).then_some(())
    })
    .await;
    // The first one has expired by now.
    secure.proxy.reset();
    world.insert(&client, 10).await;
    world.caught_up().await;
    assert!(world.consume(20).await.len() >= 20);
    assert!(!relay.log().contains("eyJzdWIi"), "a token is told");
    stop(relay).await;
}
