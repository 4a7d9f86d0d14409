//! The property blocks that several packets share.

use super::sink::{Section, Sink};
use crate::property::PropertyId;
use crate::{MessageFields, ReasonProperties, Text, UserProperties};

/// The bytes of an optional string.
pub(super) fn text(text: &Option<Text>) -> Option<&[u8]> {
    text.as_ref().map(Text::as_bytes)
}

/// User properties stand last in every block, in their order ([MQTT5-3.3.2-18]).
pub(super) fn user_properties(properties: &UserProperties, out: &mut impl Sink) {
    out.raw(properties.wire());
}

impl Section for ReasonProperties {
    fn put<S: Sink>(&self, out: &mut S) {
        out.prefixed_property(PropertyId::ReasonString, text(&self.reason_string));
        user_properties(&self.user_properties, out);
    }
}

impl Section for MessageFields {
    fn put<S: Sink>(&self, out: &mut S) {
        let format = self.payload_format.map(|format| format as u8);
        out.byte_property(PropertyId::PayloadFormatIndicator, format);
        out.prefixed_property(PropertyId::ContentType, text(&self.content_type));
        out.prefixed_property(PropertyId::ResponseTopic, text(&self.response_topic));
        out.prefixed_property(PropertyId::CorrelationData, self.correlation_data.as_deref());
        user_properties(&self.user_properties, out);
    }
}
