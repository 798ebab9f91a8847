//! What a look at one precondition has found, and what mends it.

use crate::error::OutboxError;

/// The result of one look.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// What was seen.
    pub outcome: Outcome,
    /// The statements that mend it, as they can be pasted into `psql`; they stand in the advice as well.
    pub sql: Option<String>,
}

/// Good, doubtful, or in the way.
#[derive(Debug)]
pub enum Outcome {
    /// As it should be.
    Good(String),
    /// It works, but not as somebody may expect: what, and the mend.
    Warning(String, String),
    /// A relay can't run; the error's advice is the mend.
    Failure(OutboxError),
}

impl Finding {
    /// As it should be.
    pub(crate) fn good(subject: &'static str, text: impl Into<String>) -> Self {
        Finding { subject, outcome: Outcome::Good(text.into()), sql: None }
    }

    /// Doubtful.
    pub(crate) fn warn(subject: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { subject, outcome: Outcome::Warning(text.into(), advice.into()), sql: None }
    }

    /// In the way.
    pub(crate) fn fail(subject: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding::error(subject, OutboxError::definite(text, advice))
    }

    /// In the way, for a reason that is an error already.
    pub(crate) fn error(subject: &'static str, error: OutboxError) -> Self {
        Finding { subject, outcome: Outcome::Failure(error), sql: None }
    }

    /// It could not be looked at, which is told and not hidden.
    #[cfg(feature = "cli")]
    pub(crate) fn unknown(subject: &'static str, error: &OutboxError) -> Self {
        let advice = error.advice().unwrap_or("mend what stands above, then run this again");
        Finding::warn(subject, format!("not looked at: {}", error.chain()), advice)
    }

    /// With the statements that mend it.
    #[must_use]
    pub(crate) fn with_sql(mut self, sql: impl Into<String>) -> Self {
        self.sql = Some(sql.into());
        self
    }

    /// With an advice that is nothing but statements.
    #[must_use]
    pub(crate) fn all_sql(mut self) -> Self {
        let advice = match &self.outcome {
            Outcome::Good(_) => None,
            Outcome::Warning(_, advice) => Some(advice.clone()),
            Outcome::Failure(error) => error.advice().map(str::to_owned),
        };
        self.sql = advice;
        self
    }

    /// Whether it is in the way.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failure(_))
    }
}
