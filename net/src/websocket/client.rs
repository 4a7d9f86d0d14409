//! The client side of WebSocket, for the command line tools and the load generator.

use std::fmt;

use bytes::BytesMut;
use httparse::{EMPTY_HEADER, Response, Status};

use super::frame::{FrameFault, Masks};
use super::http::{Head, HeadCollector, accept, has_member, key, single};
use super::link::{Link, Phase};
use super::{MESSAGE_BYTES_MAX, WsProgress};

const HEAD_BYTES_MAX: usize = 8192;
const HEADER_FIELDS_MAX: usize = 64;
const SUBPROTOCOL: &str = "mqtt";

/// The client side of one WebSocket connection.
///
/// Masks come from the caller and have to be unpredictable (RFC 6455 section 5.3): it has the random
/// source, this type has none.
#[derive(Debug)]
pub struct WebSocketClient {
    /// Present until the upgrade is complete.
    upgrading: Option<Box<Upgrading>>,
    link: Link,
}

#[derive(Debug)]
struct Upgrading {
    accept: String,
    collector: HeadCollector,
}

/// Why a client's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientError {
    /// The answer is not HTTP, or its head is larger than 8 KiB.
    NotHttp,
    /// The server answered with this status code and not with 101.
    Refused(u16),
    /// The answer 101 lacks a field or has a wrong one.
    BadUpgrade,
    /// The server did not choose the sub-protocol `mqtt` [MQTT5-6.0.0-4] [MQTT311-6.0.0-4].
    Subprotocol,
    /// The server broke the framing.
    Frame(FrameFault),
    /// The connection has failed before.
    Failed,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttp => f.write_str("the server does not answer in HTTP"),
            Self::Refused(404) => {
                f.write_str("the server has no WebSocket at this path (HTTP status 404)")
            }
            Self::Refused(status) => {
                write!(f, "the server refuses the WebSocket upgrade with HTTP status {status}")
            }
            Self::BadUpgrade => f.write_str("the server's answer to the upgrade is not valid"),
            Self::Subprotocol => f.write_str("the server does not speak MQTT over WebSocket"),
            Self::Frame(fault) => fault.fmt(f),
            Self::Failed => f.write_str("the WebSocket connection has failed before"),
        }
    }
}

impl std::error::Error for ClientError {}

impl WebSocketClient {
    /// Begins a connection: appends the upgrade request to `wire_out`.
    ///
    /// `host` is the value of the Host field, with the port when it is not the default one; `path`
    /// begins with a slash; `nonce` is random. The request offers the sub-protocol `mqtt`
    /// [MQTT5-6.0.0-3] [MQTT311-6.0.0-3].
    ///
    /// Control characters and spaces in `host` or `path` would break the request: they are the
    /// caller's to refuse.
    pub fn new(host: &str, path: &str, nonce: [u8; 16], wire_out: &mut Vec<u8>) -> Self {
        let key = key(nonce);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        );
        wire_out.extend_from_slice(request.as_bytes());
        let upgrading =
            Upgrading { accept: accept(key.as_bytes()), collector: HeadCollector::default() };
        Self {
            upgrading: Some(Box::new(upgrading)),
            link: Link::new(Masks::Forbidden, MESSAGE_BYTES_MAX),
        }
    }

    /// Feeds bytes from the wire.
    ///
    /// Appends the MQTT byte stream to `plain`, and pongs and close frames to `wire_out`, each with a
    /// mask from `mask`.
    ///
    /// *Errors*: the connection is over; a close frame says so when the upgrade was complete.
    pub fn read(
        &mut self,
        input: &[u8],
        mut mask: impl FnMut() -> [u8; 4],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<WsProgress, ClientError> {
        if self.link.phase == Phase::Failed {
            return Err(ClientError::Failed);
        }
        let mut frames = Some(input);
        if let Some(upgrading) = &mut self.upgrading {
            frames = upgrading.feed(input).inspect_err(|_| self.link.phase = Phase::Failed)?;
        }
        if let Some(frames) = frames {
            self.upgrading = None;
            let mask = || Some(mask());
            self.link.read(frames, mask, plain, wire_out).map_err(ClientError::Frame)?;
        }
        Ok(WsProgress {
            open: self.upgrading.is_none(),
            peer_closed: self.link.phase == Phase::Closed,
        })
    }

    /// Appends MQTT bytes to `wire_out` as one binary message.
    ///
    /// Does nothing when there are none, before the upgrade is complete, and after a close frame of
    /// either side.
    pub fn write(&mut self, plain: &[u8], mask: [u8; 4], wire_out: &mut Vec<u8>) {
        debug_assert!(self.upgrading.is_none(), "MQTT bytes before the upgrade");
        if self.upgrading.is_none() {
            self.link.write(plain, Some(mask), wire_out);
        }
    }

    /// Appends a close frame with this status code; what the server still sends is dropped.
    ///
    /// Does nothing before the upgrade is complete, and after a close frame of either side.
    pub fn close(&mut self, code: u16, mask: [u8; 4], wire_out: &mut Vec<u8>) {
        if self.upgrading.is_none() {
            self.link.close(code, Some(mask), wire_out);
        }
    }
}

impl Upgrading {
    /// Returns what came behind the answer once it is complete and good.
    fn feed<'i>(&mut self, input: &'i [u8]) -> Result<Option<&'i [u8]>, ClientError> {
        match self.collector.feed(input, HEAD_BYTES_MAX) {
            Head::Partial => Ok(None),
            Head::TooLarge => Err(ClientError::NotHttp),
            Head::Complete(head, behind) => {
                self.check(&head)?;
                Ok(Some(behind))
            }
        }
    }

    fn check(&self, head: &[u8]) -> Result<(), ClientError> {
        let mut headers = [EMPTY_HEADER; HEADER_FIELDS_MAX];
        let mut response = Response::new(&mut headers);
        if !matches!(response.parse(head), Ok(Status::Complete(_))) {
            return Err(ClientError::NotHttp);
        }
        match response.code {
            Some(101) => {}
            Some(status) => return Err(ClientError::Refused(status)),
            None => return Err(ClientError::NotHttp),
        }
        let headers = &*response.headers;
        let good = has_member(headers, "Upgrade", "websocket")
            && has_member(headers, "Connection", "upgrade")
            && single(headers, "Sec-WebSocket-Accept") == Some(self.accept.as_bytes())
            && headers.iter().all(|h| !h.name.eq_ignore_ascii_case("Sec-WebSocket-Extensions"));
        if !good {
            return Err(ClientError::BadUpgrade);
        }
        if single(headers, "Sec-WebSocket-Protocol") != Some(SUBPROTOCOL.as_bytes()) {
            return Err(ClientError::Subprotocol);
        }
        Ok(())
    }
}
