//! One TLS connection, driven by hand.

use std::sync::Arc;
use std::{fmt, mem};

use bytes::BytesMut;
use petrel_proto::Text;
use rustls::HandshakeKind;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls_pki_types::UnixTime;

use super::clients::Clients;
use super::compact::{CompactSession, TrafficSecrets};
use super::config::{RecordLayer, TlsConfig};
use super::error::{NotTls, ProtocolFault, TlsError};

/// Most bytes of input that a session keeps until the rest of a record arrives.
///
/// *Bounds*: the largest TLS 1.3 record (2^14 + 256) and its header; no suite we offer needs more in
/// TLS 1.2. A handshake message spread over several records has to fit as well.
pub const TAIL_BYTES_MAX: usize = RECORD_HEADER_LEN + (1 << 14) + 256;

const RECORD_HEADER_LEN: usize = 5;
const FRAGMENT_BYTES_MAX: usize = 1 << 14;
/// Header, explicit nonce and tag of TLS 1.2 AES-GCM; the TLS 1.3 overhead is smaller.
const RECORD_OVERHEAD_MAX: usize = RECORD_HEADER_LEN + 8 + 16;
/// Room for a key update or an alert that leaves together with application data.
const CONTROL_ROOM: usize = 128;

const ALERT_DECODE_ERROR: u8 = 50;
const ALERT_RECORD_OVERFLOW: u8 = 22;

/// The server side of one TLS connection.
///
/// Movable between threads at any point, with what it has read but not used.
pub struct TlsSession(Mode);

/// Who protects the records.
enum Mode {
    /// The library: always in the handshake, in TLS 1.2, and where the listener says so.
    Library(Box<Inner>),
    /// The record layer of our own.
    Compact(CompactSession),
    /// The session ended between the two.
    Lost,
}

struct Inner {
    conn: UnbufferedServerConnection,
    /// Present until the handshake is complete and all has been done that follows from it.
    shaking: Option<Box<Shaking>>,
    /// Input that is not consumed: a partial record, or in the handshake also whole records that hold
    /// the beginning of a message. The library keeps offsets from its first byte, and has decrypted
    /// it in place where it could, so it is neither moved within nor read again from the wire.
    tail: Vec<u8>,
    phase: Phase,
    /// We have said `close_notify`. The library would go on encrypting, and would answer broken input
    /// with a second alert.
    write_closed: bool,
}

/// What is kept for the end of a handshake.
struct Shaking {
    /// Present as long as the connection may leave the library then.
    leaving: Option<Leaving>,
    /// By what the client's certificate is looked at then.
    clients: Option<Arc<Clients>>,
}

/// What is needed to leave the library.
struct Leaving {
    secrets: TrafficSecrets,
    /// Where in the tail the record begins that is not whole. The library is given whole records, and
    /// none after the one that completes the handshake.
    record_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has been received.
    Fresh,
    /// The peer's bytes are being read.
    Open,
    /// The peer has said `close_notify`: what it sends is ignored, we may still write.
    PeerClosed,
    /// The session ended with an error.
    Failed,
}

/// Where a session stands after input was fed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProgress {
    /// The handshake is complete, now or since an earlier call.
    pub handshake_done: bool,
    /// The peer has closed its direction with `close_notify`, now or in an earlier call.
    pub peer_closed: bool,
    /// How the handshake was made, in the call that completed it.
    pub completed: Option<Handshake>,
    /// The user whom the client's certificate names, in that call.
    pub user: Option<Text>,
}

/// How a handshake was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// With all its cryptography.
    Full,
    /// As a continuation of an earlier session.
    Resumed,
    /// With all its cryptography, after the client was asked for another key share.
    Retried,
}

impl TlsSession {
    /// Begins a session that waits for a ClientHello.
    pub fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        let conn = UnbufferedServerConnection::new(config.rustls()).map_err(protocol)?;
        let leaving = match config.record_layer() {
            RecordLayer::Rustls => None,
            RecordLayer::Compact => Some(Leaving { secrets: TrafficSecrets::new(), record_at: 0 }),
        };
        let clients = config.clients();
        let is_wanted = leaving.is_some() || clients.is_some();
        let shaking = is_wanted.then(|| Box::new(Shaking { leaving, clients }));
        let inner =
            Inner { conn, shaking, tail: Vec::new(), phase: Phase::Fresh, write_closed: false };
        Ok(Self(Mode::Library(Box::new(inner))))
    }

    /// Feeds bytes from the wire; they are decrypted in place and need not be kept.
    ///
    /// Appends application bytes to `plain`, and handshake messages, tickets and alerts to `wire_out`.
    ///
    /// *Bounds*: `plain` grows by less than the input; at most [`TAIL_BYTES_MAX`] bytes are kept.
    /// *Errors*: the session is over; `plain` may hold what came before the fault (but nothing where the
    /// client's certificate has not been looked at), and `wire_out` ends with the alert for the peer.
    pub fn read(
        &mut self,
        ciphertext: &mut [u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<TlsProgress, TlsError> {
        let plain_before = plain.len();
        let is_unknown = matches!(&self.0, Mode::Library(inner) if inner.asks_who());
        let progress = self.advance(ciphertext, plain, wire_out);
        if progress.is_err() && is_unknown {
            // Nobody could say who has sent it.
            plain.truncate(plain_before);
        }
        progress
    }

    fn advance(
        &mut self,
        mut input: &mut [u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<TlsProgress, TlsError> {
        let shaking = self.is_handshaking();
        let mut completed = None;
        let mut user = None;
        if let Mode::Library(inner) = &mut self.0
            && inner.may_leave()
        {
            let taken = inner.guarded(|inner| inner.read_handshake(input, plain, wire_out))?;
            input = input.get_mut(taken..).unwrap_or_default();
            completed = inner.handshake();
            user = inner.identify(wire_out)?;
            self.leave_library()?;
        }
        match &mut self.0 {
            Mode::Library(inner) => {
                inner.guarded(|inner| inner.read(input, plain, wire_out))?;
                let late = inner.identify(wire_out)?;
                Ok(TlsProgress {
                    handshake_done: !inner.conn.is_handshaking(),
                    peer_closed: inner.phase == Phase::PeerClosed,
                    completed: inner.handshake().filter(|_| shaking),
                    user: user.or(late),
                })
            }
            Mode::Compact(session) => {
                let peer_closed = session.read(input, plain, wire_out)?;
                let completed = completed.filter(|_| shaking);
                Ok(TlsProgress { handshake_done: true, peer_closed, completed, user })
            }
            Mode::Lost => Err(TlsError::Failed),
        }
    }

    /// Encrypts application bytes into `wire_out`: one record for up to 16 KiB.
    ///
    /// *Errors*: [`TlsError::NotWritable`] before the handshake is complete and after
    /// [`TlsSession::close_notify`]; a fault of the library when the keys are used up (TLS 1.2 only).
    pub fn write(&mut self, plain: &[u8], wire_out: &mut Vec<u8>) -> Result<(), TlsError> {
        match &mut self.0 {
            Mode::Library(inner) => inner.write(plain, wire_out),
            Mode::Compact(session) => Ok(session.write(plain, wire_out)?),
            Mode::Lost => Err(TlsError::Failed),
        }
    }

    /// Says that no more application bytes will follow; what the peer still sends is dropped.
    ///
    /// Does nothing before the handshake is complete, after an error, or a second time.
    pub fn close_notify(&mut self, wire_out: &mut Vec<u8>) {
        match &mut self.0 {
            Mode::Library(inner) => inner.close_notify(wire_out),
            Mode::Compact(session) => session.close_notify(wire_out),
            Mode::Lost => {}
        }
    }

    /// Whether the handshake is not complete yet.
    pub fn is_handshaking(&self) -> bool {
        match &self.0 {
            Mode::Library(inner) => inner.conn.is_handshaking(),
            Mode::Compact(_) | Mode::Lost => false,
        }
    }

    /// Whether the connection has left the library for [`RecordLayer::Compact`].
    pub fn is_compact(&self) -> bool {
        matches!(self.0, Mode::Compact(_))
    }

    /// How many bytes of input are kept until more arrives: 0 between two records.
    ///
    /// *Bounds*: at most [`TAIL_BYTES_MAX`]. A caller that cuts slow senders looks here.
    pub fn tail_bytes(&self) -> usize {
        match &self.0 {
            Mode::Library(inner) => inner.tail.len(),
            Mode::Compact(session) => session.tail_bytes(),
            Mode::Lost => 0,
        }
    }

    /// Goes over to the record layer of our own, if the handshake has just been completed.
    ///
    /// This is the last moment at which the library can be asked about the peer: whoever needs its
    /// certificates, the server name or the protocol of ALPN later takes them here.
    fn leave_library(&mut self) -> Result<(), TlsError> {
        let Mode::Library(inner) = &mut self.0 else { return Ok(()) };
        if inner.conn.is_handshaking() || inner.phase != Phase::Open {
            return Ok(());
        }
        let Some(leaving) = inner.take_leaving() else { return Ok(()) };
        inner.forget_handshake();
        if !CompactSession::accepts(&inner.conn) || !inner.tail.is_empty() {
            // TLS 1.2.
            return Ok(());
        }
        if let Mode::Library(inner) = mem::replace(&mut self.0, Mode::Lost) {
            let session = CompactSession::from_server(inner.conn, leaving.secrets);
            self.0 = Mode::Compact(session.map_err(TlsError::Handover)?);
        }
        Ok(())
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase: &dyn fmt::Debug = match &self.0 {
            Mode::Library(inner) => &inner.phase,
            Mode::Compact(session) => session,
            Mode::Lost => &"Lost",
        };
        f.debug_struct("TlsSession")
            .field("phase", phase)
            .field("tail_bytes", &self.tail_bytes())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Lets a failed call end the session.
    fn guarded<T>(
        &mut self,
        call: impl FnOnce(&mut Self) -> Result<T, TlsError>,
    ) -> Result<T, TlsError> {
        call(self).inspect_err(|_| {
            self.phase = Phase::Failed;
            self.tail = Vec::new();
            self.shaking = None;
        })
    }

    /// Whether the client's certificate is still to be looked at.
    fn asks_who(&self) -> bool {
        self.shaking.as_ref().is_some_and(|shaking| shaking.clients.is_some())
    }

    /// Whether the connection leaves the library when its handshake is complete.
    fn may_leave(&self) -> bool {
        self.shaking.as_ref().is_some_and(|shaking| shaking.leaving.is_some())
    }

    fn take_leaving(&mut self) -> Option<Leaving> {
        self.shaking.as_mut().and_then(|shaking| shaking.leaving.take())
    }

    fn put_leaving(&mut self, leaving: Leaving) {
        if let Some(shaking) = &mut self.shaking {
            shaking.leaving = Some(leaving);
        }
    }

    /// Gives back the memory of what is done.
    fn forget_handshake(&mut self) {
        if !self.asks_who() && !self.may_leave() {
            self.shaking = None;
        }
    }

    /// Looks at the client's certificate once the handshake is complete, and at nothing afterwards.
    ///
    /// *Errors*: it is no good.
    fn identify(&mut self, wire_out: &mut Vec<u8>) -> Result<Option<Text>, TlsError> {
        let Some(kind) = self.conn.handshake_kind().filter(|_| !self.conn.is_handshaking()) else {
            return Ok(None);
        };
        let clients = self.shaking.as_mut().and_then(|shaking| shaking.clients.take());
        let Some(clients) = clients else { return Ok(None) };
        self.forget_handshake();
        let resumed = kind == HandshakeKind::Resumed;
        let found = clients.identify(self.conn.peer_certificates(), resumed, UnixTime::now());
        found.map_err(|fault| {
            self.close_notify(wire_out);
            self.phase = Phase::Failed;
            self.shaking = None;
            TlsError::Client(fault)
        })
    }

    /// How the handshake was made, once it is complete.
    fn handshake(&self) -> Option<Handshake> {
        if self.conn.is_handshaking() {
            return None;
        }
        Some(match self.conn.handshake_kind()? {
            HandshakeKind::Full => Handshake::Full,
            HandshakeKind::FullWithHelloRetryRequest => Handshake::Retried,
            HandshakeKind::Resumed => Handshake::Resumed,
        })
    }

    /// Looks at the first byte of input, and returns whether the input is to be read at all.
    fn admit(&mut self, first: Option<&u8>, wire_out: &mut Vec<u8>) -> Result<bool, TlsError> {
        match (self.phase, first) {
            (Phase::Failed, _) => return Err(TlsError::Failed),
            (Phase::PeerClosed, _) | (_, None) => return Ok(false),
            _ if self.write_closed => return Ok(false),
            (Phase::Fresh, Some(&first)) => {
                if let Some(guess) = NotTls::judge(first) {
                    push_plaintext_alert(ALERT_DECODE_ERROR, wire_out);
                    return Err(TlsError::NotTls(guess));
                }
                self.phase = Phase::Open;
            }
            (Phase::Open, Some(_)) => {}
        }
        Ok(true)
    }

    /// Reads record by record until the handshake is complete, and returns how much was read.
    ///
    /// All of it is copied to the tail: it is little, and records of one message stay together.
    fn read_handshake(
        &mut self,
        input: &[u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let Some(mut leaving) = self.take_leaving() else { return Ok(0) };
        if !self.admit(input.first(), wire_out)? {
            self.put_leaving(leaving);
            return Ok(input.len());
        }
        let mut tail = mem::take(&mut self.tail);
        let mut rest = input;
        while !rest.is_empty() && self.phase == Phase::Open && self.conn.is_handshaking() {
            let missing = missing(tail.get(leaving.record_at..).unwrap_or_default());
            let (head, after) = rest.split_at(missing.min(rest.len()));
            rest = after;
            tail.reserve_exact(head.len());
            tail.extend_from_slice(head);
            let record = tail.get(leaving.record_at..).unwrap_or_default();
            let whole = self::missing(record) == usize::MAX;
            // What is not whole is shown too when there is no more, for its header may be wrong.
            if whole || rest.is_empty() {
                let used = leaving.secrets.capture(|| self.process(&mut tail, plain, wire_out))?;
                tail.drain(..used);
                leaving.record_at = match whole {
                    true => tail.len(),
                    false => leaving.record_at.saturating_sub(used),
                };
            }
            self.keep(tail, wire_out)?;
            tail = mem::take(&mut self.tail);
        }
        self.tail = tail;
        self.put_leaving(leaving);
        Ok(input.len() - rest.len())
    }

    fn read(
        &mut self,
        mut input: &mut [u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        if !self.admit(input.first(), wire_out)? {
            return Ok(());
        }
        // While a tail is kept, only as much input is copied behind it as completes its record; the
        // rest is decrypted where it lies.
        while !self.tail.is_empty() && !input.is_empty() {
            let (head, rest) = input.split_at_mut(missing(&self.tail).min(input.len()));
            input = rest;
            let mut tail = std::mem::take(&mut self.tail);
            tail.reserve_exact(head.len());
            tail.extend_from_slice(head);
            let used = self.process(&mut tail, plain, wire_out)?;
            tail.drain(..used);
            self.keep(tail, wire_out)?;
        }
        if !input.is_empty() {
            let used = self.process(input, plain, wire_out)?;
            let rest = input.get(used..).unwrap_or_default().to_vec();
            self.keep(rest, wire_out)?;
        }
        Ok(())
    }

    fn keep(&mut self, tail: Vec<u8>, wire_out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.phase == Phase::PeerClosed {
            return Ok(());
        }
        if tail.len() > TAIL_BYTES_MAX {
            if self.conn.is_handshaking() {
                push_plaintext_alert(ALERT_RECORD_OVERFLOW, wire_out);
            }
            return Err(TlsError::TooLarge);
        }
        // An empty vector owns no memory once it has been replaced by a new one.
        self.tail = if tail.is_empty() { Vec::new() } else { tail };
        Ok(())
    }

    /// Runs the library over `input` until it wants more, and returns how much of it is used up.
    fn process(
        &mut self,
        input: &mut [u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.conn.process_tls_records(&mut input[used..]);
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(protocol)?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, wire_out);
                    true
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => {
                    transmit.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.phase = Phase::PeerClosed;
                    false
                }
                Ok(_) => false,
                Err(error) => {
                    self.flush_alert(&mut input[used + discard..], wire_out);
                    return Err(protocol(error));
                }
            };
            used += discard;
            if !more {
                return Ok(used);
            }
        }
    }

    /// Takes what the library has queued for the peer after an error.
    ///
    /// It must not be run once more than there is to send: it would go on with the input that it has
    /// refused.
    fn flush_alert(&mut self, input: &mut [u8], wire_out: &mut Vec<u8>) {
        while self.conn.wants_write() {
            match self.conn.process_tls_records(input).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, wire_out),
                _ => return,
            }
        }
    }

    fn write(&mut self, plain: &[u8], wire_out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.conn.is_handshaking() || self.write_closed {
            return Err(TlsError::NotWritable);
        }
        if plain.is_empty() {
            return Ok(());
        }
        let records = plain.len().div_ceil(FRAGMENT_BYTES_MAX);
        let room = plain.len() + records * RECORD_OVERHEAD_MAX + CONTROL_ROOM;
        self.with_traffic(wire_out, room, |traffic, out| traffic.encrypt(plain, out))
    }

    fn close_notify(&mut self, wire_out: &mut Vec<u8>) {
        if !self.conn.is_handshaking() && !self.write_closed {
            self.write_closed = true;
            // There is nothing to be told if it fails: the connection is being closed.
            let _ = self.with_traffic(wire_out, CONTROL_ROOM, |t, out| t.queue_close_notify(out));
            // Last, because the library has to be shown what it holds offsets into.
            self.tail = Vec::new();
        }
    }

    /// Lets `seal` write up to `room` bytes at the end of `wire_out`.
    fn with_traffic(
        &mut self,
        wire_out: &mut Vec<u8>,
        room: usize,
        seal: impl Fn(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsError> {
        if self.phase == Phase::Failed {
            return Err(TlsError::Failed);
        }
        loop {
            // The tail is shown because the library may hold offsets into it; all that could be read
            // from it has been read.
            let UnbufferedStatus { discard, state } = self.conn.process_tls_records(&mut self.tail);
            debug_assert_eq!(discard, 0);
            match state.map_err(protocol)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    return append(wire_out, room, |out| seal(&mut traffic, out));
                }
                ConnectionState::EncodeTlsData(data) => encode(data, wire_out),
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                _ => return Err(TlsError::NotWritable),
            }
        }
    }
}

type Traffic<'c> = WriteTraffic<'c, ServerConnectionData>;

fn protocol(error: rustls::Error) -> TlsError {
    TlsError::Protocol(ProtocolFault(error))
}

/// How many bytes a kept tail lacks to be a whole record; everything, when it already is one.
///
/// Only a hint for how much to copy: in the handshake the tail may hold several records.
fn missing(tail: &[u8]) -> usize {
    let Some(&[_, _, _, high, low]) = tail.first_chunk::<RECORD_HEADER_LEN>() else {
        return RECORD_HEADER_LEN - tail.len();
    };
    let record = RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
    match record.saturating_sub(tail.len()) {
        0 => usize::MAX,
        missing => missing,
    }
}

/// An alert for a peer with which no keys are shared yet.
fn push_plaintext_alert(description: u8, wire_out: &mut Vec<u8>) {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    wire_out.extend_from_slice(&[ALERT, 3, 3, 0, 2, FATAL, description]);
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, wire_out: &mut Vec<u8>) {
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
        return;
    };
    let start = wire_out.len();
    wire_out.resize(start + size.required_size, 0);
    let written = data.encode(&mut wire_out[start..]).unwrap_or(0);
    wire_out.truncate(start + written);
}

fn append(
    wire_out: &mut Vec<u8>,
    room: usize,
    mut seal: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), TlsError> {
    let start = wire_out.len();
    wire_out.resize(start + room, 0);
    let mut written = seal(&mut wire_out[start..]);
    if let Err(EncryptError::InsufficientSize(size)) = written {
        wire_out.resize(start + size.required_size, 0);
        written = seal(&mut wire_out[start..]);
    }
    wire_out.truncate(start + written.as_ref().copied().unwrap_or(0));
    written.map(drop).map_err(|_| protocol(rustls::Error::EncryptError))
}
