//! Connections that are not read, and what they wait for.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use petrel_net::ConnKey;
use petrel_shard::ShardIndex;

/// Connections that are held back, each for one reason.
#[derive(Debug)]
pub struct Held {
    by_shard: Vec<VecDeque<ConnKey>>,
    by_storage: Vec<ConnKey>,
    by_fanout: Vec<ConnKey>,
    by_parts: VecDeque<(ConnKey, u64)>,
    by_rate: BinaryHeap<Reverse<(u64, ConnKey)>>,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// This shard has more to do than it wants.
    Shard(ShardIndex),
    /// Storage does not keep up.
    Storage,
    /// What it has caused is not sent yet.
    Fanout,
    /// Its last message is on its way to many in parts, and so many of those have been begun.
    Parts(u64),
    /// It has published more than its share, until this time.
    Rate(u64),
}

impl Why {
    /// In words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Shard(_) => "a shard that its messages go to has more to do than it wants",
            Self::Storage => "storage does not keep up",
            Self::Fanout => "what its messages have caused is not sent yet",
            Self::Parts(_) => "its last message is on its way to very many",
            Self::Rate(_) => "it has published more than its share",
        }
    }
}

impl Held {
    pub(super) fn new(shards: u16) -> Self {
        Self {
            by_shard: vec![VecDeque::new(); usize::from(shards)],
            by_storage: Vec::new(),
            by_fanout: Vec::new(),
            by_parts: VecDeque::new(),
            by_rate: BinaryHeap::new(),
        }
    }

    pub(super) fn push(&mut self, conn: ConnKey, why: Why) {
        match why {
            Why::Shard(to) => self.by_shard[usize::from(to.0)].push_back(conn),
            Why::Storage => self.by_storage.push(conn),
            Why::Fanout => self.by_fanout.push(conn),
            Why::Parts(begun) => self.by_parts.push_back((conn, begun)),
            Why::Rate(until_ms) => self.by_rate.push(Reverse((until_ms, conn))),
        }
    }

    /// What a connection waits for, in words, if it is one of them. *Cost*: a look at all of them.
    #[must_use]
    pub fn why(&self, conn: ConnKey) -> Option<&'static str> {
        let of_shard = || {
            let held = self.by_shard.iter().position(|held| held.contains(&conn))?;
            Some(Why::Shard(ShardIndex(held as u16)))
        };
        let why = if self.by_storage.contains(&conn) {
            Why::Storage
        } else if self.by_fanout.contains(&conn) {
            Why::Fanout
        } else if let Some((_, begun)) = self.by_parts.iter().find(|(held, _)| *held == conn) {
            Why::Parts(*begun)
        } else if let Some(Reverse((until_ms, _))) =
            self.by_rate.iter().find(|Reverse((_, held))| *held == conn)
        {
            Why::Rate(*until_ms)
        } else {
            of_shard()?
        };
        Some(why.words())
    }

    /// How many wait, and for what in words.
    pub fn counts(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let by_shard = self.by_shard.iter().map(VecDeque::len).sum();
        let all = [
            (by_shard, Why::Shard(ShardIndex(0))),
            (self.by_storage.len(), Why::Storage),
            (self.by_fanout.len(), Why::Fanout),
            (self.by_parts.len(), Why::Parts(0)),
            (self.by_rate.len(), Why::Rate(0)),
        ];
        all.into_iter().filter(|(count, _)| *count > 0).map(|(count, why)| (count, why.words()))
    }

    /// All of them.
    pub(super) fn connections(&self) -> impl Iterator<Item = ConnKey> {
        let by_parts = self.by_parts.iter().map(|(conn, _)| conn);
        let others = self.by_storage.iter().chain(&self.by_fanout);
        let by_rate = self.by_rate.iter().map(|Reverse((_, conn))| conn);
        self.by_shard.iter().flatten().chain(others).chain(by_parts).chain(by_rate).copied()
    }

    /// Lets those go who have waited for this; of those who waited for parts all that began no later, and for a
    /// time all to whom it has come.
    pub(super) fn release(&mut self, why: Why, mut go: impl FnMut(ConnKey)) {
        match why {
            Why::Shard(to) => self.by_shard[usize::from(to.0)].drain(..).for_each(go),
            Why::Storage => self.by_storage.drain(..).for_each(go),
            Why::Fanout => self.by_fanout.drain(..).for_each(go),
            Why::Parts(done) => {
                while let Some((conn, _)) = self.by_parts.pop_front_if(|(_, begun)| *begun <= done)
                {
                    go(conn);
                }
            }
            Why::Rate(now_ms) => {
                while let Some(&Reverse((until_ms, conn))) = self.by_rate.peek()
                    && until_ms <= now_ms
                {
                    self.by_rate.pop();
                    go(conn);
                }
            }
        }
    }

    /// Lets those go who have waited for a shard longest, as many as it has room for messages.
    pub(super) fn release_by_shard(
        &mut self,
        room: impl Fn(ShardIndex) -> usize,
        mut go: impl FnMut(ConnKey),
    ) {
        for (to, held) in self.by_shard.iter_mut().enumerate() {
            if !held.is_empty() {
                let room = room(ShardIndex(to as u16)).min(held.len());
                held.drain(..room).for_each(&mut go);
            }
        }
    }

    /// Whether somebody waits for a shard that has room.
    pub(super) fn may_release(&self, room: impl Fn(ShardIndex) -> usize) -> bool {
        let mut held = self.by_shard.iter().enumerate().filter(|(_, held)| !held.is_empty());
        held.any(|(to, _)| room(ShardIndex(to as u16)) > 0)
    }

    /// Keeps those who wait for storage for whom it is true.
    pub(super) fn retain_by_storage(&mut self, stays: impl FnMut(&ConnKey) -> bool) {
        self.by_storage.retain(stays);
    }
}
