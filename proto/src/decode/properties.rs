//! The property blocks of MQTT 5 (section 2.2.2).
//!
//! A packet's parser asks for one identifier after the other and says where the value belongs;
//! repetition, range and length are checked here.

use bytes::Bytes;
use nom::bytes::complete::take;
use nom::number::complete::{be_u16, be_u32, u8 as byte};

use super::fields::{Fault, Parsed, binary, length_prefixed, text, variable_integer};
use crate::property::{PropertyId, pieces};
use crate::text::{check_text, has_wildcard};
use crate::{
    DecodeError, MessageFields, MessageProperties, PayloadFormat, ReasonProperties, Text,
    UserProperties,
};

/// A walk over one property block.
pub(super) struct PropertyReader<'a> {
    frame: &'a Bytes,
    /// From the identifier byte of the current property to the end of the block.
    current: &'a [u8],
    /// What has not been read yet.
    rest: &'a [u8],
    kept: Kept<'a>,
    /// The properties of a message that have been seen and may not stand twice, one bit each.
    seen: u8,
}

/// The properties that are kept as they stand.
enum Kept<'a> {
    None,
    /// The block from the first of them on, up to where behind it the last ends, and how many bytes of
    /// that are theirs.
    Run {
        start: &'a [u8],
        end: usize,
        bytes: usize,
    },
}

impl<'a> PropertyReader<'a> {
    /// Reads the property length, which is there even if it is zero ([MQTT5-2.2.2-1]), and sets the
    /// block apart from what follows it.
    pub(super) fn open(frame: &'a Bytes, input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, length) = variable_integer(input)?;
        let (rest, block) = take(length)(rest)?;
        Ok((rest, Self { frame, current: block, rest: block, kept: Kept::None, seen: 0 }))
    }

    /// The identifier of the next property; `None` at the end of the block.
    pub(super) fn next(&mut self) -> Result<Option<PropertyId>, Fault> {
        self.current = self.rest;
        let Some((&id, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        match PropertyId::from_u8(id) {
            Some(id) => Ok(Some(id)),
            None => Err(DecodeError::malformed("a property identifier is not defined").into()),
        }
    }

    /// The refusal of a property that this packet does not have.
    pub(super) fn misplaced<T>() -> Result<T, Fault> {
        Err(DecodeError::malformed("a property does not belong into this packet").into())
    }

    /// A byte that says no or yes.
    pub(super) fn boolean(&mut self, slot: &mut Option<bool>) -> Result<(), Fault> {
        self.one_of(slot, [false, true])
    }

    /// A byte that is 0 or 1, and what each of them means.
    pub(super) fn one_of<T>(
        &mut self,
        slot: &mut Option<T>,
        [zero, one]: [T; 2],
    ) -> Result<(), Fault> {
        let (rest, value) = byte(self.rest)?;
        self.rest = rest;
        match value {
            0 => once(slot, zero),
            1 => once(slot, one),
            _ => Err(DecodeError::protocol("a property that is 0 or 1 has another value").into()),
        }
    }

    pub(super) fn two_bytes(&mut self, slot: &mut Option<u16>) -> Result<(), Fault> {
        let (rest, value) = be_u16(self.rest)?;
        self.rest = rest;
        once(slot, value)
    }

    /// A two byte integer that may not be zero.
    pub(super) fn two_bytes_not_zero(&mut self, slot: &mut Option<u16>) -> Result<(), Fault> {
        self.two_bytes(slot)?;
        if *slot == Some(0) {
            return Err(DecodeError::protocol("a Receive Maximum of 0").into());
        }
        Ok(())
    }

    pub(super) fn four_bytes(&mut self, slot: &mut Option<u32>) -> Result<(), Fault> {
        let (rest, value) = be_u32(self.rest)?;
        self.rest = rest;
        once(slot, value)
    }

    /// A four byte integer that may not be zero.
    pub(super) fn four_bytes_not_zero(&mut self, slot: &mut Option<u32>) -> Result<(), Fault> {
        self.four_bytes(slot)?;
        if *slot == Some(0) {
            return Err(DecodeError::protocol("a Maximum Packet Size of 0").into());
        }
        Ok(())
    }

    pub(super) fn text(&mut self, slot: &mut Option<Text>) -> Result<(), Fault> {
        let (rest, value) = text(self.frame, self.rest)?;
        self.rest = rest;
        once(slot, value)
    }

    pub(super) fn binary(&mut self, slot: &mut Option<Bytes>) -> Result<(), Fault> {
        let (rest, value) = binary(self.frame, self.rest)?;
        self.rest = rest;
        once(slot, value)
    }

    /// A Subscription Identifier, 1 to 268,435,455.
    pub(super) fn subscription_identifier(&mut self) -> Result<u32, Fault> {
        let (rest, value) = variable_integer(self.rest)?;
        self.rest = rest;
        if value == 0 {
            return Err(DecodeError::protocol("a Subscription Identifier of 0").into());
        }
        Ok(value)
    }

    /// One pair of strings, both checked ([MQTT5-1.5.7-1]).
    pub(super) fn user_property(&mut self) -> Result<(), Fault> {
        let (rest, name) = length_prefixed(self.rest)?;
        let (rest, value) = length_prefixed(rest)?;
        self.rest = rest;
        check_pair(name)?;
        check_pair(value)?;
        self.keep();
        Ok(())
    }

    /// Keeps the current property, which has been read, as it stands.
    fn keep(&mut self) {
        let length = self.current.len().saturating_sub(self.rest.len());
        match &mut self.kept {
            Kept::None => self.kept = Kept::Run { start: self.current, end: length, bytes: length },
            Kept::Run { start, end, bytes } => {
                *end = start.len().saturating_sub(self.rest.len());
                *bytes = bytes.saturating_add(length);
            }
        }
    }

    /// The user properties in their order ([MQTT5-3.3.2-18]), of a packet that keeps nothing else: a
    /// slice of the frame if they were neighbours, else a copy.
    pub(super) fn user_properties(self) -> UserProperties {
        UserProperties::among(&self.message_properties().block)
    }

    /// The properties of a message that are handed on as they are, in their order ([MQTT5-3.3.2-18]): a
    /// slice of the frame.
    pub(super) fn message_properties(self) -> MessageProperties {
        match self.kept {
            Kept::None => MessageProperties::EMPTY,
            Kept::Run { start, end, bytes } => {
                let block = self.frame.slice_ref(start.get(..end).unwrap_or_default());
                MessageProperties { block, bytes }
            }
        }
    }

    /// Checks a property that PUBLISH and a will share and keeps it; false if `id` is none of them
    /// ([MQTT5-3.3.2-13], [MQTT5-3.3.2-14], [MQTT5-3.3.2-19]).
    pub(super) fn message_property(&mut self, id: PropertyId) -> Result<bool, Fault> {
        let bit = match id {
            PropertyId::UserProperty => {
                self.user_property()?;
                return Ok(true);
            }
            PropertyId::PayloadFormatIndicator => {
                self.one_of(&mut None, [PayloadFormat::Bytes, PayloadFormat::Utf8])?;
                1
            }
            PropertyId::ContentType => {
                check_text(self.prefixed()?)?;
                2
            }
            PropertyId::ResponseTopic => {
                let topic = self.prefixed()?;
                check_text(topic)?;
                check_response_topic(topic)?;
                4
            }
            PropertyId::CorrelationData => {
                self.prefixed()?;
                8
            }
            _ => return Ok(false),
        };
        if self.seen & bit != 0 {
            return Err(twice().into());
        }
        self.seen |= bit;
        self.keep();
        Ok(true)
    }

    fn prefixed(&mut self) -> Result<&'a [u8], Fault> {
        let (rest, bytes) = length_prefixed(self.rest)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// Takes apart what [`PropertyReader::message_properties`] has kept.
pub(super) fn message_fields(block: &Bytes) -> MessageFields {
    let mut fields = MessageFields::default();
    for (id, piece) in pieces(block) {
        let value = || piece.get(3..).map(|value| block.slice_ref(value));
        let text = || value().and_then(|value| Text::new(value).ok());
        match id {
            PropertyId::PayloadFormatIndicator => {
                let is_text = piece.get(1) == Some(&1);
                let format = if is_text { PayloadFormat::Utf8 } else { PayloadFormat::Bytes };
                fields.payload_format = Some(format);
            }
            PropertyId::ContentType => fields.content_type = text(),
            PropertyId::ResponseTopic => fields.response_topic = text(),
            PropertyId::CorrelationData => fields.correlation_data = value(),
            _ => {}
        }
    }
    fields.user_properties = UserProperties::among(block);
    fields
}

/// Reads the block of a packet that has a Reason String and user properties only.
pub(super) fn reason_properties<'a>(
    frame: &'a Bytes,
    input: &'a [u8],
) -> Parsed<'a, ReasonProperties> {
    let (rest, mut reader) = PropertyReader::open(frame, input)?;
    let mut properties = ReasonProperties::EMPTY;
    while let Some(id) = reader.next()? {
        match id {
            PropertyId::ReasonString => reader.text(&mut properties.reason_string)?,
            PropertyId::UserProperty => reader.user_property()?,
            _ => return PropertyReader::misplaced(),
        }
    }
    properties.user_properties = reader.user_properties();
    Ok((rest, properties))
}

/// Authentication Data means nothing without a method.
pub(super) fn check_authentication(
    method: Option<&Text>,
    data: Option<&Bytes>,
) -> Result<(), DecodeError> {
    if data.is_some() && method.is_none() {
        return Err(DecodeError::protocol("Authentication Data without Authentication Method"));
    }
    Ok(())
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Fault> {
    if slot.is_some() {
        return Err(twice().into());
    }
    *slot = Some(value);
    Ok(())
}

fn twice() -> DecodeError {
    DecodeError::protocol("a property stands twice")
}

/// [MQTT5-1.5.7-1]
fn check_pair(bytes: &[u8]) -> Result<(), DecodeError> {
    check_text(bytes).map_err(|error| DecodeError {
        what: "a user property holds U+0000 or is not UTF-8 [MQTT5-1.5.7-1]",
        ..error
    })
}

fn check_response_topic(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::protocol("the Response Topic is empty [MQTT5-4.7.3-1]"));
    }
    if has_wildcard(bytes) {
        return Err(DecodeError::protocol("the Response Topic holds a wildcard [MQTT5-3.3.2-14]"));
    }
    Ok(())
}
