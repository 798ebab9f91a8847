//! The token of the listener as its file has it now, so that one that was changed counts without a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::OutboxError;
use crate::vitals::Told;

/// A shorter one can be found out by trying.
const SHORTEST: usize = 16;

/// The file, and what it held when it last held a token.
#[derive(Clone)]
pub struct TokenFile {
    path: PathBuf,
    last: Arc<Mutex<Arc<str>>>,
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TokenFile {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// A usage error: it holds no token.
    pub fn open(path: &Path) -> Result<TokenFile, OutboxError> {
        let wrong = |what: String| {
            OutboxError::usage(
                format!("--listen-token-file (WALPOST_LISTEN_TOKEN_FILE): {}: {what}", path.display()),
                "put a long random text into it, for example with: openssl rand -hex 32",
            )
        };
        let token = read(path).map_err(wrong)?;
        Ok(TokenFile { path: path.to_owned(), last: Arc::new(Mutex::new(token)) })
    }

    /// The token. A file that is just being replaced, or is gone, leaves the one that it had.
    pub(super) fn token(&self, told: &Told) -> Arc<str> {
        const FAULT: &str = "the listener's token";
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.path) {
            Ok(token) if token == *last => {
                told.over(FAULT);
            }
            Ok(token) => {
                told.over(FAULT);
                *last = token;
                tracing::info!(file = %self.path.display(), "the listener's token is another one from now on");
            }
            Err(why) => {
                if told.meet(FAULT).is_some() {
                    let advice =
                        "the one before goes on to count until the file holds another: openssl rand -hex 32";
                    tracing::warn!(file = %self.path.display(), advice, "the listener's token can't be read: {why}");
                }
            }
        }
        Arc::clone(&last)
    }
}

fn read(path: &Path) -> Result<Arc<str>, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let token = text.trim();
    if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("not a token: at least {SHORTEST} letters, digits and the like, without spaces"));
    }
    Ok(token.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_present_token_counts_and_a_file_that_has_none_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, told) = (folder.path().join("token"), Told::default());
        let (first, second) = ("open-sesame-open-sesame", "close-sesame-close-sesame");
        let write = |text: &str| fs::write(&path, text).unwrap();
        assert!(TokenFile::open(&path).unwrap_err().is_usage());
        write("short");
        let error = TokenFile::open(&path).unwrap_err();
        assert!(error.is_usage() && !error.to_string().contains("short"), "{error}");
        write(&format!("{first}\n"));
        let file = TokenFile::open(&path).unwrap();
        assert!(!format!("{file:?}").contains("sesame"));
        for (text, expected) in
            [(first, first), ("", first), ("short", first), (second, second), ("a b c", second)]
        {
            write(text);
            assert_eq!(&*file.token(&told), expected, "{text}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(&*file.token(&told), second);
    }
}
