//! What a running relay tells people and machines: the log, a progress line, health and metrics over HTTP, spans.

mod app;
mod console;
mod door;
mod exposition;
pub mod health;
mod http;
mod metrics;
mod otlp;
mod process;
mod progress;

use std::io::IsTerminal;

use crate::config::{LogFormat, Observe, log_filter};
use crate::error::OutboxError;

pub use app::App;
pub use console::Console;
pub use http::{Health, listen};
pub use otlp::Exporter;
pub use progress::{Progress, Snapshot};

/// Starts the log on stderr and hands back the screen that it is written to.
///
/// `colours` is for a terminal only: a file never gets escape sequences.
///
/// # Errors
/// The process has a log already, or its level makes no sense.
pub fn init(observe: &Observe, colours: bool) -> Result<Console, OutboxError> {
    let terminal = std::io::stderr().is_terminal();
    let automatic = if terminal { LogFormat::Text } else { LogFormat::Json };
    let format = observe.log_format.unwrap_or(automatic);
    let console = Console::new(terminal && format == LogFormat::Text);
    let filter =
        log_filter(&observe.log_level).map_err(|what| OutboxError::usage(what, "see --log-level"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(console.clone());
    let started = match format {
        LogFormat::Text => log.with_target(false).with_ansi(terminal && colours).try_init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
    };
    started.map_err(|error| {
        OutboxError::definite(format!("the log cannot be started: {error}"), "start it once")
    })?;
    Ok(console)
}
