//! PUBLISH (section 3.3).

use bytes::Bytes;

use super::fields::{Parsed, packet_id, text};
use super::fixed_header::{DUP, RETAIN, publish_qos};
use super::properties::PropertyReader;
use crate::property::PropertyId;
use crate::{DecodeError, PacketId, Publish, PublishProperties, Qos, Text, TopicName, Version};

/// Cost: no allocation, unless user properties stand apart from each other.
pub(super) fn publish<'a>(
    frame: &'a Bytes,
    first: u8,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, Publish> {
    let qos =
        publish_qos(first).ok_or(DecodeError::malformed("PUBLISH with QoS 3 [MQTT5-3.3.1-4]"))?;
    let (rest, name) = text(frame, input)?;
    let (rest, packet_id) = identifier(rest, qos)?;
    let (payload, properties) = if version.is_v5() {
        publish_properties(frame, rest)?
    } else {
        (rest, PublishProperties::default())
    };
    let publish = Publish {
        dup: first & DUP != 0,
        qos,
        retain: first & RETAIN != 0,
        topic: topic(name, properties.topic_alias, version)?,
        packet_id,
        properties,
        payload: frame.slice_ref(payload),
    };
    Ok((&[], publish))
}

/// Present exactly at QoS 1 and 2 ([MQTT5-2.2.1-2]).
fn identifier(input: &[u8], qos: Qos) -> Parsed<'_, Option<PacketId>> {
    if qos == Qos::AtMostOnce {
        return Ok((input, None));
    }
    let (rest, id) = packet_id(input)?;
    Ok((rest, Some(id)))
}

/// Only an alias may stand in for the name (section 3.3.2.1).
fn topic(name: Text, alias: Option<u16>, version: Version) -> Result<TopicName, DecodeError> {
    match alias {
        Some(_) if name.is_empty() => Ok(TopicName::EMPTY),
        None if name.is_empty() && version.is_v5() => {
            Err(DecodeError::protocol("an empty topic name without a topic alias"))
        }
        _ => TopicName::new(name),
    }
}

fn publish_properties<'a>(frame: &'a Bytes, input: &'a [u8]) -> Parsed<'a, PublishProperties> {
    let (rest, mut reader) = PropertyReader::open(frame, input)?;
    let mut properties = PublishProperties::default();
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::TopicAlias => reader.two_bytes(&mut properties.topic_alias)?,
            PropertyId::SubscriptionIdentifier => {
                properties.subscription_identifiers.push(reader.subscription_identifier()?);
            }
            _ if reader.message_property(id, &mut properties)? => {}
            _ => return PropertyReader::misplaced(),
        }
    }
    properties.user_properties = reader.user_properties();
    Ok((rest, properties))
}
