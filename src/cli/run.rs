//! `walpost run`: the relay, with health and a progress line around it.

use std::future::Future;
use std::sync::Arc;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::signals;
use crate::config::layers::LISTEN;
use crate::config::{Config, Observe, Traces};
use crate::error::OutboxError;
use crate::processor::Pace;
use crate::relay::Relay;
use crate::spans::Spans;
use crate::telemetry::{
    self, About, Access, App, Console, Events, Exporter, Health, Letters, Progress, TokenFile,
};
use crate::vitals::Vitals;

pub(super) async fn run(config: Config, console: &Console, events: Events) -> Result<(), OutboxError> {
    let token_file = token_file(&config.observe)?;
    let (vitals, exporter) = vitals(&config.traces);
    let app = App::new(Arc::clone(&vitals))
        .with_access(Access::default().with_actions(config.observe.page_actions))
        .of(about(&config), events)
        .with_letters(Letters::new(config.database.clone(), config.target.clone()));
    let app = token_file.into_iter().fold(app, App::with_token_file);
    // Bound before anything else: a relay that can't tell how it is should not begin.
    let _health = match &config.observe.listen {
        Some(address) => Some(listen(address, &app).await?),
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
    let result = on_its_own_thread(relay.run(Arc::clone(&vitals), shutdown)).await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    result.map_err(|error| if console.is_for_machines() { told(error, &vitals) } else { error })
}

/// An error that ends the relay, on a line of the log where nobody but a program reads on.
fn told(error: OutboxError, vitals: &Vitals) -> OutboxError {
    tracing::error!(error = error.chain(), advice = error.advice(), position = vitals.position(), "stopped");
    error.told()
}

/// What relay this is, for the page.
fn about(config: &Config) -> About {
    About {
        version: env!("CARGO_PKG_VERSION"),
        slot: config.target.slot.clone(),
        publication: config.target.publication.clone(),
        tables: config.target.outboxes().map(|outbox| outbox.table.to_string()).collect(),
        database: config.database.to_string(),
        brokers: config.kafka.brokers.clone(),
    }
}

/// What whoever looks or acts has to bear.
fn token_file(observe: &Observe) -> Result<Option<TokenFile>, OutboxError> {
    match &observe.listen_token_file {
        Some(path) => TokenFile::open(path).map(Some),
        None if observe.page_actions => Err(OutboxError::usage(
            "--page-actions (WALPOST_PAGE_ACTIONS) needs a token, or anybody on this machine could use it",
            "name a file that holds one with --listen-token-file or WALPOST_LISTEN_TOKEN_FILE",
        )),
        None => Ok(None),
    }
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
