//! The SQL in the sources of a service, read off without its compiler.

use std::path::Path;

use tokio_postgres::Client;

use super::programs::tracked;

/// A statement as the server gets it, and what its driver calls the parameters.
#[derive(Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    parameters: Vec<Parameter>,
}

/// A parameter; of the drivers that declare types, with its type.
#[derive(Clone, Debug, PartialEq)]
struct Parameter {
    name: Option<String>,
    declared: Option<String>,
}

/// All statements of a service that write.
pub(crate) fn of(folder: &Path) -> Vec<Statement> {
    let endings = ["cs", "dart", "go", "java", "py", "rs", "swift", "ts"];
    let is_source =
        |path: &Path| path.extension().is_some_and(|it| endings.iter().any(|ending| it == *ending));
    let files = tracked(folder).into_iter().filter(|(path, _)| is_source(path));
    files
        .flat_map(|(path, text)| {
            let literals = literals(&text);
            let sql = literals
                .into_iter()
                .filter(|it| ["INSERT INTO ", "UPDATE stock "].iter().any(|w| it.starts_with(w)));
            let mapped = if path.ends_with("models.py") { mapped(&text) } else { Vec::new() };
            sql.map(|it| Statement::parse(&it)).chain(mapped).collect::<Vec<_>>()
        })
        .collect()
}

/// The string literals of a source in any of the languages, trimmed. None of them has escapes or quotes in its SQL.
fn literals(text: &str) -> Vec<String> {
    let code: String =
        text.lines().filter(|line| !is_comment(line)).map(|line| format!("{line}\n")).collect();
    let mut found = Vec::new();
    let mut rest = code.as_str();
    let quotes = ["\"\"\"", "'''", "`", "\""];
    while let Some((at, quote)) =
        quotes.iter().filter_map(|quote| Some((rest.find(quote)?, *quote))).min_by_key(|(at, _)| *at)
    {
        let inside = &rest[at + quote.len()..];
        let Some(end) = end_of_literal(inside, quote) else { break };
        found.push(inside[..end].trim().to_owned());
        rest = &inside[end + quote.len()..];
    }
    found
}

fn is_comment(line: &str) -> bool {
    ["//", "#", "*", "/*"].iter().any(|mark| line.trim_start().starts_with(mark))
}

/// Where it is closed, which is not at an escaped quote.
fn end_of_literal(inside: &str, quote: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + inside[from..].find(quote)?;
        if !inside[..at].ends_with('\\') || quote == "`" {
            return Some(at);
        }
        from = at + 1;
    }
}

/// What SQLAlchemy makes of its mapped classes: an INSERT of all columns.
fn mapped(text: &str) -> Vec<Statement> {
    let between = |line: &str, word: &str| {
        let (_, rest) = line.split_once(word)?;
        rest.split('"').nth(1).map(str::to_owned)
    };
    let class = |text: &str| {
        let table = text.lines().find_map(|line| between(line, "__tablename__ ="))?;
        let schema = text.lines().find_map(|line| between(line, "\"schema\":"));
        let columns: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_once(": Mapped["))
            .map(|(name, _)| name.trim())
            .collect();
        let named = columns.iter().map(|name| format!("@{name}")).collect::<Vec<_>>().join(", ");
        let table = schema.map_or(table.clone(), |schema| format!("{schema}.{table}"));
        let sql = format!("INSERT INTO {table} ({}) VALUES ({named})", columns.join(", "));
        let mut statement = Statement::parse(&sql);
        // Psycopg lets the server infer the types of text.
        statement.parameters.iter_mut().for_each(|parameter| parameter.declared = None);
        Some(statement)
    };
    text.split("\nclass ").filter_map(class).collect()
}

impl Statement {
    /// Turns each driver's parameters, `?`, `@Name`, `@name:type`, `\(value)` and `$1`, into numbers.
    fn parse(literal: &str) -> Statement {
        let mut statement = Statement { sql: String::new(), parameters: Vec::new() };
        let mut rest = literal;
        while let Some(letter) = rest.chars().next() {
            let after = &rest[letter.len_utf8()..];
            rest = match letter {
                '?' => statement.positional(None, after),
                '$' => {
                    let digits = after.find(|it: char| !it.is_ascii_digit()).unwrap_or(after.len());
                    statement.positional(Some(after[..digits].parse().unwrap()), &after[digits..])
                }
                '@' => statement.named(after),
                '\\' if after.starts_with('(') => {
                    let (value, after) = after[1..].split_once(')').unwrap();
                    statement.parameter(value.rsplit('.').next().unwrap(), None);
                    after
                }
                _ => {
                    statement.sql.push(if letter.is_whitespace() { ' ' } else { letter });
                    after
                }
            };
        }
        statement
    }

    fn positional<'a>(&mut self, number: Option<usize>, after: &'a str) -> &'a str {
        let number = number.unwrap_or(self.parameters.len() + 1);
        assert!(number <= self.parameters.len() + 1, "parameters are numbered in order: {}", self.sql);
        if number > self.parameters.len() {
            self.parameters.push(Parameter { name: None, declared: None });
        }
        self.sql.push_str(&format!("${number}"));
        after
    }

    fn named<'a>(&mut self, after: &'a str) -> &'a str {
        let is_name = |it: char| it.is_alphanumeric() || it == '_';
        let (name, after) = after.split_at(after.find(|it| !is_name(it)).unwrap_or(after.len()));
        // One colon declares a type to the driver, two are a cast for the server.
        if after.starts_with(':') && !after.starts_with("::") {
            let end = after[1..].find(|it| !is_name(it)).map_or(after.len(), |at| at + 1);
            self.parameter(name, Some(&after[1..end]));
            &after[end..]
        } else {
            self.parameter(name, None);
            after
        }
    }

    /// A named parameter; of one name there is one.
    fn parameter(&mut self, name: &str, declared: Option<&str>) {
        let name = snake(name);
        // What Npgsql and PostgresNIO tell the server of the types that the services use.
        let declared = declared.unwrap_or(match &*name {
            "id" => "uuid",
            "created_at" => "timestamptz",
            "number" => "int8",
            "quantity" => "int4",
            _ => "text",
        });
        let parameter = Parameter { name: Some(name), declared: Some(declared.to_owned()) };
        let known = self.parameters.iter().position(|it| *it == parameter);
        let at = known.unwrap_or_else(|| {
            self.parameters.push(parameter);
            self.parameters.len() - 1
        });
        self.sql.push_str(&format!("${}", at + 1));
    }

    pub(crate) fn inserts_into(&self, table: &str) -> bool {
        let words: Vec<&str> = self.sql.split_whitespace().take(3).collect();
        words == ["INSERT", "INTO", table]
    }

    /// Those that an INSERT names.
    pub(crate) fn columns(&self) -> Vec<String> {
        let (_, after) = self.sql.split_once('(').unwrap();
        let (inside, _) = after.split_once(')').unwrap();
        inside.split(',').map(|name| name.trim().to_owned()).collect()
    }

    /// Has the server prepare it and runs it with these values.
    pub(crate) async fn run(
        &self,
        client: &Client,
        value: impl Fn(&str) -> String,
    ) -> Result<(), tokio_postgres::Error> {
        let declared: Vec<&str> = self.parameters.iter().filter_map(|it| it.declared.as_deref()).collect();
        let types = if declared.is_empty() { String::new() } else { format!("({})", declared.join(", ")) };
        let values: Vec<String> = self.names().iter().map(|name| value(name)).collect();
        let Statement { sql, .. } = self;
        let values = values.join(", ");
        client.batch_execute(&format!("PREPARE p {types} AS {sql}; EXECUTE p ({values}); DEALLOCATE p")).await
    }

    /// What each parameter is: by its name, else by the column that it stands for.
    fn names(&self) -> Vec<String> {
        let places = if self.sql.starts_with("INSERT") {
            let columns = self.columns();
            assert_eq!(columns.len(), self.parameters.len(), "a parameter for each column: {}", self.sql);
            columns
        } else {
            // `UPDATE stock SET available = available - $1 WHERE item = $2 AND available >= ...`
            vec!["quantity".to_owned(), "item".to_owned(), "quantity".to_owned()]
        };
        let of_stock = self.inserts_into("stock");
        let place = |(parameter, place): (&Parameter, String)| match &parameter.name {
            Some(name) if of_stock && name == "item" => "stock.item".to_owned(),
            Some(name) => name.clone(),
            None => place,
        };
        self.parameters.iter().zip(places).map(place).collect()
    }
}

/// `CreatedAt` and `createdAt` are `created_at`; `correlationID` is `correlation_id`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    let mut before = '_';
    for letter in name.chars() {
        if letter.is_uppercase() && (before.is_lowercase() || before.is_ascii_digit()) {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
        before = letter;
    }
    snake
}

#[test]
fn the_parameters_of_every_driver_are_read() {
    let read = |literal: &str| {
        let statement = Statement::parse(literal);
        let names = statement.parameters.iter().map(|it| it.name.clone().unwrap_or_default());
        (statement.sql.clone(), names.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(read("VALUES (?, ?::json)"), ("VALUES ($1, $2::json)".into(), " ".into()));
    assert_eq!(read("a - $1 AND b >= $1"), ("a - $1 AND b >= $1".into(), String::new()));
    assert_eq!(read("(@Id, @Payload::json, @Id)"), ("($1, $2::json, $1)".into(), "id payload".into()));
    assert_eq!(read("(@id:uuid, @event_type:text)"), ("($1, $2)".into(), "id event_type".into()));
    assert_eq!(
        read(r"(\(order.number), \(payload)::json, \(correlationID))"),
        ("($1, $2::json, $3)".into(), "number payload correlation_id".into())
    );
}

#[test]
fn a_statement_is_found_in_every_kind_of_quotes() {
    for source in [
        "x = \"INSERT INTO t\"",
        "// it's \" not\nx = `\n INSERT INTO t`",
        "const S: &str = \"\\\"\"; q('''INSERT INTO t''')",
        "\"\"\"INSERT INTO t\n\"\"\"",
    ] {
        assert!(literals(source).contains(&"INSERT INTO t".to_owned()), "{source}");
    }
}
