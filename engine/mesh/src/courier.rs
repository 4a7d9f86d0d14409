//! Sockets from one file table to another.
//!
//! Where each shard has a file table of its own, the number of a descriptor means nothing to another
//! shard. The kernel carries an open file between tables as ancillary data of a message on a Unix
//! socket. Every shard has one such socket to hear on; all others share its other end. The socket
//! goes before the parcel that tells of it, so whoever has the parcel finds the socket waiting.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use petrel_shard::ShardIndex;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::Handover;

/// Sender and ticket, as they travel beside a socket.
const LABEL_BYTES: usize = 6;

/// The ends of all shards' sockets, made before the file tables part, so that they have the same
/// numbers in all of them.
#[derive(Debug, Clone)]
pub struct PostOffice {
    /// By shard: where its sockets are sent to, and where it hears of them.
    boxes: Arc<[(OwnedFd, OwnedFd)]>,
}

impl PostOffice {
    /// Sockets for this many shards.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn open(shards: u16) -> io::Result<Self> {
        // Keeps the boundaries of messages, and unlike datagrams is bounded by bytes alone.
        let pair = || {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
        };
        let boxes: io::Result<Vec<_>> = (0..shards).map(|_| pair()).collect();
        Ok(Self { boxes: boxes?.into() })
    }

    /// The courier of one shard.
    #[must_use]
    pub fn courier(&self, shard: ShardIndex) -> Courier {
        Courier { office: self.clone(), shard, tickets: 0, arrived: HashMap::new() }
    }
}

/// Sends and receives the sockets of one shard.
#[derive(Debug)]
pub struct Courier {
    office: PostOffice,
    shard: ShardIndex,
    tickets: u32,
    /// Sockets that came before their parcels.
    arrived: HashMap<(ShardIndex, u32), OwnedFd>,
}

/// What became of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way; or it could not be sent and is closed, which the receiver finds out.
    Gone,
    /// There is no room; the same again when the receiver has taken something.
    Full,
}

impl Courier {
    /// Sends the socket of a connection that moves, once, and notes its ticket in the handover.
    pub fn send(&mut self, to: ShardIndex, handover: &mut Handover) -> Sent {
        let Some(socket) = handover.conn.take_socket() else { return Sent::Gone };
        let ticket = self.tickets.wrapping_add(1);
        match self.dispatch(to, ticket, &socket) {
            // Too many files under way at once; they get fewer as the receivers take them.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => {
                handover.conn.put_socket(socket);
                Sent::Full
            }
            // Whatever else is wrong, the receiver finds no socket and drops the connection.
            Ok(()) | Err(_) => {
                self.tickets = ticket;
                handover.ticket = ticket;
                Sent::Gone
            }
        }
    }

    fn dispatch(&self, to: ShardIndex, ticket: u32, socket: &OwnedFd) -> Result<(), Errno> {
        let (outgoing, _) = self.office.boxes.get(usize::from(to.0)).ok_or(Errno::INVAL)?;
        let mut label = [0; LABEL_BYTES];
        label[..2].copy_from_slice(&self.shard.0.to_ne_bytes());
        label[2..].copy_from_slice(&ticket.to_ne_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        loop {
            let sent =
                sendmsg(outgoing, &[IoSlice::new(&label)], &mut ancillary, SendFlags::NOSIGNAL);
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket that came with this ticket; `None` if it was lost on the way, as it is when this
    /// shard's file table is full.
    pub fn collect(&mut self, from: ShardIndex, ticket: u32) -> Option<OwnedFd> {
        while !self.arrived.contains_key(&(from, ticket)) {
            let (key, socket) = self.hear()?;
            if let Some(socket) = socket {
                self.arrived.insert(key, socket);
            } else if key == (from, ticket) {
                return None;
            }
        }
        self.arrived.remove(&(from, ticket))
    }

    /// The next socket; `None` if none is there.
    fn hear(&self) -> Option<((ShardIndex, u32), Option<OwnedFd>)> {
        let (_, incoming) = self.office.boxes.get(usize::from(self.shard.0))?;
        let mut label = [0; LABEL_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        loop {
            let mut parts = [IoSliceMut::new(&mut label)];
            match recvmsg(incoming, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        let socket = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let [a, b, ticket @ ..] = label;
        let from = ShardIndex(u16::from_ne_bytes([a, b]));
        Some(((from, u32::from_ne_bytes(ticket)), socket))
    }
}
