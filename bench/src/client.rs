//! A client connection, blocking until it is watched; with TLS or without.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use bytes::{Bytes, BytesMut};
use petrel_proto::{
    ClientId, Connect, ConnectProperties, Frame, Packet, PacketId, ReasonCode, Subscribe,
    SubscribeFilter, SubscriptionOptions, Text, TopicFilter, UserProperties, Version, decode,
    encode, frame,
};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::load::tls::{Layer, TlsClient};

/// Bytes that one read takes, at most, while nothing but answers is expected.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// Where and how clients connect.
#[derive(Clone, Copy)]
pub struct Server<'a> {
    /// Where the broker listens.
    pub address: SocketAddr,
    /// Protocol version.
    pub version: Version,
    /// TLS, if it is spoken.
    pub tls: Option<&'a TlsClient>,
}

/// One connection. Its buffers are empty while nothing is on its way.
pub struct Client {
    stream: TcpStream,
    version: Version,
    layer: Layer,
    /// The start of a packet.
    tail: Vec<u8>,
    /// What the next flush sends.
    output: Vec<u8>,
    /// The same as it goes over the wire, if that differs, and what the socket did not take.
    wire: Vec<u8>,
}

/// What one read has brought; one for all connections.
pub struct Incoming {
    buffer: Vec<u8>,
    /// What the buffer meant, if it came over TLS.
    plain: BytesMut,
    /// Bytes of the buffer; `None` if what counts is in `plain`.
    length: Option<usize>,
}

impl Incoming {
    /// With room for one read of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes], plain: BytesMut::new(), length: Some(0) }
    }

    /// The bytes, from the start of a packet on.
    pub fn bytes(&self) -> &[u8] {
        match self.length {
            Some(length) => &self.buffer[..length],
            None => &self.plain,
        }
    }
}

/// What a read was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Nothing was there.
    Nothing,
    /// All that was there.
    All,
    /// There may be more.
    Part,
}

impl Client {
    /// Connects from one of many loopback addresses, so that ports do not run out.
    pub fn open(server: Server<'_>, number: usize) -> Result<Self, String> {
        let address = server.address;
        let stream = match address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => from_loopback(address, number)?,
            _ => TcpStream::connect(address).map_err(|error| format!("{address}: {error}"))?,
        };
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut client = Self {
            stream,
            version: server.version,
            layer: Layer::Plain,
            tail: Vec::new(),
            output: Vec::new(),
            wire: Vec::new(),
        };
        if let Some(tls) = server.tls {
            client.secure(tls)?;
        }
        Ok(client)
    }

    fn secure(&mut self, tls: &TlsClient) -> Result<(), String> {
        self.layer = tls.begin(&mut self.wire)?;
        self.flush()?;
        let mut incoming = Incoming::new(ANSWER_BYTES_MAX);
        while !self.layer.is_ready() {
            self.fill(&mut incoming)?;
            self.keep(incoming.bytes());
            self.flush()?;
        }
        Ok(())
    }

    /// CONNECT and its answer, blocking; with a clean session.
    pub fn hello(&mut self, id: &str) -> Result<(), String> {
        self.connect(id, true, 0)
    }

    /// The same, with a session that outlives the connection for an hour. What is left of an earlier one
    /// is taken up.
    pub fn resume(&mut self, id: &str) -> Result<(), String> {
        self.connect(id, false, 3600)
    }

    fn connect(&mut self, id: &str, clean_start: bool, expiry_s: u32) -> Result<(), String> {
        let client_id: ClientId = text(id)?;
        let properties = ConnectProperties {
            session_expiry_interval_s: (expiry_s > 0).then_some(expiry_s),
            ..ConnectProperties::default()
        };
        self.queue(&Packet::Connect(Box::new(Connect {
            version: self.version,
            clean_start,
            keep_alive_s: 0,
            client_id,
            will: None,
            username: None,
            password: None,
            properties,
        })));
        match self.exchange()? {
            Packet::ConnAck(ack) if ack.reason == ReasonCode::Success => Ok(()),
            other => Err(format!("CONNECT was answered by {other:?}")),
        }
    }

    /// SUBSCRIBE and its answer, blocking.
    pub fn subscribe(&mut self, filter: &str, options: SubscriptionOptions) -> Result<(), String> {
        let filter = TopicFilter::new(text(filter)?).map_err(|error| error.to_string())?;
        self.queue(&Packet::Subscribe(Box::new(Subscribe {
            packet_id: PacketId::new(1).ok_or("no packet id")?,
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters: [SubscribeFilter { filter, options }].into_iter().collect(),
        })));
        match self.exchange()? {
            Packet::SubAck(ack) if ack.reasons.iter().all(|reason| !reason.is_error()) => Ok(()),
            other => Err(format!("SUBSCRIBE was answered by {other:?}")),
        }
    }

    /// DISCONNECT, and whatever the broker does then.
    pub fn leave(mut self) -> Result<(), String> {
        let disconnect = petrel_proto::Disconnect::new(ReasonCode::Success);
        self.queue(&Packet::Disconnect(Box::new(disconnect)));
        self.flush().map(|_| ())
    }

    fn queue(&mut self, packet: &Packet) {
        encode(packet, self.version, &mut self.output);
    }

    fn exchange(&mut self) -> Result<Packet, String> {
        self.flush()?;
        let mut incoming = Incoming::new(ANSWER_BYTES_MAX);
        loop {
            let length = match frame(&self.tail, u32::MAX).map_err(|error| error.to_string())? {
                Frame::Complete(length) => length,
                Frame::Incomplete(_) => {
                    self.fill(&mut incoming)?;
                    self.keep(incoming.bytes());
                    // What a handshake leaves to be said.
                    self.flush()?;
                    continue;
                }
            };
            let packet: Bytes = self.tail.drain(..length).collect();
            if self.tail.is_empty() {
                (self.tail, self.output, self.wire) = (Vec::new(), Vec::new(), Vec::new());
            }
            return decode(&packet, Some(self.version)).map_err(|error| error.to_string());
        }
    }

    /// From now on nothing blocks.
    pub fn watch(&self, epoll: &OwnedFd, number: usize) -> Result<(), String> {
        self.stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(epoll, &self.stream, EventData::new_u64(number as u64), flags)
            .map_err(|error| error.to_string())
    }

    /// What the next flush sends; packets are added to it.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Sends what is queued as far as the socket takes it. How many writes that took.
    pub fn flush(&mut self) -> Result<u64, String> {
        if !self.output.is_empty() {
            match &mut self.layer {
                Layer::Plain if self.wire.is_empty() => {
                    std::mem::swap(&mut self.output, &mut self.wire);
                }
                layer => layer.write(&self.output, &mut self.wire)?,
            }
            self.output.clear();
        }
        let (mut taken, mut writes) = (0, 0);
        while taken < self.wire.len() {
            writes += 1;
            match self.stream.write(&self.wire[taken..]) {
                Ok(bytes) => taken += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        self.wire.drain(..taken);
        Ok(writes)
    }

    /// Reads once, behind the start of a packet that was kept.
    pub fn fill(&mut self, incoming: &mut Incoming) -> Result<Filled, String> {
        let plain = matches!(self.layer, Layer::Plain);
        let kept = if plain { self.tail.len() } else { 0 };
        if kept * 2 > incoming.buffer.len() {
            incoming.buffer.resize(kept * 2, 0);
        }
        incoming.buffer[..kept].copy_from_slice(&self.tail[..kept]);
        let room = incoming.buffer.len() - kept;
        let bytes = match self.stream.read(&mut incoming.buffer[kept..]) {
            Ok(0) => return Err("the broker closed a connection".into()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Filled::Nothing),
            Err(error) => return Err(error.to_string()),
        };
        if plain {
            incoming.length = Some(kept + bytes);
        } else {
            incoming.length = None;
            incoming.plain.clear();
            incoming.plain.extend_from_slice(&self.tail);
            let wire = &mut incoming.buffer[..bytes];
            self.layer.read(wire, &mut incoming.plain, &mut self.wire)?;
        }
        self.tail.clear();
        Ok(if bytes < room { Filled::All } else { Filled::Part })
    }

    /// Keeps the start of a packet for the next read.
    pub fn keep(&mut self, start: &[u8]) {
        self.tail.extend_from_slice(start);
    }
}

/// A validated string.
pub fn text(value: &str) -> Result<Text, String> {
    Text::try_from(value).map_err(|error| error.to_string())
}

/// Connects, blocking, from the source address for a client's number.
pub fn from_loopback(server: SocketAddr, number: usize) -> Result<TcpStream, String> {
    let fail = |error: rustix::io::Errno| format!("{server}: {error}");
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).map_err(fail)?;
    let host = Ipv4Addr::new(127, 0, (number / 20_000 % 250) as u8, 1 + (number % 200) as u8);
    bind(&socket, &SocketAddr::from((host, 0))).map_err(fail)?;
    connect(&socket, &server).map_err(fail)?;
    Ok(TcpStream::from(socket))
}
