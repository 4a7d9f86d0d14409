//! The server's part of the opening handshake: one HTTP request in, one answer out.

use std::fmt;

use httparse::{EMPTY_HEADER, Header, Request};

use super::WebSocketConfig;
use super::http::{accept, has_member, is_key, members, single};

/// Sub-protocols in the order of our preference; the second is what clients of MQTT 3.1 used.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Why a request was not answered with an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeRefusal {
    /// The first byte is not that of a request line: another protocol.
    NotHttp,
    /// The head cannot be parsed, or lacks what every request has.
    Malformed,
    /// The head is larger than the configured maximum, or has too many fields.
    HeadTooLarge,
    /// The method is not GET.
    Method,
    /// The version is not HTTP/1.1.
    HttpVersion,
    /// Another path than the configured one.
    Path,
    /// An ordinary request that does not ask for WebSocket.
    NotUpgrade,
    /// Another version of WebSocket than 13.
    WebSocketVersion,
    /// The key is missing or is not 16 bytes in base64.
    Key,
    /// No sub-protocol that we know is offered [MQTT5-6.0.0-3] [MQTT311-6.0.0-3].
    Subprotocol,
    /// The request announces a body.
    Body,
}

impl UpgradeRefusal {
    /// The status code of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::NotHttp | Self::Malformed | Self::Key | Self::Subprotocol | Self::Body => 400,
            Self::Path => 404,
            Self::Method => 405,
            Self::NotUpgrade | Self::WebSocketVersion => 426,
            Self::HeadTooLarge => 431,
            Self::HttpVersion => 505,
        }
    }

    fn status_line(self) -> &'static str {
        match self.status() {
            400 => "400 Bad Request",
            404 => "404 Not Found",
            405 => "405 Method Not Allowed",
            426 => "426 Upgrade Required",
            431 => "431 Request Header Fields Too Large",
            _ => "505 HTTP Version Not Supported",
        }
    }

    fn extra_fields(self) -> &'static str {
        match self.status() {
            405 => "Allow: GET\r\n",
            426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            _ => "",
        }
    }

    /// Appends the answer; the connection is closed after it.
    pub(super) fn push_response(self, wire_out: &mut Vec<u8>) {
        let connection = if self.status() == 426 { "Upgrade, close" } else { "close" };
        let body = format!("{self}\n");
        let response = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {}\r\n{}\r\n{}",
            self.status_line(),
            body.len(),
            connection,
            self.extra_fields(),
            body
        );
        wire_out.extend_from_slice(response.as_bytes());
    }
}

impl fmt::Display for UpgradeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHttp => "the client does not speak HTTP on a WebSocket port",
            Self::Malformed => "the HTTP request is malformed",
            Self::HeadTooLarge => "the HTTP request head is too large",
            Self::Method => "a WebSocket upgrade needs the method GET",
            Self::HttpVersion => "a WebSocket upgrade needs HTTP/1.1",
            Self::Path => "there is no WebSocket at this path",
            Self::NotUpgrade => "this path speaks MQTT over WebSocket only",
            Self::WebSocketVersion => "WebSocket version 13 is the only one supported",
            Self::Key => "Sec-WebSocket-Key is not 16 bytes in base64",
            Self::Subprotocol => "Sec-WebSocket-Protocol does not offer mqtt",
            Self::Body => "a WebSocket upgrade has no body",
        })
    }
}

impl std::error::Error for UpgradeRefusal {}

/// Judges a complete request head and appends the answer 101 when it is good.
pub(super) fn answer(
    head: &[u8],
    config: &WebSocketConfig,
    wire_out: &mut Vec<u8>,
) -> Result<(), UpgradeRefusal> {
    let mut headers = vec![EMPTY_HEADER; config.header_fields_max];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(UpgradeRefusal::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(UpgradeRefusal::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(UpgradeRefusal::HttpVersion),
        Err(_) => return Err(UpgradeRefusal::Malformed),
    }
    check_request_line(&request, &config.path)?;
    let headers = &*request.headers;
    let key = check_fields(headers)?;
    let subprotocol = choose_subprotocol(headers).ok_or(UpgradeRefusal::Subprotocol)?;
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n",
        accept(key)
    );
    wire_out.extend_from_slice(response.as_bytes());
    Ok(())
}

fn check_request_line(request: &Request<'_, '_>, path: &str) -> Result<(), UpgradeRefusal> {
    if request.version != Some(1) {
        return Err(UpgradeRefusal::HttpVersion);
    }
    if request.method != Some("GET") {
        return Err(UpgradeRefusal::Method);
    }
    if path_of(request.path.unwrap_or_default()) != path {
        return Err(UpgradeRefusal::Path);
    }
    Ok(())
}

/// The path of a request target, which may be a whole URI, without its query.
fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find('/').map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    path.split_once('?').map_or(path, |(path, _)| path)
}

/// Checks every field but the sub-protocol and returns the key.
fn check_fields<'h>(headers: &[Header<'h>]) -> Result<&'h [u8], UpgradeRefusal> {
    if single(headers, "Host").is_none() {
        return Err(UpgradeRefusal::Malformed);
    }
    if !has_member(headers, "Upgrade", "websocket") || !has_member(headers, "Connection", "upgrade")
    {
        return Err(UpgradeRefusal::NotUpgrade);
    }
    // A body would be taken for frames.
    let has_body = members(headers, "Content-Length").any(|length| length != b"0")
        || members(headers, "Transfer-Encoding").next().is_some();
    if has_body {
        return Err(UpgradeRefusal::Body);
    }
    if single(headers, "Sec-WebSocket-Version") != Some(b"13".as_slice()) {
        return Err(UpgradeRefusal::WebSocketVersion);
    }
    single(headers, "Sec-WebSocket-Key").filter(|key| is_key(key)).ok_or(UpgradeRefusal::Key)
}

/// The sub-protocol that is echoed [MQTT5-6.0.0-4] [MQTT311-6.0.0-4].
fn choose_subprotocol(headers: &[Header<'_>]) -> Option<&'static str> {
    SUBPROTOCOLS.into_iter().find(|known| {
        members(headers, "Sec-WebSocket-Protocol").any(|offered| offered == known.as_bytes())
    })
}
