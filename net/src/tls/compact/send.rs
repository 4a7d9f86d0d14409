//! What we send: application data, KeyUpdates and alerts.
//!
//! *Spec*: RFC 8446 sections 4.6.3, 5.2 and 6.

use aws_lc_rs::aead::Aad;

use super::fault::RecordFault;
use super::keys::{Cipher, Direction, Keys, TAG_LEN};
use super::session::{FRAGMENT_BYTES_MAX, HEADER_LEN, Phase, State};

/// Content types.
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// Handshake type of a KeyUpdate.
pub(super) const KEY_UPDATE: u8 = 24;

pub(super) const CLOSE_NOTIFY: u8 = 0;
const LEVEL_WARNING: u8 = 1;
const LEVEL_FATAL: u8 = 2;

impl State<dyn Keys> {
    pub(super) fn check_writable(&self) -> Result<(), RecordFault> {
        match self.phase {
            Phase::Failed => Err(RecordFault::Failed),
            _ if self.write_closed => Err(RecordFault::NotWritable),
            Phase::Open | Phase::PeerClosed => Ok(()),
        }
    }

    pub(super) fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), RecordFault> {
        self.check_writable()?;
        let mut cipher = None;
        for fragment in plain.chunks(FRAGMENT_BYTES_MAX) {
            if self.is_worn(self.send_sequence) {
                self.send_key_update(false, out)?;
                cipher = None;
            }
            let cipher = match &cipher {
                Some(cipher) => cipher,
                None => cipher.insert(self.keys.cipher(Direction::Send)?),
            };
            self.seal(cipher, APPLICATION_DATA, fragment, out)?;
        }
        Ok(())
    }

    pub(super) fn close_notify(&mut self, out: &mut Vec<u8>) {
        if self.phase != Phase::Failed && !self.write_closed {
            // There is nothing to be told if it fails: the connection is being closed.
            let _ = self.seal_alone(ALERT, &[LEVEL_WARNING, CLOSE_NOTIFY], out);
            self.write_closed = true;
            self.loose = None;
        }
    }

    /// Ends the session, and tells the peer why unless it knows.
    pub(super) fn fail(&mut self, fault: RecordFault, out: &mut Vec<u8>) {
        if let Some(description) = fault.alert() {
            let _ = self.seal_alone(ALERT, &[LEVEL_FATAL, description], out);
        }
        self.phase = Phase::Failed;
        self.loose = None;
    }

    /// The last record under the old key of our direction; what follows is under the next.
    pub(super) fn send_key_update(
        &mut self,
        ask_peer: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordFault> {
        let message = [KEY_UPDATE, 0, 0, 1, u8::from(ask_peer)];
        self.seal_alone(HANDSHAKE, &message, out)?;
        self.keys.update(Direction::Send).inspect_err(|_| self.phase = Phase::Failed)?;
        self.send_sequence = 0;
        Ok(())
    }

    fn seal_alone(
        &mut self,
        kind: u8,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), RecordFault> {
        let cipher = self.keys.cipher(Direction::Send)?;
        self.seal(&cipher, kind, content, out)
    }

    /// Appends one record. The only place where a record number of ours is used.
    ///
    /// The number is advanced before the cipher runs, so that no failure can lead to its second use.
    fn seal(
        &mut self,
        cipher: &Cipher,
        kind: u8,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), RecordFault> {
        let sequence = self.send_sequence;
        self.send_sequence = sequence.checked_add(1).ok_or(RecordFault::Internal)?;
        let body_len = content.len() + 1 + TAG_LEN;
        let length = u16::try_from(body_len).map_err(|_| RecordFault::Internal)?;
        let [high, low] = length.to_be_bytes();
        let header: [u8; HEADER_LEN] = [APPLICATION_DATA, 3, 3, high, low];
        out.reserve(HEADER_LEN + body_len);
        let start = out.len();
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.push(kind);
        let text = out.get_mut(start + HEADER_LEN..).unwrap_or_default();
        let nonce = cipher.nonce(sequence);
        match cipher.key.seal_in_place_separate_tag(nonce, Aad::from(header), text) {
            Ok(tag) => {
                out.extend_from_slice(tag.as_ref());
                Ok(())
            }
            Err(_) => {
                // Plaintext must not stay among the bytes for the wire.
                out.truncate(start);
                self.phase = Phase::Failed;
                Err(RecordFault::Internal)
            }
        }
    }
}
