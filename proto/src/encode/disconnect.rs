//! DISCONNECT (section 3.14).

use super::properties::text;
use super::sink::{Section, Sink};
use crate::property::PropertyId;
use crate::{Disconnect, ReasonCode, Version};

/// Leaves out what MQTT 5 lets be left out.
pub(super) fn put(disconnect: &Disconnect, version: Version, out: &mut impl Sink) {
    let plain = disconnect.properties.is_empty()
        && disconnect.session_expiry_interval_s.is_none()
        && disconnect.server_reference.is_none();
    if !version.is_v5() || (disconnect.reason == ReasonCode::Success && plain) {
        return;
    }
    out.u8(disconnect.reason as u8);
    if !plain {
        out.counted(&Properties(disconnect));
    }
}

struct Properties<'a>(&'a Disconnect);

impl Section for Properties<'_> {
    fn put<S: Sink>(&self, out: &mut S) {
        let expiry = self.0.session_expiry_interval_s;
        out.four_byte_property(PropertyId::SessionExpiryInterval, expiry);
        out.prefixed_property(PropertyId::ServerReference, text(&self.0.server_reference));
        self.0.properties.put(out);
    }
}
