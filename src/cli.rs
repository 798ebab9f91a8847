//! The command line: from arguments to a finished command.

pub mod arguments;
mod audit;
mod check;
mod dead_letters;
mod demo;
mod first_process;
pub(crate) mod output;
mod pasted;
#[cfg(test)]
mod reference;
mod replay;
mod report;
mod run;
mod setup;
mod signals;
mod status;
mod teardown;
mod verify;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::process::ExitCode;

use crate::config::layers::LOG_LEVEL;
use crate::config::{self, Config, Environment, Layers, Observe};
use crate::error::OutboxError;
use crate::postgres::settings::Os;
use crate::telemetry::{self, escape};

pub use arguments::{Arguments, Command};

/// Carries out what was typed, with these variables of the environment.
///
/// # Errors
/// What made the command fail; `report` says it.
pub fn execute(
    arguments: &Arguments,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), OutboxError> {
    let environment = Environment::new(variables)?;
    let file = arguments.logs.config.as_deref();
    let mut flags = arguments.layer()?;
    if matches!(arguments.command, Command::Demo(_)) && environment.get(LOG_LEVEL.variable).is_none() {
        // The board is the demo's voice; the relay's own lines would be drawn into it.
        flags.put_default(&LOG_LEVEL, "warn");
    }
    let layers = Layers::gather(flags, file, &environment, Path::new(""))?;
    // Needs no server, so it works before there is any.
    if let Command::Setup(setup) = &arguments.command
        && setup.print
    {
        return setup::print(&config::target(&layers)?);
    }
    // Set and not empty, whatever it is: https://no-color.org
    let colours = environment.get("NO_COLOR").is_none();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| {
        OutboxError::definite(format!("cannot start threads: {error}"), "raise the limits")
    })?;
    let in_step = !matches!(arguments.command, Command::Run(_) | Command::Demo(_));
    let (console, events) = telemetry::init(&Observe::resolve(&layers)?, colours, in_step)?;
    layers.announce();
    // Not for the demo: it is made of throw-away parts, and real settings must not lead it to a real system.
    let config = || Config::resolve(&layers, &environment, &Os::detect());
    let result = runtime.block_on(async {
        match &arguments.command {
            Command::Setup(setup) => setup::setup(&config()?, setup.backfill()).await,
            Command::Replay(rows) => replay::replay(rows, &config()?).await,
            Command::Run(_) => run::run(config()?, &console, events).await,
            Command::Check(arguments) => check::check(&config()?, arguments.json).await,
            Command::Status(arguments) => status::status(arguments, &config()?).await,
            Command::Audit(arguments) => audit::audit(arguments, &config()?, file).await,
            Command::DeadLetters(letters) => dead_letters::dead_letters(&letters.command, &config()?).await,
            Command::Teardown(teardown) => teardown::teardown(&config()?, teardown.drop_table).await,
            Command::Verify(arguments) => verify::verify(arguments, config::kafka(&layers)?).await,
            Command::Demo(demo) => demo::demo(demo, &console).await,
        }
    });
    // A look-up of a name may hang in a thread of its own; nobody needs its answer any longer.
    runtime.shutdown_background();
    // Where nobody takes what is said, what is still to be said would keep the process from its end.
    if console.flush() { result } else { result.map_err(OutboxError::told) }
}

/// Lets a child do it all if this process must not be the relay itself, and gives the exit code with which that ended.
///
/// # Errors
/// There is no child to be had.
pub fn as_first_process(arguments: &Arguments) -> Option<Result<ExitCode, OutboxError>> {
    first_process::is_needed(arguments).then(|| first_process::run().map(ExitCode::from))
}

/// Says on stderr what went wrong and what to do, and chooses the exit code: 2 for wrong usage, else 1.
pub fn report(error: &OutboxError) -> ExitCode {
    if !error.is_told() {
        let mut stderr = std::io::stderr();
        let colours =
            stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // Nobody is left to be told when stderr is closed.
        let _ = stderr.write_all(explain(error, colours).as_bytes());
    }
    if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

fn explain(error: &OutboxError, colours: bool) -> String {
    let (red, blue, plain) = if colours { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error:{plain} {}\n", escape(&error.chain()));
    for line in error.advice().unwrap_or_default().lines() {
        // Writing to a string never fails.
        let _ = writeln!(text, "  {blue}advice:{plain} {}", escape(line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_explained_with_their_advice() {
        for (error, colours, expected) in [
            (OutboxError::transient("gone"), false, "error: gone\n"),
            (
                OutboxError::definite("gone", "look\nfind"),
                false,
                "error: gone\n  advice: look\n  advice: find\n",
            ),
            (
                OutboxError::connection("cannot connect", "refused").with_advice("wait"),
                true,
                "\x1b[1;31merror:\x1b[0m cannot connect: refused\n  \x1b[1;36madvice:\x1b[0m wait\n",
            ),
        ] {
            assert_eq!(explain(&error, colours), expected);
        }
    }
}
