//! `walpost check`: every precondition of the database and of Kafka, each failure and warning with its mend.

use super::report;
use crate::config::Config;
use crate::error::OutboxError;
use crate::kafka::{self, TopicInUse};
use crate::postgres;

/// Looks at the database and at Kafka, and prints what it finds: as lines, or as one JSON document.
pub(super) async fn check(config: &Config, json: bool) -> Result<(), OutboxError> {
    let on_refusal = config.refusal.on_refusal;
    let examined = postgres::examine(&config.database, &config.target, on_refusal).await;
    let mut findings = examined.findings;
    if !json {
        // Before Kafka is asked, which may take its time.
        report::print(&findings);
    }
    let topics = examined.topics.into_iter();
    let topics: Vec<_> = topics
        .map(|topic| TopicInUse { name: topic.name, keyless: topic.keyless, largest: topic.largest })
        .collect();
    let of_kafka = kafka::examine(&config.kafka, &topics).await;
    if !json {
        report::print(&of_kafka);
    }
    findings.extend(of_kafka);
    if json {
        report::print_json(&findings)?;
    }
    report::verdict(&findings)
}
