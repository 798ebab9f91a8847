//! Findings as a person reads them: one line each, and under it the mend where one is needed.

use crate::cli::output;
use crate::error::OutboxError;
use crate::postgres::{Finding, Outcome};

/// Prints the findings; says whether none is a failure.
pub(super) fn print(findings: &[Finding]) -> bool {
    for found in findings {
        output::say(&line(found));
    }
    !findings.iter().any(|found| matches!(found.outcome, Outcome::Failure(_)))
}

fn line(found: &Finding) -> String {
    let (word, text, advice) = match &found.outcome {
        Outcome::Good(text) => ("ok", text.clone(), None),
        Outcome::Warning(text, advice) => ("warn", text.clone(), Some(advice.as_str())),
        Outcome::Failure(error) => ("FAIL", error.chain(), error.advice()),
    };
    let first = format!("{word:<5} {:<12} {text}", found.subject);
    match advice {
        Some(advice) => format!("{first}\n{:<18} -> {advice}", ""),
        None => first,
    }
}

/// A failure that ends the command when its parts have been printed already.
pub(super) fn failures(findings: &[Finding]) -> OutboxError {
    let failures = findings.iter().filter(|found| matches!(found.outcome, Outcome::Failure(_))).count();
    let noun = if failures == 1 { "check" } else { "checks" };
    OutboxError::definite(
        format!("{failures} {noun} failed"),
        "do what stands under each FAIL, then run this again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mend_stands_under_its_finding() {
        let outcome = Outcome::Failure(OutboxError::definite("wal_level is replica", "ALTER SYSTEM"));
        let text = line(&Finding { subject: "wal_level", outcome });
        assert_eq!(text, "FAIL  wal_level    wal_level is replica\n                   -> ALTER SYSTEM");
        let outcome = Outcome::Good("logical".to_owned());
        assert_eq!(line(&Finding { subject: "wal_level", outcome }), "ok    wal_level    logical");
    }
}
