//! Petrel's composition: what runs in one process and how its parts are joined.
#![deny(unsafe_code)]

#[cfg(feature = "admin")]
pub mod admin;
pub mod auth;
pub mod boot;
pub mod certificates;
pub mod cli;
pub mod config;
pub mod control;
pub mod doorway;
pub mod executor;
pub mod figures;
pub mod grace;
pub mod guard;
pub mod keeper;
pub mod log;
pub mod memory;
pub mod preflight;
pub mod pump;
pub mod reins;
pub mod report;
pub mod shards;
pub mod storage;
mod sys;
pub mod systemd;
pub mod trace;
pub mod watchdog;
