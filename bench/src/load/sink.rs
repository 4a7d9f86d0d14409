//! A stand-in for a broker that does next to nothing, so that what is measured against it is the load.
//!
//! It reads no more of a packet than it must, answers what has to be answered, and sends every PUBLISH
//! back to where it came from, byte for byte. One thread with a file table of its own.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};

use super::socket::thread_cpu;

const EVENTS_MAX: usize = 1024;
const LISTENER: u64 = u64::MAX;
/// Connections taken before others are served again.
const ACCEPTS_PER_TURN_MAX: usize = 64;
/// The thread looks this often whether it is to end.
const TURN_MAX: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// More than a storm of connections can queue while the thread is busy.
const BACKLOG: i32 = 65_535;

/// The thread, ended with this.
#[derive(Debug)]
pub struct Sink {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

#[derive(Debug, Default)]
struct Shared {
    ends: AtomicBool,
    cpu_ns: AtomicU64,
}

impl Sink {
    /// Starts it, with TLS or without.
    ///
    /// # Errors
    /// The system gives no socket or thread.
    pub fn start(tls: bool) -> Result<Self, String> {
        let config = if tls { Some(Arc::new(server_config()?)) } else { None };
        let shared = Arc::new(Shared::default());
        let (ready, is_ready) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || {
                // The limit of open files holds for each table.
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)
                    .map_err(|error| format!("a file table of its own is refused: {error}"))?;
                let mut server = Server::new(config, of_thread).map_err(|it| it.to_string())?;
                let address = server.listener.local_addr().map_err(|it| it.to_string())?;
                ready.send(address).map_err(|it| it.to_string())?;
                server.drive().map_err(|error| format!("the sink: {error}"))
            })
            .map_err(|error| error.to_string())?;
        match is_ready.recv() {
            Ok(address) => Ok(Self { address, shared, thread: Some(thread) }),
            Err(_) => match thread.join() {
                Ok(Err(sentence)) => Err(sentence),
                _ => Err("the sink has ended".to_owned()),
            },
        }
    }

    /// CPU time of its thread, at most a turn old.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.shared.cpu_ns.load(Ordering::Relaxed))
    }

    /// Ends it.
    ///
    /// # Errors
    /// What ended it before.
    pub fn stop(mut self) -> Result<(), String> {
        self.shared.ends.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| "the sink panicked".to_owned())?
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
    }
}

fn server_config() -> Result<ServerConfig, String> {
    let names = ["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(|error| error.to_string())
}

struct Server {
    listener: TcpListener,
    epoll: OwnedFd,
    config: Option<Arc<ServerConfig>>,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

struct Peer {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
    replies: Replies,
    /// The start of a packet.
    incoming: Vec<u8>,
    /// What the socket did not take.
    outgoing: Vec<u8>,
}

impl Server {
    fn new(config: Option<Arc<ServerConfig>>, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let (peers, free, buffer) = (Vec::new(), Vec::new(), vec![0; 64 << 10]);
        Ok(Self { listener, epoll, config, peers, free, buffer, shared })
    }

    fn drive(&mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        while !self.shared.ends.load(Ordering::Relaxed) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&TURN_MAX)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    at => self.serve(at as usize),
                }
            }
            self.shared.cpu_ns.store(thread_cpu().as_nanos() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The connection is gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let tls = match &self.config {
                Some(config) => Some(Box::new(
                    ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?,
                )),
                None => None,
            };
            let at = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&self.epoll, &stream, EventData::new_u64(at as u64), flags)?;
            let replies = Replies { v5: false };
            let (incoming, outgoing) = (Vec::new(), Vec::new());
            self.peers[at] = Some(Peer { stream, tls, replies, incoming, outgoing });
        }
        Ok(())
    }

    fn serve(&mut self, at: usize) {
        let Some(Some(peer)) = self.peers.get_mut(at) else { return };
        if peer.serve(&mut self.buffer).is_err() {
            // Whatever it was, the load sees the end of the connection.
            self.peers[at] = None;
            self.free.push(at);
        }
    }
}

impl Peer {
    /// Reads until nothing is left, answers, writes.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            let before = self.incoming.len();
            let more = match &mut self.tls {
                None => plain_read(&self.stream, &mut self.incoming, buffer)?,
                Some(tls) => {
                    let more = tls_read(tls, &mut self.stream)?;
                    plain_read(tls.reader(), &mut self.incoming, buffer)?;
                    more
                }
            };
            if self.incoming.len() > before {
                let used = self.replies.to(&self.incoming, &mut self.outgoing)?;
                self.incoming.drain(..used);
                if self.incoming.is_empty() {
                    self.incoming = Vec::new();
                }
            }
            self.write()?;
            if !more {
                return Ok(());
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => {
                let taken = write_some(&mut self.stream, &self.outgoing)?;
                self.outgoing.drain(..taken);
                if self.outgoing.is_empty() {
                    self.outgoing = Vec::new();
                }
            }
            Some(tls) => {
                tls.writer().write_all(&std::mem::take(&mut self.outgoing))?;
                while tls.wants_write() {
                    match tls.write_tls(&mut self.stream) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        other => other?,
                    };
                }
            }
        }
        Ok(())
    }
}

/// Reads once; true if there may be more.
fn plain_read(mut from: impl io::Read, into: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read(buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(bytes) => {
            into.extend_from_slice(&buffer[..bytes]);
            Ok(bytes == buffer.len())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads once; true if there may be more.
fn tls_read(tls: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<bool> {
    match tls.read_tls(stream) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error),
    }
    tls.process_new_packets().map_err(io::Error::other)?;
    Ok(true)
}

fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match stream.write(&bytes[taken..]) {
            Ok(sent) => taken += sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// What is answered on a connection.
struct Replies {
    v5: bool,
}

impl Replies {
    /// Answers the complete packets at the start of `bytes`; how many bytes they were.
    fn to(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let mut at = 0;
        while let Some((header, length)) = fixed_header(&bytes[at..])? {
            let end = at + header + length;
            let Some(packet) = bytes.get(at..end) else { break };
            self.one(packet, &packet[header..], out)?;
            at = end;
        }
        Ok(at)
    }

    fn one(&mut self, packet: &[u8], body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let two = |at: usize| -> io::Result<[u8; 2]> {
            let bytes = body.get(at..at + 2).ok_or(io::ErrorKind::InvalidData)?;
            Ok([bytes[0], bytes[1]])
        };
        match packet[0] >> 4 {
            // CONNECT: the level stands behind the name of the protocol.
            1 => {
                let name = usize::from(u16::from_be_bytes(two(0)?));
                self.v5 = body.get(2 + name) == Some(&5);
                out.extend_from_slice(if self.v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] });
            }
            // PUBLISH: back it goes.
            3 => {
                let topic = usize::from(u16::from_be_bytes(two(0)?));
                match packet[0] >> 1 & 3 {
                    0 => {}
                    1 => acknowledge(0x40, two(2 + topic)?, out),
                    _ => acknowledge(0x50, two(2 + topic)?, out),
                }
                out.extend_from_slice(packet);
            }
            // PUBREC for what went back, and PUBREL for what came.
            5 => acknowledge(0x62, two(0)?, out),
            6 => acknowledge(0x70, two(0)?, out),
            // SUBSCRIBE, to one filter.
            8 => {
                let [high, low] = two(0)?;
                match self.v5 {
                    true => out.extend_from_slice(&[0x90, 4, high, low, 0, 0]),
                    false => out.extend_from_slice(&[0x90, 3, high, low, 0]),
                }
            }
            12 => out.extend_from_slice(&[0xD0, 0]),
            14 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        Ok(())
    }
}

fn acknowledge(first: u8, [high, low]: [u8; 2], out: &mut Vec<u8>) {
    out.extend_from_slice(&[first, 2, high, low]);
}

/// Length of the fixed header, and of what follows; `None` if it is not complete.
fn fixed_header(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((at + 2, length)));
        }
    }
    match bytes.len() > 4 {
        true => Err(io::ErrorKind::InvalidData.into()),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(replies: &mut Replies, bytes: &[u8]) -> (usize, Vec<u8>) {
        let mut out = Vec::new();
        let used = replies.to(bytes, &mut out).expect("packets");
        (used, out)
    }

    #[test]
    fn answers_are_in_the_version_of_the_connect() {
        let mut replies = Replies { v5: false };
        let connect = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0];
        assert_eq!(answered(&mut replies, &connect), (15, vec![0x20, 3, 0, 0, 0]));
        let subscribe = [0x82, 7, 0, 9, 0, 0, 1, b'a', 0];
        assert_eq!(answered(&mut replies, &subscribe), (9, vec![0x90, 4, 0, 9, 0, 0]));
    }

    #[test]
    fn a_publish_is_acknowledged_and_sent_back_once_it_is_complete() {
        let mut replies = Replies { v5: false };
        let publish = [0x32, 6, 0, 1, b't', 0, 7, b'x'];
        assert_eq!(answered(&mut replies, &publish[..7]), (0, vec![]));
        let back = [&[0x40, 2, 0, 7], &publish[..]].concat();
        assert_eq!(answered(&mut replies, &publish), (8, back));
    }

    #[test]
    fn what_is_no_packet_ends_the_connection() {
        let mut replies = Replies { v5: false };
        assert!(replies.to(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], &mut Vec::new()).is_err());
        assert!(replies.to(&[0x30, 1, 0], &mut Vec::new()).is_err());
    }
}
