//! What the PUBLISH path takes from the allocator: nothing.

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use petrel_proto::*;

/// A frame as it is cut from a read buffer: already shared.
fn shared_frame(wire: &[u8]) -> (Bytes, Bytes) {
    let mut buffer = BytesMut::from(wire);
    buffer.extend_from_slice(b"next");
    let frame = buffer.split_to(wire.len()).freeze();
    (frame.clone(), frame)
}

const V3: &[u8] = b"\x30\x07\x00\x03a/bhi";
const V5: &[u8] = b"\x32\x21\x00\x03a/b\x00\x07\x18\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w\x02\x00\x00\x00\x3c\x23\x00\x01\x01\x01hi";

#[test]
fn decoding_a_small_publish_does_not_allocate() {
    for (wire, version) in [(V3, Version::V3_1_1), (V5, Version::V5)] {
        let wire = [&[wire[0], u8::try_from(wire.len() - 2).unwrap()], &wire[2..]].concat();
        let (frame, _other_holder) = shared_frame(&wire);
        let mut decoded = None;
        let taken = measure(|| decoded = Some(decode(&frame, Some(version))));
        let Some(Ok(Packet::Publish(publish))) = decoded else { panic!("{decoded:?}") };
        assert_eq!(publish.payload, "hi");
        assert_eq!(taken.count_total, 0, "MQTT {version}");
    }
}

#[test]
fn encoding_the_head_of_a_publish_does_not_allocate() {
    let wire = [&[V5[0], u8::try_from(V5.len() - 2).unwrap()], &V5[2..]].concat();
    let Ok(Packet::Publish(publish)) = decode(&Bytes::from(wire), Some(Version::V5)) else {
        unreachable!()
    };
    let mut out = BytesMut::with_capacity(200);
    let taken = measure(|| {
        for version in [Version::V3_1_1, Version::V5] {
            PublishHead::of(&publish).encode(version, &mut out);
        }
    });
    assert_eq!(taken.count_total, 0);
    assert!(!out.is_empty());
}

#[test]
fn acknowledgements_do_not_allocate() {
    let (frame, _other_holder) = shared_frame(b"\x40\x02\x00\x07");
    let mut out = BytesMut::with_capacity(16);
    let taken = measure(|| {
        let packet = decode(&frame, Some(Version::V5)).unwrap();
        encode(&packet, Version::V5, &mut out);
    });
    assert_eq!(taken.count_total, 0);
    assert_eq!(&out[..], b"\x40\x02\x00\x07");
}
