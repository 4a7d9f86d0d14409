//! Version 2: addresses in binary, and what else a proxy wants to say behind them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use petrel_proto::Text;

use super::{HEADER_BYTES_MAX, Header, ProxyFault, begins_like};
use crate::certificate::user::{NameFault, acceptable};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const UDP_OVER_IPV4: u8 = 0x12;
const TCP_OVER_IPV6: u8 = 0x21;
const UDP_OVER_IPV6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

const UNIX_ADDRESSES_BYTES: usize = 216;

const TYPE_AUTHORITY: u8 = 0x02;
const TYPE_CRC32C: u8 = 0x03;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_SSL_CN: u8 = 0x22;

/// The client came by TLS.
const CLIENT_SSL: u8 = 0x01;
/// It showed a certificate, on this connection or on the session that it resumed.
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

pub(super) fn parse(input: &[u8]) -> Result<Option<(Header, usize)>, ProxyFault> {
    if !begins_like(input, SIGNATURE) {
        return Err(ProxyFault::NoHeader);
    }
    let Some(&[command, family, high, low]) = input.get(12..).and_then(<[u8]>::first_chunk) else {
        return match input.get(12) {
            Some(&command) if ![LOCAL, PROXY].contains(&command) => Err(ProxyFault::Malformed),
            _ => Ok(None),
        };
    };
    if ![LOCAL, PROXY].contains(&command) {
        return Err(ProxyFault::Malformed);
    }
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_BYTES_MAX {
        return Err(ProxyFault::TooLong);
    }
    let Some(header) = input.get(..length) else { return Ok(None) };
    if command == LOCAL {
        // The proxy speaks for itself; what it says of addresses is to be ignored.
        return Ok(Some((Header::default(), length)));
    }
    let body = header.get(FIXED_BYTES..).unwrap_or_default();
    let (source, rest) = match family {
        TCP_OVER_IPV4 => {
            let (addresses, rest) = body.split_first_chunk::<12>().ok_or(ProxyFault::Malformed)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            let source = (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
            (Some(SocketAddr::from(source)), rest)
        }
        TCP_OVER_IPV6 => {
            let (addresses, rest) = body.split_first_chunk::<36>().ok_or(ProxyFault::Malformed)?;
            let (ip, others) = addresses.split_first_chunk::<16>().ok_or(ProxyFault::Malformed)?;
            let [.., high, low, _, _] = *others else { return Err(ProxyFault::Malformed) };
            let ip = Ipv6Addr::from(*ip).to_canonical();
            (Some(SocketAddr::new(ip, u16::from_be_bytes([high, low]))), rest)
        }
        UNIX_STREAM => {
            let rest = body.get(UNIX_ADDRESSES_BYTES..).ok_or(ProxyFault::Malformed)?;
            (None, rest)
        }
        // How long addresses of an unknown kind are nobody knows, nor what stands behind them.
        UNSPECIFIED => return Ok(Some((Header::default(), length))),
        UDP_OVER_IPV4 | UDP_OVER_IPV6 | UNIX_DATAGRAM => return Err(ProxyFault::NotTcp),
        _ => return Err(ProxyFault::Malformed),
    };
    let mut said = Header { source, ..Header::default() };
    read_parts(header, rest, &mut said)?;
    Ok(Some((said, length)))
}

/// Reads what stands behind the addresses of a header.
fn read_parts(header: &[u8], parts: &[u8], said: &mut Header) -> Result<(), ProxyFault> {
    let mut has_ssl = false;
    let mut parts = Parts(parts);
    while let Some(part) = parts.next() {
        let (kind, value) = part?;
        match kind {
            TYPE_AUTHORITY => {
                let name = acceptable(value).map_err(|_| ProxyFault::Malformed)?;
                if said.authority.replace(name).is_some() {
                    return Err(ProxyFault::Malformed);
                }
            }
            TYPE_CRC32C => check(header, header.len() - parts.0.len(), value)?,
            TYPE_SSL => {
                if std::mem::replace(&mut has_ssl, true) {
                    return Err(ProxyFault::Malformed);
                }
                said.user = client_name(value)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Type, length and value, one after another.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u8, &'a [u8]), ProxyFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let split = rest.split_first_chunk::<3>().and_then(|(&[kind, high, low], rest)| {
            let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
            Some((kind, value, rest))
        });
        let Some((kind, value, rest)) = split else { return Some(Err(ProxyFault::Malformed)) };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

/// The Common Name of the client's certificate, if it has shown one and the proxy has verified it.
fn client_name(ssl: &[u8]) -> Result<Option<Text>, ProxyFault> {
    let (&[client, v0, v1, v2, v3], parts) =
        ssl.split_first_chunk::<5>().ok_or(ProxyFault::Malformed)?;
    let has_shown = client & CLIENT_SSL != 0 && client & CLIENT_CERTIFICATE != 0;
    let is_verified = [v0, v1, v2, v3] == [0; 4];
    let mut name = None;
    for part in Parts(parts) {
        let (kind, value) = part?;
        if kind == SUBTYPE_SSL_CN && name.replace(value).is_some() {
            return Err(ProxyFault::Name(NameFault::Several));
        }
    }
    name.filter(|_| has_shown && is_verified).map(acceptable).transpose().map_err(ProxyFault::Name)
}

/// Compares the checksum of a header, in which the checksum itself, which ends at `end`, counts as 0.
fn check(header: &[u8], end: usize, value: &[u8]) -> Result<(), ProxyFault> {
    let &[a, b, c, d] = value else { return Err(ProxyFault::Malformed) };
    let own = end.saturating_sub(value.len())..end;
    let counted = |(at, byte): (usize, &u8)| if own.contains(&at) { 0 } else { *byte };
    let bytes = header.iter().enumerate().map(counted);
    match crc32c(bytes) == u32::from_be_bytes([a, b, c, d]) {
        true => Ok(()),
        false => Err(ProxyFault::Checksum),
    }
}

/// The CRC of Castagnoli, RFC 3720 appendix B.4, bit by bit: few proxies send one, and once.
pub(super) fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 }
        })
    };
    !bytes.fold(!0, step)
}
