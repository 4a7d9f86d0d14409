//! The PROXY protocol, versions 1 and 2: what a proxy says about a connection before the client's bytes.
//!
//! Owns the way from the first bytes of a connection to a [`Header`]. Pure: it has no sockets and keeps
//! nothing. Whoever calls it gives it all bytes since the beginning, and has checked before that they come
//! from somebody who is believed ([`Proxies`]).
//!
//! Invariants:
//! - a header has at most [`HEADER_BYTES_MAX`] bytes, and says so within its first 107;
//! - what is no header is found out at the first byte that shows it;
//! - a header is believed as a whole or not at all.

mod trusted;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;

use petrel_proto::Text;

use crate::certificate::user::NameFault;

pub use trusted::{Network, NetworkError, Proxies};

/// Longest header that is taken, in bytes.
///
/// *Bounds*: one of version 1 has at most 107. Version 2 could have 65,551, but for what we know nobody
/// sends more than some hundred, and each connection that is begun may make us hold as much.
pub const HEADER_BYTES_MAX: usize = 16 + 4096;

/// What a proxy says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Where the client comes from; `None` if the proxy speaks for itself or does not know.
    pub source: Option<SocketAddr>,
    /// The host name that the client has asked the proxy for.
    pub authority: Option<Text>,
    /// The Common Name of the certificate that the client has shown to the proxy, which has verified it.
    pub user: Option<Text>,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyFault {
    /// They begin like none.
    NoHeader,
    /// It has more bytes than we take.
    TooLong,
    /// It breaks the rules of its version.
    Malformed,
    /// It is about something other than a TCP connection.
    NotTcp,
    /// Its checksum is wrong.
    Checksum,
    /// The name of the client's certificate is no good.
    Name(NameFault),
}

impl fmt::Display for ProxyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHeader => "there is no header of the PROXY protocol",
            Self::TooLong => "the header of the PROXY protocol is too long",
            Self::Malformed => "the header of the PROXY protocol is malformed",
            Self::NotTcp => "the header of the PROXY protocol is not about TCP",
            Self::Checksum => "the checksum of the PROXY protocol's header is wrong",
            Self::Name(fault) => return fault.fmt(f),
        })
    }
}

impl std::error::Error for ProxyFault {}

/// Reads the header at the beginning of `input`: what it says and how many bytes it has, or `None` if not
/// all of it is there.
///
/// # Errors
/// There is none, or it cannot be believed.
pub fn parse(input: &[u8]) -> Result<Option<(Header, usize)>, ProxyFault> {
    match input.first() {
        None => Ok(None),
        Some(b'P') => v1::parse(input),
        Some(_) => v2::parse(input),
    }
}

/// Whether `input` begins like `signature`, as far as it goes.
fn begins_like(input: &[u8], signature: &[u8]) -> bool {
    input.iter().zip(signature).all(|(byte, expected)| byte == expected)
}
