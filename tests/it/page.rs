//! The page of a real relay in a real browser.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::dead_letters::{insert, quick};
use crate::life::get;
use crate::support::browser::Browser;
use crate::support::host::cached;
use crate::support::{KafkaBroker, PATIENCE, PostgresServer, Walpost, eventually, unique};
use crate::world::{World, stop};

const TOKEN: &str = "open-sesame-open-sesame";
/// The page asks each second.
const SOON: Duration = Duration::from_secs(5);

/// A relay whose page wants the token and lets whoever has it act.
async fn guarded(world: &World) -> (Walpost, SocketAddr) {
    let command = quick(world.command(["run", "--on-refusal", "dead-letter", "--page-actions"]));
    let relay = command.file("token", TOKEN).env("WALPOST_LISTEN_TOKEN_FILE", "token").spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    let address = relay.listen_address().await;
    (relay, address)
}

async fn page_of(address: SocketAddr) -> Browser {
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{address}/")).await;
    browser
}

/// Nothing was asked of anybody else, and the console has no complaint.
fn was_quiet(browser: &Browser, address: SocketAddr) {
    let requests = browser.told("Network.requestWillBeSent");
    assert!(requests.len() > 1, "the page asks the relay");
    for request in &requests {
        let url = request["request"]["url"].as_str().unwrap();
        assert!(url.starts_with(&format!("http://{address}/")) || url.starts_with("data:"), "{url}");
    }
    for complaint in ["Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"] {
        assert_eq!(browser.told(complaint), Vec::<Value>::new(), "{complaint}");
    }
}

/// What axe-core, the usual checker of accessibility, finds on the page as it is now.
async fn faults(browser: &mut Browser) -> Vec<String> {
    let axe = std::fs::read_to_string(cached("axe")).expect("`scripts/install axe` fetches it");
    browser.say("Runtime.evaluate", json!({"expression": axe})).await;
    let found = browser.value("axe.run().then((found) => found.violations)").await;
    let told = |it: &Value| format!("{} {}: {}", it["impact"], it["id"], it["nodes"][0]["html"]);
    found.as_array().unwrap().iter().map(told).collect()
}

/// On a phone and on a screen, by day and by night.
async fn looks_well(browser: &mut Browser) {
    for (width, is_dark) in [(360, false), (360, true), (1280, true), (1280, false)] {
        browser.resize(width, 800).await;
        browser.prefer_dark(is_dark).await;
        let over = browser.value("document.documentElement.scrollWidth - innerWidth").await;
        assert!(over.as_i64().is_some_and(|over| over <= 0), "{over} pixels too wide at {width}");
        assert_eq!(faults(browser).await, Vec::<String>::new(), "{width} wide, dark: {is_dark}");
    }
}

#[tokio::test]
async fn the_page_shows_how_it_flows_and_what_is_wrong() {
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(PostgresServer::shared().await, &broker, "page", 1).await;
    let relay = world.relay().await;
    let address = relay.listen_address().await;
    let mut browser = page_of(address).await;
    browser.sees("#state-word", "Streaming", PATIENCE).await;
    browser.sees("#about", &world.slot, SOON).await;
    browser.sees("#about", &world.database.name, SOON).await;
    browser.sees("#events", "streaming", SOON).await;
    let policy = &browser.told("Network.responseReceived")[0]["response"]["headers"];
    let policy = policy["content-security-policy"].as_str().or(policy["Content-Security-Policy"].as_str());
    assert!(
        policy.is_some_and(|it| it.starts_with("default-src 'none'") && !it.contains("unsafe")),
        "{policy:?}"
    );

    let client = world.database.client().await;
    world.insert(&client, 700).await;
    browser.sees("#published", "700 since the start", SOON).await;
    browser.sees("#p99", "99 % within", SOON).await;
    let curve = "document.querySelector('#plot-rate .curve').getAttribute('d')";
    assert!(browser.value(curve).await.as_str().is_some_and(|path| path.contains('L')), "no curve");
    looks_well(&mut browser).await;

    broker.proxy.cut();
    world.insert(&client, 3).await;
    browser.sees("#state-word", "Stalled: publishing", Duration::from_secs(15)).await;
    browser.sees("#advice", "--brokers", SOON).await;
    assert!(!browser.text("#reason").await.is_empty());
    browser.sees("#events", "stalled (publishing)", SOON).await;
    browser.sees("#announce", "stalled", SOON).await;
    assert_eq!(faults(&mut browser).await, Vec::<String>::new());
    broker.proxy.heal();
    browser.sees("#state-word", "Streaming", PATIENCE).await;
    was_quiet(&browser, address);
    stop(relay).await;
}

/// Writes other log until the server keeps so much for the slot that it is nearly lost.
async fn fill(world: &World, client: &Client) {
    let left = "SELECT safe_wal_size FROM pg_replication_slots WHERE slot_name = $1";
    while client.query_one(left, &[&world.slot]).await.unwrap().get::<_, i64>(0) > 14 << 20 {
        let write = "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))";
        client.batch_execute(write).await.unwrap();
    }
}

async fn readiness(address: SocketAddr) -> (u16, Value) {
    let (code, body) = get(address, "/readyz").await;
    (code, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn a_slot_that_is_nearly_lost_is_in_the_headline_whatever_else_is_wrong() {
    let options = [("max_slot_wal_keep_size", "64MB"), ("max_wal_size", "4GB"), ("checkpoint_timeout", "1h")];
    let server = PostgresServer::start(&options).await;
    let broker = KafkaBroker::start_behind_proxy().await;
    let world = World::behind(&server, &broker, "pageroom", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    let address = relay.listen_address().await;
    assert_eq!(readiness(address).await.1["filling"], Value::Null);
    let mut other = world.database.client().await;
    let open = other.transaction().await.unwrap();
    // One that has written nothing would hold nothing.
    open.batch_execute("CREATE TABLE other (a int)").await.unwrap();
    fill(&world, &client).await;
    // At the next sight of the slot, each two seconds.
    let line = relay.wait_for_log("the slot is lost, and rows with it, once another", SOON).await;
    assert!(line.contains("if the disk has room: ALTER SYSTEM SET max_slot_wal_keep_size = '"), "{line}");

    // It streams well, and the slot is held by the transaction.
    let mut browser = page_of(address).await;
    browser.sees("#state-word", "Streaming, and the slot is nearly lost", PATIENCE).await;
    browser.sees("#filling", "the slot is lost, and rows with it, once another", SOON).await;
    browser.sees("#advice", "end the transaction that has been open for longest", SOON).await;
    browser.sees("#announce", "streaming, and the slot is nearly lost", SOON).await;
    browser.sees("#forecast", "left until the slot is lost", SOON).await;
    looks_well(&mut browser).await;
    let (code, answer) = readiness(address).await;
    assert_eq!((code, answer["state"].as_str()), (200, Some("streaming")), "records flow: {answer}");
    assert!(answer["filling"]["safe_bytes"].as_u64().is_some_and(|left| left <= 16 << 20), "{answer}");

    // The broker goes as well: both are told, each with what to do.
    broker.proxy.cut();
    world.insert(&client, 3).await;
    browser.sees("#state-word", "Stalled: publishing, and the slot is nearly lost", PATIENCE).await;
    browser.sees("#filling", "of log are written", SOON).await;
    browser.sees("#advice", "--brokers", SOON).await;
    browser
        .sees("#advice", "to gain time, if the disk has room: ALTER SYSTEM SET max_slot_wal_keep_size", SOON)
        .await;
    assert!(!browser.text("#reason").await.is_empty());
    looks_well(&mut browser).await;
    let (code, answer) = readiness(address).await;
    assert_eq!((code, answer["stage"].as_str()), (503, Some("publishing")), "{answer}");
    for (word, says) in [("reason", "of log are written"), ("advice", "to gain time")] {
        assert!(answer["filling"][word].as_str().is_some_and(|text| text.contains(says)), "{answer}");
        assert!(answer[word].as_str().is_some_and(|text| !text.contains(says)), "{answer}");
    }

    broker.proxy.heal();
    open.rollback().await.unwrap();
    world.caught_up().await;
    eventually("the room to be back", PATIENCE, async || {
        client.batch_execute("CHECKPOINT").await.unwrap();
        let word = browser.text("#state-word").await;
        (word == "Streaming" && browser.text("#filling").await.is_empty()).then_some(())
    })
    .await;
    stop(relay).await;
}

#[tokio::test]
async fn the_page_goes_on_with_the_next_relay_and_says_when_there_is_none() {
    let world = World::new("pageagain", 1).await;
    let relay = world.relay().await;
    let address = relay.listen_address().await;
    world.insert(&world.database.client().await, 5).await;
    let mut browser = page_of(address).await;
    browser.sees("#published", "5 since the start", PATIENCE).await;
    stop(relay).await;
    browser.sees("#link", "does not answer since", PATIENCE).await;
    let relay = world.command(["run", "--listen", &address.to_string()]).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    browser.sees("#link", "live", PATIENCE).await;
    browser.sees("#published", "0 since the start", SOON).await;
    stop(relay).await;
}

/// Moves the focus with the keyboard alone until it is there.
async fn tab_to(browser: &mut Browser, selector: &str) {
    for _ in 0..40 {
        browser.press("Tab").await;
        if browser.value(&format!("document.activeElement.matches({selector:?})")).await == true {
            let ring = browser.value("getComputedStyle(document.activeElement).outlineStyle").await;
            assert_eq!(ring, "solid", "the focus of {selector} is seen");
            return;
        }
    }
    panic!("the keyboard does not reach {selector}");
}

#[tokio::test]
async fn letters_are_replayed_and_discarded_by_keyboard_with_the_token() {
    let world = World::new("pageletters", 1).await;
    let client = world.database.client().await;
    let (relay, address) = guarded(&world).await;
    let (missing, hostile) = (unique("missing"), "<img src=x onerror=alert(1)>");
    insert(&client, &missing, Some(hostile), "\"hidden-payload\"").await;
    insert(&client, &unique("missing"), Some("\u{202E}k"), "2").await;
    let mut browser = page_of(address).await;
    browser.sees("#gate-title", "asks for its token", PATIENCE).await;
    assert_eq!(browser.text("#state-word").await, "");
    assert_eq!(faults(&mut browser).await, Vec::<String>::new());
    for (token, then) in [("wrong-wrong-wrong-wrong", "#gate-error"), (TOKEN, "#state-word")] {
        tab_to(&mut browser, "#token").await;
        browser.type_text(token).await;
        browser.press("Enter").await;
        let text = if then == "#gate-error" { "The token is wrong" } else { "Streaming" };
        browser.sees(then, text, SOON).await;
    }
    browser.sees("#letters-count", "2", PATIENCE).await;
    // Which are asked for beside it, one after the other.
    browser.sees("#letters-rows", hostile, PATIENCE).await;
    let rows = browser.sees("#letters-rows", "\\u{202e}k", PATIENCE).await;
    assert!(rows.contains(&missing) && !rows.contains("hidden"), "{rows}");
    looks_well(&mut browser).await;

    KafkaBroker::shared().await.create_topic(&missing, 1).await;
    tab_to(&mut browser, ".letters input").await;
    browser.press(" ").await;
    tab_to(&mut browser, "#replay").await;
    browser.press("Enter").await;
    browser.sees("#confirm-title", "Replay 1 letter?", SOON).await;
    tab_to(&mut browser, "#confirm-yes").await;
    browser.press("Enter").await;
    browser.sees("#outcome", "replay requested: 1 letter of 1 key", PATIENCE).await;
    let sent = crate::support::consume(&world.brokers, &missing, 1, PATIENCE).await;
    assert_eq!(sent[0].payload.as_deref(), Some(&b"\"hidden-payload\""[..]));
    eventually("one letter to be left", PATIENCE, async || {
        let rows = browser.value("document.querySelectorAll('#letters-rows tr').length").await;
        (rows == 1).then_some(())
    })
    .await;

    browser
        .value("document.querySelector('.letters input').click(); document.querySelector('#discard').click()")
        .await;
    browser.sees("#confirm-title", "Discard 1 letter?", SOON).await;
    assert_eq!(browser.value("document.activeElement.id").await, "confirm-no", "a slip does nothing");
    assert_eq!(faults(&mut browser).await, Vec::<String>::new());
    tab_to(&mut browser, "#confirm-yes").await;
    browser.press("Enter").await;
    browser.sees("#outcome", "discarded: 1 letter", PATIENCE).await;
    let sql = "SELECT outcome FROM outbox.dead_letters WHERE slot = $1 ORDER BY commit_lsn";
    let outcomes = client.query(sql, &[&world.slot]).await.unwrap();
    let outcomes: Vec<String> = outcomes.iter().map(|row| row.get(0)).collect();
    assert_eq!(outcomes, ["sent", "discarded"]);
    let log = relay.log();
    assert!(!log.contains(TOKEN) && !log.contains("hidden-payload"), "{log}");
    stop(relay).await;
}

/// With this token, what the relay does is answered with this code.
async fn looks(address: SocketAddr, token: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /api/state HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_token_that_is_rotated_counts_without_a_restart() {
    let world = World::new("pagetoken", 1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let renewed = "close-sesame-close-sesame";
    std::fs::write(&path, TOKEN).unwrap();
    let relay = world.command(["run"]).env("WALPOST_LISTEN_TOKEN_FILE", &path).streaming().await;
    let address = relay.listen_address().await;
    assert_eq!((looks(address, TOKEN).await, looks(address, renewed).await), (200, 401));
    // While it is being replaced, the one before counts; once it is, that one counts no more.
    for unfit in ["", "short"] {
        std::fs::write(&path, unfit).unwrap();
        assert_eq!((looks(address, TOKEN).await, looks(address, unfit).await), (200, 401), "{unfit:?}");
    }
    std::fs::write(&path, format!("{renewed}\n")).unwrap();
    assert_eq!((looks(address, TOKEN).await, looks(address, renewed).await), (401, 200));
    std::fs::remove_file(&path).unwrap();
    assert_eq!((looks(address, TOKEN).await, looks(address, renewed).await), (401, 200));
    let log = relay.log();
    assert!(log.contains("the listener's token is another one from now on"), "{log}");
    assert!(!log.contains("sesame"), "{log}");
    stop(relay).await;
}

/// What a request of somebody who is no browser gets.
async fn post(address: SocketAddr, headers: &str, body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "POST /api/dead-letters/discard HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    (code, answer)
}

#[tokio::test]
async fn nothing_is_changed_without_token_or_from_elsewhere() {
    let world = World::new("pageguard", 1).await;
    let (relay, address) = guarded(&world).await;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let body = r#"{"positions":["0/A0+0"]}"#;
    for (headers, body, status, says) in [
        (String::new(), body, 401, "--listen-token-file"),
        ("Authorization: Bearer wrong\r\n".to_owned(), body, 401, "token"),
        (format!("{bearer}Origin: http://evil.example\r\n"), body, 403, "another site"),
        (format!("{bearer}Sec-Fetch-Site: cross-site\r\n"), body, 403, "another site"),
        (bearer.clone(), "{}", 422, "positions"),
        (bearer.clone(), r#"{"positions":["0/A0+0'; DROP"]}"#, 400, "positions"),
        (bearer.clone(), body, 409, "no dead letter at 0/A0+0"),
    ] {
        let (code, answer) = post(address, &headers, body).await;
        assert_eq!(code, status, "{headers} {body}: {answer}");
        assert!(answer.contains(says), "{says}: {answer}");
    }
    let large = format!("{{\"positions\":[{}]}}", vec!["\"0/A0+0\""; 100_000].join(","));
    assert_eq!(post(address, &bearer, &large).await.0, 413);
    assert_eq!(get(address, "/api/dead-letters").await.0, 401);
    assert_eq!(get(address, "/api/state").await.0, 401);
    for open in ["/", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(address, open).await.0, 200, "{open}");
    }
    stop(relay).await;

    // Without leave and token there are no buttons, and the page tells the command.
    let relay = world.relay().await;
    let address = relay.listen_address().await;
    let (code, answer) = post(address, &bearer, body).await;
    assert_eq!(code, 403, "{answer}");
    assert!(answer.contains("--page-actions"), "{answer}");
    let sql = "INSERT INTO outbox.dead_letters (slot, commit_lsn, index, topic, key, error, attempts) \
               VALUES ($1::text, '0/A0', 1, 'orders', 'k', 'too large', 6)";
    world.database.client().await.execute(sql, &[&world.slot]).await.unwrap();
    let mut browser = page_of(address).await;
    browser.sees("#letters-command", "walpost dead-letters replay 0/A0+1", PATIENCE).await;
    let buttons = "[...document.querySelectorAll('.letters input, #letters button')].filter((it) => it.checkVisibility()).length";
    assert_eq!(browser.value(buttons).await, 0);
    was_quiet(&browser, address);
    stop(relay).await;
}

#[tokio::test]
async fn an_address_that_others_reach_shows_nothing_without_a_token() {
    let world = World::new("pageopen", 1).await;
    let relay = world.command(["run", "--listen", "0.0.0.0:0"]).spawn();
    let address = SocketAddr::from(([127, 0, 0, 1], relay.listen_address().await.port()));
    let mut browser = page_of(address).await;
    browser.sees("#gate-error", "has no token", PATIENCE).await;
    browser.sees("#gate-text", "--listen-token-file", SOON).await;
    assert_eq!(
        (browser.text("#gate-row").await, browser.text("#state").await),
        (String::new(), String::new())
    );
    stop(relay).await;

    let refused = world.command(["run", "--page-actions"]).output().await;
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--listen-token-file"), "{said}");
    let refused =
        world.command(["run", "--listen-token-file", "token"]).file("token", "short\n").output().await;
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("openssl rand") && !said.contains("short"), "{said}");
}
