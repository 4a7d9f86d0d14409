//! Faults in the shards: each of them is seen within a bounded number of seeds.
//!
//! `cargo test -p petrel-sim --features sabotage`

use std::panic::{AssertUnwindSafe, catch_unwind};

use petrel_shard::sabotage::{Sabotage, set};
use petrel_sim::crash::{CRASH_STEPS, Settings};
use petrel_sim::run;

/// Seeds that a fault gets to show itself.
const SEEDS_PER_FAULT: u64 = 2_000;

#[test]
fn every_fault_in_a_shard_is_seen() {
    each_is_seen(&Sabotage::ALL, violation);
}

/// The same for what is kept, in runs with crashes.
#[test]
fn every_fault_of_keeping_is_seen() {
    each_is_seen(&Sabotage::ALL_OF_KEEPING, crash_violation);
}

fn each_is_seen(faults: &[Sabotage], violation: impl Fn(u64) -> Option<String>) {
    let mut unseen = Vec::new();
    for &fault in faults {
        set(Some(fault));
        let seen = (0..SEEDS_PER_FAULT).find_map(|seed| Some((seed, violation(seed)?)));
        set(None);
        match seen {
            Some((seed, violation)) => println!("{fault:?}: seed {seed}: {violation}"),
            None => unseen.push(fault),
        }
    }
    assert!(unseen.is_empty(), "never seen: {unseen:?}");
}

fn crash_violation(seed: u64) -> Option<String> {
    let settings = Settings { seed, steps: CRASH_STEPS, trace: false };
    match catch_unwind(AssertUnwindSafe(|| petrel_sim::crash::run(settings))) {
        Ok(outcome) => outcome.err().map(|violation| violation.to_string()),
        Err(_) => Some("the shard's own assertions".into()),
    }
}

/// What is wrong with a seed. An assertion of the shard itself may see a fault first.
fn violation(seed: u64) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run(seed, None, false))) {
        Ok(outcome) => outcome.violation.map(|violation| violation.to_string()),
        Err(_) => Some("the shard's own assertions".into()),
    }
}
