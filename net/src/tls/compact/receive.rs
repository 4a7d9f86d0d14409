//! What the peer sends: records, and what is inside them.
//!
//! *Spec*: RFC 8446 sections 4.6, 5.1, 5.2, 5.4 and 6.

use std::mem;

use aws_lc_rs::aead::Aad;
use bytes::BytesMut;
use rustls::Side;

use super::fault::RecordFault;
use super::keys::{Cipher, Direction, Keys};
use super::send::{ALERT, APPLICATION_DATA, CLOSE_NOTIFY, HANDSHAKE, KEY_UPDATE};
use super::session::{
    BODY_BYTES_MAX, BODY_BYTES_MIN, FRAGMENT_BYTES_MAX, HEADER_LEN, Phase, State,
};

/// Records without application bytes that a peer may send in a row: KeyUpdates, empty records, tickets.
///
/// What rustls and BoringSSL allow for KeyUpdates.
const IDLE_RECORDS_MAX: u8 = 32;

/// Handshake type of a session ticket.
const NEW_SESSION_TICKET: u8 = 4;
/// A ticket of 2^16 bytes with extensions of the same size is the longest there can be.
const TICKET_BYTES_MAX: u32 = (1 << 17) + 300;

const USER_CANCELED: u8 = 90;

/// Input that waits for more.
#[derive(Default)]
pub(super) struct Loose {
    /// A partial record, from its first byte.
    record: Vec<u8>,
    message: Partial,
}

/// A handshake message that is spread over records.
#[derive(Default)]
struct Partial {
    /// Its header, and the one byte of a KeyUpdate.
    head: [u8; 5],
    held: usize,
    /// Bytes of a ticket that are still to be skipped.
    skip: u32,
}

/// What a call of `read` works with.
struct Input<'a> {
    plain: &'a mut BytesMut,
    message: Partial,
    /// Built for the first record, dropped with the call or when the peer changes its key.
    cipher: Option<Cipher>,
    /// The peer wants us to change our key.
    answer_due: bool,
}

impl Loose {
    pub(super) fn bytes(&self) -> usize {
        self.record.len() + self.message.held
    }

    const fn is_empty(&self) -> bool {
        self.record.is_empty() && !self.message.is_begun()
    }

    /// Adds to the partial record; never takes more than twice the memory, or than is needed.
    fn push(&mut self, bytes: &[u8], missing: usize) {
        let room = self.record.capacity() - self.record.len();
        if room < bytes.len() {
            let more = bytes.len().max(self.record.len()).min(missing.max(bytes.len()));
            self.record.reserve_exact(more);
        }
        self.record.extend_from_slice(bytes);
    }
}

impl Partial {
    const fn is_begun(&self) -> bool {
        self.held > 0 || self.skip > 0
    }

    /// Takes a byte, and returns the head as far as it is known.
    fn push(&mut self, byte: u8) -> &[u8] {
        if let Some(place) = self.head.get_mut(self.held) {
            *place = byte;
            self.held += 1;
        }
        self.head.get(..self.held).unwrap_or_default()
    }
}

impl State<dyn Keys> {
    pub(super) fn read(
        &mut self,
        wire: &mut [u8],
        plain: &mut BytesMut,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordFault> {
        match self.phase {
            Phase::Failed => return Err(RecordFault::Failed),
            Phase::PeerClosed => return Ok(()),
            Phase::Open if self.write_closed || wire.is_empty() => return Ok(()),
            Phase::Open => {}
        }
        let Loose { record, message } = self.loose.take().map(|it| *it).unwrap_or_default();
        let mut input = Input { plain, message, cipher: None, answer_due: false };
        let result = self.records(wire, record, &mut input).and_then(|record| {
            let loose = Loose { record, message: input.message };
            if !loose.is_empty() && self.phase == Phase::Open {
                self.loose = Some(Box::new(loose));
            }
            self.renew(input.answer_due, out)
        });
        result.inspect_err(|&fault| self.fail(fault, out))
    }

    /// Runs through whole records and returns what is left of the last.
    fn records(
        &mut self,
        mut wire: &mut [u8],
        record: Vec<u8>,
        input: &mut Input<'_>,
    ) -> Result<Vec<u8>, RecordFault> {
        let mut kept = Loose { record, message: Partial::default() };
        while !wire.is_empty() && self.phase == Phase::Open {
            if kept.record.is_empty() {
                match record_len(wire)? {
                    Some(length) if length <= wire.len() => {
                        let (whole, rest) = wire.split_at_mut(length);
                        wire = rest;
                        self.record(whole, input)?;
                    }
                    length => {
                        let missing = length.unwrap_or(HEADER_LEN) - wire.len();
                        kept.push(wire, wire.len() + missing);
                        break;
                    }
                }
                continue;
            }
            // Only as much is copied as completes the record; the rest is decrypted where it lies.
            let length = record_len(&kept.record)?;
            let missing = length.unwrap_or(HEADER_LEN) - kept.record.len();
            let (head, rest) = wire.split_at_mut(missing.min(wire.len()));
            wire = rest;
            kept.push(head, missing);
            if length == Some(kept.record.len()) {
                self.record(&mut mem::take(&mut kept.record), input)?;
            }
        }
        // The length may have become known with the last bytes.
        record_len(&kept.record)?;
        Ok(kept.record)
    }

    /// One whole record.
    fn record(&mut self, record: &mut [u8], input: &mut Input<'_>) -> Result<(), RecordFault> {
        let text = self.open(record, &mut input.cipher)?;
        if text.len() > FRAGMENT_BYTES_MAX + 1 {
            return Err(RecordFault::Overflow);
        }
        let end = text.iter().rposition(|&byte| byte != 0).ok_or(RecordFault::AllZero)?;
        let (content, kind) = text.split_at(end);
        let kind = kind.first().copied().unwrap_or_default();
        if kind != HANDSHAKE && input.message.is_begun() {
            return Err(RecordFault::Interleaved);
        }
        match kind {
            APPLICATION_DATA if content.is_empty() => self.count_idle_record(),
            APPLICATION_DATA => {
                self.idle_records = 0;
                input.plain.extend_from_slice(content);
                Ok(())
            }
            HANDSHAKE => self.handshake(content, input),
            ALERT => self.alert(content),
            other => Err(RecordFault::InnerType(other)),
        }
    }

    /// Decrypts a record in place. The only place where a record number of the peer is used.
    fn open<'r>(
        &mut self,
        record: &'r mut [u8],
        cipher: &mut Option<Cipher>,
    ) -> Result<&'r [u8], RecordFault> {
        let (header, body) =
            record.split_first_chunk_mut::<HEADER_LEN>().ok_or(RecordFault::Overflow)?;
        let cipher = match cipher {
            Some(cipher) => cipher,
            None => cipher.insert(self.keys.cipher(Direction::Receive)?),
        };
        let sequence = self.receive_sequence;
        self.receive_sequence = sequence.checked_add(1).ok_or(RecordFault::Internal)?;
        let text = cipher.key.open_in_place(cipher.nonce(sequence), Aad::from(*header), body);
        text.map(|text| &*text).map_err(|_| RecordFault::BadMac)
    }

    fn handshake(&mut self, mut content: &[u8], input: &mut Input<'_>) -> Result<(), RecordFault> {
        self.count_idle_record()?;
        if content.is_empty() {
            return Err(RecordFault::EmptyHandshake);
        }
        while let Some((&byte, rest)) = content.split_first() {
            let message = &mut input.message;
            if message.skip > 0 {
                let known = u32::try_from(content.len()).unwrap_or(u32::MAX).min(message.skip);
                message.skip -= known;
                content = content.get(known as usize..).unwrap_or_default();
                continue;
            }
            content = rest;
            match *message.push(byte) {
                [KEY_UPDATE] => {}
                // A server sends them; what is in one is of no use once the handshake's state is gone.
                [NEW_SESSION_TICKET] if self.side == Side::Client => {}
                [other] => return Err(RecordFault::Message(other)),
                [KEY_UPDATE, 0, 0, 1] => {}
                [KEY_UPDATE, _, _, _] => return Err(RecordFault::MessageLength),
                [_, high, middle, low] => {
                    let length = u32::from_be_bytes([0, high, middle, low]);
                    if length > TICKET_BYTES_MAX {
                        return Err(RecordFault::MessageLength);
                    }
                    *message = Partial { skip: length, ..Partial::default() };
                }
                [_, _, _, _, request] => {
                    if !content.is_empty() {
                        return Err(RecordFault::UpdateUnaligned);
                    }
                    *message = Partial::default();
                    self.peer_updates_keys(request, input)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn peer_updates_keys(&mut self, request: u8, input: &mut Input<'_>) -> Result<(), RecordFault> {
        match request {
            0 => {}
            1 => input.answer_due = true,
            other => return Err(RecordFault::UpdateRequest(other)),
        }
        self.keys.update(Direction::Receive)?;
        self.receive_sequence = 0;
        self.update_asked = false;
        input.cipher = None;
        Ok(())
    }

    fn alert(&mut self, content: &[u8]) -> Result<(), RecordFault> {
        // Its level says nothing in TLS 1.3.
        let &[_level, description] = content else { return Err(RecordFault::AlertForm) };
        match description {
            CLOSE_NOTIFY => {
                self.phase = Phase::PeerClosed;
                Ok(())
            }
            // It announces a close_notify.
            USER_CANCELED => self.count_idle_record(),
            other => Err(RecordFault::PeerAlert(other)),
        }
    }

    fn count_idle_record(&mut self) -> Result<(), RecordFault> {
        self.idle_records += 1;
        match self.idle_records > IDLE_RECORDS_MAX {
            true => Err(RecordFault::Flood),
            false => Ok(()),
        }
    }

    /// Changes our key if the peer has asked for it, once however often it asked; asks the peer to
    /// change its own if that has protected enough.
    fn renew(&mut self, answer_due: bool, out: &mut Vec<u8>) -> Result<(), RecordFault> {
        let ask = self.is_worn(self.receive_sequence) && !self.update_asked;
        if answer_due || ask {
            self.send_key_update(ask, out)?;
            self.update_asked |= ask;
        }
        Ok(())
    }
}

/// Checks as much of a header as there is, and returns the length of the record with its header.
fn record_len(start: &[u8]) -> Result<Option<usize>, RecordFault> {
    match *start {
        [kind, ..] if kind != APPLICATION_DATA => Err(RecordFault::OuterType(kind)),
        [_, major, ..] if major != 3 => Err(RecordFault::Version),
        [_, _, minor, ..] if minor != 3 => Err(RecordFault::Version),
        [_, _, _, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
            length if length > BODY_BYTES_MAX => Err(RecordFault::Overflow),
            length if length < BODY_BYTES_MIN => Err(RecordFault::BadMac),
            length => Ok(Some(HEADER_LEN + length)),
        },
        _ => Ok(None),
    }
}
