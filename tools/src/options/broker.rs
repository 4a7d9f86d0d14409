//! The options of everything that connects: where the broker is, and who comes.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{Text, TopicName, Version};
use rustls::ClientConfig;

use super::common::{Common, Credentials};
use super::properties::PropertyList;
use super::url::{self, Url};
use super::{bytes, text, topic_name};
use crate::client::PACKET_BYTES_MAX;
use crate::failure::Failure;

/// What is between MQTT and TCP or TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Link {
    /// Nothing.
    #[default]
    Tcp,
    /// WebSocket, asking for this path.
    WebSocket {
        /// Starts with a slash.
        path: String,
    },
}

impl Link {
    /// The path that brokers usually have.
    pub const DEFAULT_PATH: &'static str = "/mqtt";
}

/// Whose certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that this system trusts.
    System,
    /// The authorities in a PEM file.
    File(PathBuf),
    /// Anybody's.
    Anybody,
}

/// TLS, if it is used.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// Whose certificates are accepted.
    pub trust: Trust,
    /// The client's own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What has been made of both, for many connections; `None` reads the files for each.
    pub made: Option<Arc<ClientConfig>>,
}

/// The options as they are typed. What is said for itself counts more than what a URL says.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Where the broker is")]
pub struct BrokerArguments {
    /// Name or address of the broker; default localhost.
    #[arg(short = 'h', long)]
    host: Option<String>,
    /// Default 1883; 8883 with TLS, 8083 with --ws, 8084 with both.
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// mqtt(s)://[user[:password]@]host[:port]/TOPIC, or ws(s)://[user[:password]@]host[:port][/PATH].
    #[arg(short = 'L', long, value_parser = url::parse)]
    url: Option<Url>,
    /// MQTT over WebSocket.
    #[arg(long)]
    ws: bool,
    /// The path that is asked for; default /mqtt.
    #[arg(long, value_name = "PATH", value_parser = websocket_path)]
    ws_path: Option<String>,
    /// Connect from this address of this machine.
    #[arg(short = 'A', value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// Use TLS, trusting the authorities of this system.
    #[arg(long, alias = "tls-use-os-certs", help_heading = "TLS")]
    tls: bool,
    /// Use TLS, trusting the authorities in this PEM file.
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    cafile: Option<PathBuf>,
    /// Use TLS and trust whoever answers.
    #[arg(long, help_heading = "TLS")]
    insecure: bool,
    /// PEM file with the client's own certificate.
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    cert: Option<PathBuf>,
    /// PEM file with its key.
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    key: Option<PathBuf>,
    /// User name.
    #[arg(short, long, value_name = "NAME", help_heading = "Who you are", value_parser = text,
          allow_hyphen_values = true)]
    username: Option<Text>,
    /// Password.
    #[arg(short = 'P', long = "pw", help_heading = "Who you are", allow_hyphen_values = true)]
    password: Option<OsString>,
    /// 5 (default; also mqttv5), 311 (mqttv311) or 31 (mqttv31).
    #[arg(short = 'V', long = "protocol-version", value_name = "VERSION", value_parser = version,
          help_heading = "Who you are")]
    version: Option<Version>,
    /// Say on stderr what is sent and received.
    #[arg(short, long, help_heading = "Other")]
    debug: bool,
    // -h is the host here.
    /// Print this.
    #[arg(long, action = clap::ArgAction::Help, help_heading = "Other")]
    help: Option<bool>,
}

impl BrokerArguments {
    /// The version that is spoken.
    pub fn version(&self) -> Version {
        self.version.unwrap_or(Version::V5)
    }

    /// A topic that is given for itself, or else that of `-L`.
    ///
    /// # Errors
    /// That of `-L` is none to publish to.
    pub fn topic(&self, given: Option<TopicName>) -> Result<Option<TopicName>, Failure> {
        match (given, self.url_topic()) {
            (None, Some(from_url)) => topic_name(from_url)
                .map(Some)
                .map_err(|what| Failure::usage(format!("the topic of -L: {what}"))),
            (given, _) => Ok(given),
        }
    }

    /// The topic of `-L`.
    pub fn url_topic(&self) -> Option<&str> {
        self.url.as_ref()?.topic.as_deref()
    }

    /// A connection of a client that says nothing more of itself.
    pub fn common(&self) -> Result<Common, Failure> {
        let version = self.version();
        let credentials = self.credentials()?;
        if !version.is_v5() && credentials.password.is_some() && credentials.username.is_none() {
            return Err(Failure::usage("before MQTT 5 a password (-P) needs a user name (-u)"));
        }
        let link = self.link()?;
        let tls = self.tls_options(&link)?;
        let from_url = self.url.as_ref().map(|url| url.host.clone());
        let host = self.host.clone().or(from_url).unwrap_or_else(|| "localhost".to_owned());
        if host.is_empty() || host.chars().any(|char| char.is_whitespace() || char.is_control()) {
            return Err(Failure::usage(format!("{host:?} is not a host")));
        }
        let usual_port = match (&link, &tls) {
            (Link::Tcp, None) => 1883,
            (Link::Tcp, Some(_)) => 8883,
            (Link::WebSocket { .. }, None) => 8083,
            (Link::WebSocket { .. }, Some(_)) => 8084,
        };
        Ok(Common {
            host,
            port: self.given_port().unwrap_or(usual_port),
            bind: self.bind,
            link,
            tls,
            client_id: Text::EMPTY,
            credentials,
            version,
            clean: true,
            session_expiry_s: None,
            keep_alive_s: 60,
            will: None,
            properties: PropertyList::default(),
            debug: self.debug,
            time_limit: None,
            packet_bytes_max: PACKET_BYTES_MAX,
        })
    }

    fn given_port(&self) -> Option<u16> {
        self.port.or_else(|| self.url.as_ref()?.port)
    }

    fn credentials(&self) -> Result<Credentials, Failure> {
        let url = self.url.as_ref();
        let username = match url.and_then(|url| url.username.as_deref()) {
            Some(name) => Some(text(name).map_err(|what| Failure::usage(format!("-L: {what}")))?),
            None => None,
        };
        let password = url.and_then(|url| url.password.clone()).map(Bytes::from);
        Ok(Credentials {
            username: self.username.clone().or(username),
            password: self.password.as_deref().map(bytes).or(password),
        })
    }

    fn link(&self) -> Result<Link, Failure> {
        let from_url = self.url.as_ref().map(|url| url.link.clone()).unwrap_or_default();
        Ok(match (&self.ws_path, from_url) {
            (Some(path), _) => Link::WebSocket { path: path.clone() },
            (None, Link::WebSocket { path }) => {
                let path = websocket_path(&path);
                Link::WebSocket {
                    path: path.map_err(|what| Failure::usage(format!("-L: {what}")))?,
                }
            }
            (None, Link::Tcp) if self.ws => Link::WebSocket { path: Link::DEFAULT_PATH.to_owned() },
            (None, Link::Tcp) => Link::Tcp,
        })
    }

    fn tls_options(&self, link: &Link) -> Result<Option<TlsOptions>, Failure> {
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(Failure::usage("--cert and --key go together")),
        };
        let by_port = self.given_port() == Some(8883) && *link == Link::Tcp;
        let by_url = self.url.as_ref().is_some_and(|url| url.tls);
        let by_file = self.cafile.is_some() || identity.is_some();
        if !(self.tls || self.insecure || by_file || by_url || by_port) {
            return Ok(None);
        }
        let trust = match (&self.cafile, self.insecure) {
            (_, true) => Trust::Anybody,
            (Some(file), false) => Trust::File(file.clone()),
            (None, false) => Trust::System,
        };
        Ok(Some(TlsOptions { trust, identity, made: None }))
    }
}

fn websocket_path(path: &str) -> Result<String, String> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(path)
    } else {
        Err(format!("{path:?} is not the path of a URL"))
    }
}

fn version(string: &str) -> Result<Version, String> {
    match string.to_ascii_lowercase().as_str() {
        "31" | "3.1" | "mqttv31" => Ok(Version::V3_1),
        "311" | "3.1.1" | "mqttv311" => Ok(Version::V3_1_1),
        "5" | "5.0" | "mqttv5" => Ok(Version::V5),
        _ => Err("it is 5, 311 or 31".to_owned()),
    }
}
