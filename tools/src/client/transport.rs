//! Bytes to and from the broker, whatever is between: TCP, TLS, WebSocket.
//!
//! The socket does not block. What is sent waits in a queue that [`Transport::flush`] empties as
//! far as the socket takes it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use petrel_net::websocket::WebSocketClient;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt,
};
use rustls::ClientConnection;

use super::signals::Signals;
use super::tls;
use crate::failure::Failure;
use crate::options::{Common, Link};

/// How long a broker may take from TCP to the end of all handshakes, CONNACK included.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// Bytes that are read before somebody looks at them.
const READ_BYTES_MAX: usize = 256 << 10;

/// How long a broker may take for the last bytes and for its own close.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// A close frame that says that all is well (RFC 6455 section 7.4.1).
const WEBSOCKET_NORMAL: u16 = 1000;

/// A connection to a broker, ready for MQTT.
pub struct Transport {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    websocket: Option<Box<WebSocketClient>>,
    /// For the socket, if there is no TLS.
    out: Vec<u8>,
    written: usize,
    queued_bytes: usize,
    open: bool,
    /// The last read ended before there was nothing more.
    more: bool,
    place: String,
}

impl Transport {
    /// Connects, with every handshake below MQTT done.
    pub fn open(options: &Common, signals: &Signals, deadline: Instant) -> Result<Self, Failure> {
        let place = options.place();
        let tls = match &options.tls {
            Some(tls) => Some(Box::new(tls::connection(tls, &options.host)?)),
            None => None,
        };
        let socket = connect_tcp(options, &place, signals, deadline)?;
        let mut transport = Self {
            socket,
            tls,
            websocket: None,
            out: Vec::new(),
            written: 0,
            queued_bytes: 0,
            open: true,
            more: false,
            place,
        };
        let mut upgraded = true;
        if let Link::WebSocket { path } = &options.link {
            let mut request = Vec::new();
            let client = WebSocketClient::new(&transport.place, path, random()?, &mut request);
            transport.push(&request);
            transport.websocket = Some(Box::new(client));
            upgraded = false;
        }
        let mut early = BytesMut::new();
        loop {
            transport.flush()?;
            if upgraded && !transport.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                return Ok(transport);
            }
            let pending = transport.is_pending();
            let ready = signals.wait(transport.as_fd(), pending, None, Some(deadline))?;
            if ready.interrupted {
                return Err(Failure::interrupted());
            }
            if ready.readable {
                upgraded |= transport.read(&mut early)?;
                if !transport.open {
                    return Err(transport.ended_early());
                }
            } else if Instant::now() >= deadline {
                return Err(Failure::new(format!("{} does not answer", transport.place)));
            }
        }
    }

    fn ended_early(&self) -> Failure {
        let what = match (&self.tls, &self.websocket) {
            (Some(tls), _) if tls.is_handshaking() => {
                "during the TLS handshake; is that a port without TLS?"
            }
            _ => "during the WebSocket handshake; is that a port without WebSocket?",
        };
        Failure::new(format!("{} closed the connection {what}", self.place))
    }

    /// `host:port`, for sentences.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// False once the broker has ended its side.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// True if there may be bytes to read that the socket has not any more.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// True if bytes wait for the socket.
    pub fn is_pending(&self) -> bool {
        self.written < self.out.len() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Bytes of MQTT that were sent since nothing was pending; an upper bound of what waits.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues MQTT bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.queued_bytes += bytes.len();
        match self.websocket.take() {
            None => self.push(bytes),
            Some(mut websocket) => {
                let mut framed = Vec::with_capacity(bytes.len() + 14);
                websocket.write(bytes, random()?, &mut framed);
                self.websocket = Some(websocket);
                self.push(&framed);
            }
        }
        Ok(())
    }

    /// Writes as much as the socket takes.
    pub fn flush(&mut self) -> Result<(), Failure> {
        match self.try_flush() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // What the broker said before it closed matters more; reading finds the end too.
            Err(error) if is_gone(error.kind()) => {
                self.out.clear();
                self.written = 0;
            }
            Err(error) => return Err(self.lost(&error)),
        }
        self.queued_bytes = 0;
        Ok(())
    }

    fn try_flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            self.written += self.socket.write(&self.out[self.written..])?;
        }
        self.out.clear();
        self.written = 0;
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
        }
        Ok(())
    }

    /// Appends to `plain` what the broker has sent, or a part of that, which [`Self::has_more`] says; false while a
    /// WebSocket handshake goes on.
    pub fn read(&mut self, plain: &mut BytesMut) -> Result<bool, Failure> {
        let mut upgraded = self.websocket.is_none();
        let mut buffer = [0; 16 << 10];
        let mut read_bytes = 0;
        self.more = false;
        loop {
            if read_bytes >= READ_BYTES_MAX {
                self.more = true;
                return Ok(upgraded);
            }
            match self.read_some(&mut buffer) {
                Ok(0) => {
                    self.open = false;
                    return Ok(upgraded);
                }
                Ok(count) => {
                    read_bytes += count;
                    upgraded |= self.receive(&buffer[..count], plain)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(upgraded),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_gone(error.kind()) => {
                    self.open = false;
                    return Ok(upgraded);
                }
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// Bytes above TLS; 0 at the end, `WouldBlock` if there are none now.
    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut self.socket)? == 0 && tls.is_handshaking() {
                return Ok(0);
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert is a courtesy.
                let _ = tls.write_tls(&mut self.socket);
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }

    /// Takes bytes above TLS; true if MQTT may flow.
    fn receive(&mut self, bytes: &[u8], plain: &mut BytesMut) -> Result<bool, Failure> {
        let Some(websocket) = &mut self.websocket else {
            plain.extend_from_slice(bytes);
            return Ok(true);
        };
        let mut answer = Vec::new();
        // A mask protects proxies from scripts in browsers; zeros do no harm to a ping's answer.
        let mask = || random().unwrap_or_default();
        let progress = websocket
            .read(bytes, mask, plain, &mut answer)
            .map_err(|error| Failure::new(format!("WebSocket with {}: {error}", self.place)))?;
        self.push(&answer);
        self.open &= !progress.peer_closed;
        Ok(progress.open)
    }

    /// Queues bytes below WebSocket.
    fn push(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            // Its buffer has no limit, so it takes everything.
            Some(tls) => {
                let _ = tls.writer().write_all(bytes);
            }
            None => self.out.extend_from_slice(bytes),
        }
    }

    fn lost(&self, error: &io::Error) -> Failure {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        Failure::new(match inner {
            Some(tls) => tls::in_words(tls, &self.place),
            None => format!("the connection to {} is lost: {error}", self.place),
        })
    }

    /// Ends every layer in order, waits until the broker has read everything, and closes. Reading
    /// on meanwhile matters: a socket that is closed with bytes unread makes the system drop what
    /// was not delivered yet.
    pub fn close(mut self, signals: &Signals) -> Result<(), Failure> {
        let mut framed = Vec::new();
        if let Some(websocket) = &mut self.websocket {
            websocket.close(WEBSOCKET_NORMAL, random()?, &mut framed);
        }
        self.push(&framed);
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let mut ignored = BytesMut::new();
        let mut deadline = Instant::now() + CLOSING_TIME;
        let mut half_closed = false;
        loop {
            self.flush()?;
            if !self.is_pending() && !half_closed {
                half_closed = self.socket.shutdown(Shutdown::Write).is_ok();
                if !half_closed {
                    return Ok(());
                }
            }
            let ready = signals.wait(self.as_fd(), self.is_pending(), None, Some(deadline))?;
            if ready.writable {
                deadline = Instant::now() + CLOSING_TIME;
            }
            if ready.readable {
                // The MQTT session has ended; what goes wrong below it now does not matter.
                if self.read(&mut ignored).is_err() || !self.open {
                    return Ok(());
                }
                ignored.clear();
            }
            if ready.interrupted || deadline <= Instant::now() {
                return match half_closed {
                    true => Ok(()),
                    false => {
                        Err(Failure::new(format!("{} does not read what is sent", self.place)))
                    }
                };
            }
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Errors that mean that the other side has closed.
fn is_gone(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
    )
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(format!("this system gives no random bytes: {error}")))?;
    Ok(bytes)
}

/// Tries every address of the host in turn.
fn connect_tcp(
    options: &Common,
    place: &str,
    signals: &Signals,
    deadline: Instant,
) -> Result<TcpStream, Failure> {
    let addresses: Vec<_> = (options.host.as_str(), options.port)
        .to_socket_addrs()
        .map_err(|error| Failure::new(format!("cannot find the host {:?}: {error}", options.host)))?
        .filter(|address| options.bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4()))
        .collect();
    let mut failed = None;
    for address in addresses {
        match connect_one(address, options.bind, signals, deadline)? {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = Some((address, error)),
        }
    }
    Err(Failure::new(match failed {
        Some((_, error)) if error.kind() == ErrorKind::ConnectionRefused => {
            format!("cannot connect to {place}: connection refused; is the broker running there?")
        }
        Some((address, error)) => format!("cannot connect to {place} ({}): {error}", address.ip()),
        None => format!("{place} has no address of the same family as -A"),
    }))
}

/// The outer error ends the program, the inner one only this address.
fn connect_one(
    address: SocketAddr,
    from: Option<IpAddr>,
    signals: &Signals,
    deadline: Instant,
) -> Result<io::Result<TcpStream>, Failure> {
    let begin = || -> io::Result<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        if let Some(from) = from {
            bind(&socket, &SocketAddr::new(from, 0))?;
        }
        match connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(TcpStream::from(socket))
    };
    let socket = match begin() {
        Ok(socket) => socket,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        let ready = signals.wait(socket.as_fd(), true, None, Some(deadline))?;
        if ready.interrupted {
            return Err(Failure::interrupted());
        }
        if ready.writable {
            break;
        }
        if Instant::now() >= deadline {
            return Ok(Err(ErrorKind::TimedOut.into()));
        }
    }
    let connected = || -> io::Result<TcpStream> {
        if let Err(error) = sockopt::socket_error(&socket)? {
            return Err(error.into());
        }
        socket.set_nodelay(true)?;
        Ok(socket)
    };
    Ok(connected())
}
