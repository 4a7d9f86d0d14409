//! What lies between a socket and MQTT.

use bytes::BytesMut;
use petrel_proto::Text;

use crate::listener::Protocol;
use crate::stages::State;
use crate::tls::{Handshake, TlsError, TlsProgress, TlsSession};
use crate::websocket::WebSocket;

/// Status code of a close frame that ends a connection in good order, RFC 6455 section 7.4.1.
const NORMAL_CLOSURE: u16 = 1000;

/// The layers of one connection.
#[derive(Debug)]
pub(crate) enum Transport {
    /// None.
    Plain,
    /// TLS.
    Tls(TlsSession),
    /// WebSocket.
    Ws(Box<WebSocket>),
    /// WebSocket inside TLS.
    Wss(Box<(TlsSession, WebSocket)>),
}

/// Buffers between two layers, empty between calls.
#[derive(Debug, Default)]
pub(crate) struct Between {
    incoming: BytesMut,
    outgoing: Vec<u8>,
    /// What came of a handshake in the last read, until somebody takes it.
    pub(crate) completed: Option<Completed>,
}

/// What came of a handshake.
#[derive(Debug)]
pub(crate) enum Completed {
    /// It is complete; the client's certificate names this user, if there is one.
    Good(Handshake, Option<Text>),
    /// The client's certificate is no good.
    Refused(TlsError),
}

/// Whether the layers have more to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The stream goes on.
    Open,
    /// The peer has ended it, orderly or not; what is in `wire_out` is still owed to it.
    Over,
}

impl Transport {
    /// The layers that a listener's connections start with.
    pub(crate) fn new(protocol: &Protocol) -> Result<Self, TlsError> {
        Ok(match protocol {
            Protocol::Mqtt => Self::Plain,
            Protocol::Mqtts(tls) => Self::Tls(TlsSession::new(tls)?),
            Protocol::Ws(config) => Self::Ws(Box::new(WebSocket::new(config))),
            Protocol::Wss(tls, config) => {
                Self::Wss(Box::new((TlsSession::new(tls)?, WebSocket::new(config))))
            }
        })
    }

    /// Whether MQTT bytes are what the socket carries.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Whether a TLS handshake is still to be begun or to be finished.
    pub(crate) fn is_handshaking(&self) -> bool {
        match self {
            Self::Plain | Self::Ws(_) => false,
            Self::Tls(session) => session.is_handshaking(),
            Self::Wss(layers) => layers.0.is_handshaking(),
        }
    }

    /// The state of a connection with these layers once it is connected.
    pub(crate) fn state(&self) -> State {
        match self {
            Self::Plain => State::Plain,
            Self::Tls(session) if session.is_compact() => State::TlsCompact,
            Self::Tls(_) => State::Tls,
            Self::Ws(_) => State::Ws,
            Self::Wss(_) => State::Wss,
        }
    }

    /// Whether the peer has begun something between the socket and MQTT and not ended it: a record, a
    /// frame, a message of several frames.
    pub(crate) fn is_partial(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(session) => session.tail_bytes() > 0,
            Self::Ws(socket) => socket.is_partial(),
            Self::Wss(layers) => layers.0.tail_bytes() > 0 || layers.1.is_partial(),
        }
    }

    /// Takes what was read from the socket; MQTT bytes go to `plain`, answers of the layers to
    /// `wire_out`.
    pub(crate) fn read(
        &mut self,
        wire: &mut [u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
        between: &mut Between,
    ) -> Input {
        match self {
            Self::Plain => {
                plain.extend_from_slice(wire);
                Input::Open
            }
            Self::Tls(session) => read_tls(session, wire, plain, wire_out, &mut between.completed),
            Self::Ws(socket) => read_ws(socket, wire, plain, wire_out),
            Self::Wss(layers) => {
                let (session, socket) = &mut **layers;
                let Between { incoming, outgoing, completed } = between;
                let outer = read_tls(session, wire, incoming, wire_out, completed);
                let inner = read_ws(socket, incoming, plain, outgoing);
                // It fails only for a session that reading has just found to be over.
                let _ = session.write(outgoing, wire_out);
                incoming.clear();
                outgoing.clear();
                if outer == Input::Open { inner } else { outer }
            }
        }
    }

    /// Wraps MQTT bytes.
    pub(crate) fn write(&mut self, plain: &[u8], wire_out: &mut Vec<u8>, between: &mut Between) {
        // Writing fails only for a session that reading has found to be over.
        match self {
            Self::Plain => wire_out.extend_from_slice(plain),
            Self::Tls(session) => {
                let _ = session.write(plain, wire_out);
            }
            Self::Ws(socket) => socket.write(plain, wire_out),
            Self::Wss(layers) => {
                layers.1.write(plain, &mut between.outgoing);
                let _ = layers.0.write(&between.outgoing, wire_out);
                between.outgoing.clear();
                between.outgoing.shrink_to(64 << 10);
            }
        }
    }

    /// Takes leave of the peer.
    pub(crate) fn close(&mut self, wire_out: &mut Vec<u8>) {
        match self {
            Self::Plain => {}
            Self::Tls(session) => session.close_notify(wire_out),
            Self::Ws(socket) => socket.close(NORMAL_CLOSURE, wire_out),
            Self::Wss(layers) => {
                let mut frame = Vec::new();
                layers.1.close(NORMAL_CLOSURE, &mut frame);
                let _ = layers.0.write(&frame, wire_out);
                layers.0.close_notify(wire_out);
            }
        }
    }
}

fn read_tls(
    session: &mut TlsSession,
    wire: &mut [u8],
    plain: &mut BytesMut,
    wire_out: &mut Vec<u8>,
    completed: &mut Option<Completed>,
) -> Input {
    match session.read(wire, plain, wire_out) {
        Ok(TlsProgress { completed: kind, user, peer_closed, .. }) => {
            *completed = kind.map(|kind| Completed::Good(kind, user));
            if peer_closed { Input::Over } else { Input::Open }
        }
        Err(error) => {
            *completed = error.is_about_certificate().then_some(Completed::Refused(error));
            Input::Over
        }
    }
}

fn read_ws(
    socket: &mut WebSocket,
    wire: &[u8],
    plain: &mut BytesMut,
    wire_out: &mut Vec<u8>,
) -> Input {
    match socket.read(wire, plain, wire_out) {
        Ok(progress) if !progress.peer_closed => Input::Open,
        _ => Input::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_a_connection_are_two_words() {
        assert_eq!(size_of::<Transport>(), 2 * size_of::<usize>());
    }
}
