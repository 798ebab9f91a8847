//! Whether brokers answer, for `walpost check`.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::{Client, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::{Metadata, MetadataBroker};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaErrorCode;

use super::login::Token;
use super::settings::KafkaSettings;
use super::words::without_guesses;
use crate::error::OutboxError;

/// How long the first round of a question lasts; each later one twice as long, if it has lasted that long.
const FIRST_ROUND: Duration = Duration::from_secs(1);
/// Between a refused connection and the next question.
const PAUSE: Duration = Duration::from_millis(50);

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
    let settings = settings.with_secrets().await?;
    // librdkafka blocks until the answer or the end of patience.
    let answer = tokio::task::spawn_blocking(move || ask(&settings, timeout, None))
        .await
        .map_err(|error| OutboxError::connection("the question to Kafka was abandoned", error))??;
    let brokers = answer.brokers.into_iter().map(|(_, address)| address).collect();
    Ok(ProbeReport { cluster_id: answer.cluster_id, brokers })
}

/// What the brokers say to a producer.
pub(super) struct Answer {
    pub(super) cluster_id: Option<String>,
    /// Number and address of each.
    pub(super) brokers: Vec<(i32, String)>,
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only `walpost check` tells it"))]
    pub(super) introduction: Introduction,
}

/// What became of a producer that has asked for its number, without which it may write nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Introduction {
    Known,
    /// For good, with the broker's code.
    Refused(i32, String),
    /// Neither in time.
    Silent,
}

fn open(settings: &KafkaSettings) -> Result<BaseProducer<Listener>, OutboxError> {
    let mut config = settings.prepare()?.config;
    // They tell when the number is there.
    config.set("statistics.interval.ms", "100");
    let producer: BaseProducer<Listener> =
        config.create_with_context(Listener::of(settings)).map_err(|error| settings.refused(error))?;
    if producer.context().token.is_wanted() {
        // It is asked for at once, and handed over in here; without it nobody answers.
        producer.poll(Duration::from_millis(20));
    }
    Ok(producer)
}

/// Whether a new client gets two answers: from whom it finds by the settings, and then from one of those that this one
/// has named, since librdkafka keeps no others. Blocks for `timeout` for each.
pub(super) fn reaches(settings: &KafkaSettings, timeout: Duration) -> bool {
    open(settings).is_ok_and(|producer| {
        let answers =
            || fetch_metadata(producer.client(), None, timeout).is_ok_and(|it| !it.brokers().is_empty());
        answers() && answers()
    })
}

/// Blocks until the answer or the end of patience; then, if wanted, until the producer has its number.
pub(super) fn ask(
    settings: &KafkaSettings,
    timeout: Duration,
    introduced: Option<Duration>,
) -> Result<Answer, OutboxError> {
    let producer = open(settings)?;
    let brokers = match fetch_metadata(producer.client(), None, timeout) {
        Ok(metadata) => {
            let named =
                |broker: &MetadataBroker| (broker.id(), format!("{}:{}", broker.host(), broker.port()));
            metadata.brokers().iter().map(named).collect()
        }
        Err(error) => {
            // The reason waits in the queue of events, among others; so does what they tell of brokers.
            for _ in 0..20 {
                producer.poll(Duration::from_millis(10));
            }
            let learned = producer.context().learned();
            if learned.is_empty() {
                let (code, why) = producer.context().reason(&error);
                let why = settings.secrets().veil(&why).into_owned();
                let what = format!("no Kafka broker answers at {}", settings.brokers);
                return Err(OutboxError::broker(&what, code, why).with_advice(
                    "check --brokers, that a broker listens there and that its advertised.listeners are reachable from \
                     here, and for a secured broker security.protocol, sasl.* and ssl.* (`-X`)",
                ));
            }
            learned
        }
    };
    Ok(Answer {
        brokers,
        introduction: introduced.map_or(Introduction::Silent, |patience| introduce(&producer, patience)),
        // Known since the metadata came.
        cluster_id: producer.client().fetch_cluster_id(Duration::ZERO),
    })
}

/// Asks for metadata in rounds. librdkafka gives a question to a broker that is up; while none is, to the first of the list,
/// which may be the one that is down.
pub(super) fn fetch_metadata<C: ClientContext>(
    client: &Client<C>,
    topic: Option<&str>,
    timeout: Duration,
) -> KafkaResult<Metadata> {
    let (since, mut round) = (Instant::now(), FIRST_ROUND);
    loop {
        let left = timeout.saturating_sub(since.elapsed());
        let answer = client.fetch_metadata(topic, round.min(left));
        match answer.as_ref().err().and_then(KafkaError::rdkafka_error_code) {
            Some(RDKafkaErrorCode::OperationTimedOut) => round *= 2,
            // At once, by one that is down; another may still be about to connect.
            Some(RDKafkaErrorCode::BrokerTransportFailure) => std::thread::park_timeout(PAUSE),
            _ => return answer,
        }
        if since.elapsed() >= timeout {
            return answer;
        }
    }
}

/// An idempotent producer asks for its number by itself, before it has anything to write.
fn introduce(producer: &BaseProducer<Listener>, patience: Duration) -> Introduction {
    let since = Instant::now();
    while since.elapsed() < patience {
        if let Some((code, why)) = producer.client().fatal_error() {
            return Introduction::Refused(code as i32, why);
        }
        if producer.context().introduced.load(Relaxed) {
            return Introduction::Known;
        }
        producer.poll(Duration::from_millis(20));
    }
    Introduction::Silent
}

/// Remembers the first error that says more than "all are down", and that the producer has its number.
#[derive(Default)]
pub(super) struct Listener {
    token: Token,
    heard: Mutex<Option<String>>,
    /// Number and address of each broker that another has named. librdkafka may have dropped whoever answered, and with it
    /// the question, once it knows them.
    learned: Mutex<Vec<(i32, String)>>,
    introduced: AtomicBool,
}

impl Listener {
    pub(super) fn of(settings: &KafkaSettings) -> Self {
        Listener { token: settings.token(), ..Listener::default() }
    }

    fn learned(&self) -> Vec<(i32, String)> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Always a code that is worth another try: an operator may just be starting the broker.
    fn reason(&self, fetch: &KafkaError) -> (i32, String) {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let code = RDKafkaErrorCode::BrokerTransportFailure as i32;
        (code, heard.unwrap_or_else(|| fetch.to_string()))
    }
}

impl ClientContext for Listener {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token.generate()
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn stats(&self, statistics: Statistics) {
        if statistics.eos.is_some_and(|state| state.producer_id >= 0) {
            self.introduced.store(true, Relaxed);
        }
        let learned = statistics.brokers.into_values().filter(|broker| broker.source == "learned");
        let mut learned: Vec<_> = learned.map(|broker| (broker.nodeid, broker.nodename)).collect();
        if !learned.is_empty() {
            learned.sort_unstable();
            *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = learned;
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.get_or_insert_with(|| without_guesses(reason).into_owned());
        }
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
