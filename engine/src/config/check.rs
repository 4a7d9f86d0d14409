//! The rules of `[[listener]]` that concern more than one key, and the files it names.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::authenticator::{Authenticator, AuthenticatorKind};
use super::keys::RawListener;
use super::problem::Problems;
use super::read::Places;
use super::security::{PlacedCertificate, security};
use super::{DEFAULT_PATH, Listener, Protocol};

/// A `[[listener]]` and where it stands in the text.
pub(super) struct PlacedListener {
    pub raw: RawListener,
    /// Offset of its header.
    pub at: usize,
    /// Offset of each value that it has, right or wrong.
    pub places: Places,
    /// Its `[[listener.certificate]]`s.
    pub certificates: Vec<PlacedCertificate>,
}

impl PlacedListener {
    /// Where to point for a key: at its value, else at the header.
    pub fn place(&self, key: &str) -> usize {
        self.places.get(key).copied().unwrap_or(self.at)
    }
}

/// Checks every listener by itself and against those before it; leaves out those with problems.
pub(super) fn listeners(
    raw: Vec<PlacedListener>,
    authenticators: &[Authenticator],
    folder: &Path,
    problems: &mut Problems,
) -> Vec<Listener> {
    let mut names: Vec<String> = Vec::new();
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut accepted = Vec::new();
    for placed in &raw {
        let address = address(placed, problems);
        if let Some(address) = address {
            if address.port() != 0 && addresses.contains(&address) {
                problems.add(
                    placed.place("address"),
                    format!("another listener has the address {address} already"),
                );
            }
            addresses.push(address);
        }
        for key in ["protocol", "address"] {
            if !placed.places.contains_key(key) {
                problems.add(placed.at, format!("this [[listener]] has no `{key}`"));
            }
        }
        let authentication = authentication(placed, authenticators, problems);
        let (Some(protocol), Some(address)) = (placed.raw.protocol, address) else { continue };
        let name = placed.raw.name.clone().unwrap_or_else(|| address.to_string());
        if placed.raw.name.is_some() && (name.is_empty() || names.contains(&name)) {
            let text = format!("the name {name:?} is empty, or another listener has it already");
            problems.add(placed.place("name"), text);
        }
        names.push(name.clone());
        let allow_anonymous = allow_anonymous(placed, address, problems);
        let (tls, security) = security(placed, protocol, folder, problems);
        let by_certificate =
            |at: &usize| authenticators[*at].kind == AuthenticatorKind::Certificate;
        if authentication.iter().any(by_certificate) && !security.names_users() {
            let text = "`authentication` asks for the user of a client's certificate, and no client \
                        of this [[listener]] has one; write `client_certificate` and `client_ca`";
            problems.add(placed.place("authentication"), text);
        }
        let path = path(placed, protocol, problems);
        let record_layer = placed.raw.record_layer;
        accepted.push(Listener {
            name,
            authentication,
            protocol,
            address,
            allow_anonymous,
            connections_maximum: placed.raw.connections_maximum,
            tls,
            record_layer,
            security,
            path,
        });
    }
    accepted
}

fn address(placed: &PlacedListener, problems: &mut Problems) -> Option<SocketAddr> {
    let text = placed.raw.address.as_deref()?;
    let address = text.parse::<SocketAddr>().ok();
    if address.is_none() {
        let shown = crate::log::Escaped(text.as_bytes());
        let hint = match text.rsplit_once(':') {
            _ if text.parse::<IpAddr>().is_ok() => {
                let port = placed.raw.protocol.map_or(1883, usual_port);
                let ip = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
                format!("add the port, as in \"{ip}:{port}\"")
            }
            Some(("localhost", port)) => format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
            Some(("" | "*", port)) => format!("for every interface write \"0.0.0.0:{port}\""),
            None if text.parse::<u16>().is_ok() => format!("write \"127.0.0.1:{text}\""),
            _ => "write an IP address and a port, as in \"127.0.0.1:1883\"".to_owned(),
        };
        problems.add(
            placed.place("address"),
            format!("\"{shown}\" is not an address to listen on; {hint}"),
        );
    }
    if let Some(SocketAddr::V6(mapped)) = address
        && let Some(ip) = mapped.ip().to_ipv4_mapped()
    {
        let hint = format!("an IPv4 address in the form of IPv6; write \"{ip}:{}\"", mapped.port());
        problems.add(placed.place("address"), format!("\"{text}\" is {hint}"));
        return None;
    }
    address
}

/// Who is asked for clients.
fn authentication(
    placed: &PlacedListener,
    authenticators: &[Authenticator],
    problems: &mut Problems,
) -> Vec<usize> {
    let mut chain = Vec::new();
    for name in &placed.raw.authentication {
        match authenticators.iter().position(|it| it.name == *name) {
            Some(position) if chain.contains(&position) => {
                let text = format!("`authentication` names {name:?} twice");
                problems.add(placed.place("authentication"), text);
            }
            Some(position) => chain.push(position),
            None => {
                let text = format!("there is no [[authenticator]] with the name {name:?}");
                problems.add(placed.place("authentication"), text);
            }
        }
    }
    chain
}

/// The rule that keeps a broker without authentication from being open by accident.
fn allow_anonymous(placed: &PlacedListener, address: SocketAddr, problems: &mut Problems) -> bool {
    if placed.places.contains_key("authentication") {
        return placed.raw.allow_anonymous.unwrap_or(false);
    }
    let loopback = address.ip().is_loopback();
    if !loopback && placed.raw.allow_anonymous != Some(true) {
        // A value of the wrong type has been reported already.
        if placed.raw.allow_anonymous.is_some() || !placed.places.contains_key("allow_anonymous") {
            problems.add(
                placed.place("address"),
                format!(
                    "{address} can be reached from other machines and no authentication is \
                     configured for it; name an [[authenticator]] in `authentication`, listen \
                     on a loopback address such as 127.0.0.1:{}, or {} \
                     `allow_anonymous = true` in this [[listener]] to let everybody in",
                    address.port(),
                    match placed.raw.allow_anonymous {
                        Some(_) => "change the line to",
                        None => "write",
                    }
                ),
            );
        }
    }
    placed.raw.allow_anonymous.unwrap_or(loopback)
}

fn path(placed: &PlacedListener, protocol: Protocol, problems: &mut Problems) -> String {
    let given = placed.raw.path.as_deref();
    if !protocol.is_websocket() {
        if placed.places.contains_key("path") {
            problems.add(
                placed.place("path"),
                format!(
                    "`path` has no use for protocol \"{}\"; it is for ws and wss",
                    protocol.name()
                ),
            );
        }
        return String::new();
    }
    let path = given.unwrap_or(DEFAULT_PATH);
    let in_url = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    if !path.starts_with('/') || path.len() > 256 || !path.bytes().all(in_url) {
        problems.add(
            placed.place("path"),
            "`path` must be the path of a URL, as in \"/mqtt\": a slash, then at most 255 \
             characters without spaces, ? and #",
        );
    }
    path.to_owned()
}

/// The registered port of each protocol, or the one that users know.
fn usual_port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Mqtt => 1883,
        Protocol::Mqtts => 8883,
        Protocol::Ws => 8083,
        Protocol::Wss => 8084,
    }
}
