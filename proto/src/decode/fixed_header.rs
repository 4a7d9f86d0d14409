//! The fixed header: packet type, its flags and the remaining length.

use crate::varint::{self, Varint};
use crate::{DecodeError, Qos, ReasonCode};

/// What the start of a byte stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// More bytes are needed before anything can be said, or before the packet is whole. The
    /// number is the length of the whole packet once it is known.
    Incomplete(Option<usize>),
    /// The first `n` bytes are one whole packet.
    Complete(usize),
}

/// The four upper bits of the first byte (section 2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

/// The DUP bit of the first byte.
pub(crate) const DUP: u8 = 0x08;
/// The RETAIN bit of the first byte.
pub(crate) const RETAIN: u8 = 0x01;

impl PacketType {
    /// The type named by the first byte of a packet; `None` for the forbidden type 0.
    pub(crate) const fn from_first_byte(first: u8) -> Option<Self> {
        Some(match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte of a packet whose flags are fixed.
    pub(crate) const fn first_byte(self) -> u8 {
        ((self as u8) << 4) | self.reserved_flags()
    }

    const fn reserved_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

/// Looks at the fixed header only; refuses a packet that is too large before its body arrives.
///
/// `packet_bytes_max` counts the whole packet, fixed header included. A DUP flag on PUBREL,
/// SUBSCRIBE or UNSUBSCRIBE passes here, because MQTT 3.1 has it; [`decode`](super::decode)
/// refuses it for the later versions.
///
/// # Errors
/// Packet too large (0x95) over `packet_bytes_max`; malformed for a type, a flag or a length that
/// no version allows ([MQTT5-2.1.3-1], [MQTT5-1.5.5-1]).
pub fn frame(input: &[u8], packet_bytes_max: u32) -> Result<Frame, DecodeError> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(Frame::Incomplete(None));
    };
    let packet_type = check_first_byte(first)?;
    let (body, length) = match varint::get(rest) {
        Varint::Value(value, length) => (value, length),
        Varint::Incomplete => return Ok(Frame::Incomplete(None)),
        Varint::Malformed => {
            return Err(DecodeError::malformed(
                "the remaining length is malformed [MQTT5-1.5.5-1]",
            ));
        }
    };
    let total =
        usize::try_from(body).unwrap_or(usize::MAX).saturating_add(length.saturating_add(1));
    if total > usize::try_from(packet_bytes_max).unwrap_or(usize::MAX) {
        return Err(DecodeError {
            reason: ReasonCode::PacketTooLarge,
            what: "the packet is larger than the maximum packet size",
        });
    }
    if body > 0 && matches!(packet_type, PacketType::PingReq | PacketType::PingResp) {
        return Err(DecodeError::malformed("PINGREQ and PINGRESP have no body"));
    }
    if input.len() >= total {
        Ok(Frame::Complete(total))
    } else {
        Ok(Frame::Incomplete(Some(total)))
    }
}

/// Checks type and flags as far as they do not depend on the version.
///
/// *Spec*: [MQTT5-2.1.3-1], [MQTT311-2.2.2-2]; PUBLISH [MQTT5-3.3.1-2], [MQTT5-3.3.1-4],
/// [MQTT311-3.3.1-2], [MQTT311-3.3.1-4]; PUBREL [MQTT5-3.6.1-1], [MQTT311-3.6.1-1]; SUBSCRIBE
/// [MQTT5-3.8.1-1], [MQTT311-3.8.1-1]; UNSUBSCRIBE [MQTT5-3.10.1-1], [MQTT311-3.10.1-1];
/// DISCONNECT [MQTT5-3.14.1-1], [MQTT311-3.14.1-1]; AUTH [MQTT5-3.15.1-1].
pub(super) fn check_first_byte(first: u8) -> Result<PacketType, DecodeError> {
    let packet_type = PacketType::from_first_byte(first)
        .ok_or(DecodeError::malformed("packet type 0 is reserved"))?;
    let flags = first & 0x0f;
    match packet_type {
        PacketType::Publish => match publish_qos(first) {
            None => Err(DecodeError::malformed("PUBLISH with QoS 3 [MQTT5-3.3.1-4]")),
            Some(Qos::AtMostOnce) if flags & DUP != 0 => {
                Err(DecodeError::malformed("PUBLISH with DUP at QoS 0 [MQTT5-3.3.1-2]"))
            }
            Some(_) => Ok(packet_type),
        },
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe
            if flags & !DUP == packet_type.reserved_flags() =>
        {
            Ok(packet_type)
        }
        _ if flags == packet_type.reserved_flags() => Ok(packet_type),
        _ => Err(DecodeError::malformed("reserved flag bits are wrong [MQTT5-2.1.3-1]")),
    }
}

/// The QoS that the first byte of a PUBLISH names.
pub(super) const fn publish_qos(first: u8) -> Option<Qos> {
    Qos::from_u8((first >> 1) & 3)
}
