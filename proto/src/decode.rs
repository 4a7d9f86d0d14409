//! Bytes to packets.
//!
//! [`frame`] delimits a packet by its fixed header, [`decode`] takes it apart. One file per packet
//! below; `fields` and `properties` hold what they share.

use bytes::Bytes;

use crate::varint::{self, Varint};
use crate::{DecodeError, MessageFields, Packet, Version};

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod fields;
mod fixed_header;
mod properties;
mod publish;
mod suback;
mod subscribe;
mod unsubscribe;

use fields::{Parsed, settle};
pub(crate) use fixed_header::{DUP, PacketType, RETAIN};
pub use fixed_header::{Frame, frame};

/// Decodes one whole packet, as [`frame`] delimited it. `version` is `None` until a CONNECT has
/// named it; then only CONNECT is accepted ([MQTT5-3.1.0-1], [MQTT311-3.1.0-1]).
///
/// Both directions are decoded: what only a server or only a client may send is for the caller to
/// judge. A CONNECT is decoded by the version that it names itself.
///
/// # Errors
/// The reason code that the peer is owed, with what was wrong.
pub fn decode(packet: &Bytes, version: Option<Version>) -> Result<Packet, DecodeError> {
    decode_front(packet, packet.len(), version)
}

/// The same for the packet that is the first `length` bytes of `input`. *Cost*: no slice of `input` but those
/// that the packet keeps.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_front(
    input: &Bytes,
    length: usize,
    version: Option<Version>,
) -> Result<Packet, DecodeError> {
    let (packet, length) = (input, length.min(input.len()));
    let (first, body) = split(input.get(..length).unwrap_or(input))?;
    let packet_type = fixed_header::check_first_byte(first)?;
    let version = match (packet_type, version) {
        (_, Some(version)) => version,
        (PacketType::Connect, None) => Version::V5,
        (_, None) => {
            return Err(DecodeError::protocol("the first packet is not CONNECT [MQTT5-3.1.0-1]"));
        }
    };
    // MQTT 3.1 sets DUP when it repeats one of these; later versions reserve the bit.
    if packet_type != PacketType::Publish && first & DUP != 0 && version != Version::V3_1 {
        return Err(DecodeError::malformed("reserved flag bits are wrong [MQTT5-2.1.3-1]"));
    }
    match packet_type {
        PacketType::Connect => whole(connect::connect(packet, body), boxed(Packet::Connect)),
        PacketType::ConnAck => {
            whole(connack::connack(packet, body, version), boxed(Packet::ConnAck))
        }
        PacketType::Publish => publish::publish(packet, length, first, body, version),
        PacketType::PubAck => whole(ack::first_answer(packet, body, version), Packet::PubAck),
        PacketType::PubRec => whole(ack::first_answer(packet, body, version), Packet::PubRec),
        PacketType::PubRel => whole(ack::release(packet, body, version), Packet::PubRel),
        PacketType::PubComp => whole(ack::release(packet, body, version), Packet::PubComp),
        PacketType::Subscribe => {
            whole(subscribe::subscribe(packet, body, version), boxed(Packet::Subscribe))
        }
        PacketType::SubAck => whole(suback::suback(packet, body, version), boxed(Packet::SubAck)),
        PacketType::Unsubscribe => {
            whole(unsubscribe::unsubscribe(packet, body, version), boxed(Packet::Unsubscribe))
        }
        PacketType::UnsubAck => {
            whole(suback::unsuback(packet, body, version), boxed(Packet::UnsubAck))
        }
        PacketType::PingReq => whole(Ok((body, ())), |()| Packet::PingReq),
        PacketType::PingResp => whole(Ok((body, ())), |()| Packet::PingResp),
        PacketType::Disconnect => {
            whole(disconnect::disconnect(packet, body, version), boxed(Packet::Disconnect))
        }
        PacketType::Auth if version.is_v5() => whole(auth::auth(packet, body), boxed(Packet::Auth)),
        PacketType::Auth => Err(DecodeError::malformed("packet type 15 is reserved before MQTT 5")),
    }
}

/// The version that a CONNECT asks for, whatever else is wrong with it, so that its refusal can be
/// put in the right form: a level of 5 or more gets the form of MQTT 5.
///
/// `None` if the bytes are no CONNECT, or end before its protocol level.
#[must_use]
pub fn connect_version(packet: &[u8]) -> Option<Version> {
    let (&first, rest) = packet.split_first()?;
    if PacketType::from_first_byte(first) != Some(PacketType::Connect) {
        return None;
    }
    let Varint::Value(_, length) = varint::get(rest) else {
        return None;
    };
    // Bridges between brokers set the upper bit of the level that they speak.
    Some(match connect::level(rest.get(length..)?)? & 0x7f {
        0..=3 => Version::V3_1,
        4 => Version::V3_1_1,
        _ => Version::V5,
    })
}

/// Takes apart the properties of a message that a decoder has checked.
pub(crate) fn message_fields(block: &Bytes) -> MessageFields {
    properties::message_fields(block)
}

/// The first byte and the body, if the remaining length tells the truth.
fn split(packet: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let wrong = DecodeError::malformed("the remaining length is not that of the packet");
    let (&first, rest) = packet.split_first().ok_or(wrong)?;
    let Varint::Value(remaining, length) = varint::get(rest) else {
        return Err(wrong);
    };
    let body = rest.get(length..).ok_or(wrong)?;
    if usize::try_from(remaining) != Ok(body.len()) {
        return Err(wrong);
    }
    Ok((first, body))
}

fn boxed<T>(wrap: fn(Box<T>) -> Packet) -> impl FnOnce(T) -> Packet {
    move |it| wrap(Box::new(it))
}

/// Refuses bytes after the last field.
fn whole<T>(
    parsed: Parsed<'_, T>,
    packet: impl FnOnce(T) -> Packet,
) -> Result<Packet, DecodeError> {
    match parsed {
        Ok(([], it)) => Ok(packet(it)),
        Ok(_) => Err(DecodeError::malformed("bytes follow the last field")),
        Err(fault) => Err(settle(fault)),
    }
}
