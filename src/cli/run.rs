//! `walpost run`: the relay, with health and a progress line around it.

use std::sync::Arc;

use super::signals;
use crate::config::Config;
use crate::error::OutboxError;
use crate::processor::Pace;
use crate::relay::Relay;
use crate::telemetry::{self, Console, Progress};
use crate::vitals::Vitals;

pub(super) async fn run(config: Config, console: &Console) -> Result<(), OutboxError> {
    let vitals = Arc::new(Vitals::default());
    // Bound before anything else: a relay that can't tell how it is should not begin.
    let _health = match &config.observe.listen {
        Some(address) => Some(telemetry::listen(address, Arc::clone(&vitals)).await?),
        None => None,
    };
    let shutdown = signals::shutdown(console)?;
    let _progress = Progress::start(console, &vitals);
    let relay = Relay {
        database: config.database,
        target: config.target,
        kafka: config.kafka,
        pace: Pace { drain_deadline: config.delivery.drain_timeout, ..Pace::default() },
    };
    relay.run(vitals, shutdown).await
}
