//! `walpost check`: every precondition, each failure with its mend.

use std::time::Duration;

use super::report;
use crate::config::Config;
use crate::error::OutboxError;
use crate::kafka::probe;
use crate::postgres::{
    Finding, Outcome, Session, inspect, inspect_dead_letters, inspect_waiting, inspect_write_back,
};

/// How long Kafka may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at the database and at Kafka, and prints what it finds.
pub(super) async fn check(config: &Config) -> Result<(), OutboxError> {
    let mut findings = match Session::open_any(&config.database).await {
        Ok(session) => {
            let mut report = inspect(&session, &config.target).await?;
            inspect_waiting(&session, &config.target, &mut report).await?;
            inspect_write_back(&session, &config.target, &mut report).await?;
            let mut findings = report.findings;
            let on_refusal = config.refusal.on_refusal;
            findings.push(inspect_dead_letters(&session, &config.target, on_refusal).await?);
            findings
        }
        Err(error) => vec![Finding { subject: "connection", outcome: Outcome::Failure(error) }],
    };
    // Printed before Kafka is asked, which may take its time.
    report::print(&findings);
    let outcome = match probe(&config.kafka, PATIENCE).await {
        Ok(cluster) => Outcome::Good(format!("brokers answer: {}", cluster.brokers.join(", "))),
        Err(error) => Outcome::Failure(error),
    };
    let kafka = Finding { subject: "kafka", outcome };
    report::print(std::slice::from_ref(&kafka));
    findings.push(kafka);
    report::verdict(&findings)
}
