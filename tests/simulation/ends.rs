//! The two ends that the relay gets to see, over one world.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use walpost::{
    Batch, DeadLetterStore, Ends, Lsn, Offer, OutboxError, OutboxMessage, OutboxPublisher, OutboxStore,
    Receipt, Record, Ticket,
};

use crate::broker::{Broker, Client};
use crate::checker::Checker;
use crate::dice::Dice;
use crate::log::Log;
use crate::server::{Fetch, Sent, Server};

/// Everything there is outside of the relay.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) log: Log,
    pub(crate) server: Server,
    pub(crate) broker: Broker,
    pub(crate) checker: Checker,
}

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

    async fn open(&mut self) -> Result<(ModelStore, ModelPublisher), OutboxError> {
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
        let store = ModelStore { shared: self.shared.clone(), id };
        let World { dice, broker, checker, .. } = &mut *self.shared.lock();
        let refused = dice.fault(20);
        let client = broker.connect(Instant::now(), dice);
        if refused {
            // The store is dropped after the lock.
            checker.happened("producer refused");
            return Err(OutboxError::transient("no thread for the producer"));
        }
        Ok((store, ModelPublisher { shared: self.shared.clone(), id, client }))
    }
}

pub(crate) struct ModelStore {
    shared: Shared,
    id: u64,
}

impl OutboxStore for ModelStore {
    type Transaction<'t> = ();

    async fn save<'t>(&'t self, (): &'t (), _: &'t OutboxMessage) -> Result<(), OutboxError> {
        Err(OutboxError::definite("the model's log is written elsewhere", "don't"))
    }

    async fn fetch_pending(&mut self, into: &mut Batch) -> Result<(), OutboxError> {
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

impl DeadLetterStore for ModelStore {}

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
        let World { dice, log, server, broker, checker } = &mut *self.shared.lock();
        let offer = self.client.publish(ticket, record, broker, log, dice, checker);
        match (&offer, server.ledger(self.id)) {
            (Ok(Offer::Taken), Some(ledger)) => {
                if let Some(id) = self.client.newest() {
                    ledger.took(id, checker);
                }
            }
            (Err(_), Some(ledger)) => ledger.excuse_for_good(),
            _ => {}
        }
        offer
    }

    async fn receipts(&mut self, into: &mut Vec<Receipt>) -> Result<(), OutboxError> {
        loop {
            let next = {
                let World { dice, log, server, broker, checker } = &mut *self.shared.lock();
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
