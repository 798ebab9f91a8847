//! What a relay needs of Kafka, for `walpost check`: brokers that answer and can be reached, a producer that is let in, topics
//! that take its records.
//!
//! Nothing is written, and no topic is made by asking for it.

mod brokers;
mod compaction;
mod native;
mod topics;

use std::fmt::Display;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::ClientConfig;

use super::guard::canonical;
use super::probe::{Listener, ask};
use super::settings::KafkaSettings;
use crate::error::OutboxError;
use crate::finding::Finding;

pub(crate) use compaction::{Compacted, compacted};
pub(crate) use topics::TopicInUse;

/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long any further one may.
const ANSWER: Duration = Duration::from_secs(4);

/// What questions go through.
struct Subject<'a> {
    settings: &'a KafkaSettings,
    admin: AdminClient<Listener>,
    /// The numbers of the brokers, with their addresses.
    brokers: &'a [(i32, String)],
}

/// Looks at everything, and never fails: what can't be looked at is a finding.
pub(crate) async fn examine(settings: &KafkaSettings, topics: &[TopicInUse]) -> Vec<Finding> {
    let settings = &match settings.with_secrets().await {
        Ok(settings) => settings,
        Err(error) => return unasked(error),
    };
    let asked = settings.clone();
    // librdkafka blocks until the answer or the end of patience.
    let asked = tokio::task::spawn_blocking(move || ask(&asked, PATIENCE, Some(ANSWER))).await;
    let answer = asked
        .map_err(|error| OutboxError::connection("the question to Kafka was abandoned", error))
        .and_then(|answer| answer);
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            return unasked(error);
        }
    };
    let mut found = vec![brokers::answering(settings, &answer)];
    let reached = brokers::unreachable(settings, &answer.brokers).await;
    let gone = reached.iter().filter(|found| found.is_failure()).count();
    found.extend(reached);
    found.push(brokers::introduced(&answer));
    if gone > 0 && gone == answer.brokers.len() {
        let missed = "not looked at, since no broker can be reached where it says it is";
        found.push(Finding::warn("topics", missed, "mend the addresses, then run this again"));
        return found;
    }
    match admin(settings) {
        Ok(admin) => {
            let subject = Subject { settings, admin, brokers: &answer.brokers };
            let by = tokio::time::timeout(3 * ANSWER, topics::look(&subject, topics));
            found.extend(by.await.unwrap_or_else(|_| {
                vec![Finding::warn(
                    "topics",
                    "not looked at: the brokers do not answer in time",
                    "run this again",
                )]
            }));
        }
        Err(error) => found.push(Finding::unknown("topics", &error)),
    }
    found
}

/// Nobody could be asked.
fn unasked(error: OutboxError) -> Vec<Finding> {
    let missed = "not looked at, since no broker answers: brokers, the producer, topics";
    vec![
        Finding::error("kafka", error),
        Finding::warn("topics", missed, "mend the connection, then run this again"),
    ]
}

/// A client for questions alone. It is no producer that would introduce itself, and lets no broker make a topic.
fn admin(settings: &KafkaSettings) -> Result<AdminClient<Listener>, OutboxError> {
    let mut config = ClientConfig::new();
    config.set("client.id", "walpost");
    for (name, value) in &settings.properties {
        config.set(canonical(name), value);
    }
    config.set("bootstrap.servers", &settings.brokers);
    for (name, value) in [
        ("enable.idempotence", "false"),
        ("enable.gapless.guarantee", "false"),
        ("allow.auto.create.topics", "false"),
        ("enable.metrics.push", "false"),
        ("log_level", "0"),
    ] {
        config.set(name, value);
    }
    let admin: AdminClient<Listener> =
        config.create_with_context(Listener::of(settings)).map_err(|error| settings.refused(error))?;
    if settings.token().is_wanted() {
        let unread = |why: &dyn Display| OutboxError::transient(format!("no token for Kafka: {why}"));
        let token = settings.token().generate().map_err(|error| unread(&error))?;
        native::log_in(admin.inner(), &token).map_err(|why| unread(&settings.secrets().veil(&why)))?;
    }
    Ok(admin)
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

/// What an operator runs to change a setting of a topic.
fn alter(settings: &KafkaSettings, topic: &str, change: &str) -> String {
    format!(
        "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config {change}",
        settings.brokers
    )
}
