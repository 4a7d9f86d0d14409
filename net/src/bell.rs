//! How one shard wakes another.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes the owner of an epoll instance out of its wait, if it waits.
///
/// An eventfd that is watched by that instance, edge-triggered and never read, so that ringing is
/// one write and hearing it costs nothing beyond the wake-up itself. Both runtimes use it: what
/// makes the epoll instance readable wakes the one as well as the other.
#[derive(Debug)]
pub struct Bell {
    armed: AtomicBool,
    rung: AtomicU64,
    event: OwnedFd,
}

impl Bell {
    /// A bell that nobody listens to yet.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { armed: AtomicBool::new(false), rung: AtomicU64::new(0), event })
    }

    /// Wakes the owner if it sleeps or is about to. Call it after the work has been made visible.
    pub fn ring(&self) {
        // Pairs with the fence in `arm`: either the owner sees the work, or this sees the flag.
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::AcqRel) {
            self.rung.fetch_add(1, Ordering::Relaxed);
            // Fails only when 2^64 - 2 rings have gone unread, and then the event is pending.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Says that the owner is about to sleep. It must look for work once more afterwards.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the owner is awake; rings cost nothing from now on.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// How often the owner had to be woken.
    #[must_use]
    pub fn rung(&self) -> u64 {
        self.rung.load(Ordering::Relaxed)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
