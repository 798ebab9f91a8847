//! Messages that can't be sent, between ends in memory: parked, followed, replayed and discarded.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when something does not hold")]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use walpost::dead_letters::UnfitColumn;
use walpost::memory::{Fault, MemoryPublisher, MemoryStore, MemoryTopic};
use walpost::{
    DeadLetter, DeadLetterStore, Ends, Lsn, NoDeadLetters, OnRefusal, Opening, OutboxError, OutboxMessage,
    OutboxStore, Pace, Position, RetryConfig, State, Supervisor, Vitals,
};

struct MemoryEnds {
    store: MemoryStore,
    topic: MemoryTopic,
}

impl Ends for MemoryEnds {
    type Store = MemoryStore;
    type Publisher = MemoryPublisher;
    type Letters = MemoryStore;

    async fn open(&mut self) -> Opening<Self> {
        Ok((self.store.clone(), self.topic.publisher(), self.store.clone()))
    }
}

/// A relay that parks, and what it stands between.
struct Bench {
    store: MemoryStore,
    topic: MemoryTopic,
    vitals: Arc<Vitals>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), OutboxError>>,
}

impl Bench {
    fn start(store: &MemoryStore, topic: &MemoryTopic) -> Bench {
        let ends = MemoryEnds { store: store.clone(), topic: topic.clone() };
        let vitals = Arc::new(Vitals::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let supervisor = Supervisor::new(ends, Pace::default(), Arc::clone(&vitals), 7)
            .with_refusals(OnRefusal::DeadLetter, RetryConfig::default());
        let task = tokio::spawn(supervisor.run(async {
            let _ = stopped.await;
        }));
        Bench { store: store.clone(), topic: topic.clone(), vitals, stop, task }
    }

    /// Until all is confirmed that the log holds.
    async fn settled(&self, end: Lsn) {
        for _ in 0..3000 {
            if self.store.confirmed() >= end {
                return;
            }
            assert!(!self.task.is_finished(), "the relay has ended: {:?}", self.vitals.phase());
            sleep(Duration::from_millis(100)).await;
        }
        panic!("not settled: {:?} of {end}", self.store.confirmed());
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.expect("no panic").expect("a clean stop");
        assert_eq!(self.vitals.phase().state, State::Stopped);
    }

    fn values(&self) -> Vec<String> {
        let text = |value: Option<Vec<u8>>| String::from_utf8(value.expect("a value")).expect("text");
        self.topic.records().into_iter().map(|record| text(record.value)).collect()
    }

    fn letters(&self) -> Vec<(String, u32)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let letters = self.store.dead_letters().into_iter();
        letters.map(|letter| (text(letter.message.payload().expect("a payload")), letter.attempts)).collect()
    }

    fn positions(&self) -> Vec<Position> {
        self.store.dead_letters().into_iter().map(|letter| letter.position).collect()
    }
}

fn message(key: &'static str, payload: &'static str) -> OutboxMessage {
    OutboxMessage::new("t", payload).with_key(key)
}

fn too_large() -> OutboxError {
    OutboxError::broker("publishing to topic t", 10, "too large")
}

/// One that was refused and one behind it, parked; all others sent.
async fn parked() -> (Bench, Lsn) {
    let (store, topic) = (MemoryStore::default(), MemoryTopic::default());
    topic.script(Fault::Pass);
    for _ in 0..6 {
        topic.script(Fault::Refuse(too_large()));
    }
    for (key, payload) in [("a", "1"), ("b", "2"), ("b", "3"), ("a", "4")] {
        store.commit_one(message(key, payload));
    }
    let end = store.commit_one(OutboxMessage::new("t", "5"));
    let bench = Bench::start(&store, &topic);
    bench.settled(end).await;
    assert_eq!(bench.values(), ["1", "4", "5"]);
    assert_eq!(bench.letters(), [("2".to_owned(), 6), ("3".to_owned(), 0)]);
    assert_eq!(bench.vitals.dead_letters(), 2);
    (bench, end)
}

#[tokio::test(start_paused = true)]
async fn a_replay_keeps_the_order_of_its_key_and_has_a_fresh_position() {
    let (bench, _) = parked().await;
    bench.store.commit_one(message("b", "6"));
    let asked = bench.store.replay_dead_letters(&bench.positions()[1..2]);
    let end = bench.store.commit_one(message("b", "7"));
    bench.settled(end).await;
    assert_eq!(bench.values(), ["1", "4", "5", "2", "3", "6", "7"]);
    assert_eq!(bench.letters(), []);
    let records = bench.topic.records();
    let place = |index: usize| {
        let header = |name| String::from_utf8(records[index].header(name).expect("a header").to_vec());
        (header("walpost.lsn").expect("text"), header("walpost.index").expect("text"))
    };
    let request = Lsn(asked.0 - 8).to_string();
    for (record, index) in [(3, "0"), (4, "1"), (5, "2")] {
        assert_eq!(place(record), (request.clone(), index.to_owned()));
    }
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_refused_again_stays_with_those_behind_it() {
    let (bench, _) = parked().await;
    bench.topic.script(Fault::Refuse(too_large()));
    bench.store.replay_dead_letters(&bench.positions()[..1]);
    let end = bench.store.commit_one(message("a", "8"));
    bench.settled(end).await;
    assert_eq!(bench.letters(), [("2".to_owned(), 7), ("3".to_owned(), 0)]);
    // The broker says so only later.
    bench.topic.script(Fault::Fail(too_large()));
    bench.store.replay_dead_letters(&bench.positions()[..1]);
    let end = bench.store.commit_one(message("b", "9"));
    bench.settled(end).await;
    assert_eq!(bench.letters(), [("2".to_owned(), 8), ("3".to_owned(), 0), ("9".to_owned(), 0)]);
    assert_eq!(bench.values(), ["1", "4", "5", "8"]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_discarded_is_gone_and_its_followers_stay() {
    let (bench, _) = parked().await;
    let end = bench.store.discard_dead_letters(&bench.positions()[..1]);
    bench.settled(end).await;
    let end = bench.store.commit_one(message("b", "6"));
    bench.settled(end).await;
    assert_eq!(bench.letters(), [("3".to_owned(), 0), ("6".to_owned(), 0)]);
    bench.store.discard_dead_letters(&bench.positions());
    let end = bench.store.commit_one(message("b", "7"));
    bench.settled(end).await;
    assert_eq!(bench.values(), ["1", "4", "5", "7"]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn keys_stay_parked_through_a_restart() {
    let (bench, _) = parked().await;
    let (store, topic) = (bench.store.clone(), bench.topic.clone());
    bench.stop().await;
    let bench = Bench::start(&store, &topic);
    let end = store.commit_one(message("b", "6"));
    bench.settled(end).await;
    assert_eq!(bench.letters().len(), 3);
    bench.stop().await;
}

fn letter(key: &'static str, lsn: u64) -> DeadLetter {
    DeadLetter {
        position: Position { commit_lsn: Lsn(lsn), index: 0 },
        message: message(key, "1"),
        unfit: None,
        error: "too large".to_owned(),
        attempts: 1,
    }
}

/// After a crash the log comes again from before a request that was met: under its position, letters from behind it
/// would come as something old.
#[tokio::test]
async fn a_request_that_comes_again_takes_no_letters_from_behind_it() {
    let mut store = MemoryStore::default();
    store.park(&[letter("a", 10), letter("a", 30), letter("b", 40)]).await.expect("parked");
    let chosen = |lsn| Position { commit_lsn: Lsn(lsn), index: 0 };
    store.replay_dead_letters(&[chosen(10), chosen(40)]);
    let next = store.to_replay(Lsn(20), 9).await.expect("letters");
    assert_eq!(next.iter().map(|replay| replay.letter.position).collect::<Vec<_>>(), [chosen(10)]);
    assert_eq!(next[0].send_as, chosen(20));
    store.replayed(&[chosen(10)]).await.expect("noted");
    // Numbered by a later request, and the earlier one comes once more.
    let next = store.to_replay(Lsn(50), 9).await.expect("letters");
    assert_eq!(next.iter().map(|replay| replay.letter.position).collect::<Vec<_>>(), [chosen(40)]);
    assert_eq!(store.to_replay(Lsn(45), 9).await.expect("letters"), []);
}

/// What comes again from before a letter of its key is an ordinary repeat. Parked, it would be replayed as new.
#[tokio::test(start_paused = true)]
async fn what_lies_before_a_letter_does_not_wait_for_it() {
    let (mut store, topic) = (MemoryStore::default(), MemoryTopic::default());
    store.park(&[letter("a", 1_000)]).await.expect("parked");
    let end = store.commit_one(message("a", "2"));
    let bench = Bench::start(&store, &topic);
    bench.settled(end).await;
    assert_eq!(bench.values(), ["2"]);
    assert_eq!(bench.positions(), [letter("a", 1_000).position]);
    bench.stop().await;
}

/// A row that is no message is not sent as far as it could be read, also when another of its key is asked for.
#[tokio::test(start_paused = true)]
async fn a_letter_that_is_no_message_is_not_sent() {
    let (mut store, topic) = (MemoryStore::default(), MemoryTopic::default());
    let filler = store.commit_one(message("c", "1"));
    let unfit = Some(UnfitColumn { name: "created_at".into(), value: None });
    let at = |index| Position { commit_lsn: Lsn(0), index };
    let letters = [
        DeadLetter { position: at(1), unfit, ..letter("a", 0) },
        DeadLetter { position: at(2), ..letter("a", 0) },
        DeadLetter { position: at(3), ..letter("b", 0) },
    ];
    store.park(&letters).await.expect("parked");
    let bench = Bench::start(&store, &topic);
    bench.settled(filler).await;
    let asked = store.replay_dead_letters(&[at(2), at(3)]);
    bench.settled(asked).await;
    assert_eq!(bench.values().len(), 2, "the filler and the one of another key");
    assert_eq!(bench.positions(), [at(1), at(2)]);
    assert_eq!(bench.letters(), [("1".to_owned(), 2), ("1".to_owned(), 1)]);
    bench.stop().await;
}

/// The relay that follows parks it: nobody has to help.
#[tokio::test(start_paused = true)]
async fn a_stop_during_which_a_message_is_refused_is_a_stop() {
    let (store, topic) = (MemoryStore::default(), MemoryTopic::default());
    topic.set_capacity(1);
    topic.script(Fault::Hold);
    topic.script(Fault::Refuse(too_large()));
    let transaction = store.begin();
    for payload in ["1", "2"] {
        store.save(&transaction, &message("a", payload)).await.expect("saved");
    }
    transaction.commit();
    let bench = Bench::start(&store, &topic);
    while bench.vitals.in_flight() < 1 {
        sleep(Duration::from_millis(10)).await;
    }
    let Bench { stop, task, .. } = bench;
    let _ = stop.send(());
    sleep(Duration::from_millis(10)).await;
    topic.release();
    task.await.expect("no panic").expect("a clean stop");
    assert_eq!(topic.records().len(), 1);
}

/// The broker refuses a batch: each of its records fails, and only one of them is to blame.
#[tokio::test(start_paused = true)]
async fn company_is_not_blamed() {
    let (store, topic) = (MemoryStore::default(), MemoryTopic::default());
    let transaction = store.begin();
    for payload in ["1", "2", "3", "4"] {
        store.save(&transaction, &message("a", payload)).await.expect("saved");
    }
    let end = transaction.commit();
    // Refused in the company of the others; then alone it passes, and the next one is refused alone.
    topic.script(Fault::Hold);
    topic.script(Fault::Fail(too_large()));
    topic.script(Fault::Pass);
    topic.script(Fault::Pass);
    for _ in 0..6 {
        topic.script(Fault::Fail(too_large()));
        topic.script(Fault::Pass);
        topic.script(Fault::Pass);
    }
    let bench = Bench::start(&store, &topic);
    bench.settled(end).await;
    assert_eq!(bench.letters(), [("3".to_owned(), 6), ("4".to_owned(), 0)]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_without_a_place_for_them_ends_the_run_and_loses_nothing() {
    struct BareEnds(MemoryStore, MemoryTopic);
    impl Ends for BareEnds {
        type Store = MemoryStore;
        type Publisher = MemoryPublisher;
        type Letters = NoDeadLetters;
        async fn open(&mut self) -> Opening<Self> {
            Ok((self.0.clone(), self.1.publisher(), NoDeadLetters))
        }
    }
    let (store, topic) = (MemoryStore::default(), MemoryTopic::default());
    for _ in 0..6 {
        topic.script(Fault::Refuse(too_large()));
    }
    let start = store.commit_one(message("a", "1"));
    store.keepalive(false);
    let supervisor =
        Supervisor::new(BareEnds(store.clone(), topic.clone()), Pace::default(), Arc::default(), 7)
            .with_refusals(OnRefusal::DeadLetter, RetryConfig::default());
    let error = supervisor.run(std::future::pending()).await.expect_err("no place");
    assert!(error.to_string().contains("no place for dead letters") && !error.is_transient(), "{error:?}");
    assert!(store.confirmed() < start && topic.records().is_empty());
}
