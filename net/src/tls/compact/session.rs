//! The session: what is kept per connection, and what callers see.

use std::fmt;

use bytes::BytesMut;
use rustls::Side;

use super::fault::RecordFault;
use super::keys::{Keys, Pair, TAG_LEN};
use super::receive::Loose;

/// Length of the header of a record.
pub(super) const HEADER_LEN: usize = 5;
/// Most application bytes in a record.
pub(super) const FRAGMENT_BYTES_MAX: usize = 1 << 14;
/// Most bytes that follow a header: fragment, content type, padding and tag.
pub(super) const BODY_BYTES_MAX: usize = FRAGMENT_BYTES_MAX + 256;
/// Fewest bytes that follow a header: content type and tag.
pub(super) const BODY_BYTES_MIN: usize = 1 + TAG_LEN;

/// Most bytes of input that a session keeps until the rest of a record arrives.
pub const RECORD_BYTES_MAX: usize = HEADER_LEN + BODY_BYTES_MAX;

/// Records under one key before we send a KeyUpdate, as a power of two.
///
/// AES-GCM allows 2^24.5 full records (RFC 8446 section 5.5).
const UPDATE_AFTER_LOG2: u8 = 23;

/// One TLS 1.3 connection after its handshake.
///
/// Movable between threads at any point, with what it has read but not used; never copied.
pub struct CompactSession(Held);

/// One allocation each, of the size that the suite needs.
pub(super) enum Held {
    Aes128(Box<State<Pair<32, 16>>>),
    Aes256(Box<State<Pair<48, 32>>>),
    ChaCha20(Box<State<Pair<32, 32>>>),
}

/// Everything that is kept for an idle connection: 152 bytes with AES-128.
pub(super) struct State<K: ?Sized> {
    /// Number of the next record that the peer sends under its key.
    pub receive_sequence: u64,
    /// Number of the next record that we send under our key.
    pub send_sequence: u64,
    /// Input that is not complete; `None` between two records.
    pub loose: Option<Box<Loose>>,
    pub phase: Phase,
    /// Which side of the handshake we are.
    pub side: Side,
    /// We have said `close_notify`.
    pub write_closed: bool,
    /// We have asked the peer for new keys, because it has sent so much under the old ones.
    pub update_asked: bool,
    /// Records since the last one with application bytes in it.
    pub idle_records: u8,
    pub update_after_log2: u8,
    pub keys: K,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Records are read.
    Open,
    /// The peer has said `close_notify`: what it sends is ignored, we may still write.
    PeerClosed,
    /// The session ended with an error.
    Failed,
}

impl CompactSession {
    pub(super) const fn new(held: Held) -> Self {
        Self(held)
    }

    /// Feeds bytes from the wire; they are decrypted in place and need not be kept.
    ///
    /// Appends application bytes to `plain`, and answers to KeyUpdates and alerts to `wire_out`.
    /// Returns whether the peer has closed its direction, now or in an earlier call.
    ///
    /// *Bounds*: `plain` grows by less than the input and what was kept; at most [`RECORD_BYTES_MAX`]
    /// bytes are kept; `wire_out` grows by at most two records.
    /// *Errors*: the session is over; `plain` may hold what came before the fault, and `wire_out` ends
    /// with the alert for the peer.
    /// *Cost*: one cipher context per call that completes a record.
    pub fn read(
        &mut self,
        wire: &mut [u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<bool, RecordFault> {
        let state = self.state_mut();
        state.read(wire, plain, wire_out)?;
        Ok(state.phase == Phase::PeerClosed)
    }

    /// Encrypts application bytes into `wire_out`: one record for up to 16 KiB.
    ///
    /// *Errors*: [`RecordFault::NotWritable`] after [`CompactSession::close_notify`];
    /// [`RecordFault::Failed`] after an error.
    /// *Cost*: one cipher context per call.
    pub fn write(&mut self, plain: &[u8], wire_out: &mut Vec<u8>) -> Result<(), RecordFault> {
        self.state_mut().write(plain, wire_out)
    }

    /// Says that no more application bytes will follow; what the peer still sends is dropped.
    ///
    /// Does nothing after an error, or a second time.
    pub fn close_notify(&mut self, wire_out: &mut Vec<u8>) {
        self.state_mut().close_notify(wire_out);
    }

    /// Sends a KeyUpdate and goes on to new keys; asks the peer to do the same if `ask_peer`.
    ///
    /// Sessions do this by themselves before a key wears out.
    ///
    /// *Errors*: as [`CompactSession::write`].
    pub fn update_keys(
        &mut self,
        ask_peer: bool,
        wire_out: &mut Vec<u8>,
    ) -> Result<(), RecordFault> {
        let state = self.state_mut();
        state.check_writable()?;
        state.send_key_update(ask_peer, wire_out)
    }

    /// Makes keys last for 2^`log2` records instead of 2^23.
    ///
    /// *Bounds*: more than 23 is taken for 23.
    pub fn set_update_after_log2(&mut self, log2: u8) {
        self.state_mut().update_after_log2 = log2.min(UPDATE_AFTER_LOG2);
    }

    /// How many bytes of input are kept until more arrives: 0 between two records.
    ///
    /// *Bounds*: at most [`RECORD_BYTES_MAX`]. A caller that cuts slow senders looks here.
    pub fn tail_bytes(&self) -> usize {
        self.state().loose.as_ref().map_or(0, |loose| loose.bytes())
    }

    fn state(&self) -> &State<dyn Keys> {
        match &self.0 {
            Held::Aes128(state) => &**state,
            Held::Aes256(state) => &**state,
            Held::ChaCha20(state) => &**state,
        }
    }

    pub(super) fn state_mut(&mut self) -> &mut State<dyn Keys> {
        match &mut self.0 {
            Held::Aes128(state) => &mut **state,
            Held::Aes256(state) => &mut **state,
            Held::ChaCha20(state) => &mut **state,
        }
    }
}

impl<K> State<K> {
    pub(super) fn boxed(side: Side, keys: K) -> Box<Self> {
        Box::new(Self {
            receive_sequence: 0,
            send_sequence: 0,
            loose: None,
            phase: Phase::Open,
            side,
            write_closed: false,
            update_asked: false,
            idle_records: 0,
            update_after_log2: UPDATE_AFTER_LOG2,
            keys,
        })
    }
}

impl State<dyn Keys> {
    /// Whether a key has protected as many records as it may.
    pub(super) const fn is_worn(&self, sequence: u64) -> bool {
        sequence >> self.update_after_log2 > 0
    }
}

impl fmt::Debug for CompactSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactSession")
            .field("phase", &self.state().phase)
            .field("tail_bytes", &self.tail_bytes())
            .finish_non_exhaustive()
    }
}
