//! A wire that is driven by hand, and clients of it.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BufMut;
use petrel_proto::{Connect, Packet};
use rustix::net::{AddressFamily, SocketType};
use rustls::client::{ClientConfig, ClientConnection};

use crate::conn::NO_STAGE;
use crate::proxy::Proxies;
use crate::{Bell, ConnKey, Listener, Protocol, Remote, Wire, WireEvent, WireLimits};

/// An MQTT 3.1.1 CONNECT of client `a`.
pub(super) const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a";
/// The start of a ClientHello: who sends it has begun a handshake and does not go on.
pub(super) const HALF_HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0, 252];
pub(super) const PINGREQ: &[u8] = &[0xc0, 0];

/// A QoS 0 PUBLISH to topic `t`.
pub(super) fn publish(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x30];
    petrel_proto::varint::put(&mut packet, payload.len() as u32 + 3);
    packet.put_slice(b"\0\x01t");
    packet.put_slice(payload);
    packet
}

/// Far above what a loopback connection takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Rig {
    pub(super) wire: Wire,
    address: SocketAddr,
    now_ms: u64,
}

pub(super) struct TestClient {
    pub(super) stream: TcpStream,
    pub(super) key: ConnKey,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(WireLimits::default())
    }

    pub(super) fn with(limits: WireLimits) -> Self {
        Self::speaking(Protocol::Mqtt, limits)
    }

    pub(super) fn speaking(protocol: Protocol, limits: WireLimits) -> Self {
        Self::behind(protocol, None, limits)
    }

    /// A rig whose clients come through these proxies.
    pub(super) fn behind(
        protocol: Protocol,
        proxies: Option<Arc<Proxies>>,
        limits: WireLimits,
    ) -> Self {
        let bell = Arc::new(Bell::new().expect("there are descriptors"));
        let mut wire = Wire::new(limits, bell, 0).expect("there are descriptors");
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let mut listener = Listener::open(any, protocol, 0).expect("there are ports");
        if let Some(proxies) = proxies {
            listener = listener.with_proxies(proxies);
        }
        let address = listener.local_address().expect("it is bound");
        wire.listen(listener).expect("it can be watched");
        Self { wire, address, now_ms: 0 }
    }

    /// A rig with a listener over TLS, and what its clients need.
    pub(super) fn over_tls(limits: WireLimits) -> (Self, Arc<ClientConfig>) {
        let (protocol, config) = super::tls::mqtts();
        (Self::speaking(protocol, limits), config)
    }

    /// A client that has completed its TLS handshake and not said a word inside it.
    pub(super) fn shaken(&mut self, config: &Arc<ClientConfig>) -> (TcpStream, ClientConnection) {
        let stream = self.client();
        self.shake(stream, config)
    }

    /// Makes the TLS handshake of a client.
    pub(super) fn shake(
        &mut self,
        mut stream: TcpStream,
        config: &Arc<ClientConfig>,
    ) -> (TcpStream, ClientConnection) {
        let mut tls = super::tls::client(config);
        stream.set_nonblocking(true).expect("it can be");
        let begin = Instant::now();
        while tls.is_handshaking() || tls.wants_write() {
            assert!(begin.elapsed() < PATIENCE, "the handshake does not end");
            while tls.wants_write() {
                tls.write_tls(&mut stream).expect("it takes it");
            }
            self.expect_silence();
            match tls.read_tls(&mut stream) {
                Ok(_) => drop(tls.process_new_packets().expect("a good handshake")),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        self.expect_silence();
        (stream, tls)
    }

    /// A client with this address, which is one of loopback.
    pub(super) fn client_from(&self, address: Ipv4Addr) -> TcpStream {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        let socket = socket.expect("there are descriptors");
        rustix::net::bind(&socket, &SocketAddr::from((address, 0))).expect("all of 127/8 is here");
        rustix::net::connect(&socket, &self.address).expect("the wire listens");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream
    }

    pub(super) fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the wire listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        // What a test has sent is there when the wire is turned.
        stream.set_nodelay(true).expect("it can be");
        stream
    }

    /// A client whose CONNECT has been handed out.
    pub(super) fn connected(&mut self) -> TestClient {
        let mut stream = self.client();
        stream.write_all(CONNECT).expect("sent");
        TestClient { stream, key: self.expect_connect().0 }
    }

    /// Looks for what has happened without waiting for it.
    pub(super) fn turn(&mut self) {
        self.wire.poll(Some(Duration::ZERO)).expect("epoll works");
        self.advance_to(self.now_ms);
    }

    fn advance_to(&mut self, now_ms: u64) {
        // Time is invented here: the tick of the real clock does not count.
        self.wire.ticked = false;
        self.wire.advance(now_ms);
    }

    /// Lets time pass, with a tick at its end.
    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.turn();
        self.now_ms += ms;
        self.wire.ticked = true;
        self.wire.advance(self.now_ms);
    }

    pub(super) fn expect_event(&mut self) -> WireEvent {
        let begin = Instant::now();
        loop {
            if let Some(event) = self.wire.next_event() {
                return event;
            }
            assert!(begin.elapsed() < PATIENCE, "nothing happens");
            let wait = if self.wire.has_work() { Duration::ZERO } else { PATIENCE };
            self.wire.poll(Some(wait)).expect("epoll works");
            self.advance_to(self.now_ms);
        }
    }

    /// Turns the wire, without events, until something holds.
    pub(super) fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(begin.elapsed() < PATIENCE, "it never holds");
            if let Some(event) = self.wire.next_event() {
                panic!("not expected: {event:?}");
            }
            let wait = if self.wire.has_work() { 0 } else { 50 };
            self.wire.poll(Some(Duration::from_millis(wait))).expect("epoll works");
            self.advance_to(self.now_ms);
        }
    }

    /// Asserts that all that has arrived so far leads to nothing.
    pub(super) fn expect_silence(&mut self) {
        for _ in 0..3 {
            self.turn();
            if let Some(event) = self.wire.next_event() {
                panic!("not expected: {event:?}");
            }
        }
    }

    pub(super) fn expect_connect(&mut self) -> (ConnKey, Box<Connect>) {
        match self.expect_event() {
            WireEvent::Connect {
                conn,
                connect,
                listener: 0,
                peer: Remote { address: Some(_), .. },
            } => (conn, connect),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn expect_packet(&mut self) -> (ConnKey, Packet) {
        match self.expect_event() {
            WireEvent::Packet { conn, packet } => (conn, packet),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn flush(&mut self) -> Vec<(ConnKey, usize)> {
        let mut flushed = Vec::new();
        self.wire.flush(|key, pending_bytes| flushed.push((key, pending_bytes)));
        flushed
    }

    /// Asserts that the connection holds no memory beyond its place in the table once its turn has
    /// ended.
    pub(super) fn expect_at_rest(&mut self, key: ConnKey) {
        self.expect_silence();
        self.flush();
        let conn = self.wire.conns.get(key).expect("it lives");
        assert!(conn.inbox.is_none() && conn.queue.is_none() && conn.edge.is_none());
        assert_eq!(conn.stage, NO_STAGE);
    }
}
