//! How a line of the log looks to a person: when, how bad, what, why; then the figures, and at the end what to do.
//!
//! Whatever is told may hold text of others, so each part is written without what would drive a terminal or begin a line.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::plain::escape;

const PLAIN: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const CYAN: &str = "\x1b[36m";

/// Lines for people.
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut parts = Parts::default();
        event.record(&mut parts);
        let line = parts.line(&time, *event.metadata().level(), writer.has_ansi_escapes());
        writer.write_str(&line)
    }
}

/// What a line is made of.
#[derive(Default)]
struct Parts {
    message: String,
    cause: String,
    advice: String,
    /// ` name=value`, one after the other.
    figures: String,
}

impl Parts {
    fn line(&self, time: &str, level: Level, colours: bool) -> String {
        let colour = match level {
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            Level::DEBUG => "\x1b[34m",
            Level::TRACE => "\x1b[35m",
        };
        let paint = |colour: &'static str| if colours { (colour, PLAIN) } else { ("", "") };
        let ((dim, plain), (of_level, _), (cyan, _)) = (paint(DIM), paint(colour), paint(CYAN));
        let (message, cause, advice) = (escape(&self.message), escape(&self.cause), escape(&self.advice));
        let mut line = format!("{dim}{time}{plain} {of_level}{level:>5}{plain} {message}");
        // Writing to a string never fails.
        if !cause.is_empty() {
            let _ = write!(line, ": {cause}");
        }
        if !self.figures.is_empty() {
            let _ = write!(line, "{dim}{}{plain}", self.figures);
        }
        if !advice.is_empty() {
            let _ = write!(line, " {cyan}advice:{plain} {advice}");
        }
        line.push('\n');
        line
    }
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            "error" | "reason" => value.clone_into(&mut self.cause),
            "advice" => value.clone_into(&mut self.advice),
            name => {
                // One word, so that it is seen where it ends.
                let is_word = !value.is_empty() && !value.contains([' ', '"', '=']);
                let value = if is_word { value.to_owned() } else { format!("{value:?}") };
                let _ = write!(self.figures, " {name}={}", escape(&value));
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            "error" | "reason" => self.cause = text,
            "advice" => self.advice = text,
            name => {
                let _ = write!(self.figures, " {name}={}", escape(&text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(colours: bool, tell: impl FnOnce()) -> String {
        let paper = Paper::default();
        let on = paper.clone();
        let lines = fmt::layer().event_format(Lines).with_ansi(colours).with_writer(move || on.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), tell);
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        // The time, which is another one each time.
        text.lines().map(|line| format!("{}\n", line.split_once('Z').unwrap().1)).collect()
    }

    #[test]
    fn what_and_why_come_first_and_what_to_do_last() {
        let position: Option<&str> = Some("0/16B3748");
        let told = written(false, || {
            tracing::warn!(
                error = "refused",
                advice = "start it",
                position,
                none = None::<u64>,
                wait_ms = 7_u64,
                "retrying"
            );
            tracing::info!(server = "a b", "over {}", 1);
        });
        assert_eq!(
            told,
            "  WARN retrying: refused position=0/16B3748 wait_ms=7 advice: start it\n  INFO over 1 server=\"a b\"\n"
        );
        let coloured = written(true, || tracing::warn!(advice = "b", "a"));
        assert_eq!(coloured, "\x1b[0m \x1b[33m WARN\x1b[0m a \x1b[36madvice:\x1b[0m b\n");
    }

    #[test]
    fn text_of_others_neither_forges_a_line_nor_drives_the_terminal() {
        let hostile = "x\n2026-01-01T00:00:00Z ERROR forged\x1b]0;title\x07\u{9b}2J\u{202e}\r";
        for colours in [false, true] {
            let told = written(colours, || {
                tracing::warn!(error = hostile, advice = hostile, name = hostile, other = ?hostile, "{hostile}");
                tracing::info!(shown = %hostile, "end");
            });
            assert_eq!(told.lines().count(), 2, "{told:?}");
            let ours = |text: &str| {
                [PLAIN, DIM, CYAN, "\x1b[33m", "\x1b[32m"]
                    .iter()
                    .fold(text.to_owned(), |text, code| text.replace(code, ""))
            };
            let left = ours(&told.replace('\n', ""));
            assert!(!left.contains(|letter: char| letter.is_control() || letter == '\u{202e}'), "{left:?}");
        }
    }
}
