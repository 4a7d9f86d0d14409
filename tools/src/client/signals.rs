//! Waiting: for the socket, for stdin, for Ctrl-C or for a time, whichever comes first.

use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::failure::Failure;

/// Where SIGINT and SIGTERM arrive as bytes.
#[derive(Debug)]
pub struct Signals(UnixStream);

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
        let caught = || -> io::Result<UnixStream> {
            let (ours, theirs) = UnixStream::pair()?;
            pipe::register(SIGINT, theirs.try_clone()?)?;
            pipe::register(SIGTERM, theirs)?;
            ours.set_nonblocking(true)?;
            Ok(ours)
        };
        let stream =
            caught().map_err(|error| Failure::new(format!("cannot catch signals: {error}")))?;
        Ok(Self(stream))
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
        let mut polled = vec![
            PollFd::new(&self.0, PollFlags::IN),
            PollFd::from_borrowed_fd(socket, PollFlags::IN | write),
        ];
        polled.extend(input.map(|input| PollFd::from_borrowed_fd(input, PollFlags::IN)));
        let timeout =
            deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::new(format!("cannot wait: {error}"))),
        }
        let happened: Vec<_> = polled.iter().map(PollFd::revents).collect();
        let ended = PollFlags::HUP | PollFlags::ERR;
        let mut ready = Ready {
            readable: happened[1].intersects(PollFlags::IN | ended),
            writable: happened[1].intersects(PollFlags::OUT | ended),
            input: happened.get(2).is_some_and(|it| it.intersects(PollFlags::IN | ended)),
            interrupted: false,
        };
        if happened[0].contains(PollFlags::IN) {
            let mut signals = [0; 16];
            ready.interrupted = (&self.0).read(&mut signals).is_ok_and(|count| count > 0);
        }
        Ok(ready)
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
