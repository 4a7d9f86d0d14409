//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Header, ProxyFault, begins_like};

/// Longest line, its end included; what a proxy may send at most.
const LINE_BYTES_MAX: usize = 107;

const SIGNATURE: &[u8] = b"PROXY ";

pub(super) fn parse(input: &[u8]) -> Result<Option<(Header, usize)>, ProxyFault> {
    if !begins_like(input, SIGNATURE) {
        return Err(ProxyFault::NoHeader);
    }
    let window = input.get(..LINE_BYTES_MAX).unwrap_or(input);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if input.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProxyFault::TooLong) };
    };
    let line = window.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(ProxyFault::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        // Whatever stands behind it is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(addresses::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(addresses::<Ipv6Addr>(words)?),
        _ => return Err(ProxyFault::Malformed),
    };
    Ok(Some((Header { source, ..Header::default() }, end + 1)))
}

/// `SOURCE DESTINATION SOURCE-PORT DESTINATION-PORT`, and nothing behind.
fn addresses<'a, A: FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<SocketAddr, ProxyFault> {
    let mut read = || {
        let source: A = words.next()?.parse().ok()?;
        let _destination: A = words.next()?.parse().ok()?;
        let source_port = port(words.next()?)?;
        port(words.next()?)?;
        words.next().is_none().then(|| SocketAddr::new(source.into().to_canonical(), source_port))
    };
    read().ok_or(ProxyFault::Malformed)
}

/// A number from 0 to 65,535 in its shortest form.
fn port(word: &str) -> Option<u16> {
    let is_shortest = word == "0" || !word.starts_with('0');
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| is_shortest && is_number)
}
