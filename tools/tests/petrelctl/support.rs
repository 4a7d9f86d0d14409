//! `petrelctl` as a child process, and a broker that follows a script.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use petrel_net::tls::TlsSession;
use petrel_net::websocket::WebSocket;
use petrel_proto::{
    Ack, ConnAck, ConnAckProperties, Connect, Frame, Packet, PacketId, Publish, PublishProperties,
    Qos, ReasonCode, ReasonProperties, SubAck, Text, TopicName, Version, decode, encode,
    encoded_len, frame,
};

/// A broker that does what its script says, once, on a port of its own.
pub struct Broker<T> {
    /// Where it listens.
    pub address: SocketAddr,
    script: JoinHandle<T>,
}

impl<T: Send + 'static> Broker<T> {
    /// Starts; the script gets the first connection.
    pub fn start(script: impl FnOnce(Client) -> T + Send + 'static) -> Self {
        Self::start_behind(Layers::default(), script)
    }

    /// The same with TLS or WebSocket below the packets.
    pub fn start_behind(layers: Layers, script: impl FnOnce(Client) -> T + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let script = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            // A test that hangs is worse than one that fails.
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            script(Client { stream, layers, received: BytesMut::new(), version: None })
        });
        Self { address, script }
    }

    /// Waits for the end of the script.
    pub fn finish(self) -> T {
        self.script.join().expect("the script went through")
    }

    /// A `petrelctl` command line for this broker.
    pub fn petrelctl(&self, command: &str) -> Command {
        let mut words = command.split_whitespace();
        let mut child = petrelctl(&[words.next().expect("a command")]);
        child.args(["-h", "127.0.0.1", "-p", &self.address.port().to_string()]).args(words);
        child
    }
}

/// What is between TCP and the packets.
#[derive(Default)]
pub struct Layers {
    pub tls: Option<TlsSession>,
    pub websocket: Option<WebSocket>,
}

impl Layers {
    /// Takes bytes off the wire; `None` once the client has broken a rule.
    fn read(&mut self, wire: &mut [u8], packets: &mut BytesMut, out: &mut Vec<u8>) -> Option<()> {
        let mut plain = BytesMut::new();
        match &mut self.tls {
            Some(tls) => {
                tls.read(wire, &mut plain, out).ok()?;
            }
            None => plain.extend_from_slice(wire),
        }
        let Some(websocket) = &mut self.websocket else {
            packets.extend_from_slice(&plain);
            return Some(());
        };
        let mut answer = Vec::new();
        let result = websocket.read(&plain, packets, &mut answer);
        self.encrypt(&answer, out);
        result.ok().map(drop)
    }

    fn write(&mut self, packet: &[u8], out: &mut Vec<u8>) {
        match &mut self.websocket {
            Some(websocket) => {
                let mut framed = Vec::new();
                websocket.write(packet, &mut framed);
                self.encrypt(&framed, out);
            }
            None => self.encrypt(packet, out),
        }
    }

    fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        match &mut self.tls {
            // An answer to nothing, while the handshake goes on.
            Some(_) if plain.is_empty() => {}
            Some(tls) => tls.write(plain, out).expect("the handshake is done"),
            None => out.extend_from_slice(plain),
        }
    }
}

/// The broker's end of a connection.
pub struct Client {
    pub stream: TcpStream,
    layers: Layers,
    received: BytesMut,
    version: Option<Version>,
}

impl Client {
    /// The next packet; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Packet> {
        loop {
            if let Frame::Complete(bytes) = frame(&self.received, u32::MAX).expect("a packet") {
                let packet = self.received.split_to(bytes).freeze();
                return Some(decode(&packet, self.version).expect("a good packet"));
            }
            if !self.receive().expect("no rule is broken") {
                assert!(self.received.is_empty(), "half a packet is left: {:?}", self.received);
                return None;
            }
        }
    }

    /// Waits for bytes; false at the end of the connection, `None` once a rule is broken.
    fn receive(&mut self) -> Option<bool> {
        let mut chunk = [0; 4096];
        let count = self.stream.read(&mut chunk).expect("bytes in time");
        let mut out = Vec::new();
        let result = self.layers.read(&mut chunk[..count], &mut self.received, &mut out);
        self.stream.write_all(&out).expect("the client reads");
        result.map(|()| count > 0)
    }

    /// Reads until the client breaks a rule, true, or ends without a packet, false.
    pub fn ends_in_a_fault(&mut self) -> bool {
        loop {
            match self.receive() {
                None => return true,
                Some(false) => return false,
                Some(true) => assert!(self.received.is_empty(), "{:?}", self.received),
            }
        }
    }

    /// Whether the client has sent nothing more yet.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("it can be set");
        let waiting = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("it can be set");
        self.received.is_empty() && waiting.is_err()
    }

    pub fn expect(&mut self) -> Packet {
        self.next().expect("a packet and not the end")
    }

    /// Packets up to the end.
    pub fn rest(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.next()).collect()
    }

    pub fn send(&mut self, packet: &Packet) {
        let version = self.version.expect("CONNECT comes first");
        let mut bytes = BytesMut::with_capacity(encoded_len(packet, version).expect("it fits"));
        encode(packet, version, &mut bytes);
        let mut out = Vec::new();
        self.layers.write(&bytes, &mut out);
        self.stream.write_all(&out).expect("the client reads");
    }

    /// Reads CONNECT and answers.
    pub fn connack(&mut self, reason: ReasonCode, properties: ConnAckProperties) -> Box<Connect> {
        let Packet::Connect(connect) = self.expect() else { panic!("not CONNECT") };
        self.version = Some(connect.version);
        self.send(&Packet::ConnAck(Box::new(ConnAck {
            session_present: false,
            reason,
            properties,
        })));
        connect
    }

    /// Reads CONNECT and lets the client in.
    pub fn accept(&mut self) -> Box<Connect> {
        self.connack(ReasonCode::Success, ConnAckProperties::default())
    }

    /// Reads SUBSCRIBE and answers with these codes.
    pub fn suback(&mut self, reasons: &[ReasonCode]) -> petrel_proto::Subscribe {
        let Packet::Subscribe(subscribe) = self.expect() else { panic!("not SUBSCRIBE") };
        self.send(&Packet::SubAck(Box::new(SubAck {
            packet_id: subscribe.packet_id,
            reasons: reasons.iter().copied().collect(),
            properties: ReasonProperties::EMPTY,
        })));
        *subscribe
    }

    pub fn publish(&mut self, id: u16, qos: Qos, topic: &str, payload: &str) {
        self.send(&Packet::Publish(message(id, qos, topic, payload)));
    }
}

/// A message without properties; `id` 0 stands for none.
pub fn message(id: u16, qos: Qos, topic: &str, payload: &str) -> Publish {
    let topic = Text::try_from(topic).expect("good text");
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: TopicName::new(topic).expect("a good topic"),
        packet_id: PacketId::new(id),
        properties: PublishProperties::default(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub fn ack(id: PacketId, reason: ReasonCode) -> Ack {
    Ack::new(id, reason)
}

/// A `petrelctl` with these arguments.
pub fn petrelctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrelctl"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Exit code, stdout and stderr of a command that ends by itself.
pub fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("petrelctl starts");
    (code(status), text(stdout), text(stderr))
}

/// Starts a command whose stdin and stdout are ours.
pub fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("petrelctl starts")
}

pub fn code(status: ExitStatus) -> i32 {
    status.code().expect("no signal ended it")
}

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}
