//! What is kept for each connection, and how much of it while nothing happens: one small struct.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::BytesMut;
use petrel_proto::{Text, Version};

use crate::deadlines::NEVER;
use crate::outbound::Queue;
use crate::stages::State;
use crate::transport::Transport;

/// No bytes are being gathered for the connection.
pub(crate) const NO_STAGE: u32 = u32::MAX;

/// One connection.
///
/// *Bounds*: at most 64 bytes in the table, held by a test; the boxes exist only while they hold
/// something.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) socket: OwnedFd,
    pub(crate) listener: u16,
    pub(crate) flags: Flags,
    /// As which it is counted.
    pub(crate) state: State,
    /// `None` until CONNECT has named it.
    pub(crate) version: Option<Version>,
    /// The step at which its deadline is looked at next.
    pub(crate) planned: u32,
    /// Where this turn's output is gathered.
    pub(crate) stage: u32,
    pub(crate) transport: Transport,
    /// Input that could not be used yet.
    pub(crate) inbox: Option<Box<Inbox>>,
    /// Output that the socket did not take yet.
    pub(crate) queue: Option<Box<Queue>>,
    /// Present before CONNECT and while closing.
    pub(crate) edge: Option<Box<Edge>>,
}

/// Who is at the other end of a connection, as far as the layers below MQTT know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remote {
    /// Where it comes from; a trusted proxy may have said so.
    pub address: Option<SocketAddr>,
    /// The user whom its certificate names.
    pub user: Option<Text>,
}

/// By which way a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The other end of its socket, which may be a proxy; `None` if there is none any more.
    pub address: Option<SocketAddr>,
    /// Position of its listener in the configuration.
    pub listener: u16,
    /// What it speaks.
    pub state: State,
}

/// Both ends of a connection's life.
#[derive(Debug)]
pub(crate) struct Edge {
    /// The other end.
    pub(crate) peer: Remote,
    /// By then CONNECT must have come, or the close must be over.
    pub(crate) deadline_ms: u64,
    /// By then the TLS handshake must be complete.
    pub(crate) handshake_deadline_ms: u64,
    /// Bytes that arrived after the close and were thrown away.
    pub(crate) discarded_bytes: usize,
    /// What has come of the header of a proxy, until it is whole.
    pub(crate) header: Vec<u8>,
}

/// Input that waits: the start of a packet, or what was read and not looked at.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) bytes: BytesMut,
    /// Length of the whole packet at the start of `bytes`; 0 while it is not known.
    pub(crate) need: usize,
    /// Since when the packet is incomplete, in milliseconds.
    pub(crate) since_ms: u64,
}

impl Inbox {
    /// No input, only the time since when the transport waits for the rest of something.
    pub(crate) fn clock(since_ms: u64) -> Self {
        Self { bytes: BytesMut::new(), need: 0, since_ms }
    }

    pub(crate) fn is_clock(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Yes-or-no facts of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u16);

impl Flags {
    /// In the list of connections to be read.
    pub(crate) const QUEUED: Self = Self(1);
    /// The socket took all that it was last given.
    pub(crate) const WRITABLE: Self = Self(1 << 1);
    /// The kernel said that the peer has ended; reading goes on until it says so as well.
    pub(crate) const ENDED: Self = Self(1 << 2);
    /// CONNECT was handed out, so the end of the connection has to be told.
    pub(crate) const KNOWN: Self = Self(1 << 3);
    /// Not read because the receiver of its packets is full.
    pub(crate) const PAUSED: Self = Self(1 << 4);
    /// Not read because the peer does not read either.
    pub(crate) const CHOKED: Self = Self(1 << 5);
    /// A violation was handed out; nothing more is decoded.
    pub(crate) const DEAF: Self = Self(1 << 6);
    /// Being closed by us.
    pub(crate) const CLOSING: Self = Self(1 << 7);
    /// Our direction has been shut.
    pub(crate) const SHUT: Self = Self(1 << 8);
    /// Writing has failed; what is to be sent is thrown away.
    pub(crate) const MUTE: Self = Self(1 << 9);
    /// There is input in the inbox that has not been looked at since it was put there.
    pub(crate) const BACKLOG: Self = Self(1 << 10);
    /// The peer has ended inside its TLS or WebSocket layer.
    pub(crate) const FINISHED: Self = Self(1 << 11);

    /// A TLS handshake has begun and not ended.
    pub(crate) const HANDSHAKE: Self = Self(1 << 12);
    /// Its CONNECT is long, and counted as such until it is complete.
    pub(crate) const LONG_CONNECT: Self = Self(1 << 13);
    /// The header of its proxy is to come.
    pub(crate) const PROXIED: Self = Self(1 << 14);
    /// It has come from another shard.
    pub(crate) const MOVED: Self = Self(1 << 15);

    pub(crate) const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    pub(crate) const fn set(&mut self, flag: Self) {
        self.0 |= flag.0;
    }

    pub(crate) const fn clear(&mut self, flag: Self) {
        self.0 &= !flag.0;
    }

    /// Sets the flag and says whether it was clear.
    pub(crate) const fn raise(&mut self, flag: Self) -> bool {
        let was = self.has(flag);
        self.set(flag);
        !was
    }

    /// Clears the flag and says whether it was set.
    pub(crate) const fn lower(&mut self, flag: Self) -> bool {
        let was = self.has(flag);
        self.clear(flag);
        was
    }
}

impl Conn {
    pub(crate) fn new(socket: OwnedFd, listener: u16, transport: Transport) -> Self {
        Self {
            socket,
            listener,
            flags: Flags::default(),
            state: State::Greeting,
            version: None,
            planned: NEVER,
            stage: NO_STAGE,
            transport,
            inbox: None,
            queue: None,
            edge: None,
        }
    }

    /// Bytes that wait for the socket.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len())
    }

    /// The next moment at which the connection is cut if nothing moves, in milliseconds.
    pub(crate) fn deadline_ms(&self, packet_timeout_ms: u64, write_timeout_ms: u64) -> Option<u64> {
        let edge = self.edge.as_ref().map(|edge| match self.state {
            State::Handshaking => edge.deadline_ms.min(edge.handshake_deadline_ms),
            _ => edge.deadline_ms,
        });
        let held = self.flags.has(Flags::PAUSED) || self.flags.has(Flags::CHOKED);
        let packet = self
            .inbox
            .as_ref()
            .filter(|_| !held && !self.flags.has(Flags::BACKLOG))
            .map(|inbox| inbox.since_ms.saturating_add(packet_timeout_ms));
        let write = self
            .queue
            .as_ref()
            .map(|queue| queue.stalled_since_ms().saturating_add(write_timeout_ms));
        [edge, packet, write].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_one_small_struct() {
        assert!(size_of::<Option<Conn>>() <= 64, "{} bytes", size_of::<Option<Conn>>());
    }
}
