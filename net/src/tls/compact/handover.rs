//! From a finished handshake of rustls to a compact session.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion, Side};

use super::capture::TrafficSecrets;
use super::keys::{Direction, Keys, Pair};
use super::session::{CompactSession, Held, State};

/// Why a connection was not taken over; it is gone and has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandoverError {
    /// The handshake is not complete, or the library still has something to send.
    NotReady,
    /// Only TLS 1.3 has this record layer.
    NotTls13,
    /// The library refused, which it does without [`super::prepare_server`] or
    /// [`super::prepare_client`]; or the suite is unknown.
    Refused,
    /// The secrets captured do not lead to the keys in use: capture began too late, or the keys have
    /// been updated since the handshake.
    OtherKeys,
}

impl CompactSession {
    /// Takes over the server side of a connection.
    ///
    /// All that the library wanted to send has to be encoded already, and no partial record may be
    /// left. What else is wanted of the connection (peer certificates, server name, ALPN) has to be
    /// taken before. Give it no record after the one that completed the handshake: a KeyUpdate among
    /// them could not be followed.
    ///
    /// *Errors*: the connection is gone; see [`HandoverError`]. [`CompactSession::accepts`] tells the
    /// first two before.
    pub fn from_server(
        conn: UnbufferedServerConnection,
        secrets: TrafficSecrets,
    ) -> Result<Self, HandoverError> {
        check(&conn)?;
        let extracted = conn.dangerous_into_kernel_connection();
        Self::take_over(extracted.map_err(|_| HandoverError::Refused)?.0, &secrets, Side::Server)
    }

    /// Takes over the client side of a connection.
    ///
    /// As [`CompactSession::from_server`]. Session tickets that arrive afterwards are ignored: a client
    /// that wants to resume lets the library read until
    /// [`UnbufferedClientConnection::tls13_tickets_received`] says that one came. A KeyUpdate of the
    /// server among these records makes the take-over fail with [`HandoverError::OtherKeys`].
    ///
    /// *Errors*: the connection is gone; see [`HandoverError`].
    pub fn from_client(
        conn: UnbufferedClientConnection,
        secrets: TrafficSecrets,
    ) -> Result<Self, HandoverError> {
        check(&conn)?;
        let extracted = conn.dangerous_into_kernel_connection();
        Self::take_over(extracted.map_err(|_| HandoverError::Refused)?.0, &secrets, Side::Client)
    }

    /// Whether a connection is where it can be taken over.
    pub fn accepts(common: &CommonState) -> bool {
        check(common).is_ok()
    }

    fn take_over(
        extracted: ExtractedSecrets,
        secrets: &TrafficSecrets,
        side: Side,
    ) -> Result<Self, HandoverError> {
        use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
        let held = match &extracted.tx.1 {
            Aes128Gcm { .. } => Held::Aes128(State::boxed(side, Pair::empty())),
            Aes256Gcm { .. } => Held::Aes256(State::boxed(side, Pair::empty())),
            Chacha20Poly1305 { .. } => Held::ChaCha20(State::boxed(side, Pair::empty())),
            _ => return Err(HandoverError::Refused),
        };
        let peer = match side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        let mut session = Self::new(held);
        let state = session.state_mut();
        state.receive_sequence = extracted.rx.0;
        state.send_sequence = extracted.tx.0;
        install(&mut state.keys, Direction::Receive, secrets.sent_by(peer), &extracted.rx.1)?;
        install(&mut state.keys, Direction::Send, secrets.sent_by(side), &extracted.tx.1)?;
        Ok(session)
    }
}

fn check(common: &CommonState) -> Result<(), HandoverError> {
    if common.is_handshaking() || common.wants_write() {
        Err(HandoverError::NotReady)
    } else if common.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        Err(HandoverError::NotTls13)
    } else {
        Ok(())
    }
}

/// Puts a secret in place if it leads to the key and IV that the library uses.
fn install(
    keys: &mut dyn Keys,
    direction: Direction,
    secret: &[u8],
    in_use: &ConnectionTrafficSecrets,
) -> Result<(), HandoverError> {
    use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    let (Aes128Gcm { key, iv } | Aes256Gcm { key, iv } | Chacha20Poly1305 { key, iv }) = in_use
    else {
        return Err(HandoverError::Refused);
    };
    keys.install(direction, secret).map_err(|_| HandoverError::OtherKeys)?;
    let (_, own_key, own_iv) = keys.parts(direction);
    let same = verify_slices_are_equal(own_key, key.as_ref())
        .and_then(|()| verify_slices_are_equal(own_iv, iv.as_ref()));
    same.map_err(|_| HandoverError::OtherKeys)
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "the TLS handshake is not complete",
            Self::NotTls13 => "only TLS 1.3 has a compact record layer",
            Self::Refused => "the TLS library does not hand its secrets out",
            Self::OtherKeys => "the TLS keys in use are not those of the handshake",
        })
    }
}

impl std::error::Error for HandoverError {}
