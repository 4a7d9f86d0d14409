//! One connection to a broker, for programs that wait for one thing at a time.

mod connection;
mod signals;
mod tls;
mod trace;
mod transport;

pub use connection::{Connection, Happening};
