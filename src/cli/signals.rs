//! SIGTERM and SIGINT: the first asks for a clean stop, the second takes no for an answer.

use std::future::Future;
use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::error::OutboxError;
use crate::telemetry::Console;

/// A future that resolves at the first signal; the second one ends the process with exit code 1, and
/// what was in flight is sent again at the next start.
///
/// # Errors
/// The system takes no handler.
pub(super) fn shutdown(console: &Console) -> Result<impl Future<Output = ()> + Send + 'static, OutboxError> {
    let refused = |error: io::Error| {
        OutboxError::definite(format!("cannot listen for signals: {error}"), "report this as a fault")
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let console = console.clone();
    let (told, tell) = oneshot::channel();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!("{name}: draining what is in flight; a second signal stops at once");
        // The relay may have ended by itself in the meantime.
        let _ = told.send(());
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::warn!("{name} again: stopped at once; what was in flight will be sent again");
        console.show("");
        // If nobody reads, that is no reason to stay.
        let _ = console.flush();
        process::exit(1);
    });
    Ok(async move {
        // The sender is dropped with the runtime only, when nobody waits any longer.
        let _ = tell.await;
    })
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
