//! Nothing that a test starts outlives the test process, however that process ends.
//!
//! A destructor does not run for a static, nor after `kill -9`. What always happens is that the kernel closes
//! the dead process's pipes; so a small shell waits at the end of one and cleans up when it closes.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Runs the shell command that was last `set` when it is dropped, or when this process dies.
pub(crate) struct AtDeath {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl AtDeath {
    pub(crate) fn new() -> AtDeath {
        let mut shell = Command::new("sh")
            .args(["-c", r#"last=:; while IFS= read -r line; do last=$line; done; eval "$last""#])
            .stdin(Stdio::piped())
            // Holding the runner's own output would keep `cargo test | tee` waiting.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal goes to the whole group; this one still has work to do.
            .process_group(0)
            .spawn()
            .expect("sh runs");
        let pipe = shell.stdin.take();
        AtDeath { shell, pipe }
    }

    pub(crate) fn set(&mut self, command: &str) {
        assert!(!command.contains('\n'), "one command, one line");
        let pipe = self.pipe.as_mut().expect("open until dropped");
        writeln!(pipe, "{command}").expect("the guard is reading");
    }
}

impl Drop for AtDeath {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // A failure here has nobody left to tell.
        let _ = self.shell.wait();
    }
}

/// A child process that is killed with its owner.
pub(crate) struct Process {
    child: Child,
    guard: AtDeath,
}

impl Process {
    /// `last_signal` is what it gets when its owner is gone: Postgres needs QUIT, since KILL would orphan its backends.
    pub(crate) fn spawn(command: &mut Command, last_signal: &str) -> Process {
        let mut guard = AtDeath::new();
        let child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", command.get_program().display()));
        let pid = child.id();
        // CONT, because a stopped process only hears KILL; and KILL in the end, because a sick one may hear nothing else.
        guard.set(&format!(
            "kill -s {last_signal} {pid}; kill -s CONT {pid}; i=0; \
             while kill -s 0 {pid} && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done; kill -s KILL {pid}"
        ));
        Process { child, guard }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(sent.success(), "process {pid} took no {name}");
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("our own child can be waited for");
        if status.is_some() {
            // Its number may soon be another process's.
            self.guard.set(":");
        }
        status
    }

    pub(crate) async fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.exited() {
                Some(status) => return Some(status),
                None if Instant::now() >= deadline => return None,
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            // Reaped on the side, else the guard would take the zombie for a process that still lives.
            drop(self.guard.pipe.take());
            let _ = self.child.wait();
        }
    }
}

/// A folder that goes with its owner.
pub(crate) struct Scratch {
    path: PathBuf,
    _guard: AtDeath,
}

impl Scratch {
    pub(crate) fn new(purpose: &str) -> Scratch {
        let mut guard = AtDeath::new();
        let prefix = format!("walpost-{purpose}-");
        let path = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary folder").keep();
        let quoted = path.display().to_string().replace('\'', r"'\''");
        // Again and again, because a server that is dying beside it may still add files.
        guard.set(&format!(
            "i=0; while [ -e '{quoted}' ] && [ $i -lt 100 ]; do rm -rf '{quoted}' || sleep 0.1; i=$((i+1)); done"
        ));
        Scratch { path, _guard: guard }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
