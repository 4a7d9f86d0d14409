//! The newest part of what is kept: what stands in the log and has not been folded into the maps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use hashbrown::HashMap;
use petrel_shard::Incarnation;

use crate::codec;
use crate::log::{Mark, Operation, Place, Reader};
use crate::shared::SharedId;
use crate::store::{Space, StoreError, Visitor};

/// To take a message out of a page costs about as much as to write so many bytes.
const GONE_BYTES: usize = 128;

/// A stand-in for a shared message that matched few subscriptions with identifiers is not longer.
const STAND_IN_BYTES_MAX: u32 = 128;

/// What the log says last of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Latest {
    /// It has this value.
    Put(Place),
    /// It was removed by the batch of this number.
    Removed(u64),
}

/// Places by sequence number, in order. What comes is mostly the last, and what goes one of the first.
#[derive(Debug, Default)]
pub(crate) struct Places(VecDeque<(u64, Place)>);

impl Places {
    fn position(&self, sequence: u64) -> Result<usize, usize> {
        // What is looked for is mostly the first.
        match self.first() {
            Some(first) if first == sequence => return Ok(0),
            Some(first) if first > sequence => return Err(0),
            _ => {}
        }
        self.0.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
    }

    /// Returns whether there was one.
    fn insert(&mut self, sequence: u64, place: Place) -> bool {
        if self.0.back().is_none_or(|(last, _)| *last < sequence) {
            self.0.push_back((sequence, place));
            return false;
        }
        match self.position(sequence) {
            Ok(at) => self.0[at].1 = place,
            Err(at) => {
                self.0.insert(at, (sequence, place));
                return false;
            }
        }
        true
    }

    /// Returns whether there was one.
    fn remove(&mut self, sequence: u64) -> bool {
        self.position(sequence).is_ok_and(|at| self.0.remove(at).is_some())
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<Place> {
        self.position(sequence).ok().map(|at| self.0[at].1)
    }

    /// The first sequence number.
    fn first(&self) -> Option<u64> {
        self.0.front().map(|(sequence, _)| *sequence)
    }

    /// The last sequence number.
    pub(crate) fn last(&self) -> Option<u64> {
        self.0.back().map(|(sequence, _)| *sequence)
    }

    /// Those from a sequence number on.
    pub(crate) fn from(&self, sequence: u64) -> impl Iterator<Item = (u64, Place)> + '_ {
        let at = self.position(sequence).unwrap_or_else(|at| at);
        self.0.range(at..).copied()
    }
}

/// What the log says of the messages that wait for one session.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// What waits.
    pub(crate) live: Places,
    /// What pages may hold and waits no longer, or is replaced by what `live` says.
    pub(crate) gone: BTreeSet<u64>,
    /// Pages may hold what is in `live` as well, since a failure came between the writing of a page
    /// and the end of the log of which it was made.
    pub(crate) overlaps: bool,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.live.0.is_empty() && self.gone.is_empty()
    }

    /// The place up to which there are so many bytes, or messages that are gone and were as long; `None`
    /// if there are not so many.
    fn part(&self, bytes_max: usize, weigh: impl Fn(Place) -> usize) -> Option<u64> {
        let mut bytes = 0;
        let is_enough = |(_, place): &&(u64, Place)| {
            bytes += weigh(*place);
            bytes > bytes_max
        };
        let live = self.live.0.iter().find(is_enough).map(|(end, _)| *end);
        let gone = self.gone.iter().nth(bytes_max / GONE_BYTES).copied();
        live.into_iter().chain(gone).min()
    }

    /// True if it says something of a place or of one behind it.
    fn goes_on_behind(&self, place: u64) -> bool {
        self.live.last().max(self.gone.last().copied()) >= Some(place)
    }

    /// Takes what it says of the places before one. What is gone goes with what replaces it.
    fn split(&mut self, end: u64) -> Self {
        let at = self.live.position(end).unwrap_or_else(|at| at);
        let gone = self.gone.split_off(&end);
        Self {
            live: Places(self.live.0.drain(..at).collect()),
            gone: std::mem::replace(&mut self.gone, gone),
            overlaps: self.overlaps,
        }
    }
}

/// What was taken out of a window while it is written into the maps.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    keys: Vec<(Space, Bytes, Latest)>,
    pub(crate) backlogs: Vec<(Incarnation, Backlog)>,
}

/// The log in memory, with an index.
#[derive(Debug, Default)]
pub(crate) struct Window {
    batches: VecDeque<Bytes>,
    /// The number of the first of them.
    first: u64,
    /// The length of all of them.
    bytes: usize,
    /// By [`Space`].
    keys: [BTreeMap<Bytes, Latest>; Space::ALL.len()],
    backlogs: HashMap<Incarnation, Backlog>,
    /// Messages that several sessions share.
    shared: HashMap<SharedId, Place>,
    /// Their names, in the order of the log.
    shared_order: VecDeque<SharedId>,
}

impl Window {
    /// An empty window whose first batch will have this number.
    pub(crate) fn new(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    /// The length of the log, in bytes.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number that the next batch gets.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// The oldest batch.
    pub(crate) fn oldest(&self) -> Option<(u64, &Bytes)> {
        self.batches.front().map(|bytes| (self.first, bytes))
    }

    /// The number of the first batch, and all batches.
    pub(crate) fn batches(&self) -> (u64, Vec<Bytes>) {
        (self.first, self.batches.iter().cloned().collect())
    }

    /// Forgets the oldest batch, to which nothing refers any more.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let batch = self.batches.pop_front()?;
        self.bytes -= batch.len();
        while let Some(id) = self
            .shared_order
            .pop_front_if(|id| self.shared.get(id).is_none_or(|place| place.batch == self.first))
        {
            self.shared.remove(&id);
        }
        self.first += 1;
        Some(batch)
    }

    /// Adds a batch. `again` if it is read after a failure, which may have come while it was folded.
    pub(crate) fn push(&mut self, bytes: Bytes, again: bool) -> Result<(), StoreError> {
        let mut reader = Reader::new(self.next(), &bytes, 0);
        while let Some(operation) = reader.next()? {
            self.apply(operation, again);
        }
        self.bytes += bytes.len();
        self.batches.push_back(bytes);
        Ok(())
    }

    /// Adds a batch of which it is known where everything is.
    pub(crate) fn push_marked(
        &mut self,
        bytes: Bytes,
        marks: impl Iterator<Item = Mark>,
    ) -> Result<(), StoreError> {
        let batch = self.next();
        for mark in marks {
            let operation = match mark {
                Mark::Queued { incarnation, sequence, start, bytes } => {
                    let value = Place { batch, start, bytes };
                    Operation::Queued { incarnation, sequence, value }
                }
                Mark::Done { incarnation, sequence } => Operation::Done { incarnation, sequence },
                Mark::Other { at } => match Reader::new(batch, &bytes, at).next()? {
                    Some(operation) => operation,
                    None => continue,
                },
            };
            self.apply(operation, false);
        }
        self.bytes += bytes.len();
        self.batches.push_back(bytes);
        Ok(())
    }

    fn apply(&mut self, operation: Operation, again: bool) {
        match operation {
            Operation::Put { space, key, value } => self.set(space, key, Latest::Put(value)),
            Operation::Remove { space, key } => {
                let removed = Latest::Removed(self.next());
                self.set(space, key, removed);
            }
            Operation::Queued { incarnation, sequence, value } => {
                let backlog = self.backlogs.entry(incarnation).or_default();
                backlog.overlaps |= again;
                backlog.live.insert(sequence, value);
            }
            Operation::Released { incarnation, sequence, value } => {
                let backlog = self.backlogs.entry(incarnation).or_default();
                backlog.overlaps |= again;
                if !backlog.live.insert(sequence, value) || backlog.overlaps {
                    backlog.gone.insert(sequence);
                }
            }
            Operation::Done { incarnation, sequence } => {
                let backlog = self.backlogs.entry(incarnation).or_default();
                backlog.overlaps |= again;
                if !backlog.live.remove(sequence) || backlog.overlaps {
                    backlog.gone.insert(sequence);
                }
                if backlog.is_empty() {
                    self.backlogs.remove(&incarnation);
                }
            }
            Operation::Ended { incarnation } => {
                self.backlogs.remove(&incarnation);
                let key = session_key(incarnation);
                for space in [Space::Subscription, Space::Receipt] {
                    let keys = &mut self.keys[space as usize];
                    let of_session: Vec<Bytes> = keys
                        .range::<[u8], _>((Bound::Included(&key[..]), Bound::Unbounded))
                        .map(|(key, _)| key)
                        .take_while(|found| found.starts_with(&key))
                        .cloned()
                        .collect();
                    for key in of_session {
                        keys.remove(&key);
                    }
                }
                let removed = Latest::Removed(self.next());
                self.set(Space::Session, Bytes::copy_from_slice(&key), removed);
            }
            Operation::Shared { id, value } => {
                self.shared.insert(id, value);
                self.shared_order.push_back(id);
            }
        }
    }

    fn set(&mut self, space: Space, key: Bytes, latest: Latest) {
        // A key that stayed would be a slice of an older batch, and keep its memory.
        let keys = &mut self.keys[space as usize];
        keys.remove(&key);
        keys.insert(key, latest);
    }

    /// The bytes at a place.
    pub(crate) fn value(&self, place: Place) -> Bytes {
        let index = (place.batch - self.first) as usize;
        let start = place.start as usize;
        self.batches[index].slice(start..start + place.bytes as usize)
    }

    /// A message that several sessions share, if it stands in the log.
    pub(crate) fn shared(&self, id: SharedId) -> Option<Bytes> {
        self.shared.get(&id).map(|place| self.value(*place))
    }

    /// What the log says last of a key, if it says anything.
    pub(crate) fn latest(&self, space: Space, key: &[u8]) -> Option<Latest> {
        self.keys[space as usize].get(key).copied()
    }

    /// What the log says of the keys of a space, in order.
    pub(crate) fn keys(&self, space: Space) -> impl Iterator<Item = (&Bytes, Latest)> {
        self.keys[space as usize].iter().map(|(key, latest)| (key, *latest))
    }

    /// Forgets a key, which the maps know from now on.
    pub(crate) fn forget(&mut self, space: Space, key: &[u8], taken: &mut Taken) {
        if let Some((key, latest)) = self.keys[space as usize].remove_entry(key) {
            taken.keys.push((space, key, latest));
        }
    }

    /// The maps do not know what was taken, or it is not known whether they do.
    pub(crate) fn take_back(&mut self, taken: Taken) {
        for (space, key, latest) in taken.keys {
            self.keys[space as usize].insert(key, latest);
        }
        for (incarnation, mut first) in taken.backlogs {
            if let Some(rest) = self.backlogs.remove(&incarnation) {
                first.live.0.extend(rest.live.0);
                first.gone.extend(rest.gone);
                first.overlaps |= rest.overlaps;
            }
            self.backlogs.insert(incarnation, first);
        }
    }

    /// What the log says of what waits for a session.
    pub(crate) fn backlog(&self, incarnation: Incarnation) -> Option<&Backlog> {
        self.backlogs.get(&incarnation)
    }

    /// For whom anything waits, or has waited, in no order.
    pub(crate) fn backlogs(&self) -> impl Iterator<Item = (Incarnation, &Backlog)> {
        self.backlogs.iter().map(|(incarnation, backlog)| (*incarnation, backlog))
    }

    /// Shows what the log and the maps say together of a space, in the order of the keys; `scan` shows
    /// what the maps say.
    pub(crate) fn merge(
        &self,
        space: Space,
        scan: impl FnOnce(&mut Visitor<'_>) -> Result<(), StoreError>,
        mut visit: impl FnMut(&Bytes, &Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut newer = self.keys(space).peekable();
        let mut result = Ok(());
        let show = |latest: Latest, key: &Bytes, visit: &mut dyn FnMut(&Bytes, &Bytes) -> _| {
            match latest {
                Latest::Put(place) => visit(key, &self.value(place)),
                Latest::Removed(_) => Ok(()),
            }
        };
        scan(&mut |key, value| {
            while let Some((newer_key, latest)) = newer.next_if(|(newer, _)| *newer < key) {
                result = show(latest, newer_key, &mut visit);
                if result.is_err() {
                    return ControlFlow::Break(());
                }
            }
            result = match newer.next_if(|(newer, _)| *newer == key) {
                Some((_, latest)) => show(latest, key, &mut visit),
                None => visit(key, value),
            };
            if result.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        result?;
        for (key, latest) in newer {
            show(latest, key, &mut visit)?;
        }
        Ok(())
    }

    /// Takes what the log says of what waits for a session, or its first part: with this place, and with
    /// so many bytes. Pages say it from now on.
    pub(crate) fn take_backlog(
        &mut self,
        incarnation: Incarnation,
        place: u64,
        bytes_max: usize,
    ) -> Option<Backlog> {
        // What stands for a message that several sessions share is short, and brings it along.
        let weigh = |place: Place| match place.bytes {
            ..=STAND_IN_BYTES_MAX => codec::weight(&self.value(place)),
            bytes => bytes as usize,
        };
        let part = self.backlogs.get(&incarnation)?.part(bytes_max, weigh);
        let part = part.map(|end| end.max(place + 1));
        let backlog = self.backlogs.get_mut(&incarnation)?;
        match part.filter(|end| !backlog.overlaps && backlog.goes_on_behind(*end)) {
            Some(end) => Some(backlog.split(end)),
            None => self.backlogs.remove(&incarnation),
        }
    }
}

/// The key of a session, and the beginning of every key that belongs to it.
pub(crate) fn session_key(incarnation: Incarnation) -> [u8; 8] {
    incarnation.to_u64().to_be_bytes()
}
