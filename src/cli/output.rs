//! Standard output that may be closed: `walpost status | head -1` is no fault.

use std::io::Write as _;

/// Writes text as it is. A reader that has gone wants no more; there is nobody else to tell. Says whether
/// somebody still reads.
pub(crate) fn write(text: &str) -> bool {
    write_bytes(text.as_bytes())
}

/// Writes bytes as they are, and says whether somebody still reads.
pub(crate) fn write_bytes(bytes: &[u8]) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

/// Writes a line.
pub(crate) fn say(line: &str) {
    write(&format!("{line}\n"));
}

/// Writes a line on stderr, beside what a program reads from stdout.
pub(crate) fn note(line: &str) {
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
