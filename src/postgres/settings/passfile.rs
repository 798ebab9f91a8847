//! The password file, as libpq reads it (PostgreSQL documentation, "The Password File").

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// What a line of the file must match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Login<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The file, as one server's logins have found it.
#[derive(Debug)]
pub(super) struct PassFile {
    path: PathBuf,
    /// It has given a password.
    has_given: AtomicBool,
    /// Why it is ignored, as it was told.
    told: Mutex<Option<String>>,
}

impl PassFile {
    pub(super) fn new(path: &Path) -> PassFile {
        PassFile { path: path.to_owned(), has_given: AtomicBool::default(), told: Mutex::default() }
    }

    /// The password for this login. A file that others could read is not trusted, as with libpq: a warning
    /// is logged, once, and the connection goes on without it.
    ///
    /// A file of root's may be read by its group, as libpq has it for private keys: that is how orchestrators hand a secret
    /// to a process that is not root (Kubernetes with `fsGroup`, systemd with `LoadCredential=`).
    pub(super) fn password(&self, login: Login<'_>) -> Option<String> {
        let text = trusted_text(&self.path);
        let why = text.as_ref().err().cloned().flatten();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = why.as_ref().filter(|reason| told.as_ref() != Some(*reason)) {
            let advice = "no password is taken from it as long as that is so";
            tracing::warn!(file = %self.path.display(), advice, "the password file is ignored: {reason}");
        }
        *told = why;
        let password = find(&text.ok()?, login)?;
        self.has_given.store(true, Relaxed);
        Some(password)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has ever given a password: then one that is refused or missing now may come right without a restart.
    pub(super) fn has_given(&self) -> bool {
        self.has_given.load(Relaxed)
    }
}

/// The file's text, or why it is ignored; no reason when there is no such file, which is the usual case.
fn trusted_text(path: &Path) -> Result<String, Option<String>> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => None,
        _ => Some(error.to_string()),
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Some("it is not a plain file".to_owned()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if is_open(metadata.mode(), metadata.uid()) {
            return Err(Some("group or others have access; `chmod 0600` mends it".to_owned()));
        }
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// Whether others than those whom its owner chose may have read or changed it.
#[cfg(unix)]
fn is_open(mode: u32, owner: u32) -> bool {
    let closed = if owner == 0 { 0o037 } else { 0o077 };
    mode & closed != 0
}

/// The password of the first line that matches.
fn find(text: &str, login: Login<'_>) -> Option<String> {
    let port = login.port.to_string();
    let wanted = [login.host, &port, login.database, login.user];
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| wanted.iter().try_fold(line, |rest, field| match_field(rest, field)))
        .map(unescape)
        .filter(|password| !password.is_empty())
}

/// What follows the first field of `line`, when that field is `*` or, unescaped, equals `wanted`.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut letters = line.char_indices();
    let mut expected = wanted.chars();
    while let Some((at, letter)) = letters.next() {
        match letter {
            ':' => return expected.next().is_none().then(|| &line[at + 1..]),
            '\\' if letters.next().map(|(_, escaped)| escaped) == expected.next() => {}
            plain if plain != '\\' && expected.next() == Some(plain) => {}
            _ => return None,
        }
    }
    None
}

fn unescape(password: &str) -> String {
    let mut plain = String::with_capacity(password.len());
    let mut letters = password.chars();
    while let Some(letter) = letters.next().filter(|&letter| letter != ':') {
        plain.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    plain
}

/// What is found is what stands in the file, its escapes undone.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(text: &str) {
    let login = Login { host: "db.example", port: 5432, database: "shop", user: "relay" };
    let found = find(text, login);
    assert!(found.is_none_or(|password| !password.is_empty() && password.len() <= text.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: Login<'_> = Login { host: "db.example", port: 5432, database: "shop", user: "relay" };

    #[test]
    fn the_first_matching_line_gives_the_password() {
        for (text, expected) in [
            ("", None),
            ("db.example:5432:shop:relay:secret", Some("secret")),
            ("db.example:5432:shop:relay:secret\r\n", Some("secret")),
            ("*:*:*:*:any", Some("any")),
            ("other:*:*:*:no\n*:5433:*:*:no\n*:*:*:relay:yes\n*:*:*:*:late", Some("yes")),
            ("#db.example:5432:shop:relay:comment", None),
            (r"*:*:*:*:a\:b\\c", Some(r"a:b\c")),
            (r"*:*:*:*:ends\", Some(r"ends\")),
            ("*:*:*:*:cut:here", Some("cut")),
            (r"db\.example:5432:shop:relay:escaped", Some("escaped")),
            ("db.exampl:*:*:*:short", None),
            ("db.examples:*:*:*:long", None),
            ("*:*:shop", None),
            ("*:*:*:*:\n*:*:*:*:late", None),
        ] {
            assert_eq!(find(text, LOGIN).as_deref(), expected, "{text:?}");
        }
        let v6 = Login { host: "::1", ..LOGIN };
        assert_eq!(find(r"\:\:1:*:*:*:six", v6).as_deref(), Some("six"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        let file = PassFile::new(&path);
        assert_eq!(file.password(LOGIN), None, "no file");
        assert_eq!(PassFile::new(folder.path()).password(LOGIN), None, "not a file");
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        for (mode, expected) in
            [(0o600, Some("secret")), (0o400, Some("secret")), (0o660, None), (0o604, None)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(file.password(LOGIN).as_deref(), expected, "{mode:o}");
            assert!(file.has_given());
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_group_may_read_what_is_roots() {
        for (mode, owner, expected) in [
            (0o100_440, 0, false),
            (0o100_640, 0, false),
            (0o100_660, 0, true),
            (0o100_450, 0, true),
            (0o100_444, 0, true),
            (0o100_640, 1000, true),
            (0o100_440, 65_532, true),
            (0o100_600, 1000, false),
        ] {
            assert_eq!(is_open(mode, owner), expected, "{mode:o} of {owner}");
        }
    }
}
