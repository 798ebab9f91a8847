//! The two ends put together: a slot on one side, a broker on the other.
//!
//! The only place that names both; the binary, the demo and the tests enter here.

use std::future::Future;
use std::sync::Arc;

use crate::error::OutboxError;
use crate::kafka::{KafkaPublisher, KafkaSettings};
use crate::postgres::{DeadLetterSession, ReplicationSource, ReplicationStore, Settings, Target};
use crate::processor::Pace;
use crate::refusal::{OnRefusal, RetryConfig};
use crate::supervisor::{Ends, Opening, Supervisor};
use crate::vitals::Vitals;

/// What a relay needs to run.
#[derive(Clone, Debug)]
pub struct Relay {
    /// How to reach the database.
    pub database: Settings,
    /// What to read in it.
    pub target: Target,
    /// How to reach the brokers.
    pub kafka: KafkaSettings,
    /// What becomes of a message that can't be sent.
    pub on_refusal: OnRefusal,
    /// How often it is tried before.
    pub retry: RetryConfig,
    /// How patient to be.
    pub pace: Pace,
    /// The process is a relay and nothing else, so the kernel may end it when its loop stands still for eight seconds
    /// with records in flight (see [`KafkaPublisher::ending_the_process_when_still`]), and the thread that reads a server
    /// that is behind may sleep for a millisecond (see [`ReplicationSource::on_its_own_thread`]).
    pub alone: bool,
}

impl Relay {
    /// Publishes until `shutdown` resolves, through every fault that passes.
    ///
    /// # Errors
    /// A fault that only a person can mend; its advice says how.
    pub async fn run(
        self,
        vitals: Arc<Vitals>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), OutboxError> {
        let mut source = ReplicationSource::new(self.database, self.target).with_vitals(Arc::clone(&vitals));
        if self.on_refusal == OnRefusal::DeadLetter {
            source = source.with_dead_letters();
        }
        if self.alone {
            source = source.on_its_own_thread();
        }
        let ends = RelayEnds { source, kafka: self.kafka, alone: self.alone, vitals: Arc::clone(&vitals) };
        let supervisor = Supervisor::new(ends, self.pace, vitals, fastrand::u64(..));
        supervisor.with_refusals(self.on_refusal, self.retry).run(shutdown).await
    }
}

struct RelayEnds {
    source: ReplicationSource,
    kafka: KafkaSettings,
    alone: bool,
    vitals: Arc<Vitals>,
}

impl Ends for RelayEnds {
    type Store = ReplicationStore;
    type Publisher = KafkaPublisher;
    type Letters = DeadLetterSession;

    async fn open(&mut self) -> Opening<Self> {
        // The slot first: whoever holds it is the one that publishes.
        let store = self.source.open().await?;
        let publisher = KafkaPublisher::open(&self.kafka.with_secrets().await?, Arc::clone(&self.vitals))?;
        let publisher = if self.alone { publisher.ending_the_process_when_still()? } else { publisher };
        let letters = store.dead_letters();
        Ok((store, publisher, letters))
    }
}
