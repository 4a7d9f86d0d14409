//! What a run consists of: groups of clients that are alike, and what they do.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use petrel_proto::{Qos, Version};

use super::tls::TlsClient;

/// Clients that differ in nothing but their number.
#[derive(Debug, Clone)]
pub struct Group {
    /// What the tables call it.
    pub name: &'static str,
    /// How many.
    pub clients: usize,
    /// What every one of them subscribes to once it is connected, if anything; `%i` is its number.
    pub subscribe: Option<(String, Qos)>,
    /// What it sends, if anything.
    pub publish: Option<Publishing>,
    /// Keep alive, in seconds; a PINGREQ is sent when nothing else was for so long. 0 for none.
    pub keep_alive_s: u16,
    /// Its session outlives its connection.
    pub persistent: bool,
    /// It never reads once it is ready.
    pub deaf: bool,
    /// Its clients have a thread of their own, so that what it measures is not the load's own delay.
    pub apart: bool,
    /// The kernel stamps what its clients receive, so that the broker's part in the time is known.
    pub timed: bool,
}

/// An open-loop stream of messages from each client of a group.
#[derive(Debug, Clone)]
pub struct Publishing {
    /// Topic; `%i` is the client's number, or that of the message.
    pub topic: String,
    /// `%i` is the number of the message, so that one client sends to many topics.
    pub counting: bool,
    /// QoS.
    pub qos: Qos,
    /// Payload in bytes, of which the first 16 say when the message was due and which one it is.
    pub bytes: usize,
    /// RETAIN.
    pub retain: bool,
    /// Time from one message of a client to its next. The clients of a group are spread over it.
    pub every: Duration,
    /// Messages of each client, at most.
    pub messages: u64,
}

/// How all clients of a run reach the broker.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens; clients are spread over several.
    pub addresses: Vec<SocketAddr>,
    /// Protocol version.
    pub version: Version,
    /// TLS, if it is spoken.
    pub tls: Option<TlsClient>,
    /// Source addresses; none leaves the choice to the system.
    pub sources: Vec<Ipv4Addr>,
    /// What client identifiers begin with.
    pub prefix: String,
    /// Number of the first client of each group, in identifiers and topics.
    pub start_number: usize,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// How long sessions that outlive their connections are kept, in seconds (MQTT 5).
    pub session_expiry_s: u32,
    /// How long a client waits until it is ready before it gives up and tries again.
    pub patience: Duration,
}

impl Group {
    /// A group that does nothing but be there.
    #[must_use]
    pub fn idle(name: &'static str, clients: usize) -> Self {
        Self {
            name,
            clients,
            subscribe: None,
            publish: None,
            keep_alive_s: 0,
            persistent: false,
            deaf: false,
            apart: false,
            timed: false,
        }
    }
}

/// A name with the number of a client in the place of `%i`.
#[must_use]
pub fn numbered(pattern: &str, number: usize) -> String {
    if pattern.contains("%i") {
        pattern.replace("%i", &number.to_string())
    } else {
        pattern.to_owned()
    }
}
