//! The demo: proves itself by its exit code, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::walpost::Builder;
use crate::support::{KafkaBroker, PATIENCE, Walpost, eventually};

/// A place of the test's own for temporary files, which the server's user may enter.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        Place(folder)
    }

    fn demo<const N: usize>(&self, args: [&str; N]) -> Builder {
        Walpost::with(["demo"]).args(args).env("TMPDIR", self.0.path())
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(self.0.path()).unwrap().next().is_none()
    }

    async fn is_left_empty(&self) {
        eventually("the demo's folder to be gone", PATIENCE, async || self.is_empty().then_some(())).await;
    }
}

/// One after the other in one test, because each looks at what the others would leave.
#[tokio::test]
async fn the_demo_keeps_its_word_and_leaves_nothing() {
    let place = Place::new();
    let output = place.demo(["--for", "2s"]).output().await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("everything committed arrived once, in order"), "{said}");
    assert!(!said.contains('\x1b'), "plain when nobody watches: {said}");
    assert!(place.is_empty());

    // A real broker in the place of the built-in one.
    let broker = KafkaBroker::shared().await;
    let output = place.demo(["--for", "2s", "--brokers", broker.brokers()]).output().await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));

    // Ctrl-C: while it starts, in the middle, and twice.
    for (word, signals) in [("Starting", 1), ("arrived", 1), ("arrived", 2)] {
        let mut demo = place.demo([]).spawn();
        demo.wait_for_log(word, PATIENCE).await;
        demo.interrupt();
        if signals == 2 {
            demo.interrupt();
        }
        demo.wait(Duration::from_secs(20)).await;
        place.is_left_empty().await;
    }
    // Even a demo that nobody asked leaves nothing.
    let mut demo = place.demo([]).spawn();
    demo.wait_for_log("arrived", PATIENCE).await;
    demo.kill().await;
    place.is_left_empty().await;
}
