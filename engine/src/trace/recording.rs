//! One recording: what it holds, and when it is over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use petrel_shard::Subject;

use super::entry::Entry;
use super::{Spec, WhenFull};

/// What is so young may still be overtaken by what another shard says, in microseconds: it is shown later.
pub(super) const SETTLES_US: u64 = 200_000;
/// What shards say of the time before its end comes within this, in microseconds.
pub(super) const LATE_US: u64 = 500_000;

/// What is read at once ends when it takes so many bytes: shown, with what has to be escaped, that may be eight times
/// as much.
pub(super) const READ_BYTES_MAX: u64 = 1 << 20;

/// What a recording is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It records.
    Running,
    /// Its time is over.
    TimeOver,
    /// It holds as many bytes as it may.
    Full,
    /// Somebody has stopped it.
    Stopped,
}

/// A recording as it is told of.
#[derive(Debug, Clone)]
pub struct About {
    /// Its number.
    pub id: u64,
    /// What was asked for.
    pub spec: Spec,
    /// What it is at.
    pub state: State,
    /// When it began, in microseconds since 1970.
    pub begun_at_us: u64,
    /// When it ended, or will end at the latest.
    pub ends_at_us: u64,
    /// The position of the first entry that is held, and of the one behind the last.
    pub first: u64,
    /// See `first`.
    pub next: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Entries that were not recorded: too much happened, which is counted for all recordings at that time, or one alone
    /// was larger than the recording may be.
    pub left_out: u64,
    /// Entries that have made room for newer ones.
    pub dropped: u64,
}

#[derive(Debug)]
pub(super) struct Recording {
    pub(super) id: u64,
    pub(super) spec: Spec,
    /// Its bit in what shards say, while it runs and shortly after.
    pub(super) place: usize,
    /// The first watch that it is in.
    pub(super) since: u64,
    pub(super) begun_us: u64,
    pub(super) ends_us: u64,
    pub(super) state: State,
    /// By time, shard and order of arrival.
    young: BTreeMap<(u64, u16, u64), Arc<Entry>>,
    arrived: u64,
    entries: VecDeque<Arc<Entry>>,
    first: u64,
    bytes: u64,
    left_out: u64,
}

impl Recording {
    pub(super) fn new(id: u64, spec: Spec, place: usize, since: u64, now_us: u64) -> Self {
        let ends_us = now_us + u64::from(spec.seconds) * 1_000_000;
        Self {
            id,
            spec,
            place,
            since,
            begun_us: now_us,
            ends_us,
            state: State::Running,
            young: BTreeMap::new(),
            arrived: 0,
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            left_out: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Nothing will be added any more.
    pub(super) fn is_settled(&self, now_us: u64) -> bool {
        !self.is_running() && self.young.is_empty() && now_us >= self.ends_us + LATE_US
    }

    pub(super) fn end(&mut self, state: State, now_us: u64) {
        if self.is_running() {
            self.state = state;
            self.ends_us = self.ends_us.min(now_us);
        }
    }

    /// Takes an entry of the watch with this number, if it is for this recording.
    pub(super) fn take(&mut self, number: u64, entry: &Arc<Entry>) {
        let is_mine = number >= self.since && entry.to.has(self.place);
        let is_in_time = entry.at_us >= self.begun_us && entry.at_us < self.ends_us;
        if !is_mine || !is_in_time || self.state == State::Full {
            return;
        }
        let bytes = entry.cost_bytes();
        if bytes > self.spec.bytes && self.spec.when_full == WhenFull::DropOldest {
            // Nothing makes room for it.
            self.left_out += 1;
            return;
        }
        while self.bytes + bytes > self.spec.bytes {
            let oldest = (self.spec.when_full == WhenFull::DropOldest).then(|| self.pop_oldest());
            if !matches!(oldest, Some(true)) {
                self.ends_us = self.ends_us.min(entry.at_us);
                return self.state = State::Full;
            }
        }
        self.bytes += bytes;
        self.arrived += 1;
        self.young.insert((entry.at_us, entry.shard, self.arrived), Arc::clone(entry));
    }

    fn pop_oldest(&mut self) -> bool {
        let oldest = match self.entries.pop_front() {
            Some(oldest) => Some(oldest),
            None => self.young.pop_first().map(|(_, oldest)| oldest),
        };
        if let Some(oldest) = &oldest {
            self.bytes -= oldest.cost_bytes();
            self.first += 1;
        }
        oldest.is_some()
    }

    /// What was left out is said of each recording that ran.
    pub(super) fn note_left_out(&mut self, number: u64, count: u64) {
        if number >= self.since && self.is_running() {
            self.left_out += count;
        }
    }

    /// Time has passed.
    pub(super) fn settle(&mut self, now_us: u64) {
        if now_us >= self.ends_us {
            self.end(State::TimeOver, now_us);
        }
        let upto = now_us.saturating_sub(SETTLES_US);
        while let Some(first) = self.young.first_entry().filter(|first| first.key().0 <= upto) {
            self.entries.push_back(first.remove());
        }
    }

    /// Bytes that it may come to hold.
    pub(super) fn bytes_max(&self) -> u64 {
        if self.is_running() { self.spec.bytes } else { self.bytes }
    }

    pub(super) fn about(&self, begin_us: u64) -> About {
        About {
            id: self.id,
            spec: self.spec.clone(),
            state: self.state,
            begun_at_us: begin_us + self.begun_us,
            ends_at_us: begin_us + self.ends_us,
            first: self.first,
            next: self.first + self.entries.len() as u64,
            bytes: self.bytes,
            left_out: self.left_out,
            dropped: self.first,
        }
    }

    /// Entries from a position on, at most so many and fewer if they are large, and the position behind them.
    pub(super) fn read(&self, from: u64, most: usize) -> (Vec<Arc<Entry>>, u64) {
        let from = from.max(self.first);
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let has_room = |entry: &&Arc<Entry>| {
            let has_room = bytes < READ_BYTES_MAX;
            bytes += entry.cost_bytes();
            has_room
        };
        let entries = self.entries.iter().skip(skip).take(most).take_while(has_room);
        let entries: Vec<_> = entries.cloned().collect();
        let next = from + entries.len() as u64;
        (entries, next)
    }
}

impl State {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::TimeOver => "time_over",
            Self::Full => "full",
            Self::Stopped => "stopped",
        }
    }
}

impl About {
    /// The kind of what it is about, and which.
    #[must_use]
    pub fn subject(&self) -> (&'static str, String) {
        match &self.spec.subject {
            Subject::ClientId(id) => ("client-id", id.as_str().to_owned()),
            Subject::User(user) => ("user", user.as_str().to_owned()),
            Subject::Addresses(range) => ("address", range.to_string()),
            Subject::Topic(filter) => ("topic", filter.text().as_str().to_owned()),
        }
    }
}
