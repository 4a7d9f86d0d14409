//! Everything that a lane keeps at one moment, for a thread that reads it while the lane goes on.
//!
//! What is shown is the folded view: what log and maps say together, as if all of the log had been
//! folded, and nothing of sessions that are over.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::ControlFlow;

use bytes::Bytes;
use hashbrown::HashSet;
use petrel_shard::Incarnation;

use crate::codec;
use crate::disk::Held;
use crate::lane::{FOLDED, ORIGIN, incarnation_of};
use crate::log::Place;
use crate::page;
use crate::shared::SharedId;
use crate::store::{Maps, Space, StoreError, Usage};
use crate::window::{Backlog, Window};

/// Bytes of what waits for one session that are gathered before they are put into pages, about.
const GATHER_BYTES: usize = 1 << 20;

/// What is shown of each entry.
pub type Show<'a> = dyn FnMut(Space, &Bytes, &Bytes) -> Result<(), StoreError> + 'a;

/// What a lane keeps at one moment.
pub struct View {
    pub(crate) lane: u16,
    pub(crate) lanes: u16,
    pub(crate) epoch: u32,
    pub(crate) maps: Box<dyn Maps>,
    /// The number of the first batch in the log.
    pub(crate) first: u64,
    pub(crate) batches: Vec<Bytes>,
    /// It is of what could be read of a damaged folder: what is missing is known to be.
    pub(crate) is_salvaged: bool,
    /// Nothing is dropped of sessions that were alive.
    pub(crate) _held: Held,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl View {
    /// Which lane it is of.
    #[must_use]
    pub const fn lane(&self) -> u16 {
        self.lane
    }

    /// What the lane takes of its disk.
    ///
    /// # Errors
    /// The disk fails.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        self.maps.usage()
    }

    /// Shows everything that counts, space by space, each in the order of its keys. No entry says how and
    /// when the folder was made, or where its log begins.
    ///
    /// *Cost*: an index of the log and 8 bytes for each session are in memory meanwhile.
    ///
    /// # Errors
    /// Something cannot be read, or `show` says so.
    pub fn each(&self, show: &mut Show<'_>) -> Result<(), StoreError> {
        let mut window = Window::new(self.first);
        for batch in &self.batches {
            // The oldest may have been folded in part.
            window.push(batch.clone(), true)?;
        }
        let mut alive = HashSet::new();
        for space in [Space::Meta, Space::Session, Space::Retained, Space::Stream] {
            self.merge(&window, space, |key, value| {
                if space == Space::Meta && key == FOLDED {
                    return Ok(());
                }
                if space == Space::Session {
                    alive.insert(incarnation_of(key)?);
                }
                let is_origin = key == FOLDED || ORIGIN.iter().any(|it| it.as_bytes() == key);
                if is_origin && space == Space::Meta { Ok(()) } else { show(space, key, value) }
            })?;
        }
        for space in [Space::Subscription, Space::Receipt] {
            self.merge(&window, space, |key, value| match alive.contains(&incarnation_of(key)?) {
                true => show(space, key, value),
                false => Ok(()),
            })?;
        }
        let mut shared = BTreeMap::new();
        self.pages(&window, &alive, &mut |space, key, page| {
            for (_, value) in page::read(page)? {
                shared.extend(codec::shared(&value).map(|it| (it.id, it.goes_at_wall_ms())));
            }
            show(space, key, page)
        })?;
        self.shared(&window, &shared, show)
    }

    /// Shows the messages that are named in the pages that were shown.
    fn shared(
        &self,
        window: &Window,
        named: &BTreeMap<SharedId, u64>,
        show: &mut Show<'_>,
    ) -> Result<(), StoreError> {
        for (&id, &goes_at_wall_ms) in named {
            let key = id.key();
            let mut found = window.shared(id);
            if found.is_none() {
                self.maps.scan(Space::Shared, &key, &mut |at, value| {
                    found = (*at == key).then(|| value.clone());
                    ControlFlow::Break(())
                })?;
            }
            match found {
                Some(message) => show(Space::Shared, &key, &message)?,
                // What expires may have been taken by the sweep.
                None if goes_at_wall_ms < u64::MAX || self.is_salvaged => {}
                None => {
                    let name = id.to_u64();
                    let what = format!("message {name:#x} that several sessions share is missing");
                    return Err(StoreError::Damaged { what });
                }
            }
        }
        Ok(())
    }

    fn merge(
        &self,
        window: &Window,
        space: Space,
        visit: impl FnMut(&Bytes, &Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        window.merge(space, |visit| self.maps.scan(space, &[], visit), visit)
    }

    /// Shows what waits for the sessions, in pages.
    fn pages(
        &self,
        window: &Window,
        alive: &HashSet<Incarnation>,
        show: &mut Show<'_>,
    ) -> Result<(), StoreError> {
        let backlogs = window.backlogs().filter(|(incarnation, _)| alive.contains(incarnation));
        let mut backlogs: Vec<(Incarnation, &Backlog)> = backlogs.collect();
        backlogs.sort_unstable_by_key(|(incarnation, _)| *incarnation);
        let mut backlogs = backlogs.into_iter().peekable();
        let mut merged: Option<Merge<'_, _>> = None;
        let mut result = Ok(());
        self.maps.scan(Space::Queue, &[], &mut |key, value| {
            result = (|| {
                let incarnation = incarnation_of(key)?;
                if let Some(ended) = merged.take_if(|merged| merged.incarnation != incarnation) {
                    ended.finish(show)?;
                }
                while let Some((it, backlog)) = backlogs.next_if(|(it, _)| *it < incarnation) {
                    merge(window, it, backlog).finish(show)?;
                }
                if let Some((it, backlog)) = backlogs.next_if(|(it, _)| *it == incarnation) {
                    merged = Some(merge(window, it, backlog));
                }
                match &mut merged {
                    Some(merged) => merged.page(value, show),
                    None if alive.contains(&incarnation) => show(Space::Queue, key, value),
                    None => Ok(()),
                }
            })();
            if result.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        result?;
        if let Some(last) = merged {
            last.finish(show)?;
        }
        for (incarnation, backlog) in backlogs {
            merge(window, incarnation, backlog).finish(show)?;
        }
        Ok(())
    }
}

/// The pages of one session, of which the log says something as well.
struct Merge<'w, L: Iterator> {
    incarnation: Incarnation,
    window: &'w Window,
    backlog: &'w Backlog,
    /// What the log says, and has not been gathered.
    live: Peekable<L>,
    gathered: BTreeMap<u64, Bytes>,
    bytes: usize,
}

fn merge<'w>(
    window: &'w Window,
    incarnation: Incarnation,
    backlog: &'w Backlog,
) -> Merge<'w, impl Iterator<Item = (u64, Place)> + use<'w>> {
    let live = backlog.live.from(0).peekable();
    Merge { incarnation, window, backlog, live, gathered: BTreeMap::new(), bytes: 0 }
}

impl<L: Iterator<Item = (u64, Place)>> Merge<'_, L> {
    /// Takes a page. Nothing of a later one stands before its first message.
    fn page(&mut self, value: &Bytes, show: &mut Show<'_>) -> Result<(), StoreError> {
        if self.bytes > GATHER_BYTES {
            self.show_before(page::first(value), show)?;
        }
        for (sequence, value) in page::read(value)? {
            let backlog = self.backlog;
            // What the log says is newer.
            if !backlog.gone.contains(&sequence) && backlog.live.get(sequence).is_none() {
                self.bytes += value.len();
                self.gathered.insert(sequence, value);
            }
        }
        Ok(())
    }

    /// Shows what waits before a place.
    fn show_before(&mut self, end: u64, show: &mut Show<'_>) -> Result<(), StoreError> {
        while let Some((sequence, place)) = self.live.next_if(|(sequence, _)| *sequence < end) {
            self.gathered.insert(sequence, self.window.value(place));
        }
        let rest = self.gathered.split_off(&end);
        self.bytes = rest.values().map(Bytes::len).sum();
        let gathered = std::mem::replace(&mut self.gathered, rest);
        for (last, value) in page::write(gathered.iter().map(|(at, value)| (*at, value))) {
            show(Space::Queue, &page::key(self.incarnation, last), &value)?;
        }
        Ok(())
    }

    fn finish(mut self, show: &mut Show<'_>) -> Result<(), StoreError> {
        self.show_before(u64::MAX, show)
    }
}
