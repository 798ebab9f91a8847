//! Findings as a person reads them: one line each, and under it the mend where one is needed.

use crate::cli::output;
use crate::error::OutboxError;
use crate::postgres::{Finding, Outcome};

/// Prints the findings.
pub(super) fn print(findings: &[Finding]) {
    for found in findings {
        output::say(&line(found));
    }
}

fn line(found: &Finding) -> String {
    let (word, text, advice) = match &found.outcome {
        Outcome::Good(text) => ("ok", text.clone(), None),
        Outcome::Warning(text, advice) => ("warn", text.clone(), Some(advice.as_str())),
        Outcome::Failure(error) => ("FAIL", error.chain(), error.advice()),
    };
    let text = text.replace('\n', &format!("\n{:<19}", ""));
    let first = format!("{word:<5} {:<12} {text}", found.subject);
    match advice {
        Some(advice) => {
            let lines = advice.lines().map(|line| format!("\n{:<18} -> {line}", ""));
            first + &lines.collect::<String>()
        }
        None => first,
    }
}

/// Whether none is a failure; if one is, an error that ends the command after its parts have been printed.
pub(super) fn verdict(findings: &[Finding]) -> Result<(), OutboxError> {
    let failures = findings.iter().filter(|found| matches!(found.outcome, Outcome::Failure(_))).count();
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
        let outcome = Outcome::Failure(OutboxError::definite("wal_level is replica", "ALTER SYSTEM"));
        let text = line(&Finding { subject: "wal_level", outcome });
        assert_eq!(text, "FAIL  wal_level    wal_level is replica\n                   -> ALTER SYSTEM");
        let outcome = Outcome::Good("one\ntwo".to_owned());
        let text = line(&Finding { subject: "mapping", outcome });
        assert_eq!(text, "ok    mapping      one\n                   two");
        let outcome = Outcome::Good("logical".to_owned());
        assert_eq!(line(&Finding { subject: "wal_level", outcome }), "ok    wal_level    logical");
    }
}
