//! Who clients are and what they may do.
//!
//! Owns the files of passwords and of rules, the threads that check what clients say of themselves, and the runtime
//! that asks others. A shard asks through a [`Desk`] and never waits: what is known is answered at once, the rest
//! comes when it is there. Secrets are compared in constant time, are shown nowhere, and leave this crate for
//! nobody but those whom the configuration names.
#![forbid(unsafe_code)]
// A build that leaves a kind of back end out has no use for what only that kind says.
#![cfg_attr(
    not(all(feature = "http", feature = "ldap", feature = "postgresql")),
    allow(dead_code, unused_imports, irrefutable_let_patterns, unreachable_code)
)]

pub mod back_end;
pub mod bearer;
pub mod breaker;
pub mod check;
pub mod desk;
pub mod files;
#[cfg(feature = "http")]
pub mod http;
pub mod journal;
#[cfg(feature = "http")]
pub mod jwks;
mod known;
#[cfg(feature = "ldap")]
pub mod ldap;
pub mod office;
pub mod passwords;
#[cfg(feature = "postgresql")]
pub mod postgresql;
pub mod rules;
pub mod scram;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod trust;

pub use back_end::{BackEnd, Terms};
pub use check::{Chain, Check, Checks, Finding, OnFailure, Why};
pub use desk::{Answer, Desk, Settings};
pub use journal::{Notice, Outside};
pub use office::Office;
pub use passwords::Passwords;
pub use tokens::Tokens;
