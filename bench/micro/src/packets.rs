//! The packets that everything here is measured with, as clients send them.

use bytes::{Bytes, BytesMut};
use petrel_proto::{
    Ack, Connect, ConnectProperties, Disconnect, MessageFields, MessageProperties, Packet,
    PacketId, Publish, PublishProperties, Qos, ReasonCode, Subscribe, SubscribeFilter,
    SubscriptionOptions, Text, TopicFilter, TopicName, Unsubscribe, UserProperties, Version,
    encode,
};

/// What all clients speak.
pub const VERSION: Version = Version::V5;

/// Bytes of the payload of a message, as a sensor would send.
const PAYLOAD: &[u8; 64] = &[b'7'; 64];

/// A packet on the wire.
///
/// # Panics
/// If it cannot be encoded, which none of this module's is.
pub fn bytes(packet: &Packet) -> Bytes {
    let mut out = BytesMut::new();
    encode(packet, VERSION, &mut out);
    assert!(!out.is_empty(), "{packet:?} has no encoding");
    out.freeze()
}

fn text(value: &str) -> Text {
    Text::try_from(value).expect("the strings of this module are valid")
}

fn id(packet_id: u16) -> PacketId {
    PacketId::new(packet_id).expect("the identifiers of this module are not zero")
}

/// CONNECT of client `number`; a persistent one keeps its session for an hour.
pub fn connect(number: u32, keep_alive_s: u16, persistent: bool) -> Packet {
    let properties = ConnectProperties {
        session_expiry_interval_s: persistent.then_some(3600),
        ..ConnectProperties::default()
    };
    Packet::Connect(Box::new(Connect {
        version: VERSION,
        clean_start: !persistent,
        keep_alive_s,
        client_id: text(&format!("client-{number:06}")),
        will: None,
        username: None,
        password: None,
        properties,
    }))
}

/// PUBLISH with properties of all kinds, some of which stand between others.
pub fn publish_with_properties(topic: &str, qos: Qos, packet_id: u16) -> Bytes {
    let Packet::Publish(mut publish) = publish(topic, qos, packet_id) else {
        unreachable!("that is what it makes")
    };
    let (name, value) = (text("name"), text("value"));
    let fields = MessageFields {
        content_type: Some(text("text")),
        correlation_data: Some(Bytes::from_static(b"42")),
        user_properties: UserProperties::from_pairs([(&name, &value)]),
        ..MessageFields::default()
    };
    publish.properties.message = MessageProperties::of(&fields).expect("short fields");
    let plain = bytes(&Packet::Publish(publish));
    // Behind the fixed header and the topic stands the identifier, if any, then the length of the properties.
    let at = 4 + topic.len() + if qos == Qos::AtMostOnce { 0 } else { 2 };
    let expiry = b"\x02\0\0\0\x3c";
    let first = at + 1 + 3 + "text".len();
    let mut packet = [&plain[..first], expiry, &plain[first..]].concat();
    packet[1] += expiry.len() as u8;
    packet[at] += expiry.len() as u8;
    // As from a read buffer: shared from the beginning.
    packet.reserve(1);
    packet.into()
}

/// SUBSCRIBE to one filter.
pub fn subscribe(filter: &str, qos: Qos) -> Packet {
    let filter = TopicFilter::new(text(filter)).expect("the filters of this module are valid");
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: id(1),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: [SubscribeFilter { filter, options }].into_iter().collect(),
    }))
}

/// UNSUBSCRIBE from one filter.
pub fn unsubscribe(filter: &str) -> Packet {
    let filter = TopicFilter::new(text(filter)).expect("the filters of this module are valid");
    Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: id(1),
        user_properties: UserProperties::default(),
        filters: [filter].into_iter().collect(),
    }))
}

/// A message of 64 bytes; `packet_id` counts from QoS 1 on.
pub fn publish(topic: &str, qos: Qos, packet_id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: TopicName::new(text(topic)).expect("the topics of this module are valid"),
        packet_id: (qos != Qos::AtMostOnce).then(|| id(packet_id)),
        properties: PublishProperties::default(),
        payload: Bytes::from_static(PAYLOAD),
    })
}

/// An acknowledgement of success, by the kind of packet that it is.
pub fn ack(kind: impl Fn(Ack) -> Packet, packet_id: u16) -> Packet {
    kind(Ack::new(id(packet_id), ReasonCode::Success))
}

/// An orderly end.
pub fn disconnect() -> Packet {
    Packet::Disconnect(Box::new(Disconnect::new(ReasonCode::Success)))
}
