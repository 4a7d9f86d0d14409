//! Property blocks against a second reading of table 2-4, driven by that table alone.

use bytes::Bytes;
use petrel_proto::{Packet, UserProperties, Version, decode, varint};

/// Which packet a block is put into.
#[derive(Clone, Copy, PartialEq)]
#[repr(u16)]
enum Place {
    Connect = 1,
    Will = 2,
    ConnAck = 4,
    Publish = 8,
    Ack = 16,
    Subscribe = 32,
    SubAck = 64,
    Unsubscribe = 128,
    Disconnect = 256,
    Auth = 512,
}

#[derive(Clone, Copy)]
enum Kind {
    ZeroOrOne,
    Two,
    TwoNotZero,
    Four,
    FourNotZero,
    VarintNotZero,
    Text,
    Topic,
    Binary,
    Pair,
}

const C: u16 = Place::Connect as u16;
const W: u16 = Place::Will as u16;
const CA: u16 = Place::ConnAck as u16;
const P: u16 = Place::Publish as u16;
const A: u16 = Place::Ack as u16;
const S: u16 = Place::Subscribe as u16;
const SA: u16 = Place::SubAck as u16;
const U: u16 = Place::Unsubscribe as u16;
const D: u16 = Place::Disconnect as u16;
const AU: u16 = Place::Auth as u16;

/// Identifier, type and the packets that may carry it.
const TABLE: &[(u8, Kind, u16)] = &[
    (0x01, Kind::ZeroOrOne, P | W),
    (0x02, Kind::Four, P | W),
    (0x03, Kind::Text, P | W),
    (0x08, Kind::Topic, P | W),
    (0x09, Kind::Binary, P | W),
    (0x0B, Kind::VarintNotZero, P | S),
    (0x11, Kind::Four, C | CA | D),
    (0x12, Kind::Text, CA),
    (0x13, Kind::Two, CA),
    (0x15, Kind::Text, C | CA | AU),
    (0x16, Kind::Binary, C | CA | AU),
    (0x17, Kind::ZeroOrOne, C),
    (0x18, Kind::Four, W),
    (0x19, Kind::ZeroOrOne, C),
    (0x1A, Kind::Text, CA),
    (0x1C, Kind::Text, CA | D),
    (0x1F, Kind::Text, CA | A | SA | D | AU),
    (0x21, Kind::TwoNotZero, C | CA),
    (0x22, Kind::Two, C | CA),
    (0x23, Kind::Two, P),
    (0x24, Kind::ZeroOrOne, CA),
    (0x25, Kind::ZeroOrOne, CA),
    (0x26, Kind::Pair, C | W | CA | P | A | S | SA | U | D | AU),
    (0x27, Kind::FourNotZero, C | CA),
    (0x28, Kind::ZeroOrOne, CA),
    (0x29, Kind::ZeroOrOne, CA),
    (0x2A, Kind::ZeroOrOne, CA),
];

/// The first byte selects the packet, the rest is the property block.
pub fn properties(input: &[u8]) {
    let Some((&selector, block)) = input.split_first() else { return };
    let place = match selector % 10 {
        0 => Place::Connect,
        1 => Place::Will,
        2 => Place::ConnAck,
        3 => Place::Publish,
        4 => Place::Ack,
        5 => Place::Subscribe,
        6 => Place::SubAck,
        7 => Place::Unsubscribe,
        8 => Place::Disconnect,
        _ => Place::Auth,
    };
    let wire = Bytes::from(wrap(place, block));
    let decoded = decode(&wire, Some(Version::V5));
    let expected = read(place, block);
    assert_eq!(decoded.is_ok(), expected.is_some(), "{decoded:?}");
    if let (Ok(packet), Some(pairs)) = (decoded, expected) {
        assert_eq!(&user_properties(&packet).wire()[..], pairs, "{packet:?}");
    }
}

/// A packet that is right but for the block.
fn wrap(place: Place, block: &[u8]) -> Vec<u8> {
    let (first, before, after): (u8, &[u8], &[u8]) = match place {
        Place::Connect => (0x10, b"\0\x04MQTT\x05\x02\0\0", b"\0\x01c"),
        Place::Will => (0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01c", b"\0\x01w\0\0"),
        Place::ConnAck => (0x20, b"\0\0", b""),
        Place::Publish => (0x30, b"\0\x01t", b""),
        Place::Ack => (0x40, b"\0\x01\0", b""),
        Place::Subscribe => (0x82, b"\0\x01", b"\0\x01t\0"),
        Place::SubAck => (0x90, b"\0\x01", b"\0"),
        Place::Unsubscribe => (0xa2, b"\0\x01", b"\0\x01t"),
        Place::Disconnect => (0xe0, b"\0", b""),
        Place::Auth => (0xf0, b"\0", b""),
    };
    let mut body = before.to_vec();
    varint::put(&mut body, u32::try_from(block.len()).unwrap());
    body.extend_from_slice(block);
    body.extend_from_slice(after);
    let mut wire = vec![first];
    varint::put(&mut wire, u32::try_from(body.len()).unwrap());
    wire.extend(body);
    wire
}

/// The user properties of an acceptable block, `None` for one that must be refused.
fn read(place: Place, mut rest: &[u8]) -> Option<Vec<u8>> {
    let (mut seen, mut pairs) = ([0u32; 256], Vec::new());
    while let Some((&id, after)) = rest.split_first() {
        let &(_, kind, places) = TABLE.iter().find(|row| row.0 == id)?;
        let length = value_length(kind, after)?;
        seen[usize::from(id)] += 1;
        let repeatable = id == 0x26 || (id == 0x0B && place == Place::Publish);
        if places & place as u16 == 0 || (seen[usize::from(id)] > 1 && !repeatable) {
            return None;
        }
        if id == 0x26 {
            pairs.extend_from_slice(&rest[..length + 1]);
        }
        rest = &after[length..];
    }
    let data_without_method = seen[0x16] > 0 && seen[0x15] == 0;
    if data_without_method { None } else { Some(pairs) }
}

/// How many bytes the value takes, if it is acceptable.
fn value_length(kind: Kind, rest: &[u8]) -> Option<usize> {
    match kind {
        Kind::ZeroOrOne => (*rest.first()? < 2).then_some(1),
        Kind::Two => rest.get(..2).map(<[u8]>::len),
        Kind::TwoNotZero => (*rest.get(..2)? != [0; 2]).then_some(2),
        Kind::Four => rest.get(..4).map(<[u8]>::len),
        Kind::FourNotZero => (*rest.get(..4)? != [0; 4]).then_some(4),
        Kind::VarintNotZero => varint_length(rest),
        Kind::Binary => Some(prefixed(rest)?.len() + 2),
        Kind::Text => Some(string(rest)?.len() + 2),
        Kind::Topic => {
            let topic = string(rest)?;
            (!topic.is_empty() && !topic.contains(['+', '#'])).then_some(topic.len() + 2)
        }
        Kind::Pair => {
            let name = string(rest)?.len() + 2;
            Some(name + string(&rest[name..])?.len() + 2)
        }
    }
}

fn varint_length(rest: &[u8]) -> Option<usize> {
    let length = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
    // A last byte of zero is padding, or the value 0 itself.
    (length <= 4 && rest[length - 1] != 0).then_some(length)
}

fn prefixed(rest: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
    rest.get(2..2 + length)
}

fn string(rest: &[u8]) -> Option<&str> {
    std::str::from_utf8(prefixed(rest)?).ok().filter(|text| !text.contains('\0'))
}

fn user_properties(packet: &Packet) -> UserProperties {
    match packet {
        Packet::Connect(it) => match &it.will {
            Some(will) => will.properties.message.fields().user_properties,
            None => it.properties.user_properties.clone(),
        },
        Packet::ConnAck(it) => it.properties.user_properties.clone(),
        Packet::Publish(it) => it.properties.message.fields().user_properties,
        Packet::PubAck(it) | Packet::PubRec(it) | Packet::PubRel(it) | Packet::PubComp(it) => {
            it.properties.user_properties.clone()
        }
        Packet::Subscribe(it) => it.user_properties.clone(),
        Packet::SubAck(it) | Packet::UnsubAck(it) => it.properties.user_properties.clone(),
        Packet::Unsubscribe(it) => it.user_properties.clone(),
        Packet::Disconnect(it) => it.properties.user_properties.clone(),
        Packet::Auth(it) => it.properties.user_properties.clone(),
        Packet::PingReq | Packet::PingResp => unreachable!("has no properties"),
    }
}
