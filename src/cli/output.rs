//! Standard output that may be closed: `walpost status | head -1` is no fault.

use std::io::Write as _;

/// Writes text as it is. A reader that has gone wants no more; there is nobody else to tell.
pub(crate) fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line.
pub(crate) fn say(line: &str) {
    write(&format!("{line}\n"));
}
