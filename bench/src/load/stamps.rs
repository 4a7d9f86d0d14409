//! How long a message was inside the broker, as the kernel saw it: free of the load's own delays.
//!
//! A message becomes readable to the broker while its publisher is inside `send`, and its
//! receiver's kernel stamps the segment that the broker writes. So residency lies between two
//! bounds: from just before `send` to that stamp at most, from the return of `send` to it at least.
//! Neither bound contains the time that a message waits for the load's threads; both contain what
//! the broker waits for a core, which it shares with the load if both are on one machine. When one
//! read takes several segments, their stamp is that of the last.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use rustix::time::{ClockId, clock_gettime};

use super::plan::Group;

/// Messages that are remembered for each publisher, at most.
const DEPTH_MAX: usize = 1024;
/// Messages that are remembered for all of a group, about.
const ENTRIES_MAX: usize = 1 << 20;
/// A message that was longer on its way is not timed if its publisher goes on at its pace.
const REMEMBERED_NS: u128 = 20_000_000_000;

/// When the last messages of each publisher were sent; written by its thread, read by any.
#[derive(Debug)]
pub struct Stamps {
    groups: Vec<Sent>,
}

/// Of one group: a ring for each client.
#[derive(Debug)]
struct Sent {
    depth: usize,
    entries: Box<[Entry]>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Number of the message, from 1; 0 while it is written.
    message: AtomicU64,
    before_ns: AtomicU64,
    /// 0 until `send` has returned.
    after_ns: AtomicU64,
}

/// Which message of which client of which group; 8 bytes of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Position of the publisher's group.
    pub group: u8,
    /// Number of the publisher within it, modulo 2^24.
    pub number: u32,
    /// Number of the message, modulo 2^32.
    pub message: u32,
}

/// Bounds of the time a message was inside the broker, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residency {
    /// From just before `send`.
    pub most_ns: u64,
    /// From its return; 0 if it had not returned.
    pub least_ns: u64,
}

impl Mark {
    /// As it is written.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let word = u64::from(self.group) << 56
            | u64::from(self.number & 0xFF_FFFF) << 32
            | u64::from(self.message);
        word.to_le_bytes()
    }

    /// As it was written.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self {
            group: (word >> 56) as u8,
            number: (word >> 32) as u32 & 0xFF_FFFF,
            message: word as u32,
        }
    }
}

impl Stamps {
    /// Room for what the groups publish, if any of them is timed.
    ///
    /// *Cost*: 24 bytes per message remembered: those of 20 s, 1,024 per client and a million per
    /// group at most.
    #[must_use]
    pub fn new(groups: &[Group]) -> Self {
        let timed = groups.iter().any(|group| group.timed);
        let of = |group: &Group| {
            let Some(publishing) = group.publish.as_ref().filter(|_| timed) else {
                return Sent { depth: 0, entries: Box::default() };
            };
            let wanted = REMEMBERED_NS / publishing.every.as_nanos().max(1);
            let room = (ENTRIES_MAX / group.clients.max(1)).max(1);
            let depth = (wanted as usize + 1).min(DEPTH_MAX).min(room);
            let entries = (0..depth * group.clients).map(|_| Entry::default()).collect();
            Sent { depth, entries }
        };
        Self { groups: groups.iter().map(of).collect() }
    }

    fn entry(&self, mark: Mark) -> Option<&Entry> {
        let sent = self.groups.get(usize::from(mark.group)).filter(|it| it.depth > 0)?;
        sent.entries.get(mark.number as usize * sent.depth + mark.message as usize % sent.depth)
    }

    /// A message is about to be sent.
    pub fn before(&self, mark: Mark, now_ns: u64) {
        if let Some(entry) = self.entry(mark) {
            entry.message.store(0, Ordering::Relaxed);
            entry.before_ns.store(now_ns, Ordering::Release);
            entry.after_ns.store(0, Ordering::Release);
            entry.message.store(u64::from(mark.message) + 1, Ordering::Release);
        }
    }

    /// It was sent; unless all of it was taken, it will not be timed.
    pub fn after(&self, mark: Mark, now_ns: u64, all: bool) {
        if let Some(entry) = self.entry(mark) {
            if all {
                entry.after_ns.store(now_ns, Ordering::Release);
            } else {
                entry.message.store(0, Ordering::Release);
            }
        }
    }

    /// The residency of a message that arrived at a time. `None` if it is no longer remembered.
    #[must_use]
    pub fn residency(&self, mark: Mark, arrived_ns: u64) -> Option<Residency> {
        let entry = self.entry(mark)?;
        let is_it = || entry.message.load(Ordering::Acquire) == u64::from(mark.message) + 1;
        if !is_it() {
            return None;
        }
        let before_ns = entry.before_ns.load(Ordering::Acquire);
        let after_ns = entry.after_ns.load(Ordering::Acquire);
        let least_ns = if after_ns == 0 { 0 } else { arrived_ns.saturating_sub(after_ns) };
        let most_ns = arrived_ns.saturating_sub(before_ns);
        is_it().then_some(Residency { most_ns, least_ns })
    }
}

/// The clock by which the kernel stamps, in nanoseconds.
#[must_use]
pub fn wall_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Reads with the kernel's stamp.
#[derive(Debug)]
pub struct StampedReads {
    control: Vec<u8>,
}

impl StampedReads {
    /// With room for one stamp.
    #[must_use]
    pub fn new() -> Self {
        Self { control: nix::cmsg_space!(nix::sys::time::TimeSpec) }
    }

    /// Has the kernel stamp what a socket receives.
    ///
    /// # Errors
    /// The system does not.
    pub fn enable(socket: &OwnedFd) -> Result<(), String> {
        setsockopt(socket, sockopt::ReceiveTimestampns, &true)
            .map_err(|error| format!("SO_TIMESTAMPNS: {error}"))
    }

    /// Reads, and says when the last of it arrived; the system leaves out the stamp of what came
    /// before it had begun to stamp.
    ///
    /// # Errors
    /// As `read`.
    pub fn read(
        &mut self,
        socket: &OwnedFd,
        into: &mut [u8],
    ) -> rustix::io::Result<(usize, Option<u64>)> {
        let mut parts = [IoSliceMut::new(into)];
        let (socket, control) = (socket.as_raw_fd(), Some(&mut self.control[..]));
        let message = recvmsg::<()>(socket, &mut parts, control, MsgFlags::empty())
            .map_err(|error: Errno| rustix::io::Errno::from_raw_os_error(error as i32))?;
        let stamp = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|one| match one {
                ControlMessageOwned::ScmTimestampns(at) => {
                    Some(at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64)
                }
                _ => None,
            })
        });
        Ok((message.bytes, stamp))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use petrel_proto::Qos;

    use super::*;
    use crate::load::plan::Publishing;

    fn groups(every: Duration) -> Vec<Group> {
        let publishing = Publishing {
            topic: "t".to_owned(),
            counting: false,
            qos: Qos::AtMostOnce,
            bytes: 16,
            retain: false,
            every,
            messages: u64::MAX,
        };
        let source = Group { publish: Some(publishing), ..Group::idle("source", 3) };
        vec![Group { timed: true, ..Group::idle("sink", 3) }, source]
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark { group: 3, number: 0xAB_CDEF, message: 0xDEAD_BEEF };
        assert_eq!(Mark::from_bytes(mark.to_bytes()), mark);
    }

    #[test]
    fn residency_lies_between_both_bounds() {
        let stamps = Stamps::new(&groups(Duration::from_secs(1)));
        let mark = Mark { group: 1, number: 2, message: 7 };
        assert_eq!(stamps.residency(mark, 500), None);
        stamps.before(mark, 100);
        let early = Residency { most_ns: 400, least_ns: 0 };
        assert_eq!(stamps.residency(mark, 500), Some(early));
        stamps.after(mark, 150, true);
        assert_eq!(stamps.residency(mark, 500), Some(Residency { most_ns: 400, least_ns: 350 }));
    }

    #[test]
    fn a_message_that_waited_in_the_load_is_not_timed() {
        let stamps = Stamps::new(&groups(Duration::from_secs(1)));
        let mark = Mark { group: 1, number: 0, message: 0 };
        stamps.before(mark, 100);
        stamps.after(mark, 150, false);
        assert_eq!(stamps.residency(mark, 500), None);
    }

    #[test]
    fn a_message_is_forgotten_for_a_later_one_of_its_own_publisher_only() {
        let stamps = Stamps::new(&groups(Duration::from_secs(20)));
        let mark = |number, message| Mark { group: 1, number, message };
        for message in 0..3 {
            stamps.before(mark(0, message), 100);
        }
        stamps.before(mark(1, 0), 100);
        assert_eq!(stamps.residency(mark(0, 0), 500), None);
        assert!(stamps.residency(mark(0, 2), 500).is_some());
        assert!(stamps.residency(mark(1, 0), 500).is_some());
        assert_eq!(stamps.residency(Mark { group: 9, number: 0, message: 0 }, 500), None);
    }

    #[test]
    fn the_kernel_says_when_bytes_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        let mut here = TcpStream::connect(address).expect("connected");
        let there = OwnedFd::from(listener.accept().expect("accepted").0);
        StampedReads::enable(&there).expect("enabled");
        let mut reads = StampedReads::new();
        let mut buffer = [0; 64];
        // The system takes a moment from the first request on until it stamps.
        for _ in 0..100_000 {
            let before = wall_ns();
            here.write_all(b"hello").expect("sent");
            let (bytes, stamp) = reads.read(&there, &mut buffer).expect("read");
            assert_eq!(bytes, 5);
            if let Some(stamp) = stamp {
                assert!(before <= stamp && stamp <= wall_ns());
                return;
            }
        }
        panic!("no stamp");
    }
}
