//! `[admin]`: where people and machines ask about the broker, and who may.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::keys::RawAdmin;
use super::problem::Problems;
use super::read::Places;

/// `[admin]`: what is asked and done over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// The file of tokens, its path resolved; without it only a file in the control folder lets anybody in.
    pub tokens: Option<PathBuf>,
    /// The files of certificate chain and key, their paths resolved; without them it speaks plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
}

impl AdminConfig {
    /// An interface that speaks plain HTTP and knows no tokens.
    #[must_use]
    pub const fn at(address: SocketAddr) -> Self {
        Self { address, tokens: None, tls: None }
    }

    /// Whether others than this machine may reach it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback()
    }

    /// How its URLs begin, with the port that it got.
    #[must_use]
    pub fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    /// What the file says, or what is wrong with it.
    pub(super) fn new(
        raw: RawAdmin,
        folder: &Path,
        places: &Places,
        problems: &mut Problems,
    ) -> Option<Self> {
        let at = |name: &str| places.get(name).copied().unwrap_or(0);
        let resolve = |path: PathBuf| folder.join(path);
        let tls = match (raw.cert.map(resolve), raw.key.map(resolve)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                problems.add(at("cert"), "`cert` without `key`: TLS needs both");
                None
            }
            (None, Some(_)) => {
                problems.add(at("key"), "`key` without `cert`: TLS needs both");
                None
            }
        };
        let others = ["tokens", "cert", "key"].into_iter().find(|name| places.contains_key(name));
        let Some(text) = raw.address else {
            if let Some(name) = others {
                let text = format!(
                    "`{name}` without `address`: say where the admin interface listens, as in address = \
                     \"127.0.0.1:9180\""
                );
                problems.add(at(name), text);
            }
            return None;
        };
        let Ok(address) = text.parse::<SocketAddr>() else {
            let text = format!(
                "\"{}\" is not an address to listen on; write an IP address and a port, as in \
                 \"127.0.0.1:9180\"",
                crate::log::Escaped(text.as_bytes())
            );
            problems.add(at("address"), text);
            return None;
        };
        let config = Self { address, tokens: raw.tokens.map(resolve), tls };
        if config.is_open() && config.tokens.is_none() {
            let text = format!(
                "`address` is {address}, which others than this machine may reach: name a file of `tokens`, \
                 which petrelctl token writes, or listen on loopback, as in \"127.0.0.1:9180\""
            );
            problems.add(at("address"), text);
            return None;
        }
        Some(config)
    }
}

impl fmt::Display for AdminConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url(self.address))?;
        match &self.tokens {
            Some(file) => write!(f, ", tokens from {}", file.display()),
            None => Ok(()),
        }
    }
}
