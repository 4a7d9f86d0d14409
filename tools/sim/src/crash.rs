//! Crashes: shards over lanes over a disk that fails, all of which die together and come back.
//!
//! Clients here are few and dutiful: they keep their own side of the protocol over every loss of the
//! connection, and remember what they were promised. What waits in channels and what was not
//! synchronised is lost in a crash, a prefix of the latter perhaps not.

mod client;
mod oracle;
mod world;

pub use world::{Settings, run};

/// Steps of a run before it winds down.
pub const CRASH_STEPS: u32 = 4_000;
