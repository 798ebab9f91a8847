//! What an operator reads while a broker is away: that it is, that it is back, and no password.
#![cfg(all(feature = "kafka", feature = "cli"))]
#![allow(clippy::expect_used, reason = "clippy sees tests only in functions that are marked as such")]

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;
use walpost::Vitals;
use walpost::kafka::{KafkaPublisher, KafkaSettings};

const PASSWORD: &str = "correct-horse-battery";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
    }

    /// The lines of that level or worse.
    fn count(&self, levels: &[&str]) -> usize {
        self.text().lines().filter(|line| levels.iter().any(|level| line.contains(level))).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_up_again_and_again_is_told_of_once() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();

    // Takes calls and hangs up, so that each attempt can be counted.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let attempts = tokio::task::spawn_blocking(move || {
        (0..20).for_each(|_| drop(listener.accept().expect("a call")));
    });
    let settings = KafkaSettings::new(address.to_string())
        .with_property("security.protocol", "sasl_plaintext")
        .with_property("sasl.mechanism", "PLAIN")
        .with_property("sasl.username", "walpost")
        .with_property("sasl.password", PASSWORD)
        .with_property("reconnect.backoff.max.ms", "100")
        .with_property("debug", "all");
    let vitals = Arc::new(Vitals::default());
    let publisher = KafkaPublisher::open(&settings, Arc::clone(&vitals)).expect("a publisher");

    tokio::time::timeout(Duration::from_secs(30), attempts).await.expect("in time").expect("no panic");
    let (_, fault) = vitals.broker_fault().expect("long known");
    publisher.close().await;
    assert!(vitals.broker_fault().is_none(), "nobody looks any more");

    let text = log.text();
    assert!(fault.contains(&address.to_string()) && fault.contains("Disconnected"), "{fault}");
    assert_eq!(log.count(&[" WARN ", " ERROR "]), 1, "{text}");
    assert_eq!(log.count(&[" INFO "]), 0, "it never came back: {text}");
    assert!(log.count(&["TRACE "]) > 10, "debug lines are for those who ask for them");
    assert!(!text.contains(PASSWORD));
}
