//! Findings as a person reads them: one line each, and under it the mend where one is needed.

use serde::Serialize;

use crate::cli::dead_letters::escape;
use crate::cli::output;
use crate::error::OutboxError;
use crate::postgres::{Finding, Outcome};

/// Prints the findings.
pub(super) fn print(findings: &[Finding]) {
    for found in findings {
        output::say(&line(found));
    }
}

/// Prints those that need somebody's attention.
pub(super) fn print_problems(findings: &[Finding]) {
    for found in findings.iter().filter(|found| !matches!(found.outcome, Outcome::Good(_))) {
        output::say(&line(found));
    }
}

/// A finding for a program. The names are kept from version to version.
#[derive(Serialize)]
struct Entry<'a> {
    subject: &'a str,
    outcome: &'static str,
    text: String,
    /// None where all is well.
    advice: Option<String>,
    /// Statements of the advice that mend it, as they can be run; none where no statement does.
    sql: Option<&'a str>,
}

/// Prints them as one JSON array.
pub(super) fn print_json(findings: &[Finding]) -> Result<(), OutboxError> {
    let entry = |found| {
        let (outcome, text, advice) = parts(found);
        let (outcome, sql) = (if outcome == "FAIL" { "fail" } else { outcome }, found.sql.as_deref());
        Entry { subject: found.subject, outcome, text, advice: advice.map(str::to_owned), sql }
    };
    let entries: Vec<_> = findings.iter().map(entry).collect();
    let text = serde_json::to_string_pretty(&entries);
    output::say(&text.map_err(|error| OutboxError::connection("writing JSON", error))?);
    Ok(())
}

/// Its word, what was seen, and the mend.
fn parts(found: &Finding) -> (&'static str, String, Option<&str>) {
    match &found.outcome {
        Outcome::Good(text) => ("ok", text.clone(), None),
        Outcome::Warning(text, advice) => ("warn", text.clone(), Some(advice.as_str())),
        Outcome::Failure(error) => ("FAIL", error.chain(), error.advice()),
    }
}

fn line(found: &Finding) -> String {
    let (word, text, advice) = parts(found);
    // Names of others' making are in it; the lines are ours.
    let text = text.lines().map(escape).collect::<Vec<_>>().join("\n");
    let text = text.replace('\n', &format!("\n{:<19}", ""));
    let first = format!("{word:<5} {:<12} {text}", found.subject);
    match advice {
        Some(advice) => {
            let lines = advice.lines().map(|line| format!("\n{:<18} -> {}", "", escape(line)));
            first + &lines.collect::<String>()
        }
        None => first,
    }
}

/// Whether none is a failure; if one is, an error that ends the command after its parts have been printed.
pub(super) fn verdict(findings: &[Finding]) -> Result<(), OutboxError> {
    let failures = findings.iter().filter(|found| found.is_failure()).count();
    let noun = if failures == 1 { "check" } else { "checks" };
    let advice = "do what stands under each FAIL, then run this again";
    if failures == 0 {
        Ok(())
    } else {
        Err(OutboxError::definite(format!("{failures} {noun} failed"), advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mend_stands_under_its_finding() {
        let text = line(&Finding::fail("wal_level", "wal_level is replica", "ALTER SYSTEM"));
        assert_eq!(text, "FAIL  wal_level    wal_level is replica\n                   -> ALTER SYSTEM");
        let text = line(&Finding::good("mapping", "one\ntwo\u{1b}"));
        assert_eq!(text, "ok    mapping      one\n                   two\\u{1b}");
        assert_eq!(line(&Finding::good("wal_level", "logical")), "ok    wal_level    logical");
    }
}
