//! PUBLISH (section 3.3).

use bytes::Bytes;

use super::fields::{Fault, Parsed, length_prefixed, packet_id, settle};
use super::fixed_header::{DUP, RETAIN, publish_qos};
use super::properties::PropertyReader;
use crate::property::PropertyId;
use crate::{
    DecodeError, Packet, PacketId, Publish, PublishProperties, Qos, Text, TopicName, Version,
};

/// *Spec*: topic name [MQTT5-3.3.2-1], [MQTT5-3.3.2-2], [MQTT311-3.3.2-1], [MQTT311-3.3.2-2].
///
/// *Cost*: no allocation, unless properties that are handed on stand apart from each other or there are
/// more than two subscription identifiers.
#[inline]
pub(super) fn publish(
    frame: &Bytes,
    length: usize,
    first: u8,
    body: &[u8],
    version: Version,
) -> Result<Packet, DecodeError> {
    let qos =
        publish_qos(first).ok_or(DecodeError::malformed("PUBLISH with QoS 3 [MQTT5-3.3.1-4]"))?;
    let (rest, name) = length_prefixed(body).map_err(settle)?;
    let (rest, packet_id) = identifier(rest, qos).map_err(settle)?;
    let mut properties = PublishProperties::default();
    // Whatever the properties leave is payload, so no byte can be left over.
    let payload = match rest {
        _ if !version.is_v5() => rest,
        [0, payload @ ..] => payload,
        _ => publish_properties(frame, rest, &mut properties).map_err(settle)?,
    };
    let topic = TopicName::in_frame(frame, name)?;
    check_alias(&topic, properties.topic_alias, version)?;
    Ok(Packet::Publish(Publish {
        dup: first & DUP != 0,
        qos,
        retain: first & RETAIN != 0,
        topic,
        packet_id,
        properties,
        payload: frame.slice(length.saturating_sub(payload.len())..length),
    }))
}

/// Present exactly at QoS 1 and 2 ([MQTT5-2.2.1-2], [MQTT311-2.3.1-5]).
fn identifier(input: &[u8], qos: Qos) -> Parsed<'_, Option<PacketId>> {
    if qos == Qos::AtMostOnce {
        return Ok((input, None));
    }
    let (rest, id) = packet_id(input)?;
    Ok((rest, Some(id)))
}

/// Only an alias may stand in for the name (section 3.3.2.1).
fn check_alias(name: &TopicName, alias: Option<u16>, version: Version) -> Result<(), DecodeError> {
    match alias {
        _ if !name.as_bytes().is_empty() => Ok(()),
        Some(_) => Ok(()),
        None if version.is_v5() => {
            Err(DecodeError::protocol("an empty topic name without a topic alias"))
        }
        None => TopicName::new(Text::EMPTY).map(drop),
    }
}

/// Fills in the properties, returns what follows them.
fn publish_properties<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    properties: &mut PublishProperties,
) -> Result<&'a [u8], Fault> {
    let (rest, mut reader) = PropertyReader::open(frame, input)?;
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::MessageExpiryInterval => {
                reader.four_bytes(&mut properties.message_expiry_interval_s)?;
            }
            PropertyId::TopicAlias => reader.two_bytes(&mut properties.topic_alias)?,
            PropertyId::SubscriptionIdentifier => {
                properties.subscription_identifiers.push(reader.subscription_identifier()?);
            }
            _ if reader.message_property(id)? => {}
            _ => return PropertyReader::misplaced(),
        }
    }
    properties.message = reader.message_properties();
    Ok(rest)
}
