//! SUBACK and UNSUBACK (sections 3.9 and 3.11).

use super::sink::Sink;
use crate::{ReasonCode, SubAck, Version};

/// One code per filter, in order ([MQTT5-3.9.3-1], [MQTT311-3.9.3-1]); before MQTT 5 every failure
/// is 0x80 ([MQTT311-3.9.3-2]).
pub(super) fn put_suback(suback: &SubAck, version: Version, out: &mut impl Sink) {
    out.u16(suback.packet_id.get());
    if version.is_v5() {
        out.counted(&suback.properties);
    }
    for &reason in &suback.reasons {
        let reason = if version.is_v5() || !reason.is_error() {
            reason
        } else {
            ReasonCode::UnspecifiedError
        };
        out.u8(reason as u8);
    }
}

/// Before MQTT 5 there is nothing but the packet identifier.
pub(super) fn put_unsuback(unsuback: &SubAck, version: Version, out: &mut impl Sink) {
    out.u16(unsuback.packet_id.get());
    if version.is_v5() {
        out.counted(&unsuback.properties);
        for &reason in &unsuback.reasons {
            out.u8(reason as u8);
        }
    }
}
