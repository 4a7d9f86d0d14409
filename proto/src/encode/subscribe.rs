//! SUBSCRIBE and UNSUBSCRIBE (sections 3.8 and 3.10).

use super::properties::user_properties;
use super::sink::{Section, Sink};
use crate::property::PropertyId;
use crate::{Subscribe, SubscriptionOptions, Unsubscribe, UserProperties, Version};

pub(super) fn put_subscribe(subscribe: &Subscribe, version: Version, out: &mut impl Sink) {
    if subscribe.filters.is_empty() {
        return out.refuse();
    }
    out.u16(subscribe.packet_id.get());
    if version.is_v5() {
        out.counted(&SubscribeProperties(subscribe));
    }
    for filter in &subscribe.filters {
        out.prefixed(filter.filter.as_bytes());
        out.u8(options(filter.options, version));
    }
}

pub(super) fn put_unsubscribe(unsubscribe: &Unsubscribe, version: Version, out: &mut impl Sink) {
    if unsubscribe.filters.is_empty() {
        return out.refuse();
    }
    out.u16(unsubscribe.packet_id.get());
    if version.is_v5() {
        out.counted(&UnsubscribeProperties(&unsubscribe.user_properties));
    }
    for filter in &unsubscribe.filters {
        out.prefixed(filter.as_bytes());
    }
}

/// The subscription options byte (section 3.8.3.1); before MQTT 5 the requested QoS alone.
fn options(options: SubscriptionOptions, version: Version) -> u8 {
    let qos = options.qos as u8;
    if !version.is_v5() {
        return qos;
    }
    qos | (u8::from(options.no_local) << 2)
        | (u8::from(options.retain_as_published) << 3)
        | ((options.retain_handling as u8) << 4)
}

struct SubscribeProperties<'a>(&'a Subscribe);

impl Section for SubscribeProperties<'_> {
    fn put<S: Sink>(&self, out: &mut S) {
        let identifier = self.0.subscription_identifier;
        out.varint_property(PropertyId::SubscriptionIdentifier, identifier);
        user_properties(&self.0.user_properties, out);
    }
}

struct UnsubscribeProperties<'a>(&'a UserProperties);

impl Section for UnsubscribeProperties<'_> {
    fn put<S: Sink>(&self, out: &mut S) {
        user_properties(self.0, out);
    }
}
