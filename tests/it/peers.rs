//! The software that made the tables of the presets, beside Walpost: both publish the same rows, and all must be the same.
//!
//! The other relay has a broker of its own, so that topics can have the same names, and `walpost verify` compares the
//! two. At its end each test prints how many records were compared.

mod spakky;

use std::io::Write;

use tokio::sync::OnceCell;

use crate::support::{KafkaBroker, Walpost};

/// The broker of the other relays.
async fn other() -> &'static KafkaBroker {
    static OTHER: OnceCell<KafkaBroker> = OnceCell::const_new();
    OTHER.get_or_init(KafkaBroker::start).await
}

/// Compares all topics with this prefix of the shared broker with those of the other: partition, order, key, value and
/// headers. Returns how many records were compared.
async fn the_same(prefix: &str) -> u64 {
    let ours = KafkaBroker::shared().await.brokers();
    let topics = format!("{prefix}*");
    let output = Walpost::with(["verify", &topics, &topics, "--brokers", ours])
        .args(["--right-brokers", other().await.brokers(), "--show"])
        .output()
        .await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "Walpost is left, the other right: {stdout}");
    let count = stdout.strip_prefix("equal: ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no count in {stdout}"))
}

/// Past the capture of the test runner: a figure that nobody sees is none.
fn tell(peer: &str, count: u64) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "peers: {peer}: {count} records compared, all the same").unwrap();
}
