//! The beginning and the end of connections, and their move to another shard.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use petrel_proto::{DecodeError, ReasonCode, Version};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};

use super::{ShutOut, Wire, WireEvent};
use crate::admission::PLACE_CERTAIN;
use crate::bucket::Buckets;
use crate::conn::{Conn, Edge, Flags, Inbox, Remote};
use crate::deadlines::NEVER;
use crate::listener::accept;
use crate::outbound::Queue;
use crate::proxy::Proxies;
use crate::stages::{Stage, State};
use crate::transport::Transport;
use crate::volume::Volume;
use crate::{ConnKey, Listener};

/// How long a connection that is being closed may take to take its last bytes and to end itself.
const LINGER_MS: u64 = 2_000;

/// What the deadlines of one turn may cost, in looks of some 0.1 µs, so that thousands who have nothing
/// more to say hold up nobody else.
const LOOKS_MAX: usize = 1_024;
/// What the end of a connection costs, in looks.
const LOOKS_OF_AN_END: usize = 256;

/// A connection on its way from one wire to another, with everything that was read from it and not
/// used, and everything that was written to it and not sent.
#[derive(Debug)]
pub struct Detached {
    /// `None` while it goes another way than the rest, see [`Detached::take_socket`].
    socket: Option<OwnedFd>,
    listener: u16,
    flags: Flags,
    version: Option<Version>,
    transport: Transport,
    unread: BytesMut,
    queue: Option<Box<Queue>>,
    volume: Volume,
}

impl Detached {
    /// Position of its listener in the configuration.
    #[must_use]
    pub const fn listener(&self) -> u16 {
        self.listener
    }

    /// Takes the socket out, to be sent by another way: descriptors of one file table mean nothing
    /// in another.
    pub fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }

    /// Puts in the socket that [`Detached::take_socket`] took out, under its number here.
    pub fn put_socket(&mut self, socket: OwnedFd) {
        self.socket = Some(socket);
    }
}

/// Why a connection is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its peer has gone.
    Gone,
    /// Its deadline has passed.
    TimedOut,
    /// Another waits for its place.
    Displaced,
    /// The wire takes nobody new any more.
    Stopped,
    /// Its proxy has said nothing good about it.
    BadHeader,
    /// The address that its proxy has said connects too often.
    TooOften,
    /// It is banned.
    Banned,
}

impl End {
    /// How far a connection had come, if that has not been counted yet.
    fn stage(self, conn: &Conn) -> Option<Stage> {
        let begun = conn.flags.has(Flags::HANDSHAKE);
        Some(match (conn.state, self) {
            (_, Self::BadHeader) => Stage::ProxyRefused,
            (_, Self::TooOften) => Stage::RefusedByRate,
            (_, Self::Banned) => Stage::RefusedByBan,
            (State::Handshaking, Self::Gone) if begun => Stage::HandshakeGone,
            (State::Handshaking, Self::Gone) => Stage::GoneBeforeHandshake,
            (State::Handshaking, Self::TimedOut) if begun => Stage::HandshakeTimedOut,
            (State::Handshaking, Self::Displaced) => Stage::HandshakeDisplaced,
            // It stands in the list of those that are to begin.
            (State::Handshaking, Self::TimedOut) if conn.flags.has(Flags::QUEUED) => {
                Stage::HandshakeNotBegun
            }
            (State::Handshaking, Self::TimedOut) => Stage::Silent,
            (State::Greeting, Self::Gone) => Stage::ConnectGone,
            (State::Greeting, Self::TimedOut) => Stage::ConnectTimedOut,
            (State::Closing, _) => return None,
            (_, Self::TimedOut) if !conn.flags.has(Flags::DEAF) => Stage::WriteTimedOut,
            _ => return None,
        })
    }
}

/// Closes a connection without a word: the kernel forgets it at once, and the peer gets a reset.
fn refuse(socket: OwnedFd) {
    // If it fails the peer gets an orderly end instead.
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
}

/// True if the peer has hung up. *Cost*: one system call.
fn has_gone(socket: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    poll(&mut asked, Some(&Timespec::default())).is_ok() && asked[0].revents().intersects(ends)
}

impl Wire {
    /// Accepts one connection, from one listener of those wanted after another.
    pub(super) fn accept(&mut self, wanted: impl Fn(&Listener) -> bool) {
        let count = self.listeners.len();
        let mut turn = (0..count).map(|at| (self.next_listener + at) % count);
        let Some(at) = turn.find(|&at| wanted(&self.listeners[at])) else { return };
        self.next_listener = at + 1;
        let listener = &mut self.listeners[at];
        match accept(&listener.socket) {
            Ok((socket, peer)) => {
                let is_trusted =
                    |proxies: &Arc<Proxies>| peer.is_some_and(|peer| proxies.trusts(peer.ip()));
                let is_proxied = listener.proxies.is_some();
                if !listener.proxies.as_ref().is_none_or(is_trusted) {
                    self.census.count(Stage::ProxyUntrusted);
                    return refuse(socket);
                }
                let admits =
                    |peer: SocketAddr, buckets: &Buckets| buckets.admit(peer.ip(), self.now_ms);
                // All clients of a proxy would be one source: theirs is asked for when it is known.
                if let (Some(peer), Some(buckets), false) = (peer, &self.buckets, is_proxied)
                    && !admits(peer, buckets)
                {
                    self.census.count(Stage::RefusedByRate);
                    return refuse(socket);
                }
                if let (Some(peer), Some(ShutOut(is_shut_out)), false) =
                    (peer, &self.shut_out, is_proxied)
                    && is_shut_out(peer.ip(), self.now_ms)
                {
                    self.census.count(Stage::RefusedByBan);
                    return refuse(socket);
                }
                if listener.protocol.is_tls() && has_gone(&socket) {
                    // Nothing is made for it: in a storm these are as many as the others.
                    self.depth.looked(true);
                    self.census.count(Stage::Accepted);
                    self.census.count(Stage::GoneBeforeHandshake);
                    return;
                }
                let transport = Transport::new(&listener.protocol);
                let index = listener.index;
                let begun = transport.ok().and_then(|transport| {
                    // Without a transport there is nothing to be said to the peer.
                    self.begin_conn(socket, peer, index, transport, is_proxied)
                });
                self.census.count(match begun {
                    Some(_) => Stage::Accepted,
                    None => Stage::AcceptFailed,
                });
            }
            Err(Errno::AGAIN) => {
                listener.ready = false;
                if listener.protocol.is_tls() {
                    self.depth.drained();
                }
            }
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                listener.resting = true;
                self.census.count(Stage::AcceptFailed);
                let listener = listener.index;
                self.events.push_back(WireEvent::AcceptFailed { listener, error });
            }
            // The connection ended before it was accepted, or the network said no for it alone.
            Err(_) => {}
        }
    }

    fn begin_conn(
        &mut self,
        socket: OwnedFd,
        peer: Option<SocketAddr>,
        listener: u16,
        transport: Transport,
        is_proxied: bool,
    ) -> Option<ConnKey> {
        let in_ms = |timeout_ms| self.now_ms.saturating_add(timeout_ms);
        let edge = Edge {
            peer: Remote { address: peer, user: None },
            deadline_ms: in_ms(self.limits.connect_timeout_ms),
            handshake_deadline_ms: in_ms(self.limits.handshake_timeout_ms),
            discarded_bytes: 0,
            header: Vec::new(),
        };
        let mut conn = Conn::new(socket, listener, transport);
        if is_proxied {
            conn.flags.set(Flags::PROXIED);
        }
        if conn.transport.is_handshaking() {
            conn.state = State::Handshaking;
        }
        conn.edge = Some(Box::new(edge));
        let key = self.admit(conn)?;
        self.plan(key);
        Some(key)
    }

    /// Puts a connection into the table and into epoll; it is closed if that fails.
    fn admit(&mut self, conn: Conn) -> Option<ConnKey> {
        self.census.enter(conn.state);
        if let Some(version) = conn.version {
            self.doors.enter(conn.listener, version);
        }
        let key = self.conns.insert(conn);
        self.volumes.begin(key, Volume::default());
        let socket = &self.conns.get(key)?.socket;
        if self.poller.add_conn(socket, key).is_err() {
            self.forget(key);
            return None;
        }
        Some(key)
    }

    /// Looks at the connection at its next deadline.
    pub(super) fn plan(&mut self, key: ConnKey) {
        let (packet, write) = (self.limits.packet_timeout_ms, self.limits.write_timeout_ms);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(deadline_ms) = conn.deadline_ms(packet, write) else { return };
        if let Some(step) = self.deadlines.plan(key, deadline_ms, conn.planned) {
            conn.planned = step;
        }
    }

    /// Cuts the connections whose deadline has passed, four in a turn.
    pub(super) fn expire(&mut self) {
        let mut left = LOOKS_MAX;
        while left > 0 {
            let Some((step, key)) = self.deadlines.due(self.now_ms) else { return };
            let cost = if self.look_at(key, step) { LOOKS_OF_AN_END } else { 1 };
            left = left.saturating_sub(cost);
        }
    }

    /// Looks at a connection that is due; true if that ends it.
    fn look_at(&mut self, key: ConnKey, step: u32) -> bool {
        let (packet, write) = (self.limits.packet_timeout_ms, self.limits.write_timeout_ms);
        let now_ms = self.now_ms;
        let Some(conn) = self.conns.get_mut(key) else { return false };
        if conn.planned == step {
            conn.planned = NEVER;
        }
        if conn.deadline_ms(packet, write).is_none_or(|deadline_ms| deadline_ms > now_ms) {
            self.plan(key);
            return false;
        }
        let edge_over = conn.edge.is_some();
        let stalled = conn
            .queue
            .as_ref()
            .is_some_and(|queue| queue.stalled_since_ms().saturating_add(write) <= now_ms);
        if edge_over || stalled || conn.flags.has(Flags::DEAF) {
            self.lose(key, End::TimedOut);
            return true;
        }
        conn.flags.set(Flags::DEAF);
        conn.inbox = None;
        self.events.push_back(WireEvent::Violation {
            conn: key,
            error: DecodeError {
                reason: ReasonCode::ImplementationSpecificError,
                what: "a packet took too long to arrive",
            },
        });
        true
    }

    /// True if somebody waits for the place of a handshake that has had it for long enough.
    pub(super) fn can_displace(&self) -> bool {
        let old = |&(_, since_ms): &(ConnKey, u64)| self.is_uncertain(since_ms);
        self.begun.front().is_some_and(old) && self.admission.is_full_for(self.waiting())
    }

    /// True if a handshake that began then has its place only until another waits for it.
    const fn is_uncertain(&self, since_ms: u64) -> bool {
        since_ms.saturating_add(PLACE_CERTAIN.as_millis() as u64) <= self.now_ms
    }

    /// Takes the places of handshakes that have had them for long enough, four in a turn.
    pub(super) fn displace(&mut self) {
        let mut left = LOOKS_MAX;
        while left > 0
            && let Some(&(key, since_ms)) = self.begun.front()
        {
            let flags = self.conns.get(key).map_or(Flags::default(), |conn| conn.flags);
            let holds = flags.has(Flags::HANDSHAKE);
            if holds && !self.is_uncertain(since_ms) {
                return;
            }
            self.begun.pop_front();
            match (holds, flags.has(Flags::QUEUED)) {
                // Its answer has come: most of the work is done.
                (true, true) => self.begun.push_back((key, self.now_ms)),
                (true, false) => self.lose(key, End::Displaced),
                (false, _) => {}
            }
            left = left.saturating_sub(if holds { LOOKS_OF_AN_END } else { 1 });
        }
    }

    /// Remembers when a handshake began, and forgets about those at the front that have ended.
    pub(super) fn remember_begun(&mut self, key: ConnKey) {
        let holds = |&(key, _): &(ConnKey, u64)| {
            self.conns.get(key).is_some_and(|conn| conn.flags.has(Flags::HANDSHAKE))
        };
        while self.begun.front().is_some_and(|it| !holds(it)) {
            self.begun.pop_front();
        }
        self.begun.push_back((key, self.now_ms));
    }

    /// Drops a connection that has ended by itself or has run out of time.
    pub(super) fn lose(&mut self, key: ConnKey, end: End) {
        let Some(conn) = self.forget(key) else { return };
        if let Some(stage) = end.stage(&conn) {
            self.census.count(stage);
        }
        self.current.take_if(|current| current.key == key);
        if conn.flags.has(Flags::KNOWN) && !conn.flags.has(Flags::CLOSING) {
            let volume = self.volumes.of(key);
            self.events.push_back(WireEvent::Closed { conn: key, volume });
        }
    }

    /// Ends a connection whose peer has ended it inside TLS or WebSocket; what those layers have
    /// answered still leaves.
    pub(super) fn finish(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if let Some(stage) = End::Gone.stage(conn) {
            self.census.count(stage);
        }
        if conn.flags.lower(Flags::KNOWN) {
            let volume = self.volumes.of(key);
            self.events.push_back(WireEvent::Closed { conn: key, volume });
        }
        self.close(key);
    }

    /// Closes a connection once everything that was written to it has left, at most two seconds
    /// from now. Its key names nothing from now on, and its end is not told.
    pub fn close(&mut self, key: ConnKey) {
        self.flush_conn(key);
        self.current.take_if(|current| current.key == key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.flags.has(Flags::MUTE) {
            self.forget(key);
            return;
        }
        if !conn.flags.raise(Flags::CLOSING) {
            return;
        }
        conn.inbox = None;
        let deadline_ms = self.now_ms.saturating_add(LINGER_MS);
        let handshake_deadline_ms = deadline_ms;
        let (peer, header) = (Remote::default(), Vec::new());
        let discarded_bytes = 0;
        let edge = Edge { peer, deadline_ms, handshake_deadline_ms, discarded_bytes, header };
        conn.edge = Some(Box::new(edge));
        conn.transport.close(&mut self.wire_out);
        self.enter(key, State::Closing);
        self.send_control(key);
        self.plan(key);
        if self.conns.get(key).is_some_and(|conn| conn.queue.is_none()) {
            self.shut(key);
        }
    }

    /// Says to the peer that nothing more will come. Reading goes on until it says so as well: to
    /// close a socket with unread input would destroy what the peer has not read yet.
    pub(super) fn shut(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.flags.raise(Flags::SHUT) && shutdown(&conn.socket, Shutdown::Write).is_err() {
            self.forget(key);
            return;
        }
        self.make_ready(key);
    }

    /// Drops the connections that have not said who they are.
    pub fn drop_unknown(&mut self) {
        let unknown =
            |conn: &Conn| !conn.flags.has(Flags::KNOWN) && !conn.flags.has(Flags::CLOSING);
        let keys: Vec<ConnKey> = self.conns.keys().collect();
        for key in keys {
            if self.conns.get(key).is_some_and(unknown) {
                self.lose(key, End::Stopped);
            }
        }
    }

    /// Drops all connections at once, without a word.
    pub fn drop_all(&mut self) {
        let keys: Vec<ConnKey> = self.conns.keys().collect();
        for key in keys {
            self.forget(key);
        }
        self.current = None;
    }

    /// Takes a connection out, to be given to another wire.
    pub fn detach(&mut self, key: ConnKey) -> Option<Detached> {
        self.flush_conn(key);
        self.put_aside(key);
        let conn = self.forget(key)?;
        let volume = self.volumes.of(key).unwrap_or_default();
        self.poller.remove(&conn.socket);
        let mut flags = Flags::default();
        for flag in [Flags::ENDED, Flags::FINISHED, Flags::KNOWN, Flags::MUTE, Flags::DEAF] {
            if conn.flags.has(flag) {
                flags.set(flag);
            }
        }
        Some(Detached {
            socket: Some(conn.socket),
            listener: conn.listener,
            flags,
            version: conn.version,
            transport: conn.transport,
            unread: conn.inbox.map_or_else(BytesMut::new, |inbox| inbox.bytes),
            queue: conn.queue,
            volume,
        })
    }

    /// True if a connection has come from another wire.
    #[must_use]
    pub fn has_moved(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|conn| conn.flags.has(Flags::MOVED))
    }

    /// Takes over a connection from another wire. It is read even if nothing new arrives. `None` if
    /// the system refuses to watch it, or if its socket did not arrive; then it is closed.
    pub fn attach(&mut self, detached: Detached) -> Option<ConnKey> {
        let mut conn = Conn::new(detached.socket?, detached.listener, detached.transport);
        conn.flags = detached.flags;
        conn.flags.set(Flags::MOVED);
        conn.state = conn.transport.state();
        conn.version = detached.version;
        conn.queue = detached.queue;
        if !detached.unread.is_empty() {
            conn.flags.set(Flags::BACKLOG);
            let inbox = Inbox { bytes: detached.unread, need: 0, since_ms: self.now_ms };
            conn.inbox = Some(Box::new(inbox));
        }
        let idle = conn.inbox.is_none();
        let key = self.admit(conn)?;
        self.volumes.begin(key, detached.volume);
        if idle {
            self.settle(key);
        }
        self.plan(key);
        self.make_ready(key);
        Some(key)
    }
}
