//! From a socket to packets.

use bytes::{Buf, Bytes, BytesMut};
use petrel_proto::{
    DecodeError, Frame, Packet, ReasonCode, Version, connect_version, decode_front, frame,
};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::life::End;
use super::{Current, PACKETS_PER_READ_MAX, READ_BYTES_MAX, ShutOut, Wire, WireEvent};
use crate::conn::{Conn, Flags, Inbox, Remote};
use crate::proxy::{self, HEADER_BYTES_MAX};
use crate::stages::{Stage, State};
use crate::tls::Handshake;
use crate::transport::{Completed, Input, Transport};
use crate::{ConnKey, Listener};

/// The start of a packet up to this length is moved to the shared buffer when more of it comes; a
/// longer one stays where it is and what comes is added to it.
const MOVED_BYTES_MAX: usize = 4096;

/// Largest CONNECT accepted, in bytes, unless packets are limited further. Its five fields of at
/// most 65,535 bytes fit, with as much again for properties.
const CONNECT_BYTES_MAX: u32 = 640 << 10;

/// A CONNECT of more bytes than this is long: hardly any is, and its memory is what strangers can ask for.
const LONG_CONNECT_BYTES: usize = 16 << 10;

/// Long CONNECTs that may be on their way at once on one shard: 20 MiB.
pub(super) const LONG_CONNECTS_MAX: usize = 32;

/// First byte of every CONNECT ([MQTT5-3.1.0-1]).
const CONNECT_FIRST_BYTE: u8 = 0x10;

/// Bytes that a connection being closed may still send before it is dropped.
const DISCARDED_BYTES_MAX: usize = 1 << 20;

/// What reading a socket gave.
enum Got {
    Bytes(usize),
    Nothing,
    End,
}

impl Wire {
    /// Reads a connection once, so that [`Wire::current`] or nothing is there to be decoded.
    pub(super) fn read(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.flags.clear(Flags::QUEUED);
        if conn.flags.has(Flags::CLOSING) {
            return self.discard(key);
        }
        if conn.flags.has(Flags::PAUSED) || conn.flags.has(Flags::CHOKED) {
            return;
        }
        if conn.pending_bytes() > self.limits.read_stop_bytes {
            conn.flags.set(Flags::CHOKED);
            return;
        }
        if conn.flags.lower(Flags::BACKLOG) {
            // Edge-triggered: what arrived since must be asked for.
            let inbox = conn.inbox.take();
            self.make_ready(key);
            if let Some(inbox) = inbox {
                self.begin(key, inbox.bytes.freeze(), Bytes::new());
            }
            return;
        }
        if conn.flags.has(Flags::FINISHED) {
            return self.finish(key);
        }
        let fresh = conn.state == State::Handshaking && !conn.flags.has(Flags::HANDSHAKE);
        if fresh && conn.flags.has(Flags::ENDED) {
            // Nobody waits for the answer to this ClientHello. Behind our answer it is otherwise: what
            // the client has sent with its Finished is there to be read.
            self.depth.looked(true);
            return self.lose(key, End::Gone);
        }
        match receive(conn, &mut self.scratch) {
            Got::Bytes(bytes) => {
                // A short read has emptied the socket, unless the end waits behind it.
                if bytes == READ_BYTES_MAX || conn.flags.has(Flags::ENDED) {
                    self.make_ready(key);
                }
                if let Some(bytes) = self.skip_header(key, bytes) {
                    self.ingest(key, bytes);
                }
            }
            Got::Nothing => {}
            Got::End => self.lose(key, End::Gone),
        }
    }

    /// Takes the header of a proxy off what was read, where there is to be one. Returns how many bytes are
    /// left for the layers behind; `None` if there is nothing for them.
    fn skip_header(&mut self, key: ConnKey, bytes: usize) -> Option<usize> {
        let conn = self.conns.get_mut(key)?;
        if !conn.flags.has(Flags::PROXIED) {
            return Some(bytes);
        }
        let edge = conn.edge.as_mut()?;
        let held = edge.header.len();
        // What is longer than a header may be ends as one that is too long.
        let more = bytes.min(HEADER_BYTES_MAX.saturating_sub(held));
        edge.header.extend_from_slice(&self.scratch[..more]);
        let (header, length) = match proxy::parse(&edge.header) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return None,
            Err(_) => {
                self.lose(key, End::BadHeader);
                return None;
            }
        };
        edge.header = Vec::new();
        conn.flags.clear(Flags::PROXIED);
        let of = |it: &&Listener| it.index == conn.listener;
        let proxies = self.listeners.iter().find(of).and_then(|it| it.proxies.as_ref());
        if proxies.is_some_and(|proxies| proxies.name_users) {
            edge.peer.user = header.user;
        }
        if let Some(source) = header.source {
            edge.peer.address = Some(source);
        }
        // Only now it is known who connects.
        if let (Some(peer), Some(buckets)) = (edge.peer.address, &self.buckets)
            && !buckets.admit(peer.ip(), self.now_ms)
        {
            self.lose(key, End::TooOften);
            return None;
        }
        if let (Some(peer), Some(ShutOut(is_shut_out))) = (edge.peer.address, &self.shut_out)
            && is_shut_out(peer.ip(), self.now_ms)
        {
            self.lose(key, End::Banned);
            return None;
        }
        let used = length.saturating_sub(held);
        self.scratch.copy_within(used..bytes, 0);
        (bytes > used).then(|| bytes - used)
    }

    /// Ends a handshake that was completed, or that the transport has given up.
    fn end_handshake(&mut self, key: ConnKey, input: Input) {
        let completed = self.between.completed.take();
        let Some(conn) = self.conns.get_mut(key).filter(|it| it.state == State::Handshaking) else {
            return;
        };
        let refused = matches!(completed, Some(Completed::Refused(_)));
        let failed = refused || conn.transport.is_handshaking();
        if failed && input == Input::Open {
            return;
        }
        if conn.flags.lower(Flags::HANDSHAKE) {
            self.admission.ended();
        }
        if failed {
            // It holds some kilobytes, and nothing will come of it. Its alert is in `wire_out`.
            conn.transport = Transport::Plain;
        }
        let kind = match completed {
            Some(Completed::Good(kind, user)) => {
                if let (Some(edge), Some(user)) = (&mut conn.edge, user) {
                    edge.peer.user = Some(user);
                }
                Some(kind)
            }
            Some(Completed::Refused(error)) => {
                let peer = conn.edge.as_ref().and_then(|edge| edge.peer.address);
                self.events.push_back(WireEvent::Unproven { peer, error: Box::new(error) });
                None
            }
            None => None,
        };
        let (stage, state) = match (failed, kind) {
            (true, _) => (Stage::HandshakeRefused, State::Closing),
            (false, Some(Handshake::Resumed)) => (Stage::HandshakeResumed, State::Greeting),
            (false, Some(Handshake::Retried)) => (Stage::HandshakeRetried, State::Greeting),
            // `None` if what came behind the handshake was no good.
            (false, Some(Handshake::Full) | None) => (Stage::HandshakeFull, State::Greeting),
        };
        self.census.count(stage);
        self.enter(key, state);
    }

    /// Runs what was read through the transport, and joins it to what was there before.
    fn ingest(&mut self, key: ConnKey, bytes: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.flags.has(Flags::DEAF) {
            return;
        }
        let clock = conn.inbox.as_ref().is_some_and(|inbox| inbox.is_clock());
        let long = conn.inbox.as_ref().is_some_and(|inbox| inbox.bytes.len() > MOVED_BYTES_MAX);
        if !long && let Some(inbox) = conn.inbox.take() {
            let missing = inbox.need.saturating_sub(inbox.bytes.len());
            if conn.transport.is_plain() && bytes < missing {
                let mut inbox = inbox;
                inbox.bytes.extend_from_slice(&self.scratch[..bytes]);
                conn.inbox = Some(inbox);
                return;
            }
            self.arena.reserve(inbox.bytes.len() + bytes);
            self.arena.extend_from_slice(&inbox.bytes);
            // The time of a packet that goes on being incomplete is kept in `stash`.
            conn.inbox = Some(Box::new(Inbox { bytes: BytesMut::new(), ..*inbox }));
        }
        if self.arena.capacity() - self.arena.len() < bytes {
            // Reclaims the block if nobody holds a slice of it any more.
            self.arena.reserve(READ_BYTES_MAX);
        }
        let wire = &mut self.scratch[..bytes];
        let input =
            conn.transport.read(wire, &mut self.arena, &mut self.wire_out, &mut self.between);
        if conn.state == State::Handshaking
            && !self.wire_out.is_empty()
            && conn.flags.raise(Flags::HANDSHAKE)
        {
            // It has an answer. Whoever sends less than a ClientHello holds no place.
            self.depth.looked(false);
            self.admission.begun();
            self.remember_begun(key);
            self.census.count(Stage::HandshakeBegun);
            let in_flight = self.admission.in_flight() as u64;
            self.census.handshakes_most = self.census.handshakes_most.max(in_flight);
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        let over = input == Input::Over && conn.flags.raise(Flags::FINISHED);
        if conn.state == State::Handshaking {
            self.end_handshake(key, input);
        }
        if over {
            self.make_ready(key);
        }
        let fresh = self.arena.split().freeze();
        // Something has ended in the transport, so what is incomplete there now has begun since.
        let ended = !fresh.is_empty() || !self.wire_out.is_empty();
        if ended
            && clock
            && let Some(conn) = self.conns.get_mut(key)
        {
            conn.inbox = None;
        }
        if fresh.is_empty() {
            self.send_control(key)
        } else {
            self.stage_control(key)
        }
        if long { self.complete(key, fresh) } else { self.begin(key, fresh, Bytes::new()) }
    }

    /// Adds to a long packet that has its own memory.
    fn complete(&mut self, key: ConnKey, mut fresh: Bytes) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(inbox) = conn.inbox.as_mut() else { return };
        let missing = inbox.need.saturating_sub(inbox.bytes.len());
        let part = fresh.split_to(missing.min(fresh.len()));
        inbox.bytes.extend_from_slice(&part);
        if part.len() == missing {
            let packet = std::mem::take(&mut inbox.bytes).freeze();
            conn.inbox = None;
            self.begin(key, packet, fresh);
        }
    }

    fn begin(&mut self, key: ConnKey, chunk: Bytes, behind: Bytes) {
        debug_assert!(self.current.is_none());
        let bytes = chunk.len() + behind.len();
        self.traffic.received.add_bytes(bytes);
        self.volumes.received(key, bytes);
        self.current = Some(Current { key, chunk, behind });
        self.packets_left = PACKETS_PER_READ_MAX;
    }

    /// Takes the next packet off the current input; `None` once that is used up.
    pub(super) fn decode(&mut self) -> Option<WireEvent> {
        let current = self.current.as_mut()?;
        let Some(conn) = self.conns.get_mut(current.key) else {
            self.current = None;
            return None;
        };
        let key = current.key;
        if conn.flags.has(Flags::DEAF) || conn.flags.has(Flags::CLOSING) {
            self.current = None;
            return None;
        }
        let result = match next_frame(conn, &current.chunk, self.limits.packet_bytes_max) {
            Ok(Frame::Complete(length)) => {
                // The clock of the packet that was incomplete ends with it.
                conn.inbox = None;
                self.traffic.received.count(current.chunk.first());
                let result = decode_front(&current.chunk, length, conn.version).map_err(|error| {
                    (error, connect_version(current.chunk.get(..length).unwrap_or_default()))
                });
                current.chunk.advance(length);
                if current.chunk.is_empty() {
                    current.chunk = std::mem::take(&mut current.behind);
                }
                result
            }
            Ok(Frame::Incomplete(need)) => {
                let need = need.unwrap_or(0);
                let long = conn.version.is_none() && need > LONG_CONNECT_BYTES;
                if long && conn.flags.raise(Flags::LONG_CONNECT) {
                    self.long_connects += 1;
                }
                if self.long_connects <= LONG_CONNECTS_MAX {
                    let current = self.current.take()?;
                    self.stash(key, &current.chunk, need);
                    return None;
                }
                let reason = ReasonCode::ServerBusy;
                let error = DecodeError { reason, what: "too many long CONNECTs are on their way" };
                Err((error, connect_version(&current.chunk)))
            }
            Err(error) => Err((error, connect_version(&current.chunk))),
        };
        match result {
            Ok(packet) => {
                if current.chunk.is_empty() {
                    self.current = None;
                    self.settle(key);
                }
                Some(self.on_packet(key, packet))
            }
            Err((error, version)) => {
                self.current = None;
                Some(self.on_fault(key, error, version))
            }
        }
    }

    fn on_packet(&mut self, conn_key: ConnKey, packet: Packet) -> WireEvent {
        let Some(conn) = self.conns.get_mut(conn_key) else {
            return WireEvent::Packet { conn: conn_key, packet };
        };
        match packet {
            Packet::Connect(connect) if conn.version.is_none() => {
                conn.version = Some(connect.version);
                conn.flags.set(Flags::KNOWN);
                self.long_connects -= usize::from(conn.flags.lower(Flags::LONG_CONNECT));
                let peer = conn.edge.take().map_or_else(Remote::default, |edge| edge.peer);
                let (listener, state) = (conn.listener, conn.transport.state());
                self.census.count(Stage::Connect);
                self.doors.enter(listener, connect.version);
                self.enter(conn_key, state);
                WireEvent::Connect { conn: conn_key, connect, listener, peer }
            }
            packet => WireEvent::Packet { conn: conn_key, packet },
        }
    }

    fn on_fault(
        &mut self,
        conn_key: ConnKey,
        error: DecodeError,
        version: Option<Version>,
    ) -> WireEvent {
        if let Some(conn) = self.conns.get_mut(conn_key) {
            conn.flags.set(Flags::DEAF);
            conn.inbox = None;
            self.long_connects -= usize::from(conn.flags.lower(Flags::LONG_CONNECT));
            if conn.version.is_none() {
                self.census.count(Stage::ConnectRefused);
                self.enter(conn_key, State::Closing);
                return WireEvent::Refused { conn: conn_key, version, error };
            }
        }
        WireEvent::Violation { conn: conn_key, error }
    }

    /// Bytes that were taken are not used yet, and will be taken again.
    fn put_back(&mut self, key: ConnKey, bytes: usize) {
        self.traffic.received.put_bytes_back(bytes);
        self.volumes.put_back(key, bytes);
    }

    /// Keeps the start of a packet until the rest comes.
    fn stash(&mut self, key: ConnKey, rest: &[u8], need: usize) {
        self.put_back(key, rest.len());
        let now_ms = self.now_ms;
        let Some(conn) = self.conns.get_mut(key) else { return };
        if rest.is_empty() {
            return self.settle(key);
        }
        match conn.inbox.as_mut() {
            // Still the same packet, so its clock goes on.
            Some(inbox) => {
                inbox.need = need;
                inbox.bytes = BytesMut::from(rest);
            }
            None => {
                let bytes = BytesMut::from(rest);
                conn.inbox = Some(Box::new(Inbox { bytes, need, since_ms: now_ms }));
            }
        }
        self.plan(key);
    }

    /// All MQTT bytes that have arrived are used. An idle connection keeps nothing; one whose transport
    /// waits for the rest of something keeps the time since when.
    pub(super) fn settle(&mut self, key: ConnKey) {
        let now_ms = self.now_ms;
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.transport.is_partial() {
            conn.inbox = None;
            return;
        }
        match conn.inbox.as_mut() {
            Some(inbox) => (inbox.bytes, inbox.need) = (BytesMut::new(), 0),
            None => conn.inbox = Some(Box::new(Inbox::clock(now_ms))),
        }
        self.plan(key);
    }

    /// Puts unread input aside because the connection is not to be read now.
    pub(super) fn put_aside(&mut self, key: ConnKey) {
        let Some(current) = self.current.take_if(|current| current.key == key) else { return };
        let Some(conn) = self.conns.get_mut(key) else { return };
        let mut bytes = BytesMut::with_capacity(current.chunk.len() + current.behind.len());
        bytes.extend_from_slice(&current.chunk);
        bytes.extend_from_slice(&current.behind);
        let held = bytes.len();
        conn.flags.set(Flags::BACKLOG);
        conn.inbox = Some(Box::new(Inbox { bytes, need: 0, since_ms: self.now_ms }));
        self.put_back(key, held);
    }

    /// Stops reading a connection; what is known of it goes on being written.
    pub fn pause(&mut self, key: ConnKey) {
        self.put_aside(key);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.flags.set(Flags::PAUSED);
        }
    }

    /// True if a connection is not read until [`Wire::resume`].
    #[must_use]
    pub fn is_paused(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|conn| conn.flags.has(Flags::PAUSED))
    }

    /// True if a connection is not read until it has taken what waits for its socket.
    #[must_use]
    pub fn is_choked(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|conn| conn.flags.has(Flags::CHOKED))
    }

    /// Reads a connection again.
    pub fn resume(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key)
            && conn.flags.lower(Flags::PAUSED)
        {
            self.restart_packet_clock(key);
            self.make_ready(key);
        }
    }

    /// The time during which a connection was not read is not held against it.
    pub(super) fn restart_packet_clock(&mut self, key: ConnKey) {
        if let Some(inbox) = self.conns.get_mut(key).and_then(|conn| conn.inbox.as_mut()) {
            inbox.since_ms = self.now_ms;
        }
        self.plan(key);
    }

    /// Throws away what a connection that is being closed still sends.
    fn discard(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match receive(conn, &mut self.scratch) {
            Got::Bytes(bytes) => {
                let Some(edge) = conn.edge.as_mut() else { return };
                edge.discarded_bytes += bytes;
                if edge.discarded_bytes > DISCARDED_BYTES_MAX {
                    self.forget(key);
                } else {
                    self.make_ready(key);
                }
            }
            Got::Nothing => {}
            Got::End => {
                self.forget(key);
            }
        }
    }
}

/// Frames the start of `chunk`, with the narrower limits that hold before CONNECT.
fn next_frame(conn: &Conn, chunk: &[u8], packet_bytes_max: u32) -> Result<Frame, DecodeError> {
    if conn.version.is_some() {
        return frame(chunk, packet_bytes_max);
    }
    match chunk.first() {
        Some(&CONNECT_FIRST_BYTE) | None => frame(chunk, packet_bytes_max.min(CONNECT_BYTES_MAX)),
        Some(_) => Err(DecodeError {
            reason: ReasonCode::ProtocolError,
            what: "the first packet is not a CONNECT [MQTT5-3.1.0-1]",
        }),
    }
}

fn receive(conn: &Conn, scratch: &mut [u8]) -> Got {
    loop {
        match recv(&conn.socket, &mut *scratch, RecvFlags::empty()) {
            Ok((_, 0)) => return Got::End,
            Ok((_, bytes)) => return Got::Bytes(bytes),
            Err(Errno::AGAIN) => return Got::Nothing,
            Err(Errno::INTR) => {}
            Err(_) => return Got::End,
        }
    }
}
