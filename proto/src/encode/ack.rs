//! PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7).

use super::sink::Sink;
use crate::{Ack, ReasonCode, Version};

/// Leaves out what MQTT 5 lets be left out.
pub(super) fn put(ack: &Ack, version: Version, out: &mut impl Sink) {
    out.u16(ack.packet_id.get());
    if !version.is_v5() || (ack.reason == ReasonCode::Success && ack.properties.is_empty()) {
        return;
    }
    out.u8(ack.reason as u8);
    if !ack.properties.is_empty() {
        out.counted(&ack.properties);
    }
}
