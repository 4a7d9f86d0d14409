//! One client: what is kept for it, and its packets.

use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use petrel_proto::{
    Ack, ClientId, Connect, ConnectProperties, Packet, PacketId, Publish, PublishProperties, Qos,
    ReasonCode, Subscribe, SubscribeFilter, SubscriptionOptions, Text, TopicFilter, TopicName,
    UserProperties, Version,
};

use super::plan::{Group, Publishing, Target, numbered};
use super::stamps::Mark;
use super::tls::Layer;

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not connected.
    Off,
    /// The TCP handshake is under way.
    Connecting,
    /// The TLS handshake is.
    Securing,
    /// CONNECT was sent.
    Greeting,
    /// SUBSCRIBE was sent.
    Subscribing,
    /// It does what its group does.
    Ready,
}

/// One client. Its buffers are empty while nothing is on its way.
pub struct Slot {
    /// Position of its group.
    pub group: u16,
    /// Its number within the group.
    pub number: u32,
    /// How far it has come.
    pub phase: Phase,
    /// Counts its connections, so that an event of an earlier one is known as such.
    pub generation: u32,
    /// The last Packet Identifier it used.
    pub packet_id: u16,
    /// Its socket.
    pub socket: Option<OwnedFd>,
    /// What lies between it and MQTT.
    pub layer: Layer,
    /// The start of a packet.
    pub tail: Vec<u8>,
    /// What the socket did not take.
    pub unsent: Vec<u8>,
    /// When it was told to connect, in nanoseconds.
    pub told_ns: u64,
    /// Messages it has sent.
    pub sent: u64,
}

impl Slot {
    /// A client that has done nothing.
    #[must_use]
    pub fn new(group: u16, number: u32) -> Self {
        Self {
            group,
            number,
            phase: Phase::Off,
            generation: 0,
            packet_id: 0,
            socket: None,
            layer: Layer::Plain,
            tail: Vec::new(),
            unsent: Vec::new(),
            told_ns: 0,
            sent: 0,
        }
    }

    /// Which message its next one is.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { group: self.group as u8, number: self.number, message: self.sent as u32 }
    }

    /// The next Packet Identifier.
    pub fn next_id(&mut self) -> Option<PacketId> {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.packet_id)
    }
}

/// CONNECT of a client.
///
/// # Errors
/// Its identifier is no MQTT string.
pub fn connect(target: &Target, group: &Group, number: u32) -> Result<Packet, String> {
    let number = number as usize + target.start_number;
    let client_id: ClientId = text(&format!("{}-{}-{number}", target.prefix, group.name))?;
    let expires = target.version == Version::V5 && group.persistent;
    let expiry = expires.then_some(target.session_expiry_s);
    Ok(Packet::Connect(Box::new(Connect {
        version: target.version,
        clean_start: !group.persistent,
        keep_alive_s: group.keep_alive_s,
        client_id,
        will: None,
        username: target.username.as_deref().map(|it| text(&numbered(it, number))).transpose()?,
        password: target.password.clone().map(Bytes::from),
        properties: ConnectProperties {
            session_expiry_interval_s: expiry,
            ..ConnectProperties::default()
        },
    })))
}

/// SUBSCRIBE of a client.
///
/// # Errors
/// The filter is none.
pub fn subscribe(filter: &str, qos: Qos, number: usize) -> Result<Packet, String> {
    let filter = numbered(filter, number);
    let filter = TopicFilter::new(text(&filter)?).map_err(|error| format!("{filter}: {error}"))?;
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    Ok(Packet::Subscribe(Box::new(Subscribe {
        packet_id: PacketId::new(1).ok_or("no packet id")?,
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: [SubscribeFilter { filter, options }].into_iter().collect(),
    })))
}

/// PUBLISH of a client, due at a time.
///
/// # Errors
/// The topic is none.
pub fn publish(
    slot: &mut Slot,
    publishing: &Publishing,
    start: usize,
    due_ns: u64,
) -> Result<Packet, String> {
    let number = if publishing.counting { slot.sent as usize } else { slot.number as usize };
    let topic = numbered(&publishing.topic, start + number);
    let topic = TopicName::new(text(&topic)?).map_err(|error| format!("{topic}: {error}"))?;
    let packet_id = if publishing.qos == Qos::AtMostOnce { None } else { slot.next_id() };
    let mut payload = BytesMut::zeroed(publishing.bytes.max(STAMP_BYTES));
    payload[..8].copy_from_slice(&due_ns.to_le_bytes());
    payload[8..STAMP_BYTES].copy_from_slice(&slot.mark().to_bytes());
    Ok(Packet::Publish(Publish {
        dup: false,
        qos: publishing.qos,
        retain: publishing.retain,
        topic,
        packet_id,
        properties: PublishProperties::default(),
        payload: payload.freeze(),
    }))
}

/// What every payload begins with: when it was due, and which one it is.
pub const STAMP_BYTES: usize = 16;

/// When a message was due, in nanoseconds.
#[must_use]
pub fn due_ns(payload: &Bytes) -> Option<u64> {
    let stamp = payload.get(..8)?;
    Some(u64::from_le_bytes(stamp.try_into().ok()?))
}

/// Which message it is.
#[must_use]
pub fn mark(payload: &Bytes) -> Option<Mark> {
    let mark = payload.get(8..STAMP_BYTES)?;
    Some(Mark::from_bytes(mark.try_into().ok()?))
}

/// The answer to a packet, if it needs one.
#[must_use]
pub fn answer(packet: &Packet) -> Option<Packet> {
    let ack = |id: PacketId| Ack::new(id, ReasonCode::Success);
    match packet {
        Packet::Publish(publish) => {
            let id = publish.packet_id?;
            Some(match publish.qos {
                Qos::ExactlyOnce => Packet::PubRec(ack(id)),
                _ => Packet::PubAck(ack(id)),
            })
        }
        Packet::PubRec(received) => Some(Packet::PubRel(ack(received.packet_id))),
        Packet::PubRel(released) => Some(Packet::PubComp(ack(released.packet_id))),
        _ => None,
    }
}

fn text(value: &str) -> Result<Text, String> {
    Text::try_from(value).map_err(|error| format!("{value}: {error}"))
}
