//! A throw-away PostgreSQL: a cluster in a temporary folder, gone with the process.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::OutboxError;

const INSTALL: &str = "install a PostgreSQL server (Debian, Ubuntu: apt-get install postgresql), or put its \
                       bin folder on the PATH";

/// A running server. Dropping it stops the server and removes its files; should this process be killed,
/// the server notices and goes too.
pub(super) struct Server {
    folder: TempDir,
    /// A shell that holds the server, and stops it when its standard input closes.
    keeper: Child,
}

impl Server {
    /// Makes a cluster and starts it.
    pub(super) fn start() -> Result<Server, OutboxError> {
        let bin = find_binaries()?;
        let folder = tempfile::Builder::new().prefix("walpost-demo-").tempdir().map_err(no_folder)?;
        let owner = Owner::of_this_process()?;
        owner.give(folder.path()).map_err(no_folder)?;
        let keeper = launch(&bin, folder.path(), &owner)?;
        let mut server = Server { folder, keeper };
        server.wait_until_ready(&bin, &owner)?;
        Ok(server)
    }

    /// Connection settings of the server's superuser.
    pub(super) fn url(&self) -> String {
        format!("host='{}' user=postgres dbname=postgres", self.folder.path().display())
    }

    /// How a person can look into it meanwhile.
    pub(super) fn description(&self) -> String {
        format!("psql -h {} -U postgres", self.folder.path().display())
    }

    fn wait_until_ready(&mut self, bin: &Path, owner: &Owner) -> Result<(), OutboxError> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            let mut ask = owner.command(bin.join("pg_isready"));
            let ready = ask.arg("-q").arg("-h").arg(self.folder.path()).status();
            if ready.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            if self.keeper.try_wait().ok().flatten().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it left no log").to_owned();
        Err(OutboxError::definite(format!("PostgreSQL did not start: {last}"), INSTALL))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // The folder must outlive the server, so its end is waited for.
        let _ = self.keeper.wait();
    }
}

/// Who the server runs as: PostgreSQL refuses to run as root.
struct Owner {
    ids: Option<(u32, u32)>,
}

impl Owner {
    fn of_this_process() -> Result<Owner, OutboxError> {
        let is_root = id(&["-u"]).as_deref() == Some("0");
        if !is_root {
            return Ok(Owner { ids: None });
        }
        let number = |args: &[&str]| id(args).and_then(|text| text.parse().ok());
        // The account of the installed server, or the one that owns nothing.
        let ids =
            ["postgres", "nobody"].iter().find_map(|user| number(&["-u", user]).zip(number(&["-g", user])));
        match ids {
            Some(ids) => Ok(Owner { ids: Some(ids) }),
            None => {
                Err(OutboxError::definite("root may not run PostgreSQL", "run the demo as an ordinary user"))
            }
        }
    }

    fn give(&self, folder: &Path) -> std::io::Result<()> {
        if let Some((user, group)) = self.ids {
            chown(folder, Some(user), Some(group))?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        // Ctrl-C reaches the whole group of the terminal; what is ours shall go when we say so.
        command.process_group(0);
        // A folder that the other user may not enter would be a warning in every tool's output.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

fn id(args: &[&str]) -> Option<String> {
    let output = Command::new("id").args(args).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The folder of `initdb` and `postgres`: on the PATH, or where Debian and its kin put them, the newest.
fn find_binaries() -> Result<PathBuf, OutboxError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<_> = versions.map(|entry| entry.path().join("bin")).collect();
    installed.sort_by_key(|bin| bin.parent().and_then(|v| v.file_name()?.to_str()?.parse::<u32>().ok()));
    let whole =
        |bin: &PathBuf| ["initdb", "postgres", "pg_isready"].iter().all(|tool| bin.join(tool).is_file());
    let found = std::env::split_paths(&path).chain(installed.into_iter().rev()).find(whole);
    found.ok_or_else(|| OutboxError::definite("the demo found no PostgreSQL server on this machine", INSTALL))
}

fn launch(bin: &Path, folder: &Path, owner: &Owner) -> Result<Child, OutboxError> {
    // The shell reads until this process closes the pipe, in whatever way it ends, and leaves nothing. TERM ends
    // a server that is only being born and would not hear INT yet; INT does not wait for sessions.
    let script = "folder=$1; initdb=$2; shift 2; exec 2>\"$folder/server.log\"; \
                  \"$initdb\" -D \"$folder/data\" -U postgres -A trust -E UTF8 --locale=C --no-sync >&2 \
                  </dev/null || exit 1; \"$@\" </dev/null >&2 & server=$!; \
                  read -r _; kill -TERM $server; sleep 0.1; kill -INT $server; wait $server; rm -rf \"$folder\"";
    let mut shell = owner.command("sh");
    shell.args(["-c", script, "sh"]).arg(folder).arg(bin.join("initdb")).arg(bin.join("postgres"));
    shell.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    for setting in [
        // Reached through the folder alone, which nobody else may enter: there is no password.
        "listen_addresses=",
        "wal_level=logical",
        // Nothing of this outlives the demo.
        "fsync=off",
        "max_wal_size=256MB",
        "shared_buffers=32MB",
    ] {
        shell.args(["-c", setting]);
    }
    shell
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| OutboxError::connection("cannot start PostgreSQL", error))
}

fn no_folder(error: std::io::Error) -> OutboxError {
    OutboxError::connection("cannot make a temporary folder for the demo", error)
}
