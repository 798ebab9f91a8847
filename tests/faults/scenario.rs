//! A scenario from its seed to its row of the table.
//!
//! | variable | is | default |
//! | --- | --- | --- |
//! | `WALPOST_FAULTS_SEED` | the seed of the first run; the next run has the next one | random |
//! | `WALPOST_FAULTS_SCALE` | factor on all counts, such as `0.1` | `1` |
//! | `WALPOST_FAULTS_DURATION` | how long to begin run after run, such as `90s` or `2h`; at least one is made | `0s` |
//! | `WALPOST_FAULTS_KEEP` | `true` keeps the relays' logs of a run that passed, too | `false` |
//! | `WALPOST_FAULTS_TABLE` | a file to which rows are added as well | none |

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::checker::Verdict;
use crate::support::host::Host;

/// One run of a scenario.
pub(crate) struct Run {
    name: &'static str,
    pub(crate) seed: u64,
    scale: f64,
    /// Logs of the relays and, if it fails, of the servers.
    folder: PathBuf,
    /// Whether its logs may go.
    done: bool,
}

/// What a run has to show.
pub(crate) struct Outcome {
    pub(crate) trials: usize,
    pub(crate) verdict: Verdict,
    /// From the end of a fault until all that was committed by then is confirmed.
    pub(crate) longest: Duration,
}

impl Outcome {
    pub(crate) fn add(mut self, other: Outcome) -> Outcome {
        self.trials += other.trials;
        self.verdict.add(other.verdict);
        self.longest = self.longest.max(other.longest);
        self
    }
}

/// Runs it once, or again and again for as long as the environment says. Prints a row for each run, and panics
/// after the first that breaks a promise.
pub(crate) async fn scenario(name: &'static str, body: impl AsyncFn(&Run) -> Outcome) {
    let first: u64 = setting("WALPOST_FAULTS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let most = setting("WALPOST_FAULTS_DURATION").map_or(Duration::ZERO, |text: String| duration(&text));
    let start = Instant::now();
    let mut total: Option<Outcome> = None;
    for seed in first.. {
        let mut run = Run::new(name, seed);
        println!("{name}: seed {seed}, logs in {}", run.folder.display());
        let outcome = body(&run).await;
        println!("{name}: {} replays", outcome.verdict.replays);
        row(name, &outcome, &seed.to_string());
        outcome.verdict.assert_kept();
        run.done = !setting("WALPOST_FAULTS_KEEP").unwrap_or(false);
        total = Some(match total {
            None => outcome,
            Some(total) => total.add(outcome),
        });
        if start.elapsed() >= most {
            if let Some(total) = total.filter(|_| seed > first) {
                row(name, &total, &format!("{first}-{seed}"));
            }
            return;
        }
    }
}

impl Run {
    fn new(name: &'static str, seed: u64) -> Run {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{name}-{seed}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Run { name, seed, scale: setting("WALPOST_FAULTS_SCALE").unwrap_or(1.0), folder, done: false }
    }

    /// So many in CI; more or fewer when asked for.
    pub(crate) fn count(&self, in_ci: usize) -> usize {
        ((in_ci as f64 * self.scale).round() as usize).max(1)
    }

    /// The random choices of one part, independent of the other parts'.
    pub(crate) fn random(&self, part: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(part))
    }

    /// A file that stays if the run fails.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Keeps the server's log if the run fails. To be declared after the server, so that it goes before it.
    pub(crate) fn keep<'a>(&self, name: &str, host: &'a Host) -> KeptLog<'a> {
        KeptLog { host, to: self.file(&format!("{name}.log")) }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.done {
            let _ = fs::remove_dir_all(&self.folder);
            return;
        }
        if !std::thread::panicking() {
            return;
        }
        let (name, seed) = (self.name, self.seed);
        println!("{name} FAILED with seed {seed}; its logs are in {}", self.folder.display());
        println!("again: make faults SCENARIO={name} SEED={seed}");
    }
}

pub(crate) struct KeptLog<'a> {
    host: &'a Host,
    to: PathBuf,
}

impl Drop for KeptLog<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.host.keep_log(&self.to);
        }
    }
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} can't be {text:?}")))
}

/// A whole number and its unit.
fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => panic!("a duration needs a number and s, m or h: {text:?}"),
    };
    Duration::from_secs(seconds * number.parse::<u64>().unwrap_or_else(|_| panic!("no duration: {text:?}")))
}

fn row(name: &str, outcome: &Outcome, seed: &str) {
    const HEAD: [&str; 9] = [
        "scenario",
        "trials",
        "messages",
        "lost",
        "invented",
        "reordered",
        "repeated",
        "longest recovery",
        "seed",
    ];
    let verdict = &outcome.verdict;
    let cells = [
        name.to_owned(),
        outcome.trials.to_string(),
        verdict.messages.to_string(),
        verdict.lost.to_string(),
        verdict.invented.to_string(),
        verdict.reordered.to_string(),
        verdict.repeated.to_string(),
        format!("{:.1} s", outcome.longest.as_secs_f64()),
        seed.to_owned(),
    ];
    let (head, line) = (line(HEAD.map(str::to_owned)), line(cells));
    println!("{head}\n{line}");
    if let Some(path) = setting::<PathBuf>("WALPOST_FAULTS_TABLE") {
        let mut table = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        // Whole in one write, since others append at the same time.
        let fresh = table.metadata().unwrap().len() == 0;
        let text = if fresh { format!("{head}\n{line}\n") } else { format!("{line}\n") };
        table.write_all(text.as_bytes()).unwrap();
    }
}

fn line(cells: [String; 9]) -> String {
    let [name, trials, messages, lost, invented, reordered, repeated, longest, seed] = cells;
    format!(
        "{name:<20} {trials:>6} {messages:>9} {lost:>5} {invented:>8} {reordered:>9} {repeated:>9} {longest:>16}  {seed}"
    )
}
