//! Sizes at the borders, what the encoder refuses, and what differs between the versions.

use bytes::Bytes;
use petrel_proto::*;

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

fn text(text: &str) -> Text {
    Text::try_from(text).unwrap()
}

fn encoded(packet: &Packet, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, version, &mut out);
    assert_eq!(encoded_len(packet, version).unwrap_or(0), out.len());
    out
}

fn publish(payload: Bytes) -> Publish {
    Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: TopicName::new(text("t")).unwrap(),
        packet_id: None,
        properties: PublishProperties::default(),
        payload,
    }
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 1,
        client_id: text("c"),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

#[test]
fn nothing_is_incomplete_and_not_a_packet() {
    assert_eq!(frame(b"", 0), Ok(Frame::Incomplete(None)));
    assert_eq!(connect_version(b""), None);
    for version in [None, Some(Version::V5)] {
        assert_eq!(decode(&Bytes::new(), version).unwrap_err().reason, ReasonCode::MalformedPacket);
    }
}

#[test]
fn a_length_that_lies_is_malformed() {
    for wire in [&b"\xc0"[..], b"\xc0\x01", b"\xc0\x00\x00", b"\xc0\xff\xff\xff\xff", b"\x30\x80"] {
        let error = decode(&Bytes::copy_from_slice(wire), Some(Version::V5)).unwrap_err();
        assert_eq!(error.reason, ReasonCode::MalformedPacket, "{wire:02x?}");
    }
}

/// The refusal comes with the fixed header, before a byte of the body is there.
#[test]
fn a_packet_of_256_mb_is_refused_by_its_first_bytes() {
    let error = frame(b"\x30\xff\xff\xff\x7f", 1 << 20).unwrap_err();
    assert_eq!(error.reason, ReasonCode::PacketTooLarge);
    assert_eq!(
        frame(b"\x30\xff\xff\xff\x7f", u32::MAX),
        Ok(Frame::Incomplete(Some(5 + varint::MAX as usize)))
    );
}

/// The lengths at which the remaining length grows by a byte.
#[test]
fn publishes_around_the_borders_of_the_remaining_length_survive() {
    for border in [127usize, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
        let payload = Bytes::from(vec![b'x'; border - 3]);
        let packet = Packet::Publish(publish(payload));
        let wire = Bytes::from(encoded(&packet, Version::V3_1_1));
        assert_eq!(frame(&wire, u32::MAX), Ok(Frame::Complete(wire.len())));
        assert_eq!(decode(&wire, Some(Version::V3_1_1)), Ok(packet));
    }
}

#[test]
fn a_publish_longer_than_any_packet_has_no_length() {
    let publish = publish(Bytes::new());
    let head = PublishHead { payload_bytes: varint::MAX as usize - 3, ..PublishHead::of(&publish) };
    assert_eq!(head.packet_bytes(Version::V3_1_1), Some(5 + varint::MAX as usize));
    assert_eq!(head.packet_bytes(Version::V5), None);
    let mut out = Vec::new();
    head.encode(Version::V3_1_1, &mut out);
    assert_eq!(out, b"\x30\xff\xff\xff\x7f\x00\x01t");
    for payload_bytes in [varint::MAX as usize - 2, u32::MAX as usize, usize::MAX] {
        let head = PublishHead { payload_bytes, ..head };
        assert_eq!(head.packet_bytes(Version::V3_1_1), None);
        let mut out = Vec::new();
        head.encode(Version::V3_1_1, &mut out);
        assert!(out.is_empty());
    }
}

/// [MQTT5-2.2.1-2]
#[test]
fn qos_and_packet_identifier_go_together_or_nothing_is_encoded() {
    let mut publish = publish(Bytes::new());
    publish.qos = Qos::AtLeastOnce;
    assert_eq!(encoded_len(&Packet::Publish(publish.clone()), Version::V5), None);
    publish.qos = Qos::AtMostOnce;
    publish.packet_id = Some(id(1));
    assert!(encoded(&Packet::Publish(publish), Version::V5).is_empty());
}

/// [MQTT5-3.3.1-2]
#[test]
fn dup_is_left_out_at_qos_0() {
    let publish = Publish { dup: true, ..publish(Bytes::new()) };
    assert_eq!(encoded(&Packet::Publish(publish), Version::V5)[0], 0x30);
}

#[test]
fn binary_data_that_two_bytes_cannot_measure_is_not_encoded() {
    let long = Bytes::from(vec![0; 65_536]);
    let username = Some(text("u"));
    let password = Some(long.clone());
    let connect = Connect { username, password, ..connect(Version::V3_1_1) };
    assert!(encoded(&Packet::Connect(Box::new(connect)), Version::V3_1_1).is_empty());
    let fields = MessageFields { correlation_data: Some(long), ..MessageFields::default() };
    assert_eq!(MessageProperties::of(&fields), None);
}

#[test]
fn a_subscription_identifier_that_four_bytes_cannot_hold_is_not_encoded() {
    let properties = PublishProperties {
        subscription_identifiers: [varint::MAX + 1].into_iter().collect(),
        ..PublishProperties::default()
    };
    let packet = Packet::Publish(Publish { properties, ..publish(Bytes::new()) });
    assert!(encoded(&packet, Version::V5).is_empty());
}

/// [MQTT311-3.1.2-22]
#[test]
fn a_password_without_a_user_name_is_encoded_for_mqtt_5_only() {
    for version in VERSIONS {
        let password = Some(Bytes::from_static(b"p"));
        let packet = Packet::Connect(Box::new(Connect { password, ..connect(version) }));
        assert_eq!(encoded(&packet, version).is_empty(), version != Version::V5);
    }
}

/// [MQTT5-3.8.3-2], [MQTT5-3.10.3-2]
#[test]
fn requests_without_a_filter_are_not_encoded() {
    let subscribe = Subscribe {
        packet_id: id(1),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: [].into_iter().collect(),
    };
    let unsubscribe = Unsubscribe {
        packet_id: id(1),
        user_properties: UserProperties::default(),
        filters: [].into_iter().collect(),
    };
    for version in VERSIONS {
        assert!(encoded(&Packet::Subscribe(Box::new(subscribe.clone())), version).is_empty());
        assert!(encoded(&Packet::Unsubscribe(Box::new(unsubscribe.clone())), version).is_empty());
    }
}

#[test]
fn auth_is_encoded_for_mqtt_5_only() {
    let properties = ReasonProperties::EMPTY;
    let auth = Auth { reason: ReasonCode::Success, method: None, data: None, properties };
    let packet = Packet::Auth(Box::new(auth));
    assert_eq!(encoded(&packet, Version::V5), b"\xf0\x00");
    assert!(encoded(&packet, Version::V3_1_1).is_empty());
}

/// A will, which has neither on the wire.
#[test]
fn a_will_is_encoded_without_alias_and_subscription_identifiers() {
    let will = |properties| {
        let topic = TopicName::new(text("w")).unwrap();
        let payload = Bytes::from_static(b"bye");
        let (qos, retain) = (Qos::AtLeastOnce, false);
        let will = Will { topic, payload, qos, retain, delay_interval_s: Some(3), properties };
        Packet::Connect(Box::new(Connect { will: Some(Box::new(will)), ..connect(Version::V5) }))
    };
    let with = will(PublishProperties {
        topic_alias: Some(1),
        subscription_identifiers: [1].into_iter().collect(),
        ..PublishProperties::default()
    });
    let without = will(PublishProperties::default());
    assert_eq!(encoded(&with, Version::V5), encoded(&without, Version::V5));
}

/// [MQTT311-3.9.3-2]
#[test]
fn every_failure_of_a_subscription_is_0x80_before_mqtt_5() {
    use ReasonCode as R;
    let reasons = [R::GrantedQos2, R::NotAuthorized, R::TopicFilterInvalid, R::Success];
    let properties =
        ReasonProperties { reason_string: Some(text("why")), ..ReasonProperties::EMPTY };
    let suback = SubAck { packet_id: id(258), reasons: reasons.into_iter().collect(), properties };
    let packet = Packet::SubAck(Box::new(suback.clone()));
    assert_eq!(encoded(&packet, Version::V3_1_1), b"\x90\x06\x01\x02\x02\x80\x80\x00");
    assert_eq!(
        encoded(&packet, Version::V5),
        b"\x90\x0d\x01\x02\x06\x1f\x00\x03why\x02\x87\x8f\x00"
    );
    let packet = Packet::UnsubAck(Box::new(suback));
    assert_eq!(encoded(&packet, Version::V3_1_1), b"\xb0\x02\x01\x02");
}

/// [MQTT5-3.2.2-6], [MQTT311-3.2.2-4]
#[test]
fn session_present_goes_out_with_success_only_and_not_in_mqtt_3_1() {
    let connack = |reason| {
        let properties = ConnAckProperties::default();
        Packet::ConnAck(Box::new(ConnAck { session_present: true, reason, properties }))
    };
    let accepted = connack(ReasonCode::Success);
    assert_eq!(encoded(&accepted, Version::V3_1), b"\x20\x02\x00\x00");
    assert_eq!(encoded(&accepted, Version::V3_1_1), b"\x20\x02\x01\x00");
    assert_eq!(encoded(&accepted, Version::V5), b"\x20\x03\x01\x00\x00");
    let refused = connack(ReasonCode::NotAuthorized);
    assert_eq!(encoded(&refused, Version::V3_1_1), b"\x20\x02\x00\x05");
    assert_eq!(encoded(&refused, Version::V5), b"\x20\x03\x00\x87\x00");
}

#[test]
fn reasons_and_properties_are_left_out_before_mqtt_5() {
    let properties =
        ReasonProperties { reason_string: Some(text("why")), ..ReasonProperties::EMPTY };
    let reason = ReasonCode::NotAuthorized;
    let ack = Packet::PubAck(Ack { packet_id: id(1), reason, properties: properties.clone() });
    assert_eq!(encoded(&ack, Version::V3_1_1), b"\x40\x02\x00\x01");
    let disconnect = Disconnect { properties, ..Disconnect::new(reason) };
    let packet = Packet::Disconnect(Box::new(disconnect));
    assert_eq!(encoded(&packet, Version::V3_1_1), b"\xe0\x00");
}

/// [MQTT5-3.1.2-2]
#[test]
fn the_version_of_a_refused_connect_is_known_from_its_level() {
    let peek = |level: u8| connect_version(&[&b"\x10\x07\x00\x04MQTT"[..], &[level]].concat());
    for (level, version) in [
        (0, Version::V3_1),
        (3, Version::V3_1),
        (4, Version::V3_1_1),
        (5, Version::V5),
        (6, Version::V5),
        (127, Version::V5),
        (0x83, Version::V3_1),
        (0x84, Version::V3_1_1),
    ] {
        assert_eq!(peek(level), Some(version), "level {level}");
    }
    assert_eq!(connect_version(b"\x10\x07\x00\x04MQT"), None);
    assert_eq!(connect_version(b"\xc0\x00"), None);
    assert_eq!(connect_version(b"\x10\xff\xff\xff\xff\x00\x04MQTT\x05"), None);
}

/// Neither a filter per three bytes nor a level per byte costs more than the packet's own size.
#[test]
fn the_largest_subscribes_decode() {
    let mut body = vec![0, 1];
    for _ in 0..30_000 {
        body.extend(b"\x00\x01#\x00");
    }
    let mut wire = vec![0x82];
    varint::put(&mut wire, u32::try_from(body.len()).unwrap());
    wire.extend(body);
    let packet = decode(&Bytes::from(wire), Some(Version::V3_1_1)).unwrap();
    let Packet::Subscribe(subscribe) = packet else { unreachable!() };
    assert_eq!(subscribe.filters.len(), 30_000);

    let slashes = Text::new(Bytes::from(vec![b'/'; 65_535])).unwrap();
    let filter = TopicFilter::new(slashes.clone()).unwrap();
    assert_eq!(filter.levels().count(), 65_536);
    assert!(filter.matches(&TopicName::new(slashes).unwrap()));
}
