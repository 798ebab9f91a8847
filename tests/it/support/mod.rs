//! What the tests stand on: real servers, a breakable wire, the binary, and the truth to check against.

// Tools are kept whole, whether or not a test needs each of their handles today.
#![allow(dead_code)]

pub(crate) mod acl;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod check;
pub(crate) mod chosen;
pub(crate) mod clock;
pub(crate) mod consume;
pub(crate) mod container;
pub(crate) mod database;
pub(crate) mod debezium;
pub(crate) mod guard;
pub(crate) mod host;
pub(crate) mod kafka;
pub(crate) mod local_kafka;
pub(crate) mod local_postgres;
pub(crate) mod oracle;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod room;
pub(crate) mod secure_kafka;
pub(crate) mod walpost;

use std::net::TcpListener;
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[allow(unused_imports)]
pub(crate) use check::check;
pub(crate) use consume::{Consumed, consume};
pub(crate) use database::Database;
pub(crate) use kafka::KafkaBroker;
pub(crate) use oracle::Oracle;
pub(crate) use postgres::PostgresServer;
#[allow(unused_imports)]
pub(crate) use postgres::major;
pub(crate) use proxy::Proxy;
#[allow(unused_imports)]
pub(crate) use secure_kafka::SecureKafka;
pub(crate) use walpost::Walpost;

/// How long a healthy machine under load may take for one step before the test calls it broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A name that no other test has, also none of another run on the same server. Fits SQL identifiers and topics.
pub(crate) fn unique(prefix: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}_{}", &id[..12])
}

/// A free port below the range that systems hand out for outgoing connections, so that a server which is
/// stopped finds its port still free when it is started again.
pub(crate) fn free_port() -> u16 {
    let mut random = fastrand::Rng::new();
    loop {
        let port = random.u16(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Asks until there is an answer; panics with `what` when there was none within `timeout`.
pub(crate) async fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {timeout:?} for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
