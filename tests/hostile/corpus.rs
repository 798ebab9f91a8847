//! The fuzz targets without a fuzzer: every kept input, then mutants of them for a while. FUZZ_SECONDS says for
//! how long, FUZZ_SEED which ones.

use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use walpost::fuzzing::{TARGETS, configuration};

use crate::{Measurement, mutate};

/// What a target may hold at once: what one read asks for, tables and buffers, and a multiple of its input.
const BASE: usize = 2 << 20;
const PER_BYTE: usize = 64;
/// No input takes longer, also not without optimisation on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

fn seconds() -> Duration {
    let seconds = std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(5))
}

fn seed() -> u64 {
    let seed = std::env::var("FUZZ_SEED").ok().map(|text| text.parse().expect("a seed"));
    seed.unwrap_or_else(|| fastrand::u64(..))
}

fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 20, "{}: only {} inputs", folder.display(), paths.len());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Ends the process when one input takes too long: a loop that never ends can't be stopped in any other way.
struct Watchdog(Option<mpsc::Sender<Vec<u8>>>, Option<std::thread::JoinHandle<()>>);

impl Watchdog {
    fn start(target: &'static str) -> Self {
        let (sender, inputs) = mpsc::channel::<Vec<u8>>();
        let watch = move || {
            let mut current: Option<Vec<u8>> = None;
            loop {
                match inputs.recv_timeout(LONGEST) {
                    Ok(input) => current = Some(input),
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        if let Some(input) = current {
                            let _ = writeln!(std::io::stderr(), "{target} hangs on {}", input.escape_ascii());
                            std::process::exit(101);
                        }
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        Watchdog(Some(sender), Some(std::thread::spawn(watch)))
    }

    fn begins(&self, input: &[u8]) {
        if let Some(sender) = &self.0 {
            sender.send(input.to_vec()).unwrap();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0 = None;
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
    }
}

/// Runs one input and holds it to its share of memory.
fn run(
    measurement: &mut Measurement,
    (target, base): (fn(&[u8]), usize),
    input: &[u8],
    name: &dyn Fn() -> String,
) {
    measurement.reset();
    let result = catch_unwind(AssertUnwindSafe(|| target(input)));
    assert!(result.is_ok(), "{}: {}", name(), input.escape_ascii());
    let (peak, most) = (measurement.peak(), base + PER_BYTE * input.len());
    assert!(peak <= most, "{}: {peak} bytes held, {most} at most, by {}", name(), input.escape_ascii());
}

async fn hold(name: &'static str) {
    let (_, target) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    // What an operator types may hold a pattern for the log, which is compiled.
    let base = if name == "configuration" { 32 << 20 } else { BASE };
    let target = (target, base);
    let mut measurement = Measurement::begin().await;
    let watchdog = Watchdog::start(name);
    let kept = kept(name);
    for (path, input) in &kept {
        watchdog.begins(input);
        run(&mut measurement, target, input, &|| path.display().to_string());
    }
    let (seed, all) = (seed(), kept.into_iter().map(|(_, input)| input).collect::<Vec<_>>());
    println!("{name}: FUZZ_SEED={seed}");
    let (mut random, end, mut count) = (Rng::with_seed(seed), Instant::now() + seconds(), 0_u64);
    while Instant::now() < end {
        let input = mutate::mutant(&mut random, &all);
        watchdog.begins(&input);
        run(&mut measurement, target, &input, &|| format!("FUZZ_SEED={seed}, mutant {count}"));
        count += 1;
    }
    println!("{name}: {} kept inputs, {count} mutants", all.len());
    assert!(count > 100, "{name}: only {count} mutants in {:?}", seconds());
}

#[tokio::test]
async fn frames() {
    hold("frames").await;
}

#[tokio::test]
async fn pgoutput() {
    hold("pgoutput").await;
}

#[tokio::test]
async fn authentication() {
    hold("authentication").await;
}

#[tokio::test]
async fn configuration_and_row_headers() {
    hold("configuration").await;
    // A number that names no kind of text is no crash either.
    (0..=u8::MAX).for_each(|kind| configuration(&[kind]));
}
