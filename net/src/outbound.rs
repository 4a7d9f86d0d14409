//! Bytes on their way out: gathered during a turn, sent at its end, queued if the socket is full.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Buf, Bytes, BytesMut};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use smallvec::SmallVec;

use crate::ConnKey;

/// Pieces up to this many bytes share one buffer while they wait.
const COALESCED_BYTES_MAX: usize = 2048;
/// What waits longer lies in pieces of about this many bytes.
const SEGMENT_BYTES: usize = 64 << 10;
const SLICES_PER_SEND_MAX: usize = 64;

/// What one connection is sent in one turn.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) key: ConnKey,
    /// What the transport has written already; it leaves first.
    pub(crate) control: Vec<u8>,
    /// Everything that was copied.
    pub(crate) small: BytesMut,
    /// What was not, each with its place in `small`.
    pub(crate) shared: Vec<(usize, Bytes)>,
    /// Bytes that were written to it.
    pub(crate) bytes: usize,
}

impl Stage {
    pub(crate) fn new(key: ConnKey) -> Self {
        let (control, small, shared) = (Vec::new(), BytesMut::new(), Vec::new());
        Self { key, control, small, shared, bytes: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.small.is_empty() && self.shared.is_empty()
    }

    /// Moves everything to the end of `queue`, in order.
    pub(crate) fn drain_into(&mut self, queue: &mut Queue) {
        let mut taken = 0;
        for (at, payload) in self.shared.drain(..) {
            queue.push(self.small.split_to(at - taken).freeze());
            taken = at;
            queue.push(payload);
        }
        queue.push(self.small.split().freeze());
    }
}

/// Output that waits for a socket.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    segments: VecDeque<Bytes>,
    /// Follows the segments.
    tail: BytesMut,
    bytes: usize,
    since_ms: u64,
}

/// Why a socket takes no more now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It is full; the kernel will say when it is not.
    Full,
    /// It never will again.
    Broken,
}

impl Queue {
    pub(crate) const fn len(&self) -> usize {
        self.bytes
    }

    /// When a byte was last taken or, if none was, when the first began to wait.
    pub(crate) const fn stalled_since_ms(&self) -> u64 {
        self.since_ms
    }

    pub(crate) const fn set_stalled_since_ms(&mut self, now_ms: u64) {
        self.since_ms = now_ms;
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COALESCED_BYTES_MAX {
            self.push_copy(&bytes);
        } else {
            self.seal();
            self.bytes += bytes.len();
            self.segments.push_back(bytes);
        }
    }

    pub(crate) fn push_copy(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        if self.tail.len() >= SEGMENT_BYTES {
            // In one piece it would double, and be there twice while it does.
            self.seal();
        }
        self.tail.extend_from_slice(bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.segments.push_back(self.tail.split().freeze());
        }
    }

    /// Sends until nothing is left or the socket stops.
    pub(crate) fn send(&mut self, socket: &OwnedFd, now_ms: u64) -> Result<(), Stopped> {
        self.seal();
        while self.bytes > 0 {
            let slices: SmallVec<[IoSlice<'_>; SLICES_PER_SEND_MAX]> = self
                .segments
                .iter()
                .take(SLICES_PER_SEND_MAX)
                .map(|segment| IoSlice::new(segment))
                .collect();
            let mut no_control = SendAncillaryBuffer::default();
            let sent = sendmsg(socket, &slices, &mut no_control, SendFlags::NOSIGNAL);
            drop(slices);
            let sent = match sent {
                Ok(sent) => sent,
                Err(error) => match stopped(error) {
                    Some(stopped) => return Err(stopped),
                    None => continue,
                },
            };
            self.since_ms = now_ms;
            self.consume(sent);
        }
        Ok(())
    }

    fn consume(&mut self, mut sent: usize) {
        self.bytes -= sent;
        while let Some(first) = self.segments.front_mut() {
            if first.len() > sent {
                first.advance(sent);
                return;
            }
            sent -= first.len();
            self.segments.pop_front();
        }
    }
}

/// Sends from a slice; the number of bytes taken and, if that is not all, why.
pub(crate) fn send_slice(socket: impl AsFd, bytes: &[u8]) -> (usize, Result<(), Stopped>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match send(&socket, &bytes[taken..], SendFlags::NOSIGNAL) {
            Ok(sent) => taken += sent,
            Err(error) => {
                if let Some(stopped) = stopped(error) {
                    return (taken, Err(stopped));
                }
            }
        }
    }
    (taken, Ok(()))
}

/// `None` if it should be tried again at once.
fn stopped(error: Errno) -> Option<Stopped> {
    match error {
        Errno::INTR => None,
        // The kernel is short of memory: like a full socket, except that no edge will come. The
        // write timeout ends it if nothing else moves the queue.
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => Some(Stopped::Full),
        _ => Some(Stopped::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_gives_its_bytes_in_order_and_counts_them() {
        let mut queue = Queue::default();
        queue.push_copy(b"ab");
        queue.push(Bytes::from(vec![b'c'; COALESCED_BYTES_MAX + 1]));
        queue.push_copy(b"d");
        queue.push(Bytes::from_static(b"e"));
        assert_eq!(queue.len(), 2 + COALESCED_BYTES_MAX + 1 + 2);
        queue.seal();
        queue.consume(3);
        assert_eq!(queue.segments.front().map(Bytes::len), Some(COALESCED_BYTES_MAX));
        queue.consume(COALESCED_BYTES_MAX + 1);
        assert_eq!(queue.segments.front().map(|last| &last[..]), Some(&b"e"[..]));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn what_waits_takes_about_as_much_memory_as_it_has_bytes() {
        let mut queue = Queue::default();
        for _ in 0..3000 {
            queue.push_copy(&[7; 1000]);
            assert!(queue.tail.capacity() <= 2 * SEGMENT_BYTES, "{}", queue.tail.capacity());
        }
        assert_eq!(queue.len(), 3_000_000);
        queue.seal();
        let lengths: Vec<usize> = queue.segments.iter().map(Bytes::len).collect();
        assert!(lengths.iter().all(|&bytes| bytes <= SEGMENT_BYTES + 1000), "{lengths:?}");
        assert_eq!(lengths.iter().sum::<usize>(), 3_000_000);
    }

    #[test]
    fn a_stage_keeps_shared_payloads_at_their_place() {
        let mut stage = Stage::new(ConnKey { index: 0, generation: 1 });
        let payload = Bytes::from(vec![b'p'; 5000]);
        stage.small.extend_from_slice(b"one");
        stage.shared.push((3, payload.clone()));
        stage.small.extend_from_slice(b"two");
        let mut queue = Queue::default();
        stage.drain_into(&mut queue);
        queue.seal();
        let whole: Vec<u8> = queue.segments.iter().flatten().copied().collect();
        assert_eq!(whole, [b"one", &payload[..], b"two"].concat());
    }
}
