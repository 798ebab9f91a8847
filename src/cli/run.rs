//! `walpost run`: the relay, with health and a progress line around it.

use std::future::Future;
use std::sync::Arc;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::signals;
use crate::config::layers::LISTEN;
use crate::config::{Config, Traces};
use crate::error::OutboxError;
use crate::processor::Pace;
use crate::relay::Relay;
use crate::spans::Spans;
use crate::telemetry::{self, App, Console, Exporter, Health, Progress};
use crate::vitals::Vitals;

pub(super) async fn run(config: Config, console: &Console) -> Result<(), OutboxError> {
    let (vitals, exporter) = vitals(&config.traces);
    // Bound before anything else: a relay that can't tell how it is should not begin.
    let _health = match &config.observe.listen {
        Some(address) => Some(listen(address, &App::new(Arc::clone(&vitals))).await?),
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
    let result = on_its_own_thread(relay.run(vitals, shutdown)).await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    result
}

/// What the relay tells of itself, and who hands on its spans, if anybody wants them.
fn vitals(traces: &Traces) -> (Arc<Vitals>, Option<Exporter>) {
    match traces {
        Traces::Off => {}
        Traces::Impossible(why) => {
            let advice = "set --otlp-endpoint to a collector that takes OTLP over HTTP, or to off";
            tracing::warn!(advice, "no spans are sent: {why}");
        }
        Traces::To(collector) => {
            let (spans, receiver) = Spans::channel();
            let vitals = Arc::new(Vitals::default().with_spans(spans));
            let exporter = Exporter::start(collector.as_ref().clone(), receiver, Arc::clone(&vitals));
            tracing::info!(collector = collector.authority, "sending spans of sampled traces");
            return (vitals, Some(exporter));
        }
    }
    (Arc::default(), None)
}

/// Runs it on one thread that does nothing else: health is answered beside it, whatever it does, and reading is not
/// handed from thread to thread.
async fn on_its_own_thread(
    relay: impl Future<Output = Result<(), OutboxError>> + Send + 'static,
) -> Result<(), OutboxError> {
    let cannot = |error| OutboxError::connection("cannot start the relay's thread", error);
    let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let (end, ended) = oneshot::channel();
    let work = move || {
        // A look-up of a name may hang in a thread of its own; nobody needs its answer any longer.
        let result = runtime.block_on(relay);
        runtime.shutdown_background();
        let _ = end.send(result);
    };
    thread::Builder::new().name("relay".to_owned()).spawn(work).map_err(cannot)?;
    ended.await.unwrap_or_else(|_| Err(OutboxError::protocol("the relay's thread", "it ended in a panic")))
}

/// The default port is a convenience: a second relay on the machine takes another one. A port that was
/// chosen is a promise to whoever watches it, and being without it is a fault.
async fn listen(address: &str, app: &App) -> Result<Health, OutboxError> {
    match telemetry::listen(address, app.clone()).await {
        Err(error) if address == LISTEN.default => {
            tracing::warn!("{}; taking a free port", error.chain());
            telemetry::listen("127.0.0.1:0", app.clone()).await
        }
        result => result,
    }
}
