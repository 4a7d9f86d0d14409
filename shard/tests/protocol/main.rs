//! The protocol, statement by statement, against shards that speak bytes.
//!
//! Each test names the statements it holds; `docs/CONFORMANCE.md` is made from those names.

mod harness;
mod packets;
mod parts;
mod peer;

mod access;
mod alias;
mod auth;
mod away;
mod connect;
mod disconnect;
mod expiry;
mod flow;
mod keep_alive;
mod kept;
mod lend;
mod limits;
mod look;
mod mesh;
mod oldest;
mod own;
mod publish;
mod qos;
mod retained;
mod session;
mod share;
mod subscribe;
mod watch;
mod will;
