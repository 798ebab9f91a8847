//! Settings of single tables: `TABLE: ENTRY=TEXT`, or in the file a table `[map_for."TABLE"]` of such entries.
//!
//! The entries are those of a preset's file, and `preset` itself.

use std::collections::BTreeMap;

use super::layers::{self, Layer, Layers, Setting, Written, nearest};
use crate::error::OutboxError;
use crate::mapping::{Preset, WrongEntry, settable};
use crate::postgres::TableName;

pub(super) const KEY: &str = "map_for";
pub(super) const VARIABLE: &str = "WALPOST_MAP_FOR";
pub(super) const FLAG: &str = "--map-for";

/// The entry that chooses the preset.
pub(super) const PRESET: &str = "preset";

/// Takes one entry down.
pub(super) fn take(text: &str, place: &str, layer: &mut Layer) -> Result<(), OutboxError> {
    let wrong = |what: String, advice: &str| OutboxError::usage(format!("{place}: {what}"), advice);
    let form = "write TABLE: ENTRY=TEXT, such as shop.events: topic=orders";
    // The name of a table may hold anything between double quotes.
    let mut quoted = false;
    let colon = text.find(|letter| {
        quoted ^= letter == '"';
        letter == ':' && !quoted
    });
    let parts = colon.and_then(|colon| Some((text.get(..colon)?, text.get(colon + 1..)?.split_once('=')?)));
    let Some((table, (entry, value))) = parts else {
        return Err(wrong(format!("`{}` is no entry of a table", text.trim()), form));
    };
    put(table.trim(), entry.trim(), value.trim(), place, layer)
}

/// Takes down what a variable says: an entry a line, or separated by semicolons.
pub(super) fn take_all(text: &str, place: &str, layer: &mut Layer) -> Result<(), OutboxError> {
    let between = if text.contains('\n') { '\n' } else { ';' };
    let entries = text.split(between).filter(|entry| !entry.trim().is_empty());
    entries.into_iter().try_for_each(|entry| take(entry, place, layer))
}

/// Takes one entry down whose parts are known.
pub(super) fn put(
    table: &str,
    entry: &str,
    value: &str,
    place: &str,
    layer: &mut Layer,
) -> Result<(), OutboxError> {
    let known = || settable().chain([PRESET]);
    if !known().any(|known| known == entry) {
        let advice = format!("the nearest is `{}`", nearest(entry, known()));
        return Err(OutboxError::usage(format!("{place}: {table} has no entry `{entry}`"), advice));
    }
    let name: TableName = table.parse().map_err(|error: OutboxError| {
        let advice = error.advice().unwrap_or_default().to_owned();
        OutboxError::usage(format!("{place}: {error}"), advice)
    })?;
    layer.tables.insert((name.to_string(), entry.to_owned()), value.to_owned());
    Ok(())
}

/// What is said of one table.
pub(super) struct Entries<'a>(BTreeMap<&'a str, Written<'a>>);

impl<'a> Entries<'a> {
    /// Of this one.
    pub(super) fn of(table: &TableName, layers: &'a Layers) -> Self {
        let name = table.to_string();
        let of_table = layers.of_tables().into_iter().filter(|((table, _), _)| *table == name);
        Entries(of_table.map(|((_, entry), written)| (entry, written)).collect())
    }

    /// What an entry says.
    pub(super) fn get(&self, entry: &str) -> Option<&Written<'a>> {
        self.0.get(entry)
    }

    /// Says where the entry was written that is wrong.
    pub(super) fn wrong(&self, WrongEntry { entry, why }: WrongEntry) -> OutboxError {
        match self.get(entry) {
            Some(written) => written.wrong(&why, "see the examples of `walpost run --help`"),
            None => OutboxError::usage(format!("{entry}: {why}"), "choose another preset"),
        }
    }
}

/// Refuses entries of tables that are not served.
pub(super) fn refuse_strangers(tables: &[TableName], layers: &Layers) -> Result<(), OutboxError> {
    let names: Vec<_> = tables.iter().map(ToString::to_string).collect();
    match layers.of_tables().into_iter().find(|((table, _), _)| !names.iter().any(|name| name == table)) {
        None => Ok(()),
        Some(((table, _), written)) => Err(written.wrong(
            &format!("{table} is none of the tables"),
            &format!("name it with --table as well (WALPOST_TABLE, table); they are {}", names.join(", ")),
        )),
    }
}

/// Refuses settings for all tables if each table has a preset of its own, and so takes none of them.
pub(super) fn refuse_idle(tables: &[TableName], layers: &Layers) -> Result<(), OutboxError> {
    if !tables.iter().all(|table| Entries::of(table, layers).get(PRESET).is_some()) {
        return Ok(());
    }
    // A preset may still say which tables there are.
    let names_tables = layers.get(&layers::TABLE).text.is_empty();
    let is_idle = |setting: &&&Setting| {
        setting.key.starts_with("map_") || setting.key == layers::PRESET.key && !names_tables
    };
    match layers::SETTINGS.iter().filter(is_idle).find_map(|setting| layers.given(setting)) {
        None => Ok(()),
        Some(written) => Err(written.wrong(
            "it has no effect: every table has a preset of its own, which takes nothing of the settings for all",
            "say it for the table (--map-for 'TABLE: ENTRY=TEXT'), or take it out",
        )),
    }
}

/// The preset of that name.
pub(super) fn preset(written: &Written<'_>) -> Result<Preset, OutboxError> {
    Preset::named(written.text).ok_or_else(|| {
        let what = format!("there is no preset `{}`", written.text);
        written.wrong(&what, &format!("use one of {}", Preset::names().join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Result<Vec<String>, String> {
        let mut layer = Layer::default();
        take_all(text, VARIABLE, &mut layer).map_err(|error| error.to_string())?;
        let entry = |((table, entry), text): ((String, String), String)| format!("{table} {entry} {text}");
        Ok(layer.tables.into_iter().map(entry).collect())
    }

    #[test]
    fn an_entry_names_its_table() {
        for (text, expected) in [
            ("a.b: topic=x", vec!["a.b topic x"]),
            ("B:key = {a}={b} ; a.b: preset=spakky;", vec!["a.b preset spakky", "public.b key {a}={b}"]),
            ("\"x:y\".b: only=a=1;\n a.b : value=p;q\n", vec!["\"x:y\".b only a=1;", "a.b value p;q"]),
        ] {
            assert_eq!(taken(text), Ok(expected.iter().map(|text| (*text).to_owned()).collect()), "{text}");
        }
        for (text, words) in [
            ("topic=x", "WALPOST_MAP_FOR: `topic=x` is no entry of a table"),
            ("a.b: topic", "`a.b: topic` is no entry of a table"),
            ("a.b: topics=x", "a.b has no entry `topics`"),
            ("a.b: made_by_setup=no", "a.b has no entry `made_by_setup`"),
            ("a.b.c: topic=x", "\"a.b.c\" is not the name of a table"),
        ] {
            assert!(taken(text).is_err_and(|error| error.contains(words)), "{text}: {:?}", taken(text));
        }
    }
}
