//! What librdkafka calls back.

use std::error::Error;
use std::sync::{Arc, OnceLock, Weak};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode;
use tracing::{debug, info, trace, warn};

use super::delivery::{Inbox, Place, failure, is_victim};
use super::guard::Secrets;
use super::login::Token;
use super::partitioner::Choice;
use super::watch::Watch;
use super::words::without_guesses;
use crate::vitals::News;

/// The producer and what it calls back.
pub(super) type KafkaProducer = BaseProducer<Context, Choice>;

pub(super) struct Context {
    inbox: Arc<Inbox>,
    watch: Watch,
    secrets: Secrets,
    token: Token,
    choice: Choice,
    /// The producer that this context belongs to, for questions that a failure raises.
    producer: OnceLock<Weak<KafkaProducer>>,
}

impl Context {
    pub(super) fn new(
        inbox: Arc<Inbox>,
        watch: Watch,
        (secrets, token): (Secrets, Token),
        choice: Choice,
    ) -> Self {
        Context { inbox, watch, secrets, token, choice, producer: OnceLock::new() }
    }

    pub(super) fn set_producer(&self, producer: &Arc<KafkaProducer>) {
        // Set once, right after the producer is made.
        let _ = self.producer.set(Arc::downgrade(producer));
    }

    pub(super) fn choice(&self) -> &Choice {
        &self.choice
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// `None` while the producer is being dropped.
    fn producer(&self) -> Option<Arc<KafkaProducer>> {
        self.producer.get().and_then(Weak::upgrade)
    }

    fn failed(&self, topic: &str, error: &KafkaError, number: usize) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        if code as i32 > 0 {
            // The broker said no, so it is there.
            self.watch.answered();
        }
        let producer = self.producer();
        let fatal = producer.as_ref().and_then(|producer| producer.client().fatal_error());
        if self.inbox.failed(number, failure(topic, code, fatal), is_victim(code)) {
            // Not every failure is fatal to librdkafka; it would send what is queued behind.
            if let Some(producer) = producer {
                producer.purge(PurgeConfig::default().queue().non_blocking());
            }
        }
    }
}

impl ProducerContext<Choice> for Context {
    /// The record's number in the window.
    type DeliveryOpaque = usize;

    fn get_custom_partitioner(&self) -> Option<&Choice> {
        Some(&self.choice)
    }

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(message) => {
                self.watch.delivered();
                let place = Place { partition: message.partition(), offset: message.offset() };
                self.inbox.delivered(number, place);
            }
            Err((error, message)) => self.failed(message.topic(), error, number),
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token.generate()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        use RDKafkaLogLevel::{Debug, Info, Notice};
        let line = without_guesses(line);
        let line = self.secrets.veil(&line);
        match level {
            Debug => trace!(target: "walpost::kafka", "{facility}: {line}"),
            // librdkafka reports these a second time as errors, except that a broker has hung up.
            _ if matches!(facility, "FAIL" | "ERROR" | "FATAL") => {
                self.watch.heard(&line);
                debug!(target: "walpost::kafka", "{facility}: {line}");
            }
            // That a setting is experimental is news only about the user's own.
            _ if facility == "CONFWARN" && line.contains("enable.gapless.guarantee") => {
                debug!(target: "walpost::kafka", "{facility}: {line}");
            }
            Info => debug!(target: "walpost::kafka", "{facility}: {line}"),
            _ => match self.watch.meet(facility) {
                Some(News { untold, .. }) if matches!(level, Notice) => {
                    info!(target: "walpost::kafka", untold, "{facility}: {line}");
                }
                Some(News { untold, .. }) => warn!(target: "walpost::kafka", untold, "{facility}: {line}"),
                None => debug!(target: "walpost::kafka", "{facility}: {line}"),
            },
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        trace!(target: "walpost::kafka", "{}", String::from_utf8_lossy(statistics));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = without_guesses(reason);
        let reason = self.secrets.veil(&reason);
        // The event of a fatal error carries the code of its cause.
        if self.producer().is_some_and(|producer| producer.client().fatal_error().is_some()) {
            self.watch.stopped(&reason);
        } else {
            self.watch.reported(error.rdkafka_error_code(), &reason);
        }
    }
}
