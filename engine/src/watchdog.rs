//! Looks whether every shard still runs.
//!
//! A pump has a turn at every tick, four times a second, whatever else happens. One that has had none
//! for two seconds although its thread sleeps has been forgotten by its executor: nobody will ever run
//! it again by itself. The one way in which that was seen to happen is provided for
//! ([`crate::executor`]); should there be another, it is counted and said, and the pump is woken.

use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::log::{self, Event, Level, Value};

/// How often it looks for forgotten pumps; four ticks fit in.
const EVERY: Duration = Duration::from_secs(1);

/// The signs of life of one shard.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Turns that the pump has had.
    turns: AtomicU64,
    /// The kernel's number of its thread; 0 before it runs and after it has ended.
    thread: AtomicI32,
    /// Wakes the pump, where it is a task.
    waker: Mutex<Option<Waker>>,
    stalls: AtomicU64,
}

impl Pulse {
    /// Names the calling thread as the one that runs the pump.
    pub fn begin(&self) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.thread.store(thread, Ordering::Relaxed);
    }

    /// Nothing runs the pump from now on.
    pub fn end(&self) {
        self.thread.store(0, Ordering::Relaxed);
    }

    /// Counts a turn.
    pub fn beat(&self) {
        // The pump alone writes it.
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Keeps what wakes the pump.
    pub fn set_waker(&self, waker: Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// Turns that the pump has had.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Times that the pump was found forgotten.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    /// True if the pump has ended in order.
    fn has_ended(&self) -> bool {
        self.turns() > 0 && self.thread.load(Ordering::Relaxed) == 0
    }

    /// True if the pump has had no turn since the last two looks although its thread was free to
    /// run one both times.
    fn is_forgotten(&self, seen: &mut Seen) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        let still = std::mem::replace(&mut seen.turns, turns) == turns && turns > 0;
        let suspect = still && sleeps(self.thread.load(Ordering::Relaxed));
        std::mem::replace(&mut seen.suspect, suspect) && suspect
    }

    fn revive(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }
}

/// What the watchdog saw of one shard when it looked last.
#[derive(Debug, Clone, Default)]
struct Seen {
    turns: u64,
    suspect: bool,
}

/// Whether a thread of this process waits for something other than a core.
fn sleeps(thread: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the state follows it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// A shard that has had no turn for so long is stuck, unless somebody wants to know sooner; an idle one has four turns
/// in a second.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Nobody is told sooner than this: a shard that works for so long may still be all right.
const STUCK_AFTER_MIN: Duration = Duration::from_secs(1);

/// How long a shard may have no turn before it is stuck, where somebody starts the process anew unless it says within
/// this time that it is alive: half of that, so that there is time left to say it.
#[must_use]
pub fn stuck_after(alive_within: Option<Duration>) -> Duration {
    alive_within.map_or(STUCK_AFTER, |within| (within / 2).clamp(STUCK_AFTER_MIN, STUCK_AFTER))
}

/// Which shards have turns: the judgement of all who have to say whether the process does what it is for.
#[derive(Debug)]
pub struct Vigil {
    pulses: Vec<Arc<Pulse>>,
    stuck_after: Duration,
    /// By shard: its turns, and when they were fewer.
    turns: Mutex<Vec<(u64, Instant)>>,
}

impl Vigil {
    /// Over these shards, which are stuck when they have had no turn for so long.
    #[must_use]
    pub fn new(pulses: Vec<Arc<Pulse>>, stuck_after: Duration) -> Self {
        let now = Instant::now();
        let turns = pulses.iter().map(|pulse| (pulse.turns(), now)).collect();
        Self { pulses, stuck_after, turns: Mutex::new(turns) }
    }

    /// How long a shard has no turn before it is stuck.
    #[must_use]
    pub const fn stuck_after(&self) -> Duration {
        self.stuck_after
    }

    /// Shards have turns from now on; what was before does not count.
    pub fn begin(&self) {
        let now = Instant::now();
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.iter_mut().for_each(|(_, at)| *at = now);
    }

    /// How often to look, so that what is told of a shard is about true.
    fn every(&self) -> Duration {
        EVERY.min(self.stuck_after / 4)
    }

    /// Looks which shards have had a turn. Nobody looking any more is seen as if no shard had any.
    fn look(&self, now: Instant) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        for ((before, at), pulse) in turns.iter_mut().zip(&self.pulses) {
            if std::mem::replace(before, pulse.turns()) != *before {
                *at = now;
            }
        }
    }

    /// The first shard that is stuck: it has had no turn for [`Self::stuck_after`], and has not ended.
    #[must_use]
    pub fn stuck(&self) -> Option<usize> {
        self.each_stuck().into_iter().position(|is| is)
    }

    /// Of each shard, whether it is stuck.
    #[must_use]
    pub fn each_stuck(&self) -> Vec<bool> {
        self.stuck_at(Instant::now())
    }

    fn stuck_at(&self, now: Instant) -> Vec<bool> {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stuck = |((_, at), pulse): (&(u64, Instant), &Arc<Pulse>)| {
            now.saturating_duration_since(*at) > self.stuck_after && !pulse.has_ended()
        };
        turns.iter().zip(&self.pulses).map(is_stuck).collect()
    }
}

/// A thread that looks; it ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to look after these shards.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(vigil: Arc<Vigil>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&vigil, &stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

fn watch(vigil: &Vigil, stopped: &Receiver<()>) {
    let mut seen = vec![Seen::default(); vigil.pulses.len()];
    let mut next = Instant::now() + EVERY;
    while stopped.recv_timeout(vigil.every()) == Err(RecvTimeoutError::Timeout) {
        let now = Instant::now();
        vigil.look(now);
        if now < next {
            continue;
        }
        next = now + EVERY;
        for (shard, (pulse, seen)) in vigil.pulses.iter().zip(&mut seen).enumerate() {
            if pulse.is_forgotten(seen) {
                let fields = [("shard", Value::Number(shard as u64))];
                let text = format_args!("shard {shard} was forgotten by its executor; it is woken");
                log::say(Event::ShardStalled, Level::Error, &fields, text);
                pulse.revive();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_shard_without_turns_is_stuck_until_it_has_one() {
        let pulses = [Arc::new(Pulse::default()), Arc::new(Pulse::default())];
        let vigil = Vigil::new(pulses.to_vec(), stuck_after(None));
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        pulses[0].begin();
        assert_eq!(vigil.stuck_at(after(4)), [false, false]);
        pulses[0].beat();
        vigil.look(after(4));
        assert_eq!(vigil.stuck_at(after(6)), [false, true]);
        pulses[1].begin();
        pulses[1].beat();
        vigil.look(after(7));
        assert_eq!(vigil.stuck_at(after(8)), [false, false]);
        // Nobody has looked since.
        pulses.iter().for_each(|pulse| pulse.beat());
        assert_eq!(vigil.stuck_at(after(10)), [true, false]);
        pulses[0].end();
        assert_eq!(vigil.stuck_at(after(20)), [false, true]);
    }

    #[test]
    fn who_is_told_within_a_time_is_told_of_a_stuck_shard_within_half_of_it() {
        let [none, long, two, one] =
            [None, Some(30_000), Some(4_000), Some(500)].map(|ms| ms.map(Duration::from_millis));
        assert_eq!(stuck_after(none), STUCK_AFTER);
        assert_eq!(stuck_after(long), STUCK_AFTER);
        assert_eq!(stuck_after(two), Duration::from_secs(2));
        assert_eq!(stuck_after(one), STUCK_AFTER_MIN);
        let vigil = Vigil::new(Vec::new(), stuck_after(one));
        assert!(vigil.every() * 2 < vigil.stuck_after(), "a look that comes late changes nothing");
    }

    #[test]
    fn a_thread_that_waits_without_a_turn_is_forgotten_and_one_that_works_is_not() {
        let pulse = Arc::new(Pulse::default());
        let (begun, begins) = channel();
        let (end, ends) = channel::<()>();
        let of_thread = Arc::clone(&pulse);
        let thread = std::thread::spawn(move || {
            of_thread.begin();
            of_thread.beat();
            begun.send(()).expect("somebody listens");
            let _ = ends.recv();
        });
        begins.recv().expect("it begins");
        let mut seen = Seen::default();
        assert!(!pulse.is_forgotten(&mut seen), "it has had a turn");
        let begin = Instant::now();
        while !pulse.is_forgotten(&mut seen) {
            assert!(begin.elapsed() < Duration::from_secs(20), "it sleeps and has no turn");
        }
        pulse.beat();
        assert!(!pulse.is_forgotten(&mut seen));
        drop(end);
        thread.join().expect("no panic");
        pulse.begin();
        pulse.is_forgotten(&mut seen);
        assert!(!pulse.is_forgotten(&mut seen), "this thread runs");
    }
}
