//! How lost rows are sent again.

use crate::cli::pasted::quoted;
use crate::postgres::{AuditedRow, AuditedTables, Ordinal};

/// So many rows are named in a command, or as many as are shown if those are more.
const NAMED: usize = 100;
/// Longer than this its condition does not become: Linux takes words of 128 KiB.
const LONGEST: usize = 100_000;

/// The lost rows of one table.
#[derive(Debug, Default)]
pub(super) struct Repair {
    lost: u64,
    ids: Vec<String>,
    /// What the ids take in the command.
    length: usize,
    /// The first and the last one, as far as the table tells an order.
    span: Option<(Ordinal, Ordinal)>,
    /// One of them has no place in that order.
    stray: bool,
}

impl Repair {
    pub(super) fn note(&mut self, row: &AuditedRow, shown: usize) {
        self.lost += 1;
        if let Some(id) = row.id.as_ref().filter(|id| self.has_room_for(id, shown)) {
            self.length += id.len() + 4;
            self.ids.push(id.clone());
        }
        match (&row.ordinal, self.span.take()) {
            (None, span) => (self.span, self.stray) = (span, true),
            (Some(here), None) => self.span = Some((here.clone(), here.clone())),
            (Some(here), Some((first, last))) => {
                self.span = Some((first.min(here.clone()), last.max(here.clone())));
            }
        }
    }

    fn has_room_for(&self, id: &str, shown: usize) -> bool {
        self.ids.len() < shown.max(NAMED) && self.length + id.len() < LONGEST
    }

    /// With what the table says.
    pub(super) fn of(self, tables: &AuditedTables, table: usize) -> Conditions {
        let named = self.ids.len() as u64;
        let exact = if named > 0 { tables.condition(table, &self.ids) } else { None };
        let span = self.span.filter(|_| !self.stray);
        let all = match &exact {
            Some(exact) if named == self.lost => Some(exact.clone()),
            _ => span.and_then(|(first, last)| tables.between(table, &first, &last)),
        };
        Conditions { lost: self.lost, named, exact, all, of: tables.name_among(table) }
    }
}

/// Conditions for `walpost replay` of the rows of one table.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    lost: u64,
    /// How many of them the exact one names.
    named: u64,
    /// Nothing but lost rows.
    pub(super) exact: Option<String>,
    /// All of them, and maybe others that lie between.
    pub(super) all: Option<String>,
    /// The table's name where there are several.
    of: Option<String>,
}

impl Conditions {
    /// Lines to be pasted, with a word in between if not all is named; `settings` are those that were typed.
    pub(super) fn commands(&self, settings: &str) -> Vec<String> {
        let of = self.of.as_ref().map(|of| format!(" --of {}", quoted(of))).unwrap_or_default();
        let command =
            |condition: &String| format!("walpost replay{settings}{of} --where {}", quoted(condition));
        let Conditions { lost, named, .. } = self;
        let exact = self.exact.iter().map(command);
        if named == lost {
            return exact.collect();
        }
        // What mends all comes first: who pastes one line shall not leave rows behind.
        let mut lines = Vec::new();
        if let Some(all) = &self.all {
            lines.push(format!("all {lost}, and with them once more what lies between:"));
            lines.push(command(all));
        }
        if *named > 0 {
            let more = if self.all.is_none() { "; see more with --show" } else { "" };
            lines.push(format!("only {named} of {lost}, and nothing else{more}:"));
            lines.extend(exact);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_all_or_says_how_many_it_leaves() {
        let exact = Some("id IN ('a')".to_owned());
        let all = Conditions { lost: 1, named: 1, exact: exact.clone(), all: exact.clone(), of: None };
        assert_eq!(all.commands(" --slot w2"), ["walpost replay --slot w2 --where \"id IN ('a')\""]);
        let between = Some("t.at BETWEEN '1' AND '2'".to_owned());
        let part = Conditions { lost: 7, named: 1, exact, all: between, of: Some("a.b".to_owned()) };
        assert_eq!(
            part.commands(""),
            [
                "all 7, and with them once more what lies between:",
                "walpost replay --of a.b --where \"t.at BETWEEN '1' AND '2'\"",
                "only 1 of 7, and nothing else:",
                "walpost replay --of a.b --where \"id IN ('a')\"",
            ]
        );
        let unordered = Conditions { all: None, ..part };
        assert_eq!(unordered.commands("")[0], "only 1 of 7, and nothing else; see more with --show:");
        assert_eq!(Conditions { named: 0, exact: None, ..unordered }.commands("").len(), 0);
    }
}
