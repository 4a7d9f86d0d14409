//! The options that `pub` and `sub` share: which broker, and how to introduce oneself.

use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use petrel_proto::{Qos, Text, TopicName, Version};

use super::broker::{BrokerArguments, Link, TlsOptions};
use super::properties::{PacketKind, PropertyList};
use super::{bytes, qos, text, topic_name};
use crate::failure::Failure;

/// What commands that connect end with.
pub const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 27 time is up (-W), else the reason code with which the broker refused the connection.";

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

/// What a connection needs to be opened, checked.
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
    /// Bytes of one packet that the program takes.
    pub packet_bytes_max: u32,
}

impl Common {
    /// `host:port`, for sentences.
    pub fn place(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The options as they are typed.
#[derive(Debug, Clone, clap::Args)]
pub struct CommonArguments {
    #[command(flatten)]
    pub broker: BrokerArguments,
    #[command(flatten)]
    who: WhoArguments,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Who you are")]
struct WhoArguments {
    /// Client identifier; by default the broker assigns one.
    #[arg(short, long, value_parser = text, allow_hyphen_values = true)]
    id: Option<Text>,
    /// Client identifier made of this and the process id.
    #[arg(short = 'I', long, value_name = "PREFIX", allow_hyphen_values = true)]
    id_prefix: Option<String>,
    /// Keep the session of this client identifier.
    #[arg(short = 'c', long = "disable-clean-session")]
    keep_session: bool,
    /// How long the broker keeps the session; -1 for ever. MQTT 5; default 0, with -c -1.
    #[arg(short = 'x', long, value_name = "SECONDS", value_parser = session_expiry,
          allow_hyphen_values = true)]
    session_expiry_interval: Option<u32>,
    /// Default 60; 0 turns it off.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60, hide_default_value = true)]
    keepalive: u16,
    /// Where the broker publishes if this client vanishes.
    #[arg(long, value_name = "TOPIC", value_parser = topic_name, allow_hyphen_values = true)]
    will_topic: Option<TopicName>,
    /// What it publishes then.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    will_payload: Option<OsString>,
    /// At which QoS.
    #[arg(long, value_name = "QOS", value_parser = qos)]
    will_qos: Option<Qos>,
    /// To be kept by the broker for later subscribers.
    #[arg(long)]
    will_retain: bool,
    #[command(flatten)]
    properties: PropertyList,
    // Nagle's algorithm is always off.
    #[arg(long, hide = true)]
    nodelay: bool,
}

impl CommonArguments {
    /// Checks the whole. `packets` are the packets with properties that the command sends beside
    /// CONNECT, the will and DISCONNECT.
    pub fn finish(self, packets: &[PacketKind]) -> Result<Common, Failure> {
        let mut common = self.broker.common()?;
        let who = self.who;
        let version = common.version;
        if !version.is_v5() {
            if !who.properties.is_empty() {
                return Err(Failure::usage("-D needs MQTT 5; leave -V out or write -V 5"));
            }
            if who.session_expiry_interval.is_some() {
                return Err(Failure::usage("-x needs MQTT 5; leave -V out or write -V 5"));
            }
        }
        who.properties.only_for(packets).map_err(Failure::usage)?;
        common.client_id = who.client_id(version)?;
        common.will = who.will()?;
        common.session_expiry_s = match (who.session_expiry_interval, version.is_v5()) {
            (given @ Some(_), _) => given,
            (None, true) if who.keep_session => Some(u32::MAX),
            _ => None,
        };
        common.clean = !who.keep_session;
        common.keep_alive_s = who.keepalive;
        common.properties = who.properties;
        Ok(common)
    }
}

impl WhoArguments {
    fn will(&self) -> Result<Option<WillOptions>, Failure> {
        let Some(topic) = self.will_topic.clone() else {
            if self.will_payload.is_some() || self.will_qos.is_some() || self.will_retain {
                return Err(Failure::usage("a will needs --will-topic"));
            }
            return Ok(None);
        };
        Ok(Some(WillOptions {
            topic,
            payload: self.will_payload.as_deref().map(bytes).unwrap_or_default(),
            qos: self.will_qos.unwrap_or_default(),
            retain: self.will_retain,
        }))
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
}

fn session_expiry(string: &str) -> Result<u32, String> {
    match string {
        "-1" | "∞" => Ok(u32::MAX),
        number => {
            number.parse().map_err(|_| "it is a number of seconds, or -1 for ever".to_owned())
        }
    }
}
