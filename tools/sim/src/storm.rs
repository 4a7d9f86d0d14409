//! The storm simulator: what becomes of a million clients that are cut at once.
//!
//! One core after the other is simulated with its shard, its queue in the kernel and its share of
//! the clients, on a virtual clock, with unit costs that were measured. Whose turn it is next is
//! decided by the broker's own [`petrel_net::admission::Admission`]; other policies are here for
//! comparison. Shards do not meet in a storm, so they are simulated apart; that a client's next
//! attempt reaches another shard in reality changes who is served, not how many.
//!
//! What it must never do: ask the machine that it runs on for anything. Same seed, same result.

pub mod command;
mod core;
mod fleet;
pub mod policy;
pub mod report;
pub mod setting;
pub mod tally;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

pub use policy::Policy;
pub use report::Report;
pub use setting::{Costs, Setting};
pub use tally::Tally;

use self::core::Core;
use crate::rng::Rng;

/// Seconds of quiet that messages of connected clients are compared with.
const QUIET_S: u64 = 5;

/// Simulates a storm on so many threads, and beside it what the report compares it with.
#[must_use]
pub fn simulate(setting: &Setting, jobs: usize) -> Report {
    let quiet = Setting { clients: 0, horizon_s: QUIET_S, ..*setting };
    Report {
        setting: *setting,
        tally: account(setting, jobs),
        overload: account(&Setting { cores: 1, sample: 1, ..*setting }.overload(10), 1),
        quiet: account(&Setting { cores: 1, sample: 1, ..quiet }, 1),
    }
}

/// Simulates a storm and nothing beside it.
///
/// # Panics
/// If a thread of the simulation does.
#[must_use]
pub fn account(setting: &Setting, jobs: usize) -> Tally {
    let shares = shares(setting);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut tally = Tally::new(0);
        while let Some(&clients) = shares.get(next.fetch_add(1, Ordering::Relaxed)) {
            tally.add(&Core::new(setting, clients.1, clients.0).run());
        }
        tally
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.clamp(1, shares.len())).map(|_| scope.spawn(work)).collect();
        let mut tally = Tally::new(0);
        for thread in threads {
            tally.add(&thread.join().expect("a simulation does not panic"));
        }
        tally
    })
}

/// The seed of each shard, and how many clients the kernel's hash gives it.
fn shares(setting: &Setting) -> Vec<(u64, u32)> {
    let mut rng = Rng::new(setting.seed);
    let seeds: Vec<u64> = (0..setting.cores).map(|_| rng.bits()).collect();
    let mut clients = vec![0; setting.cores as usize];
    for _ in 0..setting.clients {
        clients[rng.index(setting.cores as usize)] += 1;
    }
    let sample = setting.sample.min(setting.cores) as usize;
    seeds.into_iter().zip(clients).take(sample).collect()
}
