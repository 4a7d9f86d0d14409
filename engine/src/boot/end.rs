//! How a broker ends: all its shards do, or one never will.

use std::fmt;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::executor::ShardThread;
use crate::watchdog::Vigil;

/// How often it is asked whether those that have not ended have turns.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a broker did not end in order. Displays as one sentence without its full stop.
#[derive(Debug)]
pub enum StopError {
    /// A shard had ended before its time.
    Shard(io::Error),
    /// This shard has no turns, so it does not end. Nothing has waited for the storage.
    Stuck(usize),
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(error) => write!(f, "a shard had failed: {error}"),
            Self::Stuck(shard) => write!(
                f,
                "shard {shard} is stuck and does not end, so the process ends without it; what is kept is what would \
                 be kept after a crash"
            ),
        }
    }
}

impl std::error::Error for StopError {}

/// Waits for the end of all shards; after a time only as long as all that have not ended have turns.
pub(super) fn join(
    threads: Vec<ShardThread>,
    vigil: &Vigil,
    within: Duration,
) -> Result<(), StopError> {
    let (ended, end) = mpsc::channel();
    let join = move || {
        let join = |result: io::Result<()>, thread: ShardThread| result.and(thread.join());
        // Whoever waits may have lost patience.
        let _ = ended.send(threads.into_iter().fold(Ok(()), join));
    };
    std::thread::Builder::new().name("end".to_owned()).spawn(join).map_err(StopError::Shard)?;
    let mut patience = within;
    let mut was_stuck = None;
    loop {
        match end.recv_timeout(patience) {
            Ok(result) => return result.map_err(StopError::Shard),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(StopError::Shard(io::Error::other("nobody waits for shards any more")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        // Twice, since a process that was stopped as a whole finds that nobody has had turns.
        match vigil.stuck() {
            Some(shard) if was_stuck == Some(shard) => return Err(StopError::Stuck(shard)),
            stuck => was_stuck = stuck,
        }
        patience = LOOK_AGAIN.min(within);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::watchdog::Pulse;

    /// A shard that has had a turn, and ends when it is told to.
    fn shard() -> (ShardThread, Arc<Pulse>, Sender<()>) {
        let pulse = Arc::new(Pulse::default());
        let (end, ends) = channel();
        let (begun, begins) = channel();
        let of_thread = Arc::clone(&pulse);
        let run = move |ends: Receiver<()>| {
            of_thread.begin();
            of_thread.beat();
            begun.send(()).expect("somebody waits");
            let _ = ends.recv();
            of_thread.end();
            Ok(())
        };
        let thread = std::thread::spawn(move || run(ends));
        begins.recv().expect("it begins");
        (ShardThread::Plain(thread), pulse, end)
    }

    #[test]
    fn a_shard_that_never_ends_is_named_and_one_that_ends_is_waited_for() {
        let (well, first, end_first) = shard();
        let (ill, second, end_second) = shard();
        // Nobody looks after them, so that each is stuck at once unless it has ended.
        let vigil = Vigil::new(vec![first, second], Duration::ZERO);
        drop(end_first);
        let ended = join(vec![well], &Vigil::new(Vec::new(), Duration::ZERO), Duration::ZERO);
        assert!(ended.is_ok(), "{ended:?}");
        let stuck = join(vec![ill], &vigil, Duration::from_millis(1));
        assert!(matches!(stuck, Err(StopError::Stuck(1))), "{stuck:?}");
        drop(end_second);
    }
}
