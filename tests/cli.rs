//! The binary as its users meet it: exit codes, help, and what it says about wrong usage.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when something does not hold")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

/// A run of the binary in an empty folder, with none of this machine's settings.
struct Run {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn new() -> Run {
        Run { folder: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: &str) -> Run {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn with_file(self, name: &str, text: &str) -> Run {
        fs::write(self.folder.path().join(name), text).unwrap();
        self
    }

    fn walpost(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walpost"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("WALPOST_")) {
                command.env_remove(name);
            }
        }
        command.current_dir(self.folder.path()).env("HOME", self.folder.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let Output { status, stdout, stderr } = command.args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
    }
}

/// Wrong usage: exit code 2, `error:` with these words, advice, and nothing on stdout.
#[track_caller]
fn refused(run: &Run, arguments: &[&str], what: &str, advice: &str) {
    let outcome = run.walpost(arguments);
    let stderr = &outcome.stderr;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
    assert!(
        stderr.lines().any(|line| line.starts_with("error: ") && line.contains(what)),
        "{what}: {stderr}"
    );
    assert!(stderr.contains(advice), "{advice}: {stderr}");
    assert!(!stderr.contains("sesame"), "a secret is shown: {stderr}");
}

#[test]
fn help_and_version_go_to_stdout() {
    for (arguments, expected) in [
        (&["--help"][..], &["Examples:", "Exit codes:", "setup", "teardown"][..]),
        (&["-h"], &["Usage: walpost"]),
        (
            &["run", "--help"],
            &["--drain-timeout", "[env: WALPOST_DRAIN_TIMEOUT]", "[default: 25s]", "Examples:"],
        ),
        (&["setup", "--help"], &["--print", "--table"]),
        (&["check", "--help"], &["--brokers", "--json"]),
        (&["status", "--help"], &["--json"]),
        (&["dead-letters", "--help"], &["list", "show", "replay", "discard", "--on-refusal dead-letter"]),
        (&["dead-letters", "list", "--help"], &["--topic", "--all", "--json", "[env: WALPOST_SLOT]"]),
        (&["dead-letters", "show", "--help"], &["<POSITION>", "--payload"]),
        (&["dead-letters", "replay", "--help"], &["[POSITION]...", "--wait", "xargs"]),
        (&["dead-letters", "discard", "--help"], &["--yes", "--topic"]),
        (&["teardown", "--help"], &["--drop-table"]),
        (
            &["verify", "--help"],
            &[
                "<LEFT>",
                "<RIGHT>",
                "--ignore-header",
                "__debezium.context.runId",
                "[env: WALPOST_BROKERS]",
                "Examples:",
            ],
        ),
        (&["demo", "--help"], &["--for", "--rate", "--brokers"]),
        (&["--version"], &[env!("CARGO_PKG_VERSION"), "librdkafka 2."]),
    ] {
        let outcome = Run::new().walpost(arguments);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{arguments:?}");
        let words = outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in expected {
            assert!(words.contains(text), "{arguments:?} {text}: {words}");
        }
    }
}

#[test]
fn wrong_arguments_exit_with_2_and_name_the_nearest() {
    for (arguments, expected) in [
        (&[][..], "Usage:"),
        (&["rum"], "'run'"),
        (&["run", "--slots", "a"], "'--slot'"),
        (&["run", "--slot"], "--slot"),
        (&["status", "--brokers", "a:1"], "'--brokers'"),
        (&["dead-letters"], "Usage:"),
        (&["dead-letters", "replay"], "POSITION"),
        (&["dead-letters", "discard"], "POSITION"),
        (&["dead-letters", "show"], "<POSITION>"),
        (&["dead-letters", "show", "0/10"], "X/Y+index"),
        (&["dead-letters", "show", "0/10+1", "0/10+2"], "0/10+2"),
        (&["dead-letters", "replay", "0/10+1", "0/10+x"], "X/Y+index"),
        (&["dead-letters", "replay", "0/10+1", "--all"], "cannot be used with"),
        (&["dead-letters", "replay", "--topic", "a", "--all"], "cannot be used with"),
        (&["dead-letters", "replay", "--all", "--wait", "5"], "500ms, 25s or 2m"),
        (&["dead-letters", "list", "--brokers", "a:1"], "--brokers"),
        (&["demo", "--for", "10"], "500ms, 25s or 2m"),
        (&["demo", "--rate", "0"], "--rate"),
        (&["verify", "a"], "<RIGHT>"),
        (&["verify", "a", "b", "c"], "'c'"),
        (&["verify", "a", "b", "--by-key", "--unordered"], "cannot be used with"),
        (&["verify", "a", "b", "--unordered", "--limit", "5"], "cannot be used with"),
        (&["verify", "a", "b", "--limit", "0"], "--limit"),
        (&["verify", "a", "b", "--slot", "c"], "'--slot'"),
    ] {
        let outcome = Run::new().walpost(arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
    }
}

#[test]
fn unknown_settings_are_named_with_the_nearest_known_one() {
    let run = Run::new().with("WALPOST_SLOTT", "a");
    refused(&run, &["run"], "WALPOST_SLOTT is no setting", "the nearest is WALPOST_SLOT");
    let run = Run::new().with_file("walpost.toml", "brokres = 'a:1'");
    refused(&run, &["status"], "walpost.toml: `brokres` is no setting", "the nearest is `brokers`");
    let run = Run::new().with_file("other.toml", "slot = 5");
    refused(&run, &["run", "--config", "other.toml"], "other.toml: `slot` is not a string", "quotes");
    refused(&Run::new(), &["run", "--config", "none.toml"], "none.toml cannot be read", "WALPOST_CONFIG");
    let run = Run::new().with("WALPOST_CONFIG", "none.toml");
    refused(&run, &["run"], "none.toml cannot be read", "WALPOST_CONFIG");
}

#[test]
fn secrets_are_refused_on_the_command_line() {
    let run = Run::new();
    let url = "postgresql://relay:sesame@localhost/shop";
    refused(&run, &["run", "--database-url", url], "--database-url: a password", "--password-file");
    refused(
        &run,
        &["check", "--database-url", "password=sesame"],
        "--database-url: a password",
        "PGPASSWORD",
    );
    refused(&run, &["run", "-X", "sasl.password=sesame"], "-X sasl.password", "WALPOST_KAFKA_SASL_PASSWORD");
    refused(&run, &["run", "-Xssl.key.pem=sesame"], "-X ssl.key.pem", "WALPOST_KAFKA_SSL_KEY_PEM");
}

#[test]
fn wrong_values_say_where_they_were_written() {
    let run = Run::new();
    refused(&run, &["setup", "--slot", "My-Slot"], "--slot: `My-Slot` is not the name", "a-z");
    refused(&run, &["run", "--table", "a.b.c"], "--table: \"a.b.c\"", "as in SQL");
    refused(&run, &["run", "--drain-timeout", "25"], "--drain-timeout: `25`", "25s");
    refused(&run, &["run", "--listen", "8480"], "--listen: `8480`", "127.0.0.1:8480");
    refused(
        &run,
        &["run", "--delivery", "exactly-once"],
        "--delivery: there is no delivery",
        "at-least-once",
    );
    refused(&run, &["run", "--on-refusal", "drop"], "--on-refusal: there is no policy `drop`", "dead-letter");
    refused(&run, &["check", "--on-refusal", "skip"], "--on-refusal: there is no policy `skip`", "halt");
    refused(&run, &["run", "--multiplier", "0.5"], "--multiplier: `0.5` is not", "at least 1");
    refused(&run, &["run", "--base-delay", "2m"], "--base-delay: the first wait, 2m,", "--max-delay");
    let run = Run::new().with("WALPOST_MAX_RETRIES", "many");
    refused(&run, &["run"], "WALPOST_MAX_RETRIES: `many` is not", "whole number");
    let run = Run::new();
    for weaker in
        ["acks=1", "enable.idempotence=false", "max.in.flight=6", "retries=3", "message.timeout.ms=1000"]
    {
        let key = weaker.split('=').next().unwrap();
        refused(&run, &["run", "-X", weaker], key, "");
    }
    refused(&run, &["run", "-X", "linger.ns=5"], "linger.ns", "");
    refused(&run, &["run", "-X", "linger.ms"], "-X: a property is written key=value", "-X linger.ms=20");
    refused(&run, &["run", "--log-level", "verbose"], "--log-level: `verbose` is not a level", "debug");
    refused(&run, &["demo", "--log-format", "xml"], "--log-format: there is no log format `xml`", "json");
    let secret = "postgresql://relay:sesame@h/d?sslmode=require&sslrootcert=system";
    let run = Run::new().with("WALPOST_DATABASE_URL", secret);
    refused(&run, &["status"], "`sslmode` can only be verify-full beside", "Connection Strings");
    let run = Run::new().with("PGSERVICE", "prod");
    refused(&run, &["status"], "`service` (from PGSERVICE) is not supported", "Connection Strings");
    let run = Run::new().with("WALPOST_DATABASE_URL", "postgresql://relay:se/same@h:x/d");
    refused(&run, &["status"], "`port` is not a number", "Connection Strings");
}

#[test]
fn topics_that_can_not_be_compared_are_refused() {
    for (arguments, what, advice) in [
        (&["a", "a"][..], "LEFT and RIGHT are the same", "--right-brokers"),
        (&["a.*", "b"], "a topic can't be compared with a set", "write a *"),
        (&["a b", "c"], "LEFT: `a b` is no topic", "a-z"),
        (&["c", "a*b"], "RIGHT: `a*b` is no topic", "at its end"),
        (&["a", "b", "--right-brokers", ","], "no Kafka broker is named", "host:port"),
        (&["a", "b", "-X", "linger.ns=5"], "linger.ns", "CONFIGURATION.md"),
        (&["a", "b", "-X", "fetch.max.bytes=5"], "fetch.max.bytes", "CONFIGURATION.md"),
        (&["a", "b", "-X", "sasl.password=sesame"], "-X sasl.password", "WALPOST_KAFKA_SASL_PASSWORD"),
    ] {
        refused(&Run::new(), &[&["verify"], arguments].concat(), what, advice);
    }
}

#[test]
fn what_is_not_named_is_discarded_only_with_yes() {
    for flags in [&["--all"][..], &["--topic", "orders"]] {
        let arguments = [&["dead-letters", "discard"], flags].concat();
        refused(&Run::new(), &arguments, &format!("{} gives up every open letter", flags[0]), "--yes");
    }
    // A letter that was named, and one that was confirmed, lead to the database, which is not there.
    let run = Run::new().with("PGHOST", "/nonexistent");
    for arguments in [&["0/10+1"][..], &["--all", "--yes"], &["--topic", "orders", "--yes"]] {
        let outcome = run.walpost(&[&["dead-letters", "discard"], arguments].concat());
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains("cannot connect"), "{}", outcome.stderr);
    }
}

#[test]
fn a_port_in_use_ends_the_run_with_1_and_advice() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let outcome = Run::new().with("WALPOST_LISTEN", &address).walpost(&["run"]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(&format!("error: cannot listen on {address} (--listen)")),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("  advice: another process"), "{}", outcome.stderr);
}

#[test]
fn the_log_is_json_when_nobody_watches_and_names_the_file_that_was_read() {
    let run =
        Run::new().with_file("walpost.toml", "database_url = 'host=/nonexistent'\nlog_level = 'info'\n");
    let outcome = run.walpost(&["status"]);
    let line = outcome.stderr.lines().next().unwrap_or_default();
    let event: serde_json::Value = serde_json::from_str(line).expect(line);
    assert_eq!(event["message"], "configuration read");
    assert_eq!(event["level"], "INFO");
    assert_eq!(event["file"].as_str().map(Path::new), Some(Path::new("walpost.toml")));

    let outcome = run.walpost(&["status", "--log-format", "text"]);
    assert!(outcome.stderr.contains("configuration read file=walpost.toml"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains('\x1b'), "no colours in a file: {}", outcome.stderr);
    let outcome = run.walpost(&["status", "--log-level", "warn"]);
    assert!(!outcome.stderr.contains("configuration read"), "{}", outcome.stderr);
}
