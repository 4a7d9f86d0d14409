//! Waiting: for the socket, for stdin, for Ctrl-C or for a time, whichever comes first.

use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::{self, pipe};

use crate::failure::Failure;

/// Where SIGINT and SIGTERM arrive as bytes, or nobody who listens for them.
#[derive(Debug)]
pub struct Signals {
    arrive: Option<UnixStream>,
    caught: Vec<SigId>,
}

/// What a wait ended with; all may be false when the time was up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ready {
    /// The socket has bytes, or its end.
    pub readable: bool,
    /// The socket takes bytes.
    pub writable: bool,
    /// stdin has bytes, or its end.
    pub input: bool,
    /// SIGINT or SIGTERM arrived.
    pub interrupted: bool,
}

impl Signals {
    /// Catches SIGINT and SIGTERM from now on.
    pub fn catch() -> Result<Self, Failure> {
        let mut caught = Vec::new();
        let mut pair = || -> io::Result<UnixStream> {
            let (ours, theirs) = UnixStream::pair()?;
            caught.push(pipe::register(SIGINT, theirs.try_clone()?)?);
            caught.push(pipe::register(SIGTERM, theirs)?);
            ours.set_nonblocking(true)?;
            Ok(ours)
        };
        let arrive =
            pair().map_err(|error| Failure::new(format!("cannot catch signals: {error}")))?;
        Ok(Self { arrive: Some(arrive), caught })
    }

    /// For one of many connections, of which none is to take a signal away from the others.
    pub fn ignored() -> Self {
        Self { arrive: None, caught: Vec::new() }
    }

    /// Waits for a time, or for ever; true if a signal arrived.
    pub fn pause(&self, deadline: Option<Instant>) -> Result<bool, Failure> {
        loop {
            let mut polled: Vec<_> =
                self.arrive.iter().map(|arrive| PollFd::new(arrive, PollFlags::IN)).collect();
            poll_until(&mut polled, deadline)?;
            if self.take() {
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(false);
            }
        }
    }

    /// True if a signal has arrived since the last time.
    fn take(&self) -> bool {
        let mut signals = [0; 16];
        let read = |mut arrive: &UnixStream| arrive.read(&mut signals).is_ok_and(|count| count > 0);
        self.arrive.as_ref().is_some_and(read)
    }

    /// Waits until something happens or the deadline passes.
    pub fn wait(
        &self,
        socket: BorrowedFd<'_>,
        for_writing: bool,
        input: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> Result<Ready, Failure> {
        let write = if for_writing { PollFlags::OUT } else { PollFlags::empty() };
        let mut polled = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN | write)];
        polled.extend(input.map(|input| PollFd::from_borrowed_fd(input, PollFlags::IN)));
        polled.extend(self.arrive.iter().map(|arrive| PollFd::new(arrive, PollFlags::IN)));
        poll_until(&mut polled, deadline)?;
        let happened: Vec<_> = polled.iter().map(PollFd::revents).collect();
        let ended = PollFlags::HUP | PollFlags::ERR;
        let has_come = |at: usize| {
            happened.get(at).is_some_and(|happened| happened.intersects(PollFlags::IN | ended))
        };
        Ok(Ready {
            readable: has_come(0),
            writable: happened[0].intersects(PollFlags::OUT | ended),
            input: input.is_some() && has_come(1),
            interrupted: has_come(happened.len() - usize::from(self.arrive.is_some()))
                && self.take(),
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.caught.drain(..) {
            low_level::unregister(id);
        }
    }
}

fn poll_until(polled: &mut [PollFd<'_>], deadline: Option<Instant>) -> Result<(), Failure> {
    let timeout =
        deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
    match poll(polled, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::new(format!("cannot wait: {error}"))),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
