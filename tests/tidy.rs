//! The rooms and their rules (ARCHITECTURE.md), read off the sources.

#![allow(clippy::unwrap_used, reason = "a test says so when something does not hold")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_FILE: usize = 500;
const MAX_FUNCTION: usize = 70;
const MAX_LINE: usize = 130;

/// A source file: its place under `src/`, and its text without the tests at its end.
struct Source {
    place: String,
    text: String,
    lines: usize,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources: Vec<Source> = files(&root)
        .into_iter()
        .map(|path| {
            let whole = fs::read_to_string(&path).unwrap();
            let place = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let text = whole.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            Source { place, text, lines: whole.lines().count() }
        })
        .collect();
    sources.sort_by(|a, b| a.place.cmp(&b.place));
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    nested.flatten().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn is_test(source: &Source) -> bool {
    source.place.ends_with("tests.rs")
}

/// Code without its comments, so that a word in a sentence breaks no rule.
fn code(source: &Source) -> String {
    source.text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every place outside of `rooms` whose code holds one of the words.
fn offenders(words: &[&str], rooms: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !is_test(source)) {
        if rooms.iter().any(|room| source.place.starts_with(room)) {
            continue;
        }
        let code = code(source);
        for word in words.iter().filter(|word| code.contains(**word)) {
            found.push(format!("{}: {word}", source.place));
        }
    }
    found
}

/// The same the other way round: inside of `room` none of the words.
fn inside(room: &str, words: &[&str]) -> Vec<String> {
    let all = sources();
    let here: Vec<_> =
        all.iter().filter(|source| source.place.starts_with(room) && !is_test(source)).collect();
    assert!(!here.is_empty(), "there is no room {room}");
    let hits = |source: &&Source| {
        let code = code(source);
        words
            .iter()
            .filter(|word| code.contains(**word))
            .map(|word| format!("{}: {word}", source.place))
            .collect::<Vec<_>>()
    };
    here.iter().flat_map(hits).collect()
}

fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn files_functions_and_lines_stay_short() {
    let mut found = Vec::new();
    for source in sources() {
        if source.lines > MAX_FILE {
            found.push(format!("{}: {} lines", source.place, source.lines));
        }
        for (number, line) in source.text.lines().enumerate() {
            if line.chars().count() > MAX_LINE && !line.trim_start().starts_with('"') {
                found.push(format!("{}:{}: {} columns", source.place, number + 1, line.chars().count()));
            }
        }
        found.extend(long_functions(&source));
    }
    none(found, "what is long hides something");
}

/// Functions by rustfmt's indentation: from `fn` to the brace in the same column.
fn long_functions(source: &Source) -> Vec<String> {
    let mut open: BTreeMap<usize, (usize, String)> = BTreeMap::new();
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words = line.trim_start();
        let is_function = [
            "fn ",
            "pub fn ",
            "async fn ",
            "pub async fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "pub(crate) async fn ",
            "pub(super) async fn ",
        ]
        .iter()
        .any(|start| words.starts_with(start));
        if is_function && !words.ends_with('}') && !words.ends_with(';') {
            open.insert(indent, (number, words.to_owned()));
        } else if words == "}"
            && let Some((start, name)) = open.remove(&indent)
        {
            let length = number - start + 1;
            if length > MAX_FUNCTION {
                found.push(format!("{}:{}: {length} lines: {name}", source.place, start + 1));
            }
        }
    }
    found
}

/// Who calls them may have anything in a schema of the search_path: each transaction begins by naming the server's own.
#[test]
fn the_sql_files_call_the_servers_own_functions() {
    let own = "SET LOCAL search_path = pg_catalog, pg_temp;";
    let (mut found, mut blocks) = (Vec::new(), 0);
    for name in ["setup.sql", "retain.sql", "teardown.sql"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(name);
        let text = fs::read_to_string(path).unwrap();
        let code =
            text.lines().map(|line| line.split("--").next().unwrap().trim()).filter(|line| !line.is_empty());
        let code: Vec<_> = code.collect();
        let mut in_transaction = false;
        for (index, line) in code.iter().enumerate() {
            let next = |after: &str| code[index + 1..].iter().find(|line| !line.starts_with(after));
            let begins = match *line {
                "BEGIN;" => true,
                "COMMIT AND CHAIN;" => true,
                // The last one ends the file's transaction.
                "COMMIT;" => code.get(index + 1).is_some_and(|line| line.starts_with("SET TRANSACTION")),
                line => line.starts_with("DO $") && line.ends_with('$') && !in_transaction,
            };
            match *line {
                "BEGIN;" => in_transaction = true,
                "COMMIT;" if !begins => in_transaction = false,
                _ => {}
            }
            if begins {
                blocks += 1;
                let first = if line.starts_with("DO") { next("BEGIN") } else { next("SET TRANSACTION") };
                if first.is_none_or(|first| *first != own) {
                    found.push(format!("{name}: {line} {first:?}"));
                }
            }
        }
    }
    none(found, "a transaction in an SQL file begins with a search_path of its own");
    assert_eq!(blocks, 8, "they were found");
}

/// A new module of tests is meant to run on every version of the servers, or not to.
#[test]
fn each_module_of_tests_is_in_the_core_or_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = fs::read_to_string(root.join("scripts/test-versions")).unwrap();
    let list = |name: &str| {
        let (_, after) = script.split_once(&format!("\n{name}=\"")).unwrap();
        after.split('"').next().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut listed = ["CORE", "BROKERS", "REST"].map(list).concat();
    listed.sort();
    let main = fs::read_to_string(root.join("tests/it/main.rs")).unwrap();
    let modules = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let mut modules: Vec<_> = modules.map(str::to_owned).collect();
    modules.sort();
    assert_eq!(listed, modules, "each module of tests/it stands once in the lists of scripts/test-versions");
}

#[test]
fn no_room_is_called_after_nothing() {
    let vague = ["utils", "util", "common", "helpers", "helper", "types", "prelude", "misc"];
    let names = sources().into_iter().filter(|source| {
        let stem = Path::new(&source.place).file_stem().unwrap().to_string_lossy().into_owned();
        vague.contains(&stem.as_str())
    });
    none(names.map(|source| source.place).collect(), "a room is named after what is in it");
}

#[test]
fn every_file_is_part_of_the_program() {
    let all = sources();
    let declared = |source: &&Source| {
        let path = Path::new(&source.place);
        let stem = path.file_stem().unwrap().to_string_lossy();
        if matches!(&*stem, "lib" | "main") {
            return true;
        }
        let (name, parent) = if stem == "mod" {
            (
                path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned(),
                path.parent().unwrap().parent().unwrap(),
            )
        } else {
            (stem.into_owned(), path.parent().unwrap())
        };
        let parents = [
            parent.join("mod.rs"),
            parent.with_extension("rs"),
            parent.join("lib.rs"),
            parent.join("main.rs"),
        ];
        all.iter().any(|other| {
            let text =
                fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&other.place))
                    .unwrap();
            (parents.iter().any(|parent| Path::new(&other.place) == parent) || text.contains("#[path"))
                && (text.contains(&format!("mod {name};"))
                    || text.contains(&format!("#[path = \"{name}.rs\"]")))
        })
    };
    none(
        all.iter().filter(|source| !declared(source)).map(|source| source.place.clone()).collect(),
        "a file that nothing declares",
    );
}

#[test]
fn the_two_ends_do_not_know_each_other() {
    none(inside("postgres", &["crate::kafka", "rdkafka"]), "postgres never names kafka");
    none(inside("kafka", &["crate::postgres", "postgres"]), "kafka never names postgres");
    for room in
        ["processor.rs", "supervisor.rs", "progress.rs", "router.rs", "audit", "comparison", "memory/"]
    {
        none(
            inside(room, &["crate::kafka", "rdkafka", "crate::postgres", "tokio_postgres"]),
            "the loop knows only its ports",
        );
    }
}

#[test]
fn dependencies_point_toward_the_ground() {
    let upward = [
        "crate::processor",
        "crate::supervisor",
        "crate::cli",
        "crate::config",
        "crate::telemetry",
        "crate::relay",
        "crate::demo",
    ];
    for room in ["lsn.rs", "message.rs", "error.rs"] {
        let ports = [
            "crate::store",
            "crate::publisher",
            "crate::router",
            "crate::progress",
            "crate::postgres",
            "crate::kafka",
        ];
        none(inside(room, &[&upward[..], &ports[..]].concat()), "the ground stands on nothing");
    }
    for room in [
        "progress.rs",
        "router.rs",
        "audit",
        "comparison",
        "debezium",
        "postgres",
        "kafka",
        "store.rs",
        "publisher.rs",
        "vitals.rs",
    ] {
        none(inside(room, &upward), "dependencies point toward the ground");
    }
    for room in [
        "debezium",
        "postgres/array.rs",
        "postgres/reader.rs",
        "postgres/wal.rs",
        "postgres/pgoutput",
        "postgres/transaction.rs",
        "progress.rs",
        "router.rs",
        "audit",
        "comparison",
    ] {
        none(inside(room, &["async ", ".await", "tokio::", "std::io", "std::net"]), "pure rooms do no I/O");
    }
}

#[test]
fn each_thing_is_known_in_one_room() {
    none(inside("postgres/pgoutput", &["OutboxMessage"]), "pgoutput knows no outbox");
    none(inside("postgres/table", &["b'I'", "b'B'", "b'C'"]), "the table knows no tags");
    none(
        offenders(&["sleep(", "thread::sleep"], &["supervisor.rs", "postgres/late.rs", "demo/"]),
        "only the supervisor waits, and who reads late",
    );
    none(
        offenders(&["std::env", "env::var"], &["main.rs", "cli", "config", "demo/"]),
        "only the shell reads the environment",
    );
    none(
        offenders(
            &["\"event_type\"", "\"correlation_id\"", "\"created_at\"", "\"payload\""],
            &["postgres/table", "router.rs", "debezium/", "demo/"],
        ),
        "only the table spells column names, the router header names, and Debezium's room both as Debezium does",
    );
    none(
        offenders(&["SystemTime::now", "Instant::now"], &NEEDS_A_CLOCK),
        "time comes from where it is needed",
    );
    none(
        inside("processor", &["std::thread", "std::time::Instant", "SystemTime"]),
        "the loop has tokio's clock and no threads",
    );
    none(
        inside("supervisor.rs", &["std::thread", "std::time::Instant", "SystemTime"]),
        "the loop has tokio's clock and no threads",
    );
    none(
        offenders(&["unsafe"], &["lib.rs", "kafka/examination/native.rs"]),
        "only the call of librdkafka's that has no safe binding is unsafe",
    );
    none(
        offenders(&["row.get(", "row.get::<"], &["demo/"]),
        "a value that is not what it should be is an error (`Cells`), and `get` panics",
    );
}

/// Rooms that have a reason to ask what time it is.
const NEEDS_A_CLOCK: [&str; 15] = [
    "message.rs",
    "vitals",
    "processor",
    "refusal.rs",
    "supervisor.rs",
    "memory/",
    "postgres/store.rs",
    "postgres/lookout.rs",
    "postgres/takeover.rs",
    "postgres/examination/login.rs",
    "kafka/",
    "demo/",
    "cli",
    "telemetry",
    "relay.rs",
];
