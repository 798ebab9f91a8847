//! The first process of a container: the relay runs as its child.
//!
//! The kernel shields the first process of a namespace from signals that it does not handle, if they come from within,
//! and SIGKILL can't be handled (pid_namespaces(7)). The dead man's switch of the producer is such a signal: it would go
//! off in vain, and a container that was paused would write to Kafka when it wakes, beside the relay that has taken over.
//! So the first process only passes signals on, and ends as its child ends.

use std::env;
use std::io;
use std::process::{self, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command as Program};
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::{Arguments, Command};
use crate::error::OutboxError;

/// Whether this process must not be the relay itself.
pub(super) fn is_needed(arguments: &Arguments) -> bool {
    process::id() == 1 && matches!(arguments.command, Command::Run(_))
}

/// Runs the same command as a child, and gives the exit code with which it ended; 128 and the signal's number if one
/// ended it, as shells and container engines count.
///
/// # Errors
/// The system gives no process.
pub(super) fn run() -> Result<u8, OutboxError> {
    let refused = |error: io::Error| OutboxError::connection("cannot run the relay as a child", error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    runtime.block_on(mind()).map(code).map_err(refused)
}

async fn mind() -> io::Result<ExitStatus> {
    // Before there is a child, so that no signal comes too early to be passed on.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut child = Program::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        // Ctrl-C in a terminal goes to the whole group, and would reach the child twice.
        .process_group(0)
        .spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => return status,
            _ = terminate.recv() => pass_on(&child, Signal::SIGTERM),
            _ = interrupt.recv() => pass_on(&child, Signal::SIGINT),
        }
    }
}

fn pass_on(child: &Child, signal: Signal) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // It may have ended in this moment, which the next turn finds.
        let _ = kill(Pid::from_raw(id), signal);
    }
}

fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn it_ends_as_its_child_ends() {
        for (raw, expected) in [(0, 0), (1 << 8, 1), (2 << 8, 2), (9, 137), (15, 143)] {
            assert_eq!(code(ExitStatus::from_raw(raw)), expected, "{raw}");
        }
    }
}
