//! The broker holds for many seeds, and does not hold when a fault is built in.

use petrel_sim::{Sabotage, crash, run, run_watched};

/// Seeds that a fault gets to show itself.
const SEEDS_PER_FAULT: u64 = 60;

#[test]
fn no_seed_breaks_a_rule() {
    for seed in 0..100 {
        let outcome = run(seed, None, false);
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}\nreplay with: petrel-sim --seed {seed} --trace");
        }
    }
}

#[test]
fn no_crash_breaks_a_promise() {
    for seed in 0..100 {
        let settings = crash::Settings { seed, steps: crash::CRASH_STEPS, trace: false };
        if let Err(violation) = crash::run(settings) {
            panic!("seed {seed}: {violation}\nreplay with: petrel-sim crash --seed {seed} --trace");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, None, false).hash, run(seed, None, false).hash, "seed {seed}");
    }
}

/// Everything that is in a run is said to somebody who watches all of it, too.
#[test]
fn who_watches_changes_nothing() {
    let mut said_in_all = 0;
    for seed in 0..100 {
        let (watched, said) = run_watched(seed, false);
        if let Some(violation) = watched.violation {
            panic!("seed {seed}, watched: {violation}");
        }
        assert_eq!(watched.hash, run(seed, None, false).hash, "seed {seed}");
        said_in_all += said;
    }
    assert!(said_in_all > 100_000, "only {said_in_all} things were said");
}

#[test]
fn different_seeds_give_different_runs() {
    assert_ne!(run(1, None, false).hash, run(2, None, false).hash);
}

#[test]
fn every_fault_that_is_built_in_is_seen() {
    for fault in Sabotage::ALL {
        let seen = (0..SEEDS_PER_FAULT).find_map(|seed| {
            run(seed, Some(fault), false).violation.map(|violation| (seed, violation))
        });
        let (seed, violation) = seen.unwrap_or_else(|| panic!("{fault:?} was never seen"));
        println!("{fault:?}: seed {seed}: {violation}");
    }
}
