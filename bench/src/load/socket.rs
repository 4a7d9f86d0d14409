//! Calls of the system that all threads make alike.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread.
#[must_use]
pub fn thread_cpu() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// Begins a connection; the socket is writable when it is there, or has failed.
///
/// # Errors
/// As `socket`, `bind` and `connect`.
pub fn begin_connect(address: SocketAddr, source: Option<Ipv4Addr>) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(source) = source {
        // The port is chosen once the other end is known: no search for one that is free for all.
        setsockopt(&socket, IpBindAddressNoPort, &true)
            .map_err(|error| Errno::from_raw_os_error(error as i32))?;
        rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    }
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Sends as much as the socket takes; how much that was.
///
/// # Errors
/// The connection has failed.
pub fn send_some(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, String> {
    let mut taken = 0;
    while taken < bytes.len() {
        match rustix::net::send(socket, &bytes[taken..], SendFlags::NOSIGNAL) {
            Ok(sent) => taken += sent,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(taken)
}
