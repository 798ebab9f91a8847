//! Topics read from where they begin to where they end now, one partition at a time, for `walpost verify` and
//! `walpost audit`.
//!
//! Offsets have gaps: transactions leave markers, compaction takes records away. So an end is not counted to. It is
//! reached with the record before it, or when the broker says that nothing more comes.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::guard::{Secrets, canonical};
use super::header_names::headers;
use super::login::Token;
use super::partitioner::Choice;
use super::settings::KafkaSettings;
use super::words::without_guesses;
use crate::comparison::{Content, Place, Stored};
use crate::error::OutboxError;

/// How long a question may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long nothing may come although more is there.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one look lasts.
const LOOK: Duration = Duration::from_secs(1);

/// What may be changed by `-X`.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "walpost"),
    // Asked for by the library, joined by nobody: partitions are chosen by hand, and nothing is committed.
    ("group.id", "walpost-verify"),
    ("isolation.level", "read_committed"),
    // Ahead of the comparison, of each side.
    ("queued.min.messages", "10000"),
    ("queued.max.messages.kbytes", "16384"),
    ("max.partition.fetch.bytes", "4194304"),
    // By default a second is waited when that is full, and half a second at an end.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.wait.max.ms", "50"),
    // A record is as large as it is.
    ("receive.message.max.bytes", "2147483647"),
    ("reconnect.backoff.max.ms", "2000"),
    ("socket.keepalive.enable", "true"),
    ("log.thread.name", "false"),
    ("enable.metrics.push", "false"),
];

/// What the reading stands on.
const FIXED: &[(&str, &str)] = &[
    ("enable.partition.eof", "true"),
    ("enable.auto.commit", "false"),
    // Records that were deleted while the topic was read must not be passed over in silence.
    ("auto.offset.reset", "error"),
    // Another replica may know of less than what was the end.
    ("client.rack", ""),
];

/// From the first offset to the one behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: i64,
    pub(crate) end: i64,
}

/// Reads one partition after the other. Blocking: for a thread of its own.
pub(crate) struct TopicReader {
    consumer: BaseConsumer<Ear>,
    brokers: String,
    choice: Choice,
    current: Option<Current>,
}

/// The partition that is being read.
struct Current {
    topic: String,
    partition: i32,
    next: i64,
    end: i64,
    heard: Instant,
}

impl TopicReader {
    /// A client of these brokers, with secrets as they are now; no connection is made yet. Blocks while they are read.
    ///
    /// # Errors
    /// A setting is wrong, or a secret can't be read.
    pub(crate) fn open(settings: &KafkaSettings) -> Result<TopicReader, OutboxError> {
        let settings = &settings.with_secrets_blocking()?;
        settings.validate()?;
        let token = settings.token();
        let wanted = token.is_wanted();
        let ear = Ear { secrets: settings.secrets(), token, heard: Mutex::default() };
        let consumer: BaseConsumer<Ear> =
            config(settings).create_with_context(ear).map_err(|error| settings.refused(error))?;
        if wanted {
            // It is asked for at once, and handed over in here; nothing is read yet, as nothing is assigned.
            let _ = consumer.poll(Duration::from_millis(20));
        }
        let choice = settings.prepare()?.choice;
        Ok(TopicReader { consumer, brokers: settings.brokers.clone(), choice, current: None })
    }

    /// By what a key leads to its partition, if it does.
    pub(crate) fn hash_of(&self, key: Option<&[u8]>) -> Option<u32> {
        self.choice.hash_of(key)
    }

    /// Every topic that the user may see, with how many partitions it has. Asking for all makes no broker create one.
    ///
    /// # Errors
    /// No broker answers.
    pub(crate) fn topics(&self) -> Result<BTreeMap<String, i32>, OutboxError> {
        let metadata = self.consumer.fetch_metadata(None, ANSWER).map_err(|error| self.no_answer(&error))?;
        let known = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Ok(known.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect())
    }

    /// Where a partition begins and ends now. With `read_committed`, open transactions are beyond its end.
    ///
    /// # Errors
    /// Its leader does not answer, or may not.
    pub(crate) fn span(&self, topic: &str, partition: i32) -> Result<Span, OutboxError> {
        let during = format!("asking where partition {partition} of topic {topic} ends");
        let marks = self.consumer.fetch_watermarks(topic, partition, ANSWER);
        let (first, end) = marks.map_err(|error| failure(&during, error))?;
        Ok(Span { first, end })
    }

    /// The same without what is older than a time, in milliseconds since 1970, by the times of the records
    /// (`ListOffsets`: the first offset whose time is not before it).
    ///
    /// # Errors
    /// Its leader does not answer, or may not.
    pub(crate) fn since(
        &self,
        topic: &str,
        partition: i32,
        span: Span,
        millis: i64,
    ) -> Result<Span, OutboxError> {
        let during = format!("asking where partition {partition} of topic {topic} was at a time");
        let mut list = TopicPartitionList::new();
        let asked = list.add_partition_offset(topic, partition, Offset::Offset(millis));
        let found = asked.and_then(|()| self.consumer.offsets_for_times(list, ANSWER));
        let found = found.map_err(|error| failure(&during, error))?;
        let first = match found.find_partition(topic, partition).map(|found| found.offset()) {
            Some(Offset::Offset(first)) => first.clamp(span.first, span.end),
            // Nothing is as young as that.
            _ => span.end,
        };
        Ok(Span { first, end: span.end })
    }

    /// Goes to a place. What was being read is left.
    ///
    /// # Errors
    /// librdkafka does not take it.
    pub(crate) fn seek(&mut self, topic: &str, partition: i32, span: Span) -> Result<(), OutboxError> {
        self.leave();
        if span.first >= span.end {
            return Ok(());
        }
        let during = format!("reading partition {partition} of topic {topic}");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(span.first))
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|error| failure(&during, error))?;
        let topic = topic.to_owned();
        let heard = Instant::now();
        self.current = Some(Current { topic, partition, next: span.first, end: span.end, heard });
        Ok(())
    }

    /// Reads no further, before the end is reached.
    pub(crate) fn leave(&mut self) {
        self.current = None;
    }

    /// The next record, or none at the end.
    ///
    /// # Errors
    /// The broker refuses, or nothing comes for a minute.
    pub(crate) fn next(&mut self) -> Result<Option<Stored>, OutboxError> {
        while let Some(current) = &mut self.current {
            if current.next >= current.end {
                break;
            }
            match self.consumer.poll(LOOK) {
                Some(Ok(message)) if current.is_of(&message) => {
                    current.next = message.offset() + 1;
                    current.heard = Instant::now();
                    if message.offset() < current.end {
                        return Ok(Some(stored(&message)));
                    }
                }
                // Of a partition that was left.
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == current.partition => {
                    // A leader that has just become one may not know yet how far the topic goes.
                    let marks = self.consumer.fetch_watermarks(&current.topic, partition, ANSWER);
                    if marks.is_ok_and(|(_, end)| end >= current.end) {
                        current.next = current.end;
                    }
                }
                Some(Err(error)) => {
                    let error = failure(&current.during(), error);
                    // The library goes on by itself.
                    if !error.is_transient() {
                        return Err(error);
                    }
                }
                None => {}
            }
            if current.heard.elapsed() > PATIENCE {
                return Err(self.silence());
            }
        }
        self.current = None;
        Ok(None)
    }

    fn silence(&self) -> OutboxError {
        let what = self.current.as_ref().map(Current::during).unwrap_or_default();
        let heard = self.consumer.context().reason();
        OutboxError::connection(
            format!("{what}: nothing came for {} s", PATIENCE.as_secs()),
            heard.unwrap_or_else(|| "the broker is silent".to_owned()),
        )
        .with_advice("see whether the partition has a leader, then run this again")
    }

    fn no_answer(&self, error: &KafkaError) -> OutboxError {
        // The reason waits in the queue of events.
        let _ = self.consumer.poll(Duration::from_millis(10));
        let why = self.consumer.context().reason().unwrap_or_else(|| error.to_string());
        OutboxError::connection(format!("no Kafka broker answers at {}", self.brokers), why).with_advice(
            "check --brokers, that a broker listens there and that its advertised.listeners are reachable from \
             here, and for a secured broker security.protocol, sasl.* and ssl.* (`-X`)",
        )
    }
}

impl Current {
    fn is_of(&self, message: &BorrowedMessage<'_>) -> bool {
        message.partition() == self.partition && message.topic() == self.topic
    }

    fn during(&self) -> String {
        let Current { topic, partition, next, .. } = self;
        format!("reading partition {partition} of topic {topic} at offset {next}")
    }
}

/// The user's own properties, also those of a producer: librdkafka passes over what is not for a consumer.
fn config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    let properties = settings.properties.iter().map(|(name, value)| (canonical(name), value.as_str()));
    let all = DEFAULTS.iter().copied().chain(properties).chain(FIXED.iter().copied());
    for (name, value) in all {
        config.set(name, value);
    }
    config.set("bootstrap.servers", &settings.brokers);
    config.set_log_level(settings.log_level());
    config
}

fn failure(during: &str, error: KafkaError) -> OutboxError {
    use RDKafkaErrorCode::{
        AutoOffsetReset, OffsetOutOfRange, TopicAuthorizationFailed, UnknownPartition, UnknownTopic,
        UnknownTopicOrPartition,
    };
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
    let advice = match code {
        TopicAuthorizationFailed => "the Kafka user may not read this topic: grant READ and DESCRIBE on it",
        UnknownTopic | UnknownTopicOrPartition | UnknownPartition => "the topic was deleted meanwhile",
        AutoOffsetReset | OffsetOutOfRange => {
            "the topic's retention deleted records while they were read: raise retention.ms, then run this again"
        }
        _ => return OutboxError::broker(during, code as i32, error),
    };
    OutboxError::definite(format!("{during}: {error}"), advice)
}

fn stored(message: &BorrowedMessage<'_>) -> Stored {
    Stored {
        place: Place { partition: message.partition(), offset: message.offset() },
        content: Content {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers(message),
            timestamp: message.timestamp().to_millis(),
        },
    }
}

/// Remembers the first error that says more than "all are down".
struct Ear {
    secrets: Secrets,
    token: Token,
    heard: Mutex<Option<String>>,
}

impl Ear {
    fn reason(&self) -> Option<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Ear {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token.generate()
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(target: "walpost::kafka", "{facility}: {}", self.secrets.veil(line));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.get_or_insert_with(|| self.secrets.veil(&without_guesses(reason)).into_owned());
        }
    }
}

impl ConsumerContext for Ear {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_takes_what_is_meant_for_the_producer_and_keeps_its_own() {
        let given = [
            ("acks", "all"),
            ("linger.ms", "20"),
            ("compression.codec", "zstd"),
            ("partitioner", "consistent"),
            ("message.max.bytes", "900000000"),
            ("queue.buffering.max.kbytes", "1024"),
            ("batch.size", "5000"),
            ("client.rack", "b"),
            ("enable.partition.eof", "false"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_uncommitted"),
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "u"),
            ("sasl.password", "p"),
        ];
        let settings = given
            .iter()
            .fold(KafkaSettings::new("a:1"), |settings, (name, value)| settings.with_property(*name, *value));
        let made = config(&settings);
        for (name, expected) in [
            ("bootstrap.servers", "a:1"),
            ("security.protocol", "sasl_plaintext"),
            ("isolation.level", "read_uncommitted"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("client.rack", ""),
        ] {
            assert_eq!(made.get(name), Some(expected), "{name}");
        }
        assert!(TopicReader::open(&settings).is_ok());
        assert!(TopicReader::open(&KafkaSettings::new("a:1")).is_ok());
        let wrong = KafkaSettings::new("a:1").with_property("fetch.max.bytes", "5");
        assert!(TopicReader::open(&wrong).is_err_and(|error| error.is_usage()));
    }
}
