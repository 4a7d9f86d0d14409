//! The property blocks of MQTT 5 (section 2.2.2).
//!
//! A packet's parser asks for one identifier after the other and says where the value belongs;
//! repetition, range and length are checked here.

use bytes::{BufMut, Bytes, BytesMut};
use nom::bytes::complete::take;
use nom::number::complete::{be_u16, be_u32, u8 as byte};

use super::fields::{Fault, Parsed, binary, length_prefixed, text, variable_integer};
use crate::property::PropertyId;
use crate::{
    DecodeError, PayloadFormat, PublishProperties, ReasonProperties, Text, UserProperties,
};

/// A walk over one property block.
pub(super) struct PropertyReader<'a> {
    frame: &'a Bytes,
    /// From the identifier byte of the current property to the end of the block.
    current: &'a [u8],
    /// What has not been read yet.
    rest: &'a [u8],
    pairs: Pairs<'a>,
}

/// The user properties seen so far.
enum Pairs<'a> {
    None,
    /// One run of neighbours: the block from the first of them on, and how long the run is.
    Run(&'a [u8], usize),
    /// Other properties stood between them.
    Scattered(BytesMut),
}

impl<'a> PropertyReader<'a> {
    /// Reads the property length, which is there even if it is zero ([MQTT5-2.2.2-1]), and sets the
    /// block apart from what follows it.
    pub(super) fn open(frame: &'a Bytes, input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, length) = variable_integer(input)?;
        let (rest, block) = take(length)(rest)?;
        Ok((rest, Self { frame, current: block, rest: block, pairs: Pairs::None }))
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
        check_text(name)?;
        check_text(value)?;
        let length = self.current.len().saturating_sub(rest.len());
        let pair = self.current.get(..length).unwrap_or_default();
        match &mut self.pairs {
            Pairs::None => self.pairs = Pairs::Run(self.current, length),
            Pairs::Run(start, run) if start.len().saturating_sub(*run) == self.current.len() => {
                *run = run.saturating_add(length);
            }
            Pairs::Run(start, run) => {
                let mut copy = BytesMut::from(start.get(..*run).unwrap_or_default());
                copy.put_slice(pair);
                self.pairs = Pairs::Scattered(copy);
            }
            Pairs::Scattered(copy) => copy.put_slice(pair),
        }
        Ok(())
    }

    /// The user properties in their order ([MQTT5-3.3.2-18]): a slice of the frame if they were
    /// neighbours, else a copy.
    pub(super) fn user_properties(self) -> UserProperties {
        match self.pairs {
            Pairs::None => UserProperties::default(),
            Pairs::Run(start, run) => {
                UserProperties(self.frame.slice_ref(start.get(..run).unwrap_or_default()))
            }
            Pairs::Scattered(copy) => UserProperties(copy.freeze()),
        }
    }

    /// Stores a property that PUBLISH and a will share; false if `id` is none of them
    /// ([MQTT5-3.3.2-13], [MQTT5-3.3.2-14], [MQTT5-3.3.2-19]).
    pub(super) fn message_property(
        &mut self,
        id: PropertyId,
        into: &mut PublishProperties,
    ) -> Result<bool, Fault> {
        match id {
            PropertyId::PayloadFormatIndicator => {
                self.one_of(&mut into.payload_format, [PayloadFormat::Bytes, PayloadFormat::Utf8])?;
            }
            PropertyId::MessageExpiryInterval => {
                self.four_bytes(&mut into.message_expiry_interval_s)?;
            }
            PropertyId::ContentType => self.text(&mut into.content_type)?,
            PropertyId::ResponseTopic => {
                self.text(&mut into.response_topic)?;
                check_response_topic(into.response_topic.as_ref())?;
            }
            PropertyId::CorrelationData => self.binary(&mut into.correlation_data)?,
            PropertyId::UserProperty => self.user_property()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
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
        return Err(DecodeError::protocol("a property stands twice").into());
    }
    *slot = Some(value);
    Ok(())
}

fn check_text(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.contains(&0) {
        return Err(DecodeError::malformed("a user property holds U+0000 [MQTT5-1.5.7-1]"));
    }
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(DecodeError::malformed("a user property is not UTF-8 [MQTT5-1.5.7-1]")),
    }
}

fn check_response_topic(topic: Option<&Text>) -> Result<(), DecodeError> {
    let bytes = topic.map(Text::as_bytes).unwrap_or_default();
    if bytes.is_empty() {
        return Err(DecodeError::protocol("the Response Topic is empty [MQTT5-4.7.3-1]"));
    }
    if bytes.iter().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(DecodeError::protocol("the Response Topic holds a wildcard [MQTT5-3.3.2-14]"));
    }
    Ok(())
}
