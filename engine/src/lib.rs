//! Petrel's composition: what runs in one process and how its parts are joined.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod log;
pub mod preflight;
