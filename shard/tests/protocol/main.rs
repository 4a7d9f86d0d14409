//! The protocol, statement by statement, against shards that speak bytes.
//!
//! Each test names the statements it holds; `docs/CONFORMANCE.md` is made from those names.

#![allow(dead_code, reason = "the short ways to write packets down grow with the tests")]

mod harness;
mod packets;
mod peer;

mod connect;
mod keep_alive;
mod publish;
mod qos;
mod retained;
mod session;
mod subscribe;
mod will;
