//! `walpost run`: the relay, with health and a progress line around it.

use std::fs;
use std::future::Future;
use std::path::Path;
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
use crate::telemetry::{self, About, Access, App, Console, Events, Exporter, Health, Letters, Progress};
use crate::vitals::Vitals;

/// A shorter one can be found out by trying.
const SHORTEST_TOKEN: usize = 16;

pub(super) async fn run(config: Config, console: &Console, events: Events) -> Result<(), OutboxError> {
    let access = access(&config.observe)?;
    let (vitals, exporter) = vitals(&config.traces);
    let app = App::new(Arc::clone(&vitals))
        .with_access(access)
        .of(about(&config), events)
        .with_letters(Letters::new(config.database.clone(), config.target.clone()));
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
    let result = on_its_own_thread(relay.run(vitals, shutdown)).await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    result
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

/// Who may look and act, with the token out of its file.
fn access(observe: &Observe) -> Result<Access, OutboxError> {
    let access = Access::default().with_actions(observe.page_actions);
    match &observe.listen_token_file {
        Some(path) => Ok(access.with_token(&token(path)?)),
        None if observe.page_actions => Err(OutboxError::usage(
            "--page-actions (WALPOST_PAGE_ACTIONS) needs a token, or anybody on this machine could use it",
            "name a file that holds one with --listen-token-file or WALPOST_LISTEN_TOKEN_FILE",
        )),
        None => Ok(access),
    }
}

fn token(path: &Path) -> Result<String, OutboxError> {
    let wrong = |what: String| {
        OutboxError::usage(
            format!("--listen-token-file (WALPOST_LISTEN_TOKEN_FILE): {}: {what}", path.display()),
            "put a long random text into it, for example with: openssl rand -hex 32",
        )
    };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let token = text.trim();
    if token.len() < SHORTEST_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(format!(
            "not a token: at least {SHORTEST_TOKEN} letters, digits and the like, without spaces"
        )));
    }
    Ok(token.to_owned())
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
