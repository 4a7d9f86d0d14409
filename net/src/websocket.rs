//! WebSocket (RFC 6455) as a state machine over bytes, for the server and for clients.
//!
//! Owns the upgrade and the frames, and turns them into the byte stream that MQTT is
//! [MQTT5-6.0.0-2] [MQTT311-6.0.0-2]. It has no sockets, no clock and no randomness. No extension is
//! negotiated, so compression stays off whatever a client offers.
//!
//! Invariants:
//! - a payload is passed on as it arrives: the length of a frame costs no memory;
//! - bytes are kept only in the upgrade (up to the configured head) and for a frame header or a control
//!   frame that has arrived in part;
//! - one call answers at most one ping, the latest, so a flood of pings is not a flood of pongs;
//! - after a close frame of the peer nothing more is decoded.

mod client;
mod frame;
mod http;
mod link;
mod upgrade;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;

pub use client::{ClientError, WebSocketClient};
pub use frame::FrameFault;
use frame::Masks;
use http::{Head, HeadCollector};
use link::{Link, Phase};
pub use upgrade::UpgradeRefusal;

/// What all WebSocket connections of a listener have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketConfig {
    /// The only path that is upgraded; a query behind it is ignored.
    pub path: String,
    /// Most bytes of the request head, the empty line included.
    pub head_bytes_max: usize,
    /// Most fields in the request head.
    pub header_fields_max: usize,
    /// Most payload bytes of one message, all fragments together, and so of one frame.
    ///
    /// It bounds no memory here; MQTT's own limit on packets is separate and lies behind it.
    pub message_bytes_max: u64,
}

impl Default for WebSocketConfig {
    /// `/mqtt`, 8 KiB and 64 fields of head, and a message as long as the largest MQTT packet.
    fn default() -> Self {
        Self {
            path: "/mqtt".to_owned(),
            head_bytes_max: 8192,
            header_fields_max: 64,
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }
}

/// The largest MQTT packet: five bytes of fixed header and a remaining length of 268,435,455.
const MESSAGE_BYTES_MAX: u64 = 268_435_460;

/// The server side of one WebSocket connection.
#[derive(Debug)]
pub struct WebSocket {
    /// Present until the upgrade is complete.
    upgrading: Option<Box<Upgrading>>,
    link: Link,
}

#[derive(Debug)]
struct Upgrading {
    config: Arc<WebSocketConfig>,
    collector: HeadCollector,
}

/// Where a connection stands after input was fed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WsProgress {
    /// The upgrade is complete, now or since an earlier call.
    pub open: bool,
    /// The peer has sent a close frame: close the connection once `wire_out` is sent.
    pub peer_closed: bool,
}

/// A connection cannot go on; it has to be closed after what is in `wire_out` was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WsError {
    /// The request was answered with an error.
    Upgrade(UpgradeRefusal),
    /// The framing was broken, and a close frame says so.
    Frame(FrameFault),
    /// The connection has failed before.
    Failed,
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upgrade(refusal) => refusal.fmt(f),
            Self::Frame(fault) => fault.fmt(f),
            Self::Failed => f.write_str("the WebSocket connection has failed before"),
        }
    }
}

impl std::error::Error for WsError {}

impl WebSocket {
    /// Begins a connection that waits for the upgrade request.
    pub fn new(config: &Arc<WebSocketConfig>) -> Self {
        let upgrading =
            Upgrading { config: Arc::clone(config), collector: HeadCollector::default() };
        Self {
            upgrading: Some(Box::new(upgrading)),
            link: Link::new(Masks::Required, config.message_bytes_max),
        }
    }

    /// Feeds bytes from the wire.
    ///
    /// Appends the MQTT byte stream to `plain`, and to `wire_out` the answer to the upgrade, a pong, a
    /// close frame.
    ///
    /// *Bounds*: `plain` grows by less than the input, `wire_out` by at most 512 bytes.
    /// *Errors*: the connection is over; `plain` may hold what came before the fault.
    /// *Spec*: [MQTT5-6.0.0-1] [MQTT5-6.0.0-2] [MQTT5-6.0.0-3] [MQTT5-6.0.0-4]
    /// [MQTT311-6.0.0-1] [MQTT311-6.0.0-2] [MQTT311-6.0.0-3] [MQTT311-6.0.0-4]
    pub fn read(
        &mut self,
        input: &[u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<WsProgress, WsError> {
        if self.link.phase == Phase::Failed {
            return Err(WsError::Failed);
        }
        let mut frames = Some(input);
        if let Some(upgrading) = &mut self.upgrading {
            frames = match upgrading.feed(input, wire_out) {
                Ok(behind) => behind,
                Err(refusal) => {
                    refusal.push_response(wire_out);
                    self.upgrading = None;
                    self.link.phase = Phase::Failed;
                    return Err(WsError::Upgrade(refusal));
                }
            };
        }
        if let Some(frames) = frames {
            self.upgrading = None;
            self.link.read(frames, || None, plain, wire_out).map_err(WsError::Frame)?;
        }
        Ok(WsProgress {
            open: self.upgrading.is_none(),
            peer_closed: self.link.phase == Phase::Closed,
        })
    }

    /// Whether a frame, or a message of several frames, has begun and not ended.
    pub fn is_partial(&self) -> bool {
        self.upgrading.is_none() && self.link.is_partial()
    }

    /// Appends MQTT bytes to `wire_out` as one binary message.
    ///
    /// Does nothing when there are none, before the upgrade is complete, and after a close frame of
    /// either side.
    pub fn write(&mut self, plain: &[u8], wire_out: &mut Vec<u8>) {
        debug_assert!(self.upgrading.is_none(), "MQTT bytes before the upgrade");
        if self.upgrading.is_none() {
            self.link.write(plain, None, wire_out);
        }
    }

    /// Appends a close frame with this status code; what the peer still sends is dropped.
    ///
    /// Does nothing before the upgrade is complete, and after a close frame of either side.
    pub fn close(&mut self, code: u16, wire_out: &mut Vec<u8>) {
        if self.upgrading.is_none() {
            self.link.close(code, None, wire_out);
        }
    }
}

impl Upgrading {
    /// Returns what came behind the request once it was answered with 101.
    fn feed<'i>(
        &mut self,
        input: &'i [u8],
        wire_out: &mut Vec<u8>,
    ) -> Result<Option<&'i [u8]>, UpgradeRefusal> {
        if self.collector.is_empty()
            && input.first().is_some_and(|first| !first.is_ascii_uppercase())
        {
            return Err(UpgradeRefusal::NotHttp);
        }
        match self.collector.feed(input, self.config.head_bytes_max) {
            Head::Partial => Ok(None),
            Head::TooLarge => Err(UpgradeRefusal::HeadTooLarge),
            Head::Complete(head, behind) => {
                upgrade::answer(&head, &self.config, wire_out)?;
                Ok(Some(behind))
            }
        }
    }
}
