//! Properties that hold for every packet of every version.

use bytes::{Bytes, BytesMut};
use petrel_proto::*;
use proptest::prelude::*;

mod strategies;

use strategies::{publish, publish_properties, user_properties, version, versioned_packet};

fn encoded(packet: &Packet, version: Version) -> Bytes {
    let mut out = Vec::new();
    encode(packet, version, &mut out);
    Bytes::from(out)
}

/// Whether `part` lies in the memory of `whole`.
fn lies_within(part: &[u8], whole: &Bytes) -> bool {
    part.is_empty() || whole.as_ptr_range().contains(&part.as_ptr())
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_gives_the_packet_back((version, packet) in versioned_packet()) {
        let wire = encoded(&packet, version);
        prop_assert_eq!(encoded_len(&packet, version), Some(wire.len()));
        prop_assert_eq!(frame(&wire, u32::MAX), Ok(Frame::Complete(wire.len())));
        prop_assert_eq!(decode(&wire, Some(version)), Ok(packet.clone()));
        if let Packet::Connect(_) = packet {
            prop_assert_eq!(decode(&wire, None), Ok(packet));
            prop_assert_eq!(connect_version(&wire), Some(version));
        }
    }

    /// [MQTT5-3.1.0-1]
    #[test]
    fn only_connect_is_accepted_before_a_version_is_known((version, packet) in versioned_packet()) {
        let first = decode(&encoded(&packet, version), None);
        match packet {
            Packet::Connect(_) => prop_assert!(first.is_ok()),
            _ => prop_assert_eq!(first.unwrap_err().reason, ReasonCode::ProtocolError),
        }
    }

    #[test]
    fn two_packets_come_apart_at_every_split(
        (version, first, second) in version().prop_flat_map(|version| {
            (Just(version), strategies::packet(version), strategies::packet(version))
        }),
        steps in proptest::collection::vec(1usize..40, 1..20),
    ) {
        let stream = [encoded(&first, version), encoded(&second, version)].concat();
        let (mut from, mut to, mut packets) = (0, 0, Vec::new());
        let mut steps = steps.into_iter().cycle();
        while from < stream.len() {
            match frame(&stream[from..to], u32::MAX).unwrap() {
                Frame::Complete(length) => {
                    let packet = Bytes::copy_from_slice(&stream[from..from + length]);
                    packets.push(decode(&packet, Some(version)).unwrap());
                    from += length;
                }
                Frame::Incomplete(_) => {
                    prop_assert!(to < stream.len(), "incomplete at the end of the stream");
                    to = stream.len().min(to + steps.next().unwrap());
                }
            }
        }
        prop_assert_eq!(packets, [first, second]);
    }

    #[test]
    fn every_prefix_of_a_packet_is_incomplete((version, packet) in versioned_packet()) {
        let wire = encoded(&packet, version);
        for end in 0..wire.len() {
            match frame(&wire[..end], u32::MAX) {
                Ok(Frame::Incomplete(None)) => prop_assert!(end < 5),
                Ok(Frame::Incomplete(Some(length))) => prop_assert_eq!(length, wire.len()),
                other => prop_assert!(false, "{:?} after {} bytes", other, end),
            }
        }
    }

    #[test]
    fn a_packet_over_the_maximum_is_refused_by_its_fixed_header(
        (version, packet) in versioned_packet(),
    ) {
        let wire = encoded(&packet, version);
        let length = u32::try_from(wire.len()).unwrap();
        prop_assert_eq!(frame(&wire, length), Ok(Frame::Complete(wire.len())));
        let header = 1 + varint::len(length);
        let refused = frame(&wire[..header.min(wire.len())], length - 1).unwrap_err();
        prop_assert_eq!(refused.reason, ReasonCode::PacketTooLarge);
    }

    /// A flipped byte leaves a packet, which then survives its own round trip, or an error.
    #[test]
    fn a_mutated_packet_decodes_or_is_refused(
        (version, packet) in versioned_packet(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        read_as in version(),
    ) {
        let mut wire = encoded(&packet, version).to_vec();
        let at = at.index(wire.len());
        wire[at] = byte;
        if let Ok(Frame::Complete(length)) = frame(&wire, u32::MAX) {
            let wire = Bytes::copy_from_slice(&wire[..length]);
            if let Ok(packet) = decode(&wire, Some(read_as)) {
                let again = encoded(&packet, read_as);
                prop_assert_eq!(decode(&again, Some(read_as)), Ok(packet));
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(
        input in proptest::collection::vec(any::<u8>(), 0..200),
        version in proptest::option::of(version()),
    ) {
        let _ = frame(&input, 1 << 20);
        let _ = connect_version(&input);
        let _ = decode(&Bytes::from(input), version);
    }

    /// The same with a fixed header that is right, so that bodies are reached.
    #[test]
    fn random_bodies_never_panic(
        first in any::<u8>(),
        body in proptest::collection::vec(any::<u8>(), 0..127),
        version in proptest::option::of(version()),
    ) {
        let mut wire = vec![first, u8::try_from(body.len()).unwrap()];
        wire.extend(body);
        let _ = decode(&Bytes::from(wire), version);
    }

    #[test]
    fn a_decoded_publish_shares_the_memory_of_its_frame(
        (version, publish) in version().prop_flat_map(|it| (Just(it), publish(it))),
    ) {
        let wire = encoded(&Packet::Publish(publish), version);
        let Ok(Packet::Publish(publish)) = decode(&wire, Some(version)) else { unreachable!() };
        prop_assert!(lies_within(publish.topic.as_bytes(), &wire));
        prop_assert!(lies_within(&publish.payload, &wire));
        let fields = publish.properties.message.fields();
        prop_assert!(lies_within(fields.content_type.unwrap_or_default().as_bytes(), &wire));
        prop_assert!(lies_within(&fields.correlation_data.unwrap_or_default(), &wire));
    }

    /// The head takes from the properties only what it does not replace itself.
    #[test]
    fn a_publish_head_replaces_what_differs_per_receiver(
        properties in publish_properties(),
        replaced in publish_properties(),
        version in version(),
    ) {
        let head = PublishHead {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: true,
            topic: b"t",
            packet_id: PacketId::new(7),
            payload_bytes: 3,
            message_expiry_interval_s: replaced.message_expiry_interval_s,
            topic_alias: replaced.topic_alias,
            subscription_identifiers: &replaced.subscription_identifiers,
            properties: &properties.message,
        };
        let mut wire = Vec::new();
        head.encode(version, &mut wire);
        // [MQTT5-2.2.1-4] Another receiver shares it, but for its packet identifier.
        let other = PublishHead { packet_id: PacketId::new(0x1234), ..head };
        let (mut own, mut shared) = (BytesMut::from("before"), BytesMut::from("before"));
        let written = other.encode_within(version, usize::MAX, &mut own).unwrap();
        let packet_id = Some((written.packet_id_at, PacketId::new(0x1234).unwrap()));
        SharedHead { bytes: &wire, packet_id }.put(&mut shared);
        prop_assert_eq!(own, shared);
        wire.extend(b"xyz");
        prop_assert_eq!(head.packet_bytes(version), Some(wire.len()));
        prop_assert_eq!(written.packet_bytes, wire.len());
        let mut nothing = Vec::new();
        prop_assert_eq!(head.encode_within(version, wire.len() - 1, &mut nothing), None);
        prop_assert!(nothing.is_empty());
        prop_assert!(head.encode_within(version, wire.len(), &mut nothing).is_some());
        let Ok(Packet::Publish(publish)) = decode(&Bytes::from(wire), Some(version)) else {
            unreachable!()
        };
        prop_assert_eq!(publish.payload, "xyz");
        let expected = PublishProperties {
            message_expiry_interval_s: replaced.message_expiry_interval_s,
            topic_alias: replaced.topic_alias,
            subscription_identifiers: replaced.subscription_identifiers,
            ..properties
        };
        let expected = if version.is_v5() { expected } else { PublishProperties::default() };
        prop_assert_eq!(publish.properties, expected);
    }

    /// [MQTT5-3.3.2-18]
    #[test]
    fn user_properties_keep_their_order_among_other_properties(
        pairs in proptest::collection::vec((user_properties(), any::<bool>()), 0..6),
    ) {
        let mut block = Vec::new();
        let mut expected = Vec::new();
        let mut identifiers = 0;
        for (pair, apart) in &pairs {
            block.extend_from_slice(pair.wire());
            expected.extend(pair.iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
            if *apart {
                block.extend([0x0b, 1]);
                identifiers += 1;
            }
        }
        let mut body = b"\0\x01t".to_vec();
        varint::put(&mut body, u32::try_from(block.len()).unwrap());
        body.extend(block);
        let mut wire = vec![0x30];
        varint::put(&mut wire, u32::try_from(body.len()).unwrap());
        wire.extend(body);
        let Ok(Packet::Publish(publish)) = decode(&Bytes::from(wire), Some(Version::V5)) else {
            unreachable!()
        };
        let found: Vec<_> = publish.properties.message.fields().user_properties.iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(publish.properties.subscription_identifiers.len(), identifiers);
    }
}
