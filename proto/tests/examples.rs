//! A few whole packets, byte for byte, both ways.

use bytes::Bytes;
use petrel_proto::*;

fn both_ways(wire: &[u8], version: Version) -> Packet {
    assert_eq!(frame(wire, u32::MAX), Ok(Frame::Complete(wire.len())));
    let packet = decode(&Bytes::copy_from_slice(wire), Some(version)).unwrap();
    let mut out = Vec::new();
    encode(&packet, version, &mut out);
    assert_eq!(out, wire);
    assert_eq!(encoded_len(&packet, version), Some(wire.len()));
    packet
}

#[test]
fn a_connect_of_mqtt_3_1_1_has_all_its_fields() {
    let wire =
        b"\x10\x1e\x00\x04MQTT\x04\xf6\x00\x3c\x00\x01c\x00\x03w/t\x00\x02by\x00\x01u\x00\x01p\x00";
    let wire = &wire[..wire.len() - 1];
    let wire = [&[0x10, u8::try_from(wire.len() - 2).unwrap()], &wire[2..]].concat();
    let Packet::Connect(connect) = both_ways(&wire, Version::V3_1_1) else { panic!() };
    assert!(connect.clean_start);
    assert_eq!(connect.keep_alive_s, 60);
    let will = connect.will.unwrap();
    assert_eq!((will.qos, will.retain), (Qos::ExactlyOnce, true));
    assert_eq!(will.payload, "by");
    assert_eq!(connect.password.unwrap(), "p");
}

#[test]
fn a_publish_of_mqtt_5_has_all_its_fields() {
    let wire = b"\x3d\x15\x00\x01t\x00\x0a\x0b\x23\x00\x07\x0b\x05\x26\x00\x01k\x00\x00hello";
    let wire = [&[0x3d, u8::try_from(wire.len() - 2).unwrap()], &wire[2..]].concat();
    let Packet::Publish(publish) = both_ways(&wire, Version::V5) else { panic!() };
    assert!(publish.dup && publish.retain);
    assert_eq!(publish.qos, Qos::ExactlyOnce);
    assert_eq!(publish.properties.topic_alias, Some(7));
    assert_eq!(publish.properties.subscription_identifiers.as_slice(), [5]);
    assert_eq!(
        publish.properties.message.fields().user_properties.iter().collect::<Vec<_>>(),
        [("k", "")]
    );
    assert_eq!(publish.payload, "hello");
}

#[test]
fn the_smallest_packets_are_their_fixed_header() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        assert_eq!(both_ways(b"\xc0\x00", version), Packet::PingReq);
        assert_eq!(both_ways(b"\xd0\x00", version), Packet::PingResp);
        both_ways(b"\xe0\x00", version);
        both_ways(b"\x40\x02\x00\x01", version);
        both_ways(b"\x82\x06\x00\x01\x00\x01t\x01", Version::V3_1_1);
    }
}
