//! Sockets that accept.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::admission::depth::PLACES_MAX;
use crate::proxy::Proxies;
use crate::tls::TlsConfig;
use crate::websocket::WebSocketConfig;

/// What a listener speaks, with what it needs for that.
#[derive(Debug, Clone)]
pub enum Protocol {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS.
    Mqtts(TlsConfig),
    /// MQTT over WebSocket.
    Ws(Arc<WebSocketConfig>),
    /// MQTT over WebSocket over TLS.
    Wss(TlsConfig, Arc<WebSocketConfig>),
}

impl Protocol {
    /// Whether a connection begins with a TLS handshake.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Mqtts(_) | Self::Wss(..))
    }
}

/// An address that one shard listens on.
///
/// Every shard opens its own socket for the same address; the kernel spreads connections over them.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) protocol: Protocol,
    /// Those who connect are proxies, which say who their clients are.
    pub(crate) proxies: Option<Arc<Proxies>>,
    pub(crate) index: u16,
    /// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
    pub(crate) places: usize,
    /// There may be connections to accept.
    pub(crate) ready: bool,
    /// The last accept failed for want of something; tried again at the next tick.
    pub(crate) resting: bool,
    /// It does not listen, until it is opened again.
    pub(crate) shut: bool,
}

impl Listener {
    /// Opens a listening socket. Port 0 takes a free port, see [`Listener::local_address`].
    ///
    /// # Errors
    /// As the system has it; a port is busy only if a process of another user holds it, see
    /// [`claim`].
    pub fn open(address: SocketAddr, protocol: Protocol, index: u16) -> io::Result<Self> {
        let socket = bound(address, true)?;
        // Those who are accepted have it from here, which saves a system call for each.
        sockopt::set_tcp_nodelay(&socket, true)?;
        net::listen(&socket, PLACES_MAX as i32)?;
        let (places, proxies) = (PLACES_MAX, None);
        Ok(Self {
            socket,
            protocol,
            proxies,
            index,
            places,
            ready: true,
            resting: false,
            shut: false,
        })
    }

    /// Takes connections of these proxies only, each with a header of the PROXY protocol before anything else.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Arc<Proxies>) -> Self {
        self.proxies = Some(proxies);
        self
    }

    /// Changes how many connections may wait; those that wait already stay. A system call, if it
    /// is a change.
    pub(crate) fn deepen(&mut self, places: usize) {
        // It fails for no socket that listens; if it did, the old depth would serve.
        if !self.shut && places != self.places && net::listen(&self.socket, places as i32).is_ok() {
            self.places = places;
        }
    }

    /// There may be connections, and nothing is known to be wanting to accept them.
    pub(crate) const fn can_accept(&self) -> bool {
        self.ready && !self.resting && !self.shut
    }

    /// Stops listening: connections that wait to be accepted are refused, and so are all that come later.
    ///
    /// # Errors
    /// The system gives no socket that does nothing; then it listens as before.
    pub(crate) fn shut(&mut self) -> io::Result<()> {
        let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
        self.socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        self.shut = true;
        Ok(())
    }

    /// Listens again, at an address.
    ///
    /// # Errors
    /// As [`Listener::open`].
    pub(crate) fn reopen(&mut self, address: SocketAddr) -> io::Result<()> {
        let fresh = Self::open(address, self.protocol.clone(), self.index)?;
        *self = Self { proxies: self.proxies.take(), ..fresh };
        Ok(())
    }

    /// Position in the configuration.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// Changes what new connections are given; those that are there keep what they have.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// None that an open socket would give.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        local_address(&self.socket)
    }
}

/// What `listen` grants at most: the system's limit, which may change later, or what there can be.
pub(crate) fn places_max() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    limit.and_then(|text| text.trim().parse().ok()).unwrap_or(PLACES_MAX)
}

/// Checks that nobody listens on an address.
///
/// The sockets of the shards share their port, so they would share it with another broker of the
/// same user as well and take half of its clients. This one does not share.
///
/// # Errors
/// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` and whatever else binding says.
pub fn claim(address: SocketAddr) -> io::Result<()> {
    let probe = bound(address, false)?;
    Ok(net::listen(&probe, 1)?)
}

/// Keeps other brokers of this kind from starting on some ports, until it is dropped.
///
/// Between [`claim`] and the last [`Listener::open`] nobody holds the port in a way that another
/// broker's claim would see. A name that only one socket of the machine can have does.
#[derive(Debug)]
pub struct StartLock {
    _names: Vec<OwnedFd>,
}

impl StartLock {
    /// Waits until nobody else starts on any of these ports, at most so long.
    ///
    /// # Errors
    /// `AddrInUse` if somebody still does then, and whatever else the system says.
    pub fn take(ports: impl IntoIterator<Item = u16>, patience: Duration) -> io::Result<Self> {
        // In one order, so that two that start on the same ports do not wait for each other.
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        let deadline = Instant::now() + patience;
        let mut names = Vec::new();
        for port in ports {
            let name =
                SocketAddrUnix::new_abstract_name(format!("petrel-start-{port}").as_bytes())?;
            let flags = SocketFlags::CLOEXEC;
            let socket = net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
            while let Err(error) = net::bind(&socket, &name) {
                if error != Errno::ADDRINUSE || Instant::now() >= deadline {
                    return Err(error.into());
                }
                std::thread::sleep(START_LOCK_PAUSE);
            }
            names.push(socket);
        }
        Ok(Self { _names: names })
    }
}

/// How often a [`StartLock`] is tried again.
const START_LOCK_PAUSE: Duration = Duration::from_millis(10);

fn bound(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Connections of an earlier run that have not faded away must not hold the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    Ok(socket)
}

fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(net::getsockname(socket)?)
        .map_err(|_| io::Error::from(io::ErrorKind::Unsupported))
}

/// Takes one waiting connection, not blocking. Nagle's algorithm is off, as it is for the listener.
pub(crate) fn accept(listener: &OwnedFd) -> rustix::io::Result<(OwnedFd, Option<SocketAddr>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = net::acceptfrom_with(listener, flags)?;
    Ok((socket, address.and_then(|address| SocketAddr::try_from(address).ok())))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn open(address: impl Into<SocketAddr>) -> io::Result<Listener> {
        Listener::open(address.into(), Protocol::Mqtt, 0)
    }

    #[test]
    fn shards_share_an_address_that_nobody_else_can_claim() {
        let first = open((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let address = first.local_address().expect("it is bound");
        let second = open(address).expect("shards share");
        assert_eq!(second.local_address().ok(), Some(address));
        let refused = claim(address).expect_err("two listen there");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn what_is_accepted_sends_small_packets_at_once() {
        for host in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
            let listener = open(host).expect("loopback has ports");
            let address = listener.local_address().expect("it is bound");
            let _client = std::net::TcpStream::connect(address).expect("it listens");
            let (socket, _) = accept(&listener.socket).expect("a client waits");
            assert!(sockopt::tcp_nodelay(&socket).expect("a TCP socket"));
        }
    }

    #[test]
    fn the_two_families_do_not_share_a_socket() {
        let four = open((Ipv4Addr::UNSPECIFIED, 0)).expect("there are ports");
        let port = four.local_address().expect("it is bound").port();
        assert!(open((Ipv6Addr::UNSPECIFIED, port)).is_ok());
    }
}
