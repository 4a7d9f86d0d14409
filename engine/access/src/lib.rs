//! Who clients are and what they may do.
//!
//! Owns the files of passwords and of rules, and the threads that check what clients say of themselves. A shard
//! asks through a [`Desk`] and never waits: what is known is answered at once, the rest comes when it is there.
//! Secrets are compared in constant time, are shown nowhere, and leave this crate for no other.
#![forbid(unsafe_code)]

pub mod desk;
pub mod passwords;
pub mod rules;
pub mod tokens;

pub use desk::{Answer, Checks, Desk, Office, Settings};
pub use passwords::Passwords;
pub use tokens::Tokens;
