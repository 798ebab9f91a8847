//! Standard error, shared by the log and a progress line that rewrites itself.
//!
//! Both go through one lock: a line of the log first wipes the progress line, then draws it anew below.

use std::io::{self, Stderr, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use super::plain::{escape, escape_json};
use crate::config::LogFormat;

/// To the start of the line, and erase to its end.
const ERASE: &str = "\r\x1b[K";
/// A line longer than the terminal is wide is cut, not wrapped: a wrapped one could not be erased.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// The process's standard error.
#[derive(Clone, Debug)]
pub struct Console {
    screen: Arc<Mutex<Screen<Stderr>>>,
    is_terminal: bool,
    format: LogFormat,
}

impl Console {
    /// A terminal with lines for people can show a progress line; another one shows none.
    pub(super) fn new(is_terminal: bool, format: LogFormat) -> Console {
        let screen = Screen { out: io::stderr(), line: String::new() };
        Console { screen: Arc::new(Mutex::new(screen)), is_terminal, format }
    }

    /// Whether nobody but a program reads, for which each line has to be one of the log.
    #[must_use]
    pub fn is_for_machines(&self) -> bool {
        !self.is_terminal && self.format == LogFormat::Json
    }

    /// Whether a progress line would be seen.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_terminal && self.format == LogFormat::Text
    }

    /// Puts a line in the place of the one shown before; an empty one only takes that away.
    pub fn show(&self, line: &str) {
        if self.is_live() {
            let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            // A terminal that is gone can't be told that it is gone.
            let _ = screen.show(line);
        }
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter { screen: Arc::clone(&self.screen), format: self.format }
    }
}

/// Writes one event of the log.
#[derive(Debug)]
pub struct LogWriter {
    screen: Arc<Mutex<Screen<Stderr>>>,
    format: LogFormat,
}

impl Write for LogWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.format, std::str::from_utf8(event)) {
            (LogFormat::Json, Ok(line)) => screen.log(escape_json(line).as_bytes())?,
            _ => screen.log(event)?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Screen<W> {
    out: W,
    /// What is shown at present; empty when nothing is.
    line: String,
}

impl<W: Write> Screen<W> {
    fn show(&mut self, line: &str) -> io::Result<()> {
        if line.is_empty() && self.line.is_empty() {
            return Ok(());
        }
        // Text from a server may hold anything, also what moves the cursor.
        self.line = escape(line);
        let drawn = self.drawn();
        self.out.write_all(format!("{ERASE}{drawn}").as_bytes())?;
        self.out.flush()
    }

    fn log(&mut self, event: &[u8]) -> io::Result<()> {
        if self.line.is_empty() {
            return self.out.write_all(event);
        }
        // One write, so that nothing flickers.
        let mut bytes = ERASE.as_bytes().to_vec();
        bytes.extend_from_slice(event);
        bytes.extend_from_slice(self.drawn().as_bytes());
        self.out.write_all(&bytes)
    }

    fn drawn(&self) -> String {
        if self.line.is_empty() { String::new() } else { format!("{NO_WRAP}{}{WRAP}", self.line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_and_the_progress_line_never_mix() {
        let mut screen = Screen { out: Vec::new(), line: String::new() };
        let mut seen = |act: &dyn Fn(&mut Screen<Vec<u8>>) -> io::Result<()>| {
            act(&mut screen).unwrap();
            String::from_utf8(std::mem::take(&mut screen.out)).unwrap()
        };
        assert_eq!(seen(&|screen| screen.log(b"one\n")), "one\n");
        assert_eq!(seen(&|screen| screen.show("")), "");
        assert_eq!(seen(&|screen| screen.show("10/s")), "\r\x1b[K\x1b[?7l10/s\x1b[?7h");
        assert_eq!(seen(&|screen| screen.log(b"two\n")), "\r\x1b[Ktwo\n\x1b[?7l10/s\x1b[?7h");
        assert_eq!(seen(&|screen| screen.show("a\nb\x1b[2J")), "\r\x1b[K\x1b[?7la\\nb\\u{1b}[2J\x1b[?7h");
        assert_eq!(seen(&|screen| screen.show("")), "\r\x1b[K");
        assert_eq!(seen(&|screen| screen.log(b"three\n")), "three\n");
    }
}
