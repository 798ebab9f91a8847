//! The expressions of dashboard and alert rules, and the names of figures in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// An expression and where it stands.
pub(crate) struct Expression {
    pub(crate) place: String,
    pub(crate) text: String,
}

/// A figure in an expression, and whether a function turns its growth into a rate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Used {
    pub(crate) name: String,
    pub(crate) is_rated: bool,
}

pub(crate) fn text_of(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn dashboard() -> Value {
    serde_json::from_str(&text_of("deploy/grafana/walpost.json")).unwrap()
}

/// What stands behind this key anywhere in the rules, which keep each value on one line.
pub(crate) fn of_rules(key: &str) -> Vec<String> {
    let rules = text_of("deploy/prometheus/alerts.yaml");
    let found = rules.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key));
    found.filter_map(|rest| rest.strip_prefix(": ")).map(str::to_owned).collect()
}

/// All expressions of both files.
pub(crate) fn expressions() -> Vec<Expression> {
    let mut found: Vec<_> = of_rules("expr")
        .into_iter()
        .zip(of_rules("alert"))
        .map(|(text, alert)| Expression { place: format!("alert {alert}"), text })
        .collect();
    for panel in dashboard()["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let (place, text) = (format!("panel {}", panel["title"]), target["expr"].as_str().unwrap());
            found.push(Expression { place, text: text.to_owned() });
        }
    }
    found
}

/// The figures that an expression reads.
pub(crate) fn figures(expression: &str) -> BTreeSet<Used> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut used = BTreeSet::new();
    let mut at = 0;
    while let Some(start) = expression[at..].find(is_word).map(|start| at + start) {
        let end =
            expression[start..].find(|letter| !is_word(letter)).map_or(expression.len(), |end| start + end);
        let name = &expression[start..end];
        if name.starts_with("walpost_") || name.starts_with("process_") {
            let before = &expression[..start];
            let is_rated = ["rate(", "increase("].iter().any(|function| before.ends_with(function));
            used.insert(Used { name: name.to_owned(), is_rated });
        }
        at = end;
    }
    used
}
