//! docs/configuration.md and docs/commands.md, from the definition that also makes `--help`: what is written there is
//! what the binary takes. `WALPOST_WRITE_DOCS=1 cargo test --lib reference` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use super::arguments::Arguments;
use crate::config::layers;

const MADE: &str =
    "<!-- Made from the command line's definition: `make docs` writes it, and the tests compare. -->";

const CONFIGURATION: &str = "\
Every setting has three forms: a flag goes over an environment variable, that over a line of `walpost.toml` (in the working \
directory, or named by `--config` or `WALPOST_CONFIG`), that over the default. A name that is not known is an error, \
never passed over. This is the same text as `walpost run --help`.

The database is found as with `psql`: what the URL does not say comes from `PGHOST`, `PGPORT`, `PGUSER` and the other \
variables, then from `~/.pgpass`.
";

const COMMANDS: &str = "\
Exit codes of all commands: 0 done, or stopped cleanly; 1 failed, with advice on stderr; 2 wrong usage or settings. Settings \
that several commands take are in [configuration.md](configuration.md); here is what each command has of its own.
";

/// The settings of `walpost run`, and those of the log, by heading.
fn configuration() -> String {
    let mut root = built();
    let run = root.find_subcommand_mut("run").unwrap();
    let mut page = format!("# Configuration\n\n{MADE}\n\n{CONFIGURATION}");
    let mut headings: Vec<String> = Vec::new();
    for argument in run.get_arguments().filter(|argument| is_setting(argument)) {
        let heading = heading(argument);
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading_now in headings {
        writeln!(page, "\n## {heading_now}").unwrap();
        let of_heading = |argument: &&Arg| is_setting(argument) && heading(argument) == heading_now;
        for argument in run.get_arguments().filter(of_heading) {
            page.push_str(&entry(argument));
        }
    }
    page
}

/// What each command does, and the arguments that are no settings.
fn commands() -> String {
    let mut page = format!("# Commands\n\n{MADE}\n\n{COMMANDS}");
    describe(&built(), "walpost", &mut page);
    page
}

fn describe(parent: &Command, path: &str, page: &mut String) {
    for command in parent.get_subcommands().filter(|command| command.get_name() != "help") {
        let path = format!("{path} {}", command.get_name());
        writeln!(page, "\n## `{path}`\n").unwrap();
        let about =
            command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        writeln!(page, "{}", paragraphs(&about)).unwrap();
        for argument in
            command.get_arguments().filter(|argument| !is_setting(argument) && !is_general(argument))
        {
            page.push_str(&entry(argument));
        }
        describe(command, &path, page);
    }
}

fn built() -> Command {
    let mut root = Arguments::command();
    root.build();
    root
}

fn heading(argument: &Arg) -> String {
    let heading = argument.get_help_heading().unwrap_or("Other");
    heading.split(':').next().unwrap().to_owned()
}

/// Whether it can be written in the file or the environment, as its help says.
fn is_setting(argument: &Arg) -> bool {
    help(argument).contains("[env: ")
}

fn is_general(argument: &Arg) -> bool {
    matches!(argument.get_id().as_str(), "help" | "version")
}

fn help(argument: &Arg) -> String {
    argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default()
}

/// One flag: its name, its forms, what it does.
fn entry(argument: &Arg) -> String {
    let help = help(argument);
    let (mut forms, mut told) = (Vec::new(), Vec::new());
    for paragraph in help.split("\n\n") {
        match paragraph.starts_with("[env: ") {
            true => forms.extend(paragraph.trim_matches(['[', ']']).split("] [").map(str::to_owned)),
            false => told.push(paragraph.to_owned()),
        }
    }
    let forms: Vec<String> = forms.iter().filter_map(|form| form.split_once(": ")).map(form).collect();
    let mut entry = format!("\n### `{}`\n\n", name(argument));
    if !forms.is_empty() {
        writeln!(entry, "{}\n", forms.join(" · ")).unwrap();
    }
    writeln!(entry, "{}", paragraphs(&told.join("\n\n"))).unwrap();
    entry
}

fn form((source, name): (&str, &str)) -> String {
    let source = if source == "env" { "environment" } else { source };
    format!("{source} `{name}`")
}

fn name(argument: &Arg) -> String {
    let flag = match (argument.get_long(), argument.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => String::new(),
    };
    let takes = argument.get_action().takes_values();
    let values = argument.get_value_names().filter(|_| takes).unwrap_or_default();
    let values: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
    format!("{flag} {}", values.join(" ")).trim().to_owned()
}

/// Angle brackets and stars of plain text would be markup.
fn paragraphs(text: &str) -> String {
    let first_stop = text.find("\n\n").unwrap_or(text.len());
    let (first, rest) = text.split_at(first_stop);
    let stop = if first.ends_with(['.', ':']) { "" } else { "." };
    format!("{first}{stop}{rest}").replace('<', "\\<").replace('*', "\\*")
}

fn compare(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("WALPOST_WRITE_DOCS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "docs/{name} is not what the command line says: run `make docs`");
}

#[test]
fn the_pages_say_what_the_command_line_takes() {
    compare("configuration.md", &configuration());
    compare("commands.md", &commands());
}

#[test]
fn each_setting_is_on_the_page() {
    let page = configuration();
    let missing: BTreeSet<&str> = layers::SETTINGS
        .iter()
        .filter(|setting| !page.contains(&format!("`{}`", setting.key)))
        .map(|s| s.key)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
