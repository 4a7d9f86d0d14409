//! A non-blocking client connection and the epoll instance that many of them share.

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

/// One connection. Its buffers are empty while nothing is on its way.
pub struct Client {
    stream: TcpStream,
    version: Version,
    input: BytesMut,
    output: Vec<u8>,
}

impl Client {
    /// Connects from one of many loopback addresses, so that ports do not run out.
    pub fn open(server: SocketAddr, number: usize, version: Version) -> Result<Self, String> {
        let stream = match server.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => from_loopback(server, number)?,
            _ => TcpStream::connect(server).map_err(|error| format!("{server}: {error}"))?,
        };
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { stream, version, input: BytesMut::new(), output: Vec::new() })
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
        self.stream.write_all(&self.output).map_err(|error| error.to_string())
    }

    /// Adds a packet to what the next flush sends.
    pub fn queue(&mut self, packet: &Packet) {
        encode(packet, self.version, &mut self.output);
    }

    fn exchange(&mut self) -> Result<Packet, String> {
        self.stream.write_all(&self.output).map_err(|error| error.to_string())?;
        self.output = Vec::new();
        loop {
            if let Some(packet) = self.next()? {
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                return Ok(packet);
            }
            let mut buffer = [0u8; 512];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err("the broker closed the connection".into()),
                Ok(len) => self.input.extend_from_slice(&buffer[..len]),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// From now on nothing blocks.
    pub fn watch(&self, epoll: &OwnedFd, number: usize) -> Result<(), String> {
        self.stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(epoll, &self.stream, EventData::new_u64(number as u64), flags)
            .map_err(|error| error.to_string())
    }

    /// Sends what is queued as far as the socket takes it. False if something is left.
    pub fn flush(&mut self) -> Result<bool, String> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(true)
    }

    /// Reads once. False if nothing was there.
    pub fn fill(&mut self, scratch: &mut [u8]) -> Result<bool, String> {
        match self.stream.read(scratch) {
            Ok(0) => Err("the broker closed a connection".into()),
            Ok(len) => {
                self.input.extend_from_slice(&scratch[..len]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The next whole packet that was read.
    pub fn next(&mut self) -> Result<Option<Packet>, String> {
        match frame(&self.input, u32::MAX).map_err(|error| error.to_string())? {
            Frame::Incomplete(_) => Ok(None),
            Frame::Complete(len) => {
                let packet: Bytes = self.input.split_to(len).freeze();
                let packet = decode(&packet, Some(self.version));
                packet.map(Some).map_err(|error| error.to_string())
            }
        }
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
