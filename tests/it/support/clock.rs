//! The wall clock of a relay, which a test moves while its monotonic clock goes on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use tempfile::TempDir;

use super::walpost::Builder;

pub(crate) struct Clock {
    folder: TempDir,
    offset: File,
}

impl Clock {
    /// Right so far.
    pub(crate) fn new() -> Clock {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-ldl", "-o"]);
        let output = compiler.arg(folder.path().join("clock.so")).output();
        let output = output.expect("a C compiler: `scripts/install build` installs one");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let offset = File::create(folder.path().join("offset")).unwrap();
        let clock = Clock { folder, offset };
        clock.set_days(0);
        clock
    }

    /// So many days ahead of the machine's clock from now on.
    pub(crate) fn set_days(&self, days: i64) {
        self.offset.write_all_at(&(days * 86_400).to_ne_bytes(), 0).unwrap();
    }

    /// A process that goes by this clock.
    pub(crate) fn of(&self, command: Builder) -> Builder {
        command
            .env("LD_PRELOAD", self.folder.path().join("clock.so"))
            .env("TEST_CLOCK", self.folder.path().join("offset"))
    }
}
