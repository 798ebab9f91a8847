//! Standard error, shared by the log and a progress line that rewrites itself.
//!
//! A thread of its own writes both, and a relay never waits for who reads them: a terminal held with Ctrl-S, or a collector
//! of logs that hangs, would otherwise stop it. A line of the log first wipes the progress line, then draws it anew below.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::plain::{escape, escape_json};
use crate::config::LogFormat;

/// To the start of the line, and erase to its end.
const ERASE: &str = "\r\x1b[K";
/// A line longer than the terminal is wide is cut, not wrapped: a wrapped one could not be erased.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// How many bytes of the log may wait for whoever reads it.
const ROOM: usize = 256 * 1024;
/// How long an end waits for its last words to be taken.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The process's standard error.
#[derive(Clone, Debug)]
pub struct Console {
    queue: Arc<Queue>,
    is_terminal: bool,
    format: LogFormat,
    is_in_step: bool,
}

impl Console {
    /// A terminal with lines for people can show a progress line; another one shows none.
    pub(super) fn new(is_terminal: bool, format: LogFormat) -> io::Result<Console> {
        Console::over(io::stderr(), is_terminal, format, tell)
    }

    /// Each line is written before what comes behind it, as suits a command that also prints; not so a relay.
    pub(super) fn in_step(self, is_in_step: bool) -> Console {
        Console { is_in_step, ..self }
    }

    fn over(
        out: impl Write + Send + 'static,
        is_terminal: bool,
        format: LogFormat,
        tell: fn(&Missed),
    ) -> io::Result<Console> {
        let queue = Arc::new(Queue::default());
        let (screen, theirs) = (Screen { out, line: String::new() }, Arc::clone(&queue));
        thread::Builder::new().name("log".to_owned()).spawn(move || theirs.write_to(screen, tell))?;
        Ok(Console { queue, is_terminal, format, is_in_step: false })
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
            self.queue.lock().line = Some(line.to_owned());
            self.queue.changed.notify_all();
        }
    }

    /// Waits until all is written, for two seconds at most; false if somebody holds it up for longer.
    #[must_use]
    pub fn flush(&self) -> bool {
        self.flush_within(LAST_WORDS)
    }

    fn flush_within(&self, patience: Duration) -> bool {
        let waiting = self.queue.lock();
        let left = self.queue.changed.wait_timeout_while(waiting, patience, |it| !it.is_written());
        left.unwrap_or_else(PoisonError::into_inner).0.is_written()
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter { console: self.clone() }
    }
}

/// Takes one event of the log.
#[derive(Debug)]
pub struct LogWriter {
    console: Console,
}

impl Write for LogWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let bytes = match (self.console.format, std::str::from_utf8(event)) {
            (LogFormat::Json, Ok(line)) => escape_json(line).as_bytes().to_vec(),
            _ => event.to_vec(),
        };
        self.console.queue.put(bytes);
        if self.console.is_in_step {
            // For as long as an end would; longer is no reason to stay.
            let _ = self.console.flush();
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines of the log for which there was no room.
#[derive(Clone, Debug)]
struct Missed {
    lines: u64,
    since: Instant,
}

fn tell(missed: &Missed) {
    let advice = "look at what reads standard error: a terminal held with Ctrl-S, a collector of logs that hangs; \
                  what Walpost did meanwhile is in its metrics";
    let lasted = u64::try_from(missed.since.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::warn!(
        lasted_ms = lasted,
        advice,
        "nobody took the log: {} lines are missing before this one",
        missed.lines
    );
}

/// What is to be written.
#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Vec<u8>>,
    /// Of the events, including the one that is being written.
    bytes: usize,
    /// What the progress line is to be. Only the newest matters.
    line: Option<String>,
    is_writing: bool,
    missed: Option<Missed>,
}

impl Waiting {
    fn is_written(&self) -> bool {
        self.events.is_empty() && self.line.is_none() && !self.is_writing && self.missed.is_none()
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// What the thread does next.
enum Task {
    Log(Vec<u8>),
    Show(String),
    Tell(Missed),
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, event: Vec<u8>) {
        let mut waiting = self.lock();
        let is_full = waiting.bytes > 0 && waiting.bytes + event.len() > ROOM;
        // Once some are missing, all are until that is told: one gap, and not many.
        if is_full || waiting.missed.is_some() {
            waiting.missed.get_or_insert_with(|| Missed { lines: 0, since: Instant::now() }).lines += 1;
            return;
        }
        waiting.bytes += event.len();
        waiting.events.push_back(event);
        self.changed.notify_all();
    }

    fn next(&self) -> Task {
        let mut waiting = self.lock();
        loop {
            waiting.is_writing = true;
            if let Some(event) = waiting.events.pop_front() {
                return Task::Log(event);
            }
            if let Some(missed) = waiting.missed.take() {
                return Task::Tell(missed);
            }
            if let Some(line) = waiting.line.take() {
                return Task::Show(line);
            }
            waiting.is_writing = false;
            self.changed.notify_all();
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Never ends: what a process says at its very end shall be written as well.
    fn write_to<W: Write>(&self, mut screen: Screen<W>, tell: fn(&Missed)) {
        loop {
            // A terminal that is gone can't be told that it is gone.
            match self.next() {
                Task::Log(event) => {
                    let _ = screen.log(&event);
                    self.lock().bytes -= event.len();
                }
                Task::Show(line) => {
                    let _ = screen.show(&line);
                }
                // Which is a line of the log itself.
                Task::Tell(missed) => tell(&missed),
            }
        }
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
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    static TOLD: Mutex<Vec<Missed>> = Mutex::new(Vec::new());

    /// Takes nothing until it is let go.
    struct Held {
        go: Option<Receiver<()>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(go) = self.go.take() {
                go.recv().unwrap();
            }
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_reads_and_what_is_missing_is_told() {
        const LINES: usize = 5_000;
        let (let_go, go) = channel();
        let taken = Arc::default();
        let held = Held { go: Some(go), taken: Arc::clone(&taken) };
        let tell = |missed: &Missed| TOLD.lock().unwrap().push(missed.clone());
        let console = Console::over(held, true, LogFormat::Text, tell).unwrap();

        // Would never come to an end if it waited.
        for number in 0..LINES {
            let line = format!("{number:01023}\n");
            assert_eq!(console.make_writer().write(line.as_bytes()).unwrap(), 1024);
            console.show(&number.to_string());
        }
        assert!(!console.flush_within(Duration::from_millis(10)), "nobody has read it");
        let_go.send(()).unwrap();
        assert!(console.flush_within(PATIENCE));

        // As many as there is room for, whole and in order, and only the newest progress line below.
        let taken = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        let (log, shown) = taken.rsplit_once('\n').unwrap();
        let numbers: Vec<usize> = log.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (0..ROOM / 1024).collect::<Vec<_>>());
        assert_eq!(shown, format!("{ERASE}{NO_WRAP}{}{WRAP}", LINES - 1));
        let told = TOLD.lock().unwrap();
        assert_eq!(
            told.iter().map(|missed| missed.lines).collect::<Vec<_>>(),
            [(LINES - numbers.len()) as u64]
        );

        // And it goes on.
        assert_eq!(console.make_writer().write(b"again\n").unwrap(), 6);
        assert!(console.flush_within(PATIENCE));
    }

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
