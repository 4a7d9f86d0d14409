//! One epoll instance: sockets, listeners, the bell and the tick.
//!
//! Everything is registered once and edge-triggered, so no message costs an `epoll_ctl`. The
//! instance itself becomes readable when anything happens, which is what a glommio executor waits
//! for; a plain thread waits inside it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::{Bell, ConnKey};

/// Events taken at a time, at most.
pub(crate) const EVENTS_PER_WAIT_MAX: usize = if cfg!(test) { 8 } else { 1024 };
/// Connections never have this generation.
const SPECIAL: u32 = 0;
const BELL: u32 = u32::MAX;
const TICK: u32 = u32::MAX - 1;

/// Owns the epoll instance of one shard.
pub(crate) struct Poller {
    epoll: Arc<OwnedFd>,
    timer: OwnedFd,
    bell: Arc<Bell>,
    events: Vec<epoll::Event>,
}

/// What one event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    /// A connection can be read or written, or has ended.
    Conn {
        /// Which; it may be gone.
        key: ConnKey,
        /// What the kernel says of it.
        readiness: Readiness,
    },
    /// This listener has connections to accept.
    Listener(u32),
    /// Somebody rang.
    Bell,
    /// A tick has passed.
    Tick,
}

/// What can be done with a socket now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has sent its last byte, or the connection has failed.
    pub(crate) ended: bool,
}

impl Poller {
    /// An instance that hears `bell` and a tick every `tick`.
    pub(crate) fn new(bell: Arc<Bell>, tick: Duration) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let tick = Timespec {
            tv_sec: i64::try_from(tick.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(tick.subsec_nanos()),
        };
        let every = Itimerspec { it_interval: tick, it_value: tick };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
        let poller = Self { epoll: Arc::new(epoll), timer, bell, events: Vec::new() };
        let input = epoll::EventFlags::IN | epoll::EventFlags::ET;
        poller.add(&poller.timer, special(TICK), input)?;
        poller.add(&poller.bell, special(BELL), input)?;
        Ok(poller)
    }

    /// The instance, for a runtime that waits until it is readable.
    pub(crate) fn instance(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.epoll)
    }

    /// Watches a connection from now on; what is ready already is reported too.
    pub(crate) fn add_conn(&self, fd: impl AsFd, key: ConnKey) -> io::Result<()> {
        use epoll::EventFlags as F;
        self.add(fd, key, F::IN | F::OUT | F::RDHUP | F::ET)
    }

    /// Watches a listener. `number` comes back with its events.
    pub(crate) fn add_listener(&self, fd: impl AsFd, number: u32) -> io::Result<()> {
        self.add(fd, special(number), epoll::EventFlags::IN | epoll::EventFlags::ET)
    }

    /// Forgets a descriptor that stays open elsewhere.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // It fails only for what is not registered, and then there is nothing to forget.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn add(&self, fd: impl AsFd, key: ConnKey, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key.pack()), flags)?)
    }

    /// Waits for events, at most `timeout` (`None`: until there is one), and returns their number.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        self.events.clear();
        self.events.reserve(EVENTS_PER_WAIT_MAX);
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => Ok(self.events.len()),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the timer run on: it stops until it is read.
    pub(crate) fn acknowledge_tick(&self) {
        let mut expirations = [0; 8];
        // Fails only if there is nothing to read, and then it is running.
        let _ = rustix::io::read(&self.timer, &mut expirations);
    }

    /// What one of the events of the last wait says.
    pub(crate) fn event(&self, at: usize) -> Happened {
        use epoll::EventFlags as F;
        let event = self.events[at];
        let key = ConnKey::unpack(event.data.u64());
        match (key.generation, key.index) {
            (SPECIAL, BELL) => Happened::Bell,
            (SPECIAL, TICK) => Happened::Tick,
            (SPECIAL, number) => Happened::Listener(number),
            _ => {
                let flags = event.flags;
                let ended = flags.intersects(F::RDHUP | F::HUP | F::ERR);
                let readiness = Readiness {
                    readable: ended || flags.contains(F::IN),
                    writable: flags.intersects(F::OUT | F::HUP | F::ERR),
                    ended,
                };
                Happened::Conn { key, readiness }
            }
        }
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

const fn special(index: u32) -> ConnKey {
    ConnKey { index, generation: SPECIAL }
}
