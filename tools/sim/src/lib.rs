//! The simulator: shards, clients and one virtual clock, all from one seed, watched by oracles.
//!
//! A run builds up to five [`petrel_shard::Shard`]s with rings between them, lets random clients
//! of all three versions loose on them as byte streams, and checks every input and output against
//! a plain account of what the specification wants ([`model`], [`oracle`]). The same seed gives the
//! same run, so a fault that was seen once can be looked at for as long as it takes.
//!
//! It must never look into a shard: it sees what the pump sees, and the counts at the end.
#![forbid(unsafe_code)]

pub mod client;
pub mod crash;
pub mod finale;
pub mod hostile;
pub mod label;
pub mod link;
pub mod model;
pub mod oracle;
pub mod policy;
pub mod rng;
pub mod sabotage;
pub mod scenario;
pub mod storm;
pub mod trace;
pub mod violation;
pub mod watch;
pub mod workload;
pub mod world;

pub use sabotage::Sabotage;
pub use violation::Violation;

use trace::Trace;
use world::World;

/// What a run left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Hash of all inputs and outputs: equal for equal runs.
    pub hash: u64,
    /// Messages that the broker accepted.
    pub messages: usize,
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
}

/// Runs one seed to its end or to the first broken rule.
#[must_use]
pub fn run(seed: u64, sabotage: Option<Sabotage>, print: bool) -> Outcome {
    let mut world = World::new(seed, sabotage, Trace::new(print));
    let violation = world.run().err();
    Outcome { hash: world.trace.hash, messages: world.model.instances.len(), violation }
}

/// Runs a seed while somebody watches, which must make no difference. Returns how much was said as well.
#[must_use]
pub fn run_watched(seed: u64, print: bool) -> (Outcome, u64) {
    let mut world = World::new(seed, None, Trace::new(print));
    world.watcher = Some(watch::Watcher::new(seed));
    let violation = world.run().err();
    let said = world.watcher.map_or(0, |watcher| watcher.said);
    let messages = world.model.instances.len();
    (Outcome { hash: world.trace.hash, messages, violation }, said)
}
