//! The types that fields are made of (section 1.5), as parsers over the bytes of one frame.
//!
//! Every parser that keeps bytes gets the frame beside its input and returns a slice that shares
//! the frame's memory.

use bytes::Bytes;
use nom::IResult;
use nom::bytes::complete::take;
use nom::error::{ErrorKind, ParseError};
use nom::number::complete::be_u16;

use crate::varint::{self, Varint};
use crate::{DecodeError, PacketId, ReasonCode, Text, TopicFilter, TopicName};

/// The rest of the input and a value, or what was wrong.
pub(super) type Parsed<'a, T> = IResult<&'a [u8], T, DecodeError>;

/// What a parser fails with.
pub(super) type Fault = nom::Err<DecodeError>;

impl ParseError<&[u8]> for DecodeError {
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Self {
        Self::malformed("the packet ends inside a field")
    }

    fn append(_: &[u8], _: ErrorKind, first: Self) -> Self {
        first
    }
}

impl From<DecodeError> for nom::Err<DecodeError> {
    fn from(error: DecodeError) -> Self {
        Self::Failure(error)
    }
}

/// Takes the reason out of nom's wrapping.
pub(super) fn settle(fault: Fault) -> DecodeError {
    match fault {
        nom::Err::Error(error) | nom::Err::Failure(error) => error,
        nom::Err::Incomplete(_) => DecodeError::malformed("the packet ends inside a field"),
    }
}

/// Two bytes of length, then that many bytes (section 1.5.6).
pub(super) fn length_prefixed(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, length) = be_u16(input)?;
    take(length)(rest)
}

/// Binary data.
pub(super) fn binary<'a>(frame: &Bytes, input: &'a [u8]) -> Parsed<'a, Bytes> {
    let (rest, bytes) = length_prefixed(input)?;
    Ok((rest, frame.slice_ref(bytes)))
}

/// A UTF-8 string ([MQTT5-1.5.4-1], [MQTT5-1.5.4-2], [MQTT311-1.5.3-1], [MQTT311-1.5.3-2]).
pub(super) fn text<'a>(frame: &Bytes, input: &'a [u8]) -> Parsed<'a, Text> {
    let (rest, bytes) = binary(frame, input)?;
    Ok((rest, Text::new(bytes)?))
}

/// A topic name of at least one byte ([MQTT5-3.3.2-1], [MQTT311-3.3.2-1], [MQTT5-3.1.3-11]).
pub(super) fn topic_name<'a>(frame: &Bytes, input: &'a [u8]) -> Parsed<'a, TopicName> {
    let (rest, text) = text(frame, input)?;
    Ok((rest, TopicName::new(text)?))
}

/// A topic filter, shared or not ([MQTT5-3.8.3-1], [MQTT311-3.8.3-1], [MQTT5-3.10.3-1],
/// [MQTT311-3.10.3-1]).
pub(super) fn topic_filter<'a>(frame: &Bytes, input: &'a [u8]) -> Parsed<'a, TopicFilter> {
    let (rest, text) = text(frame, input)?;
    Ok((rest, TopicFilter::new(text)?))
}

/// A packet identifier, which is never zero ([MQTT5-2.2.1-3], [MQTT311-2.3.1-1]).
pub(super) fn packet_id(input: &[u8]) -> Parsed<'_, PacketId> {
    let (rest, value) = be_u16(input)?;
    let id = PacketId::new(value)
        .ok_or(DecodeError::protocol("the packet identifier is 0 [MQTT5-2.2.1-3]"))?;
    Ok((rest, id))
}

/// A variable byte integer ([MQTT5-1.5.5-1]).
pub(super) fn variable_integer(input: &[u8]) -> Parsed<'_, u32> {
    match varint::get(input) {
        Varint::Value(value, length) => {
            let (rest, _) = take(length)(input)?;
            Ok((rest, value))
        }
        Varint::Incomplete | Varint::Malformed => Err(DecodeError::malformed(
            "a variable byte integer is cut short or malformed [MQTT5-1.5.5-1]",
        )
        .into()),
    }
}

/// A reason code that `allowed` lets this packet carry.
///
/// # Errors
/// Malformed for a code that MQTT 5 does not define, a protocol error for one that belongs to
/// another packet.
pub(super) fn reason(
    value: u8,
    allowed: fn(ReasonCode) -> bool,
) -> Result<ReasonCode, DecodeError> {
    match ReasonCode::from_u8(value) {
        Some(reason) if allowed(reason) => Ok(reason),
        Some(_) => Err(DecodeError::protocol("the reason code belongs to another packet")),
        None => Err(DecodeError::malformed("the reason code is not defined")),
    }
}
