//! One seed: a history of faults, then a time in which nothing fails, then what must hold.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use walpost::RetryConfig;

use crate::broker::Broker;
use crate::checker::{Checker, Invariant};
use crate::dice::{Dice, Weather};
use crate::ends::{Shared, World};
use crate::log::Log;
use crate::processes::{Fate, Processes};
use crate::server::Server;

/// From the end of the last fault to a slot at the end of the log.
const RECOVERY: Duration = Duration::from_secs(60);

/// So often the operator asks for all letters at the end.
const ROUNDS: usize = 3;

/// Throws the dice of the write-back.
const WRITES_BACK: u64 = 0x4D41_524B;

/// What a seed has shown.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<(Invariant, String)>,
    pub(crate) trace: Vec<String>,
    pub(crate) lives: u64,
    pub(crate) transactions: usize,
    pub(crate) rows: u64,
    pub(crate) repeated: u64,
    pub(crate) letters: usize,
    pub(crate) replays: u64,
    pub(crate) marked: u64,
    /// What happened to the relay, and how often.
    pub(crate) happened: BTreeMap<&'static str, u64>,
}

/// Runs one seed in a runtime of its own, whose clock jumps from one event to the next.
pub(crate) fn run(seed: u64, traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let driver = runtime.block_on(async { Driver::new(seed, traced) });
    if catch_unwind(AssertUnwindSafe(|| runtime.block_on(driver.drive()))).is_err() {
        driver.shared.lock().checker.broken(Invariant::Panic, "see above");
    }
    driver.outcome()
}

struct Driver {
    start: Instant,
    span: Duration,
    shared: Shared,
}

impl Driver {
    fn new(seed: u64, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let most = if dice.one_in(4) { 120_000 } else { 15_000 };
        let span = Duration::from_millis(500) + dice.millis(most);
        let retry = dice.one_in(2).then(|| RetryConfig {
            max_retries: dice.index(4) as u32,
            base_delay: dice.millis(500),
            multiplier: 1.0 + dice.index(3) as f64,
            max_delay: dice.millis(3_000),
        });
        // By dice of its own: histories without it stay what they were.
        let writes_back = Dice::new(seed ^ WRITES_BACK).one_in(3);
        let mut log = Log::new(retry.is_some(), writes_back, &mut dice);
        let server = Server::new(&log, span, &mut dice);
        log.write(dice.size(60), Duration::ZERO, span, &mut dice);
        let broker = Broker::new(&log, span, &mut dice);
        let checker = Checker::new(traced);
        let most_replayed = dice.size(20);
        let shared = Shared::new(World { dice, log, server, broker, checker, retry, most_replayed });
        Driver { start: Instant::now(), span, shared }
    }

    async fn drive(&self) {
        let relays = if self.shared.lock().dice.one_in(3) { 2 } else { 1 };
        let mut processes = Processes::new(self.shared.clone(), relays);
        self.trouble(&mut processes).await;
        self.heal();
        processes.wake();
        self.settle(&mut processes).await;
        self.empty_the_table(&mut processes).await;
        self.quiet(processes).await;
    }

    /// Processes come and go.
    async fn trouble(&self, processes: &mut Processes) {
        let end = self.start + self.span;
        while Instant::now() < end {
            let at = Instant::now() + self.shared.lock().dice.latency(4_000, 40_000);
            processes.run_until(at.min(end)).await;
            let (index, fate) = {
                let dice = &mut self.shared.lock().dice;
                (dice.index(processes.len()), Fate::throw(dice))
            };
            processes.befall(index, fate);
        }
    }

    /// From now on no fault begins.
    fn heal(&self) {
        let world = &mut *self.shared.lock();
        world.dice.healed = true;
        world.broker.poison.heal();
        world.server.heal();
        world.checker.note(|| "all is well from now on".to_owned());
        self.shared.changed.notify_waiters();
    }

    /// Runs until the slot stands at the end of the log and nothing is on its way.
    async fn settle(&self, processes: &mut Processes) {
        let deadline = Instant::now() + RECOVERY;
        while !self.is_settled() {
            if Instant::now() >= deadline {
                let World { log, server, checker, .. } = &mut *self.shared.lock();
                let (confirmed, end) = (server.confirmed, log.end());
                let what = format!("the slot stands at {confirmed}, the log ends at {end}");
                checker.broken(Invariant::Stuck, what);
                return;
            }
            processes.run_until(Instant::now() + Duration::from_millis(50)).await;
        }
    }

    /// The causes are mended, and the operator asks for all letters until there are none.
    async fn empty_the_table(&self, processes: &mut Processes) {
        {
            let World { log, checker, .. } = &mut *self.shared.lock();
            if let Some(letter) = log.letters.unanswered() {
                checker.broken(Invariant::Lost, format!("the request to replay {letter} was passed over"));
            }
        }
        for _ in 0..ROUNDS {
            {
                let log = &mut self.shared.lock().log;
                if log.letters.open().next().is_none() {
                    return;
                }
                log.ask_for_all(self.start.elapsed());
            }
            self.shared.changed.notify_waiters();
            self.settle(processes).await;
        }
    }

    fn is_settled(&self) -> bool {
        let World { log, server, broker, checker, .. } = &mut *self.shared.lock();
        let now = Instant::now();
        server.advance(now, log, checker);
        broker.advance(now, log, checker);
        server.confirmed >= log.end() && broker.is_idle()
    }

    /// Whether nothing is on its way to the broker.
    fn is_still(&self) -> bool {
        let World { log, broker, checker, .. } = &mut *self.shared.lock();
        broker.advance(Instant::now(), log, checker);
        broker.is_idle()
    }

    /// Without a fault a stop in the middle of the traffic repeats nothing.
    async fn quiet(&self, processes: Processes) {
        let mut in_order = processes.stop_all().await;
        // A relay that was paused for long and then stopped may have left something on its way.
        while !self.is_still() {
            sleep(Duration::from_millis(50)).await;
        }
        let before = {
            let World { dice, log, checker, .. } = &mut *self.shared.lock();
            if dice.weather == Weather::Calm && repeated(log) > 0 {
                checker.broken(Invariant::Repeated, format!("{} without any fault", repeated(log)));
            }
            let from = self.start.elapsed();
            log.write(dice.size(8), from, from + Duration::from_millis(300), dice);
            repeated(log)
        };
        let stop = Instant::now() + self.shared.lock().dice.millis(400);
        let mut process = Processes::new(self.shared.clone(), 1);
        process.run_until(stop).await;
        in_order &= process.stop_all().await;
        let mut process = Processes::new(self.shared.clone(), 1);
        self.settle(&mut process).await;
        in_order &= process.stop_all().await;
        let World { log, checker, .. } = &mut *self.shared.lock();
        let more = repeated(log) - before;
        if more > 0 {
            checker.broken(Invariant::Repeated, format!("{more} after a clean stop"));
        }
        if !in_order {
            checker.broken(Invariant::Stuck, "a stop without a fault does not end in order");
        }
    }

    fn outcome(&self) -> Outcome {
        let World { log, server, checker, .. } = &mut *self.shared.lock();
        checker.finish(log);
        Outcome {
            violations: std::mem::take(&mut checker.violations),
            trace: checker.trace.take().unwrap_or_default(),
            lives: server.connections,
            transactions: log.entries.iter().filter(|entry| entry.is_transaction()).count(),
            rows: log.rows_of_all().count() as u64,
            repeated: repeated(log),
            letters: log.letters.len(),
            replays: log.letters.replays,
            marked: log.rows_of_all().filter(|(_, row)| row.marked).count() as u64,
            happened: std::mem::take(&mut checker.happened),
        }
    }
}

/// How many arrivals were not the first of their row.
fn repeated(log: &Log) -> u64 {
    log.rows_of_all().map(|(_, row)| u64::from(row.arrivals.saturating_sub(1))).sum()
}
