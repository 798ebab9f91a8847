//! `walpost run`: the relay, with health and a progress line around it.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Builder;

use super::signals;
use crate::config::Config;
use crate::config::layers::LISTEN;
use crate::error::OutboxError;
use crate::processor::Pace;
use crate::relay::Relay;
use crate::telemetry::{self, Console, Health, Progress};
use crate::vitals::Vitals;

pub(super) async fn run(config: Config, console: &Console) -> Result<(), OutboxError> {
    let vitals = Arc::new(Vitals::default());
    // Bound before anything else: a relay that can't tell how it is should not begin.
    let _health = match &config.observe.listen {
        Some(address) => Some(listen(address, &vitals).await?),
        None => None,
    };
    let shutdown = signals::shutdown(console)?;
    let _progress = Progress::start(console, &vitals);
    let relay = Relay {
        database: config.database,
        target: config.target,
        kafka: config.kafka,
        on_refusal: config.refusal.on_refusal,
        retry: config.refusal.retry,
        pace: Pace { drain_deadline: config.delivery.drain_timeout, ..Pace::default() },
        alone: true,
    };
    on_its_own_thread(relay.run(vitals, shutdown)).await
}

/// Runs it on one thread that does nothing else: health is answered beside it, whatever it does, and reading is not
/// handed from thread to thread.
async fn on_its_own_thread(
    relay: impl Future<Output = Result<(), OutboxError>> + Send + 'static,
) -> Result<(), OutboxError> {
    let cannot = |error: &dyn std::error::Error| {
        OutboxError::definite(format!("cannot start the relay's thread: {error}"), "raise the limits")
    };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| cannot(&error))?;
    let thread = tokio::task::spawn_blocking(move || {
        let result = runtime.block_on(relay);
        // A look-up of a name may hang in a thread of its own; nobody needs its answer any longer.
        runtime.shutdown_background();
        result
    });
    thread.await.map_err(|error| cannot(&error))?
}

/// The default port is a convenience: a second relay on the machine takes another one. A port that was
/// chosen is a promise to whoever watches it, and being without it is a fault.
async fn listen(address: &str, vitals: &Arc<Vitals>) -> Result<Health, OutboxError> {
    match telemetry::listen(address, Arc::clone(vitals)).await {
        Err(error) if address == LISTEN.default => {
            tracing::warn!("{}; taking a free port", error.chain());
            telemetry::listen("127.0.0.1:0", Arc::clone(vitals)).await
        }
        result => result,
    }
}
