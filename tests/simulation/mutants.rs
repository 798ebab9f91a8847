//! The checker checked: each deliberate bug must be caught, by the promise that it breaks.

use std::collections::BTreeMap;

use walpost::mutants::{Mutant, choose};

use crate::checker::Invariant;
use crate::run::run;
use crate::seeds::first_seed;
use crate::tags;

/// A bug that so many histories don't show would not be found.
const SEEDS: u64 = 1_500;

/// What each bug breaks in the end, whatever else notices it before.
fn breaks(mutant: Mutant) -> Option<Invariant> {
    match mutant {
        Mutant::ConfirmPlusOne
        | Mutant::ConfirmBeforeAck
        | Mutant::LastAckWins
        | Mutant::KeepaliveOverUnacked
        | Mutant::DropOnFull
        | Mutant::SkipAfterReconnect
        | Mutant::DeadLetterNotDurable => Some(Invariant::Lost),
        Mutant::ConfirmCommitLsn | Mutant::LostLastStatus => Some(Invariant::Repeated),
        Mutant::KeepaliveIgnored => Some(Invariant::Stuck),
        Mutant::ReorderAfterFailure => Some(Invariant::Reordered),
        Mutant::MarkBeforeAck => Some(Invariant::MarkedEarly),
        Mutant::ConfirmBeforeMark => Some(Invariant::Unmarked),
        // Not in the loop: the decoder's own check finds it, below.
        Mutant::UnknownMessageIgnored => None,
    }
}

/// Runs seeds until the bug has broken what it must break. Says which promises broke first at which seed.
fn hunt(mutant: Mutant, first: u64, wanted: Invariant) -> BTreeMap<Invariant, u64> {
    let mut found = BTreeMap::new();
    choose(Some(mutant));
    for seed in first..first + SEEDS {
        for (invariant, _) in run(seed, false).violations {
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
    let first = first_seed();
    println!("seeds from {first} on; repeat it: WALPOST_FIRST_SEED={first}");
    println!("{:<22} {:<36} {:>15} {:>6}  others by then", "bug", "caught by", "at seed", "after");
    let (mut escaped, mut furthest) = (Vec::new(), first);
    for mutant in Mutant::ALL {
        let name = format!("{mutant:?}");
        let Some(wanted) = breaks(mutant) else { continue };
        let mut found = hunt(mutant, first, wanted);
        let Some(seed) = found.remove(&wanted) else {
            println!("{name:<22} escaped for {SEEDS} seeds: {wanted} never broke, but {found:?}");
            escaped.push(mutant);
            continue;
        };
        furthest = furthest.max(seed);
        let after = seed - first + 1;
        let others = found.iter().map(|(other, at)| format!("{other} after {}", at - first + 1));
        let others = others.collect::<Vec<_>>().join(", ");
        println!("{name:<22} {:<36} {seed:>15} {after:>6}  {others}", wanted.to_string());
    }
    escaped.extend(tags_escape().then_some(Mutant::UnknownMessageIgnored));
    assert!(escaped.is_empty(), "not caught: {escaped:?}");
    for seed in first..=furthest {
        let violations = run(seed, false).violations;
        assert!(violations.is_empty(), "seed {seed} fails without any bug: {violations:?}");
    }
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
