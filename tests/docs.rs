//! docs/faults.md says which test proves what: it must not name tests that are not there, nor leave out a scenario. And
//! what the pages point to must be there.

#![allow(clippy::unwrap_used, reason = "a test says so when something does not hold")]

use std::collections::{BTreeMap, BTreeSet};
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

/// Each page, as a place in the repository, with its text.
fn pages() -> BTreeMap<PathBuf, String> {
    fn below(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let nested = entries.map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            // What was built, fetched or hidden is not ours.
            let foreign = name.starts_with('.') || ["target", "node_modules", "grown"].contains(&&*name);
            match (foreign, entry.file_type().unwrap().is_dir()) {
                (false, true) => below(&entry.path()),
                (false, false) if name.ends_with(".md") => vec![entry.path()],
                _ => Vec::new(),
            }
        });
        nested.flatten().collect()
    }
    let found = below(root()).into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    });
    let found: BTreeMap<_, _> = found.collect();
    assert!(found.len() > 20, "the pages were not found");
    found
}

/// The lines that are no code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// What links and pictures of a page lead to, unless it is elsewhere: a file, and a heading of it.
fn links(page: &str) -> Vec<(&str, &str)> {
    let spans = prose(page).flat_map(|line| line.split('`').step_by(2));
    // A link may have code in its text, so what stands before the bracket does not matter.
    let targets = spans.flat_map(|span| {
        let behind = |mark, end| span.split(mark).skip(1).map(move |it| it.split(end).next().unwrap());
        behind("](", ')').chain(behind("src=\"", '"'))
    });
    let near = targets.filter(|target| !target.contains("://"));
    near.map(|target| target.split_once('#').unwrap_or((target, ""))).collect()
}

/// The names under which headings of a page can be reached.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = prose(page)
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let name = |heading: &str| {
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect::<String>()
    };
    headings.map(name).collect()
}

/// The place that a link of a page leads to.
fn led_to(page: &Path, link: &str) -> PathBuf {
    if link.is_empty() {
        return page.to_owned();
    }
    page.parent().unwrap().join(link).components().fold(PathBuf::new(), |mut at, part| {
        if part.as_os_str() == ".." {
            at.pop();
        } else {
            at.push(part);
        }
        at
    })
}

#[test]
fn each_link_leads_somewhere() {
    let pages = pages();
    let mut seen = 0;
    for (place, text) in &pages {
        for (file, heading) in links(text) {
            let target = led_to(place, file);
            assert!(root().join(&target).exists(), "{}: there is no {}", place.display(), target.display());
            if !heading.is_empty() {
                let there = pages.get(&target).map(|page| anchors(page)).unwrap_or_default();
                assert!(there.contains(heading), "{}: {file}#{heading}", place.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "the links were not found");
}

#[test]
fn each_page_is_found_from_the_first() {
    let pages = pages();
    let mut reached = BTreeSet::from([PathBuf::from("README.md")]);
    let mut ahead: Vec<PathBuf> = reached.iter().cloned().collect();
    while let Some(place) = ahead.pop() {
        for (file, _) in pages.get(&place).map(|page| links(page)).unwrap_or_default() {
            let target = led_to(&place, file);
            if reached.insert(target.clone()) {
                ahead.push(target);
            }
        }
    }
    let lost: Vec<_> = pages.keys().filter(|place| !reached.contains(*place)).collect();
    assert!(lost.is_empty(), "no page leads to {lost:?}");
}

/// Errors and comments send people to pages by name. (Those of alerts are looked at in tests/dashboards.rs.)
#[test]
fn each_page_that_the_code_names_is_there() {
    let inside = |letter: char| letter.is_ascii_alphanumeric() || ['/', '.', '-', '_'].contains(&letter);
    let mut places: Vec<PathBuf> = sources(&root().join("src"));
    places.extend(["Makefile", "compose.yaml"].map(|place| root().join(place)));
    let mut seen = 0;
    for place in places {
        let text = fs::read_to_string(&place).unwrap();
        for name in text.split(|letter| !inside(letter)).filter(|word| word.starts_with("docs/")) {
            let name = name.trim_end_matches('.');
            assert!(root().join(name).exists(), "{}: there is no {name}", place.display());
            seen += 1;
        }
    }
    assert!(seen > 3, "the names were not found");
}
