//! A wire and a shard with real sockets, in one thread: what a turn allocates and writes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use petrel_net::tls::RecordLayer;
use petrel_net::{Bell, ConnKey, Listener, Protocol, Wire, WireEvent, WireLimits};
use petrel_proto::{Packet, Qos};
use petrel_shard::{ConnId, Input, Origin};
use rustls::client::ClientConnection;

use crate::callgrind::measured;
use crate::counters::each;
use crate::figure::{Figure, Figures};
use crate::heap::{Count, Counted};
use crate::packets::{self, bytes};
use crate::rig::Rig;
use crate::syscalls;
use crate::tls::{LAYERS, Peers};

/// Connections that are counted, after one to warm up: the table grows by so many places.
const CONNECTIONS: u32 = 256;
/// Turns that are counted, after as many to warm up.
const TURNS: u32 = 500;
/// Messages that arrive together.
const TOGETHER: u32 = 64;
/// Far above what a packet over loopback takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a turn waits when the one before found nothing.
const PAUSE: Duration = Duration::from_millis(1);

const TOPIC: &str = "plant/1/line/2/temperature";

/// What the broker's pump joins, joined by hand.
struct Broker {
    wire: Wire,
    rig: Rig,
    address: SocketAddr,
    flushed: Vec<(ConnKey, usize)>,
    /// Sockets written to.
    writes: u32,
    /// Who counts what a turn does.
    counted_by: CountedBy,
}

/// Who looks at what a turn does, beside the counters of this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CountedBy {
    /// Nobody.
    Nobody,
    /// Whoever traces system calls is told where a turn begins and ends.
    Tracer,
    /// Callgrind counts the instructions of a turn.
    Callgrind,
}

impl Broker {
    fn new(protocol: Protocol) -> Result<Self, String> {
        let bell = Arc::new(Bell::new().map_err(|error| error.to_string())?);
        let limits = WireLimits::default();
        let mut wire = Wire::new(limits, bell, 0).map_err(|error| error.to_string())?;
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let listener = Listener::open(any, protocol, 0).map_err(|error| error.to_string())?;
        let address = listener.local_address().map_err(|error| error.to_string())?;
        wire.listen(listener).map_err(|error| error.to_string())?;
        Ok(Self {
            wire,
            rig: Rig::new(1),
            address,
            flushed: Vec::new(),
            writes: 0,
            counted_by: CountedBy::Nobody,
        })
    }

    /// One turn, waiting at most so long for something to happen; the shard's time stands still.
    fn turn(&mut self, wait: Duration) {
        match self.counted_by {
            CountedBy::Nobody => self.turn_untold(wait),
            CountedBy::Tracer => {
                syscalls::mark();
                self.turn_untold(wait);
                syscalls::mark();
            }
            CountedBy::Callgrind => measured(&mut || self.turn_untold(wait)),
        }
    }

    fn turn_untold(&mut self, wait: Duration) {
        self.wire.poll(Some(wait)).expect("epoll works");
        while let Some(event) = self.wire.next_event() {
            let input = match event {
                WireEvent::Connect { conn, connect, listener, peer } => {
                    let address = peer.address.expect("a socket has another end");
                    let origin = Origin {
                        listener,
                        allow_anonymous: true,
                        authenticates: false,
                        address,
                        certificate: None,
                    };
                    Input::Connect { conn: id_of(conn), connect, origin }
                }
                WireEvent::Packet { conn, packet } => Input::Packet { conn: id_of(conn), packet },
                WireEvent::Flushed { conn, pending_bytes } => {
                    Input::Flushed { conn: id_of(conn), pending_bytes }
                }
                other => panic!("not expected: {other:?}"),
            };
            self.rig.handle(input);
        }
        let Self { wire, rig, flushed, .. } = self;
        for write in &rig.out.writes {
            let key = ConnKey { index: write.conn.index, generation: write.conn.generation };
            wire.write(key, rig.out.head(write), rig.out.payload(write));
        }
        rig.out.clear();
        wire.flush(|key, pending_bytes| flushed.push((key, pending_bytes)));
        self.writes += self.flushed.len() as u32;
        for at in 0..self.flushed.len() {
            let (key, pending_bytes) = self.flushed[at];
            self.rig.handle(Input::Flushed { conn: id_of(key), pending_bytes });
        }
        self.flushed.clear();
    }

    /// A client that has had the answers to its packets, which are so many bytes together.
    fn client(&mut self, packets: &[Packet], answer_bytes: usize) -> Result<TcpStream, String> {
        let mut stream = TcpStream::connect(self.address).map_err(|error| error.to_string())?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let all: Vec<u8> = packets.iter().flat_map(|packet| bytes(packet).to_vec()).collect();
        stream.write_all(&all).map_err(|error| error.to_string())?;
        self.take(&mut stream, answer_bytes)?;
        Ok(stream)
    }

    /// Turns until something holds, which is looked at after each turn.
    fn until(&mut self, mut holds: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
        let (begin, mut wait) = (Instant::now(), Duration::ZERO);
        while begin.elapsed() < PATIENCE {
            self.turn(wait);
            if holds()? {
                return Ok(());
            }
            wait = PAUSE;
        }
        Err("the sockets are silent".into())
    }

    /// Turns until the client has so many bytes.
    fn take(&mut self, stream: &mut TcpStream, wanted: usize) -> Result<(), String> {
        let (mut taken, mut buffer) = (0, [0; 8192]);
        self.until(|| {
            taken += read(stream, &mut buffer)?;
            Ok(taken >= wanted)
        })
    }

    /// Turns the wire, and not the shard, until a CONNECT comes.
    fn first_packet(&mut self) -> Result<WireEvent, String> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            self.wire.poll(Some(PAUSE)).map_err(|error| error.to_string())?;
            if let Some(event) = self.wire.next_event() {
                return Ok(event);
            }
        }
        Err("no CONNECT came".into())
    }
}

const fn id_of(key: ConnKey) -> ConnId {
    ConnId { index: key.index, generation: key.generation }
}

/// What is there, perhaps nothing.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, String> {
    match stream.read(buffer) {
        Ok(0) => Err("the connection was closed".into()),
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.to_string()),
    }
}

/// Counts what connections hold, and what turns allocate and write.
///
/// # Errors
/// The system has no sockets for it.
pub fn count(figures: &mut Figures) -> Result<(), String> {
    connections(figures)?;
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        turns(figures, qos, 1)?;
    }
    turns(figures, Qos::AtMostOnce, TOGETHER)?;
    let peers = Peers::new()?;
    for layer in LAYERS {
        records(figures, &peers, layer)?;
    }
    Ok(())
}

/// Bytes of a CONNACK and of a SUBACK, as the shard answers the clients of this module.
const CONNACK_BYTES: usize = 5;
const SUBACK_BYTES: usize = 6;

/// What a plain connection holds in the wire alone.
fn connections(figures: &mut Figures) -> Result<(), String> {
    let mut broker = Broker::new(Protocol::Mqtt)?;
    let mut streams = Vec::with_capacity(CONNECTIONS as usize + 1);
    let mut wire_bytes = 0;
    for number in 0..=CONNECTIONS {
        let mut stream = TcpStream::connect(broker.address).map_err(|error| error.to_string())?;
        let connect = bytes(&packets::connect(number, 0, false));
        stream.write_all(&connect).map_err(|error| error.to_string())?;
        let count = Count::begin();
        drop(broker.first_packet()?);
        if number > 0 {
            wire_bytes += count.end().held_bytes;
        }
        streams.push(stream);
    }
    figures.add("net, plain connection: bytes", each(wire_bytes, CONNECTIONS, "held"));
    Ok(())
}

/// What turns allocate and write in which so many messages arrive together, one publisher to one
/// subscriber, with the subscriber's acknowledgements.
fn turns(figures: &mut Figures, qos: Qos, together: u32) -> Result<(), String> {
    let (counted, writes) = exchange(qos, together, TURNS, CountedBy::Nobody)?;
    let name = format!("sockets, qos{}, {together} together", qos as u8);
    let messages = TURNS * together;
    let allocations = each(counted.allocations, messages, "per message");
    figures.add(format!("{name}: allocations"), allocations);
    figures.add(format!("{name}: writes"), each(i64::from(writes), TURNS, "per turn"));
    Ok(())
}

/// The same in so many turns that somebody else counts.
///
/// # Panics
/// The system has no sockets for it.
pub fn counted(turns: u32, qos: Qos, together: u32, by: CountedBy) {
    exchange(qos, together, turns, by).expect("there are sockets");
}

/// As many turns to warm up as are counted: allocations and writes of the latter.
fn exchange(qos: Qos, together: u32, turns: u32, by: CountedBy) -> Result<(Counted, u32), String> {
    let mut broker = Broker::new(Protocol::Mqtt)?;
    let hello = [packets::connect(0, 0, false)];
    let mut publisher = broker.client(&hello, CONNACK_BYTES)?;
    let hello = [packets::connect(1, 0, false), packets::subscribe(TOPIC, qos)];
    let mut subscriber = broker.client(&hello, CONNACK_BYTES + SUBACK_BYTES)?;
    let publish = bytes(&packets::publish(TOPIC, qos, 7)).repeat(together as usize);
    let acks: Vec<Bytes> = match qos {
        Qos::AtMostOnce => Vec::new(),
        _ => (1..=2 * turns).map(|id| bytes(&packets::ack(Packet::PubAck, id as u16))).collect(),
    };
    let mut run = |broker: &mut Broker, from: u32| -> Result<(), String> {
        for round in from..from + turns {
            publisher.write_all(&publish).map_err(|error| error.to_string())?;
            broker.take(&mut subscriber, publish.len())?;
            if let Some(ack) = acks.get(round as usize) {
                broker.take(&mut publisher, ack.len())?;
                subscriber.write_all(ack).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    };
    run(&mut broker, 0)?;
    broker.counted_by = by;
    let (count, writes) = (Count::begin(), broker.writes);
    run(&mut broker, turns)?;
    Ok((count.end(), broker.writes - writes))
}

/// TLS records in which messages leave that arrive together.
fn records(figures: &mut Figures, peers: &Peers, layer: RecordLayer) -> Result<(), String> {
    let mut broker = Broker::new(Protocol::Mqtts(peers.server(layer)))?;
    let mut publisher = Secure::open(&mut broker, peers, &[packets::connect(0, 0, false)])?;
    let subscribe = packets::subscribe(TOPIC, Qos::AtMostOnce);
    let hello = [packets::connect(1, 0, false), subscribe];
    let mut subscriber = Secure::open(&mut broker, peers, &hello)?;
    let publish = bytes(&packets::publish(TOPIC, Qos::AtMostOnce, 7));
    let together = publish.repeat(TOGETHER as usize);
    let (mut records, mut received) = (0, 0);
    for turn in 1..=TURNS as usize {
        publisher.send(&together)?;
        broker.until(|| {
            let (more_records, more_bytes) = subscriber.receive()?;
            records += more_records;
            received += more_bytes;
            Ok(received >= turn * together.len())
        })?;
    }
    let name = format!("sockets, tls {}, {TOGETHER} together: records", layer.name());
    figures.add(name, Figure::exact(f64::from(records) / f64::from(TURNS), "per turn"));
    Ok(())
}

/// A client over TLS.
struct Secure {
    stream: TcpStream,
    tls: ClientConnection,
}

impl Secure {
    /// A client that has had an answer to each of its packets.
    fn open(broker: &mut Broker, peers: &Peers, packets: &[Packet]) -> Result<Self, String> {
        let stream = TcpStream::connect(broker.address).map_err(|error| error.to_string())?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let mut client = Self { stream, tls: peers.client() };
        client.send(&[])?;
        broker.until(|| {
            client.receive()?;
            client.send(&[])?;
            Ok(!client.tls.is_handshaking())
        })?;
        for packet in packets {
            client.send(&bytes(packet))?;
            broker.until(|| Ok(client.receive()?.1 > 0))?;
        }
        Ok(client)
    }

    fn send(&mut self, plain: &[u8]) -> Result<(), String> {
        self.tls.writer().write_all(plain).map_err(|error| error.to_string())?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.stream).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What is there: records, and bytes of application data in them.
    fn receive(&mut self) -> Result<(u32, usize), String> {
        let mut buffer = vec![0; 64 << 10];
        let taken = read(&mut self.stream, &mut buffer)?;
        let mut wire = &buffer[..taken];
        let (mut records, mut rest) = (0, wire);
        // Whole records: each write of the broker is taken at once.
        while let [_, _, _, high, low, ..] = rest {
            records += 1;
            rest = rest.get(5 + usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or(&[]);
        }
        while !wire.is_empty() {
            self.tls.read_tls(&mut wire).map_err(|error| error.to_string())?;
            self.tls.process_new_packets().map_err(|error| error.to_string())?;
        }
        let mut plain = Vec::new();
        match self.tls.reader().read_to_end(&mut plain) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.to_string()),
            _ => Ok((records, plain.len())),
        }
    }
}
