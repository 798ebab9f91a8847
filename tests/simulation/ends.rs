//! The two ends that the relay gets to see, over one world.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use walpost::dead_letters::{Parked, Reach, Replay};
use walpost::{
    Batch, DeadLetter, DeadLetterStore, Ends, Lsn, Offer, OutboxError, OutboxMessage, OutboxPublisher,
    OutboxStore, Position, Receipt, Record, RetryConfig, Ticket, WriteBack,
};

use crate::broker::{Broker, Client};
use crate::checker::Checker;
use crate::dice::Dice;
use crate::letters;
use crate::log::Log;
use crate::rows::ModelRows;
use crate::server::{Fetch, Sent, Server};

/// Everything there is outside of the relay.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) log: Log,
    pub(crate) server: Server,
    pub(crate) broker: Broker,
    pub(crate) checker: Checker,
    /// With letters: how often a refused message is tried again.
    pub(crate) retry: Option<RetryConfig>,
    /// So many letters at once.
    pub(crate) most_replayed: usize,
}

/// The longest time that somebody locks the table.
pub(crate) const LOCKED: u64 = 90_000;

/// The world, and a bell that rings when the driver has changed it.
#[derive(Clone)]
pub(crate) struct Shared {
    world: Arc<Mutex<World>>,
    pub(crate) changed: Arc<Notify>,
}

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Shared { world: Arc::new(Mutex::new(world)), changed: Arc::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the time is over, or all is well.
    pub(crate) async fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let changed = self.changed.notified();
            if self.lock().dice.healed {
                return sleep(Duration::from_millis(5).min(time)).await;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(end) => {}
            }
        }
    }
}

pub(crate) struct ModelEnds {
    pub(crate) shared: Shared,
    /// Which relay.
    pub(crate) owner: usize,
}

impl ModelEnds {
    /// Opening takes its time; a server that accepts and then says nothing takes for ever.
    async fn dawdle(&self) {
        let changed = self.shared.changed.notified();
        let delay = {
            let World { dice, checker, .. } = &mut *self.shared.lock();
            if dice.fault(40) {
                checker.happened("open hangs");
                Duration::from_secs(300)
            } else if dice.fault(10) {
                dice.millis(12_000)
            } else {
                dice.millis(20)
            }
        };
        tokio::select! {
            biased;
            () = changed => {}
            () = sleep(delay) => {}
        }
    }
}

impl Ends for ModelEnds {
    type Store = ModelStore;
    type Publisher = ModelPublisher;
    type Letters = ModelLetters;

    async fn open(&mut self) -> Result<(ModelStore, ModelPublisher, ModelLetters), OutboxError> {
        self.dawdle().await;
        let id = {
            let now = Instant::now();
            let World { dice, log, server, checker, .. } = &mut *self.shared.lock();
            if dice.fault(15) {
                checker.happened("open refused");
                return Err(OutboxError::transient("connection refused"));
            }
            server.open(self.owner, now, log, dice, checker)?
        };
        let store = ModelStore { shared: self.shared.clone(), id, left: false };
        let World { dice, broker, checker, .. } = &mut *self.shared.lock();
        let refused = dice.fault(20);
        let client = broker.connect(Instant::now(), dice);
        if refused {
            // The store is dropped after the lock.
            checker.happened("producer refused");
            return Err(OutboxError::transient("no thread for the producer"));
        }
        let letters = ModelLetters { shared: self.shared.clone(), id };
        Ok((store, ModelPublisher { shared: self.shared.clone(), id, client }, letters))
    }
}

pub(crate) struct ModelStore {
    shared: Shared,
    id: u64,
    left: bool,
}

impl OutboxStore for ModelStore {
    type Transaction<'t> = ();

    async fn save<'t>(&'t self, (): &'t (), _: &'t OutboxMessage) -> Result<(), OutboxError> {
        Err(OutboxError::definite("the model's log is written elsewhere", "don't"))
    }

    async fn fetch_pending(&mut self, into: &mut Batch) -> Result<(), OutboxError> {
        if self.left {
            return Err(OutboxError::transient("left"));
        }
        loop {
            let changed = self.shared.changed.notified();
            let until = {
                let World { dice, log, server, checker, .. } = &mut *self.shared.lock();
                match server.fetch(self.id, Instant::now(), log, dice, checker, into)? {
                    Fetch::Changes => return Ok(()),
                    Fetch::Wait(until) => until,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(until) => {}
            }
        }
    }

    async fn mark_published(&mut self, through: Lsn) -> Result<(), OutboxError> {
        let sent = {
            let World { dice, log, server, checker, .. } = &mut *self.shared.lock();
            server.status(self.id, through, Instant::now(), log, dice, checker)
        };
        match sent {
            Sent::Gone(result) => result,
            Sent::Slow(time, result) => {
                sleep(time).await;
                result
            }
        }
    }

    async fn last_words(&mut self) -> Option<OutboxError> {
        self.left = true;
        let heard_for = self.shared.lock().dice.millis(1_000);
        sleep(heard_for).await;
        None
    }

    fn write_back(&self) -> Option<Box<dyn WriteBack>> {
        let on = self.shared.lock().log.writes_back;
        on.then(|| Box::new(ModelRows { shared: self.shared.clone(), id: self.id }) as Box<dyn WriteBack>)
    }

    async fn close(self) -> Result<(), OutboxError> {
        let delay = {
            let dice = &mut self.shared.lock().dice;
            // At times longer than anybody waits.
            if dice.fault(10) { dice.millis(4_000) } else { dice.millis(5) }
        };
        sleep(delay).await;
        let World { dice, server, .. } = &mut *self.shared.lock();
        server.close(self.id, Instant::now(), dice)
    }
}

/// The table of letters, by a session of its own.
pub(crate) struct ModelLetters {
    shared: Shared,
    id: u64,
}

impl ModelLetters {
    /// A statement in that session. It may fail before it took effect or after, or hang.
    async fn statement<T: Default>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut World) -> T + Send,
    ) -> Result<T, OutboxError> {
        let (before, after, fault, takes_effect) = {
            let World { dice, server, checker, .. } = &mut *self.shared.lock();
            let longest = if dice.is_calm() { 20 } else { 500 };
            let (mut before, mut after) = (dice.latency(2, longest), dice.latency(2, longest));
            let (fault, takes_effect) = (dice.fault(25), dice.one_in(2));
            if fault && dice.one_in(3) {
                checker.happened("statement hangs");
                let locked = dice.millis(LOCKED);
                (before, after) = if takes_effect { (before, locked) } else { (locked, after) };
            } else if fault {
                checker.happened(if takes_effect { "statement's answer lost" } else { "statement failed" });
            }
            if let Some(ledger) = server.ledger(self.id) {
                ledger.asks(Instant::now() + before + after);
                if fault {
                    ledger.excuse_for_good();
                }
            }
            checker.note(|| format!("relay: {name}{}", if fault { ", which fails" } else { "" }));
            (before, after, fault, takes_effect)
        };
        self.shared.wait(before).await;
        let mut result = T::default();
        if takes_effect || !fault {
            let world = &mut *self.shared.lock();
            world.server.advance(Instant::now(), &mut world.log, &mut world.checker);
            let Some(ledger) = world.server.ledger(self.id) else {
                return Err(OutboxError::transient("the session is lost"));
            };
            // Later than planned, after a pause.
            ledger.asks(Instant::now() + after);
            result = effect(world);
        }
        self.shared.wait(after).await;
        if fault { Err(OutboxError::transient("the statement failed")) } else { Ok(result) }
    }
}

impl DeadLetterStore for ModelLetters {
    async fn parked(&mut self) -> Result<Parked, OutboxError> {
        let id = self.id;
        let effect = |world: &mut World| {
            if let Some(ledger) = world.server.ledger(id) {
                ledger.learns(Instant::now());
            }
            world.log.letters.parked(world.server.confirmed)
        };
        self.statement("what is parked?", effect).await
    }

    async fn park(&mut self, letters: &[DeadLetter]) -> Result<(), OutboxError> {
        let id = self.id;
        {
            let World { log, server, .. } = &mut *self.shared.lock();
            let rows: Vec<_> = letters.iter().filter_map(|letter| log.row_at(letter.position)).collect();
            let unfit = letters.iter().filter(|letter| letter.unfit.is_some()).count();
            if let Some(ledger) = server.ledger(id) {
                ledger.sets_aside(&rows, unfit, Instant::now());
            }
        }
        self.statement("park", |world| letters::park(world, id, letters)).await
    }

    async fn to_replay(&mut self, request: Lsn, most: usize) -> Result<Vec<Replay>, OutboxError> {
        let id = self.id;
        let effect = |world: &mut World| {
            // Fewer than the relay would take, so that it asks again.
            let next = world.log.letters.next_to_replay(request, most.min(world.most_replayed));
            if let Some(ledger) = world.server.ledger(id) {
                ledger.replays(request, next.is_empty());
            }
            next
        };
        self.statement("what is to be replayed?", effect).await
    }

    async fn replayed(&mut self, letters: &[Position]) -> Result<(), OutboxError> {
        self.statement("replayed", |world| world.log.letters.replayed(letters)).await
    }

    async fn refused_again(
        &mut self,
        refused: &Replay,
        error: &str,
        reach: Reach,
    ) -> Result<(), OutboxError> {
        let effect = |world: &mut World| {
            world.checker.happened("letter refused again");
            world.log.letters.refused_again(refused, error, reach);
        };
        self.statement("refused again", effect).await
    }
}

impl Drop for ModelStore {
    fn drop(&mut self) {
        let World { dice, server, .. } = &mut *self.shared.lock();
        server.hang_up(Some(self.id), Instant::now(), dice);
    }
}

pub(crate) struct ModelPublisher {
    shared: Shared,
    id: u64,
    client: Client,
}

impl OutboxPublisher for ModelPublisher {
    fn publish(&mut self, ticket: Ticket, record: &Record<'_>) -> Result<Offer, OutboxError> {
        let World { dice, log, server, broker, checker, .. } = &mut *self.shared.lock();
        self.client.holds_slot = server.ledger(self.id).is_some();
        let offer = self.client.publish(ticket, record, broker, log, dice, checker);
        let Some(ledger) = server.ledger(self.id) else { return offer };
        match &offer {
            Ok(Offer::Taken) => {
                ledger.offered(Instant::now());
                if let Some((id, replayed)) = self.client.newest() {
                    ledger.took(id, replayed, checker);
                }
            }
            Ok(Offer::Full) => ledger.offered(Instant::now()),
            Err(refusal) if refusal.is_message() => ledger.refused(self.client.refused),
            Err(_) => ledger.excuse_for_good(),
        }
        offer
    }

    fn oldest(&self) -> Option<Ticket> {
        self.client.oldest()
    }

    async fn receipts(&mut self, into: &mut Vec<Receipt>) -> Result<(), OutboxError> {
        loop {
            let next = {
                let World { dice, log, server, broker, checker, .. } = &mut *self.shared.lock();
                let now = Instant::now();
                let before = into.len();
                let (acknowledged, next) = self.client.receipts(broker, log, dice, checker, into)?;
                if let Some(ledger) = server.ledger(self.id) {
                    acknowledged.into_iter().for_each(|id| ledger.acknowledge(id, now));
                    if self.client.has_told() {
                        ledger.excuse_for_good();
                    }
                }
                if into.len() > before {
                    return Ok(());
                }
                next.unwrap_or(now + Duration::from_secs(86_400))
            };
            sleep_until(next).await;
        }
    }
}

impl Drop for ModelPublisher {
    fn drop(&mut self) {
        let World { dice, broker, checker, .. } = &mut *self.shared.lock();
        broker.abandon(&self.client, Instant::now(), dice, checker);
    }
}
