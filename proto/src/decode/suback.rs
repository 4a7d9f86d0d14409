//! SUBACK and UNSUBACK (sections 3.9 and 3.11).

use bytes::Bytes;
use smallvec::SmallVec;

use super::fields::{Parsed, packet_id, reason};
use super::properties::reason_properties;
use crate::{DecodeError, ReasonCode, ReasonProperties, SubAck, Version};

pub(super) fn suback<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, SubAck> {
    let allowed = if version.is_v5() { is_suback_reason } else { is_suback_reason_v3 };
    reasons(frame, input, version, allowed)
}

pub(super) fn unsuback<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, SubAck> {
    if version.is_v5() {
        return reasons(frame, input, version, is_unsuback_reason);
    }
    let (rest, packet_id) = packet_id(input)?;
    let properties = ReasonProperties::EMPTY;
    Ok((rest, SubAck { packet_id, reasons: SmallVec::new(), properties }))
}

/// One code per filter, in order ([MQTT5-3.9.3-1], [MQTT5-3.11.3-1], [MQTT311-3.9.3-1]).
fn reasons<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
    allowed: fn(ReasonCode) -> bool,
) -> Parsed<'a, SubAck> {
    let (rest, packet_id) = packet_id(input)?;
    let (codes, properties) = if version.is_v5() {
        reason_properties(frame, rest)?
    } else {
        (rest, ReasonProperties::EMPTY)
    };
    if codes.is_empty() {
        return Err(DecodeError::protocol("an answer without a reason code [MQTT5-3.9.3-1]").into());
    }
    let reasons =
        codes.iter().map(|&code| reason(code, allowed)).collect::<Result<SmallVec<_>, _>>()?;
    Ok((&[], SubAck { packet_id, reasons, properties }))
}

/// [MQTT5-3.9.3-2].
const fn is_suback_reason(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(
        reason,
        R::Success
            | R::GrantedQos1
            | R::GrantedQos2
            | R::UnspecifiedError
            | R::ImplementationSpecificError
            | R::NotAuthorized
            | R::TopicFilterInvalid
            | R::PacketIdentifierInUse
            | R::QuotaExceeded
            | R::SharedSubscriptionsNotSupported
            | R::SubscriptionIdentifiersNotSupported
            | R::WildcardSubscriptionsNotSupported
    )
}

/// [MQTT311-3.9.3-2].
const fn is_suback_reason_v3(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(reason, R::Success | R::GrantedQos1 | R::GrantedQos2 | R::UnspecifiedError)
}

/// [MQTT5-3.11.3-2].
const fn is_unsuback_reason(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(
        reason,
        R::Success
            | R::NoSubscriptionExisted
            | R::UnspecifiedError
            | R::ImplementationSpecificError
            | R::NotAuthorized
            | R::TopicFilterInvalid
            | R::PacketIdentifierInUse
    )
}
