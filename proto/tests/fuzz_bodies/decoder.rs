//! Decoder: any bytes, any version. What is accepted must survive its own round trip.

use bytes::Bytes;
use petrel_proto::{Frame, Version, connect_version, decode, encode, encoded_len, frame, varint};

const PACKET_BYTES_MAX: u32 = 1 << 20;

/// The first byte selects the version, and whether the rest is a stream or a body that still needs
/// its remaining length.
pub fn decoder(input: &[u8]) {
    let Some((&selector, rest)) = input.split_first() else { return };
    let version = match selector & 3 {
        0 => None,
        1 => Some(Version::V3_1),
        2 => Some(Version::V3_1_1),
        _ => Some(Version::V5),
    };
    if selector & 4 == 0 {
        stream(rest, version);
    } else if let Some((&first, body)) = rest.split_first() {
        let mut wire = vec![first];
        varint::put(&mut wire, u32::try_from(body.len()).unwrap_or(varint::MAX).min(varint::MAX));
        wire.extend_from_slice(body);
        stream(&wire, version);
    }
}

fn stream(mut rest: &[u8], version: Option<Version>) {
    while let Ok(Frame::Complete(length)) = frame(rest, PACKET_BYTES_MAX) {
        let (packet, after) = rest.split_at(length);
        check_prefixes(packet);
        one(packet, version);
        rest = after;
    }
    // What is no frame must not harm the functions behind it either.
    let _ = decode(&Bytes::copy_from_slice(rest), version);
    let _ = connect_version(rest);
}

/// No prefix of a whole packet is refused or taken for another packet.
fn check_prefixes(packet: &[u8]) {
    for end in (0..packet.len()).take(8).chain(packet.len().checked_sub(1)) {
        match frame(&packet[..end], PACKET_BYTES_MAX) {
            Ok(Frame::Incomplete(length)) => assert!(length.is_none_or(|it| it == packet.len())),
            other => panic!("{other:?} after {end} bytes of {}", packet.len()),
        }
    }
}

fn one(packet: &[u8], version: Option<Version>) {
    let Ok(decoded) = decode(&Bytes::copy_from_slice(packet), version) else { return };
    let encode_as = version.unwrap_or(Version::V5);
    let mut again = Vec::new();
    encode(&decoded, encode_as, &mut again);
    assert_eq!(encoded_len(&decoded, encode_as), Some(again.len()));
    assert!(again.len() <= packet.len(), "the encoder's form is longer than the one received");
    assert_eq!(decode(&Bytes::from(again.clone()), version).as_ref(), Ok(&decoded));
    let mut third = Vec::new();
    encode(&decoded, encode_as, &mut third);
    assert_eq!(third, again, "the encoder's form is not stable");
}
