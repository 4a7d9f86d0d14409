//! The broker's mind for one core: pure, synchronous, deterministic.
//!
//! A [`Shard`] owns the sessions, subscriptions, shared groups and retained messages whose slot is
//! homed on it. It is driven by [`Shard::handle`], one [`Input`] at a time, and answers through an
//! [`Outbox`]. It has no clock, no randomness of its own, no I/O and no error on its public face:
//! what a client does wrong becomes a DISCONNECT in the outbox.
//!
//! It must never block, never call out, and never depend on the number of shards for its keys:
//! everything is keyed by [`Slot`].
#![forbid(unsafe_code)]

pub mod access;
mod ack;
mod alias;
mod auth;
mod author;
mod buckets;
mod census;
mod clients;
pub mod config;
mod connect;
mod connection;
mod count;
mod deliver;
mod disconnect;
pub mod event;
mod fanout;
mod flow;
mod forms;
pub mod ids;
pub mod input;
pub mod interest;
mod keep;
mod ledger;
mod lend;
pub mod level_hash;
pub mod look;
mod losses;
pub mod mask;
pub mod matcher;
pub mod message;
mod name;
pub mod outbox;
mod own;
mod packet_ids;
mod parked;
mod passed;
pub mod peer;
mod places;
mod pool;
mod publish;
mod receivers;
pub mod record;
mod restore;
mod restored;
pub mod retained;
mod route;
mod routes;
#[cfg(feature = "sabotage")]
pub mod sabotage;
#[cfg(not(feature = "sabotage"))]
mod sabotage;
mod session;
mod shard;
mod share;
mod standing;
mod subscribe;
mod subscriptions;
mod table;
mod timers;
pub mod traced;
mod waiting;
mod wanted;
pub mod watch;
pub mod wheel;

pub use author::Author;
pub use census::{Census, Totals, Walk};
pub use config::{Access, Limits, QueueFull, ShardConfig};
pub use connect::refusal;
pub use count::Waiting;
pub use event::{DropReason, Drops, EndedBy, Event, Limit, Limited};
pub use ids::{ConnId, SessionRef, ShardIndex, Slot, SlotMap};
pub use input::{Banned, Input, Now, Origin, Verdict};
pub use interest::{Interest, InterestWriter, ShardMask};
pub use keep::Keeping;
pub use ledger::Ledger;
pub use losses::{Loss, Losses};
pub use message::Message;
pub use outbox::{Asks, Credentials, Outbox, Question, Write};
pub use passed::{Passed, PassedHead};
pub use peer::{PeerMessage, Readiness};
pub use record::{Incarnation, Record};
pub use shard::Shard;
pub use standing::Identity;
pub use traced::{Traced, What};
pub use watch::{Subject, WATCHES_MAX, Watched, Watchers, Whence};
