//! The binary as a child process.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::PATIENCE;
use super::guard::Process;
use super::room::{self, Room};

const BINARY: &str = env!("CARGO_BIN_EXE_walpost");
/// How long what a process has said may take to be read behind its end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What is typed and set before the binary runs.
pub(crate) struct Builder {
    command: Command,
    /// An empty place, where no walpost.toml of the tester's is found.
    folder: TempDir,
}

impl Builder {
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Builder {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Builder {
        self.command.env(name, value);
        self
    }

    /// Puts a file beside the process, for instance a walpost.toml.
    pub(crate) fn file(self, name: &str, text: &str) -> Builder {
        std::fs::write(self.folder.path().join(name), text).unwrap();
        self
    }

    /// Where it sees the room's mounts.
    pub(crate) fn inside(self, room: &Room) -> Builder {
        self.by(room.command(BINARY))
    }

    /// As the first process of a namespace, which is what it is in a container.
    pub(crate) fn first_in_a_container(self) -> Builder {
        self.by(room::first_process(BINARY))
    }

    /// Another command that starts it, with the same arguments and variables.
    fn by(mut self, mut command: Command) -> Builder {
        command.args(self.command.get_args()).current_dir(self.folder.path());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.command = command;
        self
    }

    /// Starts it and returns at once; `wait_for_log` tells when it is where the test wants it.
    pub(crate) fn spawn(self) -> Walpost {
        self.spawn_saying(Stdio::piped())
    }

    /// The same where its log goes to another place than into this process.
    pub(crate) fn spawn_saying(mut self, log: impl Into<Stdio>) -> Walpost {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut process = Process::spawn(&mut self.command, "KILL");
        let (child, lines) = (process.child(), Arc::new(Mutex::new(Vec::new())));
        let (grown, changes) = watch::channel(());
        let grown = Arc::new(grown);
        let mut readers = vec![collect(child.stdout.take().unwrap(), "stdout", lines.clone(), grown.clone())];
        readers.extend(child.stderr.take().map(|it| collect(it, "stderr", lines.clone(), grown)));
        Walpost { process, lines, changes, readers, _folder: self.folder }
    }

    /// Starts a relay and waits until it is on its way.
    pub(crate) async fn streaming(self) -> Walpost {
        let relay = self.spawn();
        relay.wait_for_log("streaming", PATIENCE).await;
        relay
    }

    /// Runs a one-shot command to its end.
    pub(crate) async fn output(self) -> Output {
        let mut walpost = self.spawn();
        let status = walpost.wait(PATIENCE).await;
        walpost.finish_reading();
        let [stdout, stderr] = ["stdout", "stderr"].map(|stream| walpost.text(stream).into_bytes());
        Output { status, stdout, stderr }
    }
}

/// All that a one-shot command has said.
pub(crate) fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The names of the tester's own settings, of which the binary shall hear nothing.
pub(crate) fn testers_own() -> impl Iterator<Item = OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("WALPOST_") || name.starts_with("PG") || name == "RUST_LOG"
    })
}

/// A running binary; killed when dropped, and its log printed if the test is failing.
pub(crate) struct Walpost {
    process: Process,
    /// Stream and line, as they came.
    lines: Arc<Mutex<Vec<(&'static str, String)>>>,
    changes: watch::Receiver<()>,
    readers: Vec<thread::JoinHandle<()>>,
    _folder: TempDir,
}

impl Walpost {
    /// With these arguments and none of the tester's own settings.
    pub(crate) fn with(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Builder {
        Self::of(BINARY, args)
    }

    /// The same of a binary that cargo did not build for this test.
    pub(crate) fn of(
        binary: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Builder {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary);
        command.args(args).current_dir(folder.path()).env("NO_COLOR", "1");
        for name in testers_own() {
            command.env_remove(name);
        }
        Builder { command, folder }
    }

    /// Runs a one-shot command to its end.
    pub(crate) async fn run_to_end(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        Self::with(args).output().await
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Everything on stderr so far.
    pub(crate) fn log(&self) -> String {
        self.text("stderr")
    }

    /// How many log lines there are: a mark for `wait_for_log_since`.
    pub(crate) fn mark(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    /// Waits for a line that contains `text`, now or in the past, and returns it.
    pub(crate) async fn wait_for_log(&self, text: &str, limit: Duration) -> String {
        self.wait_for_log_since(0, text, limit).await
    }

    pub(crate) async fn wait_for_log_since(&self, mark: usize, text: &str, limit: Duration) -> String {
        let (mut changes, mut next) = (self.changes.clone(), mark);
        let found = async {
            loop {
                changes.borrow_and_update();
                let line = self.find(&mut next, text);
                // An error means that both streams have ended.
                if line.is_some() || changes.changed().await.is_err() {
                    return line.or_else(|| self.find(&mut next, text));
                }
            }
        };
        match timeout(limit, found).await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("it ended without saying {text:?}"),
            Err(_) => panic!("it did not say {text:?} within {limit:?}"),
        }
    }

    /// Where it answers HTTP, as it says in its log; for `--listen 127.0.0.1:0`.
    pub(crate) async fn listen_address(&self) -> SocketAddr {
        let line = self.wait_for_log("listening", PATIENCE).await;
        let words = line.split(|letter: char| !(letter.is_ascii_digit() || ".:[]".contains(letter)));
        let mut addresses = words.filter_map(|word| word.trim_matches(['.', ':']).parse().ok());
        addresses.next().unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    pub(crate) fn terminate(&self) {
        self.process.signal("TERM");
    }

    pub(crate) fn interrupt(&self) {
        self.process.signal("INT");
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> ExitStatus {
        self.process.signal("KILL");
        self.wait(PATIENCE).await
    }

    /// Freezes the process, as a long pause of its machine would.
    pub(crate) fn stop(&self) {
        self.process.signal("STOP");
    }

    pub(crate) fn cont(&self) {
        self.process.signal("CONT");
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.process.exited()
    }

    pub(crate) async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let Some(status) = self.process.wait(limit).await else {
            panic!("it is still running after {limit:?}");
        };
        // Its last words may still be on their way, unless a child of its own has kept the pipe.
        let mut changes = self.changes.clone();
        let _ = timeout(LAST_WORDS, async { while changes.changed().await.is_ok() {} }).await;
        status
    }

    /// Looks at each line once: a log of everything would otherwise be read more slowly than it is written, and hold up who
    /// writes it.
    fn find(&self, next: &mut usize, text: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap();
        let found = lines.iter().skip(*next).map(|(_, line)| line).find(|line| line.contains(text)).cloned();
        *next = lines.len().max(*next);
        found
    }

    fn text(&self, stream: &str) -> String {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|(from, _)| *from == stream).map(|(_, line)| format!("{line}\n")).collect()
    }

    fn finish_reading(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }
}

impl Drop for Walpost {
    fn drop(&mut self) {
        if thread::panicking() {
            for (stream, line) in self.lines.lock().unwrap().iter() {
                eprintln!("walpost {} {stream}: {line}", self.process.id());
            }
        }
    }
}

/// A thread of its own, because the pipe must be emptied whatever the test's runtime is doing.
fn collect(
    pipe: impl Read + Send + 'static,
    stream: &'static str,
    lines: Arc<Mutex<Vec<(&'static str, String)>>>,
    grown: Arc<watch::Sender<()>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { return };
            lines.lock().unwrap().push((stream, String::from_utf8_lossy(&line).into_owned()));
            grown.send_replace(());
        }
    })
}
