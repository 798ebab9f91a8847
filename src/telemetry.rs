//! What a running relay tells people and machines: the log, a progress line, health and metrics over HTTP, spans.

mod access;
mod app;
mod console;
mod door;
mod events;
mod exposition;
mod filling;
pub mod health;
mod history;
mod http;
mod letters;
mod lines;
mod metrics;
mod otlp;
mod page;
mod panics;
mod plain;
mod process;
mod progress;
mod stalls;
mod state;
mod token;

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use self::lines::Lines;
use crate::config::{LogFormat, Observe, log_filter};
use crate::error::OutboxError;

pub use access::{Access, Denied, Facts, Wish};
pub use app::App;
pub use console::Console;
pub use events::Events;
pub use http::{Health, listen};
pub use letters::Letters;
pub use otlp::Exporter;
pub(crate) use plain::escape;
pub use progress::{Progress, Snapshot};
pub use state::About;
pub use token::TokenFile;

/// Starts the log on stderr and hands back the screen that it is written to, and what it will have warned of.
///
/// `colours` is for a terminal only: a file never gets escape sequences. `in_step` is for a command that prints as well:
/// each line is then written before what it prints next. A relay does not wait for who reads.
///
/// # Errors
/// The process has a log already, or its level makes no sense.
pub fn init(observe: &Observe, colours: bool, in_step: bool) -> Result<(Console, Events), OutboxError> {
    let terminal = std::io::stderr().is_terminal();
    let automatic = if terminal { LogFormat::Text } else { LogFormat::Json };
    let format = observe.log_format.unwrap_or(automatic);
    let cannot =
        |error| OutboxError::definite(format!("cannot start the log's thread: {error}"), "raise the limits");
    let console = Console::new(terminal, format).map_err(cannot)?.in_step(in_step);
    let filter =
        log_filter(&observe.log_level).map_err(|what| OutboxError::usage(what, "see --log-level"))?;
    let lines = fmt::layer().with_writer(console.clone());
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => lines.with_ansi(terminal && colours).event_format(Lines).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let events = Events::default();
    let log = tracing_subscriber::registry().with(lines.with_filter(filter)).with(events.recorder());
    log.try_init().map_err(|error| {
        OutboxError::definite(format!("the log cannot be started: {error}"), "start it once")
    })?;
    panics::tell(console.clone());
    Ok((console, events))
}
