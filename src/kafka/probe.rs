//! Whether brokers answer, for `walpost check`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::settings::KafkaSettings;
use crate::error::OutboxError;

/// What the brokers say of themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The cluster's id, if it has one.
    pub cluster_id: Option<String>,
    /// `host:port` of every broker as the cluster advertises it; records go to these addresses, not to those
    /// of the settings.
    pub brokers: Vec<String>,
}

/// Asks the brokers for their metadata.
///
/// # Errors
/// A usage error if a setting is wrong; a transient one if no broker answers within `timeout`.
pub async fn probe(settings: &KafkaSettings, timeout: Duration) -> Result<ProbeReport, OutboxError> {
    let settings = settings.clone();
    // librdkafka blocks until the answer or the end of patience.
    tokio::task::spawn_blocking(move || ask(&settings, timeout))
        .await
        .map_err(|error| OutboxError::connection("the question to Kafka was abandoned", error))?
}

fn ask(settings: &KafkaSettings, timeout: Duration) -> Result<ProbeReport, OutboxError> {
    let config = settings.prepare()?.config;
    let producer: BaseProducer<Listener> =
        config.create_with_context(Listener::default()).map_err(|error| settings.refused(error))?;
    let metadata = producer.client().fetch_metadata(None, timeout);
    // The reason waits in the queue of events.
    producer.poll(Duration::from_millis(10));
    let metadata = metadata.map_err(|error| {
        let (code, why) = producer.context().reason(&error);
        let why = settings.secrets().veil(&why).into_owned();
        OutboxError::broker(&format!("no Kafka broker answers at {}", settings.brokers), code, why).with_advice(
            "check --brokers, that a broker listens there and that its advertised.listeners are reachable from \
             here, and for a secured broker security.protocol, sasl.* and ssl.* (`-X`)",
        )
    })?;
    let brokers = metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port()));
    let report = ProbeReport { cluster_id: None, brokers: brokers.collect() };
    // Known since the metadata came.
    Ok(ProbeReport { cluster_id: producer.client().fetch_cluster_id(Duration::ZERO), ..report })
}

/// Remembers the first error that says more than "all are down".
#[derive(Default)]
struct Listener(Mutex<Option<String>>);

impl Listener {
    /// Always a code that is worth another try: an operator may just be starting the broker.
    fn reason(&self, fetch: &KafkaError) -> (i32, String) {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let code = RDKafkaErrorCode::BrokerTransportFailure as i32;
        (code, heard.unwrap_or_else(|| fetch.to_string()))
    }
}

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            heard.get_or_insert_with(|| reason.to_owned());
        }
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
