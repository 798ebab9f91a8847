//! The relays as processes, seen from outside: started, stopped, killed at any step, paused.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use walpost::{OnRefusal, OutboxError, Pace, Supervisor, Vitals};

use crate::checker::Invariant;
use crate::dice::Dice;
use crate::ends::{ModelEnds, Shared, World};

/// A stop takes the drain's deadline, the goodbye, and the last look at what a refusal left in flight.
const STOP: Duration = Duration::from_secs(40);

/// What befalls a process.
pub(crate) enum Fate {
    Stop,
    /// Killed after so many more steps.
    Kill(u64),
    Pause(Duration),
}

impl Fate {
    pub(crate) fn throw(dice: &mut Dice) -> Fate {
        if dice.fault(2) {
            return Fate::Kill(dice.below(30));
        }
        if dice.fault(4) {
            return Fate::Pause(if dice.one_in(3) { dice.millis(90_000) } else { dice.millis(3_000) });
        }
        Fate::Stop
    }
}

type Relay = Pin<Box<dyn Future<Output = Result<(), OutboxError>>>>;

/// The place of one relay, where a new process follows the one that ended.
struct Seat {
    relay: Option<Relay>,
    stop: Option<oneshot::Sender<()>>,
    /// Until then it stands still, or is not there.
    wakes: Instant,
    /// Killed after so many more steps.
    steps: Option<u64>,
    /// By then a stop has ended.
    deadline: Option<Instant>,
}

/// One relay, or several of which one publishes and the others stand by.
pub(crate) struct Processes {
    shared: Shared,
    seats: Vec<Seat>,
}

impl Processes {
    pub(crate) fn new(shared: Shared, count: usize) -> Self {
        let wakes = Instant::now();
        let seat = || Seat { relay: None, stop: None, wakes, steps: None, deadline: None };
        Processes { shared, seats: (0..count).map(|_| seat()).collect() }
    }

    /// Lets them run until `at`. Who ends is started again after a while.
    pub(crate) async fn run_until(&mut self, at: Instant) {
        loop {
            let now = Instant::now();
            for index in 0..self.seats.len() {
                if self.seats[index].relay.is_none() && self.seats[index].wakes <= now {
                    self.start(index);
                }
            }
            let next = self.seats.iter().map(|seat| seat.wakes).filter(|wakes| *wakes > now).min();
            let next = next.map_or(at, |next| next.min(at));
            tokio::select! {
                biased;
                (index, result) = poll_fn(|context| self.poll(context)) => self.ended(index, result.as_ref()),
                () = sleep_until(next) => if Instant::now() >= at { return },
            }
        }
    }

    /// Tells all of them to stop, and waits until they have. Whether each ended in order.
    pub(crate) async fn stop_all(mut self) -> bool {
        let mut in_order = true;
        for index in 0..self.seats.len() {
            self.befall(index, Fate::Stop);
            let Some(relay) = self.seats[index].relay.take() else { continue };
            let result = tokio::time::timeout(STOP, relay).await;
            self.shared.lock().checker.note(|| format!("relay {index}: ended: {result:?}"));
            in_order &= matches!(result, Ok(Ok(())));
        }
        in_order
    }

    /// Whoever is paused goes on, and whoever is away comes back.
    pub(crate) fn wake(&mut self) {
        let now = Instant::now();
        self.seats.iter_mut().for_each(|seat| seat.wakes = seat.wakes.min(now));
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    pub(crate) fn befall(&mut self, index: usize, fate: Fate) {
        let seat = &mut self.seats[index];
        if seat.relay.is_none() {
            return;
        }
        let world = &mut *self.shared.lock();
        let ledger = world.server.connection.as_mut().filter(|connection| connection.owner == index);
        let ledger = ledger.map(|connection| &mut connection.ledger);
        match fate {
            Fate::Stop => {
                let Some(stop) = seat.stop.take() else { return };
                world.checker.happened("stop");
                world.checker.note(|| format!("relay {index}: told to stop"));
                if let Some(ledger) = ledger {
                    ledger.excuse_for_good();
                }
                let _ = stop.send(());
                seat.deadline = Some(seat.wakes.max(Instant::now()) + STOP);
            }
            Fate::Kill(steps) => seat.steps = seat.steps.or(Some(steps)),
            Fate::Pause(time) => {
                world.checker.happened("pause");
                world.checker.note(|| format!("relay {index}: paused for {} ms", time.as_millis()));
                seat.wakes = Instant::now() + time;
                seat.deadline = seat.deadline.map(|deadline| deadline + time);
                if let Some(ledger) = ledger {
                    ledger.excuse(seat.wakes);
                }
            }
        }
    }

    fn start(&mut self, index: usize) {
        let (seed, retry) = {
            let world = &mut *self.shared.lock();
            world.checker.note(|| format!("relay {index}: starts"));
            (world.dice.seed(), world.retry)
        };
        let (stop, stopped) = oneshot::channel();
        let ends = ModelEnds { shared: self.shared.clone(), owner: index };
        // In half of the histories no partition may get far ahead of another.
        let most_behind = if seed % 2 == 0 { Pace::default().most_behind } else { 1 + seed % 50 };
        let pace = Pace { most_behind, ..Pace::default() };
        let supervisor = Supervisor::new(ends, pace, Arc::new(Vitals::default()), seed);
        let supervisor = match retry {
            Some(retry) => supervisor.with_refusals(OnRefusal::DeadLetter, retry),
            None => supervisor,
        };
        let shutdown = async {
            // A sender that is dropped tells nothing.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let seat = &mut self.seats[index];
        seat.relay = Some(Box::pin(supervisor.run(shutdown)));
        (seat.stop, seat.steps, seat.deadline) = (Some(stop), None, None);
    }

    /// Who has ended, and how; nothing to say of one that was killed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<Result<(), OutboxError>>)> {
        let now = Instant::now();
        for (index, seat) in self.seats.iter_mut().enumerate() {
            let Some(relay) = seat.relay.as_mut().filter(|_| seat.wakes <= now) else { continue };
            if seat.steps == Some(0) {
                return Poll::Ready((index, None));
            }
            seat.steps = seat.steps.map(|steps| steps - 1);
            if let Poll::Ready(result) = relay.as_mut().poll(context) {
                return Poll::Ready((index, Some(result)));
            }
            if seat.deadline.is_some_and(|deadline| now > deadline) {
                seat.deadline = None;
                self.shared.lock().checker.broken(Invariant::Stuck, "a stop does not end");
            }
        }
        Poll::Pending
    }

    fn ended(&mut self, index: usize, result: Option<&Result<(), OutboxError>>) {
        let seat = &mut self.seats[index];
        // Outside of the lock: it hangs up and abandons what is on its way.
        drop(seat.relay.take());
        let World { dice, checker, retry, .. } = &mut *self.shared.lock();
        if retry.is_some() && matches!(result, Some(Err(error)) if error.is_message()) {
            checker.broken(Invariant::Stuck, format!("halts, and shall park: {result:?}"));
        }
        checker.happened(match result {
            None => "kill",
            Some(Ok(())) => "stopped",
            Some(Err(_)) => "gave up",
        });
        checker.note(|| format!("relay {index}: ended: {result:?}"));
        seat.wakes =
            Instant::now() + if dice.healed { Duration::from_secs(1) } else { dice.latency(300, 5_000) };
    }
}
