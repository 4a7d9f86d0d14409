//! Where fields go: once to be counted, once to be written, by the same code, so that a length
//! always is that of the bytes that follow it.

use bytes::BufMut;

use crate::property::PropertyId;
use crate::{MessageProperties, varint};

/// A part of a packet that can write itself.
pub(super) trait Section {
    fn put<S: Sink>(&self, out: &mut S);
}

/// Takes fields in the order of the wire.
pub(super) trait Sink {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn raw(&mut self, bytes: &[u8]);
    fn message_properties(&mut self, properties: &MessageProperties);
    /// A variable byte integer of at most [`varint::MAX`].
    fn varint(&mut self, value: u32);
    /// The length of a section as variable byte integer, then the section.
    fn counted<T: Section>(&mut self, section: &T);
    /// Notes that the packet cannot exist in this version.
    fn refuse(&mut self);

    /// Two bytes of length, then the bytes; at most 65,535.
    fn prefixed(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                self.u16(length);
                self.raw(bytes);
            }
            Err(_) => self.refuse(),
        }
    }

    fn byte_property(&mut self, id: PropertyId, value: Option<u8>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u8(value);
        }
    }

    fn boolean_property(&mut self, id: PropertyId, value: Option<bool>) {
        self.byte_property(id, value.map(u8::from));
    }

    fn two_byte_property(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u16(value);
        }
    }

    fn four_byte_property(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u32(value);
        }
    }

    fn varint_property(&mut self, id: PropertyId, value: Option<u32>) {
        match value {
            Some(value) if value > varint::MAX => self.refuse(),
            Some(value) => {
                self.u8(id as u8);
                self.varint(value);
            }
            None => {}
        }
    }

    fn prefixed_property(&mut self, id: PropertyId, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.prefixed(value);
        }
    }
}

/// Counts bytes.
#[derive(Default)]
pub(super) struct Counter {
    bytes: usize,
    refused: bool,
}

impl Counter {
    /// The length of a section, `None` if it cannot be on the wire.
    pub(super) fn count<T: Section>(section: &T) -> Option<usize> {
        let mut counter = Self::default();
        section.put(&mut counter);
        if counter.refused { None } else { Some(counter.bytes) }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Sink for Counter {
    fn u8(&mut self, _: u8) {
        self.add(1);
    }

    fn u16(&mut self, _: u16) {
        self.add(2);
    }

    fn u32(&mut self, _: u32) {
        self.add(4);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.add(bytes.len());
    }

    fn message_properties(&mut self, properties: &MessageProperties) {
        self.add(properties.len());
    }

    fn varint(&mut self, value: u32) {
        self.add(varint::len(value));
    }

    fn counted<T: Section>(&mut self, section: &T) {
        match Self::count(section).and_then(with_length) {
            Some(bytes) => self.add(bytes),
            None => self.refuse(),
        }
    }

    fn refuse(&mut self) {
        self.refused = true;
    }
}

/// The length of a section together with the length in front of it.
pub(super) fn with_length(section: usize) -> Option<usize> {
    let length = u32::try_from(section).ok().filter(|&length| length <= varint::MAX)?;
    section.checked_add(varint::len(length))
}

/// Writes bytes; only for what [`Counter`] did not refuse.
pub(super) struct Writer<'a, B>(pub(super) &'a mut B);

impl<B: BufMut> Sink for Writer<'_, B> {
    fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.put_u16(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.put_u32(value);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    fn message_properties(&mut self, properties: &MessageProperties) {
        properties.put(self.0);
    }

    fn varint(&mut self, value: u32) {
        varint::put(self.0, value);
    }

    fn counted<T: Section>(&mut self, section: &T) {
        let length = Counter::count(section).and_then(|length| u32::try_from(length).ok());
        debug_assert!(length.is_some(), "a section that was refused is being written");
        self.varint(length.unwrap_or_default());
        section.put(self);
    }

    fn refuse(&mut self) {
        debug_assert!(false, "a section that was refused is being written");
    }
}
