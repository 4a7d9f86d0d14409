//! AUTH (section 3.15).

use bytes::Bytes;

use super::fields::{Parsed, reason};
use super::properties::{PropertyReader, check_authentication};
use crate::property::PropertyId;
use crate::{Auth, ReasonCode, ReasonProperties};

/// An empty body stands for Success without properties.
pub(super) fn auth<'a>(frame: &'a Bytes, input: &'a [u8]) -> Parsed<'a, Auth> {
    let mut auth = Auth {
        reason: ReasonCode::Success,
        method: None,
        data: None,
        properties: ReasonProperties::EMPTY,
    };
    let Some((&code, rest)) = input.split_first() else {
        return Ok((input, auth));
    };
    auth.reason = reason(code, is_auth_reason)?;
    let (rest, mut reader) = PropertyReader::open(frame, rest)?;
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::AuthenticationMethod => reader.text(&mut auth.method)?,
            PropertyId::AuthenticationData => reader.binary(&mut auth.data)?,
            PropertyId::ReasonString => reader.text(&mut auth.properties.reason_string)?,
            PropertyId::UserProperty => reader.user_property()?,
            _ => return PropertyReader::misplaced(),
        }
    }
    check_authentication(auth.method.as_ref(), auth.data.as_ref())?;
    auth.properties.user_properties = reader.user_properties();
    Ok((rest, auth))
}

/// [MQTT5-3.15.2-1].
const fn is_auth_reason(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(reason, R::Success | R::ContinueAuthentication | R::ReAuthenticate)
}
