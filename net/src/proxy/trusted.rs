//! Which proxies are believed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let cut = |bits_of_all: u32| bits_of_all - u32::from(self.bits).min(bits_of_all);
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differs = u32::from(base) ^ u32::from(address);
                differs.checked_shr(cut(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let differs = u128::from(base) ^ u128::from(address);
                differs.checked_shr(cut(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// A text names no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkError;

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no address and no range of addresses such as \"10.0.0.0/8\"")
    }
}

impl std::error::Error for NetworkError {}

impl FromStr for Network {
    type Err = NetworkError;

    /// `10.0.0.0/8`, or one address.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (base, bits) = match text.split_once('/') {
            None => (text, None),
            Some((base, bits)) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (base, Some(bits.parse::<u8>().map_err(|_| NetworkError)?))
            }
            Some(_) => return Err(NetworkError),
        };
        let base: IpAddr = base.parse().map_err(|_| NetworkError)?;
        let all = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        if bits > all { Err(NetworkError) } else { Ok(Self { base, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// The proxies of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxies {
    /// Where they connect from.
    pub trusted: Vec<Network>,
    /// Whether the Common Name that they have verified is the client's user.
    pub name_users: bool,
}

impl Proxies {
    /// Whether who connects from there is believed.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        // An IPv4 address looks the same, whichever socket it comes in by.
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(address))
    }
}
