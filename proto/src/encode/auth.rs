//! AUTH (section 3.15).

use super::properties::text;
use super::sink::{Section, Sink};
use crate::property::PropertyId;
use crate::{Auth, ReasonCode, Version};

/// Empty for Success without properties; does not exist before MQTT 5.
pub(super) fn put(auth: &Auth, version: Version, out: &mut impl Sink) {
    if !version.is_v5() {
        return out.refuse();
    }
    let plain = auth.method.is_none() && auth.data.is_none() && auth.properties.is_empty();
    if auth.reason == ReasonCode::Success && plain {
        return;
    }
    out.u8(auth.reason as u8);
    out.counted(&Properties(auth));
}

struct Properties<'a>(&'a Auth);

impl Section for Properties<'_> {
    fn put<S: Sink>(&self, out: &mut S) {
        out.prefixed_property(PropertyId::AuthenticationMethod, text(&self.0.method));
        out.prefixed_property(PropertyId::AuthenticationData, self.0.data.as_deref());
        self.0.properties.put(out);
    }
}
