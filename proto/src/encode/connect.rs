//! CONNECT (section 3.1).

use super::properties::{text, user_properties};
use super::sink::{Section, Sink};
use crate::property::PropertyId;
use crate::{Connect, ConnectProperties, Version, Will};

impl Section for Connect {
    fn put<S: Sink>(&self, out: &mut S) {
        if self.password.is_some() && self.username.is_none() && !self.version.is_v5() {
            return out.refuse();
        }
        out.prefixed(self.version.protocol_name().as_bytes());
        out.u8(self.version.level());
        out.u8(self.flags());
        out.u16(self.keep_alive_s);
        if self.version.is_v5() {
            out.counted(&self.properties);
        }
        out.prefixed(self.client_id.as_bytes());
        if let Some(will) = &self.will {
            put_will(will, self.version, out);
        }
        if let Some(username) = &self.username {
            out.prefixed(username.as_bytes());
        }
        if let Some(password) = &self.password {
            out.prefixed(password);
        }
    }
}

impl Connect {
    /// The connect flags byte (section 3.1.2.3).
    fn flags(&self) -> u8 {
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| 0x04 | ((will.qos as u8) << 3) | (u8::from(will.retain) << 5));
        will | (u8::from(self.clean_start) << 1)
            | (u8::from(self.password.is_some()) << 6)
            | (u8::from(self.username.is_some()) << 7)
    }
}

impl Section for ConnectProperties {
    fn put<S: Sink>(&self, out: &mut S) {
        out.four_byte_property(PropertyId::SessionExpiryInterval, self.session_expiry_interval_s);
        out.two_byte_property(PropertyId::ReceiveMaximum, self.receive_maximum);
        out.four_byte_property(PropertyId::MaximumPacketSize, self.maximum_packet_size);
        out.two_byte_property(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        let response = self.request_response_information;
        out.boolean_property(PropertyId::RequestResponseInformation, response);
        let problem = self.request_problem_information;
        out.boolean_property(PropertyId::RequestProblemInformation, problem);
        out.prefixed_property(PropertyId::AuthenticationMethod, text(&self.authentication_method));
        let data = self.authentication_data.as_deref();
        out.prefixed_property(PropertyId::AuthenticationData, data);
        user_properties(&self.user_properties, out);
    }
}

struct WillProperties<'a>(&'a Will);

impl Section for WillProperties<'_> {
    fn put<S: Sink>(&self, out: &mut S) {
        let Self(will) = self;
        out.four_byte_property(PropertyId::WillDelayInterval, will.delay_interval_s);
        let expiry = will.properties.message_expiry_interval_s;
        out.four_byte_property(PropertyId::MessageExpiryInterval, expiry);
        out.message_properties(&will.properties.message);
    }
}

fn put_will(will: &Will, version: Version, out: &mut impl Sink) {
    if version.is_v5() {
        out.counted(&WillProperties(will));
    }
    out.prefixed(will.topic.as_bytes());
    out.prefixed(&will.payload);
}
