//! Where a server runs: named in the environment, in a container, or as a process of this machine.

use super::container::Container;
use super::guard::Process;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// What a test does to a server without caring where it runs.
pub(crate) enum Host {
    /// Somebody else's; the name of the variable that named it. It cannot be stopped.
    Named(&'static str),
    Container(Container),
    Local(Local),
}

impl Host {
    pub(crate) fn launch(&self) {
        match self {
            Host::Named(variable) => panic!("the server in {variable} is not ours to start"),
            Host::Container(container) => container.launch(),
            Host::Local(local) => local.launch(),
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        match self {
            Host::Named(variable) => panic!("the server in {variable} is not ours to signal"),
            Host::Container(container) => container.signal(name),
            Host::Local(local) => {
                local.process.lock().unwrap().as_ref().expect("it is running").signal(name);
            }
        }
    }

    /// Sends the signal and waits until the server is gone.
    pub(crate) async fn stop(&self, signal: &str, timeout: Duration) {
        self.signal(signal);
        self.await_end(signal, timeout).await;
    }

    async fn await_end(&self, signal: &str, timeout: Duration) {
        match self {
            Host::Named(_) => {}
            Host::Container(container) => {
                super::eventually("the container to stop", timeout, async || {
                    (!container.running()).then_some(())
                })
                .await
            }
            Host::Local(local) => {
                let mut process = local.process.lock().unwrap().take().expect("it is running");
                let gone = process.wait(timeout).await;
                assert!(gone.is_some(), "not gone {timeout:?} after {signal}\n{}", self.log());
            }
        }
    }

    pub(crate) fn running(&self) -> bool {
        match self {
            Host::Named(_) => true,
            Host::Container(container) => container.running(),
            Host::Local(local) => {
                local.process.lock().unwrap().as_mut().is_some_and(|it| it.exited().is_none())
            }
        }
    }

    /// The server's first process, where it is one of this machine.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Host::Named(_) | Host::Container(_) => None,
            Host::Local(local) => local.process.lock().unwrap().as_ref().map(Process::id),
        }
    }

    /// Keeps the whole log where a failing test's folder is not swept away.
    pub(crate) fn keep_log(&self, to: &Path) {
        let kept = match self {
            Host::Named(_) => return,
            Host::Container(container) => std::fs::write(to, container.log()).map(drop),
            Host::Local(local) => std::fs::copy(&local.log, to).map(drop),
        };
        if let Err(error) = kept {
            eprintln!("{}: {error}", to.display());
        }
    }

    /// `kill -9` of the server with every process that it has started, at once.
    pub(crate) async fn kill_family(&self, timeout: Duration) {
        if let Host::Local(local) = self {
            let parent = local.process.lock().unwrap().as_ref().expect("it is running").id();
            // The parent first, or it would see a child die and begin a recovery of its own.
            let family: Vec<u32> = std::iter::once(parent).chain(children(parent)).collect();
            let pids = family.iter().map(u32::to_string);
            // One that has just ended by itself is no fault.
            Command::new("kill").args(["-s", "KILL"]).args(pids).stderr(Stdio::null()).status().unwrap();
        } else {
            // With the first process of a container the kernel ends all of them.
            self.signal("KILL");
        }
        self.await_end("KILL", timeout).await;
    }

    /// The end of the server's log, for the message of a failure.
    pub(crate) fn log(&self) -> String {
        let all = match self {
            Host::Named(variable) => format!("(the log of {variable} is elsewhere)"),
            Host::Container(container) => container.log(),
            Host::Local(local) => std::fs::read_to_string(&local.log).unwrap_or_default(),
        };
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// The processes that `parent` has started, by the table of Linux; empty elsewhere.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may hold anything: state, then the parent.
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after.split_whitespace().nth(1).and_then(|it| it.parse().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}

/// A server as a child process, with everything needed to start it again as it was.
pub(crate) struct Local {
    command: Box<dyn Fn() -> Command + Send + Sync>,
    last_signal: &'static str,
    log: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Local {
    pub(crate) fn new(
        log: PathBuf,
        last_signal: &'static str,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Local {
        Local { command: Box::new(command), last_signal, log, process: Mutex::new(None) }
    }

    fn launch(&self) {
        let log =
            OpenOptions::new().create(true).append(true).open(&self.log).expect("the log can be written");
        let mut command = (self.command)();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = Process::spawn(&mut command, self.last_signal);
        *self.process.lock().unwrap() = Some(process);
    }
}

/// Whether a Docker engine answers. `WALPOST_TEST_LOCAL=1` prefers local processes all the same.
pub(crate) fn docker() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let wanted = std::env::var_os("WALPOST_TEST_LOCAL").is_none_or(|it| it.is_empty());
        let asked = Command::new("docker").arg("info").stdout(Stdio::null()).stderr(Stdio::null()).status();
        wanted && asked.is_ok_and(|status| status.success())
    })
}

/// The folder in which `scripts/install` keeps `what`; the script alone knows where.
pub(crate) fn cached(what: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install");
    let output = Command::new(script).args(["where", what]).output().expect("scripts/install runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
