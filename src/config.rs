//! The configuration: what was typed becomes what is needed, checked once, grouped by room.
//!
//! Flags go over environment variables, those over `walpost.toml`, that over defaults. A name that is
//! not known is an error that says which one was probably meant: a setting that is passed over in
//! silence is found out by an outage.

mod collector;
mod debezium;
mod environment;
mod file;
pub(crate) mod layers;
mod log_filter;
mod per_table;
pub(crate) mod property;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::layers::{Setting, Written};
use crate::debezium::Contract;
use crate::error::OutboxError;
use crate::kafka::{KafkaSettings, Topics};
use crate::mapping::{Mapping, Preset};
use crate::postgres::settings::{Os, Settings};
use crate::postgres::{Outbox, TableName, Target};
use crate::refusal::{OnRefusal, RetryConfig};
use crate::secret::SecretSource;
use crate::write_back::WriteBackMode;

pub use collector::{Collector, CollectorTls, Traces};
pub use environment::Environment;
pub use layers::{Layer, Layers};
pub use log_filter::log_filter;
pub use values::duration;

/// Everything that a command needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the database is.
    pub database: Settings,
    /// What to read in it.
    pub target: Target,
    /// Where to publish.
    pub kafka: KafkaSettings,
    /// What is promised.
    pub delivery: Delivery,
    /// What follows when a message can't be sent.
    pub refusal: RefusalConfig,
    /// What is told meanwhile.
    pub observe: Observe,
    /// Whether and where spans are sent.
    pub traces: Traces,
    /// What of the target is somebody else's.
    pub borrowed: Borrowed,
}

/// Names that were read from a connector's configuration, and not said in Walpost's own settings: what they stand for was
/// there before, and is not ours to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Borrowed {
    /// The slot.
    pub slot: bool,
    /// The publication.
    pub publication: bool,
}

impl Borrowed {
    fn of(layers: &Layers) -> Self {
        let is = |setting| {
            !layers.get(&layers::DEBEZIUM_CONFIG).text.is_empty() && layers.given(setting).is_none()
        };
        Borrowed { slot: is(&layers::SLOT), publication: is(&layers::PUBLICATION) }
    }
}

/// What is promised about messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How often a message may arrive.
    pub guarantee: Guarantee,
    /// How long a stop may wait for receipts.
    pub drain_timeout: Duration,
}

/// How often a message may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Once or, after a fault, more often.
    AtLeastOnce,
}

/// What follows when a message can't be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RefusalConfig {
    /// What becomes of it after all retries.
    pub on_refusal: OnRefusal,
    /// How often and how slowly it is tried again.
    pub retry: RetryConfig,
}

/// Log and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observe {
    /// Where health is answered, if anywhere: `host:port`.
    pub listen: Option<String>,
    /// What holds the token that a person must give there.
    pub listen_token_file: Option<PathBuf>,
    /// Whether dead letters may be replayed and discarded there.
    pub page_actions: bool,
    /// `None` leaves the choice to where the log goes.
    pub log_format: Option<LogFormat>,
    /// A level, or directives such as `info,walpost=debug`.
    pub log_level: String,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line, for machines.
    Json,
}

impl Config {
    /// Checks everything and puts it where it is needed.
    ///
    /// # Errors
    /// A setting is wrong; the error says where it was written and what it may be.
    pub fn resolve(layers: &Layers, environment: &Environment, os: &Os) -> Result<Config, OutboxError> {
        let (target, refusal) = (target(layers)?, RefusalConfig::resolve(layers)?);
        write_back_is_said(&target, &layers.get(&layers::WRITE_BACK))?;
        if refusal.on_refusal == OnRefusal::DeadLetter {
            letters_can_be_kept(&target, &layers.get(&layers::ON_REFUSAL))?;
        }
        let kafka = kafka(layers)?;
        debezium::largest_is_said(layers, &target, &kafka)?;
        Ok(Config {
            target,
            kafka,
            delivery: Delivery::resolve(layers)?,
            refusal,
            observe: Observe::resolve(layers)?,
            traces: Traces::resolve(layers, environment)?,
            borrowed: Borrowed::of(layers),
            database: database(layers, environment, os)?,
        })
    }
}

/// Refuses what a dead letter does not keep of its row.
fn letters_can_be_kept(target: &Target, policy: &Written<'_>) -> Result<(), OutboxError> {
    let headers = target.main.mapping.header_set();
    match target.outboxes().find(|outbox| outbox.mapping.header_set() != headers) {
        None => Ok(()),
        Some(Outbox { table, .. }) => Err(policy.wrong(
            &format!("a dead letter does not keep whether its record has the headers id, walpost.lsn and walpost.index, \
                      on which {} and {table} differ", target.main.table),
            "use halt, or the same --map-own-headers for all tables",
        )),
    }
}

fn database(layers: &Layers, environment: &Environment, os: &Os) -> Result<Settings, OutboxError> {
    let url = layers.get(&layers::DATABASE_URL);
    let settings = Settings::resolve(Some(url.text), |name| environment.get(name).map(str::to_owned), os)?;
    let (file, command) = (layers.get(&layers::PASSWORD_FILE), layers.get(&layers::PASSWORD_COMMAND));
    Ok(match (file.text, command.text) {
        ("", "") => settings,
        (file, "") => settings.with_password_from(SecretSource::File(file.into())),
        ("", command) => settings.with_password_from(SecretSource::Command(command.to_owned())),
        _ => {
            let what = format!("the password comes from a file as well ({})", file.place);
            return Err(command.wrong(&what, "leave one of them out"));
        }
    })
}

/// The names in the database, which need no connection to be checked.
pub(crate) fn target(layers: &Layers) -> Result<Target, OutboxError> {
    let preset = per_table::preset(&layers.get(&layers::PRESET))?;
    let contract = debezium::contract(layers)?;
    let own = contract.as_deref();
    let publication = or_own(layers, &layers::PUBLICATION, own.map(Contract::publication));
    let slot = or_own(layers, &layers::SLOT, own.map(Contract::slot));
    if !values::is_publication(publication.text) {
        return Err(publication.wrong("not the name of a publication", "use 1 to 63 bytes"));
    }
    if !values::is_slot(slot.text) {
        let what = format!("`{}` is not the name of a replication slot", slot.text);
        return Err(slot.wrong(&what, "use 1 to 63 of the letters a-z, the digits 0-9 and _"));
    }
    let tables = tables(layers, &preset, own)?;
    per_table::refuse_strangers(&tables, layers)?;
    per_table::refuse_idle(&tables, layers)?;
    let mut outboxes = Vec::with_capacity(tables.len());
    for table in tables {
        let mapping = mapping(layers, &table, &preset)?;
        let mapping = Arc::new(Mapping { contract: contract.clone(), ..mapping });
        outboxes.push(Outbox { table, mapping });
    }
    let main = outboxes.remove(0);
    let (publication, slot) = (publication.text.to_owned(), slot.text.to_owned());
    Ok(Target { main, others: outboxes, publication, slot, write_back: write_back(layers)? })
}

fn write_back(layers: &Layers) -> Result<WriteBackMode, OutboxError> {
    let choice = layers.get(&layers::WRITE_BACK);
    match choice.text {
        "none" => Ok(WriteBackMode::None),
        "mark" => Ok(WriteBackMode::Mark),
        "delete" => Ok(WriteBackMode::Delete),
        other => {
            let advice = "use none (the table stays as it is), mark (columns of the row are set) or delete";
            Err(choice.wrong(&format!("there is no write-back `{other}`"), advice))
        }
    }
}

/// A preset of a library that marks nothing has nothing to say of how.
fn write_back_is_said(target: &Target, choice: &Written<'_>) -> Result<(), OutboxError> {
    let unsaid = |outbox: &&Outbox| outbox.mapping.mark.is_empty();
    match target.outboxes().find(unsaid).filter(|_| target.write_back == WriteBackMode::Mark) {
        None => Ok(()),
        Some(Outbox { table, mapping }) => Err(choice.wrong(
            &format!("the preset {} does not say what marks a row of {table} as published", mapping.preset),
            "say it with --map-mark, such as --map-mark \"status=SENT, sent_at=now\", or use --write-back delete",
        )),
    }
}

/// What was written; else what the connector has, if there is one.
fn or_own<'a>(layers: &'a Layers, setting: &'static Setting, own: Option<&'a str>) -> Written<'a> {
    match (layers.given(setting), own) {
        (None, Some(text)) => Written { text, place: layers.get(&layers::DEBEZIUM_CONFIG).place },
        _ => layers.get(setting),
    }
}

/// The tables, of which there is at least one.
fn tables(
    layers: &Layers,
    preset: &Preset,
    contract: Option<&Contract>,
) -> Result<Vec<TableName>, OutboxError> {
    let table = layers.get(&layers::TABLE);
    let own = contract.and_then(Contract::tables).or(preset.table());
    let text = match (table.text, own) {
        ("", Some(own)) => own,
        ("", None) => {
            return Err(table.wrong("it is not set, and the preset has none of its own", "name the table"));
        }
        (text, _) => text,
    };
    TableName::list(text).map_err(|error| {
        let advice = "write them as in SQL, separated by commas: outbox.messages, \"My Schema\".\"T\"";
        table.wrong(&error.to_string(), advice)
    })
}

/// The mapping of a table. One that has a preset of its own takes nothing of the settings for all tables.
fn mapping(layers: &Layers, table: &TableName, preset: &Preset) -> Result<Mapping, OutboxError> {
    let own = per_table::Entries::of(table, layers);
    let own_preset = own.get(per_table::PRESET).map(per_table::preset).transpose()?;
    let setting = |entry: &str| {
        let key = format!("map_{entry}");
        layers::SETTINGS.iter().find(|setting| setting.key == key).filter(|_| own_preset.is_none()).copied()
    };
    // What is written as nothing is none, as for a single table; nothing written is the preset's.
    let for_all = |entry: &str| Some(layers.given(setting(entry)?)?.text);
    let over = |entry: &str| own.get(entry).map(|written| written.text).or_else(|| for_all(entry));
    own_preset.as_ref().unwrap_or(preset).mapping(over).map_err(|wrong| match setting(wrong.entry) {
        Some(setting) if own.get(wrong.entry).is_none() => {
            layers.get(setting).wrong(&wrong.why, "see the examples of `walpost run --help`")
        }
        _ => own.wrong(wrong),
    })
}

/// Where Kafka is, for a command that needs no database.
pub(crate) fn kafka(layers: &Layers) -> Result<KafkaSettings, OutboxError> {
    let brokers = layers.get(&layers::BROKERS);
    if brokers.text.split(',').any(|broker| broker.trim().is_empty()) {
        return Err(brokers.wrong("an entry of the list is empty", "write host:port, separated by commas"));
    }
    let properties = layers.properties();
    property::refuse_broker_lists(&properties)?;
    let list = layers.get(&layers::TOPICS);
    let topics = Topics::parse(list.text).map_err(|what| {
        list.wrong(&what, "write names separated by commas; * stands for any characters: orders.*, audit")
    })?;
    let mut settings = KafkaSettings { topics, ..KafkaSettings::new(brokers.text) };
    for (name, value) in properties {
        settings = match property::source(&name, &value) {
            Some(source) => settings.with_property_from(property::base(&name), source),
            None => settings.with_property(name, value),
        };
    }
    settings.validate()?;
    Ok(settings)
}

impl Delivery {
    fn resolve(layers: &Layers) -> Result<Delivery, OutboxError> {
        let (guarantee, drain) = (layers.get(&layers::DELIVERY), layers.get(&layers::DRAIN_TIMEOUT));
        if guarantee.text != "at-least-once" {
            let what = format!("there is no delivery `{}`", guarantee.text);
            return Err(guarantee.wrong(&what, "this version knows `at-least-once`"));
        }
        Ok(Delivery { guarantee: Guarantee::AtLeastOnce, drain_timeout: span(&drain)? })
    }
}

fn span(written: &Written<'_>) -> Result<Duration, OutboxError> {
    values::duration(written.text)
        .map_err(|advice| written.wrong(&format!("`{}` is not a span of time", written.text), &advice))
}

impl RefusalConfig {
    fn resolve(layers: &Layers) -> Result<RefusalConfig, OutboxError> {
        let (policy, retries, multiplier) = (
            layers.get(&layers::ON_REFUSAL),
            layers.get(&layers::MAX_RETRIES),
            layers.get(&layers::MULTIPLIER),
        );
        let (base, max) = (layers.get(&layers::BASE_DELAY), layers.get(&layers::MAX_DELAY));
        let on_refusal = match policy.text {
            "halt" => OnRefusal::Halt,
            "dead-letter" => OnRefusal::DeadLetter,
            other => {
                let advice = "use halt (the line stops until a person mends it) or dead-letter (the message is \
                              parked, and the others flow)";
                return Err(policy.wrong(&format!("there is no policy `{other}`"), advice));
            }
        };
        let max_retries = retries.text.parse::<u32>().map_err(|_| {
            let what = format!("`{}` is not a number of retries", retries.text);
            retries.wrong(&what, "write a whole number, such as 5; 0 tries once only")
        })?;
        let multiplier = values::multiplier(multiplier.text).ok_or_else(|| {
            let what = format!("`{}` is not a multiplier", multiplier.text);
            multiplier.wrong(&what, "write a number that is at least 1, such as 2 or 1.5")
        })?;
        let (base_delay, max_delay) = (span(&base)?, span(&max)?);
        if base_delay > max_delay {
            let what = format!("the first wait, {}, is longer than the longest, {}", base.text, max.text);
            return Err(base.wrong(&what, "raise --max-delay (WALPOST_MAX_DELAY, max_delay) as well"));
        }
        let retry = RetryConfig { max_retries, base_delay, multiplier, max_delay };
        Ok(RefusalConfig { on_refusal, retry })
    }
}

impl Observe {
    /// Checks what the log and the listener need, and nothing else.
    ///
    /// # Errors
    /// A setting is wrong.
    pub fn resolve(layers: &Layers) -> Result<Observe, OutboxError> {
        let (listen, format, level) =
            (layers.get(&layers::LISTEN), layers.get(&layers::LOG_FORMAT), layers.get(&layers::LOG_LEVEL));
        let log_format = match format.text {
            "" => None,
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            other => {
                return Err(format.wrong(&format!("there is no log format `{other}`"), "use text or json"));
            }
        };
        log_filter(level.text).map_err(|what| {
            level.wrong(
                &what,
                "use error, warn, info, debug or trace, or directives such as info,walpost=debug",
            )
        })?;
        if listen.text != "off" && !values::is_address(listen.text) {
            let what = format!("`{}` is not an address", listen.text);
            return Err(listen.wrong(&what, "write host:port, such as 127.0.0.1:8480, or off"));
        }
        let (token, actions) = (layers.get(&layers::LISTEN_TOKEN_FILE), layers.get(&layers::PAGE_ACTIONS));
        let page_actions = match actions.text {
            "yes" => true,
            "no" => false,
            other => return Err(actions.wrong(&format!("`{other}` is neither"), "use yes or no")),
        };
        Ok(Observe {
            listen_token_file: (!token.text.is_empty()).then(|| token.text.into()),
            page_actions,
            listen: (listen.text != "off").then(|| listen.text.to_owned()),
            log_format,
            log_level: level.text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
