//! One connection to a broker, for programs that wait for one thing at a time.

mod connection;
mod exchanges;
mod signals;
mod tls;
mod trace;
mod transport;

pub use connection::{Connection, Happening, PACKET_BYTES_MAX};
pub use exchanges::{Event, Exchanges, subscribe};
pub use signals::Signals;
pub use tls::make as make_tls;
