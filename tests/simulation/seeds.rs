//! Many seeds on all cores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::checker::Invariant;
use crate::run::{Outcome, run};

/// How many seeds are run when nobody says how many.
const SEEDS: u64 = 4_000;
/// Where they begin when nobody says where: a change is judged by the histories that the one before it has passed.
const FIRST: u64 = 112_302_080_787;
/// What the model does to the relay. A few thousand seeds have each of them.
const FAULTS: [&str; 41] = [
    "answer lost",
    "company refused",
    "cut between transactions",
    "cut inside a transaction",
    "delivery failed",
    "full",
    "gave up",
    "kill",
    "landed after its client had gone",
    "letter refused again",
    "letter refused at once",
    "letter refused by receipt",
    "login refused",
    "message refused at once",
    "message refused by receipt",
    "open hangs",
    "open refused",
    "parked",
    "parked behind another",
    "pause",
    "producer ended",
    "producer refused",
    "publish failed",
    "row not seen yet",
    "sender timeout",
    "server crash",
    "server crash, slot falls back",
    "server stopped fast",
    "slot in use",
    "statement failed",
    "statement hangs",
    "statement's answer lost",
    "status failed",
    "status lost and not told",
    "status slow",
    "stop",
    "wire frozen",
    "wire half open",
    "write-back failed",
    "write-back hangs",
    "write-back's answer lost",
];
/// What is shown of the end of a trace.
const SHOWN: usize = 400;

/// `WALPOST_FIRST_SEED` looks at other histories.
pub(crate) fn first_seed() -> u64 {
    number("WALPOST_FIRST_SEED").unwrap_or(FIRST)
}

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn every_seed_keeps_the_promises() {
    if let Some(seed) = number("WALPOST_SEED") {
        let outcome = run(seed, true);
        println!("{}", outcome.trace.join("\n"));
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        return;
    }
    let (first, count) = (first_seed(), number("WALPOST_SEEDS").unwrap_or(SEEDS));
    println!("seeds from {first} on");
    let total = run_all(first, count);
    println!("{}", total.summary());
    if count >= SEEDS {
        let untried: Vec<_> = FAULTS.iter().filter(|fault| !total.happened.contains_key(*fault)).collect();
        assert!(untried.is_empty(), "the model has become too kind: {untried:?} never happened");
    }
    assert!(total.failures.is_empty(), "{}", total.report());
}

#[test]
fn one_seed_gives_one_history() {
    let first = fastrand::u64(..1 << 40);
    for seed in first..first + 20 {
        let (one, other) = (run(seed, true).trace, run(seed, true).trace);
        assert!(one == other, "seed {seed} has two histories");
    }
}

#[derive(Default)]
struct Total {
    seeds: u64,
    lives: u64,
    transactions: usize,
    rows: u64,
    repeated: u64,
    letters: usize,
    replays: u64,
    marked: u64,
    happened: BTreeMap<&'static str, u64>,
    time: Duration,
    failures: Vec<(u64, Vec<(Invariant, String)>)>,
}

impl Total {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.lives += outcome.lives;
        self.transactions += outcome.transactions;
        self.rows += outcome.rows;
        self.repeated += outcome.repeated;
        self.letters += outcome.letters;
        self.replays += outcome.replays;
        self.marked += outcome.marked;
        for (what, count) in outcome.happened {
            *self.happened.entry(what).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            self.failures.push((seed, outcome.violations));
        }
    }

    fn broken(&self, invariant: Invariant) -> usize {
        let breaks = |failure: &&(u64, Vec<_>)| failure.1.iter().any(|(broken, _)| *broken == invariant);
        self.failures.iter().filter(breaks).count()
    }

    fn summary(&self) -> String {
        let Total { seeds, lives, transactions, rows, repeated, letters, replays, marked, .. } = self;
        let Total { happened, time, failures, .. } = self;
        let rate = *seeds as f64 / time.as_secs_f64();
        let [lost, invented, reordered] = [Invariant::Lost, Invariant::Invented, Invariant::Reordered]
            .map(|invariant| self.broken(invariant));
        format!(
            "simulation: {seeds} seeds, {lives} lives, {transactions} transactions, {rows} records, {letters} letters, {replays} replays, {marked} rows marked: \
             {lost} seeds with a loss, {invented} with an invention, {reordered} out of order, {} failed; \
             {repeated} repeats, all within the window; {:.1} s, {rate:.0} seeds/s\nfaults: {happened:?}",
            failures.len(),
            time.as_secs_f64()
        )
    }

    /// The first failure, whole, and the seeds of the others.
    fn report(&self) -> String {
        let Some((seed, violations)) = self.failures.first() else { return String::new() };
        let trace = run(*seed, true).trace;
        let shown = trace[trace.len().saturating_sub(SHOWN)..].join("\n");
        let others: Vec<_> = self.failures.iter().skip(1).take(20).map(|(seed, _)| seed).collect();
        format!(
            "{shown}\n\nseed {seed} broke: {violations:#?}\nrepeat it: WALPOST_SEED={seed} cargo test --test simulation \
             every_seed -- --nocapture\n{} seeds failed; others: {others:?}",
            self.failures.len()
        )
    }
}

fn run_all(first: u64, count: u64) -> Total {
    let (next, total, start) = (AtomicU64::new(0), Mutex::new(Total::default()), Instant::now());
    let failed = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Relaxed);
            // Enough is known after some failures.
            if index >= count || failed.load(Relaxed) >= 20 {
                return;
            }
            let seed = first + index;
            let outcome = run(seed, false);
            failed.fetch_add(usize::from(!outcome.violations.is_empty()), Relaxed);
            total.lock().expect("no panic").add(seed, outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    let mut total = total.into_inner().expect("no panic");
    total.time = start.elapsed();
    total.failures.sort_by_key(|(seed, _)| *seed);
    total
}
