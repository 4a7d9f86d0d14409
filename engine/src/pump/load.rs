//! How much a shard has to do, in levels, and what it does about it.
//!
//! - **Level 1**: who publishes more than its share of what the shard can handle is not read until
//!   the next tick, the greediest first.
//! - **Level 2**: the same with half of that; and new sessions are refused, 0x89 (Server busy).
//! - **Level 3**: every publisher has one message in a tick; and QoS 0 messages to slow readers are dropped
//!   when a sixteenth waits of what may.
//!
//! While the process has all the memory that it may have, nothing that is published is taken, and nobody gets
//! further subscriptions ([`petrel_shard::Input::Full`]); what makes room is heard.
//!
//! A level is entered at once, and left for the one below after two seconds without its cause.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use petrel_net::ConnKey;

/// How much there is to do: 0 to 3.
pub type Level = u8;

/// What shards and those who look at the process know of its load.
#[derive(Debug, Default)]
pub struct ProcessLoad {
    /// Memory of the process, in thousandths of what it may have.
    memory_permille: AtomicU32,
}

impl ProcessLoad {
    /// Says how much memory the process has, in thousandths of what it may have.
    pub fn set_memory_permille(&self, permille: u32) {
        self.memory_permille.store(permille, Ordering::Relaxed);
    }

    /// Whether the process has so much of the memory that it may have that what is not needed is to go.
    #[must_use]
    pub fn wants_memory(&self) -> bool {
        self.memory_permille() >= MEMORY[0]
    }

    fn memory_permille(&self) -> u32 {
        self.memory_permille.load(Ordering::Relaxed)
    }
}

/// What was seen of a shard since the last tick.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signals {
    /// What its turns have taken of a core, in milliseconds, and how many there were.
    pub(super) turns_ms: u64,
    pub(super) turns: u32,
    /// So much waits to be sent that others wait for it.
    pub(super) staged: bool,
    /// Lanes have more to write than they may have.
    pub(super) laden: bool,
}

/// Why a level is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Nothing,
    Memory,
    Turns,
    Queues,
    Storage,
}

impl Cause {
    /// For the log.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Nothing => "there is less to do",
            Self::Memory => "the process has most of limits.memory_bytes",
            Self::Turns => "its turns take long",
            Self::Queues => "much waits to be sent",
            Self::Storage => "storage does not keep up",
        }
    }
}

/// Thousandths of the memory at which each level begins.
const MEMORY: [u32; 3] = [800, 900, 950];
/// What a turn takes at each level, in milliseconds, over [`TICKS`].
const TURN_MS: [u64; 3] = [50, 250, 1000];
/// Ticks over which turns are looked at, and for which queues must be long: a second.
const TICKS: usize = 4;
/// Ticks without its cause after which a level is left.
const CALM_TICKS: u32 = 8;

/// Messages that a client may publish in a tick at level 1 and 2, whatever its share is.
const SHARE_MIN: u32 = 16;
/// What all clients may publish in a tick at level 1, if the shard has handled less lately: it may have been idle,
/// which says nothing of what it can handle.
const CAPACITY_MIN: u32 = 4_096;

/// The load of one shard.
#[derive(Debug)]
pub(super) struct Load {
    process: Arc<ProcessLoad>,
    level: Level,
    calm: u32,
    lately: [Signals; TICKS],
    at: usize,
    /// What each client has published since the last tick, in messages, and all of them together. Counted at all
    /// times, and of each client only above level 0.
    published: HashMap<ConnKey, u32>,
    published_all: u32,
    /// The most that was published in a tick lately; what is longer ago counts less, half of it after some eleven
    /// seconds.
    peak: u32,
    /// What it was when level 1 began, and how many have published lately.
    capacity: u32,
    publishers: usize,
}

impl Load {
    pub(super) fn new(process: Arc<ProcessLoad>) -> Self {
        Self {
            process,
            level: 0,
            calm: 0,
            lately: [Signals::default(); TICKS],
            at: 0,
            published: HashMap::new(),
            published_all: 0,
            peak: 0,
            capacity: 0,
            publishers: 1,
        }
    }

    pub(super) const fn level(&self) -> Level {
        self.level
    }

    /// Whether the process has all the memory that it may have.
    pub(super) fn is_full(&self) -> bool {
        self.process.memory_permille() >= 1000
    }

    /// Whether the memory of the process is what makes the level.
    pub(super) fn wants_memory(&self) -> bool {
        self.process.wants_memory()
    }

    /// A client has published a message. True if it has had its share of this tick.
    #[inline]
    pub(super) fn published(&mut self, conn: ConnKey) -> bool {
        self.published_all = self.published_all.saturating_add(1);
        self.level > 0 && self.is_greedy(conn)
    }

    #[cold]
    fn is_greedy(&mut self, conn: ConnKey) -> bool {
        *self.published.entry(conn).or_default() += 1;
        self.has_had_its_share(conn)
    }

    /// Whether a client has published as much as it may in this tick.
    pub(super) fn has_had_its_share(&self, conn: ConnKey) -> bool {
        let all = match self.level {
            0 => return false,
            1 => self.capacity,
            2 => self.capacity / 2,
            _ => 0,
        };
        let least = if self.level > 2 { 1 } else { SHARE_MIN };
        let share = (all / self.publishers as u32).max(least);
        self.published.get(&conn).is_some_and(|&own| own >= share)
    }

    /// A tick has come. The level and its cause if it has changed.
    pub(super) fn tick(&mut self, signals: Signals) -> Option<(Level, Cause)> {
        self.lately[self.at % TICKS] = signals;
        self.at += 1;
        let (wanted, cause) = self.wanted();
        let before = self.level;
        if wanted > before {
            if before == 0 {
                self.note_capacity();
            }
            (self.level, self.calm) = (wanted, 0);
        } else if wanted < before {
            self.calm += 1;
            if self.calm >= CALM_TICKS {
                (self.level, self.calm) = (before - 1, 0);
            }
        } else {
            self.calm = 0;
        }
        self.publishers = self.published.len().max(1);
        self.published.clear();
        let published = std::mem::take(&mut self.published_all);
        if self.level == 0 {
            self.peak = (self.peak - self.peak.div_ceil(64)).max(published);
            self.published = HashMap::new();
        }
        (self.level != before).then_some((self.level, cause))
    }

    /// Memory is looked at in every turn, since it may be gone before the next tick. The level if it has risen.
    #[inline]
    pub(super) fn rise(&mut self) -> Option<(Level, Cause)> {
        let wanted = self.memory_level();
        if wanted <= self.level {
            return None;
        }
        if self.level == 0 {
            self.note_capacity();
        }
        (self.level, self.calm) = (wanted, 0);
        Some((wanted, Cause::Memory))
    }

    fn note_capacity(&mut self) {
        self.capacity = self.peak.max(self.published_all).max(CAPACITY_MIN);
    }

    fn memory_level(&self) -> Level {
        let permille = self.process.memory_permille();
        MEMORY.iter().filter(|&&step| permille >= step).count() as Level
    }

    fn wanted(&self) -> (Level, Cause) {
        let level_of = |steps: &[u64], value: u64| {
            steps.iter().filter(|&&step| value >= step).count() as Level
        };
        let turns_ms: u64 = self.lately.iter().map(|it| it.turns_ms).sum();
        let turns: u64 = self.lately.iter().map(|it| u64::from(it.turns)).sum();
        let turns = level_of(&TURN_MS, turns_ms.checked_div(turns).unwrap_or(0));
        let queues = Level::from(self.lately.iter().all(|it| it.staged));
        let storage = Level::from(self.lately.iter().all(|it| it.laden));
        let causes = [
            (storage, Cause::Storage),
            (queues, Cause::Queues),
            (turns, Cause::Turns),
            (self.memory_level(), Cause::Memory),
        ];
        // Of several causes of one level the last.
        let most = causes.into_iter().max_by_key(|(level, _)| *level);
        most.filter(|(level, _)| *level > 0).unwrap_or((0, Cause::Nothing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(permille: u32) -> (Load, Arc<ProcessLoad>) {
        let process = Arc::new(ProcessLoad::default());
        process.set_memory_permille(permille);
        (Load::new(Arc::clone(&process)), process)
    }

    fn conn(index: u32) -> ConnKey {
        ConnKey { index, generation: 1 }
    }

    #[test]
    fn levels_are_entered_at_once_and_left_one_by_one() {
        let (mut load, process) = load(799);
        assert_eq!(load.tick(Signals::default()), None);
        process.set_memory_permille(951);
        assert_eq!(load.tick(Signals::default()), Some((3, Cause::Memory)));
        process.set_memory_permille(850);
        let levels: Vec<_> = (0..20)
            .map(|_| {
                load.tick(Signals::default());
                load.level()
            })
            .collect();
        assert_eq!(levels, [vec![3; 7], vec![2; 8], vec![1; 5]].concat());
        assert_eq!(load.level(), 1, "which its memory wants");
        process.set_memory_permille(0);
        let left = (0..CALM_TICKS).find_map(|_| load.tick(Signals::default()));
        assert_eq!(left, Some((0, Cause::Nothing)));
    }

    #[test]
    fn a_shard_that_was_idle_has_a_share_for_everybody_all_the_same() {
        let (mut load, process) = load(0);
        let until_held = |load: &mut Load| (1..100_000).find(|_| load.published(conn(1)));
        // It was busy some seconds ago, and idle since.
        for _ in 0..20_000 {
            load.published(conn(1));
        }
        for _ in 0..20 {
            load.tick(Signals::default());
        }
        process.set_memory_permille(800);
        load.rise();
        load.tick(Signals::default());
        let held = until_held(&mut load).unwrap();
        assert!((14_000..20_000).contains(&held), "{held}");
        // It has never been busy.
        let (mut load, process) = self::load(0);
        process.set_memory_permille(800);
        load.tick(Signals::default());
        assert_eq!(until_held(&mut load), Some(CAPACITY_MIN));
    }

    #[test]
    fn memory_raises_a_level_between_ticks_and_lowers_none() {
        let (mut load, process) = load(799);
        assert_eq!(load.rise(), None);
        process.set_memory_permille(900);
        assert_eq!(load.rise(), Some((2, Cause::Memory)));
        assert_eq!(load.rise(), None);
        process.set_memory_permille(0);
        assert_eq!(load.rise(), None);
        assert_eq!(load.level(), 2);
    }

    #[test]
    fn one_long_turn_is_no_overload_and_a_second_of_them_is() {
        let (mut load, _process) = load(0);
        let signals = |turns_ms, turns| Signals { turns_ms, turns, ..Signals::default() };
        assert_eq!(load.tick(signals(40, 100)), None);
        assert_eq!(load.tick(signals(300, 10)), None);
        assert_eq!((0..3).find_map(|_| load.tick(signals(250, 5))), None);
        assert_eq!((0..4).find_map(|_| load.tick(signals(250, 1))), Some((1, Cause::Turns)));
        assert_eq!((0..4).find_map(|_| load.tick(signals(900, 3))), Some((2, Cause::Turns)));
    }

    #[test]
    fn queues_count_when_they_have_been_long_for_a_second() {
        let (mut load, _process) = load(0);
        let staged = Signals { staged: true, ..Signals::default() };
        let laden = Signals { laden: true, ..Signals::default() };
        assert_eq!((0..3).find_map(|_| load.tick(staged)), None);
        assert_eq!(load.tick(laden), None);
        assert_eq!((0..4).find_map(|_| load.tick(laden)), Some((1, Cause::Storage)));
    }

    #[test]
    fn the_greedy_wait_and_the_modest_do_not() {
        let (mut load, process) = load(0);
        // One of ten sends most of what the shard handles.
        let tick = |load: &mut Load| {
            let mut held = Vec::new();
            for client in 0..10 {
                let wants = if client == 0 { 9_100 } else { 100 };
                let sent = (1..=wants).find(|_| load.published(conn(client)));
                held.push(sent.unwrap_or(wants));
            }
            load.tick(Signals::default());
            held
        };
        assert_eq!(tick(&mut load), [9100, 100, 100, 100, 100, 100, 100, 100, 100, 100]);
        process.set_memory_permille(800);
        tick(&mut load);
        // It is not known yet how many there are.
        tick(&mut load);
        let shares = tick(&mut load);
        assert_eq!(shares, [1000, 100, 100, 100, 100, 100, 100, 100, 100, 100]);
        process.set_memory_permille(900);
        tick(&mut load);
        assert_eq!(tick(&mut load)[..2], [500, 100]);
        process.set_memory_permille(950);
        tick(&mut load);
        assert_eq!(tick(&mut load), [1; 10]);
        // Until the next tick, whatever else it waits for.
        assert!(load.published(conn(3)) && load.has_had_its_share(conn(3)));
        assert!(!load.has_had_its_share(conn(4)));
        load.tick(Signals::default());
        assert!(!load.has_had_its_share(conn(3)));
    }
}
