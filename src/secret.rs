//! Where a secret comes from that is not written down: a file, or the output of a command. It is read again whenever it is
//! needed, so that one which was changed in the meantime is found without a restart.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::error::OutboxError;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the longest secret; tokens with many claims have a few thousand.
const LONGEST: u64 = 64 << 10;
/// Bytes of a command's complaints that are read, and how many of the last characters are passed on.
const COMPLAINTS: u64 = 4 << 10;
const TOLD: usize = 300;

/// A file or a command that gives a secret. What it gives is never shown, and neither is the command, which may have
/// another secret in it.
///
/// ```
/// use walpost::secret::SecretSource;
///
/// let source = SecretSource::Command("printf 'sesame\n'".into());
/// assert_eq!(source.read("the password").unwrap(), "sesame");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The text of this file.
    File(PathBuf),
    /// What this line prints when `sh` runs it.
    Command(String),
}

impl SecretSource {
    /// Reads the secret of that name, without the end of the line behind it. Blocks, ten seconds at most.
    ///
    /// # Errors
    /// A transient one that says why there is none, and never quotes what was read.
    pub fn read(&self, name: &str) -> Result<String, OutboxError> {
        let bytes = match self {
            SecretSource::File(path) => of_file(path).map_err(|why| self.lacks(name, &why))?,
            SecretSource::Command(line) => {
                of_command(line, PATIENCE).map_err(|why| self.lacks(name, &why))?
            }
        };
        plain(bytes).map_err(|why| self.lacks(name, why))
    }

    /// The same beside whatever else this thread has to do.
    ///
    /// # Errors
    /// The same.
    pub async fn fetch(&self, name: &'static str) -> Result<String, OutboxError> {
        let source = self.clone();
        tokio::task::spawn_blocking(move || source.read(name))
            .await
            .map_err(|error| OutboxError::connection(format!("reading {name} was abandoned"), error))?
    }

    fn lacks(&self, name: &str, why: &str) -> OutboxError {
        OutboxError::transient(format!("there is no {name} from {self}: {why}"))
            .with_advice("mend it and wait: it is read again for each connection, without a restart")
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::File(path) => write!(f, "the file {}", path.display()),
            SecretSource::Command(_) => f.write_str("its command"),
        }
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret as it is meant: editors and `echo` end a line, and no password ends with one.
fn plain(mut bytes: Vec<u8>) -> Result<String, &'static str> {
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    match text {
        text if text.is_empty() => Err("it is empty"),
        text if text.contains('\0') => Err("it holds a NUL character"),
        text if text.len() as u64 >= LONGEST => Err("it is longer than 64 KiB"),
        text => Ok(text),
    }
}

fn of_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 2).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| error.to_string())
}

/// What a command has printed, how it ended, and what it complained of.
type Ended = (io::Result<ExitStatus>, Vec<u8>, Vec<u8>);

fn of_command(line: &str, patience: Duration) -> Result<Vec<u8>, String> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that it can be ended with all that it has started.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn().map_err(|error| format!("it can't be started: {error}"))?;
    let group = child.id();
    let (end, ended) = mpsc::channel();
    let follow = move || {
        // Nobody listens any more when patience has run out.
        let _ = end.send(follow(child));
    };
    thread::Builder::new()
        .name("secret".to_owned())
        .spawn(follow)
        .map_err(|error| format!("there is no thread to read it: {error}"))?;
    let Ok((status, printed, complaints)) = ended.recv_timeout(patience) else {
        kill(group);
        return Err(format!("it has not ended within {patience:?}"));
    };
    let status = status.map_err(|error| format!("how it ended is not known: {error}"))?;
    if status.success() {
        return Ok(printed);
    }
    Err(complaint(status, &printed, &complaints))
}

/// Reads all that a command says, keeps a part of it, and waits for the end.
fn follow(mut child: Child) -> Ended {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let beside = thread::spawn(move || stderr.map(|pipe| beginning(pipe, COMPLAINTS)).unwrap_or_default());
    let printed = stdout.map(|pipe| beginning(pipe, LONGEST + 2)).unwrap_or_default();
    let complaints = beside.join().unwrap_or_default();
    (child.wait(), printed, complaints)
}

/// The first bytes; the rest is read, so that the command is not held up, and dropped.
fn beginning(mut pipe: impl Read, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error is all there is.
    let _ = pipe.by_ref().take(most).read_to_end(&mut bytes);
    let _ = io::copy(&mut pipe, &mut io::sink());
    bytes
}

/// How a command failed, in its own words as far as they don't repeat the secret.
fn complaint(status: ExitStatus, printed: &[u8], complaints: &[u8]) -> String {
    let (printed, said) = (String::from_utf8_lossy(printed), String::from_utf8_lossy(complaints));
    let mut said = said.into_owned();
    for part in printed.split_whitespace().filter(|part| part.len() >= 4) {
        said = said.replace(part, "***");
    }
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = said.chars().count().saturating_sub(TOLD);
    let end: String = said.chars().skip(skipped).collect();
    match end.is_empty() {
        true => format!("it ended with {status}"),
        false => format!("it ended with {status}: {end}"),
    }
}

/// Ends a command and what it has started; the thread that follows it takes leave of it.
#[cfg(all(unix, feature = "kafka"))]
fn kill(group: u32) {
    use nix::sys::signal::{Signal, killpg};
    if let Ok(group) = i32::try_from(group) {
        // It may have ended by itself in this very moment.
        let _ = killpg(nix::unistd::Pid::from_raw(group), Signal::SIGKILL);
    }
}

#[cfg(not(all(unix, feature = "kafka")))]
fn kill(_: u32) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<String, OutboxError> {
        SecretSource::Command(line.to_owned()).read("password")
    }

    #[test]
    fn the_end_of_the_line_is_no_part_of_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let source = SecretSource::File(path.clone());
        for (text, expected) in
            [("sesame", "sesame"), ("sesame\n", "sesame"), ("sesame\r\n", "sesame"), (" a b \n\n", " a b \n")]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(source.read("password").unwrap(), expected);
        }
        for (bytes, why) in [(&b""[..], "empty"), (b"\n", "empty"), (b"a\0b", "NUL"), (b"\xff", "UTF-8")] {
            std::fs::write(&path, bytes).unwrap();
            let error = source.read("password").unwrap_err();
            assert!(error.is_transient() && error.to_string().contains(why), "{error}");
        }
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(source.read("password").unwrap_err().to_string().contains("longer"));
        std::fs::remove_file(&path).unwrap();
        let error = source.read("password").unwrap_err();
        assert!(error.to_string().contains("there is no password from the file /"), "{error}");
        assert!(error.is_transient() && error.advice().is_some());
    }

    #[test]
    fn a_command_is_run_anew_and_its_failure_is_told_without_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let count = folder.path().join("count");
        let line = format!("echo x >> {0}; echo pass$(wc -l < {0})", count.display());
        assert_eq!((command(&line).unwrap(), command(&line).unwrap()), ("pass1".into(), "pass2".into()));
        assert_eq!(command("yes | head -c 200000 >&2; echo many").unwrap(), "many");
        let error = command("echo sesame; echo 'no ticket for sesame' >&2; exit 3").unwrap_err().to_string();
        assert!(error.contains("exit status: 3: no ticket for ***"), "{error}");
        assert!(!error.contains("sesame"), "{error}");
        let error = command("nothing-of-this-name").unwrap_err().to_string();
        assert!(error.contains("127") && error.contains("not found"), "{error}");
        assert!(command("true").unwrap_err().to_string().contains("empty"));
        let source = SecretSource::Command("echo sesame".to_owned());
        assert!(!format!("{source} {source:?}").contains("sesame"));
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn a_command_that_does_not_end_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let line = format!("sleep 600 & echo $! > {}; sleep 600", pids.display());
        let error = of_command(&line, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error, "it has not ended within 300ms");
        let pid: i32 = std::fs::read_to_string(&pids).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let (_silence, patience) = mpsc::channel::<()>();
        for _ in 0..500 {
            if gone() {
                return;
            }
            // Nothing is ever sent: this is a wait.
            let _ = patience.recv_timeout(Duration::from_millis(10));
        }
        panic!("process {pid} is still there");
    }
}
