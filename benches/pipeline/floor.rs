//! What no relay can be below: a plain producer to the same broker, with the same rate, payload and consumer. And what
//! both have in common: the pace, the clock and the consumer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use tokio::task::block_in_place;
use uuid::Uuid;

use crate::backlog::EMPTY_PAYLOAD;
use crate::support::PATIENCE;
use crate::support::kafka::config;
use crate::topic::{Topic, assign, consumer, row_number};

/// How many write at once.
pub(crate) const WRITERS: usize = 4;
/// What the floor is made with; the relay has the same defaults.
pub(crate) const PRODUCER: [(&str, &str); 3] =
    [("acks", "all"), ("enable.idempotence", "true"), ("linger.ms", "1")];

/// So many rows at an even pace.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) rows: usize,
    /// Rows at the beginning that are left out.
    pub(crate) skip: usize,
    pub(crate) rate: u32,
    pub(crate) payload: u32,
}

/// When each row was begun, sent and received: nanoseconds of one clock, since the same moment.
pub(crate) struct Times {
    epoch: Instant,
    pub(crate) begun: Vec<AtomicU64>,
    pub(crate) sent: Vec<AtomicU64>,
    pub(crate) received: Vec<AtomicU64>,
}

impl Times {
    fn new(rows: usize) -> Times {
        let [begun, sent, received] = [(); 3].map(|()| (0..rows).map(|_| AtomicU64::new(0)).collect());
        Times { epoch: Instant::now(), begun, sent, received }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap()
    }
}

impl Load {
    /// Writers and a consumer side by side. Each writer is called with its number, and with what it has to call for
    /// each of its rows.
    pub(crate) fn run(&self, brokers: &str, topic: &Topic, writer: impl Fn(&mut Pace<'_>) + Sync) -> Times {
        let (times, from) = (Times::new(self.rows), topic.ends());
        let reader = consumer(brokers);
        assign(&reader, &topic.name, &from);
        // Connected before the first row.
        reader.poll(Duration::from_millis(500));
        block_in_place(|| {
            thread::scope(|scope| {
                scope.spawn(|| listen(&reader, &times));
                let start = Instant::now() + Duration::from_millis(100);
                for first in 0..WRITERS {
                    let (times, writer) = (&times, &writer);
                    scope.spawn(move || writer(&mut Pace { load: *self, times, next: first, start }));
                }
            });
        });
        times
    }

    /// Producers without a database.
    pub(crate) fn floor(&self, brokers: &str, topic: &Topic) -> Times {
        let mut settings = config(brokers);
        for (name, value) in PRODUCER {
            settings.set(name, value);
        }
        let producer: ThreadedProducer<DefaultProducerContext> = settings.create().unwrap();
        let times = self.run(brokers, topic, |pace| {
            while let Some(row) = pace.wait() {
                let id = row.id.to_string();
                let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(&id) });
                let record = BaseRecord::to(&topic.name).key(&row.key).payload(&row.payload).headers(headers);
                pace.begin();
                producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
                pace.sent();
            }
        });
        producer.flush(PATIENCE).unwrap();
        times
    }
}

pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) key: String,
    pub(crate) payload: String,
}

/// The rows of one writer, each at its time.
pub(crate) struct Pace<'a> {
    load: Load,
    times: &'a Times,
    next: usize,
    start: Instant,
}

impl Pace<'_> {
    /// Waits until the next row is due; none after the last.
    pub(crate) fn wait(&self) -> Option<Row> {
        let number = self.next;
        if number >= self.load.rows {
            return None;
        }
        let pad = "0123456789abcdef".repeat(1 + self.load.payload as usize / 16);
        let pad = &pad[..(self.load.payload - EMPTY_PAYLOAD) as usize];
        let row = Row {
            id: Uuid::from_u128(number as u128),
            key: format!("customer-{}", number * 7919 % 10_000),
            payload: format!(r#"{{"number":"{number:010}","text":"{pad}"}}"#),
        };
        let due = self.start + Duration::from_secs_f64(number as f64 / f64::from(self.load.rate));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        Some(row)
    }

    pub(crate) fn begin(&self) {
        self.times.begun[self.next].store(self.times.now(), Relaxed);
    }

    pub(crate) fn sent(&mut self) {
        self.times.sent[self.next].store(self.times.now(), Relaxed);
        self.next += WRITERS;
    }
}

fn listen(reader: &rdkafka::consumer::BaseConsumer, times: &Times) {
    let mut left = times.received.len();
    let mut heard = Instant::now();
    while left > 0 {
        assert!(heard.elapsed() < PATIENCE, "{left} rows have not arrived");
        let Some(message) = reader.poll(Duration::from_millis(100)) else { continue };
        let (message, now) = (message.unwrap(), times.now());
        heard = Instant::now();
        if times.received[row_number(&message)].swap(now, Relaxed) == 0 {
            left -= 1;
        }
    }
}
