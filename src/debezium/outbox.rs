//! From options to a contract: the router's, the connector's, and those that must not be there.

use std::collections::HashSet;

use super::contract::{Contract, Converters, Envelopes, Expand, Place, Placement, Runner};
use super::known;
use super::modes::{Binary, Decimals, Failures, Modes, Precision};
use super::options::{Options, WrongOption};
use super::route::{Route, WrongRoute};

const ROUTER: &str = "io.debezium.transforms.outbox.EventRouter";

impl Contract {
    /// Reads all options. `run_id` is what the records of this run have in common, should they say so.
    ///
    /// # Errors
    /// An option is wrong, is not reproduced, or is not known.
    pub(crate) fn of(mut options: Options, run_id: &str) -> Result<Self, WrongOption> {
        let runner = options.runner();
        known::refuse(&mut options)?;
        let prefix = router(&mut options)?;
        let named = |name: &str| format!("{prefix}{name}");
        let route = route(&mut options, &prefix)?;
        let expand = options.truth(&named("table.expand.json.payload"), false)?;
        let keeps_nulls = options.word(
            &named("table.json.payload.null.behavior"),
            false,
            &[("ignore", false), ("optional_bytes", true)],
        )?;
        // Updates are passed over; only how loud that is differs.
        options.word(&named("table.op.invalid.behavior"), (), &[("warn", ()), ("error", ())])?;
        options.take(&named("table.field.event.type"))?;
        let missing = [("error", false), ("ignore", true)];
        let topic_prefix = options.take("topic.prefix")?;
        let contract = Contract {
            runner,
            prefix: topic_prefix.ok_or_else(|| {
                WrongOption::new("topic.prefix", "it is not set, and the connector would not start")
            })?,
            delimiter: options.text("topic.delimiter", ".")?,
            run_id: options.truth("extended.headers.enabled", true)?.then(|| run_id.to_owned()),
            id: options.text(&named("table.field.event.id"), "id")?,
            key: options.text(&named("table.field.event.key"), "aggregateid")?,
            payload: options.text(&named("table.field.event.payload"), "payload")?,
            routed_by: options.text(&named("route.by.field"), "aggregatetype")?,
            route,
            timestamp: options.take(&named("table.field.event.timestamp"))?,
            version: options.take(&named("table.field.event.schema.version"))?,
            placements: placements(&mut options, &named("table.fields.additional.placement"))?,
            may_miss: options.word(&named("table.field.additional.missing"), false, &missing)?,
            tombstones: options.truth(&named("route.tombstone.on.empty.payload"), false)?,
            expand: expand.then_some(Expand { keeps_nulls }),
            modes: modes(&mut options)?,
            converters: Converters::take(&mut options)?,
            envelopes: Envelopes::default(),
            tables: tables(&mut options)?,
            largest: largest(&mut options)?,
            slot: options.text("slot.name", "debezium")?,
            publication: options.text("publication.name", "dbz_publication")?,
        };
        match options.rest().find(|(name, ..)| !known::is_without_influence(name)) {
            Some((_, written, _)) => {
                let why = "Walpost does not know this option: take it out if it has no influence on records";
                Err(WrongOption::new(written, why))
            }
            None => Ok(contract),
        }
    }
}

/// The prefix of the router's options. It must be the only transformation.
fn router(options: &mut Options) -> Result<String, WrongOption> {
    let written = options.written("transforms");
    let names = options.text("transforms", "")?;
    let names: Vec<_> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let name = match names.as_slice() {
        [name] => (*name).to_owned(),
        [] => return Err(WrongOption::new(written, format!("there is no transformation {ROUTER}"))),
        [_, ..] => {
            return Err(WrongOption::new(
                written,
                "several transformations are not reproduced, only the outbox router",
            ));
        }
    };
    let prefix = format!("transforms.{name}.");
    let written = options.written(&format!("{prefix}type"));
    let class = options.text(&format!("{prefix}type"), "")?;
    if class != ROUTER && class != "EventRouter" {
        return Err(WrongOption::new(written, format!("`{class}` is not reproduced, only {ROUTER} is")));
    }
    for refused in ["predicate", "negate"] {
        let option = format!("{prefix}{refused}");
        if options.has(&option) {
            let why = "predicates are not reproduced; of an outbox table alone none is needed";
            return Err(WrongOption::new(options.written(&option), why));
        }
    }
    if let Some((_, written, _)) =
        options.rest().find(|(name, ..)| name.starts_with(&format!("{prefix}tracing.")))
    {
        return Err(WrongOption::new(written, "spans are not made"));
    }
    Ok(prefix)
}

fn route(options: &mut Options, prefix: &str) -> Result<Route, WrongOption> {
    let (regex, replacement) =
        (format!("{prefix}route.topic.regex"), format!("{prefix}route.topic.replacement"));
    let (written, written_replacement) = (options.written(&regex), options.written(&replacement));
    let regex = options.text(&regex, "(?<routedByValue>.*)")?;
    let replacement = options.text(&replacement, "outbox.event.${routedByValue}")?;
    Route::new(&regex, &replacement).map_err(|wrong| match wrong {
        WrongRoute::Pattern(why) => {
            WrongOption::new(written, format!("`{regex}` can't be reproduced: {why}"))
        }
        WrongRoute::Replacement(why) => {
            WrongOption::new(written_replacement, format!("`{replacement}`: {why}"))
        }
    })
}

/// `column:placement[:alias]`, separated by commas.
fn placements(options: &mut Options, name: &str) -> Result<Vec<Placement>, WrongOption> {
    let written = options.written(name);
    let Some(text) = options.take(name)? else { return Ok(Vec::new()) };
    let placement = |item: &str| {
        // As in Java, where parts that are empty at the end are none.
        let parts: Vec<_> = item.trim_end_matches(':').split(':').map(str::trim).collect();
        let wrong = |why: String| WrongOption::new(&written, why);
        let (column, place, alias) = match parts.as_slice() {
            [column, place] => (*column, *place, *column),
            [column, place, alias] => (*column, *place, *alias),
            _ => return Err(wrong(format!("`{}` is not of the form column:placement:alias", item.trim()))),
        };
        let place = match place.to_lowercase().as_str() {
            "header" => Place::Header,
            "envelope" => Place::Envelope,
            "partition" => Place::Partition,
            other => return Err(wrong(format!("there is no placement `{other}`"))),
        };
        Ok(Placement { column: column.to_owned(), place, alias: alias.to_owned() })
    };
    let placed: Vec<_> = text.trim_end_matches(',').split(',').map(placement).collect::<Result<_, _>>()?;
    let mut fields = HashSet::from(["payload"]);
    let mut enveloped = placed.iter().filter(|placed| placed.place == Place::Envelope);
    match enveloped.find(|placed| !fields.insert(&placed.alias)) {
        Some(Placement { alias, .. }) => {
            let why = format!("the envelope would have two fields `{alias}`, at which Debezium stops");
            Err(WrongOption::new(written, why))
        }
        None => Ok(placed),
    }
}

fn modes(options: &mut Options) -> Result<Modes, WrongOption> {
    let decimals = [("precise", Decimals::Precise), ("double", Decimals::Double), ("string", Decimals::Text)];
    let precision = [
        ("adaptive", Precision::Adaptive),
        ("adaptive_time_microseconds", Precision::AdaptiveTimeMicroseconds),
        ("connect", Precision::Connect),
        ("isostring", Precision::IsoString),
        ("microseconds", Precision::Microseconds),
        ("nanoseconds", Precision::Nanoseconds),
    ];
    let binary = [
        ("bytes", Binary::Bytes),
        ("base64", Binary::Base64),
        ("base64-url-safe", Binary::Base64UrlSafe),
        ("hex", Binary::Hex),
    ];
    let failures = [("warn", Failures::PassedOver), ("skip", Failures::PassedOver), ("fail", Failures::Stop)];
    Ok(Modes {
        decimals: options.word("decimal.handling.mode", Decimals::default(), &decimals)?,
        precision: options.word("time.precision.mode", Precision::default(), &precision)?,
        binary: options.word("binary.handling.mode", Binary::default(), &binary)?,
        failures: options.word("event.converting.failure.handling.mode", Failures::default(), &failures)?,
    })
}

/// The tables of `table.include.list`, written as in SQL. An item of the list is a regular expression, which must not say
/// more than a name.
fn tables(options: &mut Options) -> Result<Option<String>, WrongOption> {
    let names = named_tables(options)?;
    for name in ["table.exclude.list", "schema.exclude.list", "schema.include.list"] {
        let written = options.written(name);
        let text = options.take(name)?.unwrap_or_default();
        let schemas: Vec<_> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        let is_listed = |schema: &str| schemas.iter().any(|item| item.eq_ignore_ascii_case(schema));
        let changes_nothing = name == "schema.include.list"
            && !names.is_empty()
            && names.iter().all(|(schema, _)| is_listed(schema));
        if !schemas.is_empty() && !changes_nothing {
            let why = "which tables it leaves is not reproduced: take it out of a copy of the file, and name the tables, \
                       by `table.include.list` or by --table";
            return Err(WrongOption::new(written, why));
        }
    }
    let tables: Vec<_> = names.iter().map(|(schema, table)| format!("\"{schema}\".\"{table}\"")).collect();
    Ok(Some(tables.join(", ")).filter(|tables| !tables.is_empty()))
}

/// Schemas and names.
fn named_tables(options: &mut Options) -> Result<Vec<(String, String)>, WrongOption> {
    let written = options.written("table.include.list");
    let Some(text) = options.take("table.include.list")? else { return Ok(Vec::new()) };
    let plain = |part: &str| {
        let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | ' ');
        !part.is_empty() && part.chars().all(plain)
    };
    let named = |item: &str| match item.replace("\\.", ".").split_once('.') {
        Some((schema, table)) if plain(schema) && plain(table) => Ok((schema.to_owned(), table.to_owned())),
        _ => {
            let why = format!("`{item}` is not the plain name of one table, schema.table");
            Err(WrongOption::new(&written, why))
        }
    };
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(named).collect()
}

/// The size of the largest record that the producer takes, in bytes; `None` for the producer's own, 1 MiB.
fn largest(options: &mut Options) -> Result<Option<u64>, WrongOption> {
    let mut largest = None;
    for name in ["producer.max.request.size", "producer.override.max.request.size"] {
        let written = options.written(name);
        if let Some(text) = options.take(name)? {
            let bytes =
                text.trim().parse().map_err(|_| WrongOption::new(written, "it is no number of bytes"))?;
            largest = Some(bytes);
        }
    }
    Ok(largest)
}

impl Runner {
    /// Who it is, for a person.
    pub(super) fn shown(self) -> &'static str {
        match self {
            Runner::Connect => "Kafka Connect",
            Runner::Server => "Debezium Server",
        }
    }
}

#[cfg(test)]
mod tests;
