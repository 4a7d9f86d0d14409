//! The fifteen control packets.
//!
//! Fields that a version does not have are at their default after decoding and are left out by
//! the encoder. Every `Bytes` and [`Text`] of a decoded packet is a slice of the frame it came
//! from; whoever keeps one beyond the turn copies it, or it pins the whole read buffer.

use std::fmt;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::property::{PublishProperties, ReasonProperties, UserProperties};
use crate::{
    ClientId, PacketId, Qos, ReasonCode, RetainHandling, Text, TopicFilter, TopicName, Version,
};

/// One MQTT control packet of any version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Client to server: opens a session.
    Connect(Box<Connect>),
    /// Server to client: the answer to CONNECT.
    ConnAck(Box<ConnAck>),
    /// Either way: an application message.
    Publish(Publish),
    /// Either way: ends a QoS 1 delivery.
    PubAck(Ack),
    /// Either way: second step of a QoS 2 delivery.
    PubRec(Ack),
    /// Either way: third step of a QoS 2 delivery.
    PubRel(Ack),
    /// Either way: ends a QoS 2 delivery.
    PubComp(Ack),
    /// Client to server.
    Subscribe(Box<Subscribe>),
    /// Server to client.
    SubAck(Box<SubAck>),
    /// Client to server.
    Unsubscribe(Box<Unsubscribe>),
    /// Server to client.
    UnsubAck(Box<SubAck>),
    /// Client to server.
    PingReq,
    /// Server to client.
    PingResp,
    /// Either way in MQTT 5, client to server before.
    Disconnect(Box<Disconnect>),
    /// Either way, MQTT 5 only.
    Auth(Box<Auth>),
}

/// CONNECT: who the client is and what it wants of the session.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The protocol version asked for.
    pub version: Version,
    /// Clean Start (MQTT 5) or Clean Session (before).
    pub clean_start: bool,
    /// Keep alive, in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// The client identifier; empty asks the server for one.
    pub client_id: ClientId,
    /// The message to publish if the connection ends without a DISCONNECT 0x00.
    pub will: Option<Box<Will>>,
    /// User name.
    pub username: Option<Text>,
    /// Password: any bytes.
    pub password: Option<Bytes>,
    /// MQTT 5 properties of the packet.
    pub properties: ConnectProperties,
}

/// Shows how many bytes a secret has.
struct Hidden<'a>(&'a Option<Bytes>);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(secret) => write!(f, "({} bytes)", secret.len()),
            None => f.write_str("None"),
        }
    }
}

/// Without the password.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            clean_start,
            keep_alive_s,
            client_id,
            will,
            username,
            password,
            properties,
        } = self;
        f.debug_struct("Connect")
            .field("version", version)
            .field("clean_start", clean_start)
            .field("keep_alive_s", keep_alive_s)
            .field("client_id", client_id)
            .field("will", will)
            .field("username", username)
            .field("password", &Hidden(password))
            .field("properties", properties)
            .finish()
    }
}

/// The MQTT 5 properties of CONNECT. `None` means that the property was absent.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ConnectProperties {
    /// Session Expiry Interval, in seconds; `u32::MAX` never expires.
    pub session_expiry_interval_s: Option<u32>,
    /// Receive Maximum: QoS 1 and 2 messages in flight towards the client; never 0.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size that the client accepts, in bytes; never 0.
    pub maximum_packet_size: Option<u32>,
    /// Topic Alias Maximum that the client accepts.
    pub topic_alias_maximum: Option<u16>,
    /// Request Response Information.
    pub request_response_information: Option<bool>,
    /// Request Problem Information.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Authentication Method.
    pub authentication_method: Option<Text>,
    /// Authentication Data; present only together with a method.
    pub authentication_data: Option<Bytes>,
}

/// Without what proves who the client is.
impl fmt::Debug for ConnectProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            session_expiry_interval_s,
            receive_maximum,
            maximum_packet_size,
            topic_alias_maximum,
            request_response_information,
            request_problem_information,
            user_properties,
            authentication_method,
            authentication_data,
        } = self;
        f.debug_struct("ConnectProperties")
            .field("session_expiry_interval_s", session_expiry_interval_s)
            .field("receive_maximum", receive_maximum)
            .field("maximum_packet_size", maximum_packet_size)
            .field("topic_alias_maximum", topic_alias_maximum)
            .field("request_response_information", request_response_information)
            .field("request_problem_information", request_problem_information)
            .field("user_properties", user_properties)
            .field("authentication_method", authentication_method)
            .field("authentication_data", &Hidden(authentication_data))
            .finish()
    }
}

/// The will message inside CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where it will be published.
    pub topic: TopicName,
    /// What will be published.
    pub payload: Bytes,
    /// At which QoS.
    pub qos: Qos,
    /// With RETAIN or without.
    pub retain: bool,
    /// Will Delay Interval, in seconds; `None` if absent.
    pub delay_interval_s: Option<u32>,
    /// The properties that go out with the message. Alias and subscription identifiers are never set.
    pub properties: PublishProperties,
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// Session Present flag.
    pub session_present: bool,
    /// The verdict. For 3.x the encoder maps it to the six return codes ([`ReasonCode::connack_v3`]).
    pub reason: ReasonCode,
    /// MQTT 5 properties.
    pub properties: ConnAckProperties,
}

/// The MQTT 5 properties of CONNACK. `None` means that the property is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnAckProperties {
    /// Session Expiry Interval that the server uses, in seconds.
    pub session_expiry_interval_s: Option<u32>,
    /// Receive Maximum of the server; never 0.
    pub receive_maximum: Option<u16>,
    /// Maximum QoS; only 0 or 1 may be on the wire.
    pub maximum_qos: Option<Qos>,
    /// Retain Available.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size of the server, in bytes; never 0.
    pub maximum_packet_size: Option<u32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<ClientId>,
    /// Topic Alias Maximum of the server.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String.
    pub reason_string: Option<Text>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Wildcard Subscription Available.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription Identifiers Available.
    pub subscription_identifiers_available: Option<bool>,
    /// Shared Subscription Available.
    pub shared_subscription_available: Option<bool>,
    /// Server Keep Alive, in seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Response Information.
    pub response_information: Option<Text>,
    /// Server Reference.
    pub server_reference: Option<Text>,
    /// Authentication Method.
    pub authentication_method: Option<Text>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Set on a retransmission.
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic name; empty only in MQTT 5 and only together with a topic alias.
    pub topic: TopicName,
    /// Present exactly when the QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// MQTT 5 properties.
    pub properties: PublishProperties,
    /// The application's bytes.
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The delivery it belongs to.
    pub packet_id: PacketId,
    /// Reason code; `Success` before MQTT 5.
    pub reason: ReasonCode,
    /// MQTT 5 properties.
    pub properties: ReasonProperties,
}

impl Ack {
    /// An acknowledgement with a reason and no properties.
    #[must_use]
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: ReasonProperties::EMPTY }
    }
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Answered by the SUBACK with the same identifier.
    pub packet_id: PacketId,
    /// Subscription Identifier, 1 to 268,435,455.
    pub subscription_identifier: Option<u32>,
    /// User properties.
    pub user_properties: UserProperties,
    /// At least one filter ([MQTT5-3.8.3-2]).
    pub filters: SmallVec<[SubscribeFilter; 1]>,
}

/// One topic filter of a SUBSCRIBE with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// The filter as the client wrote it, with `$share/…` if shared.
    pub filter: TopicFilter,
    /// Its options.
    pub options: SubscriptionOptions,
}

/// The options of one subscription. Before MQTT 5 only `qos` is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscriptionOptions {
    /// Maximum QoS at which messages are sent.
    pub qos: Qos,
    /// Do not send back what this client published itself.
    pub no_local: bool,
    /// Keep the RETAIN flag as the publisher set it.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// SUBACK or UNSUBACK: one reason per filter, in order ([MQTT5-3.9.3-1]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck {
    /// The packet identifier of the request.
    pub packet_id: PacketId,
    /// One per filter. An UNSUBACK before MQTT 5 has none on the wire.
    pub reasons: SmallVec<[ReasonCode; 4]>,
    /// MQTT 5 properties.
    pub properties: ReasonProperties,
}

/// UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Answered by the UNSUBACK with the same identifier.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties,
    /// At least one filter ([MQTT5-3.10.3-2]).
    pub filters: SmallVec<[TopicFilter; 1]>,
}

/// DISCONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Why; `Success` (normal disconnection) before MQTT 5.
    pub reason: ReasonCode,
    /// Session Expiry Interval, in seconds; a server never sends it ([MQTT5-3.14.2-2]).
    pub session_expiry_interval_s: Option<u32>,
    /// Reason String and user properties.
    pub properties: ReasonProperties,
    /// Server Reference.
    pub server_reference: Option<Text>,
}

impl Disconnect {
    /// A DISCONNECT with a reason and no properties.
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_interval_s: None,
            properties: ReasonProperties::EMPTY,
            server_reference: None,
        }
    }
}

/// AUTH.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method; required by [MQTT5-4.12.0-2] and its kin, checked by the receiver.
    pub method: Option<Text>,
    /// Authentication Data.
    pub data: Option<Bytes>,
    /// Reason String and user properties.
    pub properties: ReasonProperties,
}

/// Without what proves who the client is.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, method, data, properties } = self;
        f.debug_struct("Auth")
            .field("reason", reason)
            .field("method", method)
            .field("data", &Hidden(data))
            .field("properties", properties)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proves_who_a_client_is_is_never_shown() {
        let secret = || Some(Bytes::from_static(b"s3cret"));
        let connect = Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive_s: 60,
            client_id: Text::EMPTY,
            will: None,
            username: Some(Text::try_from("alice").unwrap()),
            password: secret(),
            properties: ConnectProperties {
                authentication_data: secret(),
                ..ConnectProperties::default()
            },
        };
        let auth = Auth {
            reason: ReasonCode::ContinueAuthentication,
            method: None,
            data: secret(),
            properties: ReasonProperties::EMPTY,
        };
        let shown = format!("{connect:?} {auth:?}");
        assert!(shown.contains("alice") && shown.contains("password: (6 bytes)"), "{shown}");
        // As text, and as a list of bytes.
        assert!(!shown.contains("s3cret") && !shown.contains("115, 51"), "{shown}");
    }
}
