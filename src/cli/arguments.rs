//! What was typed. The doc comments here are the help texts, and the help texts are the manual.

mod audit;
mod dead_letters;
mod shared;
mod verify;

use std::sync::OnceLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Layer, duration, layers};
use crate::error::OutboxError;
use crate::postgres::Backfill;

pub use audit::AuditArguments;
pub use dead_letters::{
    ChoiceArguments, DeadLettersCommand, DiscardArguments, ListArguments, ReplayArguments, ShowArguments,
};
pub use shared::{
    DatabaseArguments, KafkaArguments, LogArguments, MappingArguments, RefusalArguments, RelayArguments,
    RetryArguments, TopicArguments, WriteBackArguments,
};
pub use verify::VerifyArguments;

/// Posts a Postgres outbox to Kafka straight from the write-ahead log.
///
/// Services insert a row into the outbox table, in the same transaction as their business data. Walpost
/// reads committed rows from a logical replication slot, publishes them to Kafka in commit order, and
/// moves the slot forward only after Kafka has acknowledged: nothing is lost, whatever dies and whenever.
/// A message may arrive again after a fault; its headers walpost.lsn and walpost.index tell.
#[derive(Parser)]
#[command(name = "walpost", version = version(), after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub(super) logs: LogArguments,
}

/// What can be done.
#[derive(Subcommand)]
pub enum Command {
    /// Create the outbox: table, function, publication, grants and slot; safe to run again
    Setup(SetupArguments),
    /// Relay messages until told to stop
    ///
    /// Runs until SIGTERM or SIGINT, then waits for Kafka to acknowledge what is in flight, confirms it to
    /// Postgres and exits with 0. Lost connections are tried again for ever; what only a person can mend
    /// ends the run with exit code 1 and advice. A second `walpost run` on the same slot stands by and takes
    /// over when the first one goes.
    ///
    /// On a terminal a progress line shows rate, lag and position; elsewhere the log is JSON. Health is
    /// answered over HTTP: /healthz says whether the process should live (200) or be restarted (503),
    /// /readyz whether messages flow.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArguments>),
    /// Check every precondition, and say how to mend what is missing
    ///
    /// Looks at the database, at Kafka, and at what surrounds a relay: rights, room, retention, standbys, poolers, topics.
    /// Nothing is changed, and no record is written. The exit code is 1 if a check fails, and 0 if there are warnings only.
    Check(CheckArguments),
    /// Show how far the relay is: position, lag, retained log and what holds it back, who holds the slot
    ///
    /// First comes a word: OK, BEHIND (it is on its way, and late), NOBODY (no relay reads the slot), STALLED (a relay is there,
    /// and nothing is published), FILLING (the slot is lost within an hour if it goes on like this, or three quarters of
    /// max_slot_wal_keep_size are used) or LOST (the server has given the slot up, or it is gone while rows are there). If
    /// several hold, the most urgent one comes first, and the others below it. Rates are measured for a second; what becomes of
    /// the slot is told by the worse of that second and of the time since the oldest row waits, or since nobody reads.
    /// UNREACHABLE says why the database can't be asked, and what the relay says all the same.
    ///
    /// The relay itself is asked for what it waits for, at /readyz of its --listen address. If it can't be asked, the slot is
    /// judged by what the server tells. The oldest row that is not confirmed is searched in the log, through a temporary copy
    /// of the slot and for two seconds at most, so that the size of the table does not matter.
    ///
    /// The exit code is 0 whatever the word is; with --check it is 1 for NOBODY, STALLED, FILLING and LOST. It is 1 as well if
    /// the slot is not there, or can't be looked at, and 2 for wrong settings.
    Status(StatusArguments),
    /// Compare the table with its topics: is anything lost, changed, out of order or repeated?
    ///
    /// For each row of the table, the record that the relay makes of it is looked for in its topic. Read are the rows of one
    /// moment, and the topics from the time of the oldest of them to where they end then. A row that the relay has not
    /// confirmed yet, that is held for later or parked as a dead letter, or that is older than what its topic keeps, is told
    /// apart from a lost one. The relay may run meanwhile. Nothing is written; a copy of the slot keeps its position until
    /// the audit ends.
    ///
    /// The exit code is 1 if rows are lost, or records differ or are out of order; repeats alone are no fault. About 30 bytes
    /// of memory are needed for each row, and for each key of the partition that is being read.
    #[command(after_help = audit::EXAMPLES)]
    Audit(AuditArguments),
    /// List, show, replay or discard messages that could not be sent
    ///
    /// With `--on-refusal dead-letter` a message that Kafka refuses for good is parked in the table dead_letters
    /// beside the outbox table, and later messages of its key behind it, so that their order survives; all others
    /// flow. Each letter is known by its position in the log, X/Y+index. Every command concerns the letters of
    /// the configured slot.
    DeadLetters(DeadLettersArguments),
    /// Send chosen rows of the table once more, on purpose
    ///
    /// They go through the log, in the order in which they were inserted, and are sent at their place in it, with the
    /// header walpost.replay besides their own. Rows that are not in the table any more can't be sent.
    Replay(ReplayRowsArguments),
    /// Remove the slot, then the publication; the table only when asked
    ///
    /// The slot goes first: a slot that nobody reads makes the server keep its log until the disk is full.
    Teardown(TeardownArguments),
    /// Compare two topics, or two sets of topics, and show the first difference
    ///
    /// For a change of relays: the old one and Walpost read the same rows through two slots and write to two topics
    /// (or two sets of them), which should hold the same. Compared are partition, key, value and headers: names,
    /// order and bytes, and null is not empty. Both sides are read side by side from the first offset to where they end
    /// when the command starts, so let both relays come to rest before. Open and aborted transactions do not count.
    ///
    /// The exit code is 0 if all is equal, else 1. Contents are shown only with --show; nothing is logged of them, and
    /// nothing is written to Kafka.
    #[command(after_help = verify::EXAMPLES)]
    Verify(VerifyArguments),
    /// Show it working on throw-away servers, and leave nothing behind
    ///
    /// Starts a Postgres in a temporary folder and a broker inside this process, sets both up, relays what
    /// a small shop writes, and compares what was committed with what arrived. The built-in broker keeps
    /// little and proves nothing about durability; name a real one with --brokers. Settings of the
    /// environment and of walpost.toml are not used, except those of the log.
    Demo(DemoArguments),
}

/// Arguments of `walpost setup`.
#[derive(Args)]
pub struct SetupArguments {
    /// Print the SQL for a DBA instead of running it
    #[arg(long)]
    pub print: bool,
    /// Which rows that are in the table already are sent first, when the slot is made: pending, all or none
    ///
    /// pending are those that the mapping's conditions let pass. They come in the order in which they were inserted,
    /// once, before anything that is committed later. Services that insert wait while they are written into the log.
    #[arg(long, value_name = "ROWS", default_value = "none")]
    pub backfill: BackfillChoice,
    #[command(flatten)]
    database: DatabaseArguments,
    #[command(flatten)]
    mapping: MappingArguments,
    #[command(flatten)]
    write_back: WriteBackArguments,
}

impl SetupArguments {
    /// Which rows are sent first.
    pub(super) fn backfill(&self) -> Backfill {
        match self.backfill {
            BackfillChoice::Pending => Backfill::Pending,
            BackfillChoice::All => Backfill::All,
            BackfillChoice::None => Backfill::None,
        }
    }
}

/// Rows that are there before the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackfillChoice {
    /// Those that the mapping's conditions let pass
    Pending,
    /// All of them
    All,
    /// None of them
    None,
}

/// Arguments of `walpost replay`.
#[derive(Args)]
#[group(id = "rows", required = true, multiple = true, args = ["condition", "since"])]
pub struct ReplayRowsArguments {
    /// A condition in SQL over the table's columns, such as "topic = 'orders' AND key = 'ada'"
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// Rows that were written at this time or later, such as '2026-11-28 22:00+01'
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// The table whose rows are meant, if there are several
    #[arg(long, value_name = "NAME")]
    pub of: Option<String>,
    #[command(flatten)]
    database: DatabaseArguments,
    #[command(flatten)]
    mapping: MappingArguments,
}

/// Arguments of `walpost run`.
#[derive(Args)]
pub struct RunArguments {
    #[command(flatten)]
    database: DatabaseArguments,
    #[command(flatten)]
    mapping: MappingArguments,
    #[command(flatten)]
    kafka: KafkaArguments,
    #[command(flatten)]
    topics: TopicArguments,
    #[command(flatten)]
    relay: RelayArguments,
    #[command(flatten)]
    write_back: WriteBackArguments,
    #[command(flatten)]
    refusal: RefusalArguments,
    #[command(flatten)]
    retry: RetryArguments,
}

/// Arguments of `walpost check`.
#[derive(Args)]
pub struct CheckArguments {
    /// Print one JSON array on stdout: of each check subject, outcome (ok, warn, fail), text, advice and sql
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    database: DatabaseArguments,
    #[command(flatten)]
    mapping: MappingArguments,
    #[command(flatten)]
    kafka: KafkaArguments,
    #[command(flatten)]
    topics: TopicArguments,
    #[command(flatten)]
    write_back: WriteBackArguments,
    #[command(flatten)]
    refusal: RefusalArguments,
}

/// Arguments of `walpost status`.
#[derive(Args)]
pub struct StatusArguments {
    /// Print one JSON object on stdout
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 if a person is needed: the word is NOBODY, STALLED, FILLING or LOST
    #[arg(long)]
    pub check: bool,
    /// Look again and again, this many seconds apart, until Ctrl-C
    ///
    /// A terminal is drawn anew; elsewhere each look is a line, or with --json one object. A server that is away is told as
    /// UNREACHABLE, a look that failed otherwise as UNKNOWN, and it is asked again.
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", conflicts_with = "check",
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub watch: Option<u32>,
    /// Where the relay answers over HTTP: host:port as it was given to `walpost run`, or off [default: 127.0.0.1:8480]
    ///
    /// [env: WALPOST_LISTEN] [file: listen]
    #[arg(long, value_name = "ADDRESS", help_heading = "Relay")]
    listen: Option<String>,
    #[command(flatten)]
    database: DatabaseArguments,
    #[command(flatten)]
    mapping: MappingArguments,
}

/// Arguments of `walpost dead-letters`.
#[derive(Args)]
pub struct DeadLettersArguments {
    /// What to do with them.
    #[command(subcommand)]
    pub command: DeadLettersCommand,
}

/// Arguments of `walpost teardown`.
#[derive(Args)]
pub struct TeardownArguments {
    /// Drop the table as well, with all messages in it
    #[arg(long)]
    pub drop_table: bool,
    #[command(flatten)]
    database: DatabaseArguments,
}

/// Arguments of `walpost demo`.
#[derive(Args)]
pub struct DemoArguments {
    /// End after this time, with exit code 0 only if everything arrived once and in order
    ///
    /// A whole number and its unit, such as 10s. Without it the demo runs until Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// How many orders the shop takes in a second
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Real brokers in the place of the built-in one: host:port, separated by commas
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
}

impl Arguments {
    /// The settings among the arguments.
    pub(super) fn layer(&self) -> Result<Layer, OutboxError> {
        let mut layer = Layer::default();
        self.logs.put_into(&mut layer);
        match &self.command {
            Command::Setup(SetupArguments { database, mapping, write_back, .. }) => {
                database.put_into(&mut layer)?;
                mapping.put_into(&mut layer);
                write_back.put_into(&mut layer);
            }
            Command::Replay(ReplayRowsArguments { database, mapping, .. }) => {
                database.put_into(&mut layer)?;
                mapping.put_into(&mut layer);
            }
            Command::Status(StatusArguments { database, mapping, listen, .. }) => {
                layer.put(&layers::LISTEN, listen.as_ref());
                database.put_into(&mut layer)?;
                mapping.put_into(&mut layer);
            }
            Command::Teardown(TeardownArguments { database, .. }) => database.put_into(&mut layer)?,
            Command::DeadLetters(letters) => letters.command.database().put_into(&mut layer)?,
            Command::Check(CheckArguments {
                database, mapping, kafka, topics, write_back, refusal, ..
            }) => {
                database.put_into(&mut layer)?;
                mapping.put_into(&mut layer);
                kafka.put_into(&mut layer)?;
                topics.put_into(&mut layer);
                write_back.put_into(&mut layer);
                refusal.put_into(&mut layer);
            }
            Command::Run(run) => {
                let RunArguments { database, mapping, kafka, topics, relay, write_back, refusal, retry } =
                    &**run;
                database.put_into(&mut layer)?;
                mapping.put_into(&mut layer);
                kafka.put_into(&mut layer)?;
                topics.put_into(&mut layer);
                relay.put_into(&mut layer);
                write_back.put_into(&mut layer);
                refusal.put_into(&mut layer);
                retry.put_into(&mut layer);
            }
            Command::Audit(AuditArguments { database, mapping, kafka, .. }) => {
                database.put_into(&mut layer)?;
                mapping.put_into(&mut layer);
                kafka.put_into(&mut layer)?;
            }
            Command::Verify(arguments) => arguments.kafka().put_into(&mut layer)?,
            Command::Demo(_) => {}
        }
        Ok(layer)
    }
}

/// Our version and that of the client library, whose faults are the broker's side of most reports.
fn version() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        format!("{} (librdkafka {librdkafka})", env!("CARGO_PKG_VERSION"))
    })
}

const EXAMPLES: &str = "\
Examples:
  walpost demo --for 10s                     see it work; needs no server
  walpost setup --print | less               read the SQL before a DBA runs it
  walpost setup --database-url postgresql://owner@db/shop
  walpost check                              is everything in place?
  walpost run --database-url postgresql://walpost@db/shop --brokers kafka1:9092,kafka2:9092
  walpost replay --since '2026-11-28 22:00+01'  send again what was written since
  walpost status --json | jq .lag_bytes
  walpost audit --since '2026-11-28 22:00+01'   was anything lost since?
  walpost dead-letters list                  what could not be sent
  walpost verify old.orders orders           do two topics hold the same?

Every setting can be a flag, an environment variable or a line of walpost.toml; flags go over
variables, those over the file. `walpost run --help` names all three forms. Unknown names are errors.

Exit codes: 0 done, or stopped cleanly; 1 failed, with advice on stderr; 2 wrong usage or settings.";

const RUN_EXAMPLES: &str = "\
Examples:
  PGPASSWORD=... walpost run --database-url 'postgresql://walpost@db/shop' --brokers kafka:9092
  walpost run --database-url 'postgresql://db1,db2/shop?target_session_attrs=primary'
  walpost run --brokers kafka:9093 -X security.protocol=ssl -X compression.type=zstd -X linger.ms=20
  walpost run --config /etc/walpost.toml --listen 0.0.0.0:8480 --log-format json";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_of_run_names_every_setting_in_all_its_forms() {
        let mut command = Arguments::command();
        command.build();
        let run = command.find_subcommand_mut("run").unwrap();
        let help = run.render_long_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in layers::SETTINGS {
            let forms = [
                setting.flag.to_owned(),
                format!("[env: {}]", setting.variable),
                format!("[file: {}]", setting.key),
                format!("[default: {}", setting.default),
            ];
            for form in forms {
                assert!(help.contains(&form), "{form}");
            }
        }
    }
}
