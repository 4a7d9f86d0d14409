//! Packets to bytes.
//!
//! One file per packet below. Each says its fields once; `sink` runs that over a counter and then
//! over the buffer.

use bytes::{BufMut, Bytes, BytesMut};

use crate::decode::PacketType;
use crate::{MessageFields, Packet, Version};

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod properties;
mod publish;
mod sink;
mod suback;
mod subscribe;

pub use publish::{PublishHead, SharedHead, Written};
use sink::{Counter, Section, Sink, Writer, with_length};

/// Length of the packet on the wire, in bytes.
///
/// `None` if no packet can be that long, or if the packet cannot exist in this version: AUTH
/// before MQTT 5, a password without a user name before MQTT 5 ([MQTT311-3.1.2-22]), a string of
/// more than 65,535 bytes, a PUBLISH whose QoS and packet identifier contradict each other, a
/// SUBSCRIBE or UNSUBSCRIBE without a filter.
#[must_use]
pub fn encoded_len(packet: &Packet, version: Version) -> Option<usize> {
    if let Packet::Publish(publish) = packet {
        return PublishHead::of(publish).packet_bytes(version);
    }
    with_length(Counter::count(&Body { packet, version })?)?.checked_add(1)
}

/// Appends the packet, exactly [`encoded_len`] bytes; nothing if that is `None`. Properties are
/// left out before MQTT 5. A CONNECT is written in the version that it names itself.
pub fn encode(packet: &Packet, version: Version, out: &mut impl BufMut) {
    if encoded_len(packet, version).is_none() {
        return;
    }
    if let Packet::Publish(publish) = packet {
        PublishHead::of(publish).encode(version, out);
        out.put_slice(&publish.payload);
        return;
    }
    let mut out = Writer(out);
    out.u8(packet_type(packet).first_byte());
    out.counted(&Body { packet, version });
}

/// The bytes of a message's properties; `None` if one is longer than two bytes can say.
pub(crate) fn message_properties(fields: &MessageFields) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(Counter::count(fields)?);
    fields.put(&mut Writer(&mut out));
    Some(out.freeze())
}

/// Everything after the fixed header.
struct Body<'a> {
    packet: &'a Packet,
    version: Version,
}

impl Section for Body<'_> {
    fn put<S: Sink>(&self, out: &mut S) {
        let version = self.version;
        match self.packet {
            Packet::Connect(connect) => connect.put(out),
            Packet::ConnAck(connack) => connack::put(connack, version, out),
            // Goes through `PublishHead`.
            Packet::Publish(_) | Packet::PingReq | Packet::PingResp => {}
            Packet::PubAck(ack)
            | Packet::PubRec(ack)
            | Packet::PubRel(ack)
            | Packet::PubComp(ack) => ack::put(ack, version, out),
            Packet::Subscribe(subscribe) => subscribe::put_subscribe(subscribe, version, out),
            Packet::SubAck(suback) => suback::put_suback(suback, version, out),
            Packet::Unsubscribe(unsubscribe) => {
                subscribe::put_unsubscribe(unsubscribe, version, out);
            }
            Packet::UnsubAck(unsuback) => suback::put_unsuback(unsuback, version, out),
            Packet::Disconnect(disconnect) => disconnect::put(disconnect, version, out),
            Packet::Auth(auth) => auth::put(auth, version, out),
        }
    }
}

const fn packet_type(packet: &Packet) -> PacketType {
    match packet {
        Packet::Connect(_) => PacketType::Connect,
        Packet::ConnAck(_) => PacketType::ConnAck,
        Packet::Publish(_) => PacketType::Publish,
        Packet::PubAck(_) => PacketType::PubAck,
        Packet::PubRec(_) => PacketType::PubRec,
        Packet::PubRel(_) => PacketType::PubRel,
        Packet::PubComp(_) => PacketType::PubComp,
        Packet::Subscribe(_) => PacketType::Subscribe,
        Packet::SubAck(_) => PacketType::SubAck,
        Packet::Unsubscribe(_) => PacketType::Unsubscribe,
        Packet::UnsubAck(_) => PacketType::UnsubAck,
        Packet::PingReq => PacketType::PingReq,
        Packet::PingResp => PacketType::PingResp,
        Packet::Disconnect(_) => PacketType::Disconnect,
        Packet::Auth(_) => PacketType::Auth,
    }
}
