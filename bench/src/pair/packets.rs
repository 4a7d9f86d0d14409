//! Packets as the closed loop needs them: PUBLISH from a template, and a look at what comes.

use bytes::Bytes;
use petrel_proto::{
    Frame, Packet, PacketId, Publish, PublishProperties, Qos, TopicName, Version, encode, frame,
};

use crate::client::text;

/// What every payload begins with: when the message was sent, and which one it is.
pub const STAMP_BYTES: usize = 16;
/// Bits of a mark that are the number of the message; those above are its publisher.
const NUMBER_BITS: u32 = 40;

/// Which message of which publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Number of the publisher.
    pub publisher: usize,
    /// Number of its message, from 0.
    pub number: u64,
}

/// The PUBLISH of one publisher; only Packet Identifier and stamps differ from message to message.
pub struct Template {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
    publisher: usize,
}

impl Template {
    /// Encodes it once.
    ///
    /// # Errors
    /// The topic is none.
    pub fn new(
        publisher: usize,
        topic: &str,
        qos: Qos,
        payload_bytes: usize,
        version: Version,
    ) -> Result<Self, String> {
        let packet_id = PacketId::new(1).filter(|_| qos != Qos::AtMostOnce);
        let payload_bytes = payload_bytes.max(STAMP_BYTES);
        let mut bytes = Vec::new();
        let packet = Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: TopicName::new(text(topic)?).map_err(|error| error.to_string())?,
            packet_id,
            properties: PublishProperties::default(),
            payload: Bytes::from(vec![0; payload_bytes]),
        });
        encode(&packet, version, &mut bytes);
        let body = header_bytes(&bytes).ok_or("no PUBLISH was encoded")?;
        Ok(Self {
            packet_id_at: packet_id.map(|_| body + 2 + topic.len()),
            payload_at: bytes.len() - payload_bytes,
            bytes,
            publisher,
        })
    }

    /// Adds a message to what is sent.
    pub fn write(&self, number: u64, stamp_us: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let message = &mut out[start..];
        if let Some(at) = self.packet_id_at {
            let packet_id = (number % 65_535) as u16 + 1;
            message[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        let mark = (self.publisher as u64) << NUMBER_BITS | number;
        let payload = &mut message[self.payload_at..];
        payload[..8].copy_from_slice(&stamp_us.to_be_bytes());
        payload[8..STAMP_BYTES].copy_from_slice(&mark.to_be_bytes());
    }
}

/// A packet that came, looked at no further than the load needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// PUBLISH of the load.
    Publish {
        /// When it was sent.
        stamp_us: u64,
        /// Which one it is.
        mark: Mark,
        /// What is to be sent in return.
        answer: Option<[u8; 4]>,
    },
    /// PUBACK or PUBCOMP.
    Acknowledged,
    /// PUBREC or PUBREL, and what is to be sent in return.
    Between([u8; 4]),
    /// Anything else.
    Other,
}

/// The packet at the start of `bytes` and its length; `None` if it is not complete.
///
/// # Errors
/// It is no packet, no message of this load, or a refusal.
pub fn next(bytes: &[u8], version: Version) -> Result<Option<(Seen, usize)>, String> {
    let Frame::Complete(length) = frame(bytes, u32::MAX).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let packet = bytes.get(..length).ok_or("a frame longer than its bytes")?;
    let body = &packet[header_bytes(packet).ok_or("a packet without a header")?..];
    let seen = match packet[0] >> 4 {
        3 => publish(packet[0], body, version).ok_or("a message of somebody else")?,
        kind @ 4..=7 => {
            let (id, reason) = (two(body, 0), body.get(2).copied().unwrap_or_default());
            let [high, low] = id.ok_or("an acknowledgement without a Packet Identifier")?;
            match (kind, reason) {
                (_, 0x80..) => return Err(format!("a message was refused: {reason:#x}")),
                (5, _) => Seen::Between([0x62, 2, high, low]),
                (6, _) => Seen::Between([0x70, 2, high, low]),
                _ => Seen::Acknowledged,
            }
        }
        14 => return Err("the broker said DISCONNECT".to_owned()),
        _ => Seen::Other,
    };
    Ok(Some((seen, length)))
}

fn publish(first: u8, body: &[u8], version: Version) -> Option<Seen> {
    let mut at = 2 + usize::from(u16::from_be_bytes(two(body, 0)?));
    let answer = match first >> 1 & 3 {
        0 => None,
        qos => {
            let [high, low] = two(body, at)?;
            at += 2;
            Some([if qos == 1 { 0x40 } else { 0x50 }, 2, high, low])
        }
    };
    if version == Version::V5 {
        // Properties, which are fewer than 128 bytes for what this load sends.
        at += 1 + usize::from(*body.get(at).filter(|length| **length < 128)?);
    }
    let (stamp, rest) = body.get(at..)?.split_first_chunk::<8>()?;
    let mark = u64::from_be_bytes(*rest.first_chunk::<8>()?);
    let publisher = (mark >> NUMBER_BITS) as usize;
    let mark = Mark { publisher, number: mark & ((1 << NUMBER_BITS) - 1) };
    Some(Seen::Publish { stamp_us: u64::from_be_bytes(*stamp), mark, answer })
}

fn two(body: &[u8], at: usize) -> Option<[u8; 2]> {
    body.get(at..)?.first_chunk::<2>().copied()
}

/// Length of the fixed header of a packet.
pub fn header_bytes(packet: &[u8]) -> Option<usize> {
    packet.iter().skip(1).position(|byte| byte & 0x80 == 0).map(|at| at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        for (version, qos, first) in [
            (Version::V3_1_1, Qos::AtMostOnce, None),
            (Version::V5, Qos::AtLeastOnce, Some(0x40)),
            (Version::V5, Qos::ExactlyOnce, Some(0x50)),
        ] {
            let template = Template::new(7, "a/b", qos, 200, version).expect("a template");
            let mut bytes = Vec::new();
            template.write(3, 55, &mut bytes);
            template.write(65_535, 56, &mut bytes);
            let (seen, length) = next(&bytes, version).expect("a packet").expect("complete");
            let answer = first.map(|first| [first, 2, 0, 4]);
            let mark = Mark { publisher: 7, number: 3 };
            assert_eq!(seen, Seen::Publish { stamp_us: 55, mark, answer });
            let (seen, rest) = next(&bytes[length..], version).expect("one").expect("complete");
            let answer = first.map(|first| [first, 2, 0, 1]);
            let mark = Mark { publisher: 7, number: 65_535 };
            assert_eq!(seen, Seen::Publish { stamp_us: 56, mark, answer });
            assert_eq!(length + rest, bytes.len());
            assert_eq!(next(&bytes[..length - 1], version), Ok(None));
        }
    }

    #[test]
    fn acknowledgements_are_answered_as_they_must_be() {
        let seen = |bytes: &[u8]| next(bytes, Version::V5).map(|it| it.map(|(seen, _)| seen));
        assert_eq!(seen(&[0x40, 2, 0, 9]), Ok(Some(Seen::Acknowledged)));
        assert_eq!(seen(&[0x50, 2, 0, 9]), Ok(Some(Seen::Between([0x62, 2, 0, 9]))));
        assert_eq!(seen(&[0x62, 2, 0, 9]), Ok(Some(Seen::Between([0x70, 2, 0, 9]))));
        assert_eq!(seen(&[0x40, 3, 0, 9, 0x10]), Ok(Some(Seen::Acknowledged)));
        assert!(seen(&[0x40, 3, 0, 9, 0x97]).is_err());
        assert!(seen(&[0xE0, 1, 0x8B]).is_err());
        assert_eq!(seen(&[0xD0, 0]), Ok(Some(Seen::Other)));
    }
}
