//! The rules of `[[listener]]` that concern more than one key, and the files it names.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::keys::RawListener;
use super::problem::Problems;
use super::read::Places;
use super::{DEFAULT_PATH, Listener, Protocol, TlsFiles};

/// A `[[listener]]` and where it stands in the text.
pub(super) struct PlacedListener {
    pub raw: RawListener,
    /// Offset of its header.
    pub at: usize,
    /// Offset of each value that it has, right or wrong.
    pub places: Places,
}

impl PlacedListener {
    /// Where to point for a key: at its value, else at the header.
    fn place(&self, key: &str) -> usize {
        self.places.get(key).copied().unwrap_or(self.at)
    }
}

/// Checks every listener by itself and against those before it; leaves out those with problems.
pub(super) fn listeners(
    raw: Vec<PlacedListener>,
    folder: &Path,
    problems: &mut Problems,
) -> Vec<Listener> {
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
        let (Some(protocol), Some(address)) = (placed.raw.protocol, address) else { continue };
        let allow_anonymous = allow_anonymous(placed, address, problems);
        let tls = tls(placed, protocol, folder, problems);
        let path = path(placed, protocol, problems);
        accepted.push(Listener { protocol, address, allow_anonymous, tls, path });
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
    address
}

/// The rule that keeps a broker without authentication from being open by accident.
fn allow_anonymous(placed: &PlacedListener, address: SocketAddr, problems: &mut Problems) -> bool {
    let loopback = address.ip().to_canonical().is_loopback();
    if !loopback && placed.raw.allow_anonymous != Some(true) {
        // A value of the wrong type has been reported already.
        if placed.raw.allow_anonymous.is_some() || !placed.places.contains_key("allow_anonymous") {
            problems.add(
                placed.place("address"),
                format!(
                    "{address} can be reached from other machines and no authentication is \
                     configured; listen on a loopback address such as 127.0.0.1:{}, or write \
                     `allow_anonymous = true` in this [[listener]] to let everybody in",
                    address.port()
                ),
            );
        }
    }
    placed.raw.allow_anonymous.unwrap_or(loopback)
}

fn tls(
    placed: &PlacedListener,
    protocol: Protocol,
    folder: &Path,
    problems: &mut Problems,
) -> Option<TlsFiles> {
    let name = protocol.name();
    if !protocol.is_tls() {
        let secure = if protocol == Protocol::Ws { "wss" } else { "mqtts" };
        for key in ["cert", "key"] {
            if placed.places.contains_key(key) {
                problems.add(
                    placed.place(key),
                    format!(
                        "`{key}` has no use for protocol \"{name}\", which is not encrypted; \
                         write protocol = \"{secure}\" for TLS, or take `{key}` out"
                    ),
                );
            }
        }
        return None;
    }
    for key in ["cert", "key"] {
        if !placed.places.contains_key(key) {
            problems.add(
                placed.at,
                format!("protocol \"{name}\" needs `{key}`, and this [[listener]] has none"),
            );
        }
    }
    let resolved = |path: &String| folder.join(path);
    let cert = placed.raw.cert.as_ref().map(resolved);
    let key = placed.raw.key.as_ref().map(resolved);
    if let Some(sentence) = cert.as_ref().and_then(certificate_problem) {
        problems.add(placed.place("cert"), sentence);
    }
    if let Some(sentence) = key.as_ref().and_then(key_problem) {
        problems.add(placed.place("key"), sentence);
    }
    Some(TlsFiles { cert: cert?, key: key? })
}

fn certificate_problem(file: &PathBuf) -> Option<String> {
    let found = CertificateDer::pem_file_iter(file).and_then(|certificates| {
        certificates.collect::<Result<Vec<_>, _>>().map(|certificates| certificates.len())
    });
    match found {
        Ok(0) | Err(pem::Error::NoItemsFound) => Some(format!(
            "the certificate file {} holds no certificate in PEM form",
            file.display()
        )),
        Ok(_) => None,
        Err(error) => Some(unreadable("certificate", file, error)),
    }
}

fn key_problem(file: &PathBuf) -> Option<String> {
    match PrivateKeyDer::from_pem_file(file) {
        Ok(_) => None,
        Err(pem::Error::NoItemsFound) => Some(format!(
            "the key file {} holds no private key in PEM form that is not encrypted",
            file.display()
        )),
        Err(error) => Some(unreadable("key", file, error)),
    }
}

fn unreadable(what: &str, file: &Path, error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot read the {what} file {}: {error}", file.display()),
        other => format!("the {what} file {} is not valid PEM: {other}", file.display()),
    }
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
