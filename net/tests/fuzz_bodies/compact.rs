//! Records from a peer with valid keys and no scruples, against a second reading of the rules.

use bytes::BytesMut;
use petrel_net::tls::compact::{CompactSession, RECORD_BYTES_MAX, RecordFault};
use rustls::Side;

use crate::rig::contents::{ALERT, APPLICATION_DATA, HANDSHAKE};
use crate::rig::{Forger, Opened, ROLES, SUITES, forged};

/// What a program of the fuzzer's may do, one byte each, arguments after it.
#[derive(Debug, Clone)]
enum Step<'a> {
    /// A record with this inner plaintext arrives.
    Record(Vec<u8>),
    /// Bytes arrive that were never sealed.
    Noise(&'a [u8]),
    /// We write.
    Write(usize),
    /// We change our key.
    OwnUpdate(bool),
    /// We close.
    Close,
}

/// The first byte selects role, suite, and how soon keys wear out; the rest is a program. It is run
/// twice, with the input in one piece and byte by byte, and both have to end the same.
pub fn compact(input: &[u8]) {
    let Some((&selector, program)) = input.split_first() else { return };
    let role = ROLES[usize::from(selector & 1)];
    let suite = SUITES[usize::from(selector >> 1 & 3) % SUITES.len()];
    let steps = parse(program);
    let whole = Run::new(role, suite, selector).all(&steps, usize::MAX);
    let pieces = Run::new(role, suite, selector).all(&steps, 1 + usize::from(selector >> 6) * 7);
    assert_eq!(whole, pieces, "the pieces matter");
}

fn parse(mut program: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut take = |count: usize| {
        let (taken, rest) = program.split_at(count.min(program.len()));
        program = rest;
        taken
    };
    while let [code] = *take(1) {
        let argument = take(1).first().copied().unwrap_or(0);
        steps.push(match code % 8 {
            // Content as it stands, with a type and padding of its own or without.
            0 => Step::Record(take(argument.into()).to_vec()),
            1 => Step::Record([take(argument.into()), &[APPLICATION_DATA]].concat()),
            2 => Step::Record([take(argument.into()), &[HANDSHAKE]].concat()),
            3 => Step::Record([take((argument & 3).into()), &[ALERT]].concat()),
            4 => Step::Record(vec![24, 0, 0, 1, argument, HANDSHAKE]),
            5 => Step::Noise(take(argument.into())),
            6 if argument == 255 => Step::Close,
            6 if argument > 252 => Step::OwnUpdate(argument & 1 != 0),
            6 => Step::Write(usize::from(argument) * 70),
            _ => Step::Record([vec![9; 16_300 + usize::from(argument)], vec![23]].concat()),
        });
        if steps.len() == 100 {
            break;
        }
    }
    steps
}

/// What there is to see from outside.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    plain: Vec<u8>,
    /// Content of our records, KeyUpdates left out: how many are asked for in one read differs.
    sent: Vec<Opened>,
    fault: Option<RecordFault>,
    peer_closed: bool,
}

struct Run {
    session: CompactSession,
    forger: Forger,
    model: Model,
    seen: Seen,
    closed: bool,
}

impl Run {
    fn new(role: Side, suite: rustls::SupportedCipherSuite, selector: u8) -> Self {
        let (mut session, forger) = forged(role, suite);
        session.set_update_after_log2(if selector & 8 == 0 { 23 } else { 3 });
        let model = Model { role, ..Model::new() };
        Self { session, forger, model, seen: Seen::default(), closed: false }
    }

    fn all(mut self, steps: &[Step<'_>], piece: usize) -> Seen {
        let mut noise = false;
        for step in steps {
            match step {
                Step::Record(inner) if inner.len() <= (1 << 14) + 240 => {
                    let wire = self.forger.raw(inner);
                    self.arrive(wire, piece, (!noise).then_some(&inner[..]));
                }
                Step::Record(_) => {}
                Step::Noise(bytes) => {
                    // From here on nothing decrypts, unless nothing was sent.
                    noise |= !bytes.is_empty();
                    self.arrive(bytes.to_vec(), piece, None);
                }
                Step::Write(length) => self.write(*length),
                Step::OwnUpdate(ask) => {
                    let mut out = Vec::new();
                    let done = self.session.update_keys(*ask, &mut out);
                    assert_eq!(done.is_ok(), self.writable());
                    self.sent(&out);
                }
                Step::Close => {
                    let mut out = Vec::new();
                    self.session.close_notify(&mut out);
                    assert_eq!(out.is_empty(), !self.writable());
                    self.sent(&out);
                    self.closed = true;
                }
            }
        }
        self.seen
    }

    fn writable(&self) -> bool {
        !self.closed && self.seen.fault.is_none()
    }

    fn write(&mut self, length: usize) {
        let mut out = Vec::new();
        let written = self.session.write(&vec![1; length], &mut out);
        assert_eq!(written.is_ok(), self.writable());
        self.sent(&out);
    }

    fn arrive(&mut self, mut wire: Vec<u8>, piece: usize, inner: Option<&[u8]>) {
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        let listening = self.writable() && !self.seen.peer_closed;
        let step = piece.min(wire.len()).max(1);
        for part in wire.chunks_mut(step) {
            let before = (plain.len(), out.len());
            let failed = self.seen.fault.is_some();
            match self.session.read(part, &mut plain, &mut out) {
                Ok(closed) => {
                    assert!(!failed);
                    self.seen.peer_closed |= closed;
                }
                Err(RecordFault::Failed) => {
                    assert!(failed);
                    assert_eq!(before, (plain.len(), out.len()));
                }
                Err(fault) => {
                    assert!(!failed);
                    self.seen.fault = Some(fault);
                }
            }
            assert!(self.session.tail_bytes() <= RECORD_BYTES_MAX);
        }
        if let (Some(inner), true) = (inner, listening) {
            let expected = self.model.record(inner);
            assert_eq!(self.seen.fault.is_none(), expected.is_ok(), "{inner:?}");
            assert_eq!(self.seen.peer_closed, self.model.closed);
            assert_eq!(&plain[..], expected.unwrap_or_default());
            if std::mem::take(&mut self.model.updated) {
                self.forger.update();
            }
        }
        self.seen.plain.extend_from_slice(&plain);
        self.sent(&out);
    }

    /// Everything that we send decrypts, and the last of it is the alert for the fault.
    fn sent(&mut self, out: &[u8]) {
        let opened = self.forger.open(out);
        let alerts = opened.iter().filter(|it| it.kind == ALERT).count();
        assert!(alerts <= 1);
        if let Some(alert) = self.seen.fault.and_then(RecordFault::alert)
            && alerts > 0
        {
            assert_eq!(opened.last().map(|it| &it.content[..]), Some(&[2, alert][..]));
        }
        self.seen.sent.extend(opened.into_iter().filter(|it| it.kind != HANDSHAKE));
    }
}

/// The rules once more, in the plainest way: a buffer of handshake bytes, looked through as a whole.
struct Model {
    role: Side,
    handshake: Vec<u8>,
    idle: usize,
    closed: bool,
    /// The record just read was the last under its key.
    updated: bool,
}

impl Model {
    const fn new() -> Self {
        Self { role: Side::Server, handshake: Vec::new(), idle: 0, closed: false, updated: false }
    }

    /// The application bytes of a record, or that it ends the session.
    fn record<'r>(&mut self, inner: &'r [u8]) -> Result<&'r [u8], ()> {
        let padding = inner.iter().rev().take_while(|&&byte| byte == 0).count();
        let (&kind, content) = inner[..inner.len() - padding].split_last().ok_or(())?;
        if inner.len() > (1 << 14) + 1 || (kind != HANDSHAKE && !self.handshake.is_empty()) {
            return Err(());
        }
        let idle = kind != APPLICATION_DATA || content.is_empty();
        let close = kind == ALERT && content.len() == 2 && content[1] == 0;
        self.idle = if idle && !close { self.idle + 1 } else { 0 };
        if self.idle > 32 {
            return Err(());
        }
        match (kind, content) {
            (APPLICATION_DATA, _) => Ok(content),
            (ALERT, [_, 0]) => {
                self.closed = true;
                Ok(&[])
            }
            (ALERT, [_, 90]) => Ok(&[]),
            (HANDSHAKE, [_, ..]) => {
                self.handshake.extend_from_slice(content);
                self.messages().map(|()| &[][..])
            }
            _ => Err(()),
        }
    }

    fn messages(&mut self) -> Result<(), ()> {
        while let Some(&kind) = self.handshake.first() {
            if kind != 24 && (kind != 4 || self.role == Side::Server) {
                return Err(());
            }
            let Some(&[_, high, middle, low]) = self.handshake.first_chunk() else { return Ok(()) };
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if (kind == 24 && length != 1) || length > (1 << 17) + 300 {
                return Err(());
            }
            if self.handshake.len() < 4 + length {
                return Ok(());
            }
            if kind == 24 && (self.handshake[4] > 1 || self.handshake.len() > 5) {
                return Err(());
            }
            self.updated |= kind == 24;
            self.handshake.drain(..4 + length);
        }
        Ok(())
    }
}
