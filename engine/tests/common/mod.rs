//! A broker in this process and a client that speaks to it over loopback.
#![allow(dead_code)]

pub mod authority;

pub mod seccomp;

pub mod layers;

pub mod process;

pub mod scram;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::{
    Config, EngineConfig, FdTablesChoice, Listener, Protocol, RecordLayer, RuntimeChoice, Security,
};
use petrel_proto::{
    Connect, ConnectProperties, Frame, Packet, PacketId, Publish, PublishProperties, Qos,
    Subscribe, SubscribeFilter, SubscriptionOptions, Text, TopicFilter, TopicName, UserProperties,
    Version, decode, encode, frame,
};
use smallvec::smallvec;

/// Far above anything that a working broker needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const RUNTIMES: [RuntimeChoice; 2] = [RuntimeChoice::Glommio, RuntimeChoice::Epoll];

pub fn listener(protocol: Protocol) -> Listener {
    Listener {
        name: "test".to_owned(),
        authentication: Vec::new(),
        protocol,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        allow_anonymous: true,
        connections_maximum: 0,
        tls: None,
        record_layer: RecordLayer::default(),
        security: Security::default(),
        path: if protocol.is_websocket() { "/mqtt".to_owned() } else { String::new() },
    }
}

pub fn config(shards: u16, runtime: RuntimeChoice) -> Config {
    // Sockets of other tests are open in this process; tables of its own would hold copies of them.
    Config {
        engine: EngineConfig {
            shards: Some(shards),
            runtime,
            fd_tables: FdTablesChoice::Shared,
            ..EngineConfig::default()
        },
        listeners: vec![listener(Protocol::Mqtt)],
        ..Config::default()
    }
}

pub fn start(config: Config) -> Running {
    boot::start(config, &AuthMethods::default()).unwrap_or_else(|error| panic!("{error}"))
}

pub fn broker(shards: u16, runtime: RuntimeChoice) -> Running {
    start(config(shards, runtime))
}

/// A broker with one listener whose clients are in this file of users, as this kind of authenticator reads it, and
/// have these rights; and the folder in which `users` and `rules` are.
pub fn with_users(
    runtime: RuntimeChoice,
    kind: &str,
    users: &str,
    rules: &str,
) -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [("users", users), ("rules", rules)] {
        std::fs::write(folder.path().join(name), content).expect("written");
    }
    let text = format!(
        "[engine]\nshards = 2\nfd_tables = \"shared\"\n[[listener]]\nprotocol = \"mqtt\"\n\
         address = \"127.0.0.1:0\"\nauthentication = [\"users\"]\n[[authenticator]]\nname = \"users\"\n\
         kind = \"{kind}\"\nfile = \"users\"\n[access]\nrules = \"rules\"\n"
    );
    let mut config = Config::parse(&text, folder.path()).expect("nothing is wrong");
    config.engine.runtime = runtime;
    (start(config), folder)
}

pub fn text(text: &str) -> Text {
    Text::try_from(text).expect("valid text")
}

pub fn connect_packet(client_id: &str, version: Version) -> Packet {
    Packet::Connect(Box::new(Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: text(client_id),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }))
}

pub fn publish_packet(topic: &str, payload: impl Into<Bytes>, qos: Qos, id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: TopicName::new(text(topic)).expect("valid topic"),
        packet_id: PacketId::new(id).filter(|_| qos != Qos::AtMostOnce),
        properties: PublishProperties::default(),
        payload: payload.into(),
    })
}

pub fn subscribe_packet(filter: &str, qos: Qos) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: PacketId::new(1).expect("not zero"),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: smallvec![SubscribeFilter {
            filter: TopicFilter::new(text(filter)).expect("valid filter"),
            options: SubscriptionOptions { qos, ..SubscriptionOptions::default() },
        }],
    }))
}

pub fn bytes_of(packet: &Packet, version: Version) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes);
    bytes.to_vec()
}

/// A client that blocks, and panics when it has to wait unreasonably long.
pub struct Client<S = TcpStream> {
    pub stream: S,
    pub version: Version,
    input: BytesMut,
}

impl Client {
    /// A connection without a packet.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("nodelay can be set");
        Self::over(stream)
    }

    /// A connection that has been accepted by the broker's session.
    pub fn connect(address: SocketAddr, client_id: &str, version: Version) -> Self {
        let mut client = Self::open(address);
        client.version = version;
        client.hello(client_id);
        client
    }
}

impl<S: Read + Write> Client<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, version: Version::V5, input: BytesMut::new() }
    }

    pub fn hello(&mut self, client_id: &str) {
        self.send(&connect_packet(client_id, self.version));
        match self.receive() {
            Some(Packet::ConnAck(ack)) if ack.reason as u8 == 0 => {}
            other => panic!("no good CONNACK but {other:?}"),
        }
    }

    pub fn send(&mut self, packet: &Packet) {
        let bytes = bytes_of(packet, self.version);
        self.send_bytes(&bytes);
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker reads");
    }

    pub fn subscribe(&mut self, filter: &str, qos: Qos) {
        self.send(&subscribe_packet(filter, qos));
        match self.receive() {
            Some(Packet::SubAck(ack)) if ack.reasons.iter().all(|it| (*it as u8) < 0x80) => {}
            other => panic!("no good SUBACK but {other:?}"),
        }
    }

    /// The next packet; `None` at the end of the connection.
    pub fn receive(&mut self) -> Option<Packet> {
        loop {
            let seen = frame(&self.input, u32::MAX).expect("the broker sends MQTT");
            if let Frame::Complete(length) = seen {
                let packet = self.input.split_to(length).freeze();
                return Some(decode(&packet, Some(self.version)).expect("the broker sends MQTT"));
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("waited for a packet: {error}"),
            }
        }
    }

    /// The next packet, which has to be a PUBLISH; QoS 1 is acknowledged.
    pub fn receive_publish(&mut self) -> Publish {
        match self.receive() {
            Some(Packet::Publish(publish)) => {
                if let (Qos::AtLeastOnce, Some(id)) = (publish.qos, publish.packet_id) {
                    let reason = petrel_proto::ReasonCode::Success;
                    self.send(&Packet::PubAck(petrel_proto::Ack::new(id, reason)));
                }
                publish
            }
            other => panic!("no PUBLISH but {other:?}"),
        }
    }

    /// Asserts that the broker ends the connection, whatever it says before.
    pub fn expect_end(&mut self) {
        while self.receive().is_some() {}
    }
}
