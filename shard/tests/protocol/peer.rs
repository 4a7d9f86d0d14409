//! The client's end of a connection: it frames, decodes, and holds the broker to what it may send.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::{Bytes, BytesMut};
use petrel_proto::{
    Connect, Frame, Packet, PacketId, Publish, Qos, ReasonCode, TopicName, Version, decode, frame,
};
use petrel_shard::ConnId;
use petrel_shard::outbox::{Outbox, Write};

/// One connection, seen from the client.
pub struct Peer {
    pub shard: u16,
    pub conn: ConnId,
    pub version: Version,
    pub open: bool,
    pub stalled: bool,
    pub inbox: VecDeque<Packet>,
    pub assigned: Option<String>,
    maximum_packet_size: u32,
    receive_maximum: usize,
    alias_maximum: u16,
    aliases: HashMap<u16, TopicName>,
    /// Sent by the broker and not finished by this client.
    unfinished: HashSet<PacketId>,
    /// Released by the broker, perhaps from an earlier connection, and not completed.
    released: HashSet<PacketId>,
    answered: bool,
    ended: bool,
    waiting: BytesMut,
}

impl Peer {
    pub fn new(shard: u16, conn: ConnId, version: Version) -> Self {
        Self {
            shard,
            conn,
            version,
            open: true,
            stalled: false,
            inbox: VecDeque::new(),
            assigned: None,
            maximum_packet_size: u32::MAX,
            receive_maximum: usize::from(u16::MAX),
            alias_maximum: 0,
            aliases: HashMap::new(),
            unfinished: HashSet::new(),
            released: HashSet::new(),
            answered: false,
            ended: false,
            waiting: BytesMut::new(),
        }
    }

    /// Notes what the CONNECT allows the broker to send.
    pub fn expect(&mut self, connect: &Connect) {
        let properties = &connect.properties;
        self.maximum_packet_size = properties.maximum_packet_size.unwrap_or(u32::MAX);
        self.receive_maximum = usize::from(properties.receive_maximum.unwrap_or(u16::MAX));
        self.alias_maximum = properties.topic_alias_maximum.unwrap_or(0);
    }

    /// Notes what the client has sent.
    pub fn sent(&mut self, packet: &Packet) {
        match packet {
            Packet::PubRec(ack) if !ack.reason.is_error() => {}
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                self.unfinished.remove(&ack.packet_id);
                self.released.remove(&ack.packet_id);
            }
            _ => {}
        }
    }

    /// Bytes were written to the client's socket, which may not take them yet.
    pub fn arrive(&mut self, out: &Outbox, write: &Write) {
        out.copy_to(write, &mut self.waiting);
    }

    /// Takes what waits, unless stalled. Returns how many bytes still wait.
    pub fn flush(&mut self) -> usize {
        if !self.stalled {
            let bytes = self.waiting.split();
            self.receive(&bytes);
        }
        self.waiting.len()
    }

    /// The broker closes; what it wrote before still arrives.
    pub fn close(&mut self) {
        assert!(self.open, "closed twice");
        let bytes = self.waiting.split();
        self.receive(&bytes);
        self.open = false;
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        let mut rest = Bytes::copy_from_slice(bytes);
        while !rest.is_empty() {
            let Frame::Complete(len) = frame(&rest, u32::MAX).unwrap() else {
                panic!("the broker sent half a packet");
            };
            let whole = rest.split_to(len);
            let packet = decode(&whole, Some(self.version)).unwrap();
            assert!(len <= self.maximum_packet_size as usize, "[MQTT5-3.1.2-24]: {packet:?}");
            self.check(&packet);
            self.inbox.push_back(packet);
        }
    }

    fn check(&mut self, packet: &Packet) {
        assert!(!self.ended, "[MQTT5-3.14.4-1]: {packet:?} after DISCONNECT");
        match packet {
            Packet::ConnAck(connack) => {
                assert!(!self.answered, "[MQTT5-3.2.0-2]: a second CONNACK");
                self.answered = true;
                self.ended = connack.reason != ReasonCode::Success;
                let id = connack.properties.assigned_client_id.as_ref();
                self.assigned = id.map(|id| id.as_str().to_owned());
            }
            Packet::Auth(_) => {}
            _ => assert!(self.answered, "[MQTT5-3.2.0-1]: {packet:?} before CONNACK"),
        }
        match packet {
            Packet::Disconnect(disconnect) => {
                assert!(self.version.is_v5(), "a DISCONNECT from the server before MQTT 5");
                assert_eq!(disconnect.session_expiry_interval_s, None, "[MQTT5-3.14.2-2]");
                self.ended = true;
            }
            Packet::Publish(publish) => self.check_publish(publish),
            Packet::PubRel(ack) if ack.reason == ReasonCode::Success => {
                self.released.insert(ack.packet_id);
            }
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq => panic!("{packet:?} from a server"),
            _ => {}
        }
    }

    fn check_publish(&mut self, publish: &Publish) {
        if let Some(alias) = publish.properties.topic_alias {
            assert!((1..=self.alias_maximum).contains(&alias), "[MQTT5-3.1.2-26]: {publish:?}");
        }
        assert_eq!(publish.packet_id.is_some(), publish.qos > Qos::AtMostOnce);
        if let Some(packet_id) = publish.packet_id {
            let new = self.unfinished.insert(packet_id) && !self.released.contains(&packet_id);
            assert!(new, "[MQTT5-2.2.1-4]: {packet_id:?} is in use");
            assert!(self.unfinished.len() <= self.receive_maximum, "[MQTT5-3.3.4-9]");
        }
    }

    /// The publish with its topic alias resolved.
    pub fn resolved(&mut self, mut publish: Publish) -> Publish {
        if let Some(alias) = publish.properties.topic_alias {
            if publish.topic == TopicName::EMPTY {
                publish.topic = self.aliases[&alias].clone();
            } else {
                self.aliases.insert(alias, publish.topic.clone());
            }
        }
        publish
    }
}
