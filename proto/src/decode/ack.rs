//! PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7).

use bytes::Bytes;

use super::fields::{Parsed, packet_id, reason};
use super::properties::reason_properties;
use crate::{Ack, ReasonCode, ReasonProperties, Version};

/// PUBACK and PUBREC.
pub(super) fn first_answer<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, Ack> {
    ack(frame, input, version, is_first_answer_reason)
}

/// PUBREL and PUBCOMP.
pub(super) fn release<'a>(frame: &'a Bytes, input: &'a [u8], version: Version) -> Parsed<'a, Ack> {
    ack(frame, input, version, is_release_reason)
}

/// MQTT 5 may leave out the properties, or reason and properties.
fn ack<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
    allowed: fn(ReasonCode) -> bool,
) -> Parsed<'a, Ack> {
    let (rest, packet_id) = packet_id(input)?;
    let mut ack = Ack::new(packet_id, ReasonCode::Success);
    if !version.is_v5() {
        return Ok((rest, ack));
    }
    let Some((&code, rest)) = rest.split_first() else {
        return Ok((rest, ack));
    };
    ack.reason = reason(code, allowed)?;
    let (rest, properties) = if rest.is_empty() {
        (rest, ReasonProperties::EMPTY)
    } else {
        reason_properties(frame, rest)?
    };
    ack.properties = properties;
    Ok((rest, ack))
}

/// [MQTT5-3.4.2-1] and [MQTT5-3.5.2-1].
const fn is_first_answer_reason(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(
        reason,
        R::Success
            | R::NoMatchingSubscribers
            | R::UnspecifiedError
            | R::ImplementationSpecificError
            | R::NotAuthorized
            | R::TopicNameInvalid
            | R::PacketIdentifierInUse
            | R::QuotaExceeded
            | R::PayloadFormatInvalid
    )
}

/// [MQTT5-3.6.2-1] and [MQTT5-3.7.2-1].
const fn is_release_reason(reason: ReasonCode) -> bool {
    matches!(reason, ReasonCode::Success | ReasonCode::PacketIdentifierNotFound)
}
