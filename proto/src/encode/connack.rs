//! CONNACK (section 3.2).

use super::properties::{text, user_properties};
use super::sink::{Section, Sink};
use crate::property::PropertyId;
use crate::{ConnAck, ConnAckProperties, ReasonCode, Text, Version};

/// Session Present goes out with Success only ([MQTT5-3.2.2-6], [MQTT311-3.2.2-4]), and MQTT 3.1
/// does not have it.
pub(super) fn put(connack: &ConnAck, version: Version, out: &mut impl Sink) {
    let success = connack.reason == ReasonCode::Success;
    let present = connack.session_present && success && version != Version::V3_1;
    out.u8(u8::from(present));
    if version.is_v5() {
        out.u8(connack.reason as u8);
        out.counted(&connack.properties);
    } else {
        out.u8(connack.reason.connack_v3());
    }
}

impl Section for ConnAckProperties {
    fn put<S: Sink>(&self, out: &mut S) {
        out.four_byte_property(PropertyId::SessionExpiryInterval, self.session_expiry_interval_s);
        out.two_byte_property(PropertyId::ReceiveMaximum, self.receive_maximum);
        out.byte_property(PropertyId::MaximumQos, self.maximum_qos.map(|qos| qos as u8));
        out.boolean_property(PropertyId::RetainAvailable, self.retain_available);
        out.four_byte_property(PropertyId::MaximumPacketSize, self.maximum_packet_size);
        let assigned = self.assigned_client_id.as_ref().map(Text::as_bytes);
        out.prefixed_property(PropertyId::AssignedClientIdentifier, assigned);
        out.two_byte_property(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        out.prefixed_property(PropertyId::ReasonString, text(&self.reason_string));
        let wildcard = self.wildcard_subscription_available;
        out.boolean_property(PropertyId::WildcardSubscriptionAvailable, wildcard);
        let identifiers = self.subscription_identifiers_available;
        out.boolean_property(PropertyId::SubscriptionIdentifierAvailable, identifiers);
        let shared = self.shared_subscription_available;
        out.boolean_property(PropertyId::SharedSubscriptionAvailable, shared);
        out.two_byte_property(PropertyId::ServerKeepAlive, self.server_keep_alive_s);
        out.prefixed_property(PropertyId::ResponseInformation, text(&self.response_information));
        out.prefixed_property(PropertyId::ServerReference, text(&self.server_reference));
        out.prefixed_property(PropertyId::AuthenticationMethod, text(&self.authentication_method));
        let data = self.authentication_data.as_deref();
        out.prefixed_property(PropertyId::AuthenticationData, data);
        user_properties(&self.user_properties, out);
    }
}
