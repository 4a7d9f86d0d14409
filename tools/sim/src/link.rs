//! A connection as two byte streams, with the broker's end and the client's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::BytesMut;
use petrel_proto::{Connect, ReasonCode, Version};
use petrel_shard::Origin;

use crate::model::Key;
use crate::oracle::Hint;
use crate::scenario::Habits;

/// One connection from its opening to its end.
#[derive(Debug)]
pub struct Link {
    /// Whose it is.
    pub client: usize,
    /// The shard that accepted it.
    pub accepted_by: u16,
    /// What it is to the broker, while it is live.
    pub key: Option<Key>,
    /// Protocol version.
    pub version: Version,
    /// Bytes on their way to the broker.
    pub up: BytesMut,
    /// Bytes that arrived there and are not decoded.
    pub inbox: BytesMut,
    /// Bytes that were decoded.
    pub decoded: u64,
    /// Bytes that the client ever sent.
    pub sent: u64,
    /// Where in the stream a broken rule lies, and the reasons that are right for it.
    pub hostile: Option<(u64, Vec<ReasonCode>)>,
    /// A rule was broken; the broker may or may not see what comes after it.
    pub broke_a_rule: bool,
    /// Bytes on their way to the client.
    pub down: BytesMut,
    /// Bytes that the client has read and not decoded.
    pub client_inbox: BytesMut,
    /// The broker's end.
    pub server: Server,
    /// The CONNECT that moves to its home.
    pub connect: Option<Box<Connect>>,
    /// The client has closed its end.
    pub fin: bool,
    /// The broker has closed its end.
    pub eof: bool,
    /// The client still reads.
    pub reading: bool,
    /// A read will happen.
    pub read_scheduled: bool,
    /// The CONNECT begins an authentication exchange.
    pub authenticates: bool,
    /// The client has begun another exchange.
    pub authenticates_again: bool,
    /// Bytes that wait for the socket, as last reported.
    pub reported: usize,
    /// Longest wait before the client reads, in milliseconds.
    pub read_delay_ms: u64,
    socket_bytes: usize,
}

/// How far the broker's end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// No CONNECT yet.
    Fresh,
    /// On its way to the home of its client.
    Moving,
    /// At home.
    Live,
    /// It sent what is not a packet; nothing more is read.
    Broken,
    /// Gone.
    Closed,
}

impl Link {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(client: usize, accepted_by: u16, habits: &Habits) -> Self {
        Self {
            client,
            accepted_by,
            key: None,
            version: habits.version,
            up: BytesMut::new(),
            inbox: BytesMut::new(),
            decoded: 0,
            sent: 0,
            hostile: None,
            broke_a_rule: false,
            down: BytesMut::new(),
            client_inbox: BytesMut::new(),
            server: Server::Fresh,
            connect: None,
            fin: false,
            eof: false,
            reading: true,
            read_scheduled: false,
            authenticates: false,
            authenticates_again: false,
            reported: 0,
            read_delay_ms: habits.read_delay_ms,
            socket_bytes: habits.socket_bytes,
        }
    }

    /// What the world knows of the packet that starts at this place of the stream.
    pub fn take_hint(&mut self, offset: u64) -> Hint {
        let hostile = self.hostile.take_if(|(at, _)| *at == offset).map(|(_, reasons)| reasons);
        self.broke_a_rule |= hostile.is_some();
        Hint { hostile, ..Hint::default() }
    }

    /// Bytes that the socket has not taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.down.len().saturating_sub(self.socket_bytes)
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);
        Origin {
            listener: 0,
            allow_anonymous: true,
            authenticates: false,
            address,
            certificate: None,
        }
    }
}
