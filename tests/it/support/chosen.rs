//! Which PostgreSQL and which Kafka the tests run on, where the environment says so (`make test-versions`).

use std::env;
use std::io::Write;

use super::host::cached;

/// A major version, for instance "16"; none leaves it to the machine.
pub(crate) fn postgres() -> Option<String> {
    named("WALPOST_TEST_POSTGRES", "postgres")
}

/// A release, for instance "4.3.1".
pub(crate) fn kafka() -> String {
    named("WALPOST_TEST_KAFKA", "kafka").unwrap_or_else(|| {
        let jars = cached("kafka");
        let folder = jars.parent().unwrap().file_name().unwrap().to_str().unwrap();
        folder.strip_prefix("kafka-").unwrap().to_owned()
    })
}

fn named(variable: &str, what: &str) -> Option<String> {
    let version = env::var(variable).ok().filter(|version| !version.is_empty())?;
    // The script knows which there are, and says so of any other.
    cached(&format!("{what}-{version}"));
    Some(version)
}

/// Past the test harness, which keeps to itself what a test that passes has printed.
pub(crate) fn tell(what: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr(), "{what}");
}
