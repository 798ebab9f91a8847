//! From what an operator writes to what librdkafka gets.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use super::guard::{Secrets, canonical, check, is_secret, refuse};
use super::login;
use super::partitioner::Choice;
use super::topics::Topics;
use super::window::Limits;
use crate::error::OutboxError;
use crate::secret::SecretSource;

const MAX_MESSAGES: &str = "queue.buffering.max.messages";
const MAX_KBYTES: &str = "queue.buffering.max.kbytes";
const MAX_RECORD: &str = "message.max.bytes";
const PARTITIONER: &str = "partitioner";
/// Bytes of the largest record, and batch. librdkafka writes a batch's length into four bytes of seven bits each
/// (`rd_kafka_buf_finalize_arraycnt` in its 2.12): of a longer one the broker sees nothing, and it is sent again for
/// ever. A megabyte is left for what surrounds the records.
pub(super) const LARGEST: usize = (1 << 28) - (1 << 20);

/// What differs from librdkafka's own defaults (CONFIGURATION.md).
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "walpost"),
    ("enable.idempotence", "true"),
    // A failed record stops the producer instead of being overtaken.
    ("enable.gapless.guarantee", "true"),
    ("acks", "all"),
    // No end: a timeout is a failed record that others overtake.
    ("message.timeout.ms", "0"),
    // Keys go to the partitions to which Java clients send them.
    (PARTITIONER, "murmur2_random"),
    // It would choose before our partitioner is asked.
    ("sticky.partitioning.linger.ms", "0"),
    ("socket.keepalive.enable", "true"),
    // Rows come in batches already; waiting longer for company only adds latency.
    ("linger.ms", "1"),
    // After an outage all connections are down together; ten seconds would be added to it.
    ("reconnect.backoff.max.ms", "2000"),
    // How long a topic may be missing, since brokers learn of a new one one by one. The line stands meanwhile.
    ("topic.metadata.propagation.max.ms", "10000"),
    // Names of librdkafka's threads tell an operator nothing.
    ("log.thread.name", "false"),
    // The relay reports to its operator, not to the cluster's.
    ("enable.metrics.push", "false"),
    // In flight, 16 MiB: see `window`.
    (MAX_KBYTES, "16384"),
    (MAX_MESSAGES, "30000"),
];

/// Where Kafka is and how to talk to it.
///
/// ```
/// use walpost::kafka::KafkaSettings;
///
/// let settings = KafkaSettings::new("localhost:9092").with_property("compression.type", "lz4");
/// ```
#[derive(Clone, Default)]
pub struct KafkaSettings {
    /// `host:port` of some brokers, separated by commas.
    pub brokers: String,
    /// Properties of librdkafka (CONFIGURATION.md), passed on as they are; of two with one name the later
    /// counts. Those that ordering and durability depend on are refused.
    ///
    /// `queue.buffering.max.messages` and `queue.buffering.max.kbytes` bound all records without a
    /// receipt, keys and headers included; librdkafka alone would count payloads only.
    pub properties: Vec<(String, String)>,
    /// Properties that come from files and commands, over those of the same names; see
    /// [`with_property_from`](Self::with_property_from).
    pub sources: Vec<(String, SecretSource)>,
    /// The topics that may be written to.
    pub topics: Topics,
}

impl KafkaSettings {
    /// Settings for these brokers and defaults for the rest.
    pub fn new(brokers: impl Into<String>) -> Self {
        KafkaSettings { brokers: brokers.into(), ..KafkaSettings::default() }
    }

    /// Adds a property of librdkafka.
    #[must_use]
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Checks everything that can be checked without a connection.
    ///
    /// # Errors
    /// A usage error that names the property.
    pub fn validate(&self) -> Result<(), OutboxError> {
        self.prepare().map(drop)
    }

    pub(super) fn prepare(&self) -> Result<Prepared, OutboxError> {
        if self.brokers.split(',').all(|broker| broker.trim().is_empty()) {
            return Err(OutboxError::usage(
                "no Kafka broker is named",
                "set --brokers to host:port, several separated by commas",
            ));
        }
        let mut merged: BTreeMap<&str, String> =
            DEFAULTS.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        merged.insert("bootstrap.servers", self.brokers.clone());
        for (name, _) in &self.sources {
            refuse(name)?;
        }
        for (name, value) in &self.properties {
            check(name, value)?;
            merged.insert(canonical(name), value.clone());
        }
        let limits = Limits {
            records: number(&merged, MAX_MESSAGES, 0)?,
            bytes: number(&merged, MAX_KBYTES, 1)?.saturating_mul(1024),
        };
        login::check(&merged, self.token().is_wanted())?;
        widen_queue(&mut merged, limits);
        let choice = choice(&merged)?;
        if let Some(most) = merged.get_mut(MAX_RECORD).filter(|most| {
            most.trim().parse().is_ok_and(|most: usize| most > LARGEST && most <= 1_000_000_000)
        }) {
            // What is larger is refused with its reason; it could not be sent.
            *most = LARGEST.to_string();
        }

        let log_level = log_level(&merged);
        let mut config = ClientConfig::new();
        config.set_log_level(log_level);
        for (name, value) in merged {
            config.set(name, value);
        }
        // librdkafka looks at each name and value here, so that a typing error is found before the first record.
        config.create_native_config().map_err(|error| self.refused(error))?;
        Ok(Prepared { config, limits, choice })
    }

    /// What librdkafka shall say, of all that it knows.
    #[cfg(feature = "cli")]
    pub(super) fn log_level(&self) -> RDKafkaLogLevel {
        log_level(&self.properties.iter().map(|(name, value)| (canonical(name), value.clone())).collect())
    }

    pub(super) fn secrets(&self) -> Secrets {
        Secrets::of(self.properties.iter().filter(|(name, _)| self.hides(name)))
    }

    /// Whether a property's value must not be shown.
    fn hides(&self, name: &str) -> bool {
        is_secret(name) || self.is_from_source(name)
    }

    /// What to say when librdkafka refuses the settings. Its own words, but never a secret's value.
    pub(super) fn refused(&self, error: KafkaError) -> OutboxError {
        const ADVICE: &str = "see CONFIGURATION.md of librdkafka for its properties and their values";
        match error {
            KafkaError::ClientConfig(_, _, name, _) if self.hides(&name) => {
                OutboxError::usage(format!("librdkafka refuses the value of `{name}`"), ADVICE)
            }
            KafkaError::ClientConfig(_, why, name, _) => OutboxError::usage(
                format!("the Kafka property `{name}` is not valid: {}", why.trim()),
                ADVICE,
            ),
            KafkaError::ClientCreation(why) if why.contains("thread") => OutboxError::transient(format!(
                "no thread for the Kafka client: {}",
                self.secrets().veil(&why)
            )),
            KafkaError::ClientCreation(why) => OutboxError::usage(
                format!("the Kafka settings are not valid: {}", self.secrets().veil(&why)),
                ADVICE,
            ),
            _ => OutboxError::usage("a Kafka property contains a NUL character", ADVICE),
        }
    }
}

/// Settings that librdkafka has accepted one by one.
pub(super) struct Prepared {
    pub(super) config: ClientConfig,
    pub(super) limits: Limits,
    pub(super) choice: Choice,
}

fn number(merged: &BTreeMap<&str, String>, name: &str, least: usize) -> Result<usize, OutboxError> {
    let value = merged.get(name).map_or("", String::as_str);
    value.trim().parse().ok().filter(|number| (least..=2_147_483_647).contains(number)).ok_or_else(|| {
        OutboxError::usage(
            format!("the Kafka property `{name}` can't be `{value}`"),
            format!("set `{name}` to a whole number from {least} to 2147483647"),
        )
    })
}

/// The partitioner, which is ours.
fn choice(merged: &BTreeMap<&str, String>) -> Result<Choice, OutboxError> {
    let name = merged.get(PARTITIONER).map_or("", |name| name.trim());
    Choice::named(name).ok_or_else(|| {
        OutboxError::usage(
            format!("the Kafka property `{PARTITIONER}` can't be `{name}`"),
            "set it to murmur2_random (as Java clients), murmur2, consistent_random, consistent, fnv1a_random, fnv1a \
             or random",
        )
    })
}

/// Makes librdkafka's queue so wide that the window is always full first.
///
/// librdkafka frees the room of delivered records only after all callbacks of the batch have run. So when
/// the last receipt is already with the caller, the queue could still be full, with no further receipt to
/// wait for. At any moment it holds at most one window of records with receipts and one of those
/// without, and a window may be exceeded by the one record that is let in when it is empty.
fn widen_queue(merged: &mut BTreeMap<&str, String>, window: Limits) {
    let record = merged.get(MAX_RECORD).map_or("1000000", String::as_str).parse().unwrap_or(1_000_000_000);
    let kbytes = 2 * (window.bytes / 1024 + record / 1024 + 1);
    // 0 is "no limit" for both.
    let messages = if window.records == 0 { 0 } else { 2 * window.records + 2 };
    merged.insert(MAX_KBYTES, kbytes.min(2_147_483_647).to_string());
    merged.insert(MAX_MESSAGES, messages.min(2_147_483_647).to_string());
}

/// rdkafka sets the level on the client itself, over the property.
fn log_level(merged: &BTreeMap<&str, String>) -> RDKafkaLogLevel {
    let debug = merged.get("debug").is_some_and(|facilities| !facilities.trim().is_empty());
    match merged.get("log_level").and_then(|level| level.trim().parse().ok()) {
        Some(0) => RDKafkaLogLevel::Emerg,
        Some(1) => RDKafkaLogLevel::Alert,
        Some(2) => RDKafkaLogLevel::Critical,
        Some(3) => RDKafkaLogLevel::Error,
        Some(4) => RDKafkaLogLevel::Warning,
        Some(5) => RDKafkaLogLevel::Notice,
        Some(7) => RDKafkaLogLevel::Debug,
        None if debug => RDKafkaLogLevel::Debug,
        _ => RDKafkaLogLevel::Info,
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): &(String, String)| {
            (name.clone(), if self.hides(name) { "***".to_owned() } else { value.clone() })
        };
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("properties", &self.properties.iter().map(shown).collect::<Vec<_>>())
            .field("sources", &self.sources)
            .field("topics", &self.topics)
            .finish()
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
