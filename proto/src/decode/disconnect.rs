//! DISCONNECT (section 3.14).

use bytes::Bytes;

use super::fields::{Parsed, reason};
use super::properties::PropertyReader;
use crate::property::PropertyId;
use crate::{Disconnect, ReasonCode, Version};

/// MQTT 5 may leave out the properties, or reason and properties.
pub(super) fn disconnect<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
    version: Version,
) -> Parsed<'a, Disconnect> {
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    if !version.is_v5() {
        return Ok((input, disconnect));
    }
    let Some((&code, rest)) = input.split_first() else {
        return Ok((input, disconnect));
    };
    disconnect.reason = reason(code, ReasonCode::is_of_disconnect)?;
    if rest.is_empty() {
        return Ok((rest, disconnect));
    }
    let (rest, mut reader) = PropertyReader::open(frame, rest)?;
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::SessionExpiryInterval => {
                reader.four_bytes(&mut disconnect.session_expiry_interval_s)?;
            }
            PropertyId::ReasonString => reader.text(&mut disconnect.properties.reason_string)?,
            PropertyId::UserProperty => reader.user_property()?,
            PropertyId::ServerReference => reader.text(&mut disconnect.server_reference)?,
            _ => return PropertyReader::misplaced(),
        }
    }
    disconnect.properties.user_properties = reader.user_properties();
    Ok((rest, disconnect))
}
