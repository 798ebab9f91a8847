//! The texts of a mapping's conditions as the server writes such values: of a truth `false` is `f`, of a `numeric(6,2)`
//! `1` is `1.00`. Compared as they were typed, they would pass over every row in silence.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::TableColumn;
use crate::debezium::ColumnFacts;
use crate::error::OutboxError;
use crate::mapping::Condition;
use crate::postgres::names::{Outbox, quote_identifier, quote_literal};
use crate::postgres::rows::AS_IN_THE_STREAM;
use crate::postgres::session::{Cells, Session, sql_error};
use crate::postgres::table::{ConditionTexts, condition_text};

/// What the server makes of the texts, condition by condition; of a column that is not there, what was typed. The inner error
/// is a text that is no value of its column.
///
/// # Errors
/// The session broke.
pub(super) async fn inspect(
    session: &Session,
    outbox: &Outbox,
    columns: &[TableColumn],
    facts: &HashMap<String, ColumnFacts>,
) -> Result<Result<Vec<ConditionTexts>, OutboxError>, OutboxError> {
    let mut all = Vec::new();
    for condition in &outbox.mapping.only {
        let column = columns.iter().find(|column| column.name == condition.column);
        let texts = match column.zip(facts.get(&condition.column)) {
            Some((column, facts)) => Typed { outbox, condition, column, facts }.texts(session).await?,
            None => Ok(ConditionTexts { written: condition.is.clone(), seen: condition.is.clone() }),
        };
        match texts {
            Ok(texts) => all.push(texts),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(all))
}

/// A condition and its column.
struct Typed<'a> {
    outbox: &'a Outbox,
    condition: &'a Condition,
    column: &'a TableColumn,
    facts: &'a ColumnFacts,
}

/// What the server makes of texts.
enum Answer {
    Written(Vec<String>),
    /// One of them is no value of the type.
    NoValue,
    /// It can't be asked.
    Untold,
}

/// Bytes are compared as they are, and are no text that the server would read.
const BYTEA: u32 = 17;

impl Typed<'_> {
    async fn texts(&self, session: &Session) -> Result<Result<ConditionTexts, OutboxError>, OutboxError> {
        let is = &self.condition.is;
        let typed: Vec<&str> = is.iter().flatten().map(String::as_str).collect();
        let mut texts = ConditionTexts { written: is.clone(), seen: is.clone() };
        if typed.is_empty() || self.facts.type_oid == BYTEA {
            return Ok(Ok(texts));
        }
        // All at once, as a rule; one by one to find the one that is wrong.
        let written = match self.written(session, &typed).await? {
            Answer::Written(written) => written,
            Answer::Untold => return Ok(Ok(texts)),
            Answer::NoValue => match self.one_by_one(session, &typed).await? {
                Ok(written) => written,
                Err(error) => return Ok(Err(error)),
            },
        };
        let seen = written.iter().map(|text| Some(condition_text(self.facts.type_oid, text)));
        texts.seen = seen.chain(is.contains(&None).then_some(None)).collect();
        texts.written = written.into_iter().map(Some).chain(is.contains(&None).then_some(None)).collect();
        Ok(Ok(texts))
    }

    async fn one_by_one(
        &self,
        session: &Session,
        typed: &[&str],
    ) -> Result<Result<Vec<String>, OutboxError>, OutboxError> {
        let mut good = Vec::new();
        for text in typed {
            match self.written(session, &[text]).await? {
                Answer::Written(mut written) => good.append(&mut written),
                // A preset is made for several shapes of its table, of which some have fewer states.
                _ if self.outbox.mapping.has_conditions_of_preset() => {}
                _ => return Ok(Err(self.no_value(text))),
            }
        }
        match typed.first() {
            Some(text) if good.is_empty() && !self.condition.is.contains(&None) => {
                Ok(Err(self.no_value(text)))
            }
            _ => Ok(Ok(good)),
        }
    }

    async fn written(&self, session: &Session, texts: &[&str]) -> Result<Answer, OutboxError> {
        let TableColumn { type_name, bare_type, .. } = self.column;
        let expression = |text: &&str| {
            let text = quote_literal(text);
            // A length or a scale would cut it in silence.
            let whole = if type_name == bare_type {
                "true".to_owned()
            } else {
                format!("{text}::{type_name} = {text}::{bare_type}")
            };
            format!("CASE WHEN {whole} THEN format('%s', {text}::{type_name}) END")
        };
        let expressions: Vec<_> = texts.iter().map(expression).collect();
        let during = "reading the conditions of --map-only";
        let failed = |error| sql_error(during, error);
        let begin = format!("BEGIN; {AS_IN_THE_STREAM}");
        session.client().batch_execute(&begin).await.map_err(failed)?;
        let rows = session.client().query(&format!("SELECT ARRAY[{}]", expressions.join(", ")), &[]).await;
        session.client().batch_execute("ROLLBACK").await.map_err(failed)?;
        let error = match rows {
            Ok(rows) => {
                let texts = |row: &Row| row.cell::<Vec<Option<String>>, _>(0);
                let texts = rows.first().map_or_else(|| Ok(Vec::new()), texts)?;
                return Ok(texts.into_iter().collect::<Option<_>>().map_or(Answer::NoValue, Answer::Written));
            }
            Err(error) => error,
        };
        // PostgreSQL documentation, "PostgreSQL Error Codes".
        match error.code().and_then(|code| code.code().get(..2)) {
            // No such value, or against a domain's check.
            Some("22" | "23") => Ok(Answer::NoValue),
            // The role may read the table, and not name the type, which stands in a schema of its own.
            Some("42") => Ok(Answer::Untold),
            _ => Err(failed(error)),
        }
    }

    fn no_value(&self, text: &str) -> OutboxError {
        let (table, column) = (&self.outbox.table, quote_identifier(&self.condition.column));
        let type_name = &self.column.type_name;
        let what = format!(
            "--map-only: column {column} of table {table} is never {text:?}: it is of type {type_name}"
        );
        let labels: Vec<_> = self.facts.labels.iter().map(|label| format!("{label:?}")).collect();
        if labels.is_empty() {
            OutboxError::definite(what, "write a value of that type, as in SQL")
        } else {
            OutboxError::definite(what, format!("its values are {}", labels.join(", ")))
        }
    }
}
