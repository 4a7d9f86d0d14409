//! The options that `pub` and `sub` share: where the broker is and how to introduce oneself.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use petrel_proto::{Qos, Text, TopicName, Version};

use super::properties::{PacketKind, PropertyList};
use super::{Arguments, text, url};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Whose certificates are accepted.
    pub trust: Trust,
    /// The client's own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// User name and password.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// `-u`.
    pub username: Option<Text>,
    /// `-P`.
    pub password: Option<Bytes>,
}

/// The will message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillOptions {
    /// Where it goes.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
    /// At which QoS.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
}

/// The options that both commands have, checked.
#[derive(Debug, Clone)]
pub struct Common {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `-A`.
    pub bind: Option<IpAddr>,
    /// TCP or WebSocket.
    pub link: Link,
    /// `None` without TLS.
    pub tls: Option<TlsOptions>,
    /// Empty for one that the broker assigns.
    pub client_id: Text,
    /// User name and password.
    pub credentials: Credentials,
    /// The version that is spoken.
    pub version: Version,
    /// Clean Start.
    pub clean: bool,
    /// Session Expiry Interval, in seconds; `None` leaves the property out.
    pub session_expiry_s: Option<u32>,
    /// Keep alive, in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// The will message.
    pub will: Option<WillOptions>,
    /// `-D`, for all packets.
    pub properties: PropertyList,
    /// `-d`.
    pub debug: bool,
    /// `-W`: after this time the program ends.
    pub time_limit: Option<Duration>,
}

/// The same while the command line is being read.
#[derive(Debug, Default)]
pub(super) struct CommonArguments {
    host: Option<String>,
    port: Option<u16>,
    bind: Option<IpAddr>,
    websocket: bool,
    path: Option<String>,
    tls: bool,
    cafile: Option<PathBuf>,
    insecure: bool,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    id: Option<Text>,
    id_prefix: Option<String>,
    username: Option<Text>,
    password: Option<Bytes>,
    version: Option<Version>,
    keep_session: bool,
    session_expiry_s: Option<u32>,
    keep_alive_s: Option<u16>,
    will_topic: Option<Text>,
    will_payload: Option<Bytes>,
    will_qos: Option<Qos>,
    will_retain: bool,
    properties: PropertyList,
    debug: bool,
    time_limit: Option<Duration>,
    /// The topic of `-L`, which each command uses in its own way.
    pub url_topic: Option<String>,
}

impl CommonArguments {
    /// Takes the option if it is one of the shared ones.
    pub fn take(&mut self, option: &str, arguments: &mut Arguments) -> Result<bool, Failure> {
        match option {
            "-h" | "--host" => self.host = Some(arguments.string()?),
            "-p" | "--port" => self.port = Some(arguments.number(1, u16::MAX)?),
            "-L" | "--url" => self.take_url(arguments)?,
            "-A" => self.bind = Some(bind_address(arguments)?),
            "--ws" => self.websocket = true,
            "--ws-path" => {
                self.websocket = true;
                self.path = Some(websocket_path(&arguments.string()?)?);
            }
            "--tls" | "--tls-use-os-certs" => self.tls = true,
            "--cafile" => self.cafile = Some(arguments.value()?.into()),
            "--insecure" => self.insecure = true,
            "--cert" => self.cert = Some(arguments.value()?.into()),
            "--key" => self.key = Some(arguments.value()?.into()),
            "-i" | "--id" => self.id = Some(arguments.text()?),
            "-I" | "--id-prefix" => self.id_prefix = Some(arguments.string()?),
            "-u" | "--username" => self.username = Some(arguments.text()?),
            "-P" | "--pw" => self.password = Some(arguments.bytes()?.into()),
            "-V" | "--protocol-version" => self.version = Some(version(arguments)?),
            "-c" | "--disable-clean-session" => self.keep_session = true,
            "-x" | "--session-expiry-interval" => {
                self.session_expiry_s = Some(session_expiry(arguments)?);
            }
            "-k" | "--keepalive" => self.keep_alive_s = Some(arguments.number(0, u16::MAX)?),
            "--will-topic" => self.will_topic = Some(arguments.text()?),
            "--will-payload" => self.will_payload = Some(arguments.bytes()?.into()),
            "--will-qos" => self.will_qos = Some(arguments.qos()?),
            "--will-retain" => self.will_retain = true,
            "-D" | "--property" => self.take_property(arguments)?,
            "-W" => self.time_limit = Some(seconds(arguments)?),
            "-d" | "--debug" => self.debug = true,
            // Nagle's algorithm is always off, and `main` has looked for --quiet already.
            "--quiet" | "--nodelay" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_url(&mut self, arguments: &mut Arguments) -> Result<(), Failure> {
        let given = arguments.string()?;
        let url = url::parse(&given).map_err(|what| Failure::usage(format!("-L: {what}")))?;
        let as_text =
            |part: String| text(&part).map_err(|what| Failure::usage(format!("-L: {what}")));
        self.host = Some(url.host);
        self.port = url.port;
        self.tls |= url.tls;
        if let Link::WebSocket { path } = url.link {
            self.websocket = true;
            self.path = Some(websocket_path(&path)?);
        }
        if let Some(username) = url.username {
            self.username = Some(as_text(username)?);
        }
        if let Some(password) = url.password {
            self.password = Some(password.into_bytes().into());
        }
        self.url_topic = url.topic;
        Ok(())
    }

    fn take_property(&mut self, arguments: &mut Arguments) -> Result<(), Failure> {
        let packet = arguments.string()?;
        let name = arguments.string()?;
        let value = arguments.bytes()?;
        let second = if name == "user-property" { Some(arguments.string()?) } else { None };
        self.properties
            .add(&packet, &name, value, second)
            .map_err(|what| Failure::usage(format!("-D {packet} {name}: {what}")))
    }

    /// Checks the whole. `packets` are the packets with properties that the command sends beside
    /// CONNECT, the will and DISCONNECT.
    pub fn finish(self, packets: &[PacketKind]) -> Result<Common, Failure> {
        let version = self.version.unwrap_or(Version::V5);
        if !version.is_v5() {
            if !self.properties.is_empty() {
                return Err(Failure::usage("-D needs MQTT 5; leave -V out or write -V 5"));
            }
            if self.session_expiry_s.is_some() {
                return Err(Failure::usage("-x needs MQTT 5; leave -V out or write -V 5"));
            }
            if self.password.is_some() && self.username.is_none() {
                return Err(Failure::usage("before MQTT 5 a password (-P) needs a user name (-u)"));
            }
        }
        self.properties.only_for(packets).map_err(Failure::usage)?;
        let client_id = self.client_id(version)?;
        let tls = self.tls_options()?;
        let host = self.host.unwrap_or_else(|| "localhost".to_owned());
        if host.is_empty() || host.chars().any(|char| char.is_whitespace() || char.is_control()) {
            return Err(Failure::usage(format!("{host:?} is not a host")));
        }
        let link = match (self.websocket, self.path) {
            (false, _) => Link::Tcp,
            (true, path) => {
                Link::WebSocket { path: path.unwrap_or_else(|| Link::DEFAULT_PATH.to_owned()) }
            }
        };
        let usual_port = match (&link, &tls) {
            (Link::Tcp, None) => 1883,
            (Link::Tcp, Some(_)) => 8883,
            (Link::WebSocket { .. }, None) => 8083,
            (Link::WebSocket { .. }, Some(_)) => 8084,
        };
        let will = match self.will_topic {
            Some(topic) => Some(WillOptions {
                topic: topic_name("--will-topic", topic)?,
                payload: self.will_payload.unwrap_or_default(),
                qos: self.will_qos.unwrap_or_default(),
                retain: self.will_retain,
            }),
            None if self.will_payload.is_some() || self.will_qos.is_some() || self.will_retain => {
                return Err(Failure::usage("a will needs --will-topic"));
            }
            None => None,
        };
        let session_expiry_s = match (self.session_expiry_s, self.keep_session, version.is_v5()) {
            (given @ Some(_), _, _) => given,
            (None, true, true) => Some(u32::MAX),
            _ => None,
        };
        Ok(Common {
            host,
            port: self.port.unwrap_or(usual_port),
            bind: self.bind,
            link,
            tls,
            client_id,
            credentials: Credentials { username: self.username, password: self.password },
            version,
            clean: !self.keep_session,
            session_expiry_s,
            keep_alive_s: self.keep_alive_s.unwrap_or(60),
            will,
            properties: self.properties,
            debug: self.debug,
            time_limit: self.time_limit,
        })
    }

    fn client_id(&self, version: Version) -> Result<Text, Failure> {
        let process = std::process::id();
        let id = match (&self.id, &self.id_prefix) {
            (Some(_), Some(_)) => return Err(Failure::usage("-i and -I exclude each other")),
            (Some(id), None) => id.clone(),
            (None, Some(prefix)) => text(&format!("{prefix}{process}")).map_err(Failure::usage)?,
            (None, None) if self.keep_session => {
                return Err(Failure::usage(
                    "-c needs a client identifier (-i), or the session could not be found again",
                ));
            }
            // MQTT 3.1 has no way to ask the broker for one.
            (None, None) if version == Version::V3_1 => {
                text(&format!("petrelctl-{process}")).map_err(Failure::usage)?
            }
            (None, None) => Text::EMPTY,
        };
        if id.is_empty() && self.keep_session {
            return Err(Failure::usage("-c needs a client identifier that is not empty"));
        }
        if version == Version::V3_1 && !(1..=23).contains(&id.as_str().chars().count()) {
            return Err(Failure::usage("an MQTT 3.1 client identifier has 1 to 23 characters"));
        }
        Ok(id)
    }

    fn tls_options(&self) -> Result<Option<TlsOptions>, Failure> {
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(Failure::usage("--cert and --key go together")),
        };
        let plain_port = self.port != Some(8883) || self.websocket;
        let asked = self.tls || self.insecure || self.cafile.is_some() || identity.is_some();
        if !asked && plain_port {
            return Ok(None);
        }
        let trust = match (&self.cafile, self.insecure) {
            (_, true) => Trust::Anybody,
            (Some(file), false) => Trust::File(file.clone()),
            (None, false) => Trust::System,
        };
        Ok(Some(TlsOptions { trust, identity }))
    }
}

/// A topic to publish to.
pub(super) fn topic_name(option: &str, topic: Text) -> Result<TopicName, Failure> {
    let shown = topic.clone();
    TopicName::new(topic).map_err(|error| {
        Failure::usage(format!("{option} {shown:?} is not a topic to publish to: {}", error.what))
    })
}

/// A time in seconds, fractions allowed.
pub(super) fn seconds(arguments: &mut Arguments) -> Result<Duration, Failure> {
    let number: f64 = arguments.number(0.0, 1e9)?;
    Ok(Duration::from_secs_f64(number))
}

fn bind_address(arguments: &mut Arguments) -> Result<IpAddr, Failure> {
    let string = arguments.string()?;
    string.parse().map_err(|_| Failure::usage(format!("-A {string:?} is not an IP address")))
}

fn websocket_path(path: &str) -> Result<String, Failure> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(path)
    } else {
        Err(Failure::usage(format!("{path:?} is not the path of a URL")))
    }
}

fn version(arguments: &mut Arguments) -> Result<Version, Failure> {
    let string = arguments.string()?;
    match string.to_ascii_lowercase().as_str() {
        "31" | "3.1" | "mqttv31" => Ok(Version::V3_1),
        "311" | "3.1.1" | "mqttv311" => Ok(Version::V3_1_1),
        "5" | "5.0" | "mqttv5" => Ok(Version::V5),
        _ => Err(Failure::usage(format!("-V must be 5, 311 or 31, not {string:?}"))),
    }
}

fn session_expiry(arguments: &mut Arguments) -> Result<u32, Failure> {
    let string = arguments.string()?;
    match string.as_str() {
        "-1" | "∞" => Ok(u32::MAX),
        number => number.parse().map_err(|_| {
            Failure::usage(format!(
                "-x must be a number of seconds, or -1 for ever, not {number:?}"
            ))
        }),
    }
}
