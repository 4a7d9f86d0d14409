//! SUBSCRIBE (section 3.8).

use bytes::Bytes;
use nom::number::complete::u8 as byte;
use smallvec::SmallVec;

use super::fields::{Parsed, packet_id, topic_filter};
use super::properties::PropertyReader;
use crate::property::PropertyId;
use crate::{
    DecodeError, Qos, RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions,
    UserProperties, Version,
};

/// [MQTT5-3.8.3-2], [MQTT311-3.8.3-3].
pub(super) fn subscribe<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, Subscribe> {
    let (rest, packet_id) = packet_id(input)?;
    let (mut rest, (subscription_identifier, user_properties)) = if version.is_v5() {
        subscribe_properties(frame, rest)?
    } else {
        (rest, (None, UserProperties::default()))
    };
    if rest.is_empty() {
        return Err(DecodeError::protocol("SUBSCRIBE without a filter [MQTT5-3.8.3-2]").into());
    }
    let mut filters = SmallVec::new();
    while !rest.is_empty() {
        let (after, filter) = subscribe_filter(frame, rest, version)?;
        filters.push(filter);
        rest = after;
    }
    Ok((rest, Subscribe { packet_id, subscription_identifier, user_properties, filters }))
}

fn subscribe_filter<'a>(
    frame: &Bytes,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, SubscribeFilter> {
    let (rest, filter) = topic_filter(frame, input)?;
    let (rest, bits) = byte(rest)?;
    let options = if version.is_v5() { options(bits)? } else { options_v3(bits)? };
    if options.no_local && filter.is_shared() {
        return Err(
            DecodeError::protocol("No Local on a shared subscription [MQTT5-3.8.3-4]").into()
        );
    }
    Ok((rest, SubscribeFilter { filter, options }))
}

/// The subscription options byte (section 3.8.3.1).
fn options(bits: u8) -> Result<SubscriptionOptions, DecodeError> {
    if bits & 0xc0 != 0 {
        return Err(DecodeError::malformed("reserved subscription options [MQTT5-3.8.3-5]"));
    }
    let retain_handling = match (bits >> 4) & 3 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(DecodeError::protocol("Retain Handling 3")),
    };
    Ok(SubscriptionOptions {
        qos: Qos::from_u8(bits & 3).ok_or(DecodeError::protocol("a Maximum QoS of 3"))?,
        no_local: bits & 0x04 != 0,
        retain_as_published: bits & 0x08 != 0,
        retain_handling,
    })
}

/// The requested QoS before MQTT 5.
fn options_v3(bits: u8) -> Result<SubscriptionOptions, DecodeError> {
    match Qos::from_u8(bits) {
        Some(qos) => Ok(SubscriptionOptions { qos, ..SubscriptionOptions::default() }),
        None => Err(DecodeError::malformed("the requested QoS is not 0 to 2 [MQTT311-3.8.3-4]")),
    }
}

fn subscribe_properties<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
) -> Parsed<'a, (Option<u32>, UserProperties)> {
    let (rest, mut reader) = PropertyReader::open(frame, input)?;
    let mut identifier = None;
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::SubscriptionIdentifier if identifier.is_some() => {
                return Err(DecodeError::protocol("two Subscription Identifiers").into());
            }
            PropertyId::SubscriptionIdentifier => {
                identifier = Some(reader.subscription_identifier()?);
            }
            PropertyId::UserProperty => reader.user_property()?,
            _ => return PropertyReader::misplaced(),
        }
    }
    Ok((rest, (identifier, reader.user_properties())))
}
