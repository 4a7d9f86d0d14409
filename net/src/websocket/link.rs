//! A connection after the upgrade: frames, the answers to control frames, and the close.
//!
//! The same for both sides; they differ in who masks.

use bytes::BytesMut;

use super::frame::{self, ControlPayload, FrameFault, FrameReader, Masks};

/// Where the closing handshake stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// We have sent a close frame, the peer has not.
    Closing,
    /// The peer has sent a close frame, and has one of ours.
    Closed,
    Failed,
}

/// Frames in both directions.
#[derive(Debug)]
pub(super) struct Link {
    frames: FrameReader,
    pub(super) phase: Phase,
}

/// What control frames ask for, after one run of the frame reader.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Controls {
    /// Payload of the latest ping.
    pub(super) ping: Option<ControlPayload>,
    /// The peer has closed; nothing behind this frame was looked at.
    pub(super) close: Option<ControlPayload>,
}

impl Link {
    pub(super) fn new(incoming: Masks, message_bytes_max: u64) -> Self {
        Self { frames: FrameReader::new(incoming, message_bytes_max), phase: Phase::Open }
    }

    /// Whether the peer has begun a frame or a message and not ended it.
    pub(super) const fn is_partial(&self) -> bool {
        self.frames.is_partial()
    }

    /// Decodes input; every frame that is sent in answer takes its mask from `mask`.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        mask: impl FnMut() -> Option<[u8; 4]>,
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<(), FrameFault> {
        let start = plain.len();
        let mut controls = Controls::default();
        let result = match self.phase {
            Phase::Open => {
                let result = self.frames.read(input, plain, &mut controls);
                self.answer(result, &controls, mask, wire_out)
            }
            Phase::Closing => {
                // Only the peer's close frame matters now.
                let result = self.frames.read(input, plain, &mut controls);
                plain.truncate(start);
                if controls.close.is_some() {
                    self.phase = Phase::Closed;
                }
                result
            }
            Phase::Closed | Phase::Failed => Ok(()),
        };
        if result.is_err() {
            self.phase = Phase::Failed;
        }
        result
    }

    fn answer(
        &mut self,
        result: Result<(), FrameFault>,
        controls: &Controls,
        mut mask: impl FnMut() -> Option<[u8; 4]>,
        wire_out: &mut Vec<u8>,
    ) -> Result<(), FrameFault> {
        if let Some(ping) = &controls.ping {
            frame::push_pong(ping, mask(), wire_out);
        }
        let closed =
            result.and_then(|()| controls.close.as_ref().map(frame::parse_close).transpose());
        match closed {
            Ok(None) => Ok(()),
            Ok(Some(code)) => {
                frame::push_close(code, mask(), wire_out);
                self.phase = Phase::Closed;
                Ok(())
            }
            Err(fault) => {
                frame::push_close(Some(fault.close_code()), mask(), wire_out);
                Err(fault)
            }
        }
    }

    pub(super) fn write(&self, plain: &[u8], mask: Option<[u8; 4]>, wire_out: &mut Vec<u8>) {
        if self.phase == Phase::Open && !plain.is_empty() {
            frame::push_binary(plain, mask, wire_out);
        }
    }

    pub(super) fn close(&mut self, code: u16, mask: Option<[u8; 4]>, wire_out: &mut Vec<u8>) {
        if self.phase == Phase::Open {
            frame::push_close(Some(code), mask, wire_out);
            self.phase = Phase::Closing;
        }
    }

    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.frames.is_at_rest()
    }
}
