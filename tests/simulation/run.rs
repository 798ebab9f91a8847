//! One seed: a history of faults, then a time in which nothing fails, then what must hold.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use walpost::{OutboxError, Pace, Supervisor, Vitals};

use crate::broker::Broker;
use crate::checker::{Checker, Invariant};
use crate::dice::{Dice, Weather};
use crate::ends::{ModelEnds, Shared, World};
use crate::log::Log;
use crate::server::Server;

/// From the end of the last fault to a slot at the end of the log.
const RECOVERY: Duration = Duration::from_secs(60);
/// A stop takes the drain's deadline and the goodbye.
const STOP: Duration = Duration::from_secs(40);

/// What a seed has shown.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<(Invariant, String)>,
    pub(crate) trace: Vec<String>,
    pub(crate) lives: u64,
    pub(crate) transactions: usize,
    pub(crate) rows: u64,
    pub(crate) repeated: u64,
}

/// Runs one seed in a runtime of its own, whose clock jumps from one event to the next.
pub(crate) fn run(seed: u64, traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(simulate(seed, traced))
}

async fn simulate(seed: u64, traced: bool) -> Outcome {
    let mut dice = Dice::new(seed);
    let span = Duration::from_millis(500) + dice.latency(15_000, 90_000);
    let mut log = Log::new(&mut dice);
    let server = Server::new(&log, span, &mut dice);
    log.write(dice.size(60), Duration::ZERO, span, &mut dice);
    let broker = Broker::new(&log, span, &mut dice);
    let checker = Checker::new(traced);
    let driver =
        Driver { start: Instant::now(), shared: Shared::new(World { dice, log, server, broker, checker }) };
    let process = driver.trouble(Instant::now() + span).await;
    driver.heal();
    let process = driver.settle(process).await;
    driver.quiet(process).await;
    driver.outcome()
}

struct Driver {
    start: Instant,
    shared: Shared,
}

/// The relay, as a process is seen from outside.
struct Process {
    relay: Pin<Box<dyn Future<Output = Result<(), OutboxError>>>>,
    stop: oneshot::Sender<()>,
}

impl Process {
    /// Lets it run until `at`; its result if it ends before.
    async fn until(&mut self, at: Instant) -> Option<Result<(), OutboxError>> {
        tokio::select! {
            biased;
            result = &mut self.relay => Some(result),
            () = sleep_until(at) => None,
        }
    }

    /// Lets it take a few more steps at most, of which the last is never finished.
    async fn steps(&mut self, count: u64) {
        let mut left = count;
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            self.relay.as_mut().poll(context).map(|_| ())
        })
        .await;
    }
}

impl Driver {
    fn start(&self) -> Process {
        let seed = self.shared.lock().dice.seed();
        let (stop, stopped) = oneshot::channel();
        let ends = ModelEnds(self.shared.clone());
        let supervisor = Supervisor::new(ends, Pace::default(), Arc::new(Vitals::default()), seed);
        let shutdown = async {
            let _ = stopped.await;
        };
        self.note(|| "process: starts".to_owned());
        Process { relay: Box::pin(supervisor.run(shutdown)), stop }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.shared.lock().checker.note(what);
    }

    /// Processes come and go until `end`. The last one may still run.
    async fn trouble(&self, end: Instant) -> Option<Process> {
        let mut process = self.start();
        while Instant::now() < end {
            let (fate, at) = {
                let dice = &mut self.shared.lock().dice;
                let at = Instant::now() + dice.latency(4_000, 40_000);
                (Fate::throw(dice), at.min(end))
            };
            if let Some(result) = process.until(at).await {
                self.note(|| format!("process: gave up: {result:?}"));
            } else if at < end {
                match fate {
                    Fate::Pause(time) => {
                        self.pause(time).await;
                        continue;
                    }
                    Fate::Stop => drop(self.stop(process).await),
                    Fate::Kill(steps) => {
                        process.steps(steps).await;
                        self.note(|| "process: killed".to_owned());
                        drop(process);
                    }
                }
            } else {
                return Some(process);
            }
            let away = self.shared.lock().dice.latency(300, 5_000);
            sleep(away).await;
            process = self.start();
        }
        Some(process)
    }

    /// The process stands still, as under SIGSTOP, and is not to blame for what it misses.
    async fn pause(&self, time: Duration) {
        self.note(|| format!("process: paused for {} ms", time.as_millis()));
        if let Some(connection) = &mut self.shared.lock().server.connection {
            connection.ledger.excuse(Instant::now() + time);
        }
        sleep(time).await;
    }

    /// SIGTERM. True if it ended in order.
    async fn stop(&self, process: Process) -> bool {
        self.note(|| "process: told to stop".to_owned());
        if let Some(connection) = &mut self.shared.lock().server.connection {
            connection.ledger.excuse_for_good();
        }
        let Process { relay, stop } = process;
        let _ = stop.send(());
        let result = tokio::time::timeout(STOP, relay).await;
        self.note(|| format!("process: stopped: {result:?}"));
        if result.is_err() {
            self.shared.lock().checker.broken(Invariant::Stuck, "a stop does not end");
        }
        matches!(result, Ok(Ok(())))
    }

    /// From now on no fault begins.
    fn heal(&self) {
        let world = &mut *self.shared.lock();
        world.dice.healed = true;
        world.broker.heal();
        world.server.heal();
        world.checker.note(|| "all is well from now on".to_owned());
        if world.dice.weather == Weather::Calm {
            let repeated = repeated(&world.log);
            if repeated > 0 {
                world.checker.broken(Invariant::Repeated, format!("{repeated} without any fault"));
            }
        }
        self.shared.changed.notify_waiters();
    }

    /// Runs until the slot stands at the end of the log and nothing is on its way.
    async fn settle(&self, process: Option<Process>) -> Process {
        let mut process = process.unwrap_or_else(|| self.start());
        let deadline = Instant::now() + RECOVERY;
        loop {
            if self.is_settled() {
                return process;
            }
            if Instant::now() >= deadline {
                let world = &mut *self.shared.lock();
                let (confirmed, end) = (world.server.confirmed, world.log.end());
                world.checker.broken(
                    Invariant::Stuck,
                    format!("the slot stands at {confirmed}, the log ends at {end}"),
                );
                return process;
            }
            if let Some(result) = process.until(Instant::now() + Duration::from_millis(50)).await {
                self.note(|| format!("process: gave up: {result:?}"));
                // Whoever runs it starts it again.
                sleep(Duration::from_secs(1)).await;
                process = self.start();
            }
        }
    }

    fn is_settled(&self) -> bool {
        let World { log, server, broker, checker, .. } = &mut *self.shared.lock();
        let now = Instant::now();
        server.advance(now, log, checker);
        broker.advance(now, log, checker);
        server.confirmed >= log.end() && broker.is_idle()
    }

    /// Without a fault a stop in the middle of the traffic repeats nothing.
    async fn quiet(&self, process: Process) {
        let before = {
            let World { dice, log, .. } = &mut *self.shared.lock();
            let from = self.start.elapsed();
            log.write(dice.size(8), from, from + Duration::from_millis(300), dice);
            repeated(log)
        };
        self.shared.changed.notify_waiters();
        let mut process = process;
        let at = Instant::now() + self.shared.lock().dice.millis(400);
        let ended = process.until(at).await.is_some();
        let stopped = !ended && self.stop(process).await;
        let process = self.settle(None).await;
        let stopped = self.stop(process).await && stopped;
        let World { log, checker, .. } = &mut *self.shared.lock();
        let more = repeated(log) - before;
        if more > 0 || !stopped {
            checker
                .broken(Invariant::Repeated, format!("{more} after a clean stop, ended in order: {stopped}"));
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
        }
    }
}

/// How many arrivals were not the first of their row.
fn repeated(log: &Log) -> u64 {
    log.rows_of_all().map(|(_, row)| u64::from(row.arrivals.saturating_sub(1))).sum()
}

/// What befalls a process.
enum Fate {
    Stop,
    /// Killed after so many more steps.
    Kill(u64),
    Pause(Duration),
}

impl Fate {
    fn throw(dice: &mut Dice) -> Fate {
        if dice.fault(2) {
            return Fate::Kill(dice.below(30));
        }
        if dice.fault(4) {
            return Fate::Pause(dice.latency(3_000, 90_000));
        }
        Fate::Stop
    }
}
