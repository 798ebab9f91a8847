//! What deploys Walpost speaks of it: settings, ports, paths and times in those files must be those of the binary.
//!
//! Whether the files are well formed is for their own tools (`make lint-deploy`).
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something does not hold"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const DEPLOYMENT: &str = "deploy/kubernetes/base/deployment.yaml";
const JOB: &str = "deploy/kubernetes/setup/job.yaml";
const MONITOR: &str = "deploy/kubernetes/components/pod-monitor/podmonitor.yaml";
const UNIT: &str = "deploy/systemd/walpost.service";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(place: &str) -> String {
    fs::read_to_string(root().join(place)).unwrap_or_else(|error| panic!("{place}: {error}"))
}

/// All files below a folder, as places in the repository.
fn files(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap());
    let nested = entries.map(|entry| {
        let place = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() { files(&place) } else { vec![place] }
    });
    nested.flatten().collect()
}

/// Everything by which Walpost is deployed, and what is told of it.
fn deployment() -> Vec<String> {
    let mut places = ["Dockerfile", "compose.yaml", "docs/deploy.md"].map(str::to_owned).to_vec();
    places.extend(files("deploy"));
    assert!(places.len() > 15, "the files were not found");
    places
}

/// What stands behind `mark` in a line, once or more often, up to what ends a plain value in YAML, TOML and units.
fn values(text: &str, mark: &str) -> Vec<String> {
    let ends = [' ', ',', '}', ']', '"', '\n'];
    let found = text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let (_, behind) = line.split_once(mark)?;
        Some(behind.trim_start_matches([' ', '[', '"']).split(ends).next().unwrap().to_owned())
    });
    found.collect()
}

/// The only one.
#[track_caller]
fn value(text: &str, mark: &str) -> String {
    let found: BTreeSet<String> = values(text, mark).into_iter().collect();
    assert_eq!(found.len(), 1, "{mark}: {found:?}");
    found.into_iter().next().unwrap()
}

fn seconds(text: &str) -> u64 {
    text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{text} is not a number of seconds"))
}

/// The binary in a folder, with these variables and none of this machine's.
fn walpost(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walpost"));
    command.env_clear().envs(variables.iter().copied()).current_dir(folder).args(arguments).output().unwrap()
}

fn help() -> String {
    let output = walpost(root(), &[], &["run", "--help"]);
    String::from_utf8(output.stdout).unwrap()
}

/// The default of a flag, as the help tells it.
fn default_of(flag: &str) -> String {
    let help = help();
    let (_, behind) = help.split_once(&format!("{flag} <")).unwrap_or_else(|| panic!("there is no {flag}"));
    // Where the line is full, it goes on in the next one.
    let text = behind.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split_once("[default: ").unwrap().1.split(']').next().unwrap().to_owned()
}

/// The words of a text that begin like this.
fn words<'a>(text: &'a str, start: &str, also: &'static [char]) -> BTreeSet<&'a str> {
    let inside = move |letter: char| letter.is_ascii_alphanumeric() || also.contains(&letter);
    text.split(move |letter| !inside(letter))
        .filter(|word| word.starts_with(start) && *word != start)
        .collect()
}

#[test]
fn each_variable_is_one_of_walposts() {
    let help = help();
    for place in deployment() {
        for name in words(&read(&place), "WALPOST_", &['_']) {
            let known = name == "WALPOST_CONFIG" || name.starts_with("WALPOST_KAFKA_");
            // One that a sentence gives as an example of what others set.
            let foreign = name == "WALPOST_SERVICE_HOST";
            assert!(
                known || foreign || help.contains(&format!("[env: {name}")),
                "{place}: there is no {name}"
            );
        }
    }
}

#[test]
fn each_flag_in_the_page_is_one_of_walposts() {
    let page = read("docs/deploy.md");
    let spans = page.lines().flat_map(|line| line.split('`').skip(1).step_by(2).chain([line]));
    // A flag that stands alone is one of `run`.
    let commands = spans.filter_map(|span| match span.trim_start() {
        flag if flag.starts_with("--") => Some(format!("run {flag}")),
        other => other.strip_prefix("walpost ").map(str::to_owned),
    });
    let mut seen = 0;
    for command in commands {
        let subcommand = command.split_whitespace().next().unwrap();
        let help = walpost(root(), &[], &[subcommand, "--help"]);
        assert!(help.status.success(), "there is no `walpost {subcommand}`");
        let help = String::from_utf8(help.stdout).unwrap();
        for flag in words(&command, "--", &['-']) {
            assert!(help.contains(flag), "walpost {subcommand} has no {flag}");
        }
        seen += 1;
    }
    assert!(seen > 2, "the commands were not found");
}

#[test]
fn the_binary_takes_what_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let given = |variables: &[(&str, &str)]| {
        let output = walpost(folder.path(), variables, &["setup", "--print"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    };
    let file = root().join("deploy/kubernetes/example/walpost.toml");
    given(&[("WALPOST_CONFIG", file.to_str().unwrap())]);
    for place in ["compose.yaml", JOB] {
        let text = read(place);
        let urls: BTreeSet<_> =
            text.split_whitespace().filter(|word| word.starts_with("postgresql://")).collect();
        assert!(!urls.is_empty(), "{place}");
        for url in urls {
            given(&[("WALPOST_DATABASE_URL", url)]);
            assert!(!url.contains(":@") && url.matches(':').count() == 1, "{place}: a password in {url}");
        }
    }
}

#[test]
fn the_ports_agree() {
    let listen = default_of("--listen");
    let port = listen.rsplit_once(':').unwrap().1;
    let docker = read("Dockerfile");
    assert_eq!(value(&docker, "EXPOSE"), port);
    assert_eq!(value(&docker, "WALPOST_LISTEN="), format!("0.0.0.0:{port}"));
    let deployment = read(DEPLOYMENT);
    assert_eq!(value(&deployment, "containerPort:"), port);
    assert!(deployment.contains(&format!("value: 0.0.0.0:{port}")), "the pod's own address");
    assert!(read("compose.yaml").contains(&format!("127.0.0.1:{port}:{port}")), "compose.yaml");
    assert!(deployment.contains("- name: http\n"), "the port's name, by which it is asked");
    assert_eq!(value(&read(MONITOR), "port:"), "http");
}

#[test]
fn probes_ask_what_is_answered() {
    let answers: String = files("src/telemetry").iter().map(|place| read(place)).collect();
    let text = read(DEPLOYMENT);
    let asked: BTreeSet<String> = values(&text, "httpGet: { path:").into_iter().collect();
    assert_eq!(asked, ["/healthz", "/readyz"].map(str::to_owned).into());
    let scraped = value(&read(MONITOR), "path:");
    assert_eq!(scraped, "/metrics", "where Prometheus asks");
    for path in asked.into_iter().chain([scraped]) {
        assert!(answers.contains(&format!("\"{path}\"")), "nobody answers {path}");
    }
    let after = |probe: &str| values(text.split_once(probe).unwrap().1, "path:")[0].clone();
    // A relay whose broker is away is not ready, and must not be restarted.
    assert_eq!(
        ["startupProbe", "livenessProbe", "readinessProbe"].map(after),
        ["/healthz", "/healthz", "/readyz"]
    );
}

#[test]
fn nobody_is_killed_while_it_drains() {
    let drain = seconds(&default_of("--drain-timeout"));
    for (place, mark) in [
        (DEPLOYMENT, "terminationGracePeriodSeconds:"),
        ("compose.yaml", "stop_grace_period:"),
        (UNIT, "TimeoutStopSec="),
    ] {
        let grace = seconds(&value(&read(place), mark));
        assert!(grace >= drain + 10, "{place}: {grace} s are too few for a drain of {drain} s");
    }
}

#[test]
fn nothing_runs_as_root_or_may_more_than_it_needs() {
    let docker = read("Dockerfile");
    let user = value(&docker, "USER ");
    let (uid, gid) = user.split_once(':').unwrap();
    assert!(uid.parse::<u32>().unwrap() > 0 && gid.parse::<u32>().unwrap() > 0, "{user}");
    assert_eq!(value(&read("deploy/compose/make-passwords"), "relay="), uid);
    for place in [DEPLOYMENT, JOB] {
        let text = read(place);
        for (mark, expected) in [
            ("runAsUser:", uid),
            ("runAsGroup:", gid),
            ("fsGroup:", gid),
            ("runAsNonRoot:", "true"),
            ("allowPrivilegeEscalation:", "false"),
            ("readOnlyRootFilesystem:", "true"),
            ("automountServiceAccountToken:", "false"),
            ("seccompProfile: { type:", "RuntimeDefault"),
            ("capabilities: { drop:", "ALL"),
            // Root's, and its group may read: a mode that the relay trusts in a password file.
            ("defaultMode:", "0440"),
        ] {
            assert_eq!(value(&text, mark), expected, "{place}: {mark}");
        }
    }
    let compose = read("compose.yaml");
    for service in ["\n  setup:\n", "\n  walpost:\n"] {
        let text = compose.split_once(service).unwrap().1.split("\n\n").next().unwrap();
        for part in ["read_only: true", "cap_drop: [ALL]", "no-new-privileges:true"] {
            assert!(text.contains(part), "{service}: {part}");
        }
    }
}

/// 1 is for a person, and a new process would go past what the old one stopped at; 2 ends alike at every try.
#[test]
fn systemd_starts_again_what_a_new_process_mends() {
    let unit = read(UNIT);
    assert_eq!(value(&unit, "Restart="), "always");
    assert!(unit.contains("\nRestartPreventExitStatus=1 2\n"));
}

#[test]
fn the_image_is_built_with_all_that_the_sources_include() {
    let let_in: BTreeSet<String> = values(&read(".dockerignore"), "!").into_iter().collect();
    for place in files("src").iter().filter(|place| place.ends_with(".rs")) {
        let text = read(place);
        for mark in ["include_str!(\"", "include_bytes!(\"", "include_dir!(\""] {
            for path in text.split(mark).skip(1).map(|behind| behind.split('"').next().unwrap()) {
                let folder = Path::new(place).parent().unwrap();
                let from = path
                    .strip_prefix("$CARGO_MANIFEST_DIR/")
                    .map_or_else(|| folder.join(path), PathBuf::from);
                let top = from.components().fold(PathBuf::new(), |mut at, part| {
                    if part.as_os_str() == ".." {
                        at.pop();
                    } else {
                        at.push(part);
                    }
                    at
                });
                let top = top.iter().next().unwrap().to_str().unwrap().to_owned();
                assert!(let_in.contains(&top), "{place} includes {path}, which .dockerignore keeps out");
            }
        }
    }
}

#[test]
fn versions_agree() {
    let toolchain = value(&read("rust-toolchain.toml"), "channel =");
    assert!(read("Dockerfile").contains(&format!("FROM rust:{toolchain}-")), "the toolchain is {toolchain}");
    let kafka = value(&read("scripts/install"), "KAFKA_VERSION=");
    assert_eq!(value(&read("compose.yaml"), "image: apache/kafka:"), kafka);
    for folder in ["example", "setup"] {
        let text = read(&format!("deploy/kubernetes/{folder}/kustomization.yaml"));
        assert_eq!(value(&text, "newTag:"), env!("CARGO_PKG_VERSION"), "{folder}");
    }
}

/// A tag can be moved to other code; a commit can't.
#[test]
fn actions_are_pinned_by_commit() {
    for place in files(".github/workflows") {
        for action in values(&read(&place), "uses:").iter().filter(|action| !action.starts_with("./")) {
            let commit = action.split_once('@').unwrap().1;
            assert!(
                commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{place}: {action}"
            );
        }
    }
}

/// Links are looked at in tests/docs.rs.
#[test]
fn the_pages_name_files_that_are_there() {
    for place in ["README.md", "docs/deploy.md"] {
        let page = read(place);
        for word in words(&page, "deploy/", &['/', '.', '-', '_']) {
            assert!(root().join(word.trim_end_matches(['.', '/'])).exists(), "{place}: {word}");
        }
    }
}
