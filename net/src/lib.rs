//! Bytes in and out: sockets, TLS and WebSocket. Knows packets, not sessions.
//!
//! A [`Wire`] owns the connections of one shard. It must never block, and never hold more for a
//! connection than the limits it was given.
#![forbid(unsafe_code)]

pub mod admission;
pub mod bell;
pub mod bucket;
pub mod certificate;
mod conn;
mod deadlines;
pub mod doors;
pub mod listener;
mod outbound;
mod poller;
pub mod proxy;
pub mod runtime;
mod slab;
pub mod stages;
pub mod tls;
pub mod traffic;
mod transport;
pub mod volume;
pub mod websocket;
pub mod wire;

pub use bell::Bell;
pub use conn::{Link, Remote};
pub use listener::{Listener, Protocol};
pub use slab::ConnKey;
pub use wire::{Detached, ShutOut, Wire, WireEvent, WireLimits};
