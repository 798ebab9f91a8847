//! A room of its own for some processes: mounts that nobody outside sees. Root may make one anywhere but in a
//! container that forbids it; anybody else may where the kernel lends unprivileged users a namespace of users.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::guard::Process;
use super::{PATIENCE, eventually};

const NEEDS: &str = "this test mounts something that only its own processes see. It needs `unshare`, `nsenter` and \
    `setpriv` of util-linux, and root with CAP_SYS_ADMIN (a container needs --privileged), or as an ordinary user a kernel \
    that lends namespaces: sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 and \
    kernel.apparmor_restrict_unprivileged_userns=0 where they exist";

pub(crate) struct Room {
    /// Sleeps in it, so that it lasts.
    keeper: Process,
    root: bool,
}

impl Room {
    /// Makes it and runs a shell command there that mounts something.
    pub(crate) async fn new(mounts: &str) -> Room {
        let root = is_root();
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let mut command = Command::new("unshare");
        command.arg(if root { "-m" } else { "-Urm" });
        command.args(["sh", "-c", &format!("set -e; {mounts}; echo done >&2; exec sleep infinity")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let mut keeper = Process::spawn(&mut command, "KILL");
        let text = || std::fs::read_to_string(&said).unwrap();
        eventually("a room", PATIENCE, async || {
            assert!(keeper.exited().is_none(), "{}\n{NEEDS}", text());
            text().ends_with("done\n").then_some(())
        })
        .await;
        Room { keeper, root }
    }

    /// A command that will run there as the tester.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        if !self.root {
            command.args(["-U", "--preserve-credentials"]);
        }
        // Where it was called, not at the root of the room.
        command.args(["-m", "--wd=.", "-t", &self.keeper.id().to_string()]).arg("--").arg(program);
        command
    }

    /// The same for a program that refuses to run as root, as which everybody but root appears there.
    pub(crate) fn command_of_a_user(&self, owner: Option<(u32, u32)>) -> Command {
        match owner {
            Some((uid, gid)) => {
                let mut command = self.command("setpriv");
                command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "--"]);
                command
            }
            None => {
                let mut command = self.command("unshare");
                command.args(["-U", "--map-user=1000", "--map-group=1000", "--"]);
                command
            }
        }
    }

    /// What lies there at `path`, as seen from outside.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.keeper.id(), path.display()))
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A command that runs the program as process 1 of a namespace, and ends as that ends.
pub(crate) fn first_process(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.arg(if is_root() { "-mp" } else { "-Urmp" });
    command.args(["--fork", "--kill-child", "--mount-proc", "--"]).arg(program);
    command
}

/// The only child of a process.
pub(crate) async fn child_of(id: u32) -> u32 {
    eventually("a child", PATIENCE, async || {
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().next().map(|child| child.parse().unwrap())
    })
    .await
}

pub(crate) fn signal(id: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &id.to_string()]).status().expect("kill runs");
    assert!(sent.success(), "process {id} took no {name}");
}
