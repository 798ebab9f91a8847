//! From the sources of an example to something that runs. What is built and fetched stays under `target/`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::folder;
use crate::support::guard::Process;

/// A build on a busy machine whose caches are empty.
const PATIENCE: Duration = Duration::from_secs(900);

/// One at a time: beside them are tests that mind the time.
static BUILDING: Mutex<()> = Mutex::const_new(());

pub(crate) struct Program {
    pub(crate) binary: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The form of the database's URL that its driver takes.
    pub(crate) address: fn(&str) -> String,
}

impl Program {
    fn new<const N: usize>(binary: impl Into<PathBuf>, args: [OsString; N]) -> Program {
        Program { binary: binary.into(), args: args.into(), address: str::to_owned }
    }
}

/// cargo is here, or nobody would run this test.
pub(crate) async fn rust(name: &str, binary: &str) -> Option<Program> {
    // One folder for both, since they share crates.
    let target = place("rust");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = nice(cargo);
    command.args(["build", "--locked"]).current_dir(folder(name));
    command
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0");
    let _one = BUILDING.lock().await;
    build(name, &mut command).await;
    Some(Program::new(target.join("debug").join(binary), []))
}

pub(crate) async fn go(name: &str) -> Option<Program> {
    // Asked in the folder, where a newer Go than the installed one may be demanded.
    if !answers(Command::new("go").arg("version").current_dir(folder(name))) {
        return None;
    }
    let binary = place(name).join("orders");
    let _one = BUILDING.lock().await;
    build(name, nice("go").args(["build", "-o"]).arg(&binary).arg(".").current_dir(folder(name))).await;
    Some(Program::new(binary, []))
}

pub(crate) async fn typescript(name: &str) -> Option<Program> {
    let recent = "process.exit(Number(process.versions.node.split('.')[0]) >= 20 ? 0 : 1)";
    if !answers(Command::new("node").args(["-e", recent])) || !answers(Command::new("npm").arg("--version")) {
        return None;
    }
    let copy = built_copy(name, async |copy| {
        build(name, nice("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(copy)).await;
        build(name, nice("npm").args(["run", "build"]).current_dir(copy)).await;
    });
    Some(Program::new("node", [copy.await.join("dist/main.js").into()]))
}

pub(crate) async fn python(name: &str) -> Option<Program> {
    // Debian keeps what makes environments in a package of its own.
    let able = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))";
    if !answers(Command::new("python3").args(["-c", able])) {
        return None;
    }
    let copy = built_copy(name, async |copy| {
        build(name, nice("python3").args(["-m", "venv", ".venv"]).current_dir(copy)).await;
        let mut pip = nice(copy.join(".venv/bin/python"));
        build(name, pip.args(["-m", "pip", "install", "-r", "requirements.txt"]).current_dir(copy)).await;
    });
    let copy = copy.await;
    Some(Program::new(copy.join(".venv/bin/python"), [copy.join("main.py").into()]))
}

pub(crate) async fn java(name: &str) -> Option<Program> {
    let javac = answers(Command::new("javac").args(["--release", "17", "-version"]));
    if !javac || !answers(Command::new("mvn").arg("-version")) {
        return None;
    }
    let copy = built_copy(name, async |copy| {
        build(name, nice("mvn").args(["-B", "-ntp", "compile"]).current_dir(copy)).await;
    });
    let copy = copy.await;
    let path = format!("{0}/target/classes:{0}/target/lib/*", copy.display());
    let program = Program::new("java", ["-cp".into(), path.into(), "shop.Main".into()]);
    Some(Program { address: jdbc, ..program })
}

fn jdbc(url: &str) -> String {
    let config: Config = url.parse().unwrap();
    let [Host::Tcp(host)] = config.get_hosts() else { panic!("{url} is not one host") };
    let port = config.get_ports().first().unwrap_or(&5432);
    let database = config.get_dbname().unwrap();
    let user = config.get_user().unwrap();
    let password = String::from_utf8(config.get_password().unwrap_or_default().to_vec()).unwrap();
    format!("jdbc:postgresql://{host}:{port}/{database}?user={user}&password={password}")
}

/// Whether the tool is here and does what it is asked.
fn answers(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A command that leaves the processors to whoever minds the time.
fn nice(program: impl Into<OsString>) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(program.into());
    command
}

async fn build(name: &str, command: &mut Command) {
    let log = place("logs").join(name);
    let file = File::create(&log).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let status = Process::spawn(command, "TERM").wait(PATIENCE).await;
    let said = || fs::read_to_string(&log).unwrap_or_default();
    assert!(status.is_some_and(|status| status.success()), "{name}: {command:?}: {status:?}\n{}", said());
}

/// A folder that outlasts the test, so that the next run finds what was built and fetched.
fn place(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples").join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// A copy of the example for tools that build where the sources lie; made anew when the example has changed.
async fn built_copy(name: &str, build: impl AsyncFnOnce(&Path)) -> PathBuf {
    let _one = BUILDING.lock().await;
    let (copy, files) = (place(name), tracked(&folder(name)));
    let stamp = copy.join(".built");
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let hash = hasher.finish().to_string();
    if fs::read_to_string(&stamp).is_ok_and(|built| built == hash) {
        return copy;
    }
    fs::remove_dir_all(&copy).unwrap();
    for (path, text) in &files {
        let path = copy.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    build(&copy).await;
    fs::write(stamp, hash).unwrap();
    copy
}

/// Its files and their contents, without what somebody has built or installed among them.
pub(crate) fn tracked(folder: &Path) -> Vec<(PathBuf, String)> {
    let made = ["node_modules", "target", "dist", ".venv", "__pycache__", "bin/Debug", "obj", ".build"];
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(place) = open.pop() {
        for path in fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()) {
            if made.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push((path.strip_prefix(folder).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}
