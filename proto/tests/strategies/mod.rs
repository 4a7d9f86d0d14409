//! Proptest strategies for every packet in every version.
//!
//! What they make is canonical for its version: decoding its encoding gives back an equal packet.
//! Other crates may include this file with `#[path]`.
#![allow(dead_code, reason = "each test binary that includes this uses its own part of it")]

use bytes::Bytes;
use petrel_proto::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

mod properties;

use properties::{connack_properties, connect_properties};
pub use properties::{publish_properties, reason_properties, user_properties};

/// Any of the three versions.
pub fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V3_1), Just(Version::V3_1_1), Just(Version::V5)]
}

/// A string of at most `chars_max` characters, each as odd as MQTT allows.
pub fn text(chars_max: usize) -> impl Strategy<Value = Text> {
    let character = prop_oneof![
        4 => proptest::char::range('a', 'e'),
        1 => any::<char>().prop_map(|c| if c == '\0' { '\u{feff}' } else { c }),
    ];
    vec(character, 0..=chars_max)
        .prop_map(|chars| Text::try_from(chars.into_iter().collect::<String>().as_str()).unwrap())
}

/// A topic name of one byte or more, with empty levels and `$` now and then.
pub fn topic_name() -> impl Strategy<Value = TopicName> {
    vec(level(), 1..5).prop_map(|levels| {
        let name = levels.join("/");
        let name = if name.is_empty() { "/".to_owned() } else { name };
        TopicName::new(Text::try_from(name.as_str()).unwrap()).unwrap()
    })
}

/// A topic filter, with wildcards where they may stand, shared now and then.
pub fn topic_filter() -> impl Strategy<Value = TopicFilter> {
    let wild = prop_oneof![3 => level(), 1 => Just("+".to_owned())];
    (vec(wild, 1..5), any::<bool>(), proptest::option::weighted(0.2, "[a-c]{1,3}")).prop_map(
        |(mut levels, open, share)| {
            if open {
                levels.push("#".to_owned());
            }
            let filter = levels.join("/");
            let filter = if filter.is_empty() { "+".to_owned() } else { filter };
            let filter = share.map_or(filter.clone(), |share| format!("$share/{share}/{filter}"));
            TopicFilter::new(Text::try_from(filter.as_str()).unwrap()).unwrap()
        },
    )
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c]{0,3}",
        1 => Just("$SYS".to_owned()),
        1 => text(3).prop_map(|text| text.as_str().replace(['+', '#', '/'], "_")),
    ]
}

/// At most `bytes_max` bytes.
pub fn binary(bytes_max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=bytes_max).prop_map(Bytes::from)
}

pub fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

pub fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

/// One of the given codes.
fn reason(codes: &'static [u8]) -> impl Strategy<Value = ReasonCode> {
    proptest::sample::select(codes).prop_map(|code| ReasonCode::from_u8(code).unwrap())
}

fn v5<T: Clone + Default + std::fmt::Debug + 'static>(
    version: Version,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if version.is_v5() { strategy.boxed() } else { Just(T::default()).boxed() }
}

/// Any packet that exists in the version.
pub fn packet(version: Version) -> BoxedStrategy<Packet> {
    let both_ways = prop_oneof![
        4 => publish(version).prop_map(Packet::Publish),
        1 => ack(version, FIRST_ANSWER).prop_map(Packet::PubAck),
        1 => ack(version, FIRST_ANSWER).prop_map(Packet::PubRec),
        1 => ack(version, RELEASE).prop_map(Packet::PubRel),
        1 => ack(version, RELEASE).prop_map(Packet::PubComp),
        1 => disconnect(version).prop_map(|it| Packet::Disconnect(Box::new(it))),
    ];
    let from_client = prop_oneof![
        3 => connect(version).prop_map(|it| Packet::Connect(Box::new(it))),
        2 => subscribe(version).prop_map(|it| Packet::Subscribe(Box::new(it))),
        2 => unsubscribe(version).prop_map(|it| Packet::Unsubscribe(Box::new(it))),
        1 => Just(Packet::PingReq),
    ];
    let from_server = prop_oneof![
        2 => connack(version).prop_map(|it| Packet::ConnAck(Box::new(it))),
        1 => suback(version).prop_map(|it| Packet::SubAck(Box::new(it))),
        1 => unsuback(version).prop_map(|it| Packet::UnsubAck(Box::new(it))),
        1 => Just(Packet::PingResp),
    ];
    if version.is_v5() {
        let auth = auth().prop_map(|it| Packet::Auth(Box::new(it)));
        prop_oneof![4 => both_ways, 4 => from_client, 2 => from_server, 1 => auth].boxed()
    } else {
        prop_oneof![4 => both_ways, 4 => from_client, 2 => from_server].boxed()
    }
}

/// A version and a packet of it.
pub fn versioned_packet() -> impl Strategy<Value = (Version, Packet)> {
    version().prop_flat_map(|version| (Just(version), packet(version)))
}

pub fn connect(version: Version) -> impl Strategy<Value = Connect> {
    let head = (any::<bool>(), any::<u16>(), text(30), of(will(version)));
    (head, of(text(8)), of(binary(8)), v5(version, connect_properties())).prop_map(
        move |((clean_start, keep_alive_s, client_id, will), username, password, properties)| {
            let password = password.filter(|_| version.is_v5() || username.is_some());
            let will = will.map(Box::new);
            Connect {
                version,
                clean_start,
                keep_alive_s,
                client_id,
                will,
                username,
                password,
                properties,
            }
        },
    )
}

pub fn will(version: Version) -> impl Strategy<Value = Will> {
    let properties = publish_properties().prop_map(|mut properties| {
        properties.topic_alias = None;
        properties.subscription_identifiers.clear();
        properties
    });
    let delay = v5(version, of(any::<u32>()));
    (topic_name(), binary(20), qos(), any::<bool>(), delay, v5(version, properties)).prop_map(
        |(topic, payload, qos, retain, delay_interval_s, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_interval_s,
            properties,
        },
    )
}

pub fn connack(version: Version) -> impl Strategy<Value = ConnAck> {
    let codes: &[u8] = if version.is_v5() { CONNACK } else { CONNACK_V3 };
    (any::<bool>(), reason(codes), v5(version, connack_properties())).prop_map(
        move |(present, reason, properties)| ConnAck {
            session_present: present && reason == ReasonCode::Success && version != Version::V3_1,
            reason,
            properties,
        },
    )
}

pub fn publish(version: Version) -> impl Strategy<Value = Publish> {
    let properties = v5(version, publish_properties());
    let flags = (any::<bool>(), qos(), any::<bool>(), any::<bool>());
    (flags, topic_name(), packet_id(), properties, binary(300)).prop_map(
        |((dup, qos, retain, by_alias), topic, packet_id, properties, payload)| {
            let by_alias = by_alias && properties.topic_alias.is_some();
            Publish {
                dup: dup && qos != Qos::AtMostOnce,
                qos,
                retain,
                topic: if by_alias { TopicName::EMPTY } else { topic },
                packet_id: Some(packet_id).filter(|_| qos != Qos::AtMostOnce),
                properties,
                payload,
            }
        },
    )
}

pub fn ack(version: Version, codes: &'static [u8]) -> impl Strategy<Value = Ack> {
    let codes = if version.is_v5() { codes } else { &[0] };
    (packet_id(), reason(codes), v5(version, reason_properties()))
        .prop_map(|(packet_id, reason, properties)| Ack { packet_id, reason, properties })
}

pub fn subscribe(version: Version) -> impl Strategy<Value = Subscribe> {
    let identifier = v5(version, of(1..=varint::MAX));
    let filters = vec(subscribe_filter(version), 1..5);
    (packet_id(), identifier, v5(version, user_properties()), filters).prop_map(
        |(packet_id, subscription_identifier, user_properties, filters)| Subscribe {
            packet_id,
            subscription_identifier,
            user_properties,
            filters: filters.into(),
        },
    )
}

fn subscribe_filter(version: Version) -> impl Strategy<Value = SubscribeFilter> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend),
    ];
    (topic_filter(), qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        move |(filter, qos, no_local, retain_as_published, retain_handling)| {
            let no_local = no_local && !filter.is_shared();
            let full = SubscriptionOptions { qos, no_local, retain_as_published, retain_handling };
            let qos_only = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
            let options = if version.is_v5() { full } else { qos_only };
            SubscribeFilter { filter, options }
        },
    )
}

pub fn suback(version: Version) -> impl Strategy<Value = SubAck> {
    let codes: &[u8] = if version.is_v5() { SUBACK } else { SUBACK_V3 };
    (packet_id(), vec(reason(codes), 1..9), v5(version, reason_properties())).prop_map(
        |(packet_id, reasons, properties)| SubAck {
            packet_id,
            reasons: reasons.into(),
            properties,
        },
    )
}

pub fn unsubscribe(version: Version) -> impl Strategy<Value = Unsubscribe> {
    (packet_id(), v5(version, user_properties()), vec(topic_filter(), 1..5)).prop_map(
        |(packet_id, user_properties, filters)| Unsubscribe {
            packet_id,
            user_properties,
            filters: filters.into(),
        },
    )
}

pub fn unsuback(version: Version) -> impl Strategy<Value = SubAck> {
    let reasons = v5(version, vec(reason(UNSUBACK), 1..9));
    (packet_id(), reasons, v5(version, reason_properties())).prop_map(
        |(packet_id, reasons, properties)| SubAck {
            packet_id,
            reasons: reasons.into(),
            properties,
        },
    )
}

pub fn disconnect(version: Version) -> impl Strategy<Value = Disconnect> {
    let codes: &[u8] = if version.is_v5() { DISCONNECT } else { &[0] };
    let expiry = v5(version, of(any::<u32>()));
    let reference = v5(version, of(text(10)));
    (reason(codes), expiry, v5(version, reason_properties()), reference).prop_map(
        |(reason, session_expiry_interval_s, properties, server_reference)| Disconnect {
            reason,
            session_expiry_interval_s,
            properties,
            server_reference,
        },
    )
}

pub fn auth() -> impl Strategy<Value = Auth> {
    (reason(AUTH), of(text(10)), of(binary(20)), reason_properties()).prop_map(
        |(reason, method, data, properties)| Auth {
            reason,
            data: data.filter(|_| method.is_some()),
            method,
            properties,
        },
    )
}

/// Reason codes of PUBACK and PUBREC.
pub const FIRST_ANSWER: &[u8] = &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// Reason codes of PUBREL and PUBCOMP.
pub const RELEASE: &[u8] = &[0, 0x92];
const CONNACK: &[u8] = &[
    0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
    0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];
/// Those that have a return code of their own.
const CONNACK_V3: &[u8] = &[0, 0x84, 0x85, 0x88, 0x86, 0x87];
const SUBACK: &[u8] = &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const SUBACK_V3: &[u8] = &[0, 1, 2, 0x80];
const UNSUBACK: &[u8] = &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
const DISCONNECT: &[u8] = &[
    0, 4, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
    0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];
const AUTH: &[u8] = &[0, 0x18, 0x19];
