//! What the process says to who started it, if that wants to know: `sd_notify(3)`.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is said, and without `WATCHDOG_USEC` no thread is made.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::log;
use crate::watchdog::Vigil;

/// Says how the process is while it serves; it says no more when this is dropped.
#[derive(Debug)]
pub struct Systemd {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Systemd {
    /// The process serves. From now on it says that it is alive as often as it is asked to, as long as every shard
    /// has turns.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn serves(vigil: &Arc<Vigil>, status: impl fmt::Display) -> std::io::Result<Self> {
        let mut this = Self { stop: None, thread: None };
        if let Some(within) = sd_notify::watchdog_enabled() {
            let (stop, stopped) = channel();
            let vigil = Arc::clone(vigil);
            let thread = std::thread::Builder::new()
                .name("systemd".to_owned())
                .spawn(move || feed(&vigil, within / 2, &stopped))?;
            (this.stop, this.thread) = (Some(stop), Some(thread));
        }
        say(&[NotifyState::Ready, NotifyState::Status(&status.to_string())]);
        Ok(this)
    }

    /// The configuration is about to be read again; [`Self::reloaded`] follows.
    pub fn reloads(&self) {
        // Who started us knows by the time that it was this reload, and none before.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => say(&[NotifyState::Reloading, now]),
            Err(error) => log::warn(format_args!("systemd is not told of the reload: {error}")),
        }
    }

    /// It has been read, or the old one stays.
    pub fn reloaded(&self, status: impl fmt::Display) {
        say(&[NotifyState::Ready, NotifyState::Status(&status.to_string())]);
    }

    /// The process stops.
    pub fn stops(self) {
        say(&[NotifyState::Stopping, NotifyState::Status("telling clients to go elsewhere")]);
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
            Word::Alive => say(&[NotifyState::Watchdog]),
            Word::Stuck(shard) => {
                let status = format!("shard {shard} has no turns: the watchdog is not fed");
                log::error(&status);
                say(&[NotifyState::Status(&status)]);
            }
            Word::Nothing => {}
        }
        if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Whether somebody has been told in the log that nobody listens.
static TOLD: AtomicBool = AtomicBool::new(false);

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states)
        && !TOLD.swap(true, Ordering::Relaxed)
    {
        log::warn(format_args!(
            "systemd cannot be told how the broker is, at the socket that NOTIFY_SOCKET names: {error}"
        ));
    }
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
