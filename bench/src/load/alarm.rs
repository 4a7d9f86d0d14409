//! A timer that ends a wait in epoll to the microsecond; epoll's own timeout knows milliseconds.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer in an epoll instance.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    /// When it rings, by the clock of whoever sets it.
    rings_ns: u64,
}

impl Alarm {
    /// What its events carry.
    pub const DATA: u64 = u64::MAX;

    /// Edge-triggered: an event is all there is to it, nothing need be read.
    ///
    /// # Errors
    /// The system gives no timer.
    pub fn new(epoll: &OwnedFd) -> rustix::io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let data = EventData::new_u64(Self::DATA);
        epoll::add(epoll, &timer, data, EventFlags::IN | EventFlags::ET)?;
        Ok(Self { timer, rings_ns: 0 })
    }

    /// Rings after at most so long, which is less than a second and not nothing; maybe earlier.
    ///
    /// *Cost*: none if it rings in time already, else one call of the system.
    ///
    /// # Errors
    /// The system refuses.
    pub fn ring_by(&mut self, now_ns: u64, wait: Duration) -> rustix::io::Result<()> {
        let wanted_ns = now_ns + wait.as_nanos() as u64;
        if self.rings_ns > now_ns && self.rings_ns <= wanted_ns {
            return Ok(());
        }
        self.rings_ns = wanted_ns;
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use rustix::buffer::spare_capacity;
    use rustix::event::epoll::{CreateFlags, Event};

    use super::*;

    #[test]
    fn it_ends_a_wait_as_often_as_it_is_set() {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("an instance");
        let mut alarm = Alarm::new(&epoll).expect("a timer");
        for turn in 0..3 {
            alarm.ring_by(turn * 1_000_000, Duration::from_micros(300)).expect("set");
            let mut events: Vec<Event> = Vec::with_capacity(4);
            epoll::wait(&epoll, spare_capacity(&mut events), None).expect("waited");
            assert_eq!(events.len(), 1);
            assert_eq!({ events[0].data }.u64(), Alarm::DATA);
        }
    }
}
