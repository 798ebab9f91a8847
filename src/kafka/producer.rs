//! The publisher and its poll thread.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::oneshot;

use super::alone::Alone;
use super::clock::Seen;
use super::context::{Context, KafkaProducer};
use super::dead_man::DeadMan;
use super::delivery::{Inbox, Report, failure, overtaken};
use super::introduction::Introductions;
use super::login::Credentials;
use super::partitioner::Choice;
use super::settings::{KafkaSettings, LARGEST};
use super::topics::Topics;
use super::traces::Traces;
use super::watch::Watch;
use super::window::{Window, footprint};
use crate::error::OutboxError;
use crate::publisher::{Headers, Offer, OutboxPublisher, Receipt, Record, Ticket};
use crate::vitals::Vitals;

/// How often the poll thread looks up when nothing happens: whether to stop, and whether brokers that were
/// lost are back. Receipts don't wait for it.
const TURN: Duration = Duration::from_millis(100);
/// How long it waits for a broker to answer when none could be reached.
const LOOK: Duration = Duration::from_millis(500);
/// How long after its start a producer whose records don't go out asks for metadata at every turn. librdkafka
/// drops the connection of `bootstrap.servers` for that of the broker's own name; if that falls together
/// with its request for a producer id, it tries again only after 500 ms or with the next metadata.
const START: Duration = Duration::from_secs(1);
/// How long records may be in flight without any of them being delivered before it asks whether a broker answers.
const STILL: Duration = Duration::from_secs(5);
/// How long after a refused login its files and commands are asked whether they give another one, and how long at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long [`KafkaPublisher::close`] waits: a turn, a look, rdkafka's flush of 500 ms, and the threads' end.
const CLOSE: Duration = Duration::from_secs(5);

/// Publishes to Kafka through librdkafka.
///
/// Dropping it forgets what is in flight, which may arrive all the same, and returns at once; connections and
/// threads end soon after.
pub struct KafkaPublisher {
    /// One of two shares; the poll thread has the other, and ends when this one is gone.
    producer: Arc<KafkaProducer>,
    inbox: Arc<Inbox>,
    ended: Option<oneshot::Receiver<()>>,
    window: Window,
    /// Used again for every batch of reports.
    reports: Vec<Report>,
    /// The lowest number of a record whose failure the caller knows of.
    failed_at: Option<usize>,
    topics: Topics,
    /// The last topic whose name was found good.
    topic: String,
    introductions: Introductions,
    dead_man: Option<DeadMan>,
    clock: Seen,
    traces: Option<Traces>,
    vitals: Arc<Vitals>,
}

impl KafkaPublisher {
    /// Starts a producer. Brokers need not be reachable; `vitals` tells whether they are. Secrets of files and commands are
    /// those that [`KafkaSettings::with_secrets`] has read.
    ///
    /// # Errors
    /// A usage error if a setting is wrong; a transient one if the system gives no thread.
    pub fn open(settings: &KafkaSettings, vitals: Arc<Vitals>) -> Result<Self, OutboxError> {
        let prepared = settings.prepare()?;
        let inbox = Arc::new(Inbox::default());
        let context = Context::new(
            Arc::clone(&inbox),
            Watch::new(Arc::clone(&vitals)),
            (settings.secrets(), settings.token()),
            prepared.choice,
        );
        let producer: KafkaProducer =
            prepared.config.create_with_context(context).map_err(|error| settings.refused(error))?;
        let producer = Arc::new(producer);
        producer.context().set_producer(&producer);

        let (end, ended) = oneshot::channel();
        let poller = Poller {
            producer: Some(Arc::clone(&producer)),
            inbox: Arc::clone(&inbox),
            credentials: Credentials::of(settings),
            alone: Alone::new(settings),
            _end: end,
        };
        thread::Builder::new()
            .name("kafka-poll".to_owned())
            .spawn(move || poller.run())
            .map_err(|error| OutboxError::connection("cannot start the thread that polls Kafka", error))?;
        Ok(KafkaPublisher {
            producer,
            inbox,
            ended: Some(ended),
            window: Window::new(prepared.limits),
            reports: Vec::new(),
            failed_at: None,
            topics: settings.topics.clone(),
            topic: String::new(),
            introductions: Introductions::default(),
            dead_man: None,
            clock: Seen::now(),
            traces: Traces::wanted(&vitals),
            vitals,
        })
    }

    /// Lets the kernel end the whole process (SIGKILL) when nobody has called this publisher for eight seconds
    /// while records are in flight: a relay that was paused must not send, when it wakes, what another one has
    /// sent meanwhile. For a process that is a relay and nothing else. Linux, Android and FreeBSD; no effect elsewhere.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn ending_the_process_when_still(mut self) -> Result<Self, OutboxError> {
        self.dead_man = Some(DeadMan::start()?);
        Ok(self)
    }

    /// Once a turn of the loop, not for each record.
    fn touch(&self) {
        self.vitals.tally().in_flight_bytes.set(self.window.bytes() as u64);
        self.touch_dead_man(!self.window.is_empty());
    }

    fn touch_dead_man(&self, busy: bool) {
        if let Some(dead_man) = &self.dead_man {
            dead_man.touch(busy);
        }
    }

    /// Forgets what is in flight and waits until connections and threads have ended, five seconds at most.
    pub async fn close(mut self) {
        let ended = self.ended.take();
        drop(self);
        if let Some(ended) = ended {
            // Either way it is over: the sender is gone with the thread, or patience is at its end.
            let _ = tokio::time::timeout(CLOSE, ended).await;
        }
    }

    /// Refuses what librdkafka would refuse late, or not at all.
    fn check(&mut self, record: &Record<'_>, bytes: usize) -> Result<(), OutboxError> {
        if record.topic != self.topic {
            if !is_topic_name(record.topic) {
                return Err(failure(
                    &record.topic.escape_debug().to_string(),
                    RDKafkaErrorCode::InvalidTopic,
                    None,
                ));
            }
            // Before librdkafka hears of it, which would ask the brokers, who may make the topic.
            self.topics.check(record.topic)?;
            record.topic.clone_into(&mut self.topic);
        }
        // librdkafka reads -1 as "any".
        if record.partition.is_some_and(i32::is_negative) {
            return Err(failure(record.topic, RDKafkaErrorCode::UnknownPartition, None));
        }
        if bytes > LARGEST {
            return Err(OutboxError::message(
                format!("{}: more than librdkafka can send", sizes(record)),
                format!("send less than {LARGEST} bytes, such as a reference to where the rest is"),
            ));
        }
        Ok(())
    }

    fn send(&mut self, ticket: Ticket, record: &Record<'_>, bytes: usize) -> Result<Offer, OutboxError> {
        let base = BaseRecord::<[u8], [u8], usize> {
            topic: record.topic,
            partition: record.partition,
            payload: record.value,
            key: record.key,
            // librdkafka reads 0 as "now", and Kafka knows no time before 1970.
            timestamp: record.timestamp.map(|millis| millis.max(1)),
            headers: owned(record.headers),
            delivery_opaque: self.window.next(),
        };
        if self.introductions.is_new(record.topic) {
            self.producer.context().choice().begin(record.topic, record.spread);
        }
        let (sent, chosen) =
            Choice::observed(record.spread, || self.producer.send(base).map_err(|(error, _)| error));
        let Err(error) = sent else {
            self.introductions.sent(record.topic, record.partition.or(chosen), self.window.next());
            if let Some(traces) = &mut self.traces {
                traces.begin(self.window.next(), record);
            }
            self.window.push(ticket, bytes);
            return Ok(Offer::Taken);
        };
        match error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail) {
            // After a fatal error what is in flight fails too, and its receipts tell whose fault it was. And a full
            // queue, which the window should have prevented, has room again after one of its receipts.
            RDKafkaErrorCode::Fatal | RDKafkaErrorCode::QueueFull if !self.window.is_empty() => {
                Ok(Offer::Full)
            }
            code @ RDKafkaErrorCode::MessageSizeTooLarge => {
                let error = failure(record.topic, code, None);
                let advice = error.advice().unwrap_or_default();
                let advice = format!("{advice}; {}", sizes(record));
                Err(error.with_advice(advice))
            }
            code => Err(failure(record.topic, code, self.producer.client().fatal_error())),
        }
    }
}

impl OutboxPublisher for KafkaPublisher {
    /// Offers a record without waiting.
    ///
    /// A message that can't be sent is refused on the spot, which keeps nothing from the next one. After any other
    /// failure nothing is taken: `Full` until the failed receipt has been handed over, so that the
    /// caller learns the reason from the record that it belongs to, an error from then on.
    fn publish(&mut self, ticket: Ticket, record: &Record<'_>) -> Result<Offer, OutboxError> {
        if self.inbox.has_failed() {
            return if self.failed_at.is_some() { Err(overtaken()) } else { Ok(Offer::Full) };
        }
        let bytes = footprint(record);
        if !self.window.admits(bytes) || !self.introductions.admits(record.topic) {
            return Ok(Offer::Full);
        }
        self.touch_dead_man(true);
        let offer = self.check(record, bytes).and_then(|()| self.send(ticket, record, bytes));
        if offer.is_err() {
            // With nothing in flight nobody asks for receipts, which would say so.
            self.touch_dead_man(!self.window.is_empty());
        }
        // A message that was refused on the spot has not been sent: nothing can slip past it but what the
        // caller lets pass.
        if offer.as_ref().is_err_and(|error| !error.is_message()) {
            self.failed_at = Some(self.window.next());
            self.inbox.fail();
        }
        offer
    }

    fn oldest(&self) -> Option<Ticket> {
        self.window.oldest()
    }

    /// Waits for at least one receipt and appends all that have come.
    ///
    /// Cancel-safe: a receipt is either appended or still waiting. The room of a record is free again
    /// once its receipt is appended.
    async fn receipts(&mut self, into: &mut Vec<Receipt>) -> Result<(), OutboxError> {
        self.touch();
        let polled = tokio::select! {
            polled = self.inbox.take(&mut self.reports) => polled,
            by = self.clock.put_back() => return Err(put_back(by)),
        };
        if !polled {
            if let Some(why) = self.inbox.renewed() {
                return Err(OutboxError::transient(format!("{why}: starting a new producer")));
            }
            return Err(OutboxError::transient("the thread that polls Kafka has ended"));
        }
        for (number, delivered) in self.reports.drain(..) {
            let Some(ticket) = self.window.remove(number) else { continue };
            let place = delivered.as_ref().ok().copied();
            let mut result = delivered.map(|place| self.introductions.acknowledged(number, place.partition));
            if result.is_err() {
                self.failed_at = Some(self.failed_at.map_or(number, |failed| failed.min(number)));
            } else if self.failed_at.is_some_and(|failed| failed < number) {
                // It was on the wire already; counting it would leave a gap behind it.
                result = Err(overtaken());
            }
            if let Some(traces) = &mut self.traces {
                traces.end(number, place.filter(|_| result.is_ok()));
            }
            into.push(Receipt { ticket, result });
        }
        self.introductions.expire();
        self.touch();
        Ok(())
    }
}

impl Drop for KafkaPublisher {
    fn drop(&mut self) {
        self.vitals.tally().in_flight_bytes.set(0);
        // At once, so that nothing is sent any more while the poll thread is on its way out.
        self.producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

/// What the poll thread owns.
struct Poller {
    /// Taken only when the thread ends.
    producer: Option<Arc<KafkaProducer>>,
    inbox: Arc<Inbox>,
    credentials: Credentials,
    alone: Alone,
    /// Dropped last: it tells that everything is over.
    _end: oneshot::Sender<()>,
}

impl Poller {
    fn run(mut self) {
        let Some(producer) = &self.producer else { return };
        let watch = producer.context().watch();
        let start = Instant::now();
        let (mut pause, mut look_at, mut moved_at) = (FIRST_PAUSE, start, start);
        // The share of the publisher goes first, so that the last one, whose drop blocks, is here and never in
        // an async task.
        while Arc::strong_count(producer) > 1 {
            producer.poll(TURN);
            let in_flight = producer.in_flight_count() > 0;
            if watch.has_moved() || !in_flight {
                moved_at = Instant::now();
            }
            let waits = in_flight && watch.is_new() && start.elapsed() < START;
            let still = moved_at.elapsed() >= STILL;
            let silent = if waits || still || watch.in_doubt() {
                let answer = producer.client().fetch_metadata(None, LOOK);
                if answer.is_ok() {
                    watch.answered();
                    moved_at = Instant::now();
                } else if watch.in_doubt() {
                    watch.unreachable();
                }
                answer.is_err() && !waits
            } else {
                false
            };
            if self.alone.is_so(silent) {
                self.inbox.renew("the brokers answer others, and this producer has lost them");
            }
            if watch.is_refused() && Instant::now() >= look_at && self.inbox.renewed().is_none() {
                if self.credentials.have_changed() {
                    self.inbox.renew("the brokers refuse the login, and there is another password by now");
                }
                look_at = Instant::now() + pause;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
            watch.tell();
            self.inbox.turn();
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.inbox.close();
        self.producer = None;
    }
}

fn put_back(by: Duration) -> OutboxError {
    let by = by.as_secs();
    OutboxError::transient(format!(
        "the clock was put back by {by} s, and librdkafka waits by it: starting a new producer"
    ))
}

/// What was being sent, without a word of it.
fn sizes(record: &Record<'_>) -> String {
    let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let (key, value) = (length(record.key), length(record.value));
    format!("publishing to topic {}, a key of {key} and a value of {value} bytes", record.topic)
}

/// 1 to 249 of a-z A-Z 0-9 . _ - and neither "." nor ".." (Kafka, "Topic Naming").
fn is_topic_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name.bytes().all(good) && name != "." && name != ".."
}

fn owned(headers: &Headers) -> Option<OwnedHeaders> {
    if headers.is_empty() {
        return None;
    }
    let room = OwnedHeaders::new_with_capacity(headers.len());
    Some(headers.iter().fold(room, |owned, (key, value)| owned.insert(Header { key, value })))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is let pass or parked, and the loop may have nothing to do from then on.
    #[test]
    fn what_is_refused_on_the_spot_leaves_no_dead_man_behind() {
        let settings = KafkaSettings::new("127.0.0.1:1");
        let publisher = KafkaPublisher::open(&settings, Arc::default()).expect("a publisher");
        let mut publisher = publisher.ending_the_process_when_still().expect("a thread");
        let headers = Headers::default();
        let good = Record {
            topic: "orders",
            partition: None,
            key: None,
            spread: 0,
            value: None,
            timestamp: None,
            headers: &headers,
        };
        let refused = publisher.publish(Ticket(0), &Record { topic: "a/b", ..good });
        assert!(refused.is_err_and(|error| error.is_message()));
        let is_busy = |publisher: &KafkaPublisher| publisher.dead_man.as_ref().is_some_and(DeadMan::is_busy);
        assert!(!is_busy(&publisher), "nothing is in flight");
        assert_eq!(publisher.publish(Ticket(1), &good).expect("taken"), Offer::Taken);
        assert!(is_busy(&publisher), "a record is");
    }

    #[test]
    fn topic_names_follow_kafkas_rules() {
        let long = "x".repeat(249);
        for name in ["a", "orders.v1", "A_b-9", long.as_str(), "...", ".a"] {
            assert!(is_topic_name(name), "{name}");
        }
        let longer = "x".repeat(250);
        for name in ["", ".", "..", longer.as_str(), "a b", "a/b", "ä", "a\0b", "a\n"] {
            assert!(!is_topic_name(name), "{name:?}");
        }
    }
}
