//! The checker checked: each deliberate bug must be caught, by the promise that it breaks.

use std::collections::BTreeMap;
use std::panic::catch_unwind;

use walpost::mutants::{Mutant, choose};

use crate::checker::Invariant;
use crate::run::run;
use crate::tags;

/// A bug that so many histories don't show would not be found.
const SEEDS: u64 = 400;

/// What each bug breaks in the end, whatever else notices it before.
fn breaks(mutant: Mutant) -> Option<Invariant> {
    match mutant {
        Mutant::ConfirmPlusOne
        | Mutant::ConfirmBeforeAck
        | Mutant::LastAckWins
        | Mutant::KeepaliveOverUnacked
        | Mutant::DropOnFull
        | Mutant::SkipAfterReconnect => Some(Invariant::Lost),
        Mutant::ConfirmCommitLsn | Mutant::LostLastStatus => Some(Invariant::Repeated),
        Mutant::KeepaliveIgnored => Some(Invariant::Stuck),
        Mutant::ReorderAfterFailure => Some(Invariant::Reordered),
        // Not in the loop: the decoder's own check finds it, below.
        Mutant::UnknownMessageIgnored => None,
        // The room is there; the bug is put in with the dead letters.
        Mutant::DeadLetterNotDurable => None,
    }
}

/// Runs seeds until the bug has broken what it must break. Says which promises broke first at which seed.
fn hunt(mutant: Mutant, first: u64, wanted: Invariant) -> BTreeMap<Invariant, u64> {
    let mut found = BTreeMap::new();
    choose(Some(mutant));
    for seed in first..first + SEEDS {
        // A bug may also end in a panic; a history that ends so shows nothing else.
        let violations = catch_unwind(|| run(seed, false).violations).unwrap_or_default();
        for (invariant, _) in violations {
            found.entry(invariant).or_insert(seed);
        }
        if found.contains_key(&wanted) {
            break;
        }
    }
    choose(None);
    found
}

#[test]
fn every_deliberate_bug_is_caught() {
    let first = std::env::var("WALPOST_SEED").ok().and_then(|text| text.parse().ok());
    let first: u64 = first.unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("seeds from {first} on");
    println!("{:<22} {:<40} {:>15} {:>6}  before that", "bug", "caught by", "seed", "after");
    let mut escaped = Vec::new();
    for (mutant, wanted) in Mutant::ALL.into_iter().filter_map(|mutant| Some((mutant, breaks(mutant)?))) {
        let name = format!("{mutant:?}");
        let mut found = hunt(mutant, first, wanted);
        let Some(seed) = found.remove(&wanted) else {
            println!("{name:<22} not caught in {SEEDS} seeds by {wanted}; {found:?}");
            escaped.push(mutant);
            continue;
        };
        let others = found.iter().map(|(other, at)| format!("{other} after {}", at - first + 1));
        println!(
            "{name:<22} {:<40} {seed:>15} {:>6}  {}",
            wanted.to_string(),
            seed - first + 1,
            others.collect::<Vec<_>>().join(", ")
        );
        assert!(run(seed, false).violations.is_empty(), "seed {seed} fails without a bug");
    }
    escaped.extend(tags_escape().then_some(Mutant::UnknownMessageIgnored));
    assert!(escaped.is_empty(), "not caught: {escaped:?}");
}

/// The decoder's own check, under the bug of the decoder.
fn tags_escape() -> bool {
    assert!(tags::misjudged().is_empty());
    choose(Some(Mutant::UnknownMessageIgnored));
    let passed = tags::misjudged().len();
    choose(None);
    let name = format!("{:?}", Mutant::UnknownMessageIgnored);
    println!("{name:<22} the decoder's check: {passed} tags pass (tests/pgoutput/tags.rs)");
    passed == 0
}
