//! CONNECT (section 3.1).

use bytes::Bytes;
use nom::Parser;
use nom::combinator::cond;
use nom::number::complete::{be_u16, u8 as byte};

use super::fields::{Parsed, binary, length_prefixed, text, topic_name};
use super::properties::{PropertyReader, check_authentication};
use crate::property::PropertyId;
use crate::{
    Connect, ConnectProperties, DecodeError, PublishProperties, Qos, ReasonCode, Version, Will,
};

/// The connect flags byte (section 3.1.2.3).
#[derive(Clone, Copy)]
struct Flags {
    username: bool,
    password: bool,
    will: Option<WillFlags>,
    clean_start: bool,
}

#[derive(Clone, Copy)]
struct WillFlags {
    qos: Qos,
    retain: bool,
}

/// The payload holds what the flags announce, in the order of the specification, and nothing else.
///
/// *Spec*: client identifier [MQTT5-3.1.3-3], [MQTT5-3.1.3-4], [MQTT311-3.1.3-3],
/// [MQTT311-3.1.3-4], of any length [MQTT5-3.1.3-5], [MQTT5-3.1.3-6]; will [MQTT5-3.1.2-9],
/// [MQTT311-3.1.2-9]; user name [MQTT5-3.1.2-16], [MQTT5-3.1.2-17], [MQTT5-3.1.3-12],
/// [MQTT311-3.1.2-18], [MQTT311-3.1.2-19], [MQTT311-3.1.3-11]; password [MQTT5-3.1.2-18],
/// [MQTT5-3.1.2-19], [MQTT311-3.1.2-20], [MQTT311-3.1.2-21]; order [MQTT5-3.1.3-1].
pub(super) fn connect<'a>(frame: &'a Bytes, input: &'a [u8]) -> Parsed<'a, Connect> {
    let (rest, version) = protocol(input)?;
    let (rest, (flags, keep_alive_s)) = (byte, be_u16).parse(rest)?;
    let flags = Flags::check(flags, version)?;
    let (rest, properties) = if version.is_v5() {
        connect_properties(frame, rest)?
    } else {
        (rest, ConnectProperties::default())
    };
    let (rest, client_id) = text(frame, rest)?;
    let (rest, will) =
        cond(flags.will.is_some(), |input| will(frame, input, version)).parse(rest)?;
    let will =
        flags.will.zip(will).map(|(WillFlags { qos, retain }, will)| Will { qos, retain, ..will });
    // MQTT 3.1 section 3.1: where the packet ends, the flags of what would follow do not count.
    let follows = |flag: bool, rest: &[u8]| flag && !(version == Version::V3_1 && rest.is_empty());
    let (rest, username) = cond(follows(flags.username, rest), |i| text(frame, i)).parse(rest)?;
    let (rest, password) = cond(follows(flags.password, rest), |i| binary(frame, i)).parse(rest)?;
    let connect = Connect {
        version,
        clean_start: flags.clean_start,
        keep_alive_s,
        client_id,
        will: will.map(Box::new),
        username,
        password,
        properties,
    };
    Ok((rest, connect))
}

/// Protocol name and level ([MQTT5-3.1.2-1], [MQTT5-3.1.2-2], [MQTT311-3.1.2-1],
/// [MQTT311-3.1.2-2]).
fn protocol(input: &[u8]) -> Parsed<'_, Version> {
    let (rest, (name, level)) = (length_prefixed, byte).parse(input)?;
    let version = match (name, level) {
        (b"MQIsdp", 3) => Version::V3_1,
        (b"MQTT", 4) => Version::V3_1_1,
        (b"MQTT", 5) => Version::V5,
        _ => {
            return Err(DecodeError {
                reason: ReasonCode::UnsupportedProtocolVersion,
                what: "the protocol name or level is unknown [MQTT5-3.1.2-1] [MQTT5-3.1.2-2]",
            }
            .into());
        }
    };
    Ok((rest, version))
}

/// The level byte of a packet that looks like a CONNECT, whatever else is wrong with it.
pub(super) fn level(body: &[u8]) -> Option<u8> {
    let (_, (_, level)) = (length_prefixed, byte).parse(body).ok()?;
    Some(level)
}

impl Flags {
    /// [MQTT5-3.1.2-3], [MQTT311-3.1.2-3], [MQTT311-3.1.2-22].
    fn check(flags: u8, version: Version) -> Result<Self, DecodeError> {
        let bit = |at: u32| flags & 1u8.wrapping_shl(at) != 0;
        // MQTT 3.1 calls the bit unused rather than reserved.
        if bit(0) && version != Version::V3_1 {
            return Err(DecodeError::malformed("the reserved connect flag is set [MQTT5-3.1.2-3]"));
        }
        if bit(6) && !bit(7) && !version.is_v5() {
            return Err(DecodeError::malformed(
                "a password without a user name [MQTT311-3.1.2-22]",
            ));
        }
        Ok(Self {
            username: bit(7),
            password: bit(6),
            will: Self::will(flags, version)?,
            clean_start: bit(1),
        })
    }

    /// [MQTT5-3.1.2-11], [MQTT5-3.1.2-12], [MQTT5-3.1.2-13], [MQTT311-3.1.2-11],
    /// [MQTT311-3.1.2-14], [MQTT311-3.1.2-15].
    fn will(flags: u8, version: Version) -> Result<Option<WillFlags>, DecodeError> {
        let retain = flags & 0x20 != 0;
        let qos = (flags >> 3) & 3;
        if flags & 0x04 == 0 {
            // MQTT 3.1 ignores both where there is no will.
            return match version {
                Version::V3_1 => Ok(None),
                _ if qos != 0 => {
                    Err(DecodeError::malformed("a Will QoS without a will [MQTT5-3.1.2-11]"))
                }
                _ if retain => {
                    Err(DecodeError::malformed("Will Retain without a will [MQTT5-3.1.2-13]"))
                }
                _ => Ok(None),
            };
        }
        let qos = Qos::from_u8(qos).ok_or(DecodeError::malformed("Will QoS 3 [MQTT5-3.1.2-12]"))?;
        Ok(Some(WillFlags { qos, retain }))
    }
}

fn connect_properties<'a>(frame: &'a Bytes, input: &'a [u8]) -> Parsed<'a, ConnectProperties> {
    let (rest, mut reader) = PropertyReader::open(frame, input)?;
    let mut p = ConnectProperties::default();
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::SessionExpiryInterval => {
                reader.four_bytes(&mut p.session_expiry_interval_s)?
            }
            PropertyId::ReceiveMaximum => reader.two_bytes_not_zero(&mut p.receive_maximum)?,
            PropertyId::MaximumPacketSize => {
                reader.four_bytes_not_zero(&mut p.maximum_packet_size)?
            }
            PropertyId::TopicAliasMaximum => reader.two_bytes(&mut p.topic_alias_maximum)?,
            PropertyId::RequestResponseInformation => {
                reader.boolean(&mut p.request_response_information)?;
            }
            PropertyId::RequestProblemInformation => {
                reader.boolean(&mut p.request_problem_information)?;
            }
            PropertyId::UserProperty => reader.user_property()?,
            PropertyId::AuthenticationMethod => reader.text(&mut p.authentication_method)?,
            PropertyId::AuthenticationData => reader.binary(&mut p.authentication_data)?,
            _ => return PropertyReader::misplaced(),
        }
    }
    check_authentication(p.authentication_method.as_ref(), p.authentication_data.as_ref())?;
    p.user_properties = reader.user_properties();
    Ok((rest, p))
}

/// The will's properties, topic and payload; QoS and RETAIN come from the flags.
fn will<'a>(frame: &'a Bytes, input: &'a [u8], version: Version) -> Parsed<'a, Will> {
    let (rest, (delay_interval_s, properties)) = if version.is_v5() {
        will_properties(frame, input)?
    } else {
        (input, (None, PublishProperties::default()))
    };
    let (rest, topic) = topic_name(frame, rest)?;
    let (rest, payload) = binary(frame, rest)?;
    let (qos, retain) = (Qos::AtMostOnce, false);
    Ok((rest, Will { topic, payload, qos, retain, delay_interval_s, properties }))
}

fn will_properties<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
) -> Parsed<'a, (Option<u32>, PublishProperties)> {
    let (rest, mut reader) = PropertyReader::open(frame, input)?;
    let mut delay_interval_s = None;
    let mut properties = PublishProperties::default();
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::WillDelayInterval => reader.four_bytes(&mut delay_interval_s)?,
            PropertyId::MessageExpiryInterval => {
                reader.four_bytes(&mut properties.message_expiry_interval_s)?;
            }
            _ if reader.message_property(id)? => {}
            _ => return PropertyReader::misplaced(),
        }
    }
    properties.message = reader.message_properties();
    Ok((rest, (delay_interval_s, properties)))
}
