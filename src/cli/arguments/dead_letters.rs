//! Arguments of `walpost dead-letters`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::shared::DatabaseArguments;
use crate::config::duration;
use crate::error::OutboxError;
use crate::lsn::Position;
use crate::postgres::Chosen;

/// What can be done with dead letters.
#[derive(Subcommand)]
pub enum DeadLettersCommand {
    /// List them: position, time, topic, key, attempts, state and error
    ///
    /// Open ones only, unless --all is given. States are: parked (it was refused), follows (it waits behind an
    /// earlier one of its key), replay requested, sent, discarded. Done ones are kept for a day.
    List(ListArguments),
    /// Show one letter: the whole error, headers and payload
    Show(ShowArguments),
    /// Ask the relay to send letters again, whole keys in their order
    ///
    /// A letter is sent together with all open ones of its topic and key, in order, so that none overtakes
    /// another. The request goes through the log: a running relay takes it up at once, otherwise the next
    /// `walpost run` does. A letter that Kafka refuses again stays, with those behind it.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArguments),
    /// Give letters up for good; they are never sent
    ///
    /// Only the letters that are named: those behind them of the same key stay until they are replayed or
    /// discarded too.
    Discard(DiscardArguments),
}

/// Arguments of `walpost dead-letters list`.
#[derive(Args)]
pub struct ListArguments {
    /// Only those for this topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Those that were sent or discarded within the last day as well
    #[arg(long)]
    pub all: bool,
    /// Print one JSON object a line, with everything but the payload
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    database: DatabaseArguments,
}

/// Arguments of `walpost dead-letters show`.
#[derive(Args)]
pub struct ShowArguments {
    /// The letter: X/Y+index, as `list` prints it
    #[arg(value_name = "POSITION")]
    pub position: Position,
    /// Write the payload's exact bytes to stdout, and nothing else
    #[arg(long)]
    pub payload: bool,
    #[command(flatten)]
    database: DatabaseArguments,
}

/// Arguments of `walpost dead-letters replay`.
#[derive(Args)]
pub struct ReplayArguments {
    #[command(flatten)]
    pub choice: ChoiceArguments,
    /// Wait until each is sent or refused again, for at most this time
    ///
    /// A whole number and its unit, such as 30s. The exit code is 1 if one was refused again, or the time was
    /// over before.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,
    #[command(flatten)]
    database: DatabaseArguments,
}

/// Arguments of `walpost dead-letters discard`.
#[derive(Args)]
pub struct DiscardArguments {
    #[command(flatten)]
    pub choice: ChoiceArguments,
    /// Yes, all that --all or --topic stands for
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    database: DatabaseArguments,
}

/// Which letters are meant.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct ChoiceArguments {
    /// The letters: X/Y+index each, as `list` prints them
    #[arg(value_name = "POSITION")]
    positions: Vec<Position>,
    /// All open ones for this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// All open ones
    #[arg(long)]
    all: bool,
}

impl DeadLettersCommand {
    pub(super) fn database(&self) -> &DatabaseArguments {
        match self {
            DeadLettersCommand::List(ListArguments { database, .. })
            | DeadLettersCommand::Show(ShowArguments { database, .. })
            | DeadLettersCommand::Replay(ReplayArguments { database, .. })
            | DeadLettersCommand::Discard(DiscardArguments { database, .. }) => database,
        }
    }
}

impl ChoiceArguments {
    /// What was typed, of which exactly one form was.
    pub(in crate::cli) fn chosen(&self) -> Chosen {
        match &self.topic {
            Some(topic) => Chosen::Topic(topic.clone()),
            None if self.all => Chosen::All,
            None => Chosen::Positions(self.positions.iter().copied().collect()),
        }
    }
}

impl DiscardArguments {
    /// What was typed, if it is also meant.
    ///
    /// # Errors
    /// It stands for letters that were not named, and `--yes` is missing.
    pub(in crate::cli) fn chosen(&self) -> Result<Chosen, OutboxError> {
        let chosen = self.choice.chosen();
        let (flag, which) = match &chosen {
            Chosen::Topic(_) if !self.yes => ("--topic", "every open letter for that topic"),
            Chosen::All if !self.yes => ("--all", "every open letter"),
            _ => return Ok(chosen),
        };
        Err(OutboxError::usage(
            format!("{flag} gives up {which} for good"),
            "look at them first (`walpost dead-letters list`); if that is what you want, add --yes",
        ))
    }
}

const REPLAY_EXAMPLES: &str = "\
Examples:
  walpost dead-letters replay 0/16B3748+0 --wait 30s
  walpost dead-letters replay --topic orders
  walpost dead-letters list --json | jq -r 'select(.error | test(\"too large\")).position' |
    xargs walpost dead-letters replay";
