//! The processor and its supervisor between ends in memory, under paused time and scripted faults.

#![allow(clippy::expect_used, reason = "a test says so when something does not hold")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use walpost::memory::{Fault, MemoryPublisher, MemoryStore, MemoryTopic};
use walpost::write_back::Written;
use walpost::{
    Batch, Ends, Lsn, Opening, OutboxError, OutboxMessage, OutboxProcessor, OutboxStore, Pace, RowKey, State,
    Supervisor, Vitals, WriteBack,
};

fn message(payload: &'static str) -> OutboxMessage {
    OutboxMessage::new("t", payload)
}

fn broken() -> OutboxError {
    OutboxError::transient("cut by the test")
}

fn values(topic: &MemoryTopic) -> Vec<String> {
    let text = |value: Option<Vec<u8>>| String::from_utf8(value.expect("a value")).expect("text");
    topic.records().into_iter().map(|record| text(record.value)).collect()
}

/// A processor in a task of its own, and the way to stop it.
struct Running {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), OutboxError>>,
    vitals: Arc<Vitals>,
}

impl Running {
    fn start(store: &MemoryStore, publisher: MemoryPublisher) -> Running {
        Running::at_pace(store, publisher, Pace::default())
    }

    fn at_pace(store: &MemoryStore, publisher: MemoryPublisher, pace: Pace) -> Running {
        let (stop, stopped) = oneshot::channel();
        let vitals = Arc::new(Vitals::default());
        let processor =
            OutboxProcessor::new(store.clone(), publisher).with_vitals(Arc::clone(&vitals)).with_pace(pace);
        let task = tokio::spawn(processor.run(async {
            let _ = stopped.await;
        }));
        Running { stop, task, vitals }
    }

    async fn stop(self) -> Result<(), OutboxError> {
        let _ = self.stop.send(());
        self.task.await.expect("no panic")
    }
}

#[tokio::test(start_paused = true)]
async fn publishes_in_commit_order_and_confirms_the_end() {
    let store = MemoryStore::default();
    let transaction = store.begin();
    for payload in ["1", "2", "3"] {
        store.save(&transaction, &message(payload)).await.expect("saved");
    }
    drop(store.begin());
    let rolled_back = store.begin();
    store.save(&rolled_back, &message("never")).await.expect("saved");
    drop(rolled_back);
    transaction.commit();
    let end = store.commit_one(message("4"));

    let publisher = MemoryPublisher::default();
    let topic = publisher.topic();
    let running = Running::start(&store, publisher);
    topic.wait_for(4).await;
    running.stop().await.expect("stopped");
    assert_eq!(values(&topic), ["1", "2", "3", "4"]);
    assert_eq!((store.confirmed(), store.is_closed()), (end, true));
    let records = topic.records();
    let position =
        |index: usize| (records[index].header("walpost.lsn"), records[index].header("walpost.index"));
    assert_eq!(position(2), (Some(&b"0/0"[..]), Some(&b"2"[..])));
    assert_eq!(position(3), (Some(&b"0/B"[..]), Some(&b"0"[..])));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_confirmed_before_its_receipt() {
    let store = MemoryStore::default();
    let publisher = MemoryPublisher::default();
    let topic = publisher.topic();
    topic.script(Fault::Hold);
    let running = Running::start(&store, publisher);
    store.commit_one(message("held"));
    let later = store.commit_one(message("acknowledged first"));
    store.keepalive(true);
    topic.wait_for(2).await;
    sleep(Duration::from_secs(35)).await;
    assert_eq!(store.confirmed(), Lsn::ZERO);
    assert!(store.statuses().len() >= 3, "status goes on while the broker is silent: {:?}", store.statuses());
    assert_eq!(running.vitals.in_flight(), 1);
    assert!(running.vitals.unacknowledged_for() >= Duration::from_secs(30));
    topic.release();
    sleep(Duration::from_millis(200)).await;
    assert!(store.confirmed() >= later, "promptly, not at the next interval");
    running.stop().await.expect("stopped");
}

#[tokio::test(start_paused = true)]
async fn an_idle_outbox_follows_the_keepalives() {
    let store = MemoryStore::default();
    let running = Running::start(&store, MemoryPublisher::default());
    for _ in 0..100 {
        let wal_end = store.keepalive(true);
        sleep(Duration::from_millis(150)).await;
        assert_eq!(store.confirmed(), wal_end);
    }
    running.stop().await.expect("stopped");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_requests_gets_ten_answers_a_second() {
    let store = MemoryStore::default();
    let running = Running::start(&store, MemoryPublisher::default());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        store.keepalive(true);
        sleep(Duration::from_millis(1)).await;
    }
    let answers = store.statuses().len();
    assert!((25..=31).contains(&answers), "{answers} statuses in 3 s");
    running.stop().await.expect("stopped");
}

#[tokio::test(start_paused = true)]
async fn a_full_publisher_holds_the_reader_and_keeps_the_order() {
    let store = MemoryStore::default();
    let publisher = MemoryPublisher::default();
    let topic = publisher.topic();
    topic.set_capacity(2);
    let count = 50;
    for number in 0..count {
        topic.script(Fault::Slow(Duration::from_millis(50 + (number % 3) * 20)));
        store.commit_one(OutboxMessage::new("t", number.to_string()));
    }
    let running = Running::start(&store, publisher);
    topic.wait_for(usize::try_from(count).expect("small")).await;
    running.stop().await.expect("stopped");
    assert_eq!(values(&topic), (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// What waits behind one record that gets no receipt must not grow for ever, however many others get theirs.
#[tokio::test(start_paused = true)]
async fn a_partition_that_stands_still_holds_up_the_others_in_the_end() {
    let store = MemoryStore::default();
    let publisher = MemoryPublisher::default();
    let topic = publisher.topic();
    topic.script(Fault::Hold);
    for number in 0..1000 {
        store.commit_one(OutboxMessage::new("t", number.to_string()));
    }
    let pace = Pace { most_behind: 100, ..Pace::default() };
    let running = Running::at_pace(&store, publisher, pace);
    topic.wait_for(100).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!((topic.records().len(), running.vitals.published()), (100, 99));
    assert!(running.vitals.oldest_waits() >= Duration::from_secs(60), "{:?}", running.vitals);
    assert_eq!(store.confirmed(), Lsn::ZERO);
    topic.release();
    topic.wait_for(1000).await;
    let end = store.keepalive(true);
    running.stop().await.expect("stopped");
    assert_eq!(values(&topic), (0..1000).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(store.confirmed() <= end && store.confirmed() > Lsn::ZERO);
}

#[tokio::test(start_paused = true)]
async fn one_failed_delivery_stops_the_line() {
    let store = MemoryStore::default();
    let publisher = MemoryPublisher::default();
    let topic = publisher.topic();
    topic.script(Fault::Pass);
    topic.script(Fault::Fail(OutboxError::broker("publishing", 29, "denied")));
    let end = store.commit_one(message("1"));
    let transaction = store.begin();
    for payload in ["2", "3"] {
        store.save(&transaction, &message(payload)).await.expect("saved");
    }
    transaction.commit();
    let running = Running::start(&store, publisher);
    let error = running.task.await.expect("no panic").expect_err("the line stops");
    assert!(error.is_message(), "{error:?}");
    assert_eq!(error.position().map(|position| position.index), Some(0), "{error:?}");
    assert_eq!(values(&topic), ["1"]);
    assert!(store.confirmed() <= end);
}

#[tokio::test(start_paused = true)]
async fn what_precedes_a_refused_message_is_confirmed() {
    let store = MemoryStore::default();
    let publisher = MemoryPublisher::default();
    let topic = publisher.topic();
    topic.script(Fault::Slow(Duration::from_secs(1)));
    topic.script(Fault::Refuse(OutboxError::broker("publishing", 10, "too large")));
    let end = store.commit_one(message("1"));
    store.commit_one(message("2"));
    store.commit_one(message("3"));
    let running = Running::start(&store, publisher);
    let error = running.task.await.expect("no panic").expect_err("the line stops");
    assert!(error.is_message() && error.position().is_some(), "{error:?}");
    assert_eq!((values(&topic), store.confirmed()), (vec!["1".to_owned()], end));
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_the_open_transaction_and_nothing_more() {
    let store = MemoryStore::default();
    let publisher = MemoryPublisher::default();
    let topic = publisher.topic();
    topic.set_capacity(1);
    let transaction = store.begin();
    for payload in ["1", "2", "3"] {
        topic.script(Fault::Slow(Duration::from_secs(1)));
        store.save(&transaction, &message(payload)).await.expect("saved");
    }
    let end = transaction.commit();
    store.commit_one(message("next"));
    let running = Running::start(&store, publisher);
    topic.wait_for(1).await;
    running.stop().await.expect("stopped");
    assert_eq!(values(&topic), ["1", "2", "3"]);
    assert_eq!(store.confirmed(), end);

    let running = Running::start(&store, topic.publisher());
    topic.wait_for(4).await;
    running.stop().await.expect("stopped");
    assert_eq!(values(&topic), ["1", "2", "3", "next"], "nothing lost, nothing repeated");
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_up_at_its_deadline() {
    let store = MemoryStore::default();
    let publisher = MemoryPublisher::default();
    let topic = publisher.topic();
    topic.script(Fault::Hold);
    store.commit_one(message("held"));
    let running = Running::start(&store, publisher);
    topic.wait_for(1).await;
    let start = Instant::now();
    running.stop().await.expect("a stop is a stop");
    assert!((Duration::from_secs(25)..Duration::from_secs(28)).contains(&start.elapsed()));
    assert_eq!((store.confirmed(), store.is_closed()), (Lsn::ZERO, true));
}

/// Opens ends over the same log and topic; scripted errors come first.
struct MemoryEnds {
    store: MemoryStore,
    topic: MemoryTopic,
    errors: VecDeque<OutboxError>,
}

impl Ends for MemoryEnds {
    type Store = MemoryStore;
    type Publisher = MemoryPublisher;
    type Letters = MemoryStore;

    async fn open(&mut self) -> Opening<Self> {
        match self.errors.pop_front() {
            Some(error) => Err(error),
            None => Ok((self.store.clone(), self.topic.publisher(), self.store.clone())),
        }
    }
}

/// Runs a supervisor until the topic holds `count` records.
async fn supervised(
    errors: Vec<OutboxError>,
    store: &MemoryStore,
    topic: &MemoryTopic,
    count: usize,
    vitals: &Arc<Vitals>,
) -> Result<(), OutboxError> {
    let ends = MemoryEnds { store: store.clone(), topic: topic.clone(), errors: errors.into() };
    let supervisor = Supervisor::new(ends, Pace::default(), Arc::clone(vitals), 7);
    supervisor.run(topic.wait_for(count)).await
}

#[tokio::test(start_paused = true)]
async fn every_transient_fault_is_survived_and_nothing_is_lost() {
    let store = MemoryStore::default();
    let topic = MemoryTopic::default();
    topic.script(Fault::Pass);
    topic.script(Fault::LoseAnswer(broken()));
    topic.script(Fault::Fail(broken()));
    store.fail_confirm(broken());
    for payload in ["1", "2", "3"] {
        store.commit_one(message(payload));
    }
    let errors =
        vec![broken(), broken(), OutboxError::server("starting", "55006", "slot is active for PID 1")];
    let vitals = Arc::new(Vitals::default());
    let start = Instant::now();
    let task = supervised(errors, &store, &topic, 6, &vitals);
    task.await.expect("stopped");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let seen = values(&topic);
    let mut first_arrivals = seen.clone();
    let mut known = std::collections::HashSet::new();
    first_arrivals.retain(|value| known.insert(value.clone()));
    assert_eq!(first_arrivals, ["1", "2", "3"], "{seen:?}");
    assert_eq!(vitals.phase().state, State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_definite_fault_ends_it_with_advice() {
    let errors = vec![broken(), OutboxError::server("starting", "42704", "publication \"p\" does not exist")];
    let vitals = Arc::default();
    let (store, topic) = (MemoryStore::default(), MemoryTopic::default());
    let error = supervised(errors, &store, &topic, 1, &vitals).await.expect_err("only a person can help");
    assert!(error.advice().is_some_and(|advice| advice.contains("walpost setup")), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_tried_six_times_then_halts() {
    let store = MemoryStore::default();
    let topic = MemoryTopic::default();
    for _ in 0..6 {
        topic.script(Fault::Refuse(OutboxError::broker("publishing", 10, "too large")));
    }
    store.commit_one(message("1"));
    let start = Instant::now();
    let error = supervised(vec![], &store, &topic, 1, &Arc::default()).await.expect_err("halted");
    assert!(error.is_message(), "{error:?}");
    assert!(
        (Duration::from_secs(15)..=Duration::from_secs(31)).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(store.confirmed(), Lsn::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stop_interrupts_a_wait() {
    let errors = (0..1000).map(|_| broken()).collect();
    let (store, topic) = (MemoryStore::default(), MemoryTopic::default());
    let vitals = Arc::new(Vitals::default());
    let ends = MemoryEnds { store, topic, errors };
    let supervisor = Supervisor::new(ends, Pace::default(), Arc::clone(&vitals), 7);
    let start = Instant::now();
    supervisor.run(sleep(Duration::from_secs(61))).await.expect("stopped");
    assert_eq!(start.elapsed().as_secs(), 61);
}

/// A store whose table takes one batch of rows, and no more.
struct Marking(MemoryStore);

impl OutboxStore for Marking {
    type Transaction<'t> = <MemoryStore as OutboxStore>::Transaction<'t>;

    async fn save<'t>(
        &'t self,
        transaction: &'t Self::Transaction<'t>,
        message: &'t OutboxMessage,
    ) -> Result<(), OutboxError> {
        self.0.save(transaction, message).await
    }

    async fn fetch_pending(&mut self, into: &mut Batch) -> Result<(), OutboxError> {
        self.0.fetch_pending(into).await
    }

    async fn mark_published(&mut self, through: Lsn) -> Result<(), OutboxError> {
        self.0.mark_published(through).await
    }

    fn write_back(&self) -> Option<Box<dyn WriteBack>> {
        Some(Box::new(OneBatch { taken: false }))
    }

    async fn close(self) -> Result<(), OutboxError> {
        self.0.close().await
    }
}

struct OneBatch {
    taken: bool,
}

impl WriteBack for OneBatch {
    fn write_back<'a>(&'a mut self, _: &'a [Arc<RowKey>]) -> Written<'a> {
        let taken = std::mem::replace(&mut self.taken, true);
        Box::pin(async move { if taken { Err(broken()) } else { Ok(Vec::new()) } })
    }

    fn is_known_by_id(&self) -> bool {
        false
    }
}

/// A life ends while rows are written back: those that are written do not come again, whatever becomes of the rest.
#[tokio::test(start_paused = true)]
async fn what_was_written_back_is_confirmed_although_the_rest_is_not() {
    let store = MemoryStore::default();
    let (publisher, mut ends) = (MemoryPublisher::default(), Vec::new());
    for number in 0..1_500 {
        let row = RowKey { table: 0, xid: 0, values: vec![Some(number.to_string())] };
        ends.push(store.commit_one(message("m").with_row(row)));
        publisher.topic().script(Fault::Pass);
    }
    store.commit_one(message("refused"));
    publisher.topic().script(Fault::Fail(broken()));
    let error = OutboxProcessor::new(Marking(store.clone()), publisher).run(std::future::pending()).await;
    assert!(error.is_err_and(|error| error.is_transient()));
    assert_eq!(store.confirmed(), ends[999]);
}
