//! RFC 6455 frames: a reader that keeps no payload, and a writer.
//!
//! Written here because the codecs at hand do not fit. They want a whole payload before they unmask it
//! (a mask cannot be taken up in the middle of a frame), or they own the socket and a buffer for each
//! connection; the smallest brings an async framework with it. What is left to write is this file.
//!
//! Invariant: between two frames a reader owns no memory outside itself.

use std::fmt;

use bytes::BytesMut;

use super::link::Controls;

/// Longest payload of a control frame, RFC 6455 section 5.5.
pub(super) const CONTROL_BYTES_MAX: usize = 125;
const HEADER_BYTES_MAX: usize = 14;

const OP_CONTINUATION: u8 = 0x0;
const OP_TEXT: u8 = 0x1;
const OP_BINARY: u8 = 0x2;
const OP_CLOSE: u8 = 0x8;
const OP_PING: u8 = 0x9;
const OP_PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Decodes frames as their bytes arrive and passes payloads on at once.
#[derive(Debug)]
pub(super) struct FrameReader {
    /// Payload bytes of the present frame that have not arrived.
    remaining: u64,
    /// Payload bytes of the present message, as announced so far.
    message_bytes: u64,
    message_bytes_max: u64,
    /// Payload of a control frame that has arrived in part.
    control: Vec<u8>,
    /// Rotated so that its first byte is the next to be used.
    mask: [u8; 4],
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    frame: Frame,
    /// A message was begun and its last fragment has not begun.
    message_open: bool,
    masks: Masks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Header,
    Data,
    Ping,
    Pong,
    Close,
}

/// Whose frames are read: those of a client are masked, those of a server never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Masks {
    Required,
    Forbidden,
}

/// The payload of a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ControlPayload {
    bytes: [u8; CONTROL_BYTES_MAX],
    len: u8,
}

impl ControlPayload {
    fn new(payload: &[u8]) -> Self {
        let mut bytes = [0; CONTROL_BYTES_MAX];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(payload) {
            *to = *from;
            len += 1;
        }
        Self { bytes, len }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// How a peer broke the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFault {
    /// A text frame: MQTT travels in binary frames only [MQTT5-6.0.0-1] [MQTT311-6.0.0-1].
    Text,
    /// A frame of a client without mask, or of a server with one.
    Mask,
    /// A reserved bit is set, though no extension was negotiated.
    ReservedBits,
    /// An opcode that RFC 6455 does not define.
    ReservedOpcode,
    /// A control frame in fragments.
    FragmentedControl,
    /// A control frame with more than 125 bytes.
    LongControl,
    /// A continuation without a message to continue.
    UnexpectedContinuation,
    /// A new message before the last fragment of the one before.
    UnfinishedMessage,
    /// A length in more bytes than it needs, or beyond 63 bits.
    Length,
    /// A message longer than the configured maximum.
    TooLarge,
    /// A close frame with half a code, a code that may not be sent, or a reason that is not UTF-8.
    BadClose,
}

impl FrameFault {
    /// The status code that a close frame carries for this fault, RFC 6455 section 7.4.1.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::TooLarge => 1009,
            _ => 1002,
        }
    }
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "a text frame arrived, and MQTT needs binary frames",
            Self::Mask => "a frame is masked the wrong way",
            Self::ReservedBits => "a frame has reserved bits set",
            Self::ReservedOpcode => "a frame has a reserved opcode",
            Self::FragmentedControl => "a control frame is fragmented",
            Self::LongControl => "a control frame is longer than 125 bytes",
            Self::UnexpectedContinuation => "a continuation frame continues nothing",
            Self::UnfinishedMessage => "a message begins before the one before has ended",
            Self::Length => "a frame length is badly encoded",
            Self::TooLarge => "a message is larger than allowed",
            Self::BadClose => "a close frame is malformed",
        })
    }
}

impl std::error::Error for FrameFault {}

impl FrameReader {
    /// Whether a frame or a message has begun and not ended.
    pub(super) const fn is_partial(&self) -> bool {
        self.header_len > 0 || self.remaining > 0 || self.message_open
    }

    pub(super) fn new(masks: Masks, message_bytes_max: u64) -> Self {
        Self {
            remaining: 0,
            message_bytes: 0,
            message_bytes_max,
            control: Vec::new(),
            mask: [0; 4],
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: Frame::Header,
            message_open: false,
            masks,
        }
    }

    /// Reads frames and parts of frames; data payloads are appended to `plain` as one stream
    /// [MQTT5-6.0.0-2] [MQTT311-6.0.0-2].
    ///
    /// *Bounds*: keeps a header or at most 125 bytes of a control frame.
    pub(super) fn read(
        &mut self,
        mut input: &[u8],
        plain: &mut BytesMut,
        controls: &mut Controls,
    ) -> Result<(), FrameFault> {
        while !input.is_empty() && controls.close.is_none() {
            input = match self.frame {
                Frame::Header => self.read_header(input)?,
                _ => self.read_payload(input, plain),
            };
            if self.frame != Frame::Header && self.remaining == 0 {
                self.end_frame(controls);
            }
        }
        Ok(())
    }

    fn read_header<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8], FrameFault> {
        let have = usize::from(self.header_len);
        let need = self.header_bytes();
        let (now, rest) = input.split_at((need - have).min(input.len()));
        for (to, from) in self.header.iter_mut().skip(have).zip(now) {
            *to = *from;
        }
        let have = have + now.len();
        self.header_len = have as u8;
        if have >= 2 {
            self.check_first_bytes()?;
            if have == self.header_bytes() {
                self.begin_frame()?;
            }
        }
        Ok(rest)
    }

    /// Length of the present header as far as it is known: 2 until its second byte is there.
    fn header_bytes(&self) -> usize {
        if self.header_len < 2 {
            return 2;
        }
        let [_, second, ..] = self.header;
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        2 + mask + length_bytes(second)
    }

    fn check_first_bytes(&self) -> Result<(), FrameFault> {
        let [first, second, ..] = self.header;
        if first & RESERVED_BITS != 0 {
            return Err(FrameFault::ReservedBits);
        }
        match (first & 0x0F, self.message_open) {
            (OP_TEXT, _) => return Err(FrameFault::Text),
            (OP_BINARY, true) => return Err(FrameFault::UnfinishedMessage),
            (OP_CONTINUATION, false) => return Err(FrameFault::UnexpectedContinuation),
            (OP_BINARY, false) | (OP_CONTINUATION, true) => {}
            (OP_CLOSE | OP_PING | OP_PONG, _) => {
                if first & FIN == 0 {
                    return Err(FrameFault::FragmentedControl);
                }
                if usize::from(second & !MASKED) > CONTROL_BYTES_MAX {
                    return Err(FrameFault::LongControl);
                }
            }
            _ => return Err(FrameFault::ReservedOpcode),
        }
        let masked = second & MASKED != 0;
        if masked != (self.masks == Masks::Required) {
            return Err(FrameFault::Mask);
        }
        Ok(())
    }

    fn begin_frame(&mut self) -> Result<(), FrameFault> {
        let [first, second, ..] = self.header;
        let extended = length_bytes(second);
        let length = match extended {
            0 => u64::from(second & !MASKED),
            _ => {
                let digits = self.header.iter().skip(2).take(extended);
                digits.fold(0, |length, &byte| length << 8 | u64::from(byte))
            }
        };
        let minimal = match extended {
            0 => true,
            2 => length > CONTROL_BYTES_MAX as u64,
            _ => length > u64::from(u16::MAX) && length >> 63 == 0,
        };
        if !minimal {
            return Err(FrameFault::Length);
        }
        if second & MASKED != 0 {
            for (to, from) in self.mask.iter_mut().zip(self.header.iter().skip(2 + extended)) {
                *to = *from;
            }
        }
        self.frame = match first & 0x0F {
            OP_CLOSE => Frame::Close,
            OP_PING => Frame::Ping,
            OP_PONG => Frame::Pong,
            opcode => {
                let before = if opcode == OP_BINARY { 0 } else { self.message_bytes };
                self.message_bytes = before.saturating_add(length);
                if self.message_bytes > self.message_bytes_max {
                    return Err(FrameFault::TooLarge);
                }
                self.message_open = first & FIN == 0;
                Frame::Data
            }
        };
        self.remaining = length;
        Ok(())
    }

    fn read_payload<'i>(&mut self, input: &'i [u8], plain: &mut BytesMut) -> &'i [u8] {
        let take = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
        let (now, rest) = input.split_at(take);
        match self.frame {
            Frame::Data => {
                let start = plain.len();
                plain.extend_from_slice(now);
                self.unmask(plain.get_mut(start..).unwrap_or_default());
            }
            _ => {
                let start = self.control.len();
                self.control.extend_from_slice(now);
                let mut control = std::mem::take(&mut self.control);
                self.unmask(control.get_mut(start..).unwrap_or_default());
                self.control = control;
            }
        }
        self.remaining -= take as u64;
        rest
    }

    fn unmask(&mut self, payload: &mut [u8]) {
        if self.masks == Masks::Required {
            apply_mask(self.mask, payload);
            self.mask.rotate_left(payload.len() % 4);
        }
    }

    fn end_frame(&mut self, controls: &mut Controls) {
        let payload = std::mem::take(&mut self.control);
        match self.frame {
            Frame::Ping => controls.ping = Some(ControlPayload::new(&payload)),
            Frame::Close => controls.close = Some(ControlPayload::new(&payload)),
            // An answer to a ping we never sent, or one nobody waits for.
            Frame::Pong | Frame::Data | Frame::Header => {}
        }
        self.frame = Frame::Header;
        self.header_len = 0;
    }

    /// Whether the bytes so far end between two frames.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.frame == Frame::Header && self.header_len == 0 && self.control.capacity() == 0
    }
}

/// How many bytes of length follow the second byte of a header.
fn length_bytes(second: u8) -> usize {
    match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// *Cost*: one pass, eight bytes at a time.
fn apply_mask(mask: [u8; 4], payload: &mut [u8]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends one binary message in one frame [MQTT5-6.0.0-1] [MQTT311-6.0.0-1].
pub(super) fn push_binary(payload: &[u8], mask: Option<[u8; 4]>, wire_out: &mut Vec<u8>) {
    push_frame(OP_BINARY, payload, mask, wire_out);
}

/// Appends the answer to a ping.
pub(super) fn push_pong(ping: &ControlPayload, mask: Option<[u8; 4]>, wire_out: &mut Vec<u8>) {
    push_frame(OP_PONG, ping.as_slice(), mask, wire_out);
}

/// Appends a close frame with a status code and no reason; without a code when it is `None`.
pub(super) fn push_close(code: Option<u16>, mask: Option<[u8; 4]>, wire_out: &mut Vec<u8>) {
    let code = code.map(u16::to_be_bytes);
    push_frame(OP_CLOSE, code.as_ref().map_or(&[], |code| code.as_slice()), mask, wire_out);
}

fn push_frame(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>, wire_out: &mut Vec<u8>) {
    wire_out.reserve(HEADER_BYTES_MAX + payload.len());
    let masked = if mask.is_some() { MASKED } else { 0 };
    wire_out.push(FIN | opcode);
    match payload.len() {
        length @ 0..=CONTROL_BYTES_MAX => wire_out.push(masked | length as u8),
        length => match u16::try_from(length) {
            Ok(length) => {
                wire_out.push(masked | 126);
                wire_out.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                wire_out.push(masked | 127);
                wire_out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        },
    }
    wire_out.extend_from_slice(mask.as_ref().map_or(&[], |mask| mask.as_slice()));
    let start = wire_out.len();
    wire_out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(mask, wire_out.get_mut(start..).unwrap_or_default());
    }
}

/// Reads the payload of a close frame: the code, if there is one.
///
/// *Errors*: [`FrameFault::BadClose`] for everything RFC 6455 sections 5.5.1 and 7.4 forbid.
pub(super) fn parse_close(payload: &ControlPayload) -> Result<Option<u16>, FrameFault> {
    let payload = payload.as_slice();
    if payload.is_empty() {
        return Ok(None);
    }
    let (code, reason) = payload.split_first_chunk::<2>().ok_or(FrameFault::BadClose)?;
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
        || std::str::from_utf8(reason).is_err()
    {
        return Err(FrameFault::BadClose);
    }
    Ok(Some(code))
}
