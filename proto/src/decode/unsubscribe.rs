//! UNSUBSCRIBE (section 3.10).

use bytes::Bytes;
use smallvec::SmallVec;

use super::fields::{Parsed, packet_id, topic_filter};
use super::properties::PropertyReader;
use crate::property::PropertyId;
use crate::{DecodeError, Unsubscribe, UserProperties, Version};

/// [MQTT5-3.10.3-2], [MQTT311-3.10.3-2].
pub(super) fn unsubscribe<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, Unsubscribe> {
    let (rest, packet_id) = packet_id(input)?;
    let (mut rest, user_properties) = if version.is_v5() {
        unsubscribe_properties(frame, rest)?
    } else {
        (rest, UserProperties::default())
    };
    if rest.is_empty() {
        return Err(DecodeError::protocol("UNSUBSCRIBE without a filter [MQTT5-3.10.3-2]").into());
    }
    let mut filters = SmallVec::new();
    while !rest.is_empty() {
        let (after, filter) = topic_filter(frame, rest)?;
        filters.push(filter);
        rest = after;
    }
    Ok((rest, Unsubscribe { packet_id, user_properties, filters }))
}

fn unsubscribe_properties<'a>(frame: &'a Bytes, input: &'a [u8]) -> Parsed<'a, UserProperties> {
    let (rest, mut reader) = PropertyReader::open(frame, input)?;
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::UserProperty => reader.user_property()?,
            _ => return PropertyReader::misplaced(),
        }
    }
    Ok((rest, reader.user_properties()))
}
