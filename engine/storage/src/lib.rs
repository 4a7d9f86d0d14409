//! What must outlive the process: lanes of records over a keyed store.
//!
//! A [`Lane`] turns the [`petrel_shard::record::Record`]s of the shards into bytes, writes them in
//! groups to a [`Store`], and gives them back after a restart. It knows nothing of connections and
//! decides nothing about MQTT; what is kept, and who waits for it, is the shard's business.
//!
//! Nothing that a lane has said to be kept is lost by a failure of the process, nor, with
//! [`SyncLevel::Commit`], of the machine: after any failure the store holds a prefix of what each
//! shard sent, at least as long as the lane has said.
#![forbid(unsafe_code)]

pub mod backup;
pub mod check;
pub mod codec;
pub mod control;
pub mod disk;
mod ends;
mod fill;
pub mod journal;
mod lane;
mod log;
pub mod log_files;
pub mod memory;
pub mod page;
pub mod repair;
mod restore;
mod salvage;
#[cfg(test)]
mod sample;
mod segment;
mod shared;
pub mod store;
mod view;
mod window;

pub use check::{Report, check, check_view};
pub use codec::Clock;
pub use disk::{Alive, DiskOptions, DiskStore, LIMIT_BYTES_MIN, Sweep, make_private};
pub use ends::{Ends, Order};
pub use lane::{Lane, LaneSettings, Page, SyncLevel, Walk, Written, begin};
pub use restore::{Restored, restore, restore_on_threads};
pub use store::{Batch, Maps, Space, Store, StoreError, Usage};
pub use view::View;
