//! What the process says to who started it, if that wants to know: `sd_notify(3)`.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is said, and without `WATCHDOG_USEC` no thread is made.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::log;
use crate::watchdog::Vigil;

/// How long somebody who listens may have no room for what is said.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says how the process is while it serves; it says no more when this is dropped.
#[derive(Debug)]
pub struct Systemd {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Within which time this process is to say again that it is alive, if somebody wants that.
#[must_use]
pub fn alive_within() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = match env::var_os("WATCHDOG_PID") {
        Some(_) => number("WATCHDOG_PID") == Some(std::process::id().into()),
        None => true,
    };
    number("WATCHDOG_USEC").filter(|&usec| is_ours && usec > 0).map(Duration::from_micros)
}

impl Systemd {
    /// The process serves. From now on it says that it is alive as often as it is asked to, as long as every shard
    /// has turns.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn serves(vigil: &Arc<Vigil>, status: impl fmt::Display) -> io::Result<Self> {
        let mut this = Self { stop: None, thread: None };
        if let Some(within) = alive_within() {
            let (stop, stopped) = channel();
            let vigil = Arc::clone(vigil);
            let thread = std::thread::Builder::new()
                .name("systemd".to_owned())
                .spawn(move || feed(&vigil, within / 2, &stopped))?;
            (this.stop, this.thread) = (Some(stop), Some(thread));
        }
        serving(status);
        Ok(this)
    }

    /// The configuration is about to be read again; [`Self::reloaded`] follows.
    pub fn reloads(&self) {
        // Who started us knows by the time that it was this reload, and none before.
        let now = clock_gettime(ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        say(format_args!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// It has been read, or the old one stays.
    pub fn reloaded(&self, status: impl fmt::Display) {
        serving(status);
    }

    /// The process stops.
    pub fn stops(self) {
        say(format_args!("STOPPING=1\nSTATUS=telling clients to go elsewhere"));
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// What there is to say of the shards.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// All of them have turns.
    Alive,
    /// This one has none, and nothing has been said of that.
    Stuck(usize),
    Nothing,
}

/// What to say when this shard is stuck. One answer decides of the word and of the next, so that none goes unsaid.
fn word(stuck: Option<usize>, was_stuck: &mut bool) -> Word {
    let was_stuck = std::mem::replace(was_stuck, stuck.is_some());
    match stuck {
        None => Word::Alive,
        Some(shard) if !was_stuck => Word::Stuck(shard),
        Some(_) => Word::Nothing,
    }
}

/// Says that the process is alive, unless some shard is stuck.
fn feed(vigil: &Vigil, every: Duration, stopped: &Receiver<()>) {
    let mut was_stuck = false;
    loop {
        match word(vigil.stuck(), &mut was_stuck) {
            Word::Alive => say(format_args!("WATCHDOG=1")),
            Word::Stuck(shard) => {
                let status = format!("shard {shard} has no turns: the watchdog is not fed");
                log::error(&status);
                say(format_args!("STATUS={status}"));
            }
            Word::Nothing => {}
        }
        if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn serving(status: impl fmt::Display) {
    // What stands in another line is another state.
    let status = status.to_string().replace('\n', "; ");
    say(format_args!("READY=1\nSTATUS={status}"));
}

/// Whether somebody has been told in the log that nobody listens.
static TOLD: AtomicBool = AtomicBool::new(false);

fn say(states: fmt::Arguments<'_>) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&name, &format!("{states}\n"))
        && !TOLD.swap(true, Ordering::Relaxed)
    {
        log::warn(format_args!(
            "systemd cannot be told how the broker is, at the socket that NOTIFY_SOCKET names: {error}"
        ));
    }
}

fn send(name: &OsStr, message: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            let text = format!("{} is neither a path from / nor a name after @", name.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    // The kernel takes all of a datagram or nothing.
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_is_stuck_is_named_once_each_time() {
        let mut was_stuck = false;
        let words = [None, Some(2), Some(2), Some(1), None, Some(0)];
        let said = words.map(|stuck| word(stuck, &mut was_stuck));
        let expected = [
            Word::Alive,
            Word::Stuck(2),
            Word::Nothing,
            Word::Nothing,
            Word::Alive,
            Word::Stuck(0),
        ];
        assert_eq!(said, expected);
    }
}
