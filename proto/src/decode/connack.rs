//! CONNACK (section 3.2).

use bytes::Bytes;
use nom::Parser;
use nom::number::complete::u8 as byte;

use super::fields::{Fault, Parsed, reason};
use super::properties::{PropertyReader, check_authentication};
use crate::property::PropertyId;
use crate::{ConnAck, ConnAckProperties, DecodeError, Qos, ReasonCode, Version};

/// [MQTT5-3.2.2-1], [MQTT5-3.2.2-6], [MQTT311-3.2.2-4].
pub(super) fn connack<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, ConnAck> {
    let (rest, (flags, code)) = (byte, byte).parse(input)?;
    // MQTT 3.1 calls the whole byte unused.
    if flags > 1 && version != Version::V3_1 {
        return Err(DecodeError::malformed("reserved acknowledge flags [MQTT5-3.2.2-1]").into());
    }
    let session_present = flags == 1 && version != Version::V3_1;
    let (rest, reason, properties) = if version.is_v5() {
        let reason = reason(code, ReasonCode::is_of_connack)?;
        let (rest, properties) = connack_properties(frame, rest)?;
        (rest, reason, properties)
    } else {
        let reason = ReasonCode::from_connack_v3(code)
            .ok_or(DecodeError::malformed("the return code of CONNACK is not defined"))?;
        (rest, reason, ConnAckProperties::default())
    };
    if session_present && reason != ReasonCode::Success {
        return Err(DecodeError::protocol("Session Present in a refusal [MQTT5-3.2.2-6]").into());
    }
    Ok((rest, ConnAck { session_present, reason, properties }))
}

fn connack_properties<'a>(frame: &'a Bytes, input: &'a [u8]) -> Parsed<'a, ConnAckProperties> {
    let (rest, mut reader) = PropertyReader::open(frame, input)?;
    let mut p = ConnAckProperties::default();
    while let Some(id) = reader.next()? {
        connack_property(&mut reader, id, &mut p)?;
    }
    check_authentication(p.authentication_method.as_ref(), p.authentication_data.as_ref())?;
    p.user_properties = reader.user_properties();
    Ok((rest, p))
}

fn connack_property(
    reader: &mut PropertyReader<'_>,
    id: PropertyId,
    p: &mut ConnAckProperties,
) -> Result<(), Fault> {
    match id {
        PropertyId::SessionExpiryInterval => reader.four_bytes(&mut p.session_expiry_interval_s),
        PropertyId::ReceiveMaximum => reader.two_bytes_not_zero(&mut p.receive_maximum),
        // A server without the limit leaves it out, so there is no 2.
        PropertyId::MaximumQos => {
            reader.one_of(&mut p.maximum_qos, [Qos::AtMostOnce, Qos::AtLeastOnce])
        }
        PropertyId::RetainAvailable => reader.boolean(&mut p.retain_available),
        PropertyId::MaximumPacketSize => reader.four_bytes_not_zero(&mut p.maximum_packet_size),
        PropertyId::AssignedClientIdentifier => reader.text(&mut p.assigned_client_id),
        PropertyId::TopicAliasMaximum => reader.two_bytes(&mut p.topic_alias_maximum),
        PropertyId::ReasonString => reader.text(&mut p.reason_string),
        PropertyId::UserProperty => reader.user_property(),
        PropertyId::WildcardSubscriptionAvailable => {
            reader.boolean(&mut p.wildcard_subscription_available)
        }
        PropertyId::SubscriptionIdentifierAvailable => {
            reader.boolean(&mut p.subscription_identifiers_available)
        }
        PropertyId::SharedSubscriptionAvailable => {
            reader.boolean(&mut p.shared_subscription_available)
        }
        PropertyId::ServerKeepAlive => reader.two_bytes(&mut p.server_keep_alive_s),
        PropertyId::ResponseInformation => reader.text(&mut p.response_information),
        PropertyId::ServerReference => reader.text(&mut p.server_reference),
        PropertyId::AuthenticationMethod => reader.text(&mut p.authentication_method),
        PropertyId::AuthenticationData => reader.binary(&mut p.authentication_data),
        _ => PropertyReader::misplaced(),
    }
}
