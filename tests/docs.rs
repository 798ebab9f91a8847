//! docs/faults.md says which test proves what: it must not name tests that are not there, nor leave out a scenario.

#![allow(clippy::unwrap_used, reason = "a test says so when something does not hold")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How the matrix says that there is no test.
const NONE: [&str; 3] = ["no test yet", "not offered yet", "**to fill in:**"];

struct Test {
    file: PathBuf,
    name: String,
    /// Its first quoted text, which in a scenario is the scenario's name.
    quoted: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    nested.flatten().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// All test functions under `src/` and `tests/`.
fn tests() -> Vec<Test> {
    let mut found = Vec::new();
    for file in ["src", "tests"].map(|folder| sources(&root().join(folder))).concat() {
        let text = fs::read_to_string(&file).unwrap();
        for mark in ["#[test]\n", "#[tokio::test"] {
            for (_, after) in text.match_indices(mark).map(|(at, _)| text[at..].split_at(mark.len())) {
                let Some((_, after)) = after.split_once("fn ") else { continue };
                let (name, after) = after.split_once('(').unwrap();
                let quoted = after.split('"').nth(1).unwrap_or_default();
                found.push(Test { file: file.clone(), name: name.to_owned(), quoted: quoted.to_owned() });
            }
        }
    }
    assert!(found.len() > 100, "the tests were not found");
    found
}

/// The rows of the matrix, each with its cells.
fn matrix() -> Vec<Vec<String>> {
    let page = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let (_, page) = page.split_once("## The matrix").unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn each_test_of_the_matrix_exists() {
    let names: BTreeSet<String> = tests().into_iter().map(|test| test.name).collect();
    for row in matrix() {
        assert_eq!(row.len(), 6, "{row:?}");
        let claims: Vec<&str> = code_spans(&row[4]).collect();
        let unproven = NONE.iter().any(|words| row.iter().any(|cell| cell.contains(words)));
        assert!(!claims.is_empty() || unproven, "row {} names no test and does not say so", row[0]);
        for claim in claims {
            assert!(names.contains(claim), "row {}: there is no test {claim}", row[0]);
        }
    }
}

#[test]
fn the_matrix_has_each_fault_once() {
    let numbers: Vec<u32> = matrix().iter().filter_map(|row| row[0].parse().ok()).collect();
    assert_eq!(numbers, (1..=38).collect::<Vec<_>>());
}

#[test]
fn each_scenario_stands_in_the_matrix() {
    let scenarios: Vec<Test> = tests()
        .into_iter()
        .filter(|test| test.file.parent().is_some_and(|folder| folder.ends_with("tests/faults")))
        .filter(|test| fs::read_to_string(&test.file).unwrap().contains("scenario::"))
        .collect();
    assert!(scenarios.len() > 10, "the scenarios were not found");
    let rows = matrix();
    for test in scenarios {
        // `make faults SCENARIO=...` finds the test by its name.
        assert!(test.name.starts_with(&test.quoted.replace('-', "_")), "{} runs {}", test.name, test.quoted);
        let named = |row: &Vec<String>| {
            code_spans(&row[4]).any(|name| name == test.name)
                && code_spans(&row[5]).any(|name| name == test.quoted)
        };
        assert!(rows.iter().any(named), "no row has test {} and scenario {}", test.name, test.quoted);
    }
}
