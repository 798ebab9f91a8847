//! PostgreSQL as a process of this machine, in a folder of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::chosen;
use super::guard::Scratch;
use super::host::{Local, cached};
use super::room::Room;

/// The folder with `initdb` and `postgres`: of the version that was chosen, else what `pg_config` names, else the newest
/// that Debian's packages hold.
pub(crate) fn binaries() -> Result<PathBuf, String> {
    if let Some(version) = chosen::postgres() {
        return Ok(cached(&format!("postgres-{version}")));
    }
    let named = Command::new("pg_config").arg("--bindir").output().ok();
    let named = named.map(|it| PathBuf::from(String::from_utf8_lossy(&it.stdout).trim()));
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    packaged.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let mut candidates = named.into_iter().chain(packaged.into_iter().map(|(_, bin)| bin));
    candidates.find(|bin| bin.join("initdb").exists()).ok_or_else(|| {
        "no PostgreSQL server here: `make test` installs one, or name one in WALPOST_TEST_DATABASE_URL".into()
    })
}

/// Makes a cluster in `folder` and returns the process that will serve it.
pub(crate) fn prepare(bin: &Path, folder: &Scratch, port: u16, settings: &[String]) -> Result<Local, String> {
    make(bin, folder, port, settings, Runner { owner: owner(folder.path())?, room: None })
}

/// The same on a disk of so many megabytes; gives the room in which it is mounted.
pub(crate) async fn prepare_on_disk(
    bin: &Path,
    folder: &Scratch,
    port: u16,
    settings: &[String],
    megabytes: u32,
) -> Result<(Local, Arc<Room>), String> {
    let owner = owner(folder.path())?;
    let data = folder.path().join("data");
    fs::create_dir(&data).map_err(|error| error.to_string())?;
    let ids = owner.map(|(uid, gid)| format!(",uid={uid},gid={gid}")).unwrap_or_default();
    let mount = format!("mount -t tmpfs -o size={megabytes}m,mode=0700{ids} tmpfs '{}'", data.display());
    let room = Arc::new(Room::new(&mount).await);
    let runner = Runner { owner, room: Some(Arc::clone(&room)) };
    Ok((make(bin, folder, port, settings, runner)?, room))
}

fn make(
    bin: &Path,
    folder: &Scratch,
    port: u16,
    settings: &[String],
    runner: Runner,
) -> Result<Local, String> {
    // Others may use the socket and read the log; the cluster itself is closed to them by initdb.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    let data = folder.path().join("data");
    let mut initdb = runner.command(&bin.join("initdb"));
    initdb.args([
        "--no-sync",
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
        "--pgdata",
    ]);
    let output = initdb.arg(&data).output().map_err(|error| format!("initdb: {error}"))?;
    if !output.status.success() {
        return Err(format!("initdb: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(process(bin, folder, runner, port, settings))
}

/// Makes a standby in `folder` out of the files of a running server, between its `pg_backup_start` and `_stop`.
pub(crate) fn copy(primary: &Path, folder: &Scratch) -> Result<(), String> {
    owner(folder.path())?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    let data = folder.path().join("data");
    // Files that vanish while they are copied make cp complain; what matters is in the log.
    Command::new("cp").arg("-a").arg(primary.join("data")).arg(&data).output().map_err(|e| e.to_string())?;
    for own in ["postmaster.pid", "postmaster.opts"] {
        fs::remove_file(data.join(own)).map_err(|error| format!("{own}: {error}"))?;
    }
    for slot in fs::read_dir(data.join("pg_replslot")).map_err(|e| e.to_string())?.flatten() {
        fs::remove_dir_all(slot.path()).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// What turns the copy into a standby that can start.
pub(crate) fn label(folder: &Scratch, label: &str) -> Result<(), String> {
    let data = folder.path().join("data");
    fs::write(data.join("backup_label"), label).map_err(|e| e.to_string())?;
    fs::write(data.join("standby.signal"), "").map_err(|e| e.to_string())
}

/// The process that serves the copy.
pub(crate) fn standby(bin: &Path, folder: &Scratch, port: u16, settings: &[String]) -> Result<Local, String> {
    // Handed over when it was filled.
    let folder_of = fs::metadata(folder.path()).map_err(|e| e.to_string())?;
    let own = fs::metadata("/proc/self").map_err(|e| e.to_string())?.uid();
    let owner = (folder_of.uid() != own).then(|| (folder_of.uid(), folder_of.gid()));
    if let Some((uid, gid)) = owner {
        for file in ["backup_label", "standby.signal"] {
            chown(folder.path().join("data").join(file), Some(uid), Some(gid)).map_err(|e| e.to_string())?;
        }
    }
    Ok(process(bin, folder, Runner { owner, room: None }, port, settings))
}

fn process(bin: &Path, folder: &Scratch, runner: Runner, port: u16, settings: &[String]) -> Local {
    let (program, socket, settings) = (bin.join("postgres"), folder.path().to_owned(), settings.to_vec());
    let data = folder.path().join("data");
    Local::new(folder.path().join("server.log"), "QUIT", move || {
        let mut command = runner.command(&program);
        command.arg("-D").arg(&data).arg("-p").arg(port.to_string());
        command.arg("-c").arg(format!("unix_socket_directories={}", socket.display()));
        command.args(["-c", "listen_addresses=127.0.0.1"]);
        for setting in &settings {
            command.arg("-c").arg(setting);
        }
        command
    })
}

/// PostgreSQL refuses to run as root, so root hands the folder to another user.
fn owner(folder: &Path) -> Result<Option<(u32, u32)>, String> {
    // A folder that was just made belongs to whoever we are.
    if fs::metadata(folder).map_err(|e| e.to_string())?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(|e| format!("/etc/passwd: {e}"))?;
    let ids = |name: &str| {
        let mut fields = users
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.skip(1)))?;
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let (uid, gid) = ids("postgres").or_else(|| ids("nobody")).ok_or("no user to run PostgreSQL as")?;
    chown(folder, Some(uid), Some(gid)).map_err(|e| format!("chown to {uid}: {e}"))?;
    Ok(Some((uid, gid)))
}

/// As whom, and where.
struct Runner {
    owner: Option<(u32, u32)>,
    room: Option<Arc<Room>>,
}

impl Runner {
    fn command(&self, program: &Path) -> Command {
        let mut command = match (&self.room, self.owner) {
            (Some(room), owner) => {
                let mut command = room.command_of_a_user(owner);
                command.arg(program);
                command
            }
            (None, Some((uid, gid))) => {
                let mut command = Command::new(program);
                command.uid(uid).gid(gid);
                command
            }
            (None, None) => Command::new(program),
        };
        // The tester's own PG* settings and working directory are nothing to this server.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.current_dir("/").env("LC_ALL", "C");
        command
    }
}
